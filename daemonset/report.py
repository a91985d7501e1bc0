"""Turns what the agent holds and what it met into the node's ProfileNode. Pure.

Called by `reconciler` (a section) and by `agent` (the whole); `cluster` writes the result, and only when it
differs from the last one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..crds.models import (
    Entry,
    Facts,
    Metadata,
    NodeStatus,
    Orphan,
    OwnerReference,
    Problem,
    ProfileNode,
    ProfileRevision,
    Remark,
    Repairs,
    Section,
)
from ..crds.names import APPARMOR, OF_OTHER_KIND, SECCOMP, SELINUX
from ..crds.reasons import Reason
from ..profiles.parser import plain
from .drift import Drift
from .holdings import Holding
from .host import Loaded
from .plan import mismatch

DIGEST_LENGTH = 10
# The CRD takes no more: past it the worst is known anyway, and the object stays small.
PROBLEMS = 512
REMARKS = 16


@dataclass(frozen=True)
class Told:
    """What there is to say beside what the kernel holds.

    Attributes:
        problems: by profile.
        orphans: profiles that are held and that no revision speaks of.
        of_other_kind: profiles that are held with a text for other kinds of nodes.
        drifts: what others did, by profile.
        remarks: on the node itself.
        sequences: of the placements of the revisions that are held, by profile.
    """

    problems: Mapping[str, Problem] = field(default_factory=dict[str, Problem])
    orphans: frozenset[str] = frozenset()
    of_other_kind: frozenset[str] = frozenset()
    drifts: Mapping[str, Drift] = field(default_factory=dict[str, Drift])
    remarks: Sequence[Remark] = ()
    sequences: Mapping[str, int] = field(default_factory=dict[str, int])


def section(
    holdings: Mapping[str, Holding], kernel: Mapping[str, Loaded], told: Told, boot_id: str
) -> Section:
    """Return a backend's section: only what was just read back counts as loaded."""
    profiles: dict[str, str] = {}
    problems = {
        name: Problem(revision=problem.revision, reason=problem.reason, message=plain(problem.message))
        for name, problem in told.problems.items()
    }
    for name, holding in sorted(holdings.items()):
        if holding.released:
            continue  # what is loaded is no revision of it
        if wrong := mismatch(holding, kernel, boot_id):
            problems.setdefault(
                name, Problem(revision=holding.revision, reason=Reason.NOT_IN_KERNEL, message=plain(wrong))
            )
            continue
        first = kernel[holding.names[0]]
        digest = (first.digest or "-")[:DIGEST_LENGTH]
        mark = OF_OTHER_KIND if name in told.of_other_kind else ""
        entry = f"{holding.revision}{mark}/{first.mode}/{digest}"
        seen = told.sequences.get(name)
        profiles[name] = entry if seen is None else f"{entry}/{seen}"
    return Section(
        profiles=profiles,
        problems=dict(sorted(problems.items())[:PROBLEMS]),
        orphans={
            name: Orphan(uid=holdings[name].uid, installation=holdings[name].installation)
            for name in sorted(told.orphans)[:PROBLEMS]
        },
        repairs={
            name: Repairs(count=drift.count, message=plain(drift.message))
            for name, drift in sorted(told.drifts.items())[:PROBLEMS]
        },
        remarks=[
            Remark(reason=remark.reason, message=plain(remark.message)) for remark in told.remarks[:REMARKS]
        ],
    )


def sequences(holdings: Mapping[str, Holding], revisions: Iterable[ProfileRevision]) -> dict[str, int]:
    """Return of what is held the sequence with which its revision is wanted, by profile."""
    wanted = {
        (one.spec.profile, one.spec.content.digest, one.spec.profile_uid): one.spec.placement.sequence
        for one in revisions
    }
    keys = {name: (name, one.revision, one.uid) for name, one in holdings.items()}
    return {name: wanted[key] for name, key in keys.items() if key in wanted}


def summary(sections: Mapping[str, Section | None]) -> str:
    """Return the column of `kubectl get profilenodes`: `12/12`, or `11/12, 1 failed`."""
    there = [one for one in sections.values() if one is not None]
    if not there:
        return "unsupported"
    held = sum(len(one.profiles) for one in there)
    wanted = sum(len(one.profiles.keys() | one.problems.keys()) for one in there)
    told = [f"{held}/{wanted}"]
    if failed := sum(len(one.problems) for one in there):
        told.append(f"{failed} failed")
    if orphaned := sum(len(one.orphans) for one in there):
        told.append(f"{orphaned} orphaned")
    if remarks := sum(len(one.remarks) for one in there):
        told.append(f"{remarks} remark{'' if remarks == 1 else 's'}")
    return ", ".join(told)


def is_bad_news(before: ProfileNode | None, after: ProfileNode) -> bool:
    """Return whether a report says something that someone may count on not being so.

    That is a problem that is new or another, a profile that is no longer held or in another mode, and a node
    that is another than before. What is only better than before may wait for a moment.
    """
    if before is None:
        return True
    old, new = before.status, after.status
    if (old.boot_id, old.facts) != (new.boot_id, new.facts):
        return True
    kinds = old.sections.keys() | new.sections.keys()
    nothing = Section()
    return any(_is_worse(old.section(kind) or nothing, new.section(kind) or nothing) for kind in kinds)


def _is_worse(before: Section, after: Section) -> bool:
    if any(before.problems.get(name) != problem for name, problem in after.problems.items()):
        return True
    differing = ((after.profiles.get(name), entry) for name, entry in before.profiles.items())
    return any(
        new is None or Entry.read(new).mode != Entry.read(old).mode for new, old in differing if new != old
    )


def profile_node(
    node: str, node_uid: str, boot_id: str, facts: Facts, sections: Mapping[str, Section | None]
) -> ProfileNode:
    """Return the whole object, owned by the Node so that Kubernetes collects it with the node."""
    owner = OwnerReference(api_version="v1", kind="Node", name=node, uid=node_uid)
    return ProfileNode(
        metadata=Metadata(name=node, owner_references=[owner]),
        status=NodeStatus(
            boot_id=boot_id,
            facts=facts,
            summary=summary(sections),
            app_armor=sections.get(APPARMOR),
            selinux=sections.get(SELINUX),
            seccomp=sections.get(SECCOMP),
        ),
    )
