"""How soon a status is written: tables of what was there, what is to be, and when."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hauberk.crds.models import Condition, Counts, Failure, ProfileStatus, Summary
from hauberk.operator.pace import DISTANCES, LONGEST, Written, due, is_progress, moving, written


def condition(kind: str, status: str, reason: str, message: str = "") -> Condition:
    return Condition(type=kind, status=status, reason=reason, message=message, observed_generation=2)


UPDATING = ProfileStatus(
    observed_generation=2,
    revision="d2",
    nodes=Counts(targeted=3, ready=1, updating=2),
    summary=Summary(ready="1/3", mode="Enforce", status="Updating"),
    conditions=[
        condition("Available", "True", "Verified", "loaded on 1 node"),
        condition("Ready", "False", "Updating", "verified on 1 of 3 nodes"),
    ],
)
FURTHER = msgspec.structs.replace(
    UPDATING,
    nodes=Counts(targeted=3, ready=2, updating=1),
    summary=Summary(ready="2/3", mode="Enforce", status="Updating"),
    conditions=[
        condition("Available", "True", "Verified", "loaded on 2 nodes"),
        condition("Ready", "False", "Updating", "verified on 2 of 3 nodes"),
    ],
)


def but(**changes: Any) -> ProfileStatus:
    """Return the status that is further, and has something else besides."""
    return msgspec.structs.replace(FURTHER, **changes)


def said(*conditions: Condition) -> ProfileStatus:
    return but(conditions=list(conditions))


AVAILABLE, READY = FURTHER.conditions


@pytest.mark.parametrize(
    ("after", "progress"),
    [
        (FURTHER, True),
        (but(failures=[Failure(node="n", reason="LoadFailed", message="no")]), True),
        (UPDATING, True),
        (but(observed_generation=3), False),
        (but(revision="d3"), False),
        (but(reference={"appArmorProfile": {}}), False),
        (but(profiles=["p"]), False),
        (but(summary=Summary(ready="2/3", mode="Complain", status="Updating")), False),
        (said(AVAILABLE, condition("Ready", "True", "Ready")), False),
        (said(AVAILABLE, condition("Ready", "False", "NodesFailed")), False),
        (said(condition("Available", "False", "NotVerified"), READY), False),
        (said(AVAILABLE), False),
        (said(AVAILABLE, READY, condition("Stalled", "False", "Settled")), False),
        (said(AVAILABLE, msgspec.structs.replace(READY, observed_generation=3)), False),
    ],
)
def test_progress_moves_counts_and_no_word(after: ProfileStatus, progress: bool):
    assert is_progress(UPDATING, after) is progress


@pytest.mark.parametrize(
    ("last", "many", "at"),
    [
        (None, 1, 0.0),  # who just started knows of no write
        (Written(100.0), 1, 102.0),
        (Written(100.0, 1), 1, 104.0),
        (Written(100.0, 2), 1, 108.0),
        (Written(100.0, 3), 1, 110.0),
        (Written(100.0, 4), 1, 110.0),
        (Written(100.0, 99), 1, 110.0),
        (Written(100.0), 0, 102.0),
        (Written(100.0), 2, 102.0),
        (Written(100.0), 8, 108.0),  # one a second, of all profiles together
        (Written(100.0, 4), 10, 110.0),
        (Written(100.0), 40, 140.0),
        (Written(100.0), 10_000, 100.0 + LONGEST),
    ],
)
def test_progress_is_written_at_growing_distances(last: Written | None, many: int, at: float):
    assert due(UPDATING, FURTHER, last, many) == at


def test_who_had_nothing_to_tell_for_long_moves_no_more():
    assert moving([100.0, 130.0, 100.0 - LONGEST], 100.0 + LONGEST - 1) == 2


@pytest.mark.parametrize("last", [None, Written(100.0), Written(100.0, 99)])
def test_what_changes_a_word_is_written_at_once(last: Written | None):
    assert due(UPDATING, but(revision="d3"), last, 1000) == 0.0


@pytest.mark.parametrize(
    ("after", "last", "remembered"),
    [
        (FURTHER, None, Written(7.0)),
        (FURTHER, Written(1.0), Written(7.0, 1)),
        (FURTHER, Written(1.0, 4), Written(7.0, 5)),
        (but(revision="d3"), Written(1.0, 4), Written(7.0)),
    ],
)
def test_only_progress_makes_the_distances_grow(
    after: ProfileStatus, last: Written | None, remembered: Written
):
    assert written(UPDATING, after, last, 7.0) == remembered


def test_a_rollout_of_ten_minutes_costs_few_writes():
    """A count that moves all the time, looked at all the time."""
    now, last, writes = 0.0, Written(0.0), 0
    while now < 600:
        if due(UPDATING, FURTHER, last, 1) <= now:
            last, writes = written(UPDATING, FURTHER, last, now), writes + 1
        now += 0.1
    assert writes <= len(DISTANCES) + 600 / DISTANCES[-1]
