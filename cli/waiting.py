"""Whether what `hauberk wait` waits for has come, or never will. Pure.

Called by `live` with what a watch has just told.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ..crds.models import Condition, SecurityProfile
from ..crds.reasons import Reason


class Goal(StrEnum):
    """What is waited for."""

    READY = "Ready"
    AVAILABLE = "Available"
    DELETE = "delete"


@dataclass(frozen=True)
class Standing:
    """How far a profile is.

    Attributes:
        name: of the profile.
        reached: what is waited for is so.
        refused: it will not be, unless someone changes the profile.
        reason: one word for it, as conditions have it.
        message: a sentence.
    """

    name: str
    reached: bool
    refused: bool
    reason: str
    message: str


def current(profile: SecurityProfile, kind: str) -> Condition | None:
    """Return a condition, if it speaks of the profile's present generation."""
    generation = profile.metadata.generation
    found = (one for one in profile.status.conditions if one.type == kind)
    return next((one for one in found if one.observed_generation == generation), None)


def standing(name: str, profile: SecurityProfile | None, goal: Goal, uid: str = "") -> Standing:
    """Return how far a profile is; `uid` of the object that was there first, None for one that is not."""
    if goal is Goal.DELETE:
        return _deleted(name, profile, uid)
    if profile is None:
        return Standing(name, False, False, Reason.PROGRESSING, "the profile is not there yet")
    wanted, accepted = current(profile, goal), current(profile, "Accepted")
    if wanted is None:
        message = f"the operator has not looked at generation {profile.metadata.generation} yet"
        return Standing(name, False, False, Reason.PROGRESSING, message)
    if wanted.status == "True":
        return Standing(name, True, False, wanted.reason, wanted.message)
    if accepted and accepted.status == "False":
        return Standing(name, False, True, accepted.reason, accepted.message)
    return Standing(name, False, False, wanted.reason, wanted.message)


def unanswered(name: str) -> Standing:
    """Return how far a profile is of which the cluster told nothing in time."""
    return Standing(name, False, False, Reason.PROGRESSING, "the cluster did not answer in time")


def _deleted(name: str, profile: SecurityProfile | None, uid: str) -> Standing:
    if profile is None or (uid and profile.metadata.uid != uid):
        return Standing(name, True, False, Reason.SETTLED, "the profile is gone")
    if not profile.metadata.deletion_timestamp:
        return Standing(name, False, False, Reason.SETTLED, "nobody has deleted it")
    ready = current(profile, "Ready")
    if ready is None:
        return Standing(name, False, False, Reason.TERMINATING, "the profile is being deleted")
    return Standing(name, False, False, ready.reason, ready.message)


def settled(found: list[Standing]) -> bool:
    """Return whether waiting has an end: all have come, or one never will."""
    return all(one.reached for one in found) or any(one.refused for one in found)


def seconds(text: str) -> float:
    """Return the seconds of a duration: `90s`, `1m30s`, `500ms`, as kubectl has them, or a bare number.

    Raises:
        ValueError: it is none.
    """
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
    total, rest = 0.0, text
    if text.replace(".", "", 1).isdecimal():
        return float(text)
    while rest:
        digits = len(rest) - len(rest.lstrip("0123456789."))
        unit = next((one for one in units if rest[digits:].startswith(one)), "")
        if not digits or not unit:
            raise ValueError(f"{text} is no duration; write 90s, 5m or 1h30m")
        total += float(rest[:digits]) * units[unit]
        rest = rest[digits + len(unit) :]
    if not text:
        raise ValueError("no duration; write 90s, 5m or 1h30m")
    return total
