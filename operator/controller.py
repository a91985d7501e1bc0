"""The operator's loop: whenever something changed, decide on finalizers and statuses, and write.

Started and fed by `handlers`, on top of `loop`; the decisions are `finalizers` and `aggregate`, the writes
`operators_cluster`. It never touches a text: those are the admission's (`publisher`).
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

import msgspec
import structlog
import tenacity

from ..crds.errors import BusyFault, ClusterFault
from ..crds.metrics import Reading
from ..crds.models import ProfileStatus, SecurityProfile, decode
from ..crds.names import ADMISSION, FINALIZER, PROFILE_NODES, PROFILE_REVISIONS, SECURITY_PROFILES
from ..crds.pods import PodObject
from ..crds.reasons import Reason
from . import drift, measures, pace
from .agent_settings import OnNodes
from .agents import image_of, manifests, settings_from
from .aggregate import TYPES, aggregate, own
from .deltas import Rollouts
from .finalizers import finalizers, is_new
from .gates import Gates, Key, pod_of
from .gating import Known, is_gated
from .loop import RETRY_SECONDS, Loop, key_of
from .missed import Absence, missed
from .node_labels import node_labels
from .operators_cluster import OperatorsCluster
from .rollout import Rollout
from .snapshot import AgentView, Snapshot, without_text
from .taints import untaints
from .writes import AddFinalizer, OpenGate, RemoveFinalizer, TellOfPod, Write

log = structlog.get_logger()

# The kubelet gives a pod half a minute to end.
LET_GO_SECONDS = 20.0
# How often the authority of the admission's webhook is compared with the one that the API server trusts.
TRUST_SECONDS = 5.0
# How often the admission's Lease is looked at.
LEASE_SECONDS = 3.0
# In a round that takes longer, because of many writes, what is known is looked at again: what was so as it
# began would be written, and then written once more.
FRESH_SECONDS = 0.5
_PROGRESS = (Reason.UPDATING, Reason.TERMINATING)
_GOING = (Reason.TERMINATING, Reason.IN_USE)

P = TypeVar("P", bound=OpenGate | TellOfPod)
Made = tuple[SecurityProfile, Rollout, ProfileStatus]


@dataclass
class Controller(Loop[OperatorsCluster]):
    """The operator's memory and loop.

    Attributes:
        pod: name of the operator's own Pod, which the agents' image is read from; empty: keep no agents.
        on_nodes: what an administrator set for the agents.
        manifests: the agents' DaemonSets by name; made once, for what they are made of stays the same.
        rollouts: what the profiles are on the nodes.
        made: what a status should be, and what it was made of.
        written: the last write of each status.
        moved: when each profile had progress to tell last.
        behind: how many statuses the last round left for later.
        events: what is to be told of profiles by Events: reason, message, and whether it is a warning.
        repaired: how often nodes told of a repair since this process started, by type and profile.
        gates: the pods that wait for their profiles.
        opened: how many gates this process opened.
        absence: whether the admission is there to gate pods.
    """

    pod: str = ""
    on_nodes: OnNodes = field(default_factory=OnNodes)
    manifests: dict[str, dict[str, Any]] = field(default_factory=dict[str, "dict[str, Any]"])
    rollouts: Rollouts = field(default_factory=Rollouts)
    made: dict[str, Made] = field(default_factory=dict[str, "Made"])
    written: dict[str, pace.Written] = field(default_factory=dict[str, pace.Written])
    moved: dict[str, float] = field(default_factory=dict[str, float])
    behind: int = 0
    events: list[tuple[SecurityProfile, str, str, bool]] = field(default_factory=list[Any])
    repaired: dict[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])
    gates: Gates = field(default_factory=Gates)
    opened: int = 0
    absence: Absence = field(default_factory=Absence)
    missing: dict[str, datetime] = field(default_factory=dict[str, datetime])
    repairs: dict[tuple[str, str, str], int] | None = None
    # by name: the generation as it was seen last, and as it was applied last
    daemonsets: dict[str, int] = field(default_factory=dict[str, int])
    applied: dict[str, int] = field(default_factory=dict[str, int])
    kinds: Collection[str] = (SECURITY_PROFILES, PROFILE_REVISIONS, PROFILE_NODES, "nodes", "pods")

    def read(self, plural: str, body: Mapping[str, Any]) -> Any:
        """Return an object as decisions need it, without the texts: half of the memory, and no way to err."""
        return without_text(super().read(plural, body))

    def daemonset_seen(self, name: str, generation: int | None) -> None:
        """Take note of one of the agents' DaemonSets; None where it is gone."""
        if generation is None:
            self.daemonsets.pop(name, None)
        else:
            self.daemonsets[name] = generation
        self.wake.set()

    def elected(self, anew: bool) -> None:
        """Take note that this one leads now, or waits; `anew` where another one may have led meanwhile."""
        if anew:
            self.repairs = None  # what happened while another one led, that one told
            self.events.clear()
            self.absence.plan(self.clock())  # but perhaps it was away when the admission was
        super().elected(anew)

    async def run(self) -> None:
        """Run until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(super().run())
            tasks.create_task(self._keep_trust())
            tasks.create_task(self._follow_gated_pods())
            tasks.create_task(self._look_for_missed())

    async def while_kinds_go(self) -> None:
        """Let objects go that wait for this operator, and hold the removal of their kind up."""
        with contextlib.suppress(ClusterFault):  # their kind may be gone already
            await self._drop_finalizers(only_deleted=True)

    def snapshot(self) -> Snapshot:
        """Return what is known now."""
        now = datetime.now(UTC)
        # A node has two for a moment as it goes from one kind of agent to the other: the newer one counts.
        agents = {one.node: one for one in sorted(self.pods.values(), key=lambda one: one.since)}
        # A node without an agent's pod lacks it since this was noticed first: pods leave no trace.
        self.missing = {name: self.missing.get(name, now) for name in self.nodes.keys() - agents.keys()}
        absent = {
            name: AgentView(name, ready=False, since=since, has_pod=False)
            for name, since in self.missing.items()
        }
        return Snapshot(
            profiles=dict(self.profiles),
            revisions=dict(self.revisions),
            reports=dict(self.reports),
            nodes=dict(self.nodes),
            agents=agents | absent,
            now=now,
            store=self.store,
        )

    def readings(self) -> list[Reading]:
        """Return what this process knows of the cluster, in figures; of one that waits, only that it does."""
        leads = self.leads()
        found = measures.of_process(leads=leads, pending={"status": self.behind if leads else 0})
        if leads and self.ready:
            found += measures.of_cluster(self.snapshot(), self.repaired)
            found += measures.of_gates(self.gates, self.opened, datetime.now(UTC))
        return found

    async def reconcile(self) -> None:
        """Bring finalizers, statuses and the agents to what they should be, as far as is known.

        Raises:
            ClusterFault: a write was not taken; all others were made all the same.
        """
        snapshot = self.snapshot()  # also while waiting: since when an agent is missing is seen here only
        if not self.leads():
            return
        faults: list[ClusterFault] = []
        tried = set[str]()
        snapshot = await self._kept(snapshot, tried, faults)
        taken = self.clock()
        moving = pace.moving(self.moved.values(), taken)
        self.behind = 0

        async def keep(name: str, _: SecurityProfile) -> None:
            nonlocal snapshot, taken
            if self.clock() - taken > FRESH_SECONDS:
                await self._open_gates()  # a pod need not wait for all other profiles' statuses
                snapshot = await self._kept(self.snapshot(), tried, faults)
                taken = self.clock()
            if self.leads() and (profile := snapshot.profiles.get(name)):
                await self._keep_profile(name, profile, snapshot, moving)

        more = await self.keep_each(snapshot.profiles, keep)
        if more is None:
            return
        faults += more
        await self._open_gates()
        self.made = {name: made for name, made in self.made.items() if name in snapshot.profiles}
        self.written = {name: last for name, last in self.written.items() if name in snapshot.profiles}
        self.repaired = {key: count for key, count in self.repaired.items() if key[1] in snapshot.profiles}
        self.moved = {name: at for name, at in self.moved.items() if name in snapshot.profiles}
        try:
            await self._tell_repairs(snapshot)
        except BusyFault:
            raise
        except ClusterFault as fault:
            faults.append(fault)
        await self.let_others()
        labels = node_labels(snapshot)
        faults += await self.carry_out_each(labels)
        faults += await self.carry_out_each(untaints(snapshot, {one.node for one in labels}))
        await self._write_of_pods(self.gates.tellings(self._known(), self.clock()))
        self.wake_by(self.gates.due)
        await self._keep_daemonsets()
        await self._tell_events()
        if faults:
            raise faults[0]

    async def _looked_at(self, snapshot: Snapshot) -> Snapshot:
        """Return a snapshot with the store as it is now, and have the rollouts be of it.

        Raises:
            ClusterFault: the API can't be read.
        """
        await self.look_at_store()
        snapshot = dataclasses.replace(snapshot, store=self.store)
        for _ in self.rollouts.look(snapshot):
            await self.let_others()
        return snapshot

    async def _kept(self, snapshot: Snapshot, tried: set[str], faults: list[ClusterFault]) -> Snapshot:
        """Return what is known once profiles have their finalizers, which are written before any status.

        Publishing waits for them. Where that takes long it is gone on with later in the round; each UID is
        tried once, and added to `tried`; what is in the way, to `faults`.

        Raises:
            ClusterFault: the API can't be read, or has no time.
        """
        snapshot = await self._looked_at(snapshot)
        new = {
            name: one
            for name, one in snapshot.profiles.items()
            if is_new(one) and one.metadata.uid not in tried
        }
        if not new:
            return snapshot
        until = self.clock() + FRESH_SECONDS

        async def keep(name: str, _: SecurityProfile) -> None:
            profile = self.profiles.get(name)  # the admission writes to it meanwhile
            if profile is None or not is_new(profile):
                return
            if self.clock() > until:
                self.wake_by(self.clock())
                return
            tried.add(profile.metadata.uid)
            await self.carry_out([AddFinalizer(profile)])

        faults += await self.keep_each(new, keep) or []
        return await self._looked_at(self.snapshot())

    async def _keep_profile(
        self, name: str, profile: SecurityProfile, snapshot: Snapshot, moving: int
    ) -> None:
        leaving = profile.metadata.deletion_timestamp is not None
        if leaving and not profile.metadata.finalizers:
            return  # it is gone, and the watch has not told yet
        rollout = self.rollouts.of(profile, snapshot)
        going = finalizers(profile, snapshot, rollout) if leaving else []
        if going and _is_said_to_go(profile) and not self.backoffs.left_until(key_of(profile)):
            await self.carry_out(going)  # nobody is left to read more
            return
        status = self._status(name, profile, rollout, snapshot.now)
        if status != (before := own(profile.status)):
            last = self.written.get(name)
            if pace.is_progress(before, status):
                self.moved[name] = self.clock()
            if (at := pace.due(before, status, last, moving)) > self.clock():
                self.wake_by(at)
                self.behind += 1
            else:
                profile = await self._write_status(name, profile, status)
                self.written[name] = pace.written(before, status, last, self.clock())
        if going:  # what is to go is not called Ready before it goes
            await self.carry_out(finalizers(profile, snapshot, rollout))

    def _status(self, name: str, profile: SecurityProfile, rollout: Rollout, now: datetime) -> ProfileStatus:
        """Return what a status should be; that of a profile of which nothing changed is not made again."""
        made = self.made.get(name)
        if made is None or made[0] is not profile or made[1] is not rollout:
            made = self.made[name] = (profile, rollout, aggregate(profile, rollout, now))
        return made[2]

    async def _tell_repairs(self, snapshot: Snapshot) -> None:
        """Record an Event for what agents repaired; what they told before this operator started is old."""
        now = drift.counts(snapshot)
        before = now if self.repairs is None else self.repairs
        # What an agent does not count any more it will count from one again.
        self.repairs = {key: count for key, count in before.items() if key in now}
        if self.repairs == now:
            return  # as nearly always: no second walk over what all nodes tell
        for one in drift.news(self.repairs, snapshot):
            last = self.repairs.get((one.node, one.type, one.profile), 0)
            profile = snapshot.profiles.get(one.profile)
            if profile and profile.spec.type == one.type:
                # an agent that started again counts from one
                new = one.count - last if one.count > last else one.count
                key, event = (one.type, one.profile), (Reason.DRIFT_REPAIRED, one.profile)
                tell = partial(self.cluster.tell, profile, Reason.DRIFT_REPAIRED, one.message, warning=True)
                if not await self.by_itself(event, tell, profile=one.profile):
                    continue
                self.repaired[key] = self.repaired.get(key, 0) + new
            self.repairs[one.node, one.type, one.profile] = one.count  # told: not again if a later one fails

    async def let_go(self) -> None:
        """Take the finalizer off every SecurityProfile, and the gate off pods, if Hauberk is uninstalled.

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
                    try:
                        await self._drop_finalizers()
                    finally:
                        await self._open_all_gates()

    async def _open_all_gates(self) -> None:
        """Open every gate, whatever the pods wait for; what fails is logged, and holds up nothing else."""
        try:
            gated = [pod_of(pod) async for pod in self.cluster.gated_pods() if is_gated(pod)]
        except ClusterFault as fault:
            log.warning("pods stay gated", message=fault.message)
            return
        for pod in gated:
            try:
                await self.carry_out([OpenGate(pod, because="Hauberk is being uninstalled")])
            except ClusterFault as fault:
                log.warning("a pod stays gated", pod=pod, message=fault.message)

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

    async def _write_status(
        self, name: str, profile: SecurityProfile, status: ProfileStatus
    ) -> SecurityProfile:
        """Write a status, and return the profile as it is since."""
        there = await self.write(self.cluster.write_status(name, status))
        others = [one for one in profile.status.conditions if one.type not in TYPES]
        whole = msgspec.structs.replace(status, conditions=others + status.conditions)
        metadata = profile.metadata
        if there and there.uid == metadata.uid:  # who decides on this version has to know its finalizers
            metadata = msgspec.structs.replace(
                metadata, resource_version=there.resource_version, finalizers=there.finalizers
            )
        after = msgspec.structs.replace(profile, metadata=metadata, status=whole)
        self.remember(profile, after)
        before = {one.type: one.reason for one in profile.status.conditions}
        for one in status.conditions:
            if one.type == "Ready" and one.reason != before.get("Ready"):
                log.info("ready", profile=name, status=one.status, reason=one.reason, message=one.message)
                if one.reason in _PROGRESS:
                    continue  # the status shows progress; an Event for each step would double the writes
                warning = any(told.type == "Stalled" and told.status == "True" for told in status.conditions)
                self.events.append((profile, one.reason, one.message, warning))
        return after

    async def _tell_events(self) -> None:
        """Record the Events that are due, for a while: the statuses say the same, and come before them.

        Raises:
            BusyFault: the API server has no time.
        """
        until = self.clock() + FRESH_SECONDS
        while self.events and self.leads():
            if self.clock() > until:
                self.wake_by(self.clock())
                return
            self.goes_on()
            profile, reason, message, warning = self.events[0]
            try:
                await self.write(self.cluster.tell(profile, reason, message, warning=warning))
            except BusyFault:
                raise
            except ClusterFault as fault:
                log.warning("no event", profile=profile.metadata.name, message=fault.message)
            except Exception:
                log.exception("bug", profile=profile.metadata.name)
            self.events.pop(0)
            await self.let_others()

    # --- gates ---------------------------------------------------------------------------------------------

    async def _follow_gated_pods(self) -> None:
        """Keep what is known of gated pods, until cancelled."""

        def listed(pods: Mapping[Key, PodObject]) -> None:
            self.gates.listed(pods, self.clock())
            self.wake.set()

        def changed(key: Key, pod: PodObject | None) -> None:
            self.gates.changed(key, pod, self.clock())
            self.wake.set()

        while True:
            await self.until_done("watch", lambda: self.cluster.follow_gated_pods(listed, changed))

    async def _open_gates(self) -> None:
        """Open the gates of pods whose profiles are Available.

        By the profiles as they are known now, with the statuses that were just written.

        Raises:
            BusyFault: the API server has no time.
        """
        await self._write_of_pods(self.gates.openings(self._known(), self.clock()))

    def _known(self) -> Known:
        """Return what is known of profiles now, for pods that there are: their texts are not."""
        return Known(self.profiles, revisions=self.revisions, reports=self.reports)

    async def _write_of_pods(self, writes: Iterable[P]) -> list[P]:
        """Do writes of pods: who may make pods must not be able to hold up anything else by one of them.

        Returns those that were taken.

        Raises:
            BusyFault: the API server has no time.
        """
        asked, refused = [*writes], set[int]()
        async for write, fault in self.refusals(asked):
            log.warning("will try again", what=type(write).__name__, pod=write.pod, message=fault.message)
            self.gates.was_refused(write, self.clock())
            refused.add(id(write))
        return [one for one in asked if id(one) not in refused]

    async def _look_for_missed(self) -> None:
        """Tell of pods that nobody gated, when there is reason to look for some, until cancelled."""
        while True:
            await asyncio.sleep(LEASE_SECONDS)
            try:
                was_away = self.absence.away
                self.absence.seen(await self.cluster.lease(ADMISSION), self.clock())
                if self.absence.away != was_away:
                    log.info("the admission is away" if self.absence.away else "the admission is there")
                if self.ready and self.leads() and self.absence.is_due(self.clock()):
                    await self._tell_missed()
            except ClusterFault as fault:
                log.warning("pods that nobody gated can't be looked for", message=fault.message)

    async def _tell_missed(self) -> None:
        """Record an Event on each pod that should have been gated; what of them is refused is logged.

        Raises:
            ClusterFault: the API can't be read, or has no time.
        """
        began, known = self.clock(), self._known()
        found: list[TellOfPod] = []
        made = began
        async for pod in self.cluster.pods_past_the_gate():
            if self.clock() - made > FRESH_SECONDS:  # what is known of profiles has to be of one moment
                made, known = self.clock(), self._known()
            try:
                if said := missed(pod, known, self.nodes):
                    found.append(said)
            except Exception:
                log.exception("bug", pod=pod_of(pod))
            await self.let_others()
        new = self.absence.news(found)
        for write in await self._write_of_pods(new):
            self.absence.was_told(write)
        self.absence.looked(began)
        log.info("looked for pods that nobody gated", found=len(found), new=len(new))

    def carried_out(self, write: Write) -> None:
        """Take note of a finalizer, and of what was done to a gated pod."""
        if isinstance(write, AddFinalizer | RemoveFinalizer):
            metadata = msgspec.structs.replace(write.profile.metadata, finalizers=write.finalizers)
            self.remember(write.profile, msgspec.structs.replace(write.profile, metadata=metadata))
        self.opened += isinstance(write, OpenGate)  # here: the watch may have told `gates` of it before
        if isinstance(write, OpenGate | TellOfPod):
            self.gates.carried_out(write)

    # --- the webhook --------------------------------------------------------------------------------------

    async def _keep_trust(self) -> None:
        """Have the API server trust what the admission shows of its authority, until cancelled.

        The admission itself may not write its webhook's configuration: whoever may can have every object of
        the cluster sent to it.
        """
        told = ""
        while True:
            try:
                if self.leads() and await self.cluster.trust(await self.cluster.shown_authority()):
                    log.info("the API server trusts the admission's authority")
                    self.absence.plan(self.clock())  # before, it could not ask it about pods
                told = ""
            except ClusterFault as fault:
                if fault.message != told:  # once, not every few seconds
                    log.warning("the webhook can't be kept", message=fault.message)
                told = fault.message
            await asyncio.sleep(TRUST_SECONDS)

    # --- the agents ---------------------------------------------------------------------------------------

    async def _keep_daemonsets(self) -> None:
        """Apply the agents' DaemonSets when they are not as they were applied last: a generation tells."""
        if not self.pod:
            return
        if not self.manifests:
            own = await self.cluster.own_pod(self.pod)
            self.manifests = manifests(
                settings_from(own, await self.cluster.own_deployment_uid(), self.on_nodes)
            )
        for name, manifest in self.manifests.items():
            if name not in self.applied or self.daemonsets.get(name) != self.applied[name]:
                apply = partial(self._apply_daemonset, name, manifest)
                await self.by_itself(("DaemonSet", name), apply, daemonset=name)

    async def _apply_daemonset(self, name: str, manifest: dict[str, Any]) -> None:
        generation = await self.cluster.apply_daemonset(name, manifest)
        self.applied[name] = self.daemonsets[name] = generation
        log.info("agents", name=name, generation=generation, image=image_of(manifest))


def _is_said_to_go(profile: SecurityProfile) -> bool:
    """Return whether the status that is there says that the profile is being deleted."""
    return any(one.type == "Ready" and one.reason in _GOING for one in profile.status.conditions)
