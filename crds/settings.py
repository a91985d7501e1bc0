"""Reads what an administrator set in the environment of a process. Pure.

Called by the mains, by `operator/agent_settings` for what the agents are given, and by `logs`.
"""

from __future__ import annotations

from collections.abc import Mapping

HIGHEST_PORT = 65535
# Of a module in a node's store, from 1 on: semodule(8).
HIGHEST_PRIORITY = 999


class SettingError(Exception):
    """The environment says what can't be meant; the message begins with the variable's name."""


def port(environ: Mapping[str, str], name: str, default: int = 0) -> int:
    """Return the TCP port that a variable names, 0 for none; `default` where it is not there or empty.

    Raises:
        SettingError: it is no such number.
    """
    return whole_number(environ, name, default, highest=HIGHEST_PORT)


def whole_number(environ: Mapping[str, str], name: str, default: int, *, highest: int) -> int:
    """Return the number from 0 on that a variable has; `default` where it is not there or empty.

    Raises:
        SettingError: it is no such number.
    """
    text = environ.get(name, "")
    return number(name, text, 0, highest) if text else default


def number(name: str, text: str, lowest: int, highest: int) -> int:
    """Return the whole number that a text is, for the variable of that name.

    Raises:
        SettingError: it is none within these bounds.
    """
    if not (text.isascii() and text.isdigit()) or not lowest <= int(text) <= highest:
        raise SettingError(f"{name}: {text!r} is no number from {lowest} to {highest}")
    return int(text)
