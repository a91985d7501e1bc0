"""From the cluster's objects to what the commands show of them. Pure.

Called by `live`; `tables` writes the records as text. Texts are as the cluster has them: who writes them to a
terminal makes them plain first. They are models, like the API's objects, for JSON and YAML with such names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..crds.facts import supports
from ..crds.models import (
    Condition,
    Entry,
    Metadata,
    Model,
    NodeStatus,
    Orphan,
    Problem,
    ProfileNode,
    ProfileStatus,
    Remark,
    Repairs,
    RevisionSpec,
    Section,
    SecurityProfile,
)
from ..crds.names import SELINUX
from ..crds.reasons import Reason
from .states import NodeView, OnNode, Seen, on_nodes
from .waiting import current

# Of a node's SELinux: its mode and policy, for an agent that is not privileged.
UNSEEN = "unseen"


class ProfileRow(Model, frozen=True, omit_defaults=False):
    """A profile in one line."""

    name: str
    type: str
    mode: str
    ready: str
    status: str
    reference: str


class ProfileView(Model, frozen=True, omit_defaults=False):
    """A profile and what it is on each node.

    Attributes:
        summary: the line of the table.
        generation: of the object.
        observed: the generation that the conditions speak of.
        revision: what the nodes are to hold.
        profiles: names in the kernel.
        conditions: as the operator wrote them.
        reference: to paste into a securityContext.
        nodes: every node of the cluster; none where nothing was published for them.
    """

    summary: ProfileRow
    generation: int
    observed: int
    revision: str
    profiles: list[str]
    conditions: list[Condition]
    reference: dict[str, Any]
    nodes: list[OnNode]
    ready: bool


class NodeRow(Model, frozen=True, omit_defaults=False):
    """A node in one line.

    Attributes:
        node: its name.
        os: distribution and version.
        kernel: its release.
        app_armor: it can hold profiles of the type AppArmor.
        selinux: the mode of its SELinux: enforcing or permissive; `unseen` where it has SELinux, and only the
            agent of nodes that load modules could tell; empty without SELinux.
        seccomp: it can hold profiles of the type Seccomp.
        runtime: of containers.
        profiles: in force, of those wanted.
        problems: how many there are.
        note: why its report may not be what is so now.
    """

    node: str
    os: str
    kernel: str
    app_armor: bool
    selinux: str
    seccomp: bool
    runtime: str
    profiles: str
    problems: int
    note: str


class Held(Model, frozen=True, omit_defaults=False):
    """One profile that a node holds."""

    profile: str
    type: str
    revision: str
    mode: str
    digest: str


class NodeDetail(Model, frozen=True, omit_defaults=False):
    """A node, what it is and all that it holds and told."""

    summary: NodeRow
    arch: str
    lsms: list[str]
    host_parser: str
    features: list[str]
    selinux_policy: str
    mls: bool
    boot_id: str
    held: list[Held]
    problems: dict[str, Problem]
    repairs: dict[str, Repairs]
    orphans: dict[str, Orphan]
    remarks: list[Remark]

    @property
    def fine(self) -> bool:
        """Return whether nothing is wrong on the node, and its report counts."""
        return not (self.problems or self.summary.note)


def profile_row(profile: SecurityProfile) -> ProfileRow:
    """Return a profile's line; a status of an earlier generation is not passed off as one of this."""
    spec, status = profile.spec, profile.status
    observed = status.observed_generation == profile.metadata.generation
    return ProfileRow(
        name=profile.metadata.name,
        type=spec.type,
        mode=status.summary.mode or spec.mode,
        ready=status.summary.ready,
        status=status.summary.status if observed else Reason.PROGRESSING,
        reference=status.summary.reference,
    )


def profile_view(profile: SecurityProfile, wanted: RevisionSpec | None, seen: Seen) -> ProfileView:
    """Return all there is to say of a profile; `wanted`: its revision that the nodes are to hold."""
    status: ProfileStatus = profile.status
    ready = current(profile, "Ready")
    return ProfileView(
        summary=profile_row(profile),
        generation=profile.metadata.generation,
        observed=status.observed_generation,
        revision=wanted.content.digest if wanted else "",
        profiles=status.profiles,
        conditions=status.conditions,
        reference=status.reference,
        nodes=on_nodes(profile, wanted, seen) if wanted else [],
        ready=ready is not None and ready.status == "True",
    )


