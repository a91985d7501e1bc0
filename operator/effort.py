"""Measures what deciding takes of the processor, and says how long to pause between rounds of a loop.

Used by `loop`. Events are decided on together while they pour in, and at once after a quiet time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

# The share of the time that rounds may take, but for their writes; what they may take beyond it after a quiet
# time (seconds), so that a single user does not wait: ten rounds about a thousand nodes; and the longest
# pause that comes of it.
SHARE, AHEAD_SECONDS, LONGEST_PAUSE = 0.05, 0.1, 1.0

T = TypeVar("T")


@dataclass
class Effort:
    """How much of the processor's time rounds may take: a share in the long run, and some of it ahead.

    Attributes:
        at: when that was reckoned last, by the loop's clock.
        left: seconds that may be taken before the next pause; below zero where too much was.
    """

    at: float
    left: float = AHEAD_SECONDS

    def pause_after(self, busy: float, now: float) -> float:
        """Return how many seconds to leave to others after a round that took so many of the processor."""
        self.left = min(self.left + (now - self.at) * SHARE, AHEAD_SECONDS) - busy
        pause = min(max(0.0, -self.left / SHARE), LONGEST_PAUSE)
        self.at = now
        if pause == LONGEST_PAUSE:  # what is beyond it is forgiven
            self.left = -LONGEST_PAUSE * SHARE
        return pause


@dataclass
class Measured(Generic[T]):
    """Work to be awaited once, and the processor seconds of its own steps.

    What others did while it waited for the API is not among them: it is much when all nodes report.
    """

    work: Coroutine[Any, Any, T]
    seconds: float = 0.0

    def __await__(self) -> Generator[Any, Any, T]:
        """Do the work."""
        step: Callable[[], Any] = partial(self.work.send, None)
        while True:
            began = time.thread_time()
            try:
                awaited = step()
            except StopIteration as end:
                return end.value
            finally:
                self.seconds += time.thread_time() - began
            try:
                step = partial(self.work.send, (yield awaited))
            except BaseException as error:  # noqa: BLE001 - it is the work's
                step = partial(self.work.throw, error)
