"""Reads what an administrator set in the environment of a process. Pure.

Called by the mains, and by `operator/agent_settings` for what has a meaning of its own.
"""

from __future__ import annotations

from collections.abc import Mapping

HIGHEST_PORT = 65535


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
    if not text:
        return default
    if not (text.isascii() and text.isdigit()) or int(text) > highest:
        raise SettingError(f"{name}: {text!r} is no number from 0 to {highest}")
    return int(text)
