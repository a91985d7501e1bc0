"""A node's agent: what it is told by the API, handed to its backends, and their sections, told to the API.

Started by `main`. Each backend has a loop of its own (`reconciler`): a slow one holds up no other. The
report is one object.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import structlog
import tenacity

from ..crds.errors import ClusterFault
from ..crds.facts import facts_key
from ..crds.metrics import AGENT_PROFILES, PENDING, Counts, Reading, Uncounted
from ..crds.models import Facts, ProfileNode, ProfileRevision
from . import facts, news, report
from .api import backoff
from .backend import Backend
from .cluster import Cluster, NodeObject
from .host import Host
from .reconciler import FIRST_SECONDS, Reconciler
from .turns import Turns

log = structlog.get_logger()

WRITE_RETRY_SECONDS = (0.5, 20.0)
# Nobody tells an agent that someone deleted its report: it asks this often, and after each new list.
ASK_SECONDS = 300.0
# A report that the API has not taken for so long may say there what is not so any more.
BEHIND_SECONDS = 180.0
# Without a backend there is nothing to list, so nothing tells it that Hauberk's kinds were made anew.
ASK_UNSUPPORTED_SECONDS = 45.0


@dataclass
class Agent:
    """One node's agent.

    Attributes:
        host: the node.
        cluster: the API.
        backends: what carries out steps, one for each security module that this agent serves.
        node: the node's name.
        profile_node: the report as it is now.
        written: the report as the API has it; None where that is not known.
        turns: when it may be written.
        counted: the nodes with an agent could be counted the last time.
        counts: is told what happens.
        untaken_since: since when the API takes no report (monotonic seconds), where it does not.
    """

    host: Host
    cluster: Cluster
    backends: Sequence[Backend]
    node: str
    dirty: asyncio.Event = field(default_factory=asyncio.Event)
    listed: asyncio.Event = field(default_factory=asyncio.Event)
    node_object: NodeObject | None = None
    profile_node: ProfileNode | None = None
    facts: Facts = field(default_factory=Facts)
    reported: bool = False
    written: ProfileNode | None = None
    turns: Turns = field(default_factory=Turns)
    counted: bool = True
    counts: Counts = field(default_factory=Uncounted)
    untaken_since: float | None = None
    reconcilers: dict[str, Reconciler] = field(init=False)
    started_at: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        """Make a loop for each backend."""
        self.reconcilers = {
            one.type: Reconciler(self.host, one, self._report, counts=self.counts) for one in self.backends
        }

    @property
    def alive_at(self) -> float:
        """Return when the loop that has been busy for longest was last seen alive (monotonic seconds)."""
        return min((one.alive_at for one in self.reconcilers.values()), default=time.monotonic())

    def is_ready(self) -> bool:
        """Return whether the API takes this node's reports, or did a short while ago.

        What waits for its turn is no fault: it says nothing that is worse than what the API has.
        """
        since = self.untaken_since
        return self.reported and (since is None or time.monotonic() - since < BEHIND_SECONDS)

    def readings(self) -> list[Reading]:
        """Return what there is on this node, in figures."""
        found = [Reading(PENDING, self.untaken_since is not None, ("report",))]
        left = sum(one.left for one in self.reconcilers.values())
        found.append(Reading(PENDING, left, ("load",)))
        for kind, one in self.reconcilers.items():
            if section := one.section:
                states = {"held": section.profiles, "failed": section.problems, "orphaned": section.orphans}
                found += [Reading(AGENT_PROFILES, len(of), (kind, state)) for state, of in states.items()]
        return found

    async def run(self) -> None:
        """Run until cancelled; a failure of any part ends it, so that Kubernetes restarts it whole."""
        own = self.facts = facts.gather(self.host)
        self.started_at = time.monotonic()
        log.info("node", os=own.os.id, version=own.os.version, kernel=own.kernel, lsms=own.lsms)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.cluster.follow_node(self._node_seen))
            tasks.create_task(self._write_reports())
            tasks.create_task(self._ask_for_report())
            if self.reconcilers:
                tasks.create_task(self.cluster.follow_revisions(self._revisions_listed, self._revision_seen))
                tasks.create_task(self._report_in_time())
            for one in self.reconcilers.values():
                tasks.create_task(one.run())

    def _node_seen(self, node: NodeObject | None) -> None:
        self.node_object = node
        self._look_at_facts()
        self._report()

    def _look_at_facts(self) -> None:
        """Gather the facts that change while a kernel runs, and tell every loop what the node is."""
        gathered = msgspec.structs.replace(self.facts, selinux=self.host.selinux.facts())
        labels = None
        if self.node_object:
            labels = self.node_object.metadata.labels
            runtime = facts.runtime(self.node_object.status.node_info.container_runtime_version)
            gathered = msgspec.structs.replace(gathered, runtime=runtime)
        self.facts = gathered
        for one in self.reconcilers.values():
            one.node_seen(labels, facts_key(self.facts))

    def _revisions_listed(self, revisions: Mapping[str, ProfileRevision]) -> None:
        for one in self.reconcilers.values():
            one.revisions_listed(revisions)
        self.listed.set()

    def _revision_seen(self, name: str, revision: ProfileRevision | None) -> None:
        for one in self.reconcilers.values():
            one.revision_seen(name, revision)

    # --- the report ---------------------------------------------------------------------------------------

    async def _report_in_time(self) -> None:
        """Report what there is if a backend takes long."""
        await asyncio.sleep(FIRST_SECONDS)
        self._report()

    def _report(self) -> None:
        if self.facts.selinux != self.host.selinux.facts():
            self._look_at_facts()
        sections = {kind: one.section for kind, one in self.reconcilers.items()}
        waiting = None in sections.values() and time.monotonic() < self.started_at + FIRST_SECONDS
        if self.node_object is None or waiting:
            return  # who this node is, or what it should hold, is not known yet
        if sections and not any(sections.values()):
            return
        made = report.profile_node(
            self.node, self.node_object.metadata.uid, self.host.boot_id(), self.facts, sections
        )
        if made != self.profile_node:
            self.profile_node = made
            self.dirty.set()

    async def _write_reports(self) -> None:
        """Write the ProfileNode when it changed: at once after a quiet time, then spaced."""
        while True:
            await self._next_turn()
            if self.profile_node is None or self.profile_node == self.written:
                continue  # it is again what the API has
            began = time.monotonic()
            async for attempt in tenacity.AsyncRetrying(
                retry=tenacity.retry_if_exception_type(ClusterFault),
                wait=backoff(WRITE_RETRY_SECONDS),
                before_sleep=self._not_taken,
            ):
                with attempt:
                    self.dirty.clear()  # what changes from here on is written in the next round
                    # A write that fails may have been made all the same.
                    writing, self.written = self.profile_node, None
                    began = time.monotonic()
                    await self.cluster.write(writing)
                    self.written, self.untaken_since = writing, None
                    log.info("reported", summary=writing.status.summary)
            self.turns.wrote(began, time.monotonic())
            self.reported = True

    def _not_taken(self, state: tenacity.RetryCallState) -> None:
        if self.untaken_since is None:
            self.untaken_since = time.monotonic()
        error = state.outcome.exception() if state.outcome else None
        message = error.message if isinstance(error, ClusterFault) else ""
        log.warning("the report will be sent again", message=message, failures=state.attempt_number)

    async def _next_turn(self) -> None:
        """Return when the report changed and may be written; what turns up meanwhile may be more urgent."""
        await self.dirty.wait()
        first = last = time.monotonic()
        while True:
            self.dirty.clear()
            now = time.monotonic()
            more = any(one.expects_more() for one in self.reconcilers.values())
            last = now if more else last
            is_bad = self.profile_node is not None and report.is_bad_news(self.written, self.profile_node)
            left = self.turns.due(first, last, more=more, is_bad=is_bad) - now
            if left <= 0:
                self.turns.begins(first, last, now, more=more)
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self.dirty.wait()
                last = time.monotonic()

    async def _ask_for_report(self) -> None:
        """See now and then whether the API still has the report: nobody tells of one that was deleted."""
        while True:
            with contextlib.suppress(TimeoutError):
                seconds = ASK_SECONDS if self.reconcilers else ASK_UNSUPPORTED_SECONDS
                async with asyncio.timeout(seconds * random.uniform(0.8, 1.2)):  # noqa: S311
                    await self.listed.wait()
            self.listed.clear()
            await asyncio.sleep(random.uniform(0, self.turns.spacing))  # noqa: S311
            await self._count_nodes()
            try:
                asked = self.written
                if asked and not await self.cluster.holds(asked) and self.written is asked:
                    self.written = None
                    self.dirty.set()
            except ClusterFault as fault:
                log.warning("can't see the report", message=fault.message)

    async def _count_nodes(self) -> None:
        """Learn how many agents there are; while nobody says so it is as many as the last time."""
        try:
            self.turns.nodes = max(1, await self.cluster.agents())
        except ClusterFault as fault:
            if self.counted:  # who may not ask is told the same each time
                log.warning("reports are spaced for the number of nodes last known", message=fault.message)
            self.counted = False
        else:
            self.counted = True
        for one in self.reconcilers.values():
            one.news.longest = max(news.LONGEST, self.turns.spacing)
