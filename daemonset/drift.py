"""Decides when repairing what someone else changes has become a fight. Pure; the caller has the clock.

Called by `reconciler` after each repair. A profile that is put back at once each time would have two programs
load policy for ever, each load a leak and a risk in the kernel; so a fight is spaced out and told.
"""

from __future__ import annotations

from dataclasses import dataclass

# This many repairs of a profile within a minute are put down to an accident or a test; more are a fight.
REPAIRS = 5
MINUTE_SECONDS = 60.0
# The first pause of a fight; each further one is twice as long, up to the last.
PAUSE_SECONDS = (30.0, 600.0)
# A profile that was left alone for this long starts anew.
PEACE_SECONDS = 900.0


@dataclass(frozen=True)
class Drift:
    """What others did to one profile since this agent started.

    Attributes:
        count: repairs so far.
        message: what the last one mended.
        recent: when the repairs of the last minute were, in the caller's monotonic seconds.
        pauses: pauses of the fight that is going on.
    """

    count: int = 0
    message: str = ""
    recent: tuple[float, ...] = ()
    pauses: int = 0


def repaired(before: Drift, message: str, now: float) -> tuple[Drift, float]:
    """Return the history with one more repair, and for how long to leave the profile alone."""
    calm = not before.recent or now - before.recent[-1] > PEACE_SECONDS
    pauses = 0 if calm else before.pauses
    recent = (*(time for time in before.recent if now - time < MINUTE_SECONDS), now)
    # After a pause a single repair goes on with the fight: the other side has not given up.
    fight = len(recent) > REPAIRS or pauses > 0
    low, high = PAUSE_SECONDS
    pause = min(high, low * 2**pauses) if fight else 0.0
    longest = pause == high  # counted on for ever, its doubling would be no number any more
    return Drift(before.count + 1, message, recent, pauses + (fight and not longest)), pause
