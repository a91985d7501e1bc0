"""When a report is written: at once, then in turn with those of all the other nodes, bad news always soon."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from itertools import pairwise
from typing import cast

import pytest
from hauberk.crds.errors import ClusterFault
from hauberk.crds.models import Facts, Problem, ProfileNode, Section
from hauberk.crds.reasons import Reason
from hauberk.daemonset import agent as agents
from hauberk.daemonset import report, turns
from hauberk.daemonset.agent import Agent
from hauberk.daemonset.api import ApiFault
from hauberk.daemonset.cluster import Cluster
from hauberk.daemonset.turns import Turns
from structlog.testing import capture_logs

from tests.unit.node import Tree

LONG = 1000.0


class Api:
    """The API server of reports alone: what it was sent, and what it has."""

    def __init__(self) -> None:
        self.written: list[ProfileNode] = []
        self.there: ProfileNode | None = None
        self.faults: list[Exception] = []
        self.nodes: int | Exception = 1
        self.wrote = asyncio.Event()
        self.counted = asyncio.Event()

    async def write(self, profile_node: ProfileNode) -> None:
        if self.faults:
            raise self.faults.pop()
        self.written.append(profile_node)
        self.there = profile_node
        self.wrote.set()

    async def holds(self, profile_node: ProfileNode) -> bool:
        return self.there == profile_node

    async def agents(self) -> int:
        self.counted.set()
        if isinstance(self.nodes, Exception):
            raise self.nodes
        return self.nodes

    async def has(self, profile_node: ProfileNode) -> None:
        """Return once this report is there."""
        async with asyncio.timeout(5):
            while self.there != profile_node:
                self.wrote.clear()
                await self.wrote.wait()


def made(*profiles: str, failed: str = "") -> ProfileNode:
    """Return a report of profiles that are held, and of one that is not."""
    problems = {failed: Problem(revision="d1", reason=Reason.LOAD_FAILED, message="no")} if failed else {}
    section = Section(profiles=dict.fromkeys(profiles, "d1/enforce/0"), problems=problems)
    return report.profile_node("n1", "uid", "boot", Facts(), {"AppArmor": section})


def tell(agent: Agent, profile_node: ProfileNode) -> None:
    agent.profile_node = profile_node
    agent.dirty.set()


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
async def agent(tree: Tree, api: Api) -> AsyncGenerator[Agent]:
    """An agent without backends, of which only the writing of reports runs."""
    agent = Agent(tree.host, cast("Cluster", api), [], "n1")
    task = asyncio.create_task(agent._write_reports())
    yield agent
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def rest() -> None:
    """Let everything go on that waits for nothing but its turn."""
    for _ in range(50):
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("nodes", "seconds"), [(1, 1), (3, 1), (100, 1), (150, 1.5), (500, 5), (1000, 10), (5000, 10)]
)
def test_all_agents_together_write_about_a_hundred_times_a_second(nodes: int, seconds: float):
    assert Turns(nodes).spacing == seconds


async def test_the_first_change_is_written_at_once_and_the_next_ones_wait(
    agent: Agent, api: Api, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(turns, "SPACING_SECONDS", (LONG, LONG))
    tell(agent, made("a"))
    await api.has(made("a"))
    tell(agent, made("a", "b"))
    await rest()
    tell(agent, made("a", "b", "c"))
    await rest()
    assert api.written == [made("a")]


async def test_a_burst_costs_two_writes_of_which_the_second_has_all(
    agent: Agent, api: Api, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(turns, "SPACING_SECONDS", (0.2, 0.2))
    names = [f"p{number}" for number in range(100)]
    for count in range(1, 101):
        tell(agent, made(*names[:count]))
        await rest()
    await api.has(made(*names))
    assert 2 <= len(api.written) <= 4  # more only where the loop above took longer than the spacing


@pytest.mark.parametrize(
    ("first", "last", "due"),
    [
        pytest.param(110, 110, 110, id="after a quiet time: at once"),
        pytest.param(101, 101, 110, id="too soon: in its turn"),
        pytest.param(101, 109, 114, id="more came just before: when that is over"),
        pytest.param(101, 120, 125, id="more came after that too"),
        pytest.param(101, 219, 220, id="but not for ever"),
        pytest.param(110, 111, 110, id="what had not to wait waits for nothing"),
    ],
)
def test_what_has_to_wait_waits_for_the_rest_of_a_burst(first: float, last: float, due: float):
    assert Turns(1000, written_at=100.0).due(first, last, more=False, is_bad=False) == due


@pytest.mark.parametrize(
    ("first", "now", "due"),
    [
        pytest.param(500, 500, 220, id="what it was long before: at once"),
        pytest.param(101, 120, 125, id="in its turn, when it was looked at"),
        pytest.param(115, 120, 125, id="a quiet time is none where more is to come"),
        pytest.param(101, 219, 220, id="but not for ever"),
    ],
)
def test_what_was_not_looked_at_yet_is_waited_for(first: float, now: float, due: float):
    assert Turns(1000, written_at=100.0).due(first, now, more=True, is_bad=False) == due


@pytest.mark.parametrize(("took", "calm", "longest"), [(0.02, 5, 120), (1.2, 6, 144), (60.0, 7.5, 180)])
def test_an_api_server_that_is_slow_is_spared(took: float, calm: float, longest: float):
    def due(first: float, last: float) -> float:
        return Turns(1000, written_at=100.0, took=took).due(first, last, more=False, is_bad=False)

    assert due(101, 120) == 120 + calm
    assert due(101, 900) == 100 + longest
    assert due(110, 110) == 110  # what need not wait need not wait for that
    few = Turns(3, written_at=100.0, took=took)  # they are not what makes it slow
    assert few.due(100.1, 120, more=True, is_bad=False) < 100 + longest * 0.04


@pytest.mark.parametrize(
    ("nodes", "first", "last", "due"),
    [
        pytest.param(3, 100.1, 100.9, 101, id="at least a second apart"),
        pytest.param(3, 100.1, 110, 101, id="the rest of a burst is not waited for"),
        pytest.param(50, 100.1, 110, 106, id="with more nodes for longer"),
        pytest.param(100, 100.1, 110, 110.5, id="with a hundred until it is over"),
        pytest.param(100, 100.1, 120, 112, id="but not for ever"),
    ],
)
def test_few_nodes_tell_of_a_burst_while_it_lasts(nodes: int, first: float, last: float, due: float):
    assert Turns(nodes, written_at=100.0).due(first, last, more=True, is_bad=False) == due


def test_a_burst_that_does_not_end_costs_few_writes_and_leaves_none_behind_for_long():
    now, one, written = 0.0, Turns(1000, written_at=0.0), [0.0]
    while now < 3000:
        while (due := one.due(written[-1] + 1, now, more=True, is_bad=False)) > now:
            now = due
        one.begins(written[-1] + 1, now, now, more=True)
        one.wrote(now, now)
        written.append(now)
    assert [after - before for before, after in pairwise(written)][:4] == [120, 180, 180, 180]
    one.begins(now + 1, now + 1, now + 6, more=False)
    one.wrote(now + 6, now + 6)
    assert one.due(now + 7, now + 900, more=True, is_bad=False) == now + 6 + 120


@pytest.mark.parametrize("worse", [made("a", failed="b"), made()], ids=["a problem", "gone"])
async def test_bad_news_does_not_wait_for_its_turn(
    agent: Agent, api: Api, worse: ProfileNode, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(turns, "SPACING_SECONDS", (LONG, LONG))
    monkeypatch.setattr(turns, "BAD_NEWS_SECONDS", 0.05)
    tell(agent, made("a"))
    await api.has(made("a"))
    tell(agent, made("a", "c"))  # which waits for its turn
    await rest()
    tell(agent, worse)
    await api.has(worse)
    assert len(api.written) == 2


async def test_what_is_again_as_it_was_is_not_written(
    agent: Agent, api: Api, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(turns, "SPACING_SECONDS", (0.1, 0.1))
    came, next_turn = asyncio.Event(), agent._next_turn

    async def turn() -> None:
        await next_turn()
        came.set()

    monkeypatch.setattr(agent, "_next_turn", turn)
    tell(agent, made("a"))
    await api.has(made("a"))
    came.clear()
    tell(agent, made("a", "b"))
    await rest()
    tell(agent, made("a"))
    async with asyncio.timeout(5):
        await came.wait()
    tell(agent, made("a", "c"))
    await api.has(made("a", "c"))
    assert api.written == [made("a"), made("a", "c")]


async def test_what_was_not_taken_is_sent_again_as_it_is_then(
    agent: Agent, api: Api, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(agents, "WRITE_RETRY_SECONDS", (0.05, 0.05))
    api.faults = [ApiFault("busy", 429, 0.1), ClusterFault(Reason.UPDATING, "no answer")]
    tell(agent, made("a"))
    await rest()
    assert not agent.reported
    assert agent.untaken_since is not None
    tell(agent, made("a", "b"))
    await api.has(made("a", "b"))
    assert api.written == [made("a", "b")]
    await rest()
    assert agent.reported
    assert agent.untaken_since is None


async def test_a_report_that_waits_for_its_turn_is_no_fault(agent: Agent, api: Api):
    tell(agent, made("a"))
    await api.has(made("a"))
    agent.turns.nodes, agent.turns.hurried = 1000, True
    tell(agent, made("a", "b"))
    await rest()
    assert api.written == [made("a")]
    assert agent.untaken_since is None
    assert agent.is_ready()


# --- asking now and then -----------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def asking(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[None]:
    monkeypatch.setattr(agents, "ASK_UNSUPPORTED_SECONDS", 0.02)
    monkeypatch.setattr(turns, "SPACING_SECONDS", (0.01, 0.01))
    task = asyncio.create_task(agent._ask_for_report())
    yield
    task.cancel()


async def test_a_report_that_someone_deletes_is_written_again_and_one_that_is_there_is_not(
    agent: Agent, api: Api, monkeypatch: pytest.MonkeyPatch
):
    tell(agent, made("a"))
    await api.has(made("a"))
    asked = 0
    again = asyncio.Event()
    holds = api.holds

    async def counted(profile_node: ProfileNode) -> bool:
        nonlocal asked
        asked += 1
        if asked == 3:
            again.set()
        return await holds(profile_node)

    monkeypatch.setattr(api, "holds", counted)
    async with asking(agent, monkeypatch), asyncio.timeout(5):
        await again.wait()
        assert api.written == [made("a")]
        api.there = None
        await api.has(made("a"))
    assert len(api.written) == 2


async def test_agents_are_counted_and_where_they_can_not_be_it_is_told_once(
    agent: Agent, api: Api, monkeypatch: pytest.MonkeyPatch
):
    assert agent.turns.nodes == turns.MANY
    api.nodes = 700
    await agent._count_nodes()
    assert (agent.turns.nodes, agent.turns.spacing) == (700, 7)
    with capture_logs() as logs:
        api.nodes = ApiFault("403 Forbidden: not you", 403)
        for _ in range(3):
            await agent._count_nodes()
        assert agent.turns.nodes == 700
        api.nodes = 0  # of a cluster whose DaemonSets are being made
        await agent._count_nodes()
        assert agent.turns.nodes == 1
    assert [one["message"] for one in logs] == ["403 Forbidden: not you"]
    async with asking(agent, monkeypatch), asyncio.timeout(5):
        api.nodes, api.counted = 200, asyncio.Event()
        await api.counted.wait()
        await rest()
        assert agent.turns.nodes == 200
