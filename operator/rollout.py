"""What one profile is on each node: the facts behind every count and every wait. Pure.

Called by `aggregate` (counts, failures) and by `finalizers` (is a deletion done); kept up by `deltas`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec

from ..crds.facts import supports
from ..crds.models import Entry, Failure, ProfileNode, RevisionSpec, SecurityProfile
from ..crds.reasons import WAITING, NodeState, Reason
from .snapshot import AgentView, NodeView, Snapshot

# An agent that is upgraded, or an API server that restarts, must not make every profile flap.
AGENT_DOWN_AFTER = timedelta(seconds=90)


class OnNode(msgspec.Struct, frozen=True, gc=False):
    """One profile on one node; `holds` is the content digest that the kernel holds, empty for none.

    There is one for each profile and node, so the garbage collector does not look into them.
    """

    node: str
    state: NodeState
    failure: Failure | None = None
    holds: str = ""


@dataclass(frozen=True)
class Seen:
    """What is known of one node now: what a profile is there rests on that and on its revision alone.

    Attributes:
        node: the Node.
        report: its agent's latest, of whichever boot.
        agent_down: whether it is Ready, and its agent has been away for too long.
    """

    node: NodeView
    report: ProfileNode | None
    agent_down: bool

    @property
    def current(self) -> ProfileNode | None:
        """Return the report if it is of the kernel that runs now."""
        report, boot_id = self.report, self.node.boot_id
        return report if report and boot_id and report.status.boot_id == boot_id else None


@dataclass(frozen=True, eq=False)
class Rollout:
    """One profile on all nodes.

    Attributes:
        wanted: what they should hold; None before anything was published.
        states: what the profile is on every selected node that has a kernel, by the node's name.
        holding: of a profile that is being deleted: what `nodes_still_holding` returns.
        shared_kernels: the nodes that have theirs together, as `Snapshot.shared_kernels` has them.
    """

    wanted: RevisionSpec | None
    states: Sequence[OnNode]
    holding: Mapping[str, str]
    shared_kernels: tuple[tuple[str, ...], ...] = ()


def rollout(profile: SecurityProfile, snapshot: Snapshot) -> Rollout:
    """Return what a profile is on all nodes, from scratch: `deltas` comes to the same with less work."""
    revisions = snapshot.revisions_of(profile)
    wanted = revisions[0].spec if revisions else None
    leaving = profile.metadata.deletion_timestamp is not None
    return Rollout(
        wanted,
        on_nodes(wanted, snapshot) if wanted else [],
        nodes_still_holding(profile.metadata.name, profile.spec.type, snapshot) if leaving else {},
        snapshot.shared_kernels,
    )


def on_nodes(wanted: RevisionSpec, snapshot: Snapshot) -> list[OnNode]:
    """Return what a revision's profile is on every selected node that has a kernel, by the node's name."""
    found = (on_node(wanted, seen(node, snapshot)) for _, node in sorted(snapshot.nodes.items()))
    return [one for one in found if one is not None]


def seen(node: NodeView, snapshot: Snapshot) -> Seen:
    """Return what is known of a node."""
    return Seen(node, snapshot.reports.get(node.name), is_without_agent(node, snapshot))


def is_without_agent(node: NodeView, snapshot: Snapshot) -> bool:
    """Return whether a node is Ready, and its agent has been away for too long."""
    return node.ready and agent_down(node, snapshot.agents.get(node.name), snapshot.now)


def on_node(wanted: RevisionSpec, seen: Seen) -> OnNode | None:
    """Return what a revision's profile is on a node; None where it is not meant for it."""
    node, current = seen.node, seen.current
    if not node.has_kernel or not wanted.placement.node_selector.matches(node.labels):
        return None
    if current and not supports(current.status.facts, wanted.type):
        return OnNode(node.name, NodeState.UNSUPPORTED)
    found = held(wanted, current)
    if not node.ready:
        return OnNode(
            node.name,
            NodeState.UNREACHABLE,
            Failure(node=node.name, reason=Reason.NODES_UNREACHABLE, message="the node is not Ready"),
            found.revision,
        )
    if seen.agent_down:
        return OnNode(
            node.name,
            NodeState.AGENT_DOWN,
            Failure(
                node=node.name,
                reason=Reason.AGENT_DOWN,
                message="the node is Ready but its hauberk-agent pod is not; see that pod's log",
            ),
            found.revision,
        )
    return _reported(wanted, node, current, found)


def _reported(wanted: RevisionSpec, node: NodeView, report: ProfileNode | None, found: Entry) -> OnNode:
    section = report.status.section(wanted.type) if report else None
    if section is None:
        return OnNode(node.name, NodeState.UPDATING)  # nothing was read from this boot's kernel yet
    problem = section.problems.get(wanted.profile)
    failure = Failure(node=node.name, reason=problem.reason, message=problem.message) if problem else None
    if wanted.is_held_as(found):
        return OnNode(node.name, NodeState.READY, failure, found.revision)
    if problem and problem.reason in WAITING:
        return OnNode(node.name, NodeState.UPDATING, failure, found.revision)
    if problem and problem.revision == wanted.content.digest:
        return OnNode(node.name, NodeState.FAILED, failure, found.revision)
    return OnNode(node.name, NodeState.UPDATING, None, found.revision)


def held(wanted: RevisionSpec, report: ProfileNode | None) -> Entry:
    """Return what a report says of a revision's profile."""
    return report.status.held(wanted.profile, wanted.type) if report else Entry()


def agent_down(node: NodeView, agent: AgentView | None, now: datetime) -> bool:
    """Return whether a Ready node's agent has been away for too long to trust its last report."""
    if agent is None or agent.ready:
        return agent is None
    # A node that was away just now may take its time to bring the agent back.
    return now - max(agent.since, node.ready_since) > AGENT_DOWN_AFTER


def nodes_still_holding(profile: str, profile_type: str, snapshot: Snapshot) -> Mapping[str, str]:
    """Return the nodes whose kernel holds any revision of a profile, each with the reason.

    Without those that nobody can reach now: a tombstone will tell them when they are back. What had its name
    before, with another type, is no matter of its.
    """
    found = {
        name: still_holding(profile, profile_type, seen(node, snapshot))
        for name, node in sorted(snapshot.nodes.items())
    }
    return {name: why for name, why in found.items() if why is not None}


def still_holding(profile: str, profile_type: str, seen: Seen) -> str | None:
    """Return why a node's kernel holds any revision of a profile, empty where that is not known.

    None where it holds none, or nobody can reach it now.
    """
    reachable = seen.node.ready and not seen.agent_down
    section = seen.report.status.section(profile_type) if seen.report and reachable else None
    if section is None or profile not in section.profiles:
        return None
    problem = section.problems.get(profile)
    return problem.message if problem else ""
