"""The records of `views` and `differences` as text: tables without lines, as kubectl's, and sentences. Pure.

Called by `live`, which prints the result on a console: in colour on a terminal, in 80 columns where there is
none. What comes from the cluster goes through `words` or `exactly`: it may hold what would steer a terminal.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ..crds.models import Condition
from ..crds.reasons import Reason
from ..profiles.parser import plain
from .causes import Cause
from .differences import Difference, Effects, Field, TextChange
from .states import OnNode, State
from .views import UNSEEN, NodeDetail, NodeRow, ProfileRow, ProfileView
from .waiting import Standing
from .why import Confinement, Why

# Names in a sentence; JSON has them all.
NAMES = 20
_GOOD, _BAD, _BETWEEN, _DIM = "green", "red", "yellow", "dim"
_STYLES = {
    State.READY: _GOOD,
    State.REPORTED: _GOOD,
    State.FAILED: _BAD,
    State.AGENT_DOWN: _BAD,
    State.UPDATING: _BETWEEN,
    State.UNLOADING: _BETWEEN,
    State.UNREACHABLE: _BETWEEN,
}
_FILL = re.compile(r" +$", re.MULTILINE)
_DIFF_STYLES = {"+": _GOOD, "-": _BAD, "@": "cyan"}
_SAID = {"True": "yes", "False": "no"}


def words(text: str, style: str = "") -> Text:
    """Return a text of the cluster for a terminal: one line, and nothing that steers it."""
    return Text(plain(text), style)


def exactly(line: str, style: str = "") -> Text:
    """Return a line of a policy in full, as wide as it is; what can't be shown is a question mark."""
    shown = "".join(one if one.isprintable() else "?" for one in line.expandtabs())
    return Text(shown, style, no_wrap=True, overflow="ignore")


def written(console: Console, parts: Iterable[RenderableType]) -> str:
    """Return parts as a console would print them, without the blanks that fill their lines.

    What is `exactly` something stays as it is, however wide.
    """
    found: list[str] = []
    for one in parts:
        exact = isinstance(one, Text) and one.no_wrap is True
        with console.capture() as captured:
            console.print(one, soft_wrap=exact)
        found.append(captured.get() if exact else _FILL.sub("", captured.get()))
    return "".join(found)


def profiles(rows: Sequence[ProfileRow]) -> RenderableType:
    """Return the table of profiles."""
    table = _table("NAME", "TYPE", "MODE", "READY", "STATUS", "REFERENCE", folded=("NAME", "REFERENCE"))
    for one in rows:
        table.add_row(
            *map(_cell, (one.name, one.type, one.mode, one.ready)), _status(one), _cell(one.reference)
        )
    return table


def _status(one: ProfileRow) -> Text:
    good, between = one.status == Reason.READY, one.status in (Reason.UPDATING, Reason.PROGRESSING)
    return _cell(one.status, _GOOD if good else _BETWEEN if between else _BAD)


def profile(one: ProfileView) -> list[RenderableType]:
    """Return all of a profile: what it is, its conditions, what to paste, and its nodes."""
    summary = one.summary
    head = Table.grid(padding=(0, 2))
    head.add_row("Name:", words(summary.name, "bold"))
    head.add_row("Type:", words(", ".join(filter(None, (summary.type, summary.mode)))))
    head.add_row("Ready:", words(f"{summary.ready or '0/0'} nodes"))
    head.add_row("Revision:", words(one.revision or "nothing was published"))
    if one.profiles:
        head.add_row("Defines:", words(", ".join(one.profiles)))
    parts: list[RenderableType] = [head]
    if one.observed != one.generation:
        of = f"what follows is of {one.observed}" if one.observed else "is hauberk-operator running?"
        late = f"The operator has not looked at generation {one.generation} yet; {of}"
        parts += ["", words(late, _BETWEEN)]
    if one.conditions:
        parts += ["", _conditions(one.conditions)]
    if one.reference:
        pasted = yaml.safe_dump({"securityContext": _type_first(one.reference)}, sort_keys=False)
        parts += ["", "Use it in a pod or a container:"]
        parts += [exactly(f"  {line}") for line in pasted.splitlines()]
    if one.nodes:
        parts += ["", _nodes_of(one.nodes), *why(one.nodes)]
    return parts


def _type_first(reference: Mapping[str, Any]) -> dict[str, Any]:
    """Return a reference in the order in which people write it; the API sorts by letter."""
    return {key: {"type": block.get("type"), **block} for key, block in reference.items()}


def _conditions(conditions: Iterable[Condition]) -> Table:
    table = _table("CONDITION", "", "REASON", "MESSAGE", folded=("MESSAGE",))
    told: set[str] = set()
    for one in conditions:
        wrong = one.status == ("True" if one.type == "Stalled" else "False") and one.type != "Reconciling"
        said = _cell(_SAID.get(one.status, "unknown"), _BAD if wrong else "")
        message = words("as above" if one.message in told else one.message)
        table.add_row(_cell(one.type), said, _cell(one.reason), message)
        told.add(one.message)
    return table


