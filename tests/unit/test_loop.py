"""When a loop decides, and that others have their turn."""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast

import pytest
from hauberk.crds.errors import ClusterFault
from hauberk.crds.exporter import of_loop
from hauberk.crds.names import PROFILE_NODES, SECURITY_PROFILES
from hauberk.crds.reasons import Reason
from hauberk.operator.cluster import Cluster
from hauberk.operator.effort import SHARE
from hauberk.operator.loop import STUCK_SECONDS, TURN_SECONDS, Loop

from tests.unit.loops import Api, body


class Rounds(Loop[Cluster]):
    """A loop that counts, and takes its time."""

    rounds = 0
    takes = 0.0

    async def reconcile(self) -> None:
        self.rounds += 1
        end = time.thread_time() + self.takes
        while time.thread_time() < end:
            pass


def rounds_of(api: Api) -> Rounds:
    return Rounds(cast("Cluster", api), kinds=(SECURITY_PROFILES, PROFILE_NODES))


async def until(what: Any) -> None:
    async with asyncio.timeout(10):
        while not what():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.001)


async def test_while_events_pour_in_most_of_the_time_is_the_others():
    loop = rounds_of(Api())
    loop.effort.left = 0.0
    loop.takes = 0.01
    task = asyncio.create_task(loop.run())
    began = time.monotonic()
    await until(lambda: loop.wake.set() or loop.rounds == 5)
    task.cancel()
    assert 4 * loop.takes <= SHARE * (time.monotonic() - began)


async def test_what_writing_takes_is_no_part_of_that():
    """How many writes there are the budget bounds: who has many to make need not pause for them."""
    loop = rounds_of(Api())
    loop.effort.left, loop.takes = 0.0, 0.0

    async def write() -> None:
        end = time.thread_time() + 0.02
        while time.thread_time() < end:
            pass
        await asyncio.sleep(0)

    async def reconcile() -> None:
        loop.rounds += 1
        await loop.write(write())

    loop.reconcile = reconcile
    task = asyncio.create_task(loop.run())
    began = time.monotonic()
    await until(lambda: loop.wake.set() or loop.rounds == 11)
    task.cancel()
    assert time.monotonic() - began < 10 * 0.02 / SHARE / 2


async def test_after_a_quiet_time_an_event_is_decided_on_at_once():
    loop = rounds_of(Api())
    task = asyncio.create_task(loop.run())
    await until(lambda: loop.rounds == 1)
    await asyncio.sleep(0)
    loop.seen(SECURITY_PROFILES, "a", body("a"), deleted=False)
    await until(lambda: loop.rounds == 2)
    assert not loop.wake.is_set()
    task.cancel()


