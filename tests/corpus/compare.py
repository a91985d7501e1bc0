"""What is compared for one text, and what counts as agreement. Pure: `run` gathers, this judges.

The parser's word on each node is independent of Hauberk: the image's apparmor_parser was asked by itself, for
that node's kernel. Hauberk has to come to the same, or to say by which of its own rules it refused the text.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from hauberk.crds.reasons import Reason

# Reasons for which Hauberk refuses what a parser may well accept: these are listed, not compared.
POLICY = frozenset(
    {
        *(Reason.ATTACHMENT_REFUSED, Reason.HOST_OWNED, Reason.INCLUDE_REFUSED, Reason.MODE_MISMATCH),
        *(Reason.NAME_CLASH, Reason.NAME_PROTECTED, Reason.NAME_UNUSABLE, Reason.POLICY_EMPTY),
        *(Reason.POLICY_TOO_LARGE, Reason.POLICY_TOO_SLOW),
    }
)
# What the API server refuses by the schema (an empty text, one of megabytes) has no reason of Hauberk's.
BY_SCHEMA = "Invalid"

_NAME_BYTES = 50
# Files of a folder that are not policy, where the folder is not called apparmor.
_NO_POLICY = re.compile(r"(?i)\..*|readme.*|licen[cs]e.*|copying.*|makefile|.*\.(md|txt|ya?ml|json|rst)")
_AT_LINE = re.compile(r" at line (\d+): (.+)$", re.MULTILINE)

# A kernel's profiles: mode and hash of the load that each came with, by full name.
Kernel = Mapping[str, tuple[str, str]]


@dataclass(frozen=True)
class Parsed:
    """What the parser says of a text on one node.

    Attributes:
        code: its exit code; 124 where it met the time limit.
        said: its standard error.
        names: what `apparmor_parser -N` prints.
        digests: of what it compiled, SHA-1 and SHA-256.
    """

    code: int
    said: str = ""
    names: tuple[str, ...] = ()
    digests: frozenset[str] = frozenset()

    @property
    def accepts(self) -> bool:
        """Whether it took the text."""
        return self.code == 0

    @property
    def word(self) -> str:
        """Its verdict in one word."""
        return {0: "accepts", 1: "refuses", 124: "too slow"}.get(self.code, f"exit {self.code}")


@dataclass(frozen=True)
class OnNode:
    """One node after Hauberk has settled.

    Attributes:
        parsed: the parser's word there.
        report: what the ProfileNode has for this profile, `revision/mode/digest`; empty for nothing.
        problem: reason and message of the ProfileNode's problem with it.
        listed: the names in the kernel's list.
        before: what the kernel held before the text was applied, of the names that the text defines anywhere.
        held: the same now.
        fresh: whether the ProfileNode is of the node's present boot.
    """

    parsed: Parsed
    report: str = ""
    problem: tuple[str, str] | None = None
    listed: frozenset[str] = frozenset()
    before: Kernel = field(default_factory=dict[str, tuple[str, str]])
    held: Kernel = field(default_factory=dict[str, tuple[str, str]])
    fresh: bool = True


@dataclass(frozen=True)
class Told:
    """What the SecurityProfile's status tells: `accepted` and `ready` are status, reason and message."""

    accepted: tuple[str, str, str]
    ready: tuple[str, str, str]
    revision: str = ""
    names: tuple[str, ...] = ()


class Verdict(StrEnum):
    """Hauberk's verdict on a text."""

    READY = "Ready"
    BY_PARSER = "refused by the parser"
    BY_POLICY = "refused by policy"
    NEITHER = "neither Ready nor refused"


@dataclass(frozen=True)
class Outcome:
    """What came of a text: Hauberk's verdict with its reason and message, and where the two disagree."""

    verdict: Verdict
    reason: str
    message: str
    names: tuple[str, ...]
    disagreements: tuple[str, ...]


def compare(told: Told, nodes: Mapping[str, OnNode]) -> Outcome:
    """Return what came of a text whose SecurityProfile has settled."""
    reason, message, verdict = _verdict(told, nodes)
    wrong: list[str] = []
    for name, node in nodes.items():
        wrong += [f"{name}: {one}" for one in _on_node(told, node, verdict)]
    ready = told.ready[0] == "True"
    if ready != all(node.parsed.accepts and not node.problem for node in nodes.values()):
        if verdict is not Verdict.BY_POLICY:
            wrong.append(f"the condition Ready is {told.ready[0] or 'not there'} ({told.ready[1]})")
    elif ready and told.names == ():
        wrong.append("it is Ready, and status.profiles is empty")
    return Outcome(verdict, reason, message, told.names, tuple(wrong))


