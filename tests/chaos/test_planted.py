"""The loop finds what is planted: each law, broken in the product, turns the fault that guards it red.

Run by `make chaos-planted`, on a lab of its own.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chaos.choices import Round
from tests.chaos.loop import Chaos, Result, chaos, tell
from tests.chaos.plants import PLANTS, Plant, planted
from tests.chaos.scene import is_ready, operator, within
from tests.e2e.cluster import APPARMOR_NODES, SYSTEM, kubectl, ok, remove
from tests.e2e.prepared import install

# What is planted may never become whole again by itself: no need to wait for it as for the product.
PATIENCE_SECONDS = 20.0


@pytest.fixture(scope="module")
def loop() -> Iterator[Chaos]:
    install(restart=True)
    with chaos(APPARMOR_NODES, mixed=False) as made:
        yield made
        made.end()


def operator_leaves(node: str) -> None:
    """Have the operator on another node: what goes away with it is another matter."""
    if operator()["spec"]["nodeName"] != node:
        return
    ok(kubectl("cordon", node))
    try:
        remove("pod", operator()["metadata"]["name"], f"--namespace={SYSTEM}")
        assert within(PATIENCE_SECONDS * 3, lambda: is_ready(operator()))
    finally:
        ok(kubectl("uncordon", node))


def once(loop: Chaos, plant: Plant) -> Result:
    operator_leaves(plant.blows[0].node)
    result = loop.run(Round(1, plant.blows))
    tell("", result)
    return result


@pytest.mark.timeout(900)
@pytest.mark.parametrize("plant", PLANTS.values(), ids=PLANTS.keys())
def test_a_broken_law_turns_its_fault_red(loop: Chaos, plant: Plant, monkeypatch: pytest.MonkeyPatch):
    without = once(loop, plant)
    assert without.good, "the product itself fails"
    try:
        with planted(plant.edits):
            assert loop.restart(), "what is planted breaks more than the law"
            monkeypatch.setattr(loop, "patience", PATIENCE_SECONDS)
            found = once(loop, plant)
    finally:
        monkeypatch.undo()
        back = loop.restart()
    assert not found.good
    assert getattr(found.verdict, plant.shows), f"{plant.shows} is empty: {found}"
    assert back, "not whole after the product was put back"
