"""Takes out of a module in CIL what makes types permissive, for `spec.selinux.mode` to say it instead. Pure.

Called by `convert`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from ..crds.errors import InputFault
from ..profiles.cil import Statement, read

_KEYWORD = "typepermissive"
# Comments and quoted texts are passed over; a statement goes with its line where it has one of its own.
_PIECE = re.compile(
    r"(?P<kept>;[^\n]*|\"[^\"\n]*\")"
    rf"|^[ \t]*\(\s*{_KEYWORD}\s+[^\s()]+\s*\)[ \t]*\n|[ \t]*\(\s*{_KEYWORD}\s+[^\s()]+\s*\)",
    re.MULTILINE,
)


def without_permissive(policy: str) -> tuple[str, set[str]]:
    """Return a module without its statements `typepermissive`, and the types that these name, whole.

    What is no CIL stays as it is, and names none.
    """
    try:
        statements = read(policy)
    except InputFault:
        return policy, set()
    declared = set(_types(statements, ()))
    named = {_resolved(name, path, declared) for name, path in _named(statements, ())}
    return _PIECE.sub(lambda found: found["kept"] or "", policy), named


def _types(statements: Iterable[Statement], path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for one, inner in _walked(statements, path):
        if one.keyword == "type" and isinstance(one.items[-1], str):
            yield (*inner, one.items[-1])


def _named(statements: Iterable[Statement], path: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    for one, inner in _walked(statements, path):
        if one.keyword == _KEYWORD and isinstance(one.items[-1], str):
            yield one.items[-1], inner


def _walked(
    statements: Iterable[Statement], path: tuple[str, ...]
) -> Iterator[tuple[Statement, tuple[str, ...]]]:
    """Yield every statement with the names of the blocks that it stands in."""
    for one in statements:
        yield one, path
        name = one.items[1] if len(one.items) > 1 else ""
        inside = (*path, name) if one.keyword == "block" and isinstance(name, str) else path
        if one.keyword in ("block", "optional"):
            yield from _walked((item for item in one.items if isinstance(item, Statement)), inside)


def _resolved(name: str, path: tuple[str, ...], declared: set[tuple[str, ...]]) -> str:
    """Return which type a name in a block is: the nearest of that name, else one that the block inherits."""
    if name.startswith("."):
        return name.removeprefix(".")
    parts = tuple(name.split("."))
    around = [(*path[:depth], *parts) for depth in range(len(path), -1, -1)]
    return ".".join(next((one for one in around if one in declared), around[0] if len(parts) == 1 else parts))