def node_rows(seen: Seen) -> list[NodeRow]:
    """Return a line for each node, also for those that never reported."""
    return [_node_row(name, seen) for name in sorted(seen.reports.keys() | (seen.nodes or {}).keys())]


def _node_row(name: str, seen: Seen) -> NodeRow:
    report = seen.reports.get(name)
    note = _note(seen.nodes, name, report)
    if report is None:
        return NodeRow(name, "", "", False, "", False, "", "", 0, note)
    facts = report.status.facts
    section = _together(report.status) if report.status.sections else None
    return NodeRow(
        node=name,
        os=f"{facts.os.id} {facts.os.version}".strip(),
        kernel=facts.kernel,
        app_armor=facts.app_armor.enabled,
        selinux=facts.selinux.mode or (UNSEEN if supports(facts, SELINUX) else ""),
        seccomp=facts.seccomp,
        runtime=f"{facts.runtime.name} {facts.runtime.version}".strip(),
        profiles=_in_force(section),
        problems=len(section.problems) if section else 0,
        note=note,
    )


def _in_force(section: Section | None) -> str:
    """Return `11/12`: profiles in force of those wanted."""
    if section is None:
        return ""
    return f"{len(section.profiles)}/{len(section.profiles.keys() | section.problems.keys())}"


def _note(nodes: Mapping[str, NodeView] | None, name: str, report: ProfileNode | None) -> str:
    """Return why a node's report may not be what is so now; empty where it is, or Nodes may not be read."""
    if nodes is None:
        return ""
    match nodes.get(name):
        case None:
            return "there is no Node of that name any more"
        case node if not node.has_kernel:
            return "no Linux node with a kernel of its own; Hauberk leaves it alone"
        case node if not node.ready:
            return "the node is not Ready" + ("; its last report stands here" if report else "")
        case node if report and not (node.boot_id and report.status.boot_id == node.boot_id):
            return "the node was restarted, and its agent has not reported since"
        case _:
            return "" if report else "no report yet; is its hauberk-agent pod running?"


def node_detail(name: str, seen: Seen) -> NodeDetail | None:
    """Return all that a node's agent told; None where there is no node of that name."""
    if name not in seen.reports and name not in (seen.nodes or {}):
        return None
    report = seen.reports.get(name) or ProfileNode(metadata=Metadata(name=name))
    facts, section = report.status.facts, _together(report.status)
    return NodeDetail(
        summary=_node_row(name, seen),
        arch=facts.arch,
        lsms=facts.lsms,
        host_parser=facts.app_armor.host_parser,
        features=facts.app_armor.features,
        selinux_policy=facts.selinux.policy,
        mls=facts.selinux.mls,
        boot_id=report.status.boot_id,
        held=sorted(
            (
                _held(profile, kind, entry)
                for kind, part in report.status.sections.items()
                for profile, entry in part.profiles.items()
            ),
            key=lambda one: one.profile,
        ),
        problems=section.problems,
        repairs=section.repairs,
        orphans=section.orphans,
        remarks=section.remarks,
    )


def _together(status: NodeStatus) -> Section:
    """Return what all backends of a node reported; no profile is of two types."""
    parts = status.sections.values()
    return Section(
        profiles={name: one for part in parts for name, one in part.profiles.items()},
        problems={name: one for part in parts for name, one in part.problems.items()},
        orphans={name: one for part in parts for name, one in part.orphans.items()},
        repairs={name: one for part in parts for name, one in part.repairs.items()},
        remarks=[one for part in parts for one in part.remarks],
    )


def _held(profile: str, profile_type: str, entry: str) -> Held:
    told = Entry.read(entry)
    return Held(profile, profile_type, told.revision, told.mode, told.digest)
