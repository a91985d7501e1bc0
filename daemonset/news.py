"""Says when to look at news: at once, and in a burst of them ever later, so that one look is for many. Pure.

Kept by `reconciler`. A hundred new profiles are a hundred events within seconds, on each node.
"""

from __future__ import annotations

from dataclasses import dataclass

# Seconds between two looks, at first and at most; and the quiet time after which it is the first again.
SHORTEST, LONGEST, QUIET = 0.25, 2.0, 20.0
# From so many looks in a row on it is a burst: a change alone is news twice, of the new and of the old.
BURST = 3
# Who gets a processor late takes it less often: the next look is so many times that far off, up to so many
# of the longest distances.
LATE_TIMES, LATE_LONGEST = 10.0, 2.0


@dataclass
class News:
    """When the last look was, and how far from it the next one is (monotonic seconds).

    Attributes:
        longest: the distance at most: with many nodes reports are far apart, and so may looks be.
        in_a_row: how many looks there were of which each but the first had to wait for its time.
    """

    looked_at: float = float("-inf")
    distance: float = SHORTEST
    longest: float = LONGEST
    in_a_row: int = 0

    def due(self, now: float) -> float:
        """Return when to look at what came now."""
        return max(now, self.looked_at + self.distance)

    def is_burst(self, now: float) -> bool:
        """Return whether more news is to be expected: it poured in, and not for long there was none."""
        return now < self.burst_until()

    def burst_until(self) -> float:
        """Return until when more is to be expected if nothing comes; minus infinity where it is no burst."""
        return self.looked_at + self.distance if self.in_a_row >= BURST else float("-inf")

    def looked(self, now: float, due: float) -> None:
        """Take note of a look that was due then.

        The next one is farther off where this one had to wait, and sooner where not.
        """
        since = now - self.looked_at
        had_to_wait = due <= self.looked_at + self.distance
        self.in_a_row = self.in_a_row + 1 if had_to_wait else 1
        if since > QUIET:
            self.distance = SHORTEST
        elif since >= 2 * self.distance:
            self.distance = max(SHORTEST, self.distance / 2)
        else:
            self.distance = min(self.longest, self.distance * 2)
        late = min((now - due) * LATE_TIMES, self.longest * LATE_LONGEST)
        self.distance, self.looked_at = max(self.distance, late), now
