"""Judges texts, each once: what `publisher` publishes and what `review` answers rest on the same judgement.

The parser is the admission's only real work. Texts that took too long before share one slot, so that they
leave the others to those that do not.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Container, Mapping
from dataclasses import dataclass, field

from ..crds.errors import InputFault
from ..crds.models import Facts, SecurityProfile, Unrendered
from ..crds.reasons import Reason
from ..profiles.check import Accepted, Judge, check
from ..profiles.parser import fault_message
from .publish import Judgement, Refusal, content_digest, known, merged

# Texts judged at once.
AT_ONCE = 3
# What was judged for someone who only asked (`kubectl apply` of a text that was refused, a dry run).
KEPT = 64
# A text that took too long is judged again after the first of these seconds, then ever later: the machine
# may have been busy, as when many are applied at once.
AGAIN_SECONDS = (20.0, 600.0)


@dataclass
class Judging:
    """The judgements that were made, by content digest.

    Attributes:
        judge: the parser and the renderer.
        judgements: on texts; of those that no SecurityProfile asks for, the latest.
        slow: texts that took too long: when each is due again (monotonic seconds), and the pause before that.
    """

    judge: Judge
    judgements: OrderedDict[str, Judgement] = field(default_factory=OrderedDict[str, Judgement])
    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))
    slow_lane: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))
    slow: dict[str, tuple[float, float]] = field(default_factory=dict[str, tuple[float, float]])
    running: dict[tuple[str, frozenset[str]], asyncio.Task[Judgement]] = field(
        default_factory=dict[tuple[str, frozenset[str]], "asyncio.Task[Judgement]"]
    )

    async def judged(
        self, profile: SecurityProfile, kinds: Mapping[str, Facts], *, again: bool = False
    ) -> Judgement:
        """Return the judgement on a profile's text; of a template, for these kinds of nodes at least.

        Who asks while it is being made waits for that one. It goes on where nobody waits any more. A text
        that took too long is judged `again` for someone who asks again: the machine may have been busy.

        Raises:
            NodeFault: the parser or the renderer can't be run.
        """
        digest = content_digest(profile)
        before = self.judgements.get(digest)
        known_all = profile.spec.template is None or (before and kinds.keys() <= before.kinds)
        if before is not None and known_all and not (again and digest in self.slow):
            return before
        key = (digest, frozenset(kinds))
        task = self.running.get(key)
        if task is None:
            task = self.running[key] = asyncio.create_task(self._one(digest, profile, kinds))
            task.add_done_callback(lambda _: self.running.pop(key, None))
        return await asyncio.shield(task)

    def is_due_again(self, digest: str) -> bool:
        """Return whether a text that took too long should be judged once more by now."""
        return digest in self.slow and time.monotonic() >= self.slow[digest][0]

    def forget(self, current: set[str], kinds: Container[str]) -> None:
        """Forget the oldest judgements that nobody asks for, and what was said of kinds that are gone.

        `current` are the digests that a SecurityProfile has, `kinds` those of the cluster's nodes.
        """
        for digest in current & self.judgements.keys():
            self.judgements[digest] = known(self.judgements[digest], kinds)
        others = [digest for digest in self.judgements if digest not in current]
        for digest in others[: max(0, len(others) - KEPT)]:
            del self.judgements[digest]
            self.slow.pop(digest, None)

    async def close(self) -> None:
        """End what is being judged, and the process that renders templates."""
        tasks = list(self.running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.judge.renderer.close()

    async def _one(self, digest: str, profile: SecurityProfile, kinds: Mapping[str, Facts]) -> Judgement:
        async with self._slot(digest):
            said = await self._verdict(profile, kinds)
        if Reason.POLICY_TOO_SLOW in _reasons(said):
            pause = min(self.slow.get(digest, (0.0, AGAIN_SECONDS[0] / 2))[1] * 2, AGAIN_SECONDS[1])
            self.slow[digest] = (time.monotonic() + pause, pause)
        else:
            self.slow.pop(digest, None)
        before = self.judgements.get(digest)
        if isinstance(before, Accepted):
            said = merged(before, said if isinstance(said, Accepted) else _for_none(said))
        self.judgements[digest] = said
        self.judgements.move_to_end(digest)
        return said

    @contextlib.asynccontextmanager
    async def _slot(self, digest: str) -> AsyncGenerator[None]:
        async with self.slow_lane if digest in self.slow else contextlib.nullcontext(), self.slots:
            yield

    async def _verdict(self, profile: SecurityProfile, kinds: Mapping[str, Facts]) -> Judgement:
        try:
            return await check(profile.spec, self.judge, kinds)
        except InputFault as fault:
            return Refusal(fault.reason, fault_message(fault), frozenset(kinds))


def _reasons(said: Judgement) -> set[str]:
    """Return why a text is refused; of a template, for some kinds of nodes."""
    return {said.reason} if isinstance(said, Refusal) else {one.reason for one in said.unrendered}


def _for_none(said: Refusal) -> Accepted:
    """Return what is told of kinds of nodes that a template fails for, which is good for others."""
    one = Unrendered(facts=sorted(said.kinds), reason=said.reason, message=said.message)
    return Accepted(unrendered=(one,) if said.kinds else ())
