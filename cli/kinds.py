"""Which kinds of nodes there are to render for: common ones by their names, real ones from files.

Called by the commands that take `--facts`. Reads files and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import yaml

from ..crds.models import Facts, ProfileNode, decode
from ..crds.names import SECCOMP
from ..profiles.kinds import COMMON_OF


class UnknownKindError(Exception):
    """What was given names no kind of node; the message says why and what would."""


def common(profile_type: str = SECCOMP) -> dict[str, Facts]:
    """Return the common kinds of nodes that hold a type of profile, by their names.

    Such as `debian-12`, and `debian-13-selinux` where the distribution's own choice is another module. Every
    kind holds seccomp profiles.
    """
    return {_name(one): one for one in COMMON_OF[profile_type]}


def _name(facts: Facts) -> str:
    unusual = "-selinux" if facts.selinux.policy == "default" else ""
    return f"{facts.os.id}-{facts.os.version}{unusual}"


def kinds_of(given: Iterable[str]) -> dict[str, Facts]:
    """Return kinds of nodes by their names; each is given as a common kind's name, or as a file with facts.

    Raises:
        UnknownKindError: it is neither.
    """
    found: dict[str, Facts] = {}
    for one in given:
        found |= {one: common()[one]} if one in common() else _from_file(one)
    return found


def _from_file(given: str) -> dict[str, Facts]:
    try:
        text = Path(given).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UnknownKindError(
            f"{given} is neither a file with facts nor a common kind of node ({', '.join(common())})"
        ) from error
    try:
        found = dict(
            one
            for body in yaml.load_all(text, Loader=yaml.CSafeLoader)
            for one in _facts(body, Path(given).stem)
        )
    except (yaml.YAMLError, msgspec.ValidationError) as error:
        raise UnknownKindError(f"{given}: {' '.join(str(error).split())}") from error
    if not found:
        raise UnknownKindError(
            f"{given} has no facts of nodes that hold profiles; `kubectl get profilenodes -o yaml` gives some"
        )
    return found


def _facts(body: Any, file: str) -> Iterator[tuple[str, Facts]]:
    """Yield the nodes of a document with their facts: a list's, one, or bare facts named after the file.

    As in the cluster, templates are not for nodes whose agent serves no type.
    """
    match body:
        case {"kind": "List" | "ProfileNodeList", "items": list(items)}:
            for item in items:
                yield from _facts(item, file)
        case {"kind": "ProfileNode"}:
            node = decode(ProfileNode, body)
            if node.status.sections:
                yield node.metadata.name, node.status.facts
        case {"os": {}} | {"kernel": str()} | {"appArmor": {}}:
            yield file, decode(Facts, body)
        case {"facts": {} as facts}:
            yield file, decode(Facts, facts)
        case _:
            return
