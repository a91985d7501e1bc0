"""The measurements with simulated nodes: each returns figures beside their floors, in one run.

Called by `run` in the order in which they stand here: later ones build on the nodes and profiles of earlier
ones.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import mean
from typing import Any

from hauberk.crds.names import API_VERSION, OPERATOR, PROFILE_NODES, SECURITY_PROFILES
from hauberk.operator import pace

from bench.figures import Figure, Floor, percentile

from .accounting import Metrics, Written, tally
from .cluster import KINDS, LONGEST_SECONDS, Cluster, none_left

ROUNDS = 5
# Of many profiles whose counts move the last is told so much later.
BEHIND_SECONDS = pace.LONGEST + 5.0


@dataclass
class Spent:
    """What happened between two moments: seconds, Hauberk's writes, and the API server's own account."""

    seconds: float = 0.0
    writes: list[Written] = field(default_factory=list[Written])
    before: Metrics = field(default_factory=lambda: Metrics({}))
    after: Metrics = field(default_factory=lambda: Metrics({}))

    @property
    def sent_bytes(self) -> float:
        """Return the bytes of watch events of Hauberk's kinds that the API server sent."""
        return self.after.watched_bytes() - self.before.watched_bytes()


@asynccontextmanager
async def spending(cluster: Cluster, settle: float | None = None) -> AsyncGenerator[Spent]:
    """Count what happens within the context and for `settle` seconds after it; set `seconds` within."""
    cluster.audit.read()
    spent = Spent(before=await cluster.metrics())
    yield spent
    await asyncio.sleep(cluster.settle if settle is None else settle)
    spent.writes, spent.after = cluster.audit.read(), await cluster.metrics()


def node_names(first: int, count: int) -> list[str]:
    """Return names of nodes by their numbers."""
    return [f"node-{number:05}" for number in range(first, first + count)]


async def reported(cluster: Cluster, seconds: float = LONGEST_SECONDS) -> float:
    """Return how long it takes until each node has a report.

    Raises:
        TimeoutError: some have none.
    """

    async def missing() -> set[str]:
        listed = (await cluster.get(PROFILE_NODES))["items"]
        return cluster.nodes.keys() - {one["metadata"]["name"] for one in listed}

    return await none_left(missing, "nodes have no report", seconds)


@dataclass
class Bare:
    """What no design could do without: one client writes as many reports, one after the other.

    They are like the nodes' own, on an API server of their own that nobody watches. Machines are faster and
    slower from one minute to the next, so this is done before and after each measurement that is held against
    it.

    Attributes:
        cluster: that API server.
        written: how often all were written, by how many they are.
    """

    cluster: Cluster
    written: dict[int, int] = field(default_factory=dict[int, int])

    async def floor(self, count: int, report: Mapping[str, Any]) -> float:
        """Return how many seconds as many status patches take that are like this status of a ProfileNode."""
        if count not in self.written:
            await self._write(count, report)  # which makes them
        began = time.monotonic()
        await self._write(count, report)
        return time.monotonic() - began

    async def _write(self, count: int, report: Mapping[str, Any]) -> None:
        number = self.written[count] = self.written.get(count, 0) + 1
        names = [f"floor-{count}-{one:05}" for one in range(count)]
        section = {**report["appArmor"], "profiles": {"one": f"{number:010}/enforce/0123456789/{number}"}}
        for name in names:
            body = {
                "apiVersion": API_VERSION,
                "kind": "ProfileNode",
                "metadata": {"name": name},
                "status": {**report, "appArmor": section},
            }
            await self.cluster.send(
                "PATCH",
                f"{KINDS}/{PROFILE_NODES}/{name}?fieldManager=bench&force=true",
                body,
                kind="application/apply-patch+yaml",
            )


