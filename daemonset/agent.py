"""The loop of a node's agent: whenever something changed, plan, do, read back and report.

Started by `main`. Four things wake it: a ProfileRevision, the own Node's labels, the kernel's policy, and
the time to try a failed step again. It works from memory and disk while the API is away.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import structlog
import tenacity

from ..crds.errors import ClusterFault, Fault, InputFault
from ..crds.models import Backend, Facts, Problem, ProfileNode, ProfileRevision
from ..crds.reasons import Reason
from ..profiles.parser import fault_message
from . import facts, holdings, report
from .apparmor import AppArmor
from .cluster import Cluster, NodeObject
from .holdings import Holding
from .host import Host
from .plan import Key, Load, Persist, Plan, Prune, Remove, Snapshot, Step, plan

log = structlog.get_logger()

# Rounds of plan and do after one wake-up: load, persist and prune follow one another; more would be a fight.
ROUNDS = 4
IN_USE_SECONDS = 2.0
RETRY_SECONDS = (1.0, 60.0)
WRITE_SPACING_SECONDS = 1.0
# Without any event the kernel is looked at this often all the same: level-triggered, in case poll() is deaf.
LOOK_SECONDS = 60.0


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
        backend: what carries out steps.
        node: the node's name.
    """

    host: Host
    cluster: Cluster
    backend: AppArmor
    node: str
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    dirty: asyncio.Event = field(default_factory=asyncio.Event)
    revisions: Mapping[str, ProfileRevision] | None = None
    present: frozenset[str] = frozenset()
    node_object: NodeObject | None = None
    holdings: dict[str, Holding] = field(default_factory=dict[str, Holding])
    unrecorded: set[str] = field(default_factory=set[str])
    refused: dict[Key, Refused] = field(default_factory=dict[Key, Refused])
    profile_node: ProfileNode | None = None
    facts: Facts = field(default_factory=Facts)
    alive_at: float = field(default_factory=time.monotonic)
    told_at: float = 0.0
    looked_at: float = 0.0
    reported: bool = False

    async def run(self) -> None:
        """Run until cancelled; a failure of any part ends it, so that Kubernetes restarts it whole."""
        own = self.facts = facts.gather(self.host)
        log.info("node", os=own.os.id, version=own.os.version, kernel=own.kernel, lsms=own.lsms)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.cluster.follow_node(self._node_seen))
            tasks.create_task(self._write_reports())
            if own.app_armor.enabled:
                self._remember()
                tasks.create_task(self.cluster.follow_revisions(self._revisions_seen))
                tasks.create_task(self._keep())
            else:
                tasks.create_task(self._tell_unsupported())

    def _remember(self) -> None:
        self.holdings, torn = holdings.read(self.host)
        for fault in torn:
            log.error("state", reason=fault.reason, message=fault.message)

    def _node_seen(self, nodes: Mapping[str, NodeObject]) -> None:
        self.node_object = nodes.get(self.node)
        self.wake.set()

    def _revisions_seen(self, revisions: Mapping[str, ProfileRevision]) -> None:
        # A withdrawn revision that is gone was withdrawn all the same: the operator deletes it once no
        # report names the profile, which may be just before a load of it ends here.
        kept = {name: one for name, one in (self.revisions or {}).items() if one.spec.placement.withdrawn}
        present = {one.spec.profile for one in revisions.values()}
        self.revisions = {name: one for name, one in kept.items() if one.spec.profile not in present} | {
            name: one for name, one in revisions.items() if one.spec.type == "AppArmor"
        }
        self.present = frozenset(revisions)
        self.wake.set()

    async def _tell_unsupported(self) -> None:
        while True:
            self._report(None)
            self.alive_at = time.monotonic()
            await self._wait()

    async def _keep(self) -> None:
        with self.host.changes(self.wake):
            while True:
                await self.reconcile()
                self._report(self._section())
                self.alive_at = time.monotonic()
                await self._wait()

    async def _wait(self) -> None:
        """Wait for something to change or for the next time to try; clears the wake-up."""
        now = time.monotonic()
        # What was due before the last look was tried in it, or no longer matters.
        due = min(
            (one.until for one in self.refused.values() if one.until > self.looked_at),
            default=now + LOOK_SECONDS,
        )
        try:
            async with asyncio.timeout(max(0.05, min(due - now, LOOK_SECONDS))):
                await self.wake.wait()
        except TimeoutError:
            pass
        self.wake.clear()

    async def reconcile(self) -> None:
        """Plan and do until nothing is left to do."""
        for _ in range(ROUNDS):
            decided = plan(self._snapshot())
            self.refused = {
                key: one for key, one in self.refused.items() if _still_matters(key, decided, self.revisions)
            }
            if not decided.steps:
                self._forget_withdrawn()
                return
            for step in decided.steps:
                await self._take(step)
                self.alive_at = time.monotonic()
                if self.alive_at - self.told_at > WRITE_SPACING_SECONDS:
                    self._report(self._section())  # one slow text must not hide what the others came to
            self._report(self._section())  # what the kernel holds does not wait for the disk
        log.warning("steps are left after several rounds: something else changes policy here")

    def _forget_withdrawn(self) -> None:
        if self.revisions is not None:
            self.revisions = {
                name: one
                for name, one in self.revisions.items()
                if name in self.present or one.spec.profile in self.holdings
            }

    def _snapshot(self) -> Snapshot:
        self.looked_at = now = time.monotonic()
        labels = self.node_object.metadata.labels if self.node_object else None
        # Until both are known nothing may be loaded anew or unloaded: what is recorded is kept as it is.
        known = self.revisions is not None and labels is not None
        return Snapshot(
            revisions=tuple(self.revisions.values()) if known and self.revisions else (),
            labels=labels or {},
            holdings=self.holdings,
            kernel=self.host.kernel(),
            boot_id=self.host.boot_id(),
            boot_files=self.backend.boot_files(),
            unrecorded=frozenset(self.unrecorded),
            refused={key: one.problem for key, one in self.refused.items() if one.until > now},
        )

    async def _take(self, step: Step) -> None:
        try:
            match step:
                case Load():
                    self._hold(await self.backend.load(step, self.holdings))
                case Persist():
                    await self.backend.persist(step)
                    self.unrecorded.discard(step.holding.profile)
                case Prune():
                    self._hold(self.backend.prune(step))
                case Remove():
                    self.backend.remove(step)
                    self.holdings.pop(step.holding.profile)
                    self.unrecorded.discard(step.holding.profile)
        except Fault as fault:
            self._refuse(step.key, fault.reason, fault_message(fault), permanent=_is_permanent(fault))
        except Exception:  # a bug must not stop the other profiles
            log.exception("bug", step=step.key)
            self._refuse(step.key, Reason.BUG, "the agent met a bug; its log has the trace", permanent=False)
        else:
            self.refused.pop(step.key, None)
            log.info("done", step=step.key.kind, profile=step.key.profile, revision=step.key.revision)

    def _hold(self, holding: Holding) -> None:
        self.holdings[holding.profile] = holding
        self.unrecorded.add(holding.profile)

    def _refuse(self, key: Key, reason: Reason, message: str, *, permanent: bool) -> None:
        before = self.refused.get(key)
        failures = before.failures + 1 if before else 1
        low, high = RETRY_SECONDS
        wait = random.uniform(low, min(high, low * 2**failures))  # noqa: S311
        if reason is Reason.IN_USE:
            wait = IN_USE_SECONDS
        until = float("inf") if permanent else time.monotonic() + wait
        problem = Problem(revision=key.revision, reason=reason, message=message)
        if before is None or before.problem != problem:
            log.warning("refused", step=key.kind, profile=key.profile, reason=reason, message=message)
        self.refused[key] = Refused(problem, until, failures)

    def _section(self) -> Backend:
        decided = plan(self._snapshot())
        # A step whose time to try again has come is not yet mended: its problem stays told.
        told = {
            step.key.profile: self.refused[step.key].problem
            for step in decided.steps
            if step.key in self.refused
        }
        problems = {**told, **decided.problems}
        return report.backend(self.holdings, self.host.kernel(), problems, self.host.boot_id())

    def _report(self, section: Backend | None) -> None:
        self.told_at = time.monotonic()
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
                wait=tenacity.wait_random_exponential(multiplier=RETRY_SECONDS[0], max=RETRY_SECONDS[1]),
                before_sleep=_tell_retry,
            ):
                with attempt:
                    self.dirty.clear()  # what changes from here on is written in the next round
                    if self.profile_node is not None:
                        await self.cluster.write(self.profile_node)
            self.reported = True
            await asyncio.sleep(WRITE_SPACING_SECONDS)


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
