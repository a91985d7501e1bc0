"""What is allowed and probably not meant: advice on a policy that passed every check. Pure.

Shown as warnings by `hauberk lint`. A text is only looked at, not understood: advice may be wrong, and never
refuses anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..crds.models import Facts
from .compiled import Defined

_COMMENT = re.compile(r"#(?!include\b)[^\n]*")
_BLANKS = re.compile(r"\s+")
# Nothing in it looks far ahead from more than one place: a hostile text would take minutes.
_RULE = re.compile(
    r"(?:^|(?<=[,{}\n]))\s?(?:(?:audit|allow|quiet|owner|(?P<deny>deny))\s){0,5}"
    r"(?P<word>signal|dbus|unix|mqueue|io_uring|userns)\b(?P<rest>(?:\([^()]*\)|[^,{}(])*)"
)
# What a kernel must have in its feature tree for rules of a kind to mean something.
_NEEDS = {
    "dbus": "dbus",
    "io_uring": "io_uring",
    "mqueue": "ipc/posix_mqueue",
    "unix": "network/af_unix",
    "userns": "namespaces/userns_create",
}
_PEER = re.compile(r"peer\s*=\s*\"?(?P<peer>[^\s\",]+)")
_SET = re.compile(r"set\s*=\s*\(?(?P<set>[^)]*)")
_ACCESS = re.compile(r"^\s*(?:\((?P<several>[^)]*)\)|(?P<one>send|receive|r|w|rw|read|write)\b)")
_RECEIVES = {"receive", "r", "read", "rw"}


@dataclass(frozen=True)
class Looked:
    """What advice is given on.

    Attributes:
        policy: the text as its author wrote it.
        whole: with the text of all that it includes.
        defined: the profiles that it defines.
        mode: Enforce or Complain.
    """

    policy: str
    whole: str
    defined: Sequence[Defined]
    mode: str


def advice(at: Looked, kinds: Mapping[str, Facts]) -> list[str]:
    """Return sentences on a policy, the most important first.

    `kinds` are those of the nodes that it is for, with a name for each.
    """
    found = [*_stopping(_bare(at.whole)), *_disconnected(at.defined), *_unmediated(_bare(at.policy), kinds)]
    if at.mode == "Complain":
        found.append("mode Complain denies nothing, it only logs what Enforce would deny")
    return found


def _bare(text: str) -> str:
    """Return a text without its comments, and with one blank or line's end where there were several."""
    return _BLANKS.sub(lambda run: "\n" if "\n" in run[0] else " ", _COMMENT.sub("", text))


def _stopping(text: str) -> Iterator[str]:
    if not any(_lets_runc(rule) for rule in _RULE.finditer(text)):
        yield (
            "no rule lets the runtime stop a pod: add `signal (receive) peer=runc,` (crun, unconfined), or "
            "pods under it hang in Terminating where runc has a profile of its own"
        )


def _lets_runc(rule: re.Match[str]) -> bool:
    if rule["word"] != "signal" or rule["deny"]:
        return False
    access = _ACCESS.match(rule["rest"])
    if access and not _RECEIVES & set(re.split(r"[\s,]+", access["several"] or access["one"])):
        return False
    only = _SET.search(rule["rest"])
    if only and not {"term", "kill"} <= set(re.split(r"[\s,\"]+", only["set"])):
        return False
    peer = _PEER.search(rule["rest"])
    return peer is None or peer["peer"] == "runc" or "*" in peer["peer"] or "runc" in peer["peer"]


def _disconnected(defined: Iterable[Defined]) -> Iterator[str]:
    for one in defined:
        if "//" not in one.name and not one.disconnected:
            yield (
                f"profile {one.name} lacks flags=(attach_disconnected): files that a container got from "
                "outside, such as sockets and volumes, may be denied whatever the rules say"
            )


def _unmediated(text: str, kinds: Mapping[str, Facts]) -> Iterator[str]:
    # A bare `unix,` allows what such a kernel allows anyway; a rule that says more is meant to keep something
    # out.
    words = {rule["word"] for rule in _RULE.finditer(text) if rule["deny"] or rule["rest"].strip()}
    for word, feature in _NEEDS.items():
        lacking = [name for name, facts in kinds.items() if feature not in facts.app_armor.features]
        if word in words and lacking:
            yield f"rules on {word} mean nothing to the kernel of {', '.join(lacking[:4])}"
