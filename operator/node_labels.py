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
    return list(_changes(snapshot, asked=asked))


def _changes(snapshot: Snapshot, *, asked: bool) -> Iterator[LabelNode]:
    modules: dict[int, dict[str, str | None]] = {}  # nodes that are alike share their facts' object
    for name, node in sorted(snapshot.nodes.items()):
        report = snapshot.reports.get(name)
        if report is None or not node.has_kernel or not report.status.facts.lsms:
            continue
        facts = report.status.facts
        of_modules = modules.get(id(facts)) or modules.setdefault(id(facts), _of_modules(facts))
        wanted = of_modules | {LABEL_AGENT: _agent(report, asked=asked)}
        differing = {key: value for key, value in wanted.items() if node.labels.get(key) != value}
        if differing and _is_current(report, node):
            yield LabelNode(name, differing)


def _is_current(report: ProfileNode, node: NodeView) -> bool:
    """Return whether a report is not of an earlier boot: of a kernel with other modules, perhaps."""
    return bool(node.boot_id) and node.boot_id == report.status.boot_id


def _of_modules(facts: Facts) -> dict[str, str | None]:
    return {label: HAS if supports(facts, module) else LACKS for module, label in LABEL_LSM.items()}


def _agent(report: ProfileNode, *, asked: bool) -> str | None:
    if not supports(report.status.facts, SELINUX):
        return None
    # What was released, by force, is no profile of a revision's: a problem tells of it until it is gone.
    sections = report.status.sections
    held = any(
        one.profiles or one.problems or one.orphans for kind, one in sections.items() if kind in _NEEDING
    )
    return AGENT_OF_SELINUX if asked or held else None
