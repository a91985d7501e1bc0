"""Says when a report may be written: at once after a quiet time, then farther apart with more agents. Pure.

Kept by `agent`. All agents together write so many reports a second at most; and each tells the first change
at once, and what follows together, with many nodes when it is over.
"""

from __future__ import annotations

from dataclasses import dataclass

# What changes soon after a write waits, so that all agents together write about this often.
WRITES_PER_SECOND = 100
SPACING_SECONDS = (1.0, 10.0)
# What had to wait waits on, in parts of what that comes to for each agent, until nothing more has come for
# the first, and for the second at most: with many nodes the second write has all of a burst, with few of them
# each profile is told soon. Once one could not wait for the end of what goes on, the next one waits so many
# times as long: a burst costs few writes, and where changes never end the API is behind by some minutes at
# most.
CALM_SPACINGS, LONGEST_SPACINGS, ENDLESS_TIMES = 0.5, 12.0, 1.5
# There an API server that is slow to answer is spared more: so many times what the last write took stands for
# an agent's part, up to so many seconds; with less than that many nodes less, for they are not what makes it
# slow.
TAKEN_TIMES, TAKEN_SECONDS, MANY = 10.0, 15.0, 100
# Bad news does not wait for longer, however many nodes there are.
BAD_NEWS_SECONDS = 1.0


@dataclass
class Turns:
    """When this agent wrote last, and how far from it the next write is (monotonic seconds).

    Attributes:
        nodes: how many there are with an agent; before they were counted, MANY.
        written_at: when the last write was done.
        took: how many seconds it took.
        hurried: the last write did not wait for the end of what was going on.
    """

    nodes: int = MANY
    written_at: float = float("-inf")
    took: float = 0.0
    hurried: bool = False

    @property
    def spacing(self) -> float:
        """Return how many seconds after a write the next one may follow, where nothing is urgent."""
        low, high = SPACING_SECONDS
        return min(max(self.nodes / WRITES_PER_SECOND, low), high)

    def due(self, first: float, last: float, *, more: bool, is_bad: bool) -> float:
        """Return when a report may be written of which the first and the last change came then.

        `more`: another change is likely to come soon.
        """
        if is_bad:
            return self.written_at + min(self.spacing, BAD_NEWS_SECONDS)
        if not more and self._is_quiet(first):
            return first
        longest = self._strained * LONGEST_SPACINGS * (ENDLESS_TIMES if self.hurried else 1.0)
        return max(self.written_at + self.spacing, min(self._calm(last), self.written_at + longest))

    def begins(self, first: float, last: float, now: float, *, more: bool) -> None:
        """Take note that a write begins, of changes of which the first and the last came then."""
        self.hurried = more or not (self._is_quiet(first) or now >= self._calm(last))

    def wrote(self, began: float, now: float) -> None:
        """Take note of when a write was done."""
        self.written_at, self.took = now, now - began

    def _is_quiet(self, first: float) -> bool:
        return first >= self.written_at + self.spacing

    def _calm(self, last: float) -> float:
        return last + self._strained * CALM_SPACINGS

    @property
    def _strained(self) -> float:
        part = min(self.nodes / WRITES_PER_SECOND, SPACING_SECONDS[1])
        spared = min(self.took * TAKEN_TIMES, TAKEN_SECONDS)
        return max(part, spared * min(self.nodes / MANY, 1.0))