def _verdict(told: Told, nodes: Mapping[str, OnNode]) -> tuple[str, str, Verdict]:
    """Return the reason and the message to show, and what kind of verdict they are."""
    status, reason, message = told.accepted
    if status == "True":
        problems = [node.problem for node in nodes.values() if node.problem]
        reason, message = problems[0] if problems else told.ready[1:]
        if not problems and told.ready[0] == "True":
            return reason, message, Verdict.READY
    if reason in POLICY or reason == BY_SCHEMA:
        return reason, message, Verdict.BY_POLICY
    refused = reason == Reason.POLICY_REFUSED
    return reason, message, Verdict.BY_PARSER if refused else Verdict.NEITHER


def _on_node(told: Told, node: OnNode, verdict: Verdict) -> list[str]:
    """Return where a node, its report or the parser there differ from what Hauberk says."""
    refused = told.accepted[1:] if told.accepted[0] != "True" else node.problem
    if refused is None:
        return _loaded(told, node)
    reason, message = refused
    wrong = [] if node.held == node.before else ["it is refused, and the kernel's profiles have changed"]
    if verdict is Verdict.BY_POLICY and (reason in POLICY or reason == BY_SCHEMA):
        return wrong
    if node.parsed.accepts:
        return [*wrong, f"the parser accepts it, Hauberk says {reason}: {message}"]
    if reason != Reason.POLICY_REFUSED:
        return [*wrong, f"the parser's exit code is {node.parsed.code}, Hauberk says {reason}: {message}"]
    for line, words in _AT_LINE.findall(node.parsed.said):
        if f"line {line}: {words}" not in message:
            wrong.append(f"Hauberk does not tell the parser's line {line}: {words}")
    return wrong


def _loaded(told: Told, node: OnNode) -> list[str]:
    if not node.parsed.accepts:
        return [f"the parser's exit code is {node.parsed.code}, and Hauberk tells of no trouble"]
    wrong: list[str] = []
    names = sorted(node.parsed.names)
    if not node.fresh:
        wrong.append("the ProfileNode is of another boot")
    if not told.revision or node.report.partition("/")[0] != told.revision:
        wrong.append(f"reports {node.report or 'nothing'}, wanted is revision {told.revision or '?'}")
    if sorted(told.names) != names:
        wrong.append(f"status.profiles is {sorted(told.names)}, the parser's names are {names}")
    if lacking := sorted(set(names) - node.listed):
        wrong.append(f"the kernel's list lacks {lacking}")
    if sorted(node.held) != names:
        wrong.append(f"the kernel holds {sorted(node.held)}, the parser's names are {names}")
    for name, (_, digest) in node.held.items():
        if digest not in node.parsed.digests:
            wrong.append(f"the kernel's hash of {name} is {digest or 'not there'}, not that of the text")
    return wrong


def digests(compiled: bytes) -> frozenset[str]:
    """Return the hashes that a kernel may give compiled policy."""
    return frozenset({hashlib.sha1(compiled).hexdigest(), hashlib.sha256(compiled).hexdigest()})  # noqa: S324


def texts(folder: Path) -> list[Path]:
    """Return the files of a corpus that hold AppArmor policy: those in `apparmor`, else its own."""
    inner = folder / "apparmor"
    if inner.is_dir():
        return sorted(file for file in inner.iterdir() if file.is_file() and not file.name.startswith("."))
    return sorted(file for file in folder.iterdir() if file.is_file() and not _NO_POLICY.fullmatch(file.name))


def object_names(files: Sequence[str]) -> dict[str, str]:
    """Return the name of each file's SecurityProfile: a legal one, like the file's, and no two the same."""
    found: dict[str, str] = {}
    for file in files:
        plain = re.sub(r"[^a-z0-9]+", "-", file.lower())[:_NAME_BYTES].strip("-") or "text"
        name, number = f"corpus-{plain}", 2
        while name in found.values():
            name, number = f"corpus-{plain}-{number}", number + 1
        found[file] = name
    return found


def batches(defined: Mapping[str, Collection[str]], size: int) -> list[list[str]]:
    """Return the texts in groups that can be loaded at the same time, at most `size` in each, in their order.

    No two of a group define the same top-level profile. Those that define nothing, as far as the parser
    tells, go into groups of their own, so that a name which turns up all the same is seen.
    """
    groups: list[list[str]] = []
    taken: list[set[str]] = []
    for text, names in defined.items():
        tops = {name.split("//", 1)[0] for name in names}
        for group, theirs in zip(groups, taken, strict=True):
            if len(group) < size and not tops & theirs and bool(tops) == bool(theirs):
                group.append(text)
                theirs.update(tops)
                break
        else:
            groups.append([text])
            taken.append(tops)
    return groups
