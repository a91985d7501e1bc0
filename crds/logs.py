"""How every process of Hauberk writes its log: one line a decision, as JSON or as text for people.

Called by the mains. The words in it are the reasons of `reasons`, so that logs, Events and conditions can be
searched with one word.
"""

from __future__ import annotations

import json
import logging
import re
import sys

import structlog

from .settings import SettingError

FORMATS = ("json", "text")

_PLAIN = re.compile(r"[\w.:/@%+,~*()\[\]-]+")


def checked(asked: str) -> str:
    """Return a log's format as it was asked for; empty where it was not.

    Raises:
        SettingError: there is none of that name.
    """
    if asked and asked not in FORMATS:
        raise SettingError(f"LOG_FORMAT is {json.dumps(asked)}; it may be {' or '.join(FORMATS)}")
    return asked


def configure(asked: str = "") -> None:
    """Send structlog and the standard library's log to standard error, in one format.

    Where none is asked for: JSON, unless a person is watching.

    Raises:
        SettingError: there is none of that name.
    """
    watched = sys.stderr.isatty() and asked != "json"
    as_text = checked(asked) == "text" or watched
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer()
        if watched
        else as_line
        if as_text
        else structlog.processors.JSONRenderer()
    )
    tail: list[structlog.typing.Processor] = [] if watched else [structlog.processors.format_exc_info]
    structlog.configure(
        processors=[*shared, *tail, last],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *tail, last],
            foreign_pre_chain=shared,
        )
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    # One line per watch event says nothing about a decision.
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)
    logging.getLogger("kopf.activities.probe").setLevel(logging.WARNING)
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    logging.getLogger("httpcore2").setLevel(logging.WARNING)


def as_line(_: object, __: str, event: structlog.typing.EventDict) -> str:
    """Return an entry as one line: time, level, what happened, and each value as `name=value`.

    A value with anything beyond plain characters stands in quotes, escaped as in JSON: what users or other
    programs write can neither begin a line nor look like another value. Only a trace has lines of its own,
    each begun with a bar.
    """
    time, level = event.pop("timestamp", ""), event.pop("level", "")
    what, trace = _escaped(str(event.pop("event", ""))), event.pop("exception", "")
    values = [f"{name}={_quoted(value)}" for name, value in event.items()]
    line = " ".join([str(time), f"{level:<7}", what, *values])
    return "\n  | ".join([line, *str(trace).splitlines()]) if trace else line


def _quoted(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    if _PLAIN.fullmatch(text) and text.isprintable():
        return text
    return json.dumps(text, ensure_ascii=not text.isprintable())


def _escaped(text: str) -> str:
    """Return a text without characters that end a line or drive a terminal."""
    return text if text.isprintable() else json.dumps(text)[1:-1]
