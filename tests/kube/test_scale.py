"""The benchmark in short: that it measures at all, and that nothing costs profiles times nodes.

Its goals are for an idle machine and a thousand nodes (`make bench`). Here others run beside it: what is
counted must be right all the same, what is timed has a wide margin.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from bench.figures import Figure
from bench.scale.run import SHORT, scale

NODES = SHORT.judged
# How often the floor may fit into the time to Ready.
MARGIN = 8.0


@pytest.mark.timeout(900)
def test_costs_grow_with_nodes_and_nothing_costs_anything_when_nothing_changes(tmp_path: Path):
    found: dict[str, Figure] = {}

    def told(what: str) -> None:
        sys.stderr.write(f"{what}\n")

    async def measure() -> None:
        async for some in scale(SHORT, tmp_path, told):
            found.update({one.key: one for one in some})

    asyncio.run(measure())
    told(str({one.key: one.value for one in found.values()}))
    # One changed profile: a report a node, and ten writes for the object; the longer it takes, the more often
    # its status counts, and machines may be busy.
    assert found[f"writes-{NODES}"].value <= NODES + 20, found[f"writes-{NODES}"].notes
    ratio = found[f"ready-{NODES}"].ratio
    assert ratio is not None
    assert ratio < MARGIN
    # ten times the nodes are no more bytes for each
    assert found[f"bytes-{NODES}"].value < 2 * found["bytes-10"].value
    for key in ("writes-steady", "restart-writes"):
        assert found[key].value == 0, found[key].notes
    assert found["restart"].value < 3 * (found["restart"].goal or 0)
    joined = found[f"join-{SHORT.joining}-writes"]
    assert joined.met, joined.notes
