"""Says how soon a status is written: its word at once, what only moves its counts ever later. Pure.

Called by `controller`. A thousand nodes that load a revision would otherwise cost a write for each of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..crds.models import ProfileStatus

# Seconds from a profile's last write to one of progress alone: the first, the second, and so on.
DISTANCES = (2.0, 4.0, 8.0, 10.0)
# What all profiles together may take of progress: more of them wait longer, but not for ever.
PER_SECOND = 1.0
LONGEST = 60.0


@dataclass(frozen=True)
class Written:
    """The last write of a profile's status.

    Attributes:
        at: monotonic seconds.
        steps: how many writes of progress alone there were in a row, up to that one.
    """

    at: float
    steps: int = 0


def is_progress(before: ProfileStatus, after: ProfileStatus) -> bool:
    """Return whether only counts, failures and messages differ: no condition's word, and no revision."""
    return _word(before) == _word(after)


def due(before: ProfileStatus, after: ProfileStatus, last: Written | None, moving: int) -> float:
    """Return from when on (monotonic seconds) a status may be written; 0 for at once.

    `before` is what is there, `last` the write that this process made of it; `moving` tells how many profiles
    had progress to tell of late.
    """
    if last is None or not is_progress(before, after):
        return 0.0
    distance = DISTANCES[min(last.steps, len(DISTANCES) - 1)]
    return last.at + max(distance, min(moving / PER_SECOND, LONGEST))


def moving(told: Iterable[float], now: float) -> int:
    """Return how many profiles had progress to tell of late; `told`: when each had it last."""
    return sum(now - at < LONGEST for at in told)


def written(before: ProfileStatus, after: ProfileStatus, last: Written | None, now: float) -> Written:
    """Return what to remember of a write that was just made."""
    progress = last is not None and is_progress(before, after)
    return Written(now, last.steps + 1 if last and progress else 0)


def _word(status: ProfileStatus) -> tuple[object, ...]:
    summary = status.summary
    return (
        status.observed_generation,
        status.revision,
        status.reference,
        status.profiles,
        (summary.mode, summary.status, summary.reference),
        [(one.type, one.status, one.reason, one.observed_generation) for one in status.conditions],
    )
