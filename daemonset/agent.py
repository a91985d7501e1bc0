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
from ..crds.models import Facts, ProfileNode, ProfileRevision
from . import facts, report
from .backend import Backend
from .cluster import Cluster, NodeObject
from .host import Host
from .reconciler import FIRST_SECONDS, Reconciler

log = structlog.get_logger()

WRITE_RETRY_SECONDS = (0.5, 20.0)
WRITE_SPACING_SECONDS = 1.0
# Nobody tells an agent that someone deleted its report: it asks this often, and after each new list.
ASK_SECONDS = 300.0
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
    reconcilers: dict[str, Reconciler] = field(init=False)
    started_at: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        """Make a loop for each backend."""
        self.reconcilers = {one.type: Reconciler(self.host, one, self._report) for one in self.backends}

    @property
    def alive_at(self) -> float:
        """Return when the loop that has been busy for longest was last seen alive (monotonic seconds)."""
        return min((one.alive_at for one in self.reconcilers.values()), default=time.monotonic())

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
                tasks.create_task(self.cluster.follow_revisions(self._revisions_seen, self.listed.set))
                tasks.create_task(self._report_in_time())
            for one in self.reconcilers.values():
                tasks.create_task(one.run())

    def _node_seen(self, nodes: Mapping[str, NodeObject]) -> None:
        self.node_object = nodes.get(self.node)
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

    def _revisions_seen(self, revisions: Mapping[str, ProfileRevision]) -> None:
        for one in self.reconcilers.values():
            one.revisions_seen(revisions)

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
                seconds = ASK_SECONDS if self.reconcilers else ASK_UNSUPPORTED_SECONDS
                async with asyncio.timeout(seconds * random.uniform(0.8, 1.2)):  # noqa: S311
                    await self.listed.wait()
            self.listed.clear()
            await asyncio.sleep(random.uniform(0, WRITE_SPACING_SECONDS))  # noqa: S311
            try:
                if self.reported and self.profile_node and not await self.cluster.holds(self.profile_node):
                    self.dirty.set()
            except ClusterFault as fault:
                log.warning("can't see the report", message=fault.message)


def _tell_retry(state: tenacity.RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    message = error.message if isinstance(error, ClusterFault) else ""
    log.warning("the report will be sent again", message=message, failures=state.attempt_number)
