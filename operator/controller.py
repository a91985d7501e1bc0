"""The operator's loop: whenever something changed, judge, decide, write. Level-triggered and coalesced.

Started and fed by `handlers`. One loop for all profiles, because names clash across them and nodes count for
all of them; the decisions are `desired` and `aggregate`, the writes are `cluster`.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec
import structlog
import tenacity

from ..crds.errors import ClusterFault, Fault, InputFault
from ..crds.models import (
    Facts,
    ProfileNode,
    ProfileRevision,
    ProfileStatus,
    SecurityProfile,
    Unrendered,
    decode,
)
from ..crds.names import FINALIZER, PROFILE_NODES, PROFILE_REVISIONS, SECURITY_PROFILES
from ..crds.reasons import Reason
from ..profiles.check import Accepted, Judge, check
from ..profiles.parser import fault_message
from . import drift
from .agents import Settings, manifest, settings_from
from .aggregate import aggregate
from .cluster import Cluster
from .desired import RemoveFinalizer, Write, desired, publishes, tombstones
from .publish import content_digest, judged_text, known, merged, name_owners, unjudged_kinds
from .snapshot import (
    AgentView,
    Judgement,
    NodeView,
    Refusal,
    Snapshot,
    Store,
    agent_view,
    node_view,
)

log = structlog.get_logger()

# Time passes without an event when an agent stays away: looked at this often.
TICK_SECONDS = 15.0
RELIST_SECONDS = 300.0
RETRY_SECONDS = (0.5, 30.0)
# A kind that was just made is served at once, and is in the API's list of kinds soon after.
DISCOVERY_SECONDS = 2.0
# The kubelet gives a pod half a minute to end.
LET_GO_SECONDS = 20.0
_PROGRESS = (Reason.UPDATING, Reason.TERMINATING)
# Texts judged at once: the parser is the operator's only real work.
JUDGES = 2


@dataclass
class Controller:
    """The operator's memory and loop.

    Attributes:
        cluster: the API.
        judge: of texts.
        leads: whether this operator writes, or knows all and waits.
        pod: name of the operator's own Pod, which the agents' image is read from; empty: keep no agents.
        health_port: of the agents, on each node's loopback.
    """

    cluster: Cluster
    judge: Judge
    leads: Callable[[], bool] = lambda: True
    pod: str = ""
    health_port: int = 9797
    settings: Settings | None = None
    profiles: dict[str, SecurityProfile] = field(default_factory=dict[str, SecurityProfile])
    revisions: dict[str, ProfileRevision] = field(default_factory=dict[str, ProfileRevision])
    reports: dict[str, ProfileNode] = field(default_factory=dict[str, ProfileNode])
    nodes: dict[str, NodeView] = field(default_factory=dict[str, NodeView])
    pods: dict[str, AgentView] = field(default_factory=dict[str, AgentView])
    missing: dict[str, datetime] = field(default_factory=dict[str, datetime])
    judgements: dict[str, Judgement] = field(default_factory=dict[str, Judgement])
    judging: dict[str, asyncio.Task[None]] = field(default_factory=dict[str, asyncio.Task[None]])
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(JUDGES))
    store: Store = field(default_factory=Store)
    deleted: set[str] = field(default_factory=set[str])
    looked_at: float = 0.0
    repairs: dict[tuple[str, str], int] | None = None
    daemonset_generation: int | None = None
    daemonset_applied: int | None = None
    ready: bool = False
    died: BaseException | None = None

    # --- what handlers tell -------------------------------------------------------------------------------

    def seen(self, plural: str, name: str, body: Mapping[str, Any], *, deleted: bool) -> None:
        """Take note of an object as it is now."""
        store: dict[str, Any] = self._memory()[plural]
        if deleted:
            store.pop(name, None)
        else:
            try:
                model = _READ[plural](body)
            except msgspec.ValidationError as error:
                log.error("unreadable object", kind=plural, name=name, error=str(error))
                return
            if model is None:
                store.pop(name, None)
            else:
                if store.get(name) == model:
                    return  # a heartbeat: nothing that decisions read has changed
                store[name] = model
        self.wake.set()

    def daemonset_seen(self, generation: int | None) -> None:
        """Take note of the agents' DaemonSet; None where it is gone."""
        self.daemonset_generation = generation
        self.wake.set()

    def _memory(self) -> dict[str, dict[str, Any]]:
        return {
            SECURITY_PROFILES: self.profiles,
            PROFILE_REVISIONS: self.revisions,
            PROFILE_NODES: self.reports,
            "nodes": self.nodes,
            "pods": self.pods,
        }

    def elected(self) -> None:
        """Take note that this operator leads now, or waits."""
        self.repairs = None  # what happened while another one led, that one told
        self.wake.set()

    # --- the loop -----------------------------------------------------------------------------------------

    async def await_kinds(self) -> None:
        """Return when the API serves Hauberk's kinds: a watch can't be begun on one that is not there.

        Where they are being removed, objects that wait for this operator hold that up: they are let go.
        """
        try:
            await self._find_kinds()
        except ClusterFault:
            await self._until_done("start", self._find_kinds)
            await asyncio.sleep(DISCOVERY_SECONDS)

    async def _find_kinds(self) -> None:
        self.store = await self.cluster.store()
        if not self.store.terminating:
            return
        with contextlib.suppress(ClusterFault):  # their kind may be gone already
            await self._drop_finalizers(only_deleted=True)
        raise ClusterFault(Reason.PROGRESSING, "the CRDs of deploy/crds are not there, or are being removed")

    async def run(self) -> None:
        """Run until cancelled."""
        await self._until_done("list", self.relist)
        self.ready = True
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._relist_now_and_then())
            tasks.create_task(self._reconcile_forever())

    async def relist(self) -> None:
        """Read every kind anew, and forget what is gone: a watch that broke never tells of it.

        Raises:
            ClusterFault: the API can't be read.
        """
        self.store = await self.cluster.store()
        for plural, store in self._memory().items():
            before = dict(store)
            present: set[str] = set()
            async for body in self.cluster.listing(plural):
                name = body["metadata"]["name"]
                present.add(name)
                if name not in store:  # else a watch told of it, and of something newer
                    self.seen(plural, name, body, deleted=False)
            for name in before.keys() - present:
                if store.get(name) is before[name]:  # else a watch told of it while the list was read
                    self.seen(plural, name, {}, deleted=True)

    async def _relist_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(RELIST_SECONDS * random.uniform(0.8, 1.2))  # noqa: S311
            await self._until_done("list", self.relist)

    async def _reconcile_forever(self) -> None:
        while True:
            self.wake.clear()
            await self._until_done("write", self.reconcile)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_SECONDS):
                    await self.wake.wait()

    async def _until_done(self, what: str, work: Callable[[], Awaitable[None]]) -> None:
        """Do something that needs the API, as often as it takes, with backoff and full jitter."""

        def told(state: tenacity.RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            message = error.message if isinstance(error, ClusterFault) else ""
            log.warning("will try again", what=what, message=message, failures=state.attempt_number)

        async for attempt in tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(ClusterFault),
            wait=tenacity.wait_random_exponential(multiplier=RETRY_SECONDS[0], max=RETRY_SECONDS[1]),
            before_sleep=told,
        ):
            with attempt:
                await work()

    def snapshot(self) -> Snapshot:
        """Return what is known now."""
        now = datetime.now(UTC)
        agents = {one.node: one for one in self.pods.values()}
        # A node without an agent's pod lacks it since this was noticed first: pods leave no trace.
        self.missing = {name: self.missing.get(name, now) for name in self.nodes.keys() - agents.keys()}
        absent = {name: AgentView(name, ready=False, since=since) for name, since in self.missing.items()}
        return Snapshot(
            profiles=dict(self.profiles),
            revisions=dict(self.revisions),
            reports=dict(self.reports),
            nodes=dict(self.nodes),
            agents=agents | absent,
            judgements=dict(self.judgements),
            now=now,
            store=self.store,
        )

    async def reconcile(self) -> None:
        """Bring the API to what it should be, as far as is known.

        Raises:
            ClusterFault: a write was not taken; all others were made all the same.
        """
        snapshot = self.snapshot()  # also while waiting: since when an agent is missing is seen here only
        if not self.leads():
            return
        self._judge(snapshot)
        owners = name_owners(snapshot)
        snapshot = await self._look_at_store(snapshot, owners)
        faults: list[ClusterFault] = []
        for name, profile in sorted(snapshot.profiles.items()):
            if not self.leads():  # another one may have begun
                return
            try:
                await self._keep_profile(name, profile, snapshot, owners)
            except ClusterFault as fault:  # what the API refuses one profile must not hold up the others
                faults.append(fault)
            except Exception:  # nor must a bug
                log.exception("bug", profile=name)
        for work in (self._keep_tombstones, self._tell_repairs):
            try:
                await work(snapshot)
            except ClusterFault as fault:
                faults.append(fault)
        await self._keep_daemonset()
        if faults:
            raise faults[0]

    async def _look_at_store(self, snapshot: Snapshot, owners: dict[str, str]) -> Snapshot:
        """See whether Hauberk's kinds are going away: then a deletion is not what an author asked for.

        After the objects were seen, so that one that goes because its kind goes is not taken for deleted. And
        before something is published: it says where it is from.
        """
        deleted = {one.metadata.uid for one in snapshot.profiles.values() if one.metadata.deletion_timestamp}
        now = time.monotonic()
        if (
            deleted - self.deleted
            or (deleted and now - self.looked_at > TICK_SECONDS)
            or any(publishes(one, snapshot, owners) for one in snapshot.profiles.values())
        ):
            self.store = await self.cluster.store()
            self.looked_at = now
        self.deleted = deleted
        return dataclasses.replace(snapshot, store=self.store)

    async def _keep_profile(
        self, name: str, profile: SecurityProfile, snapshot: Snapshot, owners: dict[str, str]
    ) -> None:
        # What is to go is not called Ready any more before an agent hears of it.
        leaving = profile.metadata.deletion_timestamp is not None
        status = aggregate(profile, snapshot, owners)
        if leaving and status != profile.status:
            await self._write_status(name, profile, status)
        await self._carry_out(desired(profile, snapshot, owners))
        if not leaving and status != profile.status:
            await self._write_status(name, profile, status)

    async def _keep_tombstones(self, snapshot: Snapshot) -> None:
        for write in tombstones(snapshot):
            await self._carry_out([write])

    async def _carry_out(self, writes: Iterable[Write]) -> None:
        """Do writes up to the first that someone else came before: what follows rests on it."""
        for write in writes:
            log.info("write", what=type(write).__name__, object=_object_of(write))
            if not await self.cluster.carry_out(write):
                return

    async def _tell_repairs(self, snapshot: Snapshot) -> None:
        """Record an Event for what agents repaired; what they told before this operator started is old."""
        now = drift.counts(snapshot)
        before = now if self.repairs is None else self.repairs
        # What an agent does not count any more it will count from one again.
        self.repairs = {key: count for key, count in before.items() if key in now}
        for one in drift.news(self.repairs, snapshot):
            if profile := snapshot.profiles.get(one.profile):
                await self.cluster.tell(profile, Reason.DRIFT_REPAIRED, one.message, warning=True)
            self.repairs[one.node, one.profile] = one.count  # told: not again if a later one fails

    async def let_go(self) -> None:
        """Take the finalizer off every SecurityProfile if Hauberk is being uninstalled.

        Nobody would be left to do it, and the nodes keep what they hold.
        """
        async for attempt in tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(ClusterFault),
            wait=tenacity.wait_fixed(RETRY_SECONDS[0]),
            stop=tenacity.stop_after_delay(LET_GO_SECONDS),
            reraise=True,
        ):
            with attempt:
                if await self.cluster.leaving():
                    await self._drop_finalizers()

    async def _drop_finalizers(self, *, only_deleted: bool = False) -> None:
        """Take off every finalizer that is there; who changed an object meanwhile makes it try again."""
        kept = 0
        async for body in self.cluster.listing(SECURITY_PROFILES):
            try:
                profile = decode(SecurityProfile, body)
            except msgspec.ValidationError as error:
                log.error("unreadable object", kind=SECURITY_PROFILES, error=str(error))
                continue
            if only_deleted and not profile.metadata.deletion_timestamp:
                continue
            if FINALIZER in profile.metadata.finalizers:
                kept += 1
                await self.cluster.carry_out(RemoveFinalizer(profile))
        if kept:
            raise ClusterFault(Reason.TERMINATING, f"{kept} finalizers were there still")

    async def _write_status(self, name: str, profile: SecurityProfile, status: ProfileStatus) -> None:
        await self.cluster.write_status(name, status)
        if name in self.profiles and self.profiles[name] is profile:
            # So that the next round does not write it again before the watch brings it back.
            self.profiles[name] = msgspec.structs.replace(profile, status=status)
        before = {one.type: one.reason for one in profile.status.conditions}
        for one in status.conditions:
            if one.type == "Ready" and one.reason != before.get("Ready"):
                log.info("ready", profile=name, status=one.status, reason=one.reason, message=one.message)
                if one.reason in _PROGRESS:
                    continue  # the status shows progress; an Event for each step would double the writes
                warning = any(told.type == "Stalled" and told.status == "True" for told in status.conditions)
                try:
                    await self.cluster.tell(profile, one.reason, one.message, warning=warning)
                except ClusterFault as fault:  # the status says the same: no other profile waits for it
                    log.warning("no event", profile=name, message=fault.message)

    # --- texts --------------------------------------------------------------------------------------------

    def _judge(self, snapshot: Snapshot) -> None:
        """Start to judge the texts that nobody has judged yet, and forget those that nobody asks for.

        A template is judged again, for those alone, when kinds of nodes come that it was never rendered for.
        """
        asked: dict[str, tuple[SecurityProfile, dict[str, Facts]]] = {}
        for profile in snapshot.profiles.values():
            if profile.metadata.deletion_timestamp is not None:
                continue
            kinds = {key: snapshot.kinds[key] for key in unjudged_kinds(profile, snapshot)}
            if kinds or judged_text(profile, snapshot) is None:
                asked.setdefault(content_digest(profile), (profile, kinds))
        current = {content_digest(profile) for profile in snapshot.profiles.values()}
        self.judgements = {
            key: known(one, snapshot.kinds) for key, one in self.judgements.items() if key in current
        }
        for digest, (profile, kinds) in asked.items():
            if digest not in self.judging:
                self.judging[digest] = asyncio.create_task(self._judge_one(digest, profile, kinds))

    async def _judge_one(self, digest: str, profile: SecurityProfile, kinds: Mapping[str, Facts]) -> None:
        """Judge a text and wake the loop; a parser that can't be run is tried again."""
        try:
            async with self.slots:
                said = await self._verdict(profile, kinds)
            before = self.judgements.get(digest)
            if isinstance(before, Accepted):
                said = merged(before, said if isinstance(said, Accepted) else _for_none(said))
            self.judgements[digest] = said
        except Fault as fault:
            log.error("can't judge", profile=profile.metadata.name, message=fault.message)
            await asyncio.sleep(RETRY_SECONDS[1] * random.uniform(0.1, 1))  # noqa: S311
        except Exception:  # a bug that one text meets must not make the loop spin
            log.exception("bug", profile=profile.metadata.name)
            await asyncio.sleep(RETRY_SECONDS[1])
        finally:
            self.judging.pop(digest, None)
            self.wake.set()

    async def _verdict(self, profile: SecurityProfile, kinds: Mapping[str, Facts]) -> Judgement:
        try:
            return await check(profile.spec, self.judge, kinds)
        except InputFault as fault:
            return Refusal(fault.reason, fault_message(fault), frozenset(kinds))

    # --- the agents ---------------------------------------------------------------------------------------

    async def _keep_daemonset(self) -> None:
        """Apply the agents' DaemonSet when it is not as it was applied last: its generation tells."""
        if not self.pod:
            return
        if self.settings is None:
            own = await self.cluster.own_pod(self.pod)
            self.settings = settings_from(own, await self.cluster.own_deployment_uid(), self.health_port)
        if self.daemonset_applied is None or self.daemonset_generation != self.daemonset_applied:
            self.daemonset_applied = await self.cluster.apply_daemonset(manifest(self.settings))
            self.daemonset_generation = self.daemonset_applied
            log.info("agents", generation=self.daemonset_applied, image=self.settings.image)


def _for_none(said: Refusal) -> Accepted:
    """Return what is told of kinds of nodes that a template fails for, which is good for others."""
    one = Unrendered(facts=sorted(said.kinds), reason=said.reason, message=said.message)
    return Accepted(unrendered=(one,) if said.kinds else ())


def _object_of(write: Any) -> str:
    for held in (getattr(write, of, None) for of in ("profile", "revision", "tombstone")):
        if held is not None:
            return held if isinstance(held, str) else held.metadata.name
    return ""


_READ: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    SECURITY_PROFILES: lambda body: decode(SecurityProfile, body),
    PROFILE_REVISIONS: lambda body: decode(ProfileRevision, body),
    PROFILE_NODES: lambda body: decode(ProfileNode, body),
    "nodes": node_view,
    "pods": agent_view,
}
