"""Makes values fit for a policy's text, so that none of them can end a rule or begin another. Pure.

The filters of templates (`{{ values.logDir | aa_path }}`), and the gate that every other value of a template
goes through: `template` puts no text into a policy that is neither plain nor written by one of these.

The rules are those of apparmor_parser's scanner (parser_lex.l: quoted ids, escapes), apparmor.d(5) on globs,
and the CIL reference's lexer.
"""

from __future__ import annotations

import json
import re
from typing import Any

# What neither language takes for anything but a part of a word.
_PLAIN = re.compile(r"[A-Za-z0-9_./:@%+=~-]*")
_CIL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_SEPARATOR = re.compile(r"[ ,|\n]*")
# In a quoted path these still mean something: globs, alternations, variables, escapes.
_GLOBS = re.compile(r"([*?\[\]{}^,\\@$])")
_SHOWN = 60


class UnfitError(ValueError):
    """A value that can't be written into a policy; the message says why and what to do."""


class Written(str):
    """Text that a filter or a macro of the template wrote: it goes into the policy as it is."""

    __slots__ = ()


def plain(value: Any) -> Any:
    """Return a value as it may stand in a policy without a filter.

    Raises:
        UnfitError: it is no text or number, or has characters that could end a rule.
    """
    if isinstance(value, Written) or value is None or isinstance(value, (bool, int, float)):
        if value is None:
            raise UnfitError("a null can't be written; give it a value, or test it with `is none`")
        return value
    if not isinstance(value, str):
        what = (
            "a list"
            if isinstance(value, (list, tuple))
            else "a mapping"
            if isinstance(value, dict)
            else "no text"
        )
        raise UnfitError(
            f"the value is {what}, and only texts and numbers can be written; loop over it, or name a part"
        )
    if not _PLAIN.fullmatch(value):
        raise UnfitError(
            f"the value {_shown(value)} has characters that could end a rule; "
            "write it with a filter: aa_path, aa_glob, aa_name, cil_name, cil_path or json"
        )
    return value


def aa_path(value: Any, suffix: str = "") -> Written:
    """Return an absolute path as a quoted AppArmor path that means just this file; `suffix` may have globs.

    Raises:
        UnfitError: it is no absolute path, or has control characters.
    """
    path = _absolute(_text(value))
    return Written(f'"{_escaped(path, suffix)}{_quotable(suffix)}"')


def aa_glob(value: Any) -> Written:
    """Return an absolute path with AppArmor's globs as a quoted one: its globs and variables count.

    Raises:
        UnfitError: it begins neither with `/` nor with a variable, or has quotes or control characters.
    """
    glob = _quotable(_text(value))
    if not glob.startswith(("/", "@{")):
        raise UnfitError(f"{_shown(glob)} is no path: it must begin with `/` or `@{{`")
    return Written(f'"{glob}"')


def aa_name(value: Any) -> Written:
    """Return a profile's name, or a peer's, as a quoted one that means just this name.

    Raises:
        UnfitError: it is empty or has control characters.
    """
    name = _text(value)
    if not name or not name.isprintable():
        raise UnfitError(f"{_shown(name)} is no profile's name: it must be printable and not empty")
    if name.startswith(("/", ":", "&")) or "//" in name:
        raise UnfitError(
            f"{_shown(name)} is a path, a child, stacked or in a namespace; "
            "a name has no `//`, no `/`, `:` or `&` first"
        )
    return Written(f'"{_escaped(name)}"')


def cil_name(value: Any) -> Written:
    """Return a value as a CIL identifier.

    Raises:
        UnfitError: it is none.
    """
    name = _text(value)
    if not _CIL_NAME.fullmatch(name):
        raise UnfitError(
            f"{_shown(name)} is no CIL name: letters, digits, `_`, `.` and `-`, and a letter first"
        )
    return Written(name)


def cil_path(value: Any) -> Written:
    """Return an absolute path as a CIL string.

    Raises:
        UnfitError: it is no absolute path, or has quotes (CIL has no escape for them) or control characters.
    """
    return Written(f'"{_quotable(_absolute(_text(value)))}"')


def as_json(value: Any) -> Written:
    """Return a value as JSON, for seccomp profiles.

    Raises:
        UnfitError: JSON can't say it.
    """
    try:
        # a backslash as its number, so that none stands before a quote: see `_escaped`
        return Written(json.dumps(value, sort_keys=True, allow_nan=False).replace(r"\\", r"\u005c"))
    except (TypeError, ValueError) as error:
        raise UnfitError(f"the value can't be written as JSON: {error}") from error


def joined(values: Any, separator: str = "") -> Written:
    """Return values with a separator between them; each must be plain, or written by a filter.

    Raises:
        UnfitError: one is not, or the separator is more than blanks, commas and bars.
    """
    if not _SEPARATOR.fullmatch(separator):
        raise UnfitError(f"{_shown(separator)} is no separator: blanks, commas and `|` are")
    return Written(separator.join(str(plain(one)) for one in values))


FILTERS = {
    "aa_path": aa_path,
    "aa_glob": aa_glob,
    "aa_name": aa_name,
    "cil_name": cil_name,
    "cil_path": cil_path,
    "json": as_json,
    "join": joined,
}


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise UnfitError(f"the value is {type(value).__name__}, and this filter takes a text")
    return str(value)


def _absolute(path: str) -> str:
    if not path.startswith("/"):
        raise UnfitError(f"{_shown(path)} is no absolute path")
    if not path.isprintable():
        raise UnfitError(f"the path {_shown(path)} has control characters")
    return path


def _quotable(text: str) -> str:
    """Return a text that may stand between quotes as it is."""
    # a backslash at the end would take the closing quote for its own
    if '"' in text or not text.isprintable() or text.endswith("\\"):
        raise UnfitError(f"{_shown(text)} has quotes, control characters, or a backslash at its end")
    return text


def _escaped(text: str, behind: str = "") -> str:
    """Return a text that means just itself between quotes; `behind` is what comes between it and the last."""
    # To the scanner `\\"` is a backslash and a quote that goes on: it looks for the longest quoted text.
    if text.endswith("\\") and not behind:
        raise UnfitError(f"{_shown(text)} has a backslash at its end, which would take the closing quote")
    return _GLOBS.sub(r"\\\1", text).replace('"', '\\"')


def _shown(value: str) -> str:
    return ascii(value[:_SHOWN]) + ("..." if len(value) > _SHOWN else "")
