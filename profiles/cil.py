"""Reads CIL, the language of SELinux modules, into statements with their lines. Pure.

The form alone, as libsepol's lexer has it (cil/src/cil_lexer.l): lists in parentheses, symbols, quoted text,
and comments from a semicolon to the line's end. What statements mean is for `selinux`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from ..crds.errors import InputFault
from ..crds.reasons import Reason

# libsepol's own limit is 4096 (CIL_PARSER_MAX_EXPR_DEPTH); whoever reads the text again recurses.
DEPTH = 64
_TOKEN = re.compile(
    r'(?P<mark>;;\*)|;[^\n]*\n?|(?P<bracket>[()])|(?P<text>"[^"\n]*")|(?P<symbol>[^\s();"]+)|\s+'
)


@dataclass(frozen=True)
class Statement:
    """A list: `(allow process etc_t (file (read)))`. `line` from 1, of its opening parenthesis."""

    line: int
    items: tuple[Item, ...]

    @property
    def keyword(self) -> str:
        """Return its first word; '' where it has none."""
        first = self.items[0] if self.items else ""
        return first if isinstance(first, str) else ""


Item: TypeAlias = "str | Statement"


def read(text: str) -> tuple[Statement, ...]:
    """Return the statements of a module.

    Raises:
        InputFault: parentheses or quotes do not match, lists are too deep, or something stands outside.
    """
    open_: list[tuple[int, list[Item]]] = [(0, [])]
    for line, word in _tokens(text):
        if word == "(":
            if len(open_) > DEPTH:
                raise _fault(line, f"lists within lists, deeper than {DEPTH}")
            open_.append((line, []))
        elif word == ")":
            if len(open_) == 1:
                raise _fault(line, "a closing parenthesis that nothing opened")
            begun, items = open_.pop()
            open_[-1][1].append(Statement(begun, tuple(items)))
        elif len(open_) == 1:
            raise _fault(line, f"{word} stands outside of all parentheses")
        else:
            open_[-1][1].append(word)
    if len(open_) > 1:
        raise _fault(open_[-1][0], "a parenthesis that nothing closes")
    return tuple(one for one in open_[0][1] if isinstance(one, Statement))


def _tokens(text: str) -> Iterator[tuple[int, str]]:
    at, line = 0, 1
    while at < len(text):
        found = _TOKEN.match(text, at)
        if not found:
            raise _fault(line, "a quoted text that does not end in its line")
        if found.lastgroup == "mark":
            raise _fault(line, "marks of lines (;;*) are for what compilers write; remove it")
        if "\r" in found[0].replace("\r\n", ""):
            # it ends a comment for libsepol, and goes on within a quoted text that stands in one
            raise _fault(line, "a carriage return without an end of line; remove it")
        if found.lastgroup:
            yield line, found[0]
        line += found[0].count("\n")
        at = found.end()


def symbols(item: Item) -> Iterator[str]:
    """Yield the words of an item and of all lists within it."""
    if isinstance(item, str):
        yield item
    else:
        for one in item.items:
            yield from symbols(one)


def _fault(line: int, message: str) -> InputFault:
    return InputFault(Reason.POLICY_REFUSED, f"the policy is no CIL: line {line}: {message}")
