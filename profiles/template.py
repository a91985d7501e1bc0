"""Renders a policy's template for one kind of node: jinja2, without anything that reaches out of it. Pure.

Runs in a process of its own (`zygote`), because a sandbox in Python is no wall: whoever gets out of it finds
no file, no network and little time. Every value goes through `quoting` on its way into the text.
"""

from __future__ import annotations

import contextlib
import functools
import traceback
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

# Imported lazily by jinja2 where a template fails, which would need a file.
import jinja2.debug
from jinja2 import (
    FunctionLoader,
    StrictUndefined,
    TemplateError,
    TemplateNotFound,
    TemplateSyntaxError,
    Undefined,
    UndefinedError,
)
from jinja2.exceptions import SecurityError
from jinja2.runtime import BlockReference, Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment

from .quoting import FILTERS, UnfitError, Written, plain

_ = jinja2.debug  # see above

# jinja2's own that neither write markup nor make something large out of little.
_KEPT_FILTERS = (
    *("abs", "batch", "capitalize", "count", "default", "d", "dictsort", "first", "float", "groupby"),
    *("int", "items", "last", "length", "list", "lower", "map", "max", "min", "reject", "rejectattr"),
    *(
        "replace",
        "reverse",
        "round",
        "select",
        "selectattr",
        "slice",
        "sort",
        "string",
        "sum",
        "title",
        "trim",
    ),
    *("unique", "upper"),
)
_KEPT_GLOBALS = ("range", "dict", "namespace")


class RefusedError(Exception):
    """A template that can't be rendered; the message says at which line, why and what to do."""


class TooLargeError(Exception):
    """A template that makes more text than is allowed."""


class _Undefined(StrictUndefined):
    """A name that is not there: refused wherever it is used, and never equal to anything."""

    __slots__ = ()

    @property
    def _undefined_message(self) -> str:
        return self._undefined_hint or f"'{self._undefined_name}' is not there"


class _Environment(ImmutableSandboxedEnvironment):
    """jinja2's sandbox; a mapping's keys come before its methods, and a macro's text is the template's."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Return `obj.attribute`; a mapping's own key also where a method of mappings has that name."""
        if isinstance(obj, Mapping) and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)

    def call(self, context: Context, obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Return what a call gives: a macro's text as the template's own, any other text as a value.

        A method of `Written` text may give such text again, with a value put into it: `format` does.
        """
        said = super().call(context, obj, *args, **kwargs)
        if not isinstance(said, str):
            return said
        return Written(said) if isinstance(obj, (Macro, BlockReference)) else str(said)


def _finalize(value: Any) -> Any:
    return value if isinstance(value, Undefined) else plain(value)


def _there(quoting: Callable[..., Any]) -> Callable[..., Any]:
    """Return a filter that says of what is not there just that, and not that it is no text."""

    @functools.wraps(quoting)
    def filtered(value: Any, *more: Any, **named: Any) -> Any:
        if isinstance(value, Undefined):
            str(value)  # raises, with its name
        return quoting(value, *more, **named)

    return filtered


@cache
def fragments() -> dict[str, str]:
    """Return the shipped fragments by the names that `include` and `import` know them by."""
    folder = Path(__file__).parent / "templates"
    return {one.name: one.read_text() for one in folder.iterdir() if one.name.endswith(".j2")}


def _fragment(name: str) -> tuple[str, str, Callable[[], bool]] | None:
    """Return a fragment's text and, as its file, its name, so that `_line` tells it from the template."""
    text = fragments().get(name)
    return None if text is None else (text, name, lambda: True)


@cache
def environment() -> ImmutableSandboxedEnvironment:
    """Return the environment that every template is rendered in."""
    made = _Environment(
        loader=FunctionLoader(_fragment),
        undefined=_Undefined,
        autoescape=False,  # policies are no markup; `quoting` does what escaping is for
        finalize=_finalize,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    kept: dict[str, Any] = {name: made.filters[name] for name in _KEPT_FILTERS}
    made.filters.clear()
    made.filters.update(kept | {name: _there(one) for name, one in FILTERS.items()})
    functions = {name: made.globals[name] for name in _KEPT_GLOBALS}
    made.globals.clear()
    made.globals.update(functions)
    return made


def warm() -> None:
    """Bring in whatever a rendering may need: later no file can be opened, not even a module of Python's."""
    for name in fragments():
        environment().get_template(name)
    for source in (
        "{{ 'a'|upper }}{% for one in [1] %}{{ loop.index }}{% endfor %}",
        "{{ nope }}",
        "{% if %}",
    ):
        with contextlib.suppress(RefusedError):
            render(source, {}, 100)


def render(source: str, context: Mapping[str, Any], most: int) -> str:
    """Return the policy that a template makes of a context.

    Raises:
        RefusedError: it has an error, or asks for what is not there or not allowed.
        TooLargeError: the policy has more than `most` bytes.
    """
    try:
        return _generated(source, context, most)
    except (MemoryError, TooLargeError):
        raise
    except Exception as error:  # whatever a template's expression raises is the template's
        raise RefusedError(_why(error)) from error


def _generated(source: str, context: Mapping[str, Any], most: int) -> str:
    pieces: list[str] = []
    size = 0
    for piece in environment().from_string(source).generate(dict(context)):
        size += len(piece.encode(errors="surrogatepass"))
        if size > most:
            raise TooLargeError
        pieces.append(piece)
    return "".join(pieces)


def _why(error: Exception) -> str:
    """Return where a template is wrong, and how, in words that its author can use."""
    match error:
        case TemplateSyntaxError():
            where = f"line {error.lineno}" if error.name is None else f"{error.name}, line {error.lineno}"
            return f"{where}: {error.message}"
        case RecursionError():
            return "it calls itself without end, or nests too deeply"
        case SyntaxError():  # Python's, of what jinja2 makes of it; its lines are not the template's
            return f"{error.msg}; look for what nests deeply, or a name that is given twice"
        case SecurityError():
            said = f"{error}; templates can't reach out of the policy"
        case TemplateNotFound():
            said = f"there is no fragment {error.name}; there are {', '.join(sorted(fragments()))}"
        case UndefinedError():
            said = f"{error}; what there is stands in docs/reference/templates.md and in spec.template.values"
        case TemplateError() | UnfitError():
            said = str(error)
        case OSError():  # nothing can be opened here
            said = "templates can't reach out of the policy"
        case _:
            said = f"{type(error).__name__}: {error}"
    return f"{_line(error)}{said}"


def _line(error: BaseException) -> str:
    """Return where in the template an error comes from: jinja2 puts the template's lines into the trace."""
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "<template>"
    ]
    return f"line {lines[-1]}: " if lines and lines[-1] else ""
