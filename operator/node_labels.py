"""Decides which labels of Hauberk's a Node has: its security modules, and which of the two agents. Pure.

Called by `controller`. The labels of modules are for people's selectors, and for pods that `gating` keeps off
nodes: one that lacks a module says so, for of a node without a label nobody knows. That of the agent moves a
node from the one DaemonSet to the other: SELinux' agent is privileged, so it runs only where something needs
it.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..crds.facts import supports
from ..crds.models import Facts, ProfileNode
from ..crds.names import AGENT_OF_SELINUX, HAS, LABEL_AGENT, LABEL_LSM, LACKS, SECCOMP, SELINUX
from .snapshot import NodeView, Snapshot
from .writes import LabelNode

# What a node with SELinux can only hold by SELinux' agent: a confined one may not write the kubelet's folder.
_NEEDING = (SELINUX, SECCOMP)


def node_labels(snapshot: Snapshot) -> list[LabelNode]:
    """Return the labels that are to be changed; a node whose agent has not reported yet keeps its own."""
    asked = any(one.spec.type in _NEEDING for one in snapshot.profiles.values())
    asked |= any(one.spec.type in _NEEDING for one in snapshot.revisions.values())
    return sorted(_changes(snapshot, asked=asked), key=lambda one: one.node)


def _changes(snapshot: Snapshot, *, asked: bool) -> Iterator[LabelNode]:
    made: dict[tuple[int, bool], dict[str, str | None]] = {}  # nodes that are alike share their facts' object
    for name, node in snapshot.nodes.items():
        report = snapshot.reports.get(name)
        if report is None:
            continue
        facts, needed = report.status.facts, asked or _holds(report)
        wanted = made.get((id(facts), needed))
        if wanted is None:
            wanted = made[id(facts), needed] = _wanted(facts, needed=needed)
        there = node.labels
        differing = {key: value for key, value in wanted.items() if there.get(key) != value}
        if differing and facts.lsms and node.has_kernel and _is_current(report, node):
            yield LabelNode(name, differing)


def _is_current(report: ProfileNode, node: NodeView) -> bool:
    """Return whether a report is not of an earlier boot: of a kernel with other modules, perhaps."""
    return bool(node.boot_id) and node.boot_id == report.status.boot_id


def _wanted(facts: Facts, *, needed: bool) -> dict[str, str | None]:
    """Return the labels of a node; `needed`: where it has SELinux, the agent of that."""
    modules = {label: HAS if supports(facts, module) else LACKS for module, label in LABEL_LSM.items()}
    return modules | {LABEL_AGENT: AGENT_OF_SELINUX if needed and supports(facts, SELINUX) else None}


def _holds(report: ProfileNode) -> bool:
    """Return whether a node has something of the types that need SELinux' agent.

    What was released, by force, is no profile of a revision's: a problem tells of it until it is gone.
    """
    status = report.status
    return any(
        one is not None and (one.profiles or one.problems or one.orphans)
        for one in (status.selinux, status.seccomp)
    )
