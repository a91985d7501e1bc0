"""Answers whether a SecurityProfile may be stored: `kubectl apply` is where its author is looking.

Called by `webhook`. The judgement is the one that publishing rests on (`judging`, `publish`), so that what is
let in here is published, and what came past the webhook is refused later with the same words.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from ..crds.models import SecurityProfile
from ..profiles.check import described
from .answers import cut
from .publish import Judged, Refusal, judgement, name_owners
from .publisher import Publisher


@dataclass(frozen=True)
class Answer:
    """What is said of an object that someone asks to store.

    Attributes:
        refused: why it may not be, in one sentence; empty where it may.
        warnings: what its author should know of it all the same.
    """

    refused: str = ""
    warnings: tuple[str, ...] = ()


async def review(profile: SecurityProfile, publisher: Publisher) -> Answer:
    """Return what to say of a SecurityProfile, as it would be stored.

    Raises:
        NodeFault: the parser or the renderer can't be run.
    """
    kinds = publisher.snapshot().kinds[profile.spec.type]
    judged = await publisher.judging.judged(profile, kinds, again=True)
    if isinstance(judged, Refusal):
        return Answer(refused=judged.message)
    snapshot = _with(profile, publisher.snapshot())
    verdict = judgement(profile, snapshot, name_owners(snapshot))
    if isinstance(verdict, Refusal):
        return Answer(refused=verdict.message)
    if circle := required_in_circle(profile, snapshot.profiles):
        return Answer(
            refused=f"spec.selinux.requires is a circle, {' -> '.join(circle)}: none of them could "
            "be the first to be loaded; take one out"
        )
    missing = [
        f"spec.selinux.requires: there is no SecurityProfile {name} yet, and nodes wait for it"
        for name in profile.spec.requires
        if name not in snapshot.profiles
    ]
    partly = [
        f"not for {described(kinds[key])}: {one.message}"
        for one in judged.unrendered
        for key in one.facts[:1]
        if key in kinds
    ]
    return Answer(warnings=cut([*missing, *partly, *judged.advice]))


def required_in_circle(profile: SecurityProfile, profiles: Mapping[str, SecurityProfile]) -> tuple[str, ...]:
    """Return a way from a profile through what is required back to itself; empty where there is none."""
    own = profile.metadata.name
    ways: list[tuple[str, ...]] = [(own, name) for name in profile.spec.requires]
    seen: set[str] = set()
    while ways:
        way = ways.pop()
        if way[-1] == own:
            return way
        if way[-1] not in seen and way[-1] in profiles:
            seen.add(way[-1])
            ways += [(*way, name) for name in profiles[way[-1]].spec.requires]
    return ()


def _with(profile: SecurityProfile, snapshot: Judged) -> Judged:
    """Return what would be known if a profile were stored; what is stored of its name now gives way."""
    if not profile.metadata.creation_timestamp:  # not stored yet: nobody is younger
        metadata = msgspec.structs.replace(profile.metadata, creation_timestamp="9999-12-31T23:59:59Z")
        profile = msgspec.structs.replace(profile, metadata=metadata)
    return dataclasses.replace(snapshot, profiles={**snapshot.profiles, profile.metadata.name: profile})
