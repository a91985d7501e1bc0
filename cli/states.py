"""What one profile is on each node, as someone outside of the operator can tell. Pure.

Called by `views` and `differences`. It is the operator's own reading (operator/rollout.py) of the same
objects, for every node and not for the ten worst. Of the agents' pods, which only the operator reads, it
knows what the status tells.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ..crds.facts import facts_key, supports
from ..crds.models import Entry, Facts, Model, ProfileNode, RevisionSpec, SecurityProfile, decode
from ..crds.names import security_module
from ..crds.nodes import has_kernel
from ..crds.reasons import WAITING, Reason


class State(StrEnum):
    """What a profile is on a node."""

    READY = "ready"
    UPDATING = "updating"
    FAILED = "failed"
    AGENT_DOWN = "agent down"
    UNREACHABLE = "unreachable"
    UNSUPPORTED = "unsupported"
    UNLOADING = "unloading"
    NOT_SELECTED = "not selected"
    REPORTED = "reported"  # the last report says so; whether the node still runs may not be read
    UNKNOWN = "unknown"


class Taint(Model, frozen=True):
    """What keeps pods off a node that do not tolerate it."""

    key: str = ""
    value: str = ""
    effect: str = ""


@dataclass(frozen=True)
class NodeView:
    """The part of a Node that is looked at.

    Attributes:
        name: of the Node.
        labels: its labels.
        ready: whether its kubelet reports, and reports well.
        boot_id: of the running kernel, as the kubelet reports it.
        taints: what keeps pods off it.
    """

    name: str
    labels: Mapping[str, str]
    ready: bool
    boot_id: str
    taints: tuple[Taint, ...] = ()

    @property
    def has_kernel(self) -> bool:
        """Return whether it is a Linux node with a kernel that an agent can reach."""
        return has_kernel(self.labels)


@dataclass(frozen=True)
class Seen:
    """The nodes and what their agents told, by the node's name.

    Attributes:
        nodes: None where the user may not list Nodes.
        reports: the ProfileNodes.
    """

    nodes: Mapping[str, NodeView] | None
    reports: Mapping[str, ProfileNode]

    def kinds(self, profile_type: str) -> dict[str, Facts]:
        """Return the kinds of nodes that hold a type of profile, by `facts_key`: templates are for these."""
        facts = [
            one.status.facts for _, one in sorted(self.reports.items()) if profile_type in one.status.sections
        ]
        return {facts_key(one): one for one in facts}


class OnNode(Model, frozen=True, omit_defaults=False):
    """One profile on one node; `revision` and `mode` are what the kernel holds, empty for nothing."""

    node: str
    state: State
    revision: str = ""
    mode: str = ""
    reason: str = ""
    message: str = ""


def node_view(body: Mapping[str, Any]) -> NodeView:
    """Return a Node as it is looked at."""
    metadata, status = body["metadata"], body.get("status") or {}
    ready = any(one["type"] == "Ready" and one["status"] == "True" for one in status.get("conditions") or [])
    boot_id = (status.get("nodeInfo") or {}).get("bootID", "")
    taints = tuple(decode(Taint, one) for one in (body.get("spec") or {}).get("taints") or [])
    return NodeView(metadata["name"], metadata.get("labels") or {}, ready, boot_id, taints)


def held(profile: str, profile_type: str, report: ProfileNode | None) -> Entry:
    """Return what a report says of a profile."""
    return report.status.held(profile, profile_type) if report else Entry()


def on_nodes(profile: SecurityProfile, wanted: RevisionSpec, seen: Seen) -> list[OnNode]:
    """Return what a profile is on every node, by the node's name; `wanted`: its revision that counts."""
    if seen.nodes is None:
        return [_by_report(wanted, report) for _, report in sorted(seen.reports.items())]
    down = {one.node for one in profile.status.failures if one.reason == Reason.AGENT_DOWN}
    return [
        _on_node(wanted, node, seen.reports.get(name), down=name in down)
        for name, node in sorted(seen.nodes.items())
    ]


def _on_node(wanted: RevisionSpec, node: NodeView, report: ProfileNode | None, *, down: bool) -> OnNode:
    current = report if report and node.boot_id and report.status.boot_id == node.boot_id else None
    revision, mode, *_ = held(wanted.profile, wanted.type, current)

    def found(state: State, reason: str = "", message: str = "") -> OnNode:
        return OnNode(node.name, state, revision, mode, reason, message)

    selected = node.has_kernel and wanted.placement.node_selector.matches(node.labels)
    if not revision and (wanted.placement.withdrawn or not selected):
        return found(State.NOT_SELECTED, message="" if node.has_kernel else "no Linux kernel of its own")
    if current and not supports(current.status.facts, wanted.type):
        return found(State.UNSUPPORTED, message=f"its kernel runs without {security_module(wanted.type)}")
    if silent := _silent(node, report, current, down=down):
        return found(*silent)
    reason, message = _problem(wanted, current)
    if wanted.placement.withdrawn or not selected:
        return found(State.UNLOADING, reason, message)
    return found(_reported(wanted, current) if current else State.UPDATING, reason, message)


def _silent(
    node: NodeView, report: ProfileNode | None, current: ProfileNode | None, *, down: bool
) -> tuple[State, str, str] | None:
    """Return why a node's report does not count; None where it does."""
    if not node.ready:
        return State.UNREACHABLE, Reason.NODES_UNREACHABLE, "the node is not Ready"
    if down:
        return State.AGENT_DOWN, Reason.AGENT_DOWN, "its hauberk-agent pod is not Ready; see that pod's log"
    if current is None:
        why = "the node was restarted, and its agent has not reported since" if report else "no report yet"
        return State.UPDATING, "", why
    return None


def _reported(wanted: RevisionSpec, report: ProfileNode) -> State:
    """Return what a current report says of a profile that its node is to hold."""
    if wanted.is_held_as(held(wanted.profile, wanted.type, report)):
        return State.READY
    section = report.status.section(wanted.type)
    problem = section.problems.get(wanted.profile) if section else None
    failed = problem and problem.reason not in WAITING
    return (
        State.FAILED if problem and failed and problem.revision == wanted.content.digest else State.UPDATING
    )


def _by_report(wanted: RevisionSpec, report: ProfileNode) -> OnNode:
    """Return what the last report alone says, where Nodes may not be read."""
    name = report.metadata.name
    if not supports(report.status.facts, wanted.type):
        return OnNode(
            name, State.UNSUPPORTED, message=f"its kernel runs without {security_module(wanted.type)}"
        )
    revision, mode, *_ = held(wanted.profile, wanted.type, report)
    reason, message = _problem(wanted, report)
    state = _reported(wanted, report)
    everywhere = not (
        wanted.placement.node_selector.match_labels or wanted.placement.node_selector.match_expressions
    )
    if wanted.placement.withdrawn:
        state = State.UNLOADING if revision else State.NOT_SELECTED
    elif state is State.READY:
        state = State.REPORTED
    elif state is State.UPDATING and not everywhere:
        state = State.UNKNOWN  # whether it is selected its labels would tell
    return OnNode(name, state, revision, mode, reason, message)


def _problem(wanted: RevisionSpec, report: ProfileNode | None) -> tuple[str, str]:
    section = report.status.section(wanted.type) if report else None
    problem = section.problems.get(wanted.profile) if section else None
    return (problem.reason, problem.message) if problem else ("", "")