def _nodes_of(nodes: Iterable[OnNode]) -> Table:
    table = _table("NODE", "STATE", "REVISION", "MODE", "REASON", folded=("NODE",))
    for one in nodes:
        state = _cell(one.state, _STYLES.get(one.state, _DIM))
        table.add_row(_cell(one.node), state, *map(_cell, (one.revision, one.mode, one.reason)))
    return table


def why(nodes: Iterable[OnNode]) -> list[RenderableType]:
    """Return what nodes say of a profile, a sentence once for all that say it."""
    return _sentences((one.node, one.message) for one in nodes if one.message)


def _sentences(said: Iterable[tuple[str, str]]) -> list[RenderableType]:
    by: dict[str, list[str]] = {}
    for name, sentence in said:
        by.setdefault(sentence, []).append(name)
    found = [Padding(words(f"{_names(names)}: {sentence}"), (0, 0, 0, 2)) for sentence, names in by.items()]
    return ["", *found] if found else []


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMES} more" if len(names) > NAMES else ""
    return ", ".join(names[:NAMES]) + more


def standing(one: Standing, goal: str) -> Text:
    """Return how far a profile is, as one sentence: a line of a log."""
    if one.reached:
        return exactly(f"{one.name}: {'deleted' if goal == 'delete' else goal}", _GOOD)
    kept = "refused" if one.refused else "not deleted" if goal == "delete" else f"not {goal}"
    return exactly(
        plain(f"{one.name}: {kept}: {one.reason}: {one.message}"), _BAD if one.refused else _BETWEEN
    )


def nodes(rows: Sequence[NodeRow]) -> RenderableType:
    """Return the table of nodes."""
    table = _table(
        "NODE",
        "OS",
        "KERNEL",
        "TYPES",
        "RUNTIME",
        "PROFILES",
        "PROBLEMS",
        folded=("NODE", "OS", "TYPES", "RUNTIME"),
    )
    for one in rows:
        # the release up to its flavour: in full it stands with the node's name, and in JSON
        facts = map(_cell, (one.os, one.kernel.partition("-")[0], _types(one), one.runtime, one.profiles))
        table.add_row(_cell(one.node), *facts, _cell(str(one.problems), _BAD if one.problems else ""))
    return Group(table, *_sentences((one.node, one.note) for one in rows if one.note))


def _types(one: NodeRow) -> str:
    """Return the types of profiles that a node can hold; SELinux with its mode where that is known."""
    mode = one.selinux.replace(UNSEEN, "")
    named = (
        "AppArmor" if one.app_armor else "",
        f"SELinux {mode}".strip() if one.selinux else "",
        "Seccomp" if one.seccomp else "",
    )
    return ", ".join(filter(None, named))


def node(one: NodeDetail) -> RenderableType:
    """Return all of a node: what it is, what it holds, and what it told."""
    summary = one.summary
    head = Table.grid(padding=(0, 2))
    rows = {
        "Name:": summary.node,
        "System:": summary.os,
        "Kernel:": " ".join(filter(None, (summary.kernel, one.arch))),
        "Runtime:": summary.runtime,
        "Modules:": ", ".join(one.lsms),
        # of a node without a report nothing is known
        "AppArmor:": one.boot_id and _app_armor(one),
        "SELinux:": one.boot_id and _selinux(one),
        "Seccomp:": one.boot_id and ("yes" if summary.seccomp else "no"),
        "Boot:": one.boot_id,
    }
    for name, said in rows.items():
        head.add_row(name, words(said or "-"))
    parts: list[RenderableType] = [head, *_sentences([(summary.node, summary.note)] if summary.note else [])]
    if one.held:
        table = _table("PROFILE", "TYPE", "REVISION", "MODE", "DIGEST", folded=("PROFILE",))
        for held in one.held:
            table.add_row(*map(_cell, (held.profile, held.type, held.revision, held.mode, held.digest)))
        parts += ["", table]
    problems = ((name, f"{problem.reason}: {problem.message}") for name, problem in one.problems.items())
    repairs = ((name, f"{found.count} times: {found.message}") for name, found in one.repairs.items())
    orphans = (
        (name, f"of a SecurityProfile with the UID {found.uid}") for name, found in one.orphans.items()
    )
    remarks = ((found.reason, found.message) for found in one.remarks)
    for title, said in (
        ("Problems", problems),
        ("Repairs", repairs),
        ("Orphans, loaded without a SecurityProfile", orphans),
        ("Remarks", remarks),
    ):
        if told := _sentences(said):
            parts += ["", f"{title}:", *told[1:]]
    return Group(*parts)


def _app_armor(one: NodeDetail) -> str:
    if not one.summary.app_armor:
        return "no"
    own = f"; the node's own parser knows ABI {one.host_parser}" if one.host_parser else ""
    return f"yes, {len(one.features)} features{own}"


