"""How many writes a process may send: the operator and the admission must never be what overloads an API.

Held by `cluster`, which spends from it before each write; the Lease is not among them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

# An API server gives all service accounts' requests a share of about 250 at once (APF, workload-low): a few
# milliseconds each, fifty a second never take more than one or two of them. A burst is what a hundred new
# profiles need to begin with.
RATE = 50.0
BURST = 100


@dataclass
class Budget:
    """A bucket of tokens, which fills at a constant rate; each write takes one.

    Attributes:
        rate: tokens a second.
        burst: how many there are at most.
        now: seconds that only go forward.
        sleep: waits for so many seconds.
    """

    rate: float = RATE
    burst: int = BURST
    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    _tokens: float = field(init=False)
    _at: float = field(init=False)

    def __post_init__(self) -> None:
        self._tokens, self._at = float(self.burst), self.now()

    async def spend(self) -> None:
        """Take a token, and return once it is there: who asks first goes first."""
        now = self.now()
        self._tokens = min(self.burst, self._tokens + (now - self._at) * self.rate) - 1
        self._at = now
        if self._tokens < 0:  # it is taken before it is there: whoever comes next waits longer
            await self.sleep(-self._tokens / self.rate)
