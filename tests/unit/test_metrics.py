"""What is counted: the table of all metrics, the formats, and a scrape of an agent that loads and fails."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import contextlib
import math
import re
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hauberk.crds import metrics
from hauberk.crds.exporter import Metrics, of_loop
from hauberk.crds.metrics import METRICS, Metric, Reading
from hauberk.crds.reasons import Reason
from hauberk.daemonset import health, main
from hauberk.daemonset.apparmor import AppArmor

from lab.controlplane import free_ports
from tests.scraped import check, families, value
from tests.unit.node import Loader, Tree
from tests.unit.test_agent import Node, revision

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"
# --- the table ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS, ids=lambda one: one.name)
def test_names_follow_the_conventions(metric: Metric):
    assert re.fullmatch(r"hauberk_[a-z_]+", metric.name)
    assert metric.name.endswith("_total") == (metric.type == "counter")
    if metric.type in ("histogram", "summary"):
        assert metric.name.endswith("_seconds")
    elif "second" in metric.name:
        assert (metric.name.endswith("_seconds"), metric.type) == (True, "gauge")
    assert list(metric.buckets) == sorted(metric.buckets)
    assert bool(metric.buckets) == (metric.type == "histogram")
    # who exports one alone need not say who
    assert ("component" in metric.labels) == (len(metric.by) > 1)
    assert metric.help.endswith(".")


def test_the_page_and_the_table_hold_the_same_metrics():
    rows = re.findall(
        r"^\| `(hauberk_\w+)` \| (\w+) \| (.*?) \| (.*?) \| (.*) \|$", PAGE.read_text(), re.MULTILINE
    )
    told = [(name, kind, re.findall(r"`(\w+)`", labels), by, said) for name, kind, labels, by, said in rows]
    there = [(one.name, one.type, list(one.labels), ", ".join(one.by), one.help) for one in METRICS]
    assert sorted(told) == sorted(there)


# --- the format -------------------------------------------------------------------------------------


def scraped(made: Metrics) -> str:
    return made.text()[0].decode()


HISTOGRAM = Metric("h_seconds", "histogram", "h", ("type",), buckets=(0.1, 1.0))
HOSTILE = Metric("c_total", "counter", 'back\\slash, "quote"\nand a line', ("one",))


def test_a_histogram_counts_up_to_each_bound():
    made = Metrics(metrics.AGENT)
    for seconds in (0.05, 0.1, 0.5, 7.0):
        made.observe(HISTOGRAM, seconds, "a")
    text = scraped(made)
    buckets = {le: value(text, "h_seconds_bucket", type="a", le=le) for le in ("0.1", "1.0", "+Inf")}
    assert buckets == {"0.1": 2, "1.0": 3, "+Inf": 4}
    assert value(text, "h_seconds_count", type="a") == 4
    assert math.isclose(value(text, "h_seconds_sum", type="a"), 7.65)


@pytest.mark.parametrize("label", ["plain", 'a"b', "a\\", "a\nb 1", "ä\u2028"])
def test_no_label_breaks_out_of_its_quotes(label: str):
    made = Metrics(metrics.AGENT)
    made.count(HOSTILE, label, by=1234567)
    made.count(HOSTILE, label)
    assert value(scraped(made), "c_total", one=label) == 1234568
    assert families(scraped(made))["c"].documentation == HOSTILE.help


def test_what_is_read_is_read_each_time():
    made, left = Metrics(metrics.AGENT), [3.0]
    made.read = lambda: [Reading(metrics.PENDING, left[0], ("load",))]
    assert value(scraped(made), "hauberk_pending", component="agent", work="load") == 3
    left[0] = 0.5
    assert value(scraped(made), "hauberk_pending", component="agent", work="load") == 0.5


# --- an agent ----------------------------------------------------------------------------------------------


class Measured(Node):
    """An agent that counts."""

    def start(self) -> None:
        super().start()
        self.counts = Metrics(metrics.AGENT)
        main.begin(self.counts, ["AppArmor"])
        self.counts.read = self.agent.readings
        self.agent.counts = self.loop.counts = self.counts

    async def scraped(self) -> httpx2.Response:
        port, at = free_ports(1)[0], "127.0.0.1"
        async with (
            health.serve_metrics(self.counts, (at, port)),
            httpx2.AsyncClient(trust_env=False) as client,
        ):
            async with asyncio.timeout(10):
                while True:
                    try:
                        return await client.get(f"http://{at}:{port}/metrics")
                    except httpx2.ConnectError:
                        await asyncio.sleep(0)


@pytest.fixture
def node(tree: Tree, loader: Loader) -> Measured:
    return Measured(tree, loader)


async def test_an_agents_metrics_move_with_what_it_does(node: Measured):
    before = (await node.scraped()).text
    assert value(before, "hauberk_agent_loads_total", type="AppArmor") == 0

    node.tree.refused = {"bad"}
    await node.given(revision("good"), revision("bad"))
    said = await node.scraped()
    text = said.text
    assert said.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert value(text, "hauberk_agent_loads_total", type="AppArmor") == 1
    assert value(text, "hauberk_agent_load_duration_seconds_count", type="AppArmor") >= 1
    assert value(text, "hauberk_agent_failures_total", type="AppArmor", reason=Reason.LOAD_FAILED) >= 1
    for state, count in (("held", 1), ("failed", 1), ("orphaned", 0)):
        assert value(text, "hauberk_agent_profiles", type="AppArmor", state=state) == count
    assert value(text, "hauberk_pending", component="agent", work="report") == 0
    assert value(text, "hauberk_agent_repairs_total", type="AppArmor") == 0

    node.tree.host.remove("good")
    await node.settle()
    assert value((await node.scraped()).text, "hauberk_agent_repairs_total", type="AppArmor") == 1


@dataclass(frozen=True, kw_only=True)
class Slow(Loader):
    """A parser that takes its time."""

    done: asyncio.Event = field(default_factory=asyncio.Event)

    async def compile(self, text: str, mode: str) -> bytes:
        await self.done.wait()
        return await super().compile(text, mode)


async def test_what_an_agent_has_still_to_do_is_pending(
    tree: Tree, loader: Loader, monkeypatch: pytest.MonkeyPatch
):
    def quiet(*_: object) -> contextlib.nullcontext[None]:  # a folder has no file that could be polled
        return contextlib.nullcontext()

    monkeypatch.setattr(AppArmor, "changes", quiet)
    slow = Slow(features=loader.features)
    node = Measured(tree, slow)

    async def becomes(left: float, rounds: float) -> None:
        async with asyncio.timeout(20):
            while True:
                text = scraped(node.counts)
                now = value(text, "hauberk_pending", component="agent", work="load")
                if now == left and value(text, ROUNDS, type="AppArmor") > rounds:
                    return
                await asyncio.sleep(0.01)

    node.shows(revision("p"), revision("q"))
    task = asyncio.create_task(node.loop.run())
    await becomes(2, 0)
    slow.done.set()
    await becomes(0, 1)
    task.cancel()


ROUNDS = "hauberk_agent_round_duration_seconds_count"


async def test_what_an_agent_exports_is_what_the_table_says(node: Measured):
    node.tree.refused = {"bad"}
    await node.given(revision("good"), revision("bad"))
    node.counts.observe(metrics.AGENT_ROUND_DURATION, 0.1, "AppArmor")
    assert check((await node.scraped()).text, metrics.of(metrics.AGENT)) == {
        one.name for one in metrics.of(metrics.AGENT)
    }


async def test_no_series_of_an_agent_names_a_profile(node: Measured):
    await node.given(revision("unheard-of"))
    assert "unheard" not in (await node.scraped()).text


async def test_metrics_are_served_once_their_port_is_free(node: Measured, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(health, "RETRY_SECONDS", 0.01)
    (port,) = free_ports(1)
    told = asyncio.Event()

    def nothing(*_: object) -> None:
        """Answer nobody."""

    def warn(*_: object, **__: object) -> None:
        told.set()

    taken = await asyncio.start_server(nothing, "127.0.0.1", port)
    monkeypatch.setattr(health.log, "warning", warn)
    async with health.serve_metrics(node.counts, ("127.0.0.1", port)):
        async with asyncio.timeout(10):
            await told.wait()  # of a try, which did not end the agent
        taken.close()
        await taken.wait_closed()
        async with httpx2.AsyncClient(trust_env=False) as client, asyncio.timeout(10):
            while True:
                try:
                    scraped = await client.get(f"http://127.0.0.1:{port}/metrics")
                    break
                except httpx2.TransportError:
                    await asyncio.sleep(0.01)
            assert scraped.is_success
            assert (await client.get(f"http://127.0.0.1:{port}/healthz")).status_code == 404


async def test_the_kubelet_hears_what_is_so(node: Measured):
    (port,) = free_ports(1)
    agent = node.agent
    async with (
        health.serve(agent, port),
        httpx2.AsyncClient(trust_env=False, base_url=f"http://127.0.0.1:{port}") as client,
    ):

        async def told() -> list[int]:
            return [(await client.get(path)).status_code for path in ("/healthz", "/readyz", "/metrics")]

        assert await told() == [200, 503, 404]
        agent.reported, agent.untaken_since = True, None
        assert await told() == [200, 200, 404]
        node.loop.alive_at -= health.ALIVE_SECONDS
        assert await told() == [503, 503, 404]


async def connected(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect as soon as someone listens."""
    async with asyncio.timeout(10):
        while True:
            try:
                return await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                await asyncio.sleep(0)