def _selinux(one: NodeDetail) -> str:
    mode = one.summary.selinux
    if mode == UNSEEN:
        return "yes; its mode and policy are seen once a SELinux or Seccomp profile exists"
    if not mode:
        return "no"
    levels = "with levels" if one.mls else "without levels"
    return f"yes, {mode}; policy {one.selinux_policy or 'without a name'}, {levels}"


def explanation(one: Why) -> list[RenderableType]:
    """Return why a pod does not start or is not confined as one thinks, or what confines it."""
    head = Table.grid(padding=(0, 2))
    head.add_row("Pod:", words("/".join(filter(None, (one.namespace, one.pod))), "bold"))
    head.add_row(
        "Node:", words(" ".join(filter(None, (one.node or "none yet", f"({one.phase or 'in a file'})"))))
    )
    head.add_row("Verdict:", _verdict(one))
    parts: list[RenderableType] = [head]
    if one.confinement:
        parts += ["", _confinement(one.confinement)]
    for cause in one.causes:
        parts += ["", *_cause(cause)]
    for title, sentences in (("Notes", one.notes), ("Kubernetes says", one.observed)):
        if sentences:
            parts += ["", f"{title}:", *(_indented(words(sentence)) for sentence in sentences)]
    return parts


def _verdict(one: Why) -> Text:
    if one.causes:
        number = len(one.causes)
        return words(f"{number} cause{'' if number == 1 else 's'} found: {', '.join(_reasons(one))}", _BAD)
    if one.phase == "Succeeded":
        return words("the pod has ended well", _GOOD)
    if not one.node:
        return words("nothing is wrong with what it names", _GOOD)
    return words(f"fine: {one.node} holds every profile of Hauberk's that it names", _GOOD)


def _reasons(one: Why) -> list[str]:
    return list(dict.fromkeys(cause.reason for cause in one.causes))


def _confinement(rows: Sequence[Confinement]) -> Table:
    table = _table(
        "CONTAINER",
        "TYPE",
        "NAMES",
        "STATE",
        "REVISION",
        "MODE",
        "HASH",
        folded=("CONTAINER", "NAMES", "STATE"),
    )
    for one in rows:
        state = _cell(one.state, _STYLES.get(State(one.state), _DIM) if one.state in set(State) else _BAD)
        table.add_row(
            *map(_cell, (one.container, one.type, one.names)),
            state,
            *map(_cell, (one.revision, one.mode, one.digest)),
        )
    return table


def _cause(one: Cause) -> list[RenderableType]:
    said = Text.assemble(words(one.reason, _BAD), ": ", words(one.message))
    table = Table.grid(padding=(0, 2))
    rows = [("at", ", ".join(one.fields)), *(("seen", shown) for shown in one.evidence), ("do", one.fix)]
    for name, what in rows:
        if what:
            table.add_row(words(name, _DIM), words(what))
    return [said, _indented(table)]


def difference(one: Difference) -> list[RenderableType]:
    """Return what applying a profile would change, line by line."""
    style = {"new": _GOOD, "changed": _BETWEEN}.get(one.change, _DIM)
    parts: list[RenderableType] = [words(f"{one.name}: {one.change} ({one.file})", style)]
    if one.message:
        parts.append(_indented(words(f"refused: {one.reason}: {one.message}", _BAD)))
    parts += [_indented(words(note)) for note in one.notes]
    parts += [_indented(words(_field(field, new=one.change == "new"))) for field in one.fields]
    for change in one.texts:
        parts += ["", *_text(change)]
    effects = _effects(one.nodes)
    return [*parts, *(["", *effects] if effects and one.texts else effects)]


def _indented(text: RenderableType) -> Padding:
    return Padding(text, (0, 0, 0, 2))


def _field(one: Field, *, new: bool) -> str:
    after = _value(one.after)
    return f"{one.path}: {after}" if new else f"{one.path}: {_value(one.before)} -> {after}"


def _value(value: Any) -> str:
    if value is None:
        return "(not set)"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _text(change: TextChange) -> list[RenderableType]:
    return [
        _indented(words(f"for {change.of}:" if "(kernel" in change.of else f"{change.of}:")),
        *(exactly(line, _DIFF_STYLES.get(line[:1], "")) for line in change.lines),
    ]


def _effects(effects: Effects) -> list[RenderableType]:
    away = set(effects.away)
    found: list[RenderableType] = []
    for word, several in (
        ("load it", effects.load),
        ("unload it", effects.unload),
        ("stay as they are", effects.stay),
        ("can't be told, for want of the right to list Nodes", effects.unknown),
    ):
        if several:
            named = _names([f"{name} (not Ready)" if name in away else name for name in several])
            found.append(_indented(words(f"nodes that {word}: {named}")))
    return found


def _table(*columns: str, folded: Sequence[str] = ()) -> Table:
    """Return an empty table; where it is too wide, `folded` columns give way."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column not in folded)
    return table


def _cell(text: str, style: str = "") -> Text:
    return words(text or "-", style)
