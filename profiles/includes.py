"""What a policy includes, and whether that stays within the abstractions that Hauberk ships.

Called by `check`, and by the agent before it loads. `refuse_spelling` judges how an include is written and is
pure; `refuse_includes` judges where the file lies and looks at the parser's base folder. The parser follows
symbolic links, reads as root on a node, and what it says of a file tells what is in it.
"""

from __future__ import annotations

import os
import re
from functools import cache, lru_cache
from pathlib import Path

from ..crds.errors import InputFault
from ..crds.reasons import Reason

# Wherever the parser's lexer may see an include or an abi rule, and what would be opened then (parser_lex.l:
# `#include` needs no blank behind it, either argument may stand on the next line).
_OPENS = re.compile(
    r"(?:#include|(?<![\w/])include(?=\s)|(?<![\w/<])abi(?!\w))(?:\s+if\s+exists(?=\s))?\s*(<[^>\n]*>?,?|\S*)"
)
# A bare word is one of a comment: at worst a file of the shipped folder, where the parser runs.
_HARMLESS = re.compile(r"<\w[\w.+/-]*>,?|[\w.,:;()'`-]*")


# A file's name from the base folder, and nothing that no name has.
_WITHIN = re.compile(r"[^/\0][^\0]*")


def includes(policy: str) -> list[tuple[int, str]]:
    """Return the line number and argument of each include and abi rule, such as `(1, "<tunables/global>")`.

    Errs to the safe side: what looks like one within a quoted string or a comment counts too, because where
    those end is the lexer's secret.
    """
    return [(policy.count("\n", 0, found.start(1)) + 1, found[1]) for found in _OPENS.finditer(policy)]


def refuse_spelling(policy: str) -> None:
    """Refuse an include that names a file elsewhere.

    Raises:
        InputFault: with the line of the first such include.
    """
    for line, argument in includes(policy):
        if not _HARMLESS.fullmatch(argument) or ".." in argument:
            raise InputFault(
                Reason.INCLUDE_REFUSED,
                f"line {line}: include {argument[:80]} leaves the abstractions that Hauberk ships; "
                "only `include <abstractions/...>` and `include <tunables/...>` are allowed",
            )


def refuse_includes(policy: str, base: Path) -> None:
    """Refuse an include whose file a symbolic link puts outside of `base`, the parser's own (`Parser.base`).

    Links that stay within it are fine. A folder stands for every file in it, a file for what it includes in
    turn, and `if exists` makes no difference. What is not there or can't be read is left to the parser.

    Raises:
        InputFault: with the line of the first such include, and the file that is read for it.
    """
    root = os.path.realpath(base)
    for line, argument in includes(policy):
        if outside := _outside(argument, root):
            raise InputFault(
                Reason.INCLUDE_REFUSED,
                f"line {line}: include {argument[:80]} leaves the abstractions that Hauberk ships: "
                f"{outside[:80]} is, or lies behind, a symbolic link that leads out of them; paste the rules",
            )


def with_included(policy: str, base: Path) -> str:
    """Return a policy's text and, behind it, that of every file which it includes, each once.

    Only for looking at: the parser puts an include's text elsewhere, and reads no file that is not asked for.
    """
    seen: dict[str, str] = {}
    waiting = [name for _, argument in includes(policy) for name in _files(argument)]
    while waiting:
        name = waiting.pop()
        if name in seen or name.startswith("abi/"):  # those are no policy
            continue
        there = base / name
        if there.is_dir():
            waiting += [f"{name}/{entry}" for entry in _entries(there)]
            seen[name] = ""
            continue
        seen[name], inner = _known(there)
        waiting += inner
    return "\n".join((policy, *seen.values()))


@cache
def _known(file: Path) -> tuple[str, tuple[str, ...]]:
    """Return a shipped file's text and what it includes; it does not change while a program runs."""
    text = _read(file) if file.is_file() else ""
    return text, _inner(text)


@lru_cache(maxsize=1024)
def _outside(argument: str, root: str) -> str:
    """Return the first file that is read for an include and lies outside, as a name in the base folder.

    The base is the image's, or the distribution's: it does not change while a program runs.
    """
    waiting, seen = _files(argument), set[str]()
    while waiting:
        name = waiting.pop()
        path = os.path.realpath(f"{root}/{name}")
        if path in seen:
            continue
        seen.add(path)
        if os.path.commonpath((root, path)) != root:
            return name
        there = Path(path)
        if there.is_dir():
            waiting += [f"{name}/{entry}" for entry in _entries(there)]
        elif there.is_file():  # neither a device nor a pipe: reading one might not end
            waiting += _inner(_read(there))
    return ""


@lru_cache(maxsize=256)
def _inner(text: str) -> tuple[str, ...]:
    """Return the files that a shipped file's text includes: read each time, each text is looked at once."""
    return tuple(name for _, argument in includes(text) for name in _files(argument))


def _entries(folder: Path) -> list[str]:
    """Return the names of what the parser may read of a folder: of folders within it, nothing."""
    try:
        return sorted(one.name for one in folder.iterdir() if not one.is_dir())
    except OSError:
        return []


def _read(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""


def _files(argument: str) -> list[str]:
    """Return the files in the base folder that an argument may mean: behind an abi rule's stands a comma.

    None where it names a file elsewhere: `refuse_spelling` judges that in a policy, and in a shipped file it
    stands on purpose, or is prose.
    """
    ways = dict.fromkeys(one.strip('<>"') for one in (argument, argument.removesuffix(",")))
    return [one for one in ways if _WITHIN.fullmatch(one) and ".." not in one]
