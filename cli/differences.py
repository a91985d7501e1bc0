"""What applying a profile would change: its spec, the text that nodes load, and which nodes those are. Pure.

Called by `live` with what the cluster has and what `profiles.check` says of the file.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from ..crds.errors import InputFault
from ..crds.facts import facts_key, supports
from ..crds.models import (
    Facts,
    Model,
    NodeSelector,
    ProfileSpec,
    RevisionSpec,
    SecurityProfile,
    Text,
    encode,
)
from ..crds.names import ANY_FACTS
from ..crds.reasons import Reason
from ..profiles.check import Accepted, clashing, described
from ..profiles.parser import fault_message
from .sources import Source
from .states import NodeView, Seen, held


class Field(Model, frozen=True, omit_defaults=False):
    """One field of the spec, beside the policy; None where it is not set."""

    path: str
    before: Any
    after: Any


class TextChange(Model, frozen=True, omit_defaults=False):
    """What becomes of a text, as lines of a unified diff; `of`: what the text is for, in words."""

    of: str
    lines: tuple[str, ...]


class Effects(Model, frozen=True, omit_defaults=False):
    """Nodes by what they would do; `away` are those of them that are not Ready now.

    `unknown`: whether they are selected can't be told without their labels.
    """

    load: tuple[str, ...] = ()
    unload: tuple[str, ...] = ()
    stay: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    away: tuple[str, ...] = ()


class Difference(Model, frozen=True, omit_defaults=False):
    """What applying one profile would change.

    Attributes:
        name: of the profile.
        file: that it stands in.
        change: new, changed or unchanged.
        reason: why the policy would be refused, in one word; empty where it would not.
        message: the same as a sentence.
        fields: of the spec that change.
        texts: that change.
        notes: sentences on what there is to know besides.
        nodes: what they would do.
    """

    name: str
    file: str
    change: str
    reason: str = ""
    message: str = ""
    fields: tuple[Field, ...] = ()
    texts: tuple[TextChange, ...] = ()
    notes: tuple[str, ...] = ()
    nodes: Effects = Effects()


class Current(Model, frozen=True):
    """What the cluster has of a profile: its object, and the revision that its nodes are to hold."""

    profile: SecurityProfile | None = None
    wanted: RevisionSpec | None = None


Judged = Accepted | InputFault


def same(source: Source, current: Current) -> bool:
    """Return whether applying the file would change nothing."""
    return current.profile is not None and current.profile.spec == source.spec


def difference(source: Source, current: Current, judged: Judged, seen: Seen) -> Difference:
    """Return what applying a profile would change; `judged`: what the check says of its policy."""
    before = current.profile.spec if current.profile else None
    refused = isinstance(judged, InputFault)
    texts, notes = _texts(source, current, judged, seen.kinds(source.spec.type))
    if before and before.type != source.spec.type:
        notes = ["spec.type can't change: delete this SecurityProfile and create another", *notes]
    if refused:
        notes = [*notes, "it would be refused, and the nodes keep what they hold"]
    return Difference(
        name=source.name,
        file=source.file,
        change="changed" if before else "new",
        reason=judged.reason if isinstance(judged, InputFault) else "",
        message=fault_message(judged) if isinstance(judged, InputFault) else "",
        fields=tuple(_fields(before or ProfileSpec(type=source.spec.type), source.spec, new=before is None)),
        texts=tuple(texts),
        notes=tuple(notes),
        nodes=Effects() if isinstance(judged, InputFault) else effects(source, current, judged, seen),
    )


def clash(source: Source, accepted: Accepted, others: Mapping[str, SecurityProfile]) -> InputFault | None:
    """Return the fault where another profile of its type holds a kernel name that this one defines."""
    rivals = [
        one
        for one in others.values()
        if one.metadata.name != source.name and one.spec.type == source.spec.type
    ]
    for name in accepted.names:
        for other in rivals:
            if name in other.status.profiles:
                return InputFault(Reason.NAME_CLASH, clashing(other.metadata.name, name, source.spec.type))
    return None


def content(spec: ProfileSpec) -> str:
    """Return the digest that names what the spec asks for, as the operator will name its revision."""
    return spec.content_digest


def _fields(before: ProfileSpec, after: ProfileSpec, *, new: bool) -> list[Field]:
    old, now = _flat(before), _flat(after)
    paths = dict.fromkeys([*old, *now])
    changed = [path for path in paths if old.get(path) != now.get(path)]
    # of a new profile what stands in the file is told; it changes nothing that was there
    return [Field(path, None if new else old.get(path), now.get(path)) for path in changed]


def _flat(spec: ProfileSpec) -> dict[str, Any]:
    """Return the spec's fields beside the policy, by their paths."""
    block, module = spec.app_armor, spec.selinux
    found: dict[str, Any] = {
        "spec.type": spec.type,
        "spec.appArmor.mode": block.mode if block else "Enforce",
        "spec.selinux.mode": module.mode if module else "Enforce",
        "spec.selinux.requires": module.requires if module else [],
        "spec.selinux.allowHostTypes": module is not None and module.allow_host_types,
        "spec.appArmor.allowAttachment": block is not None and block.allow_attachment,
        "spec.nodeSelector": encode(spec.node_selector),
        "spec.suspend": spec.suspend,
        "spec.adopt": spec.adopt,
    }
    if spec.template is not None:
        found["spec.template"] = {}
        found |= {f"spec.template.values.{key}": one for key, one in spec.template.values.items()}
    return found


