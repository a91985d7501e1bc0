"""What a process has seen of the cluster, and the loop that decides on it. Level-triggered and coalesced.

The base of `controller` (the operator) and `publisher` (the admission); fed by `handlers`. One loop for all
profiles, because names clash across them and nodes count for all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

import msgspec
import structlog
import tenacity

from ..crds.errors import BusyFault, ClusterFault, RefusedFault
from ..crds.metrics import (
    MISSED_CHANGES,
    RETRIES,
    ROUND_DURATION,
    WATCH_EVENTS,
    WATCH_RESTARTS,
    Counts,
    Uncounted,
)
from ..crds.models import ProfileNode, ProfileRevision, SecurityProfile, decode
from ..crds.names import PROFILE_NODES, PROFILE_REVISIONS, SECURITY_PROFILES
from ..crds.reasons import Reason
from .backoffs import Backoffs
from .cluster import Cluster
from .effort import Effort, Measured
from .sharing import Sharing
from .snapshot import AgentView, NodeView, Store, agent_view, node_view
from .writes import Write, object_of, told_of

log = structlog.get_logger()

# Time passes without an event when an agent stays away: looked at this often.
TICK_SECONDS = 15.0
RELIST_SECONDS = 300.0
RETRY_SECONDS = (0.5, 30.0)
# What nothing waits for is decided on that much later: with a thousand nodes, for many of them at once.
PATIENCE_SECONDS = 1.0
# Nothing goes on for longer without the others' turn: the watches', the Lease's.
TURN_SECONDS = 0.01
# No wait, request or pause of a loop takes nearly as long: one that was not seen for so long is stuck.
STUCK_SECONDS = 300.0
# A kind that was just made is served at once, and is in the API's list of kinds soon after.
DISCOVERY_SECONDS = 2.0
# What is done beside the loop, and says nothing of it.
BESIDE = ("watch", "certificate")


C = TypeVar("C", bound=Cluster)
W = TypeVar("W", bound=Write)
T = TypeVar("T")


@dataclass
class Loop(Generic[C]):
    """A process's memory and loop.

    Attributes:
        cluster: the API.
        leads: whether this process writes, or knows all and waits.
        ready: whether everything was read once.
        counts: is told what happens.
        alive_at: when it was last seen to go on (monotonic seconds).
        listed: by kind, whether what was seen last came of the list that a watch begins with.
        clock: seconds that only go forward.
        due: when to decide again even if nothing happens until then, by that clock.
        effort: how much of the processor's time deciding may take.
        wrote: how much of it this round's writes took.
        died: what ended the loop, where something did.
        later: wakes it, where something is in no hurry.
        backoffs: what the API refused to take, by what it was and of which object.
        at_rest: called once all was read, and after each new list.
    """

    cluster: C
    leads: Callable[[], bool] = lambda: True
    profiles: dict[str, SecurityProfile] = field(default_factory=dict[str, SecurityProfile])
    revisions: dict[str, ProfileRevision] = field(default_factory=dict[str, ProfileRevision])
    reports: dict[str, ProfileNode] = field(default_factory=dict[str, ProfileNode])
    nodes: dict[str, NodeView] = field(default_factory=dict[str, NodeView])
    pods: dict[str, AgentView] = field(default_factory=dict[str, AgentView])
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    store: Store = field(default_factory=Store)
    sharing: Sharing = field(default_factory=Sharing)
    clock: Callable[[], float] = time.monotonic
    due: float = math.inf
    effort: Effort = field(init=False)
    wrote: float = 0.0
    turn_began: float = 0.0
    looked_at: float = 0.0
    deleted: set[str] = field(default_factory=set[str])
    ready: bool = False
    counts: Counts = field(default_factory=Uncounted)
    alive_at: float = field(default_factory=time.monotonic)
    listed: dict[str, bool] = field(default_factory=dict[str, bool])
    died: BaseException | None = None
    later: asyncio.TimerHandle | None = None
    backoffs: Backoffs[tuple[str, ...]] = field(default_factory=Backoffs[tuple[str, ...]])
    at_rest: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        """Begin with what may be taken ahead."""
        self.effort = Effort(self.clock())

    # --- what a process adds ------------------------------------------------------------------------------

    kinds: Collection[str] = ()
    # Of these, what changes is in no hurry.
    patient: Collection[str] = ()

    async def reconcile(self) -> None:
        """Bring the API to what it should be, as far as is known.

        Raises:
            ClusterFault: a write was not taken; all others were made all the same.
        """
        raise NotImplementedError

    async def while_kinds_go(self) -> None:
        """Do what there is to do before a start, while Hauberk's kinds are being removed."""

    def elected(self, anew: bool) -> None:
        """Take note that this one leads now, or waits; `anew` where another one may have led meanwhile."""
        del anew
        self.wake.set()

    # --- what handlers tell -------------------------------------------------------------------------------

    def seen(
        self, plural: str, name: str, body: Mapping[str, Any], *, deleted: bool, listed: bool = False
    ) -> None:
        """Take note of an object as it is now: a watch told of it, or the list that the watch begins with."""
        if listed and self.listed.get(plural) is False:
            self.counts.count(WATCH_RESTARTS, KINDS[plural], "expired")
        self.listed[plural] = listed
        self.counts.count(WATCH_EVENTS, KINDS[plural])
        self.note(plural, name, body, deleted=deleted)

    def note(self, plural: str, name: str, body: Mapping[str, Any], *, deleted: bool) -> None:
        """Take note of an object as it is now, whether a watch or a list told of it."""
        store: dict[str, Any] = self._memory()[plural]
        if deleted:
            store.pop(name, None)
        else:
            try:
                model = self.read(plural, body)
            except msgspec.ValidationError as error:
                log.error("unreadable object", kind=plural, name=name, error=str(error))
                return
            if model is None:
                store.pop(name, None)
            else:
                if store.get(name) == model:
                    return  # a heartbeat: nothing that decisions read has changed
                store[name] = model
        if plural not in self.patient:
            self.wake.set()
        elif self.later is None:
            self.later = asyncio.get_running_loop().call_later(PATIENCE_SECONDS, self._wake_later)

    def _wake_later(self) -> None:
        self.later = None
        self.wake.set()

    def read(self, plural: str, body: Mapping[str, Any]) -> Any:
        """Return an object as decisions need it; None for one that they don't.

        Raises:
            msgspec.ValidationError: it does not have its kind's shape.
        """
        model = _READ[plural](body)
        return self.sharing.shared(model) if isinstance(model, ProfileNode) else model

    def _memory(self) -> dict[str, dict[str, Any]]:
        return {
            SECURITY_PROFILES: self.profiles,
            PROFILE_REVISIONS: self.revisions,
            PROFILE_NODES: self.reports,
            "nodes": self.nodes,
            "pods": self.pods,
        }

    # --- the loop -----------------------------------------------------------------------------------------

    async def await_kinds(self) -> None:
        """Return when the API serves Hauberk's kinds: a watch can't be begun on one that is not there."""
        try:
            await self._find_kinds()
        except ClusterFault:
            await self.until_done("start", self._find_kinds)
            await asyncio.sleep(DISCOVERY_SECONDS)

    async def _find_kinds(self) -> None:
        self.store = await self.cluster.store()
        if not self.store.terminating:
            return
        await self.while_kinds_go()
        raise ClusterFault(Reason.PROGRESSING, "the CRDs of deploy/crds are not there, or are being removed")

    async def run(self) -> None:
        """Run until cancelled."""
        await self.until_done("list", self.relist)
        self.at_rest()
        self.ready = True
        log.info("listed", **{plural: len(self._memory()[plural]) for plural in self.kinds})
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._relist_now_and_then())
            tasks.create_task(self._reconcile_forever())

    async def relist(self) -> None:
        """Read every kind anew, and forget what is gone: a watch that broke never tells of it.

        Raises:
            ClusterFault: the API can't be read.
        """
        self.store = await self.cluster.store()
        memory = self._memory()
        for plural in self.kinds:
            store = memory[plural]
            before = dict(store)
            present: set[str] = set()
            async for body in self.cluster.listing(plural):
                name = body["metadata"]["name"]
                present.add(name)
                if name not in store:  # else a watch told of it, and of something newer
                    self.note(plural, name, body, deleted=False)
                    if self.ready and name in store:
                        self.counts.count(MISSED_CHANGES, KINDS[plural])
                await self.let_others()
            for name in before.keys() - present:
                if store.get(name) is before[name]:  # else a watch told of it while the list was read
                    self.note(plural, name, {}, deleted=True)
                    self.counts.count(MISSED_CHANGES, KINDS[plural])
        self.sharing.forget(self.reports.values())

    async def _relist_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(RELIST_SECONDS * random.uniform(0.8, 1.2))  # noqa: S311
            await self.until_done("list", self.relist)
            self.at_rest()

    async def _reconcile_forever(self) -> None:
        while True:
            self.wake.clear()
            self.due, self.wrote = math.inf, 0.0
            done = Measured(self.until_done("write", self._round))
            await done
            await asyncio.sleep(self.effort.pause_after(max(0.0, done.seconds - self.wrote), self.clock()))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(TICK_SECONDS, max(0.0, self.due - self.clock()))):
                    await self.wake.wait()

    async def _round(self) -> None:
        began = time.monotonic()
        try:
            await self.reconcile()
        finally:
            self.counts.observe(ROUND_DURATION, time.monotonic() - began)

    def goes_on(self) -> None:
        """Take note that the loop is not stuck."""
        self.alive_at = time.monotonic()

    def is_alive(self) -> bool:
        """Return whether the loop was seen to go on lately, be it that all it does fails."""
        return time.monotonic() - self.alive_at < STUCK_SECONDS

    def wake_by(self, due: float) -> None:
        """Decide again at a time of `clock`, if nothing happens before."""
        self.due = min(self.due, due)

    async def let_others(self) -> None:
        """Let others have their turn where this one has had it for long."""
        if time.perf_counter() - self.turn_began > TURN_SECONDS:
            await asyncio.sleep(0)
            self.turn_began = time.perf_counter()

    async def until_done(self, what: str, work: Callable[[], Awaitable[None]]) -> None:
        """Do something that needs the API, as often as it takes, with backoff and full jitter.

        Where the API server asks for time it gets that at least.
        """
        backoff = tenacity.wait_random_exponential(multiplier=RETRY_SECONDS[0], max=RETRY_SECONDS[1])

        def wait(state: tenacity.RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            asked = error.seconds * random.uniform(1.0, 1.5) if isinstance(error, BusyFault) else 0.0  # noqa: S311
            return max(asked, backoff(state))

        def told(state: tenacity.RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            message = error.message if isinstance(error, ClusterFault) else ""
            self.counts.count(RETRIES, what)
            log.warning("will try again", what=what, message=message, failures=state.attempt_number)

        async for attempt in tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(ClusterFault), wait=wait, before_sleep=told
        ):
            # later lists are read beside the loop, which may be stuck
            if what not in BESIDE and (what != "list" or not self.ready):
                self.goes_on()
            with attempt:
                await work()

    async def look_at_store(self, *, publishing: bool = False) -> None:
        """See whether Hauberk's kinds are going away: then a deletion is not what an author asked for.

        After the objects were seen, so that one that goes because its kind goes is not taken for deleted. And
        before something is published: it says where it is from.

        Raises:
            ClusterFault: the API can't be read.
        """
        deleted = {one.metadata.uid for one in self.profiles.values() if one.metadata.deletion_timestamp}
        now = time.monotonic()
        if deleted - self.deleted or (deleted and now - self.looked_at > TICK_SECONDS) or publishing:
            self.store = await self.cluster.store()
            self.looked_at = now
        self.deleted = deleted

    async def keep_each(
        self,
        profiles: Mapping[str, SecurityProfile],
        keep: Callable[[str, SecurityProfile], Awaitable[None]],
    ) -> list[ClusterFault] | None:
        """Do something for each profile; return what the API did not take, None where another leads by now.

        What the API refuses one profile must not hold up the others, nor must a bug: it is tried again later,
        or once the profile is another.

        Raises:
            BusyFault: the API server has no time, for the others neither.
        """
        faults: list[ClusterFault] = []
        for name, profile in sorted(profiles.items()):
            if not self.leads():
                return None
            await self.let_others()
            self.goes_on()
            try:
                await self.by_itself(key_of(profile), partial(keep, name, profile), profile=name)
            except BusyFault:
                raise
            except ClusterFault as fault:
                faults.append(fault)
            except Exception:
                log.exception("bug", profile=name)
        return faults

    async def by_itself(
        self, key: tuple[str, ...], work: Callable[[], Awaitable[object]], **about: str
    ) -> bool:
        """Do something that is about one object, unless the API refused it a short while ago.

        Returns whether it was done. Where it is refused that is logged, with `about`, and the loop wakes to
        try again.

        Raises:
            ClusterFault: it was not this object that was in the way.
        """
        until = self.backoffs.left_until(key)
        if until > self.clock():
            self.wake_by(until)
            return False
        try:
            await work()
        except RefusedFault as fault:
            self.wake_by(self.backoffs.refused(key, self.clock()))
            self.counts.count(RETRIES, "write")
            log.warning("will try again", **about, message=fault.message)
            return False
        self.backoffs.taken(key)
        return True

    def remember(self, before: SecurityProfile, after: SecurityProfile) -> None:
        """Take note of what was just written, so that the next round does not write it again.

        The watch brings it back later, and may have told of something newer meanwhile: that stays.
        """
        name = before.metadata.name
        if self.profiles.get(name) is before:
            self.profiles[name] = after

    async def carry_out(self, writes: Iterable[Write]) -> bool:
        """Do writes up to the first that someone else came before: what follows rests on it.

        Returns whether all were done.

        Raises:
            ClusterFault: the API did not take one.
        """
        for write in writes:
            self.goes_on()
            log.info("write", what=type(write).__name__, object=object_of(write), **told_of(write))
            if not await self.write(self.cluster.carry_out(write)):
                return False
            self.carried_out(write)
        return True

    async def write(self, work: Coroutine[Any, Any, T]) -> T:
        """Do a write, and return what comes of it: the budget bounds how many there are, not the effort."""
        done = Measured(work)
        try:
            return await done
        finally:
            self.wrote += done.seconds

    def carried_out(self, write: Write) -> None:
        """Take note of a write that was taken, so that the next round does not do it again."""

    async def carry_out_each(self, writes: Iterable[Write]) -> list[ClusterFault]:
        """Do writes that have nothing to do with each other; return what was in the API's way.

        What it refused of one object is tried again later, and is not among that.

        Raises:
            BusyFault: the API server has no time, for the others neither.
        """
        faults: list[ClusterFault] = []
        for write in writes:
            what, name = key = type(write).__name__, object_of(write)
            try:
                await self.by_itself(key, partial(self.carry_out, [write]), what=what, object=name)
            except BusyFault:
                raise
            except ClusterFault as fault:
                faults.append(fault)
            await self.let_others()
        return faults

    async def refusals(self, writes: Iterable[W]) -> AsyncIterator[tuple[W, ClusterFault]]:
        """Do the same for writes whose object is left alone elsewhere; yield each that was not taken.

        Raises:
            BusyFault: the API server has no time, for the others neither.
        """
        for write in writes:
            try:
                await self.carry_out([write])
            except BusyFault:
                raise
            except ClusterFault as fault:
                yield write, fault
            await self.let_others()


def key_of(profile: SecurityProfile) -> tuple[str, ...]:
    """Return what the API refuses a profile under: another generation of it may be taken."""
    return "SecurityProfile", profile.metadata.uid, str(profile.metadata.generation)


# What the objects of a kind are, by the plural names that kopf uses: as Kubernetes names them.
KINDS = {
    SECURITY_PROFILES: "SecurityProfile",
    PROFILE_REVISIONS: "ProfileRevision",
    PROFILE_NODES: "ProfileNode",
    "nodes": "Node",
    "pods": "Pod",
}
_READ: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    SECURITY_PROFILES: lambda body: decode(SecurityProfile, body),
    PROFILE_REVISIONS: lambda body: decode(ProfileRevision, body),
    PROFILE_NODES: lambda body: decode(ProfileNode, body),
    "nodes": node_view,
    "pods": agent_view,
}