async def one_profile(cluster: Cluster, bare: Bare, *, decides: bool) -> list[Figure]:
    """Change one profile some times; return the time to Ready, the writes and the bytes of one change."""
    count = len(cluster.nodes)
    await cluster.apply("one")
    await cluster.wait_ready(["one"])
    await asyncio.sleep(cluster.settle)
    took: list[float] = []
    changed: list[Spent] = []
    report = (await cluster.get(PROFILE_NODES, min(cluster.nodes)))["status"]

    async def measured() -> float:
        with cluster.halted():
            return await bare.floor(count, report)

    floors = [await measured()]
    for generation in range(1, ROUNDS + 1):
        async with spending(cluster) as one:
            await cluster.apply("one", generation)
            one.seconds = await cluster.wait_ready(["one"])
        took.append(one.seconds)
        changed.append(one)
        floors.append(await measured())
    beside = [mean(two) for two in pairwise(floors)]
    # that of which as many have a higher ratio as a lower one
    seconds, floor = sorted(zip(took, beside, strict=True), key=lambda two: two[0] / two[1])[ROUNDS // 2]
    writes = [len(one.writes) for one in changed]
    sent = [one.sent_bytes / count for one in changed]
    return [
        Figure(
            f"ready-{count}",
            f"apply to Ready, {count:,} nodes",
            seconds,
            "s",
            goal=1.5 if decides else None,
            floor=Floor(f"{count:,} status patches by one client", floor, floors),
            decides=decides,
            samples=took,
        ),
        Figure(
            f"writes-{count}",
            f"API writes for one changed profile, {count:,} nodes",
            percentile(writes, 1),
            "",
            goal=count + 10,
            decides=decides,
            samples=writes,
            notes=tally(changed[-1].writes),
        ),
        Figure(
            f"bytes-{count}",
            f"watch bytes a node for one changed profile, {count:,} nodes",
            percentile(sent, 1),
            "B",
            samples=sent,
        ),
    ]


async def one_after_the_other(cluster: Cluster, profiles: int) -> list[Figure]:
    """Apply many profiles as `kubectl apply` does, and delete them; return how long each took to be over."""
    names = [f"after-{number:03}" for number in range(profiles)]
    began = time.monotonic()
    for name in names:
        await cluster.apply(name)
    await cluster.wait_ready(names)
    applied = time.monotonic() - began

    async def left() -> set[str]:
        listed = (await cluster.get(SECURITY_PROFILES))["items"]
        return {one["metadata"]["name"] for one in listed}.intersection(names)

    began = time.monotonic()
    for name in names:
        await cluster.delete(name)
    await none_left(left, "are still there")
    deleted = time.monotonic() - began
    where = f"{len(cluster.nodes)} nodes"
    return [
        Figure(
            f"after-{profiles}",
            f"{profiles} profiles applied, {where}: all Ready",
            applied,
            "s",
            goal=profiles / 10,
        ),
        Figure(f"after-{profiles}-gone", f"{profiles} profiles deleted, {where}: all gone", deleted, "s"),
    ]


async def many_profiles(cluster: Cluster, names: Sequence[str], *, decides: bool) -> list[Figure]:
    """Apply many new profiles at once; return time, writes, and what etcd and the API server grew to."""
    count = len(cluster.nodes)
    async with spending(cluster) as spent:
        began = time.monotonic()
        await asyncio.gather(*(cluster.apply(name) for name in names))
        await cluster.wait_ready(names, every=1.0)
        spent.seconds = time.monotonic() - began
    key = f"{len(names)}x{count}"
    what = f"{len(names)} new profiles, {count:,} nodes"
    return [
        Figure(f"ready-{key}", f"apply to all Ready, {what}", spent.seconds, "s"),
        Figure(
            f"writes-{key}",
            f"API writes, {what}",
            len(spent.writes),
            "",
            goal=3 * count,
            decides=decides,
            notes=tally(spent.writes),
        ),
        Figure(f"apiserver-{key}", f"API server's memory, {what}", spent.after.memory_mib, "MiB"),
        Figure(f"etcd-{key}", f"etcd's file, {what}", spent.after.store_mib, "MiB"),
    ]


async def quiet(cluster: Cluster) -> None:
    """Return when nothing was written for as long as counts in a status may be behind.

    Raises:
        TimeoutError: something is written again and again.
    """
    last = time.monotonic()

    async def stirring() -> list[str]:
        nonlocal last
        if cluster.audit.read():
            last = time.monotonic()
        return [] if time.monotonic() - last > BEHIND_SECONDS else ["something"]

    await none_left(stirring, "is written again and again", every=1)


async def steady(cluster: Cluster, seconds: float, profiles: int) -> list[Figure]:
    """Do nothing; return the writes all the same, and what the operator takes."""
    await quiet(cluster)
    key = f"{len(cluster.nodes):,} nodes x {profiles} profiles"
    _, before = cluster.used(OPERATOR)
    async with spending(cluster, settle=0) as spent:
        await asyncio.sleep(seconds)
    resident, after = cluster.used(OPERATOR)
    return [
        Figure(
            "writes-steady",
            f"API writes in {seconds:g} s without a change, {key}",
            len(spent.writes),
            "",
            goal=0,
            decides=True,
            notes=tally(spent.writes),
        ),
        Figure("operator-rss", f"operator's memory, {key}", resident, "MiB", goal=200, decides=True),
        Figure(
            "operator-cpu", f"operator's processor share, idle, {key}", (after - before) / seconds * 100, "%"
        ),
    ]


async def restart(cluster: Cluster) -> list[Figure]:
    """Start the operator anew; return how long it takes to know everything again, and its writes."""
    cluster.stop(OPERATOR)
    cluster.audit.read()

    async def unknowing() -> list[str]:
        return [] if cluster.knows_all() else [OPERATOR]

    began = time.monotonic()
    await cluster.start(OPERATOR)
    await none_left(unknowing, "is not back", every=0.1)
    took = time.monotonic() - began
    await asyncio.sleep(cluster.settle)
    writes = cluster.audit.read()
    return [
        Figure("restart", "operator's restart until it knows everything", took, "s", goal=10, decides=True),
        Figure(
            "restart-writes", "API writes by it", len(writes), "", goal=0, decides=True, notes=tally(writes)
        ),
    ]


async def updates(cluster: Cluster, names: Sequence[str], count: int, alive: int) -> list[Figure]:
    """Change profiles many times while most agents hold still; return how much the operator grew by.

    What each of a thousand agents does with a thousand changes is theirs; the operator's memory is not.
    """
    still = sorted(cluster.nodes)[alive:]
    await cluster.hold_still(still)
    await _change(cluster, names, count // 5)  # what it needs for changes at all it has by then
    first, _ = cluster.used(OPERATOR)
    await _change(cluster, names, count)
    last, _ = cluster.used(OPERATOR)
    grown = max(last - first, 0.0)
    return [
        Figure(
            "operator-rss-updates",
            f"operator's memory after {count:,} updates",
            last,
            "MiB",
            goal=200,
            decides=True,
        ),
        Figure(
            "operator-growth", f"what it grew by in {count:,} updates", grown, "MiB", goal=10, decides=True
        ),
    ]


async def _change(cluster: Cluster, names: Sequence[str], count: int) -> None:
    for number in range(count):
        await cluster.apply(names[number % len(names)], 1000 + number)
        await asyncio.sleep(0.02)

    async def behind() -> list[str]:
        listed = (await cluster.get(SECURITY_PROFILES))["items"]
        return [
            one["metadata"]["name"]
            for one in listed
            if one.get("status", {}).get("observedGeneration") != one["metadata"]["generation"]
        ]

    await none_left(behind, "have a status of an earlier generation", every=1)


async def join_storm(cluster: Cluster, count: int, profiles: Sequence[str]) -> list[Figure]:
    """Add many nodes at once; return how long it takes until all is Ready on all, and the writes."""
    first = len(cluster.nodes)
    async with spending(cluster) as spent:
        began = time.monotonic()
        await cluster.add(node_names(first, count))
        await cluster.wait_ready(profiles, every=0.5)
        spent.seconds = time.monotonic() - began
    return [
        Figure(f"join-{count}", f"{count} nodes join {first:,} at once: all Ready", spent.seconds, "s"),
        Figure(
            f"join-{count}-writes",
            f"API writes a node that joins ({count} at once)",
            len(spent.writes) / count,
            "",
            goal=4 + 4 * len(profiles) / count,
            notes=tally(spent.writes),
        ),
    ]


async def churn(cluster: Cluster, share: float, minutes: float, profiles: Sequence[str]) -> list[Figure]:
    """Replace a share of the nodes each minute; return wrong counts, and the writes a node that came."""
    total = len(cluster.nodes)
    every, each = 3.0, max(1, round(total * share * 3.0 / 60))
    came, wrong = 0, 0
    async with spending(cluster) as spent:
        end = time.monotonic() + minutes * 60
        number = 100_000
        while time.monotonic() < end:
            began = time.monotonic()
            await cluster.remove(sorted(cluster.nodes)[:each])
            await cluster.add(node_names(number, each))
            number, came = number + each, came + each
            wrong += await _wrong(cluster, total)
            await asyncio.sleep(max(0.0, every - (time.monotonic() - began)))
        settled = await cluster.wait_ready(profiles, every=0.5)
        spent.seconds = settled
    return [
        Figure(
            "churn-wrong", f"wrong counts in {minutes:g} min of churn ({came:,} nodes)", wrong, "", goal=0
        ),
        Figure("churn-settle", "churn's end until every profile is Ready on all", settled, "s"),
        Figure(
            "churn-writes",
            "API writes a node that came",
            len(spent.writes) / came,
            "",
            notes=tally(spent.writes),
        ),
    ]


async def _wrong(cluster: Cluster, most: int) -> int:
    """Return how many profiles claim more nodes than there ever were at once, or more ready than targeted."""
    wrong = 0
    for text, _ in (await cluster.counts()).values():
        ready, _, targeted = text.partition("/")
        wrong += int(ready or 0) > int(targeted or 0) or int(targeted or 0) > most
    return wrong
