"""Leaves single objects alone, for ever longer, of which the API takes no write. No I/O, and no own clock.

Used by `loop` for profiles and nodes, by `gates` for pods: what the API refuses of one of them must not slow
what is written of all others, as a fault of the API itself does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

K = TypeVar("K")

# What the API does not take of one object is tried again so much later: the first time, and at most.
AGAIN_SECONDS = (1.0, 60.0)
# One that was not tried again for so long is gone, or there is nothing to write of it any more.
FORGOTTEN_SECONDS = 600.0
# So many are remembered before those that are gone are looked for: not at each refusal.
TIDIED = 64


@dataclass
class Backoffs(Generic[K]):
    """How often in a row a write of each object was refused, and until when that is left alone."""

    _tries: dict[K, tuple[int, float]] = field(default_factory=dict[K, tuple[int, float]])
    _tidied: int = TIDIED

    def __len__(self) -> int:
        """Return how many objects are remembered."""
        return len(self._tries)

    def refused(self, key: K, now: float) -> float:
        """Take note of a write that was not taken; return when it may be tried again."""
        if len(self._tries) >= self._tidied:
            old = now - FORGOTTEN_SECONDS
            self._tries = {one: there for one, there in self._tries.items() if there[1] > old}
            self._tidied = max(TIDIED, 2 * len(self._tries))
        tries = self._tries.get(key, (0, 0.0))[0]
        first, longest = AGAIN_SECONDS
        until = now + min(first * 2.0 ** min(tries, 10), longest)
        self._tries[key] = tries + 1, until
        return until

    def taken(self, key: K) -> None:
        """Take note of a write that was taken."""
        self._tries.pop(key, None)

    def left_until(self, key: K) -> float:
        """Return until when an object is to be left alone; 0 where it is not."""
        return self._tries.get(key, (0, 0.0))[1]
