"""What one profile is on each node: the facts behind every count and every wait. Pure.

Called by `aggregate` (counts, failures) and by `desired` (may a superseded revision go, is a deletion done).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from ..crds.facts import supports
from ..crds.models import Failure, ProfileNode, RevisionSpec
from ..crds.reasons import WAITING, NodeState, Reason
from .snapshot import AgentView, NodeView, Snapshot

# An agent that is upgraded, or an API server that restarts, must not make every profile flap.
AGENT_DOWN_AFTER = timedelta(seconds=90)


@dataclass(frozen=True)
class OnNode:
    """One profile on one node; `holds` is the content digest that the kernel holds, empty for none."""

    node: str
    state: NodeState
    failure: Failure | None = None
    holds: str = ""


def on_nodes(wanted: RevisionSpec, snapshot: Snapshot) -> list[OnNode]:
    """Return what a revision's profile is on every selected node that has a kernel, by the node's name."""
    selector = wanted.placement.node_selector
    return [
        _on_node(wanted, node, snapshot)
        for _, node in sorted(snapshot.nodes.items())
        if node.has_kernel and selector.matches(dict(node.labels))
    ]


def _on_node(wanted: RevisionSpec, node: NodeView, snapshot: Snapshot) -> OnNode:
    report = snapshot.reports.get(node.name)
    current = report if report and node.boot_id and report.status.boot_id == node.boot_id else None
    if current and not supports(current.status.facts, wanted.type):
        return OnNode(node.name, NodeState.UNSUPPORTED)
    holds = held(wanted, current)
    if not node.ready:
        return OnNode(
            node.name,
            NodeState.UNREACHABLE,
            Failure(node=node.name, reason=Reason.NODES_UNREACHABLE, message="the node is not Ready"),
            holds[0],
        )
    if agent_down(node, snapshot.agents.get(node.name), snapshot.now):
        return OnNode(
            node.name,
            NodeState.AGENT_DOWN,
            Failure(
                node=node.name,
                reason=Reason.AGENT_DOWN,
                message="the node is Ready but its hauberk-agent pod is not; see that pod's log",
            ),
            holds[0],
        )
    return _reported(wanted, node, current)


def _reported(wanted: RevisionSpec, node: NodeView, report: ProfileNode | None) -> OnNode:
    profile, content = wanted.profile, wanted.content
    section = report.status.section(wanted.type) if report else None
    if section is None:
        return OnNode(node.name, NodeState.UPDATING)  # nothing was read from this boot's kernel yet
    revision, mode = held(wanted, report)
    problem = section.problems.get(profile)
    failure = Failure(node=node.name, reason=problem.reason, message=problem.message) if problem else None
    if content.is_held_as(revision, mode):
        return OnNode(node.name, NodeState.READY, failure, revision)
    if problem and problem.reason in WAITING:
        return OnNode(node.name, NodeState.UPDATING, failure, revision)
    if problem and problem.revision == content.digest:
        return OnNode(node.name, NodeState.FAILED, failure, revision)
    return OnNode(node.name, NodeState.UPDATING, None, revision)


def held(wanted: RevisionSpec, report: ProfileNode | None) -> tuple[str, str]:
    """Return the content digest and the kernel's mode of a profile in a report; empty where it has none."""
    return report.status.held(wanted.profile, wanted.type) if report else ("", "")


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
    holding: dict[str, str] = {}
    for name, node in sorted(snapshot.nodes.items()):
        report = snapshot.reports.get(name)
        reachable = node.ready and not agent_down(node, snapshot.agents.get(name), snapshot.now)
        section = report.status.section(profile_type) if report and reachable else None
        if section and profile in section.profiles:
            problem = section.problems.get(profile)
            holding[name] = problem.message if problem else ""
    return holding
