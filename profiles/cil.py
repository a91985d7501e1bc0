"""Reads CIL, the language of SELinux modules, into statements with their lines, and takes them apart. Pure.

The form alone, as libsepol's lexer has it (cil/src/cil_lexer.l): lists in parentheses, symbols, quoted text,
and comments from a semicolon to the line's end. What statements mean is for `blocks` and `selinux`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

from ..crds.errors import InputFault
from ..crds.reasons import Reason

# libsepol's own limit is 4096 (CIL_PARSER_MAX_EXPR_DEPTH); whoever reads the text again recurses.
DEPTH = 64
# libsepol's CIL_MAX_NAME_LENGTH; and how many blocks deep a name may lead.
SYMBOL, DOTS = 2048, 8
_TOKEN = re.compile(
    r"(?P<mark>;;\*)|;[^\n]*\n?|(?P<bracket>[()])"
    r'|(?P<text>"[^"\n]*")|(?P<symbol>[\w\[\].@=/*$%+!|&^:~`#{}\'<>?,-]+)|[ \t\r\n]+',
    re.ASCII,
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

    @cached_property
    def size(self) -> int:
        """Return about how many characters it takes, an empty list as many as its parentheses."""
        return 2 + sum(len(one) + 1 if isinstance(one, str) else one.size for one in self.items)


Item: TypeAlias = "str | Statement"


def read(text: str) -> tuple[Statement, ...]:
    """Return the statements of a module.

    Raises:
        InputFault: parentheses or quotes do not match, lists are too deep, a word is too long or has
            characters or dots that no name has, or something stands outside.
    """
    if text.startswith("\ufeff"):
        raise _fault(1, "a byte order mark stands before the text; save it without one")
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
            raise _fault(line, _unmatched(text[at]))
        if found.lastgroup == "mark":
            raise _fault(line, "marks of lines (;;*) are for what compilers write; remove it")
        if "\r" in found[0].replace("\r\n", ""):
            # it ends a comment for libsepol, and goes on within a quoted text that stands in one
            raise _fault(line, "a carriage return without an end of line; remove it")
        if found.lastgroup:
            _refuse_long(line, found[0], quoted=found.lastgroup == "text")
            yield line, found[0]
        line += found[0].count("\n")
        at = found.end()


def _unmatched(character: str) -> str:
    if character == '"':
        return "a quoted text that does not end in its line"
    return f"the character {character!a} stands outside of quotes and comments"


def _refuse_long(line: int, word: str, *, quoted: bool) -> None:
    if len(word) > SYMBOL:
        raise _fault(line, f"a word of {len(word)} characters; at most {SYMBOL} are allowed")
    if not quoted and word.count(".") > DOTS:
        raise _fault(line, f"a name with over {DOTS} dots")


def symbols(item: Item) -> Iterator[str]:
    """Yield the words of an item and of all lists within it."""
    if isinstance(item, str):
        yield item
    else:
        for one in item.items:
            yield from symbols(one)


def part(one: Statement, index: int) -> Item:
    """Return a part of a statement; InputFault where there is none."""
    if index >= len(one.items):
        raise refused(one, "lacks a part")
    return one.items[index]


def word(one: Statement, index: int) -> str:
    """Return a part of a statement that is a word; InputFault where it is none."""
    item = part(one, index)
    if not isinstance(item, str):
        raise refused(one, "has a list where a name belongs")
    return item


def lists(one: Statement, start: int) -> tuple[Statement, ...]:
    """Return the statements within one, from a part on; InputFault where a word stands among them."""
    inner = one.items[start:]
    for item in inner:
        if not isinstance(item, Statement):
            raise refused(one, f"has {item} where statements belong")
    return tuple(item for item in inner if isinstance(item, Statement))


def refused(one: Statement, why: str) -> InputFault:
    """Return the refusal of a statement, with its line."""
    return InputFault(Reason.STATEMENT_REFUSED, f"line {one.line}: {one.keyword or 'a list'} {why}")


def _fault(line: int, message: str) -> InputFault:
    return InputFault(Reason.POLICY_REFUSED, f"the policy is no CIL: line {line}: {message}")