def _texts(
    source: Source, current: Current, judged: Judged, kinds: Mapping[str, Facts]
) -> tuple[list[TextChange], list[str]]:
    """Return the diffs of the texts, and what there is to say of kinds of nodes that have none."""
    before = current.profile.spec if current.profile else None
    plain = source.spec.template is None and (before is None or before.template is None)
    written = _change("the policy", before.policy if before else "", source.spec.policy)
    if plain or isinstance(judged, InputFault) or not kinds:
        return written, []
    notes = [
        f"{described(kinds[key])}: {one.reason}: {one.message}"
        for one in judged.unrendered
        for key in one.facts
        if key in kinds
    ]
    published = _by_kind(current.wanted.content.texts if current.wanted else (), kinds)
    rendered = _by_kind(judged.texts, kinds)
    groups: dict[tuple[str, str], list[str]] = {}
    for key, text in rendered.items():
        groups.setdefault((published.get(key, ""), text), []).append(described(kinds[key]))
    changes: list[TextChange] = []
    for (old, new), of in groups.items():
        changes += _change(", ".join(sorted(set(of))), old, new)
    if written and not changes:
        written[0] = TextChange("the template, which renders to the same for every node", written[0].lines)
        return written, notes
    return changes, notes


def _by_kind(texts: Sequence[Text], kinds: Mapping[str, Facts]) -> dict[str, str]:
    by = {key: one.text for one in texts for key in one.facts}
    found = {key: by.get(key, by.get(ANY_FACTS)) for key in kinds}
    return {key: text for key, text in found.items() if text is not None}


def _change(of: str, old: str, new: str) -> list[TextChange]:
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), "in the cluster", "applied", lineterm="")
    found = tuple(lines)
    return [TextChange(of, found)] if found else []


def effects(source: Source, current: Current, accepted: Accepted, seen: Seen) -> Effects:
    """Return what each node would do once the file is applied."""
    wanted, spec = current.wanted, source.spec
    # Content is frozen while a profile is suspended; where it goes is not.
    goal = content(spec) if not spec.suspend else wanted.content.digest if wanted else ""
    unrendered = {key for one in accepted.unrendered for key in one.facts}
    without = {
        name
        for name, report in seen.reports.items()
        if facts_key(report.status.facts) in unrendered and goal == content(spec)
    }
    by: dict[str, list[str]] = {"load": [], "unload": [], "stay": [], "unknown": []}
    names = sorted(seen.nodes if seen.nodes is not None else seen.reports)
    for name in names:
        report = seen.reports.get(name)
        revision = held(source.name, spec.type, report).revision
        selected = _selected(name, spec.node_selector, current, seen, revision)
        supported = report is None or supports(report.status.facts, spec.type)
        if selected is None:
            by["unknown"].append(name)
        elif selected and supported and goal:
            kept = revision == goal or name in without
            if not kept or revision:
                by["stay" if kept else "load"].append(name)
        elif revision and not selected:
            by["unload"].append(name)
        elif revision:
            by["stay"].append(name)
    away = [name for name in names if seen.nodes is not None and not seen.nodes[name].ready]
    touched = {name for several in by.values() for name in several}
    told = {word: tuple(several) for word, several in by.items()}
    return Effects(**told, away=tuple(name for name in away if name in touched))


def _selected(name: str, selector: NodeSelector, current: Current, seen: Seen, revision: str) -> bool | None:
    """Return whether a node is selected; None where only its labels would tell, and they can't be read."""
    if seen.nodes is not None:
        node: NodeView = seen.nodes[name]
        return node.has_kernel and selector.matches(node.labels)
    if selector == NodeSelector():
        return True
    if current.wanted and current.wanted.placement.node_selector == selector and revision:
        return True  # it was selected by the same labels
    return None
