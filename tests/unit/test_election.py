"""Which operator writes: never two at once, and soon another one."""

from __future__ import annotations

import asyncio
import dataclasses
from dataclasses import replace
from typing import cast

import pytest
from hauberk.crds.errors import ClusterFault
from hauberk.crds.reasons import Reason
from hauberk.operator.cluster import Cluster, Held
from hauberk.operator.election import GIVE_UP_SECONDS, LEASE_SECONDS, ROUND_SECONDS, Election, may_take
from hypothesis import given
from hypothesis import strategies as st

THEIRS = Held(holder="b", seconds=12, transitions=0, version="1")


@pytest.mark.parametrize(
    ("lease", "unchanged", "free"),
    [
        (None, 0.0, True),
        (replace(THEIRS, holder=""), 0.0, True),
        (replace(THEIRS, holder="a"), 0.0, True),
        (THEIRS, 0.0, False),
        (THEIRS, 12.0, False),
        (THEIRS, 12.1, True),
        (replace(THEIRS, seconds=60), 12.1, False),
    ],
    ids=["none", "released", "own", "held", "held still", "run out", "as long as its holder says"],
)
def test_a_lease_is_free_when_nobody_has_renewed_it_for_as_long_as_it_says(
    lease: Held | None, unchanged: float, free: bool
):
    assert may_take(lease, "a", unchanged) is free


def test_who_could_not_renew_stops_before_anyone_else_may_begin():
    # and a write that is under way may still end
    assert GIVE_UP_SECONDS + ROUND_SECONDS <= LEASE_SECONDS


class Api:
    """One Lease, as the API server keeps it; for those of `cut` it is away."""

    def __init__(self) -> None:
        self.held: Held | None = None
        self.cut: set[str] = set()

    def of(self, identity: str) -> Cluster:
        return cast("Cluster", View(self, identity))


class View:
    def __init__(self, api: Api, identity: str) -> None:
        self.api, self.identity = api, identity

    async def lease(self) -> Held | None:
        if self.identity in self.api.cut:
            raise ClusterFault(Reason.PROGRESSING, "cut")
        return self.api.held

    async def take_lease(self, before: Held | None, holder: str, seconds: int) -> bool:
        held = self.api.held
        if before != held:
            return False
        transitions = held.transitions + (held.holder != holder) if held else 0
        version = str(int(held.version) + 1) if held else "1"
        self.api.held = Held(holder, seconds, transitions, version)
        return True


STEPS = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from(["stand", "stand", "stand", "cut", "mend", "release"])),
    max_size=200,
)


async def test_who_retires_lets_go_and_takes_it_no_more_even_if_it_was_about_to():
    api, clock = Api(), [0.0]
    a, b = (Election(api.of(name), name, now=lambda: clock[0]) for name in "ab")
    await a.stand()
    await a.retire()
    await a.stand()
    assert not a.leads()
    await b.stand()
    assert b.leads()

    class Slow(View):
        async def take_lease(self, before: Held | None, holder: str, seconds: int) -> bool:
            if holder:
                await c.retire()
            return await super().take_lease(before, holder, seconds)

    await b.release()
    c = Election(cast("Cluster", Slow(api, "c")), "c", now=lambda: clock[0])
    await c.stand()
    assert not c.leads()
    assert api.held
    assert api.held.holder == ""


@given(steps=STEPS, pauses=st.lists(st.floats(0, 5), min_size=200, max_size=200))
def test_never_do_two_lead(steps: list[tuple[str, str]], pauses: list[float]):
    api, clock = Api(), [0.0]
    all_of_them = {name: Election(api.of(name), name, now=lambda: clock[0]) for name in "abc"}

    async def story() -> None:
        for (name, what), pause in zip(steps, pauses, strict=False):
            clock[0] += pause
            match what:
                case "cut":
                    api.cut.add(name)
                case "mend":
                    api.cut.discard(name)
                case "release":
                    await all_of_them[name].release()
                case _:
                    try:
                        await all_of_them[name].stand()
                    except ClusterFault:
                        assert name in api.cut
            leading = [one.identity for one in all_of_them.values() if one.leads()]
            assert len(leading) <= 1
            assert not leading or (api.held and api.held.holder == leading[0])

    asyncio.run(story())


async def test_another_one_leads_as_soon_as_the_lease_has_run_out_or_was_released():
    api, clock = Api(), [0.0]
    a, b = (Election(api.of(name), name, now=lambda: clock[0]) for name in "ab")
    await a.stand()
    await b.stand()
    assert (a.leads(), b.leads()) == (True, False)

    api.cut.add("a")  # its node is lost
    clock[0] += LEASE_SECONDS
    await b.stand()
    assert (a.leads(), b.leads()) == (False, False)
    clock[0] += 0.1
    await b.stand()
    assert (a.leads(), b.leads()) == (False, True)

    api.cut.clear()
    await a.stand()
    assert (a.leads(), b.leads()) == (False, True)
    await b.release()
    await a.stand()
    assert (a.leads(), b.leads()) == (True, False)
    assert api.held
    assert api.held.transitions == 3


async def test_each_change_is_told_once(monkeypatch: pytest.MonkeyPatch):
    """And with it whether another one may have led meanwhile: what that one told is not told again."""
    api, clock = Api(), [0.0]
    told: list[tuple[bool, bool]] = []
    monkeypatch.setattr("hauberk.operator.election.RENEW_SECONDS", 0)
    election = Election(
        api.of("a"), "a", lambda anew: told.append((election.leads(), anew)), now=lambda: clock[0]
    )
    running = asyncio.create_task(election.run())

    async def rounds() -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    await rounds()
    assert told == [(True, True)]
    api.cut.add("a")
    await rounds()
    assert told == [(True, True)]  # it may still: nobody else does
    clock[0] += GIVE_UP_SECONDS
    await rounds()
    assert told == [(True, True), (False, False)]
    api.cut.clear()
    await rounds()
    assert told[2:] == [(True, False)]  # nobody else did

    api.held = dataclasses.replace(api.held, holder="b", transitions=7, version="99") if api.held else None
    await rounds()
    assert told[3:] == [(False, False)]
    clock[0] += LEASE_SECONDS + 1
    await rounds()
    assert told[4:] == [(True, True)]
    running.cancel()


async def test_what_can_not_be_released_runs_out():
    api = Api()
    election = Election(api.of("a"), "a")
    await election.stand()
    api.cut.add("a")
    await election.release()
    assert not election.leads()
    assert api.held
    assert api.held.holder == "a"
