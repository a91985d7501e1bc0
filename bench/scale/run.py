"""All measurements with simulated nodes, in their order. Called by `bench.__main__` and by a test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from hauberk.crds.names import ADMISSION, OPERATOR

from bench.figures import Figure

from . import lone, measure
from .cluster import Cluster, bare, running


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        nodes: numbers of nodes for one changed profile, rising; the goals are those of `judged`.
        at_once: how many profiles are applied one after the other on the fewest nodes.
        judged: the number of nodes that the goals are for, and where many profiles are tried.
        profiles: how many profiles there are after each of the bursts of new ones, rising.
        steady_seconds: how long nothing happens.
        updates: how often profiles are changed while the operator's memory is looked at.
        joining: how many nodes come at once.
        churn_minutes: how long nodes come and go.
        churn_share: how many of them a minute.
        beyond: a number of nodes for which one changed profile has to come out at all; 0: none.
        settle: seconds after a change in which what is written still belongs to it.
    """

    nodes: tuple[int, ...] = (10, 100, 1000)
    at_once: int = 80
    judged: int = 1000
    profiles: tuple[int, ...] = (100, 200)
    steady_seconds: float = 300
    updates: int = 1000
    joining: int = 300
    churn_minutes: float = 5
    churn_share: float = 0.2
    beyond: int = 3000
    settle: float = 12.0


SHORT = Sizes(
    nodes=(10, 100),
    at_once=20,
    judged=100,
    profiles=(20,),
    steady_seconds=20,
    updates=0,
    joining=30,
    churn_minutes=0,
    beyond=0,
    settle=3.0,
)

Progress = Callable[[str], None]


async def scale(sizes: Sizes, folder: Path, progress: Progress) -> AsyncIterator[list[Figure]]:
    """Yield figures as they are measured.

    Raises:
        UnmetError: a program is missing.
        TimeoutError: something did not come about.
    """
    async with running(folder, sizes.settle) as cluster:
        await cluster.start(ADMISSION)
        await cluster.start(OPERATOR)
        async with bare(folder / "bare") as beside:
            floor = measure.Bare(beside)
            for count in sizes.nodes:
                await _grow(cluster, count, progress)
                progress("one profile is changed")
                yield await measure.one_profile(cluster, floor, decides=count == sizes.judged)
                if count == sizes.nodes[0]:
                    progress(f"{sizes.at_once} profiles are applied, and deleted")
                    yield await measure.one_after_the_other(cluster, sizes.at_once)
        names = ["one"]
        for count in sizes.profiles:
            fresh = [f"profile-{number:04}" for number in range(len(names), count)]
            names += fresh
            progress(f"{len(fresh)} new profiles at once")
            yield await measure.many_profiles(cluster, fresh, decides=count == sizes.profiles[0])
        progress("one agent by itself")
        yield await lone.measure(cluster, len(names))
        progress(f"nothing happens for {sizes.steady_seconds:g} s")
        yield await measure.steady(cluster, sizes.steady_seconds, len(names))
        progress("the operator starts anew")
        yield await measure.restart(cluster)
        progress(f"{sizes.joining} nodes join at once")
        yield await measure.join_storm(cluster, sizes.joining, names)
        if sizes.churn_minutes:
            progress(f"nodes come and go for {sizes.churn_minutes:g} min")
            yield await measure.churn(cluster, sizes.churn_share, sizes.churn_minutes, names)
        if sizes.updates:
            progress(f"profiles are changed {sizes.updates:,} times")
            yield await measure.updates(cluster, names, sizes.updates, alive=50)
    if sizes.beyond:
        async with (
            running(folder / "beyond", sizes.settle) as cluster,
            bare(folder / "beyond" / "bare") as beside,
        ):
            await cluster.start(ADMISSION)
            await cluster.start(OPERATOR)
            await _grow(cluster, sizes.beyond, progress)
            progress("one profile is changed")
            yield await measure.one_profile(cluster, measure.Bare(beside), decides=False)


async def _grow(cluster: Cluster, count: int, progress: Progress) -> None:
    first = len(cluster.nodes)
    progress(f"{count - first:,} nodes are made")
    for start in range(first, count, 250):  # as a node pool grows, not all in one instant
        await cluster.add(measure.node_names(start, min(250, count - start)))
        await measure.reported(cluster)
    await cluster.rest()
    await asyncio.sleep(cluster.settle)
