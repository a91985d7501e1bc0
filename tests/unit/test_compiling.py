"""Compiling beside the loop: who waits for whom, and that nothing is lost or told twice."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

import pytest
from hauberk.crds.errors import InputFault
from hauberk.crds.reasons import Reason
from hauberk.daemonset import compiling as module
from hauberk.daemonset.apparmor import CompiledText
from hauberk.daemonset.cache import Compiled
from hauberk.daemonset.compiling import AT_ONCE, GATHER_SECONDS, LONGEST_GATHER_SECONDS, Compiling
from hauberk.daemonset.holdings import Holding
from hauberk.daemonset.plan import Key, Load
from hypothesis import given, settings
from hypothesis import strategies as st


def step(profile: str, **fields: Any) -> Load:
    return dataclasses.replace(Load(profile, "u", "d1", "Enforce", text=profile), **fields)


def prepared(one: Load) -> CompiledText:
    holding = Holding(one.profile, one.uid, one.revision, one.mode, one.text, {}, [], "", boots=True)
    return CompiledText(one, holding, Compiled(b"", slow=False))


@dataclass
class Bench:
    """A compiler that a test has in its hand: a text is done when it is let go, or refused."""

    gates: dict[str, asyncio.Event] = field(default_factory=dict[str, asyncio.Event])
    refused: set[str] = field(default_factory=set[str])
    begun: list[str] = field(default_factory=list[str])
    ended: list[str] = field(default_factory=list[str])
    failures: list[Key] = field(default_factory=list[Key])
    known: set[str] = field(default_factory=set[str])
    why: Reason = Reason.POLICY_REFUSED
    most: int = 0
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.compiling = Compiling(self.prepare, self.failed, self.wake)

    async def prepare(self, one: Load, slot: AbstractAsyncContextManager[object]) -> CompiledText:
        if one.profile in self.known:
            return prepared(one)
        async with slot:
            self.begun.append(one.profile)
            self.most = max(self.most, len(self.begun) - len(self.ended))
            try:
                await self.gates.setdefault(one.profile, asyncio.Event()).wait()
                if one.profile in self.refused:
                    raise InputFault(self.why, "no")
                return prepared(one)
            finally:
                self.ended.append(one.profile)

    def failed(self, key: Key, error: Exception) -> None:
        assert isinstance(error, Exception)
        self.failures.append(key)

    def finish(self, *profiles: str) -> None:
        for one in profiles:
            self.gates.setdefault(one, asyncio.Event()).set()

    async def until(self, *profiles: str) -> None:
        """Wait until these have ended, and the loop was told."""
        async with asyncio.timeout(2):
            while not set(profiles) <= set(self.ended):
                await self.wake.wait()
                self.wake.clear()
                await asyncio.sleep(0)

    async def idle(self) -> None:
        """Wait until nothing compiles."""
        if self.compiling.tasks:
            await asyncio.wait(self.compiling.tasks.values(), timeout=2)
        assert self.compiling.tasks == {}

    def taken(self) -> list[str]:
        return sorted(one.step.profile for one in self.compiling.take())


@dataclass
class Clock:
    """The time that passes when a test says so: a busy machine makes none of them fail."""

    now: float = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    one = Clock()
    monkeypatch.setattr(module, "time", one)
    return one


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    one = Bench()
    yield one
    tasks = list(one.compiling.tasks.values())
    one.compiling.close()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_at_once_when_nothing_else_compiles(bench: Bench):
    bench.compiling.want([step("a"), step("b")])
    assert bench.taken() == []
    assert bench.compiling.due() == float("inf")
    bench.finish("a", "b")
    await bench.until("a", "b")
    assert bench.compiling.due() <= time.monotonic()
    assert bench.taken() == ["a", "b"]
    assert bench.taken() == []


async def test_what_is_ready_waits_for_what_is_about_to_be(bench: Bench, clock: Clock):
    bench.compiling.want([step("a"), step("b")])
    bench.finish("a")
    await bench.until("a")
    assert bench.taken() == []
    assert bench.compiling.due() == clock.now + GATHER_SECONDS
    bench.finish("b")
    await bench.until("b")
    assert bench.taken() == ["a", "b"]


async def test_where_many_are_about_to_be_more_of_them_go_together(bench: Bench, clock: Clock):
    names = [f"p{number}" for number in range(101)]
    bench.compiling.want([step(name) for name in names])
    bench.finish(names[0])
    await bench.until(names[0])
    assert bench.compiling.due() == clock.now + LONGEST_GATHER_SECONDS
    bench.finish(*names[1:-1])
    await bench.until(*names[:-1])
    assert bench.compiling.due() == clock.now + GATHER_SECONDS


async def test_a_text_that_never_ends_holds_up_nobody_for_longer(bench: Bench):
    bench.compiling.want([step("endless"), *(step(name) for name in "abc")])
    bench.finish(*"abc")
    await bench.until(*"abc")
    left = bench.compiling.due() - time.monotonic()
    assert left <= GATHER_SECONDS
    await asyncio.sleep(max(0.0, left))
    assert bench.taken() == ["a", "b", "c"]
    assert [key.profile for key in bench.compiling.tasks] == ["endless"]


async def test_what_was_ready_first_sets_the_time_for_all(bench: Bench, clock: Clock):
    bench.compiling.want([step("endless"), step("a"), step("b")])
    bench.finish("a")
    await bench.until("a")
    due = bench.compiling.due()
    clock.now += GATHER_SECONDS / 2
    bench.finish("b")
    await bench.until("b")
    assert bench.compiling.due() == due
    clock.now = due - 0.001
    assert bench.taken() == []
    clock.now = due
    assert bench.taken() == ["a", "b"]
    assert bench.compiling.due() == float("inf")


async def test_only_so_many_compile_at_once(bench: Bench):
    names = [f"p{number}" for number in range(6)]
    bench.compiling.want([step(name) for name in names])
    for name in names:
        await asyncio.sleep(0)
        assert len(bench.begun) - len(bench.ended) == AT_ONCE or name in names[-1:]
        bench.finish(name)
        await bench.until(name)
    assert bench.most == AT_ONCE
    assert bench.taken() == names


async def test_what_is_no_longer_wanted_ends(bench: Bench):
    bench.compiling.want([step("a"), step("b"), step("queued")])
    await asyncio.sleep(0)
    tasks = dict(bench.compiling.tasks)
    bench.compiling.want([step("b")])
    await asyncio.wait({tasks[step("a").key], tasks[step("queued").key]}, timeout=2)
    assert [tasks[step(name).key].cancelled() for name in ("a", "queued", "b")] == [True, True, False]
    assert bench.ended == ["a"]  # and the other was never begun
    assert set(bench.compiling.tasks) == {step("b").key}
    assert bench.failures == []
    bench.finish("b")
    await bench.until("b")
    assert bench.taken() == ["b"]


async def test_the_slot_of_what_ended_is_free(bench: Bench):
    bench.compiling.want([step("a"), step("b")])
    await asyncio.sleep(0)
    bench.finish("c", "d")
    bench.compiling.want([step("c"), step("d")])
    await bench.until("c", "d")
    assert bench.taken() == ["c", "d"]


async def test_what_is_wanted_again_at_once_is_compiled_again(bench: Bench):
    bench.compiling.want([step("a")])
    await asyncio.sleep(0)
    (old,) = bench.compiling.tasks.values()
    bench.compiling.want([])
    bench.compiling.want([step("a")])
    await asyncio.wait({old}, timeout=2)
    (new,) = bench.compiling.tasks.values()  # the end of the old one is not taken for its own
    assert new is not old
    bench.finish("a")
    await bench.until("a")
    await bench.idle()
    assert bench.taken() == ["a"]
    assert bench.failures == []


async def test_what_is_ready_and_no_longer_wanted_is_dropped(bench: Bench):
    bench.finish("a", "b")
    bench.compiling.want([step("a"), step("b")])
    await bench.until("a", "b")
    bench.compiling.want([step("b")])
    assert bench.taken() == ["b"]


@pytest.mark.parametrize(
    ("change", "again"),
    [({"drift": "someone unloaded it"}, False), ({"adopt": True}, True), ({"uid": "another"}, True)],
)
async def test_what_was_compiled_for_another_word_is_compiled_anew(
    bench: Bench, change: dict[str, Any], again: bool
):
    """Why it is loaded is no matter; what will be recorded is."""
    bench.finish("a")
    bench.compiling.want([step("a")])
    await bench.until("a")
    bench.compiling.want([step("a", **change)])
    assert bool(bench.compiling.tasks) is again
    await bench.idle()
    (taken,) = bench.compiling.take()
    assert (taken.step.adopt, taken.step.uid) == (change.get("adopt", False), change.get("uid", "u"))


async def test_wanting_the_same_again_changes_nothing(bench: Bench):
    bench.compiling.want([step("a")])
    tasks = dict(bench.compiling.tasks)
    bench.compiling.want([step("a")])
    assert bench.compiling.tasks == tasks
    bench.finish("a")
    await bench.until("a")
    bench.compiling.want([step("a")])
    assert bench.begun == ["a"]
    assert bench.taken() == ["a"]


async def test_a_failure_is_told_once_and_wakes_the_loop(bench: Bench):
    bench.refused.add("a")
    bench.finish("a")
    bench.compiling.want([step("a")])
    async with asyncio.timeout(2):
        await bench.wake.wait()
    assert bench.failures == [step("a").key]
    assert (bench.taken(), bench.compiling.tasks, bench.compiling.due()) == ([], {}, float("inf"))


async def test_a_bug_is_told_as_a_failure(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    def broken(_: Load) -> CompiledText:
        raise KeyError("a bug")

    monkeypatch.setattr("tests.unit.test_compiling.prepared", broken)
    bench.finish("a")
    bench.compiling.want([step("a")])
    await bench.until("a")
    assert bench.failures == [step("a").key]


async def test_closing_ends_all(bench: Bench):
    bench.compiling.want([step(name) for name in "abcd"])
    await asyncio.sleep(0)
    tasks = list(bench.compiling.tasks.values())
    bench.compiling.close()
    await asyncio.wait(tasks, timeout=2)
    assert all(task.cancelled() for task in tasks)
    assert (bench.compiling.tasks, bench.compiling.ready, bench.failures) == ({}, {}, [])


async def run(rounds: list[set[str]], refused: set[str], ends: list[str]) -> None:
    """Want one set after another while texts end in an order; then let all end."""
    bench = Bench(refused=refused)
    asked = Counter[str]()
    told: list[str] = []
    finish = iter(ends)
    for wanted in rounds:
        bench.compiling.want([step(name) for name in wanted if name not in told])
        asked.update(wanted)
        await asyncio.sleep(0)
        bench.finish(*([one] if (one := next(finish, "")) else []))
        await asyncio.sleep(0)
        told += bench.taken()
        told += [key.profile for key in bench.failures if key.profile not in told]
        assert set(told) <= set(asked)
    last = {name for name in rounds[-1] if name not in told}
    bench.finish(*asked)
    await bench.idle()
    told += bench.taken()
    told += [key.profile for key in bench.failures if key.profile not in told]
    assert last <= set(told)  # what was wanted to the end ended up somewhere
    assert max(Counter(told).values(), default=0) <= 1
    assert not set(bench.refused) & (set(told) - {key.profile for key in bench.failures})
    assert max(Counter(bench.failures).values(), default=0) <= 1
    assert bench.most <= AT_ONCE


names = st.sampled_from("abcd")


@settings(max_examples=100, deadline=None)
@given(
    rounds=st.lists(st.sets(names), min_size=1, max_size=5),
    refused=st.sets(names, max_size=2),
    ends=st.lists(names, max_size=5),
)
def test_every_wanted_text_ends_up_ready_or_failed_and_once(
    rounds: list[set[str]], refused: set[str], ends: list[str]
):
    asyncio.run(run(rounds, refused, ends))


def test_the_gathering_is_short():
    """It is added to the time that every profile takes to be loaded."""
    assert module.GATHER_SECONDS <= 0.5
    assert module.LONGEST_GATHER_SECONDS <= 1.0  # where that alone takes many times longer


async def test_what_is_found_compiled_waits_for_no_slot():
    bench = Bench(known={"found"})
    bench.compiling.want([step("slow-1"), step("slow-2"), step("found")])
    async with asyncio.timeout(2):
        await bench.wake.wait()
    assert [one.step.profile for one in bench.compiling.ready.values()] == ["found"]
    bench.compiling.close()


async def test_texts_that_took_too_long_have_one_slot_among_them():
    slow = [step(f"slow-{number}") for number in range(AT_ONCE + 2)]
    bench = Bench(refused={one.profile for one in slow}, why=Reason.POLICY_TOO_SLOW)
    bench.compiling.want(slow)
    bench.finish(*(one.profile for one in slow))
    await bench.until(*(one.profile for one in slow))
    bench.gates.clear()
    bench.begun.clear()
    bench.ended.clear()

    bench.compiling.want([])
    bench.compiling.want([*slow, step("good")])  # tried again
    await asyncio.sleep(0.05)

    assert len(bench.begun) == AT_ONCE
    assert "good" in bench.begun
    bench.compiling.close()