async def test_news_in_no_hurry_are_decided_on_together(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("hauberk.operator.loop.PATIENCE_SECONDS", 0.2)
    loop = rounds_of(Api())
    loop.patient = (PROFILE_NODES,)
    task = asyncio.create_task(loop.run())
    await until(lambda: loop.rounds == 1)
    for name in ("a", "b", "c"):
        loop.seen(PROFILE_NODES, name, {"metadata": {"name": name}}, deleted=False)
        await asyncio.sleep(0.02)
    assert loop.rounds == 1
    await until(lambda: loop.rounds == 2)
    assert loop.reports.keys() == {"a", "b", "c"}
    await asyncio.sleep(0.3)
    assert loop.rounds == 2
    loop.seen(PROFILE_NODES, "a", {}, deleted=True)
    await until(lambda: loop.rounds == 3)
    task.cancel()


async def test_a_round_that_was_asked_for_comes_without_an_event():
    class Asking(Rounds):
        async def reconcile(self) -> None:
            await super().reconcile()
            if self.rounds < 3:
                self.wake_by(self.clock() + 3600)
                self.wake_by(self.clock() + 0.01)

    loop = Asking(cast("Cluster", Api()))
    task = asyncio.create_task(loop.run())
    await until(lambda: loop.rounds == 3)
    task.cancel()


async def test_work_that_is_long_lets_others_have_their_turn():
    loop, turns = rounds_of(Api()), 0

    async def beside() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    task = asyncio.create_task(beside())
    await asyncio.sleep(0)
    began = time.perf_counter()
    while time.perf_counter() - began < 10 * TURN_SECONDS:
        await loop.let_others()
    assert 2 <= turns <= 12
    task.cancel()


def a_report(node: str, name: str = "a") -> dict[str, Any]:
    """Return a report whose strings are made anew, as those of JSON are."""
    status = {
        "bootID": node,
        "facts": {"kernel": "6.1.0", "lsms": ["apparmor"]},
        "appArmor": {"profiles": {f"{name}-profile": f"0123456789/enforce/{name}"}},
    }
    return {"metadata": {"name": node}, "status": status}


async def test_what_nodes_report_alike_is_there_once():
    """A hundred thousand entries of a thousand nodes are some hundred different strings."""
    api = Api()
    loop = rounds_of(api)
    for name in ("n1", "n2"):
        loop.seen(PROFILE_NODES, name, a_report(name), deleted=False)
    one, other = (loop.reports[name].status for name in ("n1", "n2"))
    assert one.facts is other.facts
    assert one.app_armor
    assert other.app_armor
    for mine, theirs in zip(one.app_armor.profiles.items(), other.app_armor.profiles.items(), strict=True):
        assert mine[0] is theirs[0]
        assert mine[1] is theirs[1]


async def test_facts_that_nobody_has_any_more_are_forgotten():
    api = Api()
    loop = rounds_of(api)
    for at in range(50):
        claimed = a_report("n1")
        claimed["status"]["facts"]["kernel"] = f"6.{at}.0"
        loop.seen(PROFILE_NODES, "n1", claimed, deleted=False)
    api.listed = {PROFILE_NODES: [a_report("n1")]}
    await loop.relist()
    assert len(loop.sharing) == 1


# --- what is seen of it ------------------------------------------------------------------------------------


class Failing(Rounds):
    """A loop whose rounds fail, or never end."""

    hangs = False

    async def reconcile(self) -> None:
        await super().reconcile()
        if self.hangs:
            await asyncio.Event().wait()
        if self.rounds < 3:
            raise ClusterFault(Reason.PROGRESSING, "not taken")


def long_ago(loop: Rounds) -> None:
    loop.alive_at = time.monotonic() - STUCK_SECONDS - 1


async def test_a_loop_that_fails_is_alive():
    loop = Failing(cast("Cluster", Api()), kinds=(SECURITY_PROFILES,))
    task = asyncio.create_task(loop.run())
    await until(lambda: loop.rounds == 1)
    long_ago(loop)
    assert not loop.is_alive()
    await until(lambda: loop.rounds == 3)
    assert loop.is_alive()
    task.cancel()


async def test_a_loop_that_is_stuck_is_not_alive_though_it_lists_and_watches():
    loop = Failing(cast("Cluster", Api()), kinds=(SECURITY_PROFILES,))
    loop.hangs = True
    task = asyncio.create_task(loop.run())
    await until(lambda: loop.rounds == 1)
    long_ago(loop)
    for beside in ("list", "watch"):
        await loop.until_done(beside, loop.relist)
    assert not loop.is_alive()
    task.cancel()


async def test_a_loop_that_waits_for_the_api_from_the_start_is_alive():
    api = Api()
    loop = rounds_of(api)
    api.refused.add("store")
    task = asyncio.create_task(loop.run())
    await until(lambda: api.stores == 1)
    long_ago(loop)
    await until(lambda: api.stores == 2)
    assert loop.is_alive()
    assert not loop.ready
    task.cancel()


async def test_what_a_loop_meets_is_counted():
    api = Api()
    counts = of_loop("operator", ("SecurityProfile", "ProfileNode"), ())
    loop = Failing(cast("Cluster", api), kinds=(SECURITY_PROFILES, PROFILE_NODES), counts=counts)

    def told(name: str, **labels: str) -> float | None:
        return counts.registry.get_sample_value(f"hauberk_{name}", {"component": "operator", **labels})

    api.listed = {SECURITY_PROFILES: [body("listed")]}
    task = asyncio.create_task(loop.run())
    await until(lambda: loop.rounds == 3)
    assert told("retries_total", work="write") == 2
    assert told("round_duration_seconds_count") == 3
    assert told("missed_changes_total", kind="SecurityProfile") == 0  # the first list is no news
    loop.seen(SECURITY_PROFILES, "told", body("told"), deleted=False)
    assert told("watch_events_total", kind="SecurityProfile") == 1
    api.listed = {SECURITY_PROFILES: [body("told"), body("missed")]}
    await loop.relist()
    assert told("missed_changes_total", kind="SecurityProfile") == 2  # one is new, and one is gone
    assert told("watch_events_total", kind="SecurityProfile") == 1
    task.cancel()


async def test_a_watch_that_lists_anew_is_counted_once():
    counts = of_loop("operator", ("SecurityProfile",), ())
    loop = Rounds(cast("Cluster", Api()), kinds=(SECURITY_PROFILES,), counts=counts)
    labels = {"component": "operator", "kind": "SecurityProfile", "cause": "expired"}
    told: list[float | None] = []
    for listed in (True, True, False, True, True, False):
        loop.seen(SECURITY_PROFILES, "a", body("a"), deleted=False, listed=listed)
        told.append(counts.registry.get_sample_value("hauberk_watch_restarts_total", labels))
    assert told == [0, 0, 0, 1, 1, 1]  # the first list is no restart
