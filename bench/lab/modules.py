"""What many SELinux modules at once take a node, beside what one takes.

Used by `run`. A node's time is what its agent logs of the runs of semodule, from which nothing else of it
differs; the time that the user waits, from `kubectl apply` to Ready, is measured beside it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.figures import Figure, Floor
from tests.e2e.cluster import apply, kubectl, ok, selinux_profile, wait_ready
from tests.e2e.test_selinux import container, runs

# The agent has to start where it is the first profile of its type.
WITHIN_SECONDS = 240
SINGLES = 3
MANY = 20
GOAL = 1.5


def measure() -> list[Figure]:
    """Install single modules, then many at once; return what the many took against the single ones."""
    _install(["warm"])
    singles = [_install([f"single{number}"]) for number in range(SINGLES)]
    many = _install([f"many{number}" for number in range(MANY)])
    ok(kubectl("delete", "secprof", "--all", f"--timeout={WITHIN_SECONDS}s", timeout=300))
    return [
        Figure(
            "modules-node",
            f"node time of {MANY} SELinux modules applied at once",
            many.node,
            "s",
            goal=GOAL,
            floor=Floor("one module, median", statistics.median(one.node for one in singles)),
            samples=[one.node for one in singles],
            notes=many.transactions,
        ),
        Figure(
            "modules-ready",
            f"apply to Ready of {MANY} SELinux modules at once",
            many.waited,
            "s",
            floor=Floor("one module, median", statistics.median(one.waited for one in singles)),
            samples=[one.waited for one in singles],
        ),
    ]


@dataclass(frozen=True)
class Took:
    """What some modules took until all were Ready: the node's seconds, the user's, and each transaction."""

    node: float
    waited: float
    transactions: dict[str, float]


def _install(names: Sequence[str]) -> Took:
    """Apply modules by these names, and return what they took."""
    before = len(runs(0)) if not names[0].startswith("warm") else 0
    items: list[dict[str, Any]] = [selinux_profile(name, container(name)) for name in names]
    began = time.monotonic()
    apply({"apiVersion": "v1", "kind": "List", "items": items})
    for name in names:
        wait_ready(name, WITHIN_SECONDS)
    waited = time.monotonic() - began
    told = runs(before)
    transactions = {
        f"transaction {number} of {one['installed']}": float(str(one["seconds"]))
        for number, one in enumerate(told, 1)
    }
    return Took(sum(transactions.values()), waited, transactions)
