"""How much of the processor rounds take, and the pauses that come of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest
from hauberk.operator.effort import AHEAD_SECONDS, LONGEST_PAUSE, SHARE, Effort, Measured
from hypothesis import given
from hypothesis import strategies as st


def test_after_a_quiet_time_rounds_follow_each_other_without_a_pause():
    effort = Effort(at=100.0)
    assert [effort.pause_after(0.005, 100.0) for _ in range(20)] == pytest.approx([0.0] * 20)
    assert effort.pause_after(0.005, 100.0) == pytest.approx(0.1)
    # 0.04 s were paid back too much
    assert effort.pause_after(0.005, 100.14) == pytest.approx(0.06)
    assert effort.pause_after(0.08, 200.0) == 0.0


@given(st.lists(st.floats(0.0, SHARE * LONGEST_PAUSE), min_size=1, max_size=60))
def test_in_the_long_run_rounds_take_their_share(busy: list[float]):
    effort, now = Effort(at=0.0), 0.0
    for one in busy:
        now += one
        now += effort.pause_after(one, now)
    assert sum(busy) <= AHEAD_SECONDS + SHARE * now + 1e-9


def test_a_round_that_takes_long_is_forgiven():
    effort = Effort(at=0.0)
    assert effort.pause_after(60.0, 60.0) == LONGEST_PAUSE
    assert effort.pause_after(0.0, 60.0 + LONGEST_PAUSE) == 0.0


def busy(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


async def others(until: asyncio.Event) -> None:
    while not until.is_set():
        busy(0.02)
        await asyncio.sleep(0)


async def test_work_is_measured_without_what_others_do_while_it_waits():
    over = asyncio.Event()

    async def work() -> str:
        for _ in range(3):
            busy(0.01)
            await asyncio.sleep(0.05)
        return "done"

    beside = asyncio.create_task(others(over))
    measured = Measured(work())
    before = time.thread_time()
    assert await measured == "done"
    over.set()
    await beside
    assert 0.03 <= measured.seconds < 0.1
    assert time.thread_time() - before > 0.08  # of which others had the most


async def wait_for_ever() -> None:
    await asyncio.Event().wait()


async def too_long() -> None:
    async with asyncio.timeout(0.01):
        await wait_for_ever()


async def wrong() -> None:
    await asyncio.sleep(0)
    raise ValueError("wrong")


@pytest.mark.parametrize(("work", "error"), [(too_long, TimeoutError), (wrong, ValueError)])
async def test_what_ends_work_comes_through(work: Callable[[], Awaitable[None]], error: type[Exception]):
    async def whole() -> None:
        await work()

    with pytest.raises(error):
        await Measured(whole())


async def test_work_that_is_cancelled_hears_of_it():
    heard: list[str] = []

    async def work() -> None:
        try:
            await wait_for_ever()
        except asyncio.CancelledError:
            heard.append("cancelled")
            await asyncio.sleep(0)  # it may have something to end
            heard.append("ended")
            raise

    async def whole() -> None:
        await Measured(work())

    task = asyncio.create_task(whole())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert heard == ["cancelled", "ended"]
