"""The loop of a node's agent: whenever something changed, plan, do, read back and report.

Started by `main`. Four things wake it: a ProfileRevision, the own Node's labels, the kernel's policy, and
the time to try a failed step again. It works from memory and disk while the API is away.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import structlog
import tenacity

from ..crds.errors import ClusterFault, Fault, InputFault
from ..crds.facts import facts_key
from ..crds.models import Backend, Facts, Problem, ProfileNode, ProfileRevision, Remark
from ..crds.reasons import Reason
from ..profiles.parser import fault_message
from . import adoption, drift, facts, holdings, report
from .apparmor import AppArmor, Prepared
from .cluster import Cluster, NodeObject
from .compiling import Compiling
from .drift import Drift
from .holdings import Holding
from .host import Host
from .plan import Key, Load, Persist, Plan, Prune, Release, Remove, Snapshot, Step, mismatch, plan, text_for

log = structlog.get_logger()

# A step that is done and due again this often within one round is being undone by something else.
ROUNDS = 4
IN_USE_SECONDS = (2.0, 15.0)
RETRY_SECONDS = (1.0, 60.0)
WRITE_RETRY_SECONDS = (0.5, 20.0)
WRITE_SPACING_SECONDS = 1.0
# Without any event the kernel is looked at this often all the same: level-triggered, in case poll() is deaf.
LOOK_SECONDS = 60.0
# Nobody tells an agent that someone deleted its report: it asks this often, and after each new list.
ASK_SECONDS = 300.0
# Without AppArmor there is nothing to list, so nothing tells it that Hauberk's kinds were made anew.
ASK_UNSUPPORTED_SECONDS = 45.0


@dataclass
class Refused:
    """A step that failed: what it met, and when it may be tried again (monotonic seconds)."""

    problem: Problem
    until: float
    failures: int = 1


@dataclass
class Agent:
    """One node's agent.

    Attributes:
        host: the node.
        cluster: the API.
        backend: what carries out steps; None where the kernel has no AppArmor.
        node: the node's name.
    """

    host: Host
    cluster: Cluster
    backend: AppArmor | None
    node: str
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    dirty: asyncio.Event = field(default_factory=asyncio.Event)
    listed: asyncio.Event = field(default_factory=asyncio.Event)
    revisions: Mapping[str, ProfileRevision] | None = None
    present: frozenset[str] = frozenset()
    node_object: NodeObject | None = None
    holdings: dict[str, Holding] = field(default_factory=dict[str, Holding])
    unrecorded: set[str] = field(default_factory=set[str])
    refused: dict[Key, Refused] = field(default_factory=dict[Key, Refused])
    drifts: dict[str, Drift] = field(default_factory=dict[str, Drift])
    remarks: list[Remark] = field(default_factory=list[Remark])
    untidy: bool = True
    profile_node: ProfileNode | None = None
    facts: Facts = field(default_factory=Facts)
    alive_at: float = field(default_factory=time.monotonic)
    looked_at: float = 0.0
    reported: bool = False

    async def run(self) -> None:
        """Run until cancelled; a failure of any part ends it, so that Kubernetes restarts it whole."""
        own = self.facts = facts.gather(self.host)
        log.info("node", os=own.os.id, version=own.os.version, kernel=own.kernel, lsms=own.lsms)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.cluster.follow_node(self._node_seen))
            tasks.create_task(self._write_reports())
            tasks.create_task(self._ask_for_report())
            if self.backend:
                self._remember()
                tasks.create_task(self.cluster.follow_revisions(self._revisions_seen, self.listed.set))
                tasks.create_task(self._keep(self.backend))
            else:
                tasks.create_task(self._tell_unsupported())

    def _remember(self) -> None:
        self.holdings, torn = holdings.read(self.host)
        torn += adoption.set_aside(self.host)
        for fault in torn:
            log.error("state", reason=fault.reason, message=fault.message)
        self.remarks = [Remark(reason=fault.reason, message=fault_message(fault)) for fault in torn]
        kernel, boot_id = self.host.kernel(), self.host.boot_id()
        for holding in holdings.announced(self.host):
            if not mismatch(holding, kernel, ""):  # the kernel took it just before the end
                self._hold(holding)
            elif not mismatch(holding, kernel, boot_id):  # perhaps: no hash tells, so it is loaded once more
                before = self.holdings.get(holding.profile, holding)
                former = {*before.former, *holding.former, *holding.modes} - before.modes.keys()
                self._hold(msgspec.structs.replace(before, boot_id="", former=sorted(former)))

    def _node_seen(self, nodes: Mapping[str, NodeObject]) -> None:
        self.node_object = nodes.get(self.node)
        if self.node_object:
            runtime = facts.runtime(self.node_object.status.node_info.container_runtime_version)
            self.facts = msgspec.structs.replace(self.facts, runtime=runtime)
        self.wake.set()

    def _revisions_seen(self, revisions: Mapping[str, ProfileRevision]) -> None:
        # A withdrawn revision that is gone was withdrawn all the same: the operator deletes it once no
        # report names the profile, which may be just before a load of it ends here.
        before = self.revisions or {}
        kept = {name: one for name, one in before.items() if one.spec.placement.withdrawn}
        present = {one.spec.profile for one in revisions.values()}
        self.revisions = {name: one for name, one in kept.items() if one.spec.profile not in present} | {
            name: one for name, one in revisions.items() if one.spec.type == "AppArmor"
        }
        self.present = frozenset(revisions)
        changed = {
            one.spec.profile
            for name, one in self.revisions.items()
            if name not in before or before[name].spec != one.spec
        }
        # What stood in the way of the old word need not stand in the way of the new one.
        self.refused = {
            key: one
            for key, one in self.refused.items()
            if key.profile not in changed or one.until == float("inf")
        }
        self.wake.set()

    async def _tell_unsupported(self) -> None:
        while True:
            self._report(None)
            self.alive_at = time.monotonic()
            await self._wait(float("inf"))

    async def _keep(self, backend: AppArmor) -> None:
        compiling = Compiling(backend.prepare, self._failed, self.wake)
        with self.host.changes(self.wake), contextlib.closing(compiling):
            while True:
                await self.reconcile(backend, compiling)
                self._report(self._section(backend))
                self.alive_at = time.monotonic()
                await self._wait(compiling.due())

    async def _wait(self, due: float) -> None:
        """Wait for something to change or for the next time to try; clears the wake-up."""
        now = time.monotonic()
        # What was due before the last round was tried in it, or no longer matters.
        times = [one.until for one in self.refused.values() if one.until > self.looked_at]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(
                max(0.05, min(due - now, *(time - now for time in times), LOOK_SECONDS))
            ):
                await self.wake.wait()
        self.wake.clear()

    # --- the loop -----------------------------------------------------------------------------------------

    async def reconcile(self, backend: AppArmor, compiling: Compiling) -> None:
        """Plan and do until nothing is left to do now; what still compiles wakes the loop again."""
        done: Counter[Key] = Counter()
        while True:
            self.wake.clear()
            self.looked_at = time.monotonic()
            decided = plan(self._snapshot(backend))
            self.refused = {
                key: one for key, one in self.refused.items() if _still_matters(key, decided, self.revisions)
            }
            compiling.want([step for step in decided.steps if isinstance(step, Load)])
            acted: list[Step] = [one for one in decided.steps if not isinstance(one, Load | Persist)]
            for step in acted:
                await self._take(backend, step)
            if not acted and (ready := compiling.take()):
                acted = [one.step for one in ready]
                await self._load(backend, ready)
            if acted:
                self._report(self._section(backend))  # what the kernel holds does not wait for the disk
            else:
                acted = await self._persist(backend, decided)
            self.alive_at = time.monotonic()
            if not acted:
                break
            self.untidy = True
            self._stop_repeating(acted, done)
        self._tidy(backend, compiling)

    async def _persist(self, backend: AppArmor, decided: Plan) -> list[Step]:
        """Record what was loaded, until something more urgent comes up; return what was done."""
        done: list[Step] = []
        for step in decided.steps:
            if isinstance(step, Persist):
                await self._take(backend, step)
                self.alive_at = time.monotonic()  # a slow disk has its time for each of many
                done.append(step)
                if self.wake.is_set():
                    break
        return done

    def _stop_repeating(self, acted: Sequence[Step], done: Counter[Key]) -> None:
        done.update(step.key for step in acted)
        for step in acted:
            if done[step.key] > ROUNDS and step.key not in self.refused:
                self._refuse(step.key, Reason.CONTESTED, "what this agent does is undone at once")

    def _tidy(self, backend: AppArmor, compiling: Compiling) -> None:
        if self.revisions is None:
            return
        self.revisions = {
            name: one
            for name, one in self.revisions.items()
            if name in self.present or one.spec.profile in self.holdings
        }
        if self.untidy and not self.unrecorded and not compiling.tasks:
            kind = facts_key(self.facts)
            found = [(text_for(one, kind), one.spec.content.mode) for one in self.revisions.values()]
            texts = [(text.text, mode) for text, mode in found if text]
            backend.settle(self.holdings.values(), texts)
            self.untidy = False

    def _snapshot(self, backend: AppArmor) -> Snapshot:
        now = time.monotonic()
        labels = self.node_object.metadata.labels if self.node_object else None
        # Until both are known nothing may be loaded anew or unloaded: what is recorded is kept as it is.
        known = self.revisions is not None and labels is not None
        return Snapshot(
            revisions=tuple(self.revisions.values()) if known and self.revisions else (),
            labels=labels or {},
            holdings=self.holdings,
            kernel=self.host.kernel(),
            boot_id=self.host.boot_id(),
            boot_files=backend.boot_files(),
            unrecorded=frozenset(self.unrecorded),
            refused={key: one.problem for key, one in self.refused.items() if one.until > now},
            kind=facts_key(self.facts),
        )

    # --- steps --------------------------------------------------------------------------------------------

    async def _load(self, backend: AppArmor, ready: list[Prepared]) -> None:
        try:
            outcome = await backend.load(ready, self.holdings)
        except Exception as error:  # noqa: BLE001 - told apart by _failed
            for one in ready:
                self._failed(one.step.key, error)
            return
        for one in ready:
            key = one.step.key
            match outcome[key]:
                case Holding() as holding:
                    self._hold(holding)
                    self._done(key)
                    if one.step.drift:
                        self._repaired(one.step)
                case error:
                    self._failed(key, error)

    async def _take(self, backend: AppArmor, step: Step) -> None:
        try:
            match step:
                case Persist():
                    await backend.persist(step)
                    self.unrecorded.discard(step.holding.profile)
                case Prune():
                    self._hold(await backend.prune(step))
                case Release():
                    self._hold(await backend.release(step, self.holdings))
                case Remove():
                    await backend.remove(step, self.holdings)
                    self.holdings.pop(step.holding.profile)
                    self.unrecorded.discard(step.holding.profile)
                    self.drifts.pop(step.holding.profile, None)
                case Load():
                    pass  # compiled first, and then loaded with others
        except Exception as error:  # noqa: BLE001 - told apart by _failed
            self._failed(step.key, error)
        else:
            self._done(step.key)

    def _done(self, key: Key) -> None:
        self.refused.pop(key, None)
        log.info("done", step=key.kind, profile=key.profile, revision=key.revision)

    def _hold(self, holding: Holding) -> None:
        self.holdings[holding.profile] = holding
        self.unrecorded.add(holding.profile)

    def _repaired(self, step: Load) -> None:
        """Count what someone else did, and leave the profile alone for a while where it is a fight."""
        history, pause = drift.repaired(self.drifts.get(step.profile, Drift()), step.drift, time.monotonic())
        self.drifts[step.profile] = history
        log.warning("repaired", profile=step.profile, what=step.drift, count=history.count)
        if pause:
            message = (
                f"something else on the node keeps changing it: {step.drift}; repaired {history.count} "
                f"times, the next time in {pause:.0f} s at the earliest"
            )
            self._refuse(step.key, Reason.CONTESTED, message, wait=pause)

    def _failed(self, key: Key, error: Exception) -> None:
        """Note that a step failed; a bug in one profile must not stop the others."""
        if isinstance(error, Fault):
            wait = float("inf") if _is_permanent(error) else None
            self._refuse(key, error.reason, fault_message(error), wait=wait)
        else:
            log.error("bug", step=key, exc_info=error)
            self._refuse(key, Reason.BUG, "the agent met a bug; its log has the trace")

    def _refuse(self, key: Key, reason: Reason, message: str, *, wait: float | None = None) -> None:
        """Leave a step alone for a while: for `wait` seconds, else longer with each failure."""
        before = self.refused.get(key)
        failures = before.failures + 1 if before else 1
        if wait is None:
            low, high = IN_USE_SECONDS if reason is Reason.IN_USE else RETRY_SECONDS
            # Past some doublings it is the highest anyway, and past a thousand no number at all.
            wait = random.uniform(low, min(high, low * 2 ** min(failures, 16)))  # noqa: S311
        problem = Problem(revision=key.revision, reason=reason, message=message)
        if before is None or before.problem != problem:
            log.warning("refused", step=key.kind, profile=key.profile, reason=reason, message=message)
        self.refused[key] = Refused(problem, time.monotonic() + wait, failures)

    # --- the report ---------------------------------------------------------------------------------------

    def _section(self, backend: AppArmor) -> Backend:
        decided = plan(self._snapshot(backend))
        # A step whose time to try again has come is not yet mended: its problem stays told.
        problems = {
            step.key.profile: self.refused[step.key].problem
            for step in decided.steps
            if step.key in self.refused
        }
        told = report.Told(
            problems=problems | dict(decided.problems),
            orphans=decided.orphans,
            of_other_kind=decided.of_other_kind,
            drifts=self.drifts,
            remarks=self.remarks,
        )
        return report.backend(self.holdings, self.host.kernel(), told, self.host.boot_id())

    def _report(self, section: Backend | None) -> None:
        if self.node_object is None or (section is not None and self.revisions is None):
            return  # who this node is, or what it should hold, is not known yet
        made = report.profile_node(
            self.node, self.node_object.metadata.uid, self.host.boot_id(), self.facts, section
        )
        if made != self.profile_node:
            self.profile_node = made
            self.dirty.set()

    async def _write_reports(self) -> None:
        """Write the ProfileNode when it changed: at once, then spaced, so that a burst costs few writes."""
        while True:
            await self.dirty.wait()
            async for attempt in tenacity.AsyncRetrying(
                retry=tenacity.retry_if_exception_type(ClusterFault),
                wait=tenacity.wait_random_exponential(
                    multiplier=WRITE_RETRY_SECONDS[0], max=WRITE_RETRY_SECONDS[1]
                ),
                before_sleep=_tell_retry,
            ):
                with attempt:
                    self.dirty.clear()  # what changes from here on is written in the next round
                    if self.profile_node is not None:
                        await self.cluster.write(self.profile_node)
            self.reported = True
            await asyncio.sleep(WRITE_SPACING_SECONDS)

    async def _ask_for_report(self) -> None:
        """See now and then whether the API still has the report: nobody tells of one that was deleted."""
        while True:
            with contextlib.suppress(TimeoutError):
                seconds = ASK_SECONDS if self.backend else ASK_UNSUPPORTED_SECONDS
                async with asyncio.timeout(seconds * random.uniform(0.8, 1.2)):  # noqa: S311
                    await self.listed.wait()
            self.listed.clear()
            await asyncio.sleep(random.uniform(0, WRITE_SPACING_SECONDS))  # noqa: S311
            try:
                if self.reported and self.profile_node and not await self.cluster.holds(self.profile_node):
                    self.dirty.set()
            except ClusterFault as fault:
                log.warning("can't see the report", message=fault.message)


def _is_permanent(fault: Fault) -> bool:
    # How long a text takes depends on the node's load too.
    return isinstance(fault, InputFault) and fault.reason is not Reason.POLICY_TOO_SLOW


def _tell_retry(state: tenacity.RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    message = error.message if isinstance(error, ClusterFault) else ""
    log.warning("the report will be sent again", message=message, failures=state.attempt_number)


def _still_matters(key: Key, decided: Plan, revisions: Mapping[str, ProfileRevision] | None) -> bool:
    """Return whether a failed step can still come up: its problem is told, or its revision is still there."""
    if key.profile in decided.problems or any(step.key == key for step in decided.steps):
        return True
    return key.kind == "load" and any(
        (one.spec.profile, one.spec.content.digest) == (key.profile, key.revision)
        for one in (revisions or {}).values()
    )
