"""Prepares what is about to be loaded, beside the loop: a text that takes long holds up none that does not.

Used by `reconciler`, which takes what is ready and loads it in one go.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from ..crds.errors import InputFault
from ..crds.reasons import Reason
from .backend import Prepared
from .plan import Key, Load

# Texts compiled at once: the node's processors are its pods'.
AT_ONCE = 2
# How long what is compiled waits for what still is, so that both go into the kernel in one go.
GATHER_SECONDS = 0.25
# Where many still are, so long for each of them, and no longer than that: after each go all that is held is
# looked at, and told.
GATHER_EACH_SECONDS, LONGEST_GATHER_SECONDS = 0.05, 1.0


@dataclass
class Compiling:
    """What is being compiled, and what is ready to be loaded.

    Attributes:
        prepare: compiles one text, within the slot that it is given; raises a Fault where it is refused.
        failed: is told of whatever `prepare` raised.
        wake: is set whenever something became ready or failed.
    """

    prepare: Callable[[Load, AbstractAsyncContextManager[object]], Awaitable[Prepared]]
    failed: Callable[[Key, Exception], None]
    wake: asyncio.Event
    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))
    slow_lane: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))
    slow: set[Key] = field(default_factory=set[Key])
    tasks: dict[Key, asyncio.Task[None]] = field(default_factory=dict[Key, "asyncio.Task[None]"])
    ready: dict[Key, Prepared] = field(default_factory=dict[Key, Prepared])
    since: float = 0.0

    def want(self, steps: Collection[Load]) -> None:
        """Compile these and nothing else: what is no longer wanted is ended or dropped."""
        wanted = {step.key: step for step in steps}
        for key in self.tasks.keys() - wanted.keys():
            self.tasks.pop(key).cancel()
        self.ready = {key: one for key, one in self.ready.items() if _same(one.step, wanted.get(key))}
        for key, step in wanted.items():
            if key not in self.ready and key not in self.tasks:
                self.tasks[key] = asyncio.create_task(self._one(key, step))

    def take(self) -> list[Prepared]:
        """Return what is to be loaded now: all that is ready, unless more is about to be."""
        if not self.ready or self.due() > time.monotonic():
            return []
        taken = list(self.ready.values())
        self.ready = {}
        return taken

    def due(self) -> float:
        """Return when `take` will give what is ready (monotonic seconds); infinity where nothing is."""
        if not self.ready:
            return float("inf")
        if not self.tasks:
            return self.since
        many = min(GATHER_EACH_SECONDS * len(self.tasks), LONGEST_GATHER_SECONDS)
        return self.since + max(GATHER_SECONDS, many)

    def close(self) -> None:
        """End whatever is being compiled."""
        self.want(())

    @contextlib.asynccontextmanager
    async def _slot(self, key: Key) -> AsyncGenerator[None]:
        """Wait for a turn; texts that took too long before have one slot among them, and leave the others."""
        async with self.slow_lane if key in self.slow else contextlib.nullcontext(), self.slots:
            yield

    async def _one(self, key: Key, step: Load) -> None:
        try:
            prepared = await self.prepare(step, self._slot(key))
        except Exception as error:  # noqa: BLE001 - told to the loop, which knows a fault from a bug
            if isinstance(error, InputFault) and error.reason is Reason.POLICY_TOO_SLOW:
                self.slow.add(key)
            self.failed(key, error)
        else:
            self.slow.discard(key)
            if not self.ready:
                self.since = time.monotonic()
            self.ready[key] = prepared
        finally:
            if self.tasks.get(key) is asyncio.current_task():
                del self.tasks[key]
            self.wake.set()


def _same(step: Load, wanted: Load | None) -> bool:
    """Return whether what was compiled for one step is as good for another: why it is loaded is no matter."""
    return wanted is not None and dataclasses.replace(step, drift=wanted.drift) == wanted
