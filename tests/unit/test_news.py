"""When an agent looks at news: at once, and for many together where they pour in."""

from __future__ import annotations

import pytest
from hauberk.daemonset.news import LONGEST, QUIET, SHORTEST, News
from hypothesis import given
from hypothesis import strategies as st


def looks(news: News, *times: float) -> list[float]:
    """Return when there was a look at news that came then, in order."""
    found: list[float] = []
    for came in times:
        if found and came <= found[-1]:
            continue  # that look is still to come, and is for this one too
        found.append(news.due(came))
        news.looked(found[-1], found[-1])
    return found


@pytest.mark.parametrize("apart", [QUIET + 1, 3.0, 1.0, SHORTEST * 2])
def test_what_comes_alone_is_looked_at_at_once(apart: float):
    times = [100 + apart * number for number in range(10)]
    assert looks(News(), *times) == times


def test_a_burst_is_looked_at_ever_later():
    burst = [100 + number * 0.05 for number in range(200)]
    assert looks(News(), *burst)[:6] == pytest.approx([100, 100.25, 100.75, 101.75, 103.75, 105.75], abs=0.06)


def test_after_a_quiet_time_it_is_as_at_first():
    news = News()
    looks(news, *(100 + number * 0.05 for number in range(200)))
    assert looks(news, 200, 200.01) == [200, 200 + SHORTEST]


def test_with_many_nodes_looks_are_as_far_apart_as_reports():
    burst = [100 + number * 0.05 for number in range(2000)]
    found = looks(News(longest=10.0), *burst)
    assert found[-1] - found[-2] == pytest.approx(10, abs=0.06)


@pytest.mark.parametrize(("late", "next_one"), [(0.01, 0.5), (0.3, 3.0), (100.0, 20.0)])
def test_who_gets_a_processor_late_looks_less_often(late: float, next_one: float):
    news = News(longest=10.0)
    looks(news, 100)
    news.looked(100.25 + late, 100.25)
    assert news.due(100.26 + late) == pytest.approx(100.25 + late + next_one)


def test_a_change_alone_is_no_burst_however_late_it_is_looked_at():
    news = News(longest=10.0)
    news.looked(103, 100)
    assert not news.is_burst(103.1)
    news.looked(123, news.due(110))  # the revision from before is gone
    assert not news.is_burst(123.1)
    for at in (200, 225, 250):  # changes, each alone
        news.looked(at + 3, news.due(at))
        assert not news.is_burst(at + 3.1)


def test_a_burst_is_over_when_no_more_came_for_as_long_as_looks_were_apart():
    news = News(longest=10.0)
    looks(news, *(100 + number * 0.05 for number in range(400)))
    assert news.is_burst(news.looked_at + news.distance - 0.1)
    assert not news.is_burst(news.looked_at + news.distance)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=50))
def test_nothing_waits_for_longer_than_that(times: list[float]):
    times.sort()
    found = looks(News(), *times)
    for came in times:
        assert any(came <= at <= came + LONGEST for at in found)
