"""When repairing becomes a fight: pauses, and that they end."""

from __future__ import annotations

import itertools

import pytest
from hauberk.daemonset.drift import MINUTE_SECONDS, PAUSE_SECONDS, PEACE_SECONDS, REPAIRS, Drift, repaired
from hypothesis import given
from hypothesis import strategies as st

FIRST, LONGEST = PAUSE_SECONDS


def fight(repairs: int, *, every: float = 0.1) -> tuple[Drift, list[float], float]:
    """Return the history after repairs that follow one another as fast as the pauses let them."""
    now, history, pauses = 100.0, Drift(), list[float]()
    for _ in range(repairs):
        history, pause = repaired(history, "x", now)
        pauses.append(pause)
        now += max(pause, every)
    return history, pauses, now


@pytest.mark.parametrize(
    ("every", "repairs", "pauses"),
    [
        (0.1, REPAIRS, []),
        (0.1, REPAIRS + 1, [30.0]),
        (0.1, REPAIRS + 4, [30.0, 60.0, 120.0, 240.0]),
        (0.1, REPAIRS + 8, [30.0, 60.0, 120.0, 240.0, 480.0, 600.0, 600.0, 600.0]),
        (MINUTE_SECONDS / REPAIRS, 30, []),  # once in twelve seconds is no fight
        (MINUTE_SECONDS / (REPAIRS + 1), REPAIRS + 2, [30.0, 60.0]),
        (3600.0, 30, []),
    ],
)
def test_a_fight_has_its_pauses(every: float, repairs: int, pauses: list[float]):
    history, found, _ = fight(repairs, every=every)
    assert [one for one in found if one] == pauses
    assert found == [0.0] * (repairs - len(pauses)) + pauses
    assert history.count == repairs


@pytest.mark.parametrize(("peace", "pause"), [(PEACE_SECONDS, 120.0), (PEACE_SECONDS + 1, 0.0)])
def test_peace_ends_a_fight(peace: float, pause: float):
    history, pauses, _ = fight(REPAIRS + 2)
    assert pauses[-1] == 60.0
    again, found = repaired(history, "x", history.recent[-1] + peace)
    assert found == pause
    assert again.count == history.count + 1
    # and the next one counts from there
    assert repaired(again, "x", again.recent[-1] + 1)[1] == (240.0 if pause else 0.0)


def test_the_longest_pause_is_not_peace():
    assert LONGEST < PEACE_SECONDS


def test_a_fight_may_last_for_years():
    """A year of pauses of ten minutes is 52,560 of them; to double for each would be no number any more."""
    history, pauses, _ = fight(3000)
    assert set(pauses[20:]) == {LONGEST}
    assert history.count == 3000


def test_only_the_last_repair_is_told():
    history, _ = repaired(Drift(), "one", 0.0)
    history, _ = repaired(history, "two", 1.0)
    assert (history.message, history.count) == ("two", 2)


gaps = st.one_of(
    st.floats(0, 2), st.floats(0, MINUTE_SECONDS), st.floats(0, 700), st.floats(0, 2 * PEACE_SECONDS)
)


@given(st.lists(gaps, max_size=60))
def test_any_repairs_are_counted_and_paused_as_promised(waits: list[float]):
    now, history, before, times = 0.0, Drift(), 0.0, list[float]()
    for count, wait in enumerate(waits, start=1):
        gap = max(wait, before)  # a pause is kept
        now += gap
        times.append(now)
        later, pause = repaired(history, str(count), now)
        assert later.count == history.count + 1 == count
        assert later.message == str(count)
        assert pause == 0.0 or FIRST <= pause <= LONGEST
        within = sum(now - time < MINUTE_SECONDS for time in times)
        peace = gap > PEACE_SECONDS or count == 1
        if within > REPAIRS:
            assert pause >= FIRST
        if peace:
            assert pause == 0.0
        if before and not peace:  # the fight goes on: twice as long, up to the longest
            assert pause == min(LONGEST, 2 * before)
        if pause and not before:
            assert within > REPAIRS
            assert pause == FIRST
        assert len(later.recent) <= max(within, 1)
        history, before = later, pause


@given(st.lists(st.floats(0, 5), min_size=REPAIRS + 1, max_size=40))
def test_no_one_repairs_more_than_some_times_a_minute(waits: list[float]):
    now, history, times = 0.0, Drift(), list[float]()
    for wait in waits:
        now += wait
        history, pause = repaired(history, "x", now)
        times.append(now)
        now += pause
    for start in times:
        assert sum(start <= time < start + FIRST for time in times) <= REPAIRS + 1


def test_the_pauses_double():
    _, pauses, _ = fight(REPAIRS + 5)
    fights = [one for one in pauses if one]
    assert all(later == min(LONGEST, 2 * first) for first, later in itertools.pairwise(fights))
