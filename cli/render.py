"""Renders policies for kinds of nodes as the cluster would, without one: the same renderer, the same parser.

Called by the command of its name. What it returns says for each distinct text which kinds it is for.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..crds.errors import InputFault
from ..crds.facts import facts_key, supports
from ..crds.models import Facts
from ..crds.names import ANY_FACTS
from ..crds.reasons import Reason
from ..profiles.check import Accepted, Judge, check, described
from ..profiles.parser import fault_message
from .kinds import common
from .manifest import as_yaml
from .sources import Source


@dataclass(frozen=True)
class Rendered:
    """One distinct text, the kinds of nodes that it is for, and what it defines in their kernels."""

    kinds: tuple[str, ...]
    names: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Failed:
    """Kinds of nodes for which there is no text, and why."""

    kinds: tuple[str, ...]
    reason: str
    message: str


@dataclass(frozen=True)
class Rendering:
    """What became of one profile's policy."""

    file: str
    profile: str
    texts: tuple[Rendered, ...] = ()
    failed: tuple[Failed, ...] = ()


async def render(found: Iterable[Source], judge: Judge, given: Mapping[str, Facts]) -> list[Rendering]:
    """Return what policies become for kinds of nodes, by their names; where none is given, for common ones.

    Raises:
        NodeFault: the parser or the renderer could not be run.
    """
    return [await _rendering(source, judge, given) for source in found]


async def _rendering(source: Source, judge: Judge, given: Mapping[str, Facts]) -> Rendering:
    profile_type = source.spec.type
    # as in the cluster, no text is made for nodes that can't hold it; bare facts may not say
    kinds = {
        name: facts
        for name, facts in (given or common(profile_type)).items()
        if not facts.lsms or supports(facts, profile_type)
    }
    if not kinds:
        message = f"none of these nodes holds profiles of the type {profile_type}"
        return Rendering(source.file, source.name, failed=(Failed(tuple(given), Reason.NO_NODES, message),))
    names: dict[str, list[str]] = {ANY_FACTS: list(kinds)}
    for name, facts in kinds.items():
        names.setdefault(facts_key(facts), []).append(name)
    by_key = {facts_key(facts): facts for facts in kinds.values()}
    try:
        accepted = await check(source.spec, judge, by_key)
    except InputFault as fault:
        if source.spec.template is None:
            failed = [Failed(tuple(kinds), fault.reason, fault_message(fault))]
        else:  # for each kind: told is the first one's only
            failed = [
                Failed(tuple(names[key]), *await _why(source, judge, {key: facts}, fault))
                for key, facts in by_key.items()
            ]
        return Rendering(source.file, source.name, failed=tuple(_together(failed)))
    return _told(source, accepted, names)


async def _why(
    source: Source, judge: Judge, kind: Mapping[str, Facts], together: InputFault
) -> tuple[str, str]:
    """Return reason and message for one kind; `together`: what was said of all, such as a limit of time."""
    try:
        await check(source.spec, judge, kind)
    except InputFault as fault:
        (facts,) = kind.values()
        return fault.reason, fault_message(fault).removeprefix(f"for {described(facts)}: ")
    return together.reason, fault_message(together)


def _told(source: Source, accepted: Accepted, names: Mapping[str, Sequence[str]]) -> Rendering:
    return Rendering(
        source.file,
        source.name,
        tuple(Rendered(_of(one.facts, names), tuple(one.names), one.text) for one in accepted.texts),
        tuple(Failed(_of(one.facts, names), one.reason, one.message) for one in accepted.unrendered),
    )


def _of(keys: Iterable[str], names: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    return tuple(name for key in keys for name in names[key])


def _together(failed: Iterable[Failed]) -> list[Failed]:
    kinds: dict[tuple[str, str], tuple[str, ...]] = {}
    for one in failed:
        key = (one.reason, one.message)
        kinds[key] = kinds.get(key, ()) + one.kinds
    return [Failed(those, *key) for key, those in kinds.items()]


def as_text(renderings: Iterable[Rendering]) -> str:
    """Return the texts, each below a comment that says what it is."""
    return "\n".join(
        f"# {one.profile}, for {', '.join(text.kinds)}\n{text.text.rstrip()}\n"
        for one in renderings
        for text in one.texts
    )


def faults(renderings: Iterable[Rendering]) -> list[str]:
    """Return a sentence for each failure."""
    return [
        f"{one.file}: error: {one.profile}, for {', '.join(failed.kinds)}: {failed.message} [{failed.reason}]"
        for one in renderings
        for failed in one.failed
    ]


def as_json(renderings: Iterable[Rendering]) -> str:
    """Return all of it as a JSON list."""
    return json.dumps([_plain(one) for one in renderings], indent=2) + "\n"


def as_stream(renderings: Iterable[Rendering]) -> str:
    """Return the same as YAML."""
    return as_yaml([_plain(one) for one in renderings])


def _plain(one: Rendering) -> dict[str, Any]:
    return {
        "file": one.file,
        "profile": one.profile,
        "texts": [
            {"kinds": list(text.kinds), "names": list(text.names), "text": text.text} for text in one.texts
        ],
        "failed": [
            {"kinds": list(failed.kinds), "reason": str(failed.reason), "message": failed.message}
            for failed in one.failed
        ],
    }