async def test_who_says_nothing_or_too_much_is_let_go(node: Measured):
    (port,) = free_ports(1)
    async with health.serve_metrics(node.counts, ("127.0.0.1", port)):
        reader, writer = await connected(port)
        writer.write(b"GET /metrics HTTP/1.1\r\n" + b"x" * 9000)
        assert await reader.read() == b""
        writer.close()
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(health.AT_ONCE)]
        one_too_many, other = await asyncio.open_connection("127.0.0.1", port)
        assert await one_too_many.read() == b""
        for _, each in [*held, (one_too_many, other)]:
            each.close()


async def test_a_report_that_is_not_taken_ends_readiness(node: Measured):
    agent = node.agent
    assert not agent.is_ready()
    agent.reported = True
    assert agent.is_ready()
    agent.untaken_since = time.monotonic()
    assert agent.is_ready()
    agent.untaken_since -= 181
    assert not agent.is_ready()


# --- operator and admission: the rest is in tests/kube ------------------------------------------------------


def test_a_component_that_shares_a_metric_says_who_it_is():
    made = of_loop("operator", ["Node"], ["Lease"])
    made.count(metrics.WATCH_EVENTS, "Node")
    text = scraped(made)
    assert value(text, "hauberk_watch_events_total", component="operator", kind="Node") == 1
    assert value(text, "hauberk_api_writes_total", component="operator", kind="Lease", result="refused") == 0
    assert "_created" not in text


def test_the_same_metric_of_another_type_is_told_apart():
    """A test of the check itself: it fails where type or labels differ."""
    made: Any = of_loop("operator", ["Node"], [])
    text = scraped(made)
    with pytest.raises(AssertionError):
        check(text, [replace(one, labels=("other",)) for one in METRICS])
