"""What the operator tells of gated pods in figures."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hauberk.crds.metrics import GATED_POD_WAIT, GATED_PODS, GATES_OPENED
from hauberk.crds.models import decode
from hauberk.crds.names import LABEL_GATED, POD_GATE
from hauberk.crds.pods import PodObject
from hauberk.operator.gates import Gates
from hauberk.operator.measures import of_gates

NOW = datetime(2026, 1, 1, 1, tzinfo=UTC)


def a_pod(name: str, created: str, *, gated: bool = True, leaving: bool = False) -> PodObject:
    metadata = {
        "name": name,
        "namespace": "shop",
        "uid": name,
        "creationTimestamp": f"2026-01-01T{created}Z",
        "labels": {LABEL_GATED: "true"},
        **({"deletionTimestamp": "2026-01-01T00:59:59Z"} if leaving else {}),
    }
    gates = [{"name": POD_GATE if gated else "example.com/other"}]
    return decode(PodObject, {"metadata": metadata, "spec": {"schedulingGates": gates}})


@pytest.mark.parametrize(
    ("pods", "count", "seconds"),
    [
        ([], 0, 0.0),
        ([a_pod("a", "00:59:30")], 1, 30.0),
        ([a_pod("a", "00:59:30"), a_pod("b", "00:30:00")], 2, 1800.0),
        ([a_pod("a", "00:59:30"), a_pod("b", "00:30:00", gated=False)], 1, 30.0),
        ([a_pod("a", "00:59:30"), a_pod("b", "00:30:00", leaving=True)], 1, 30.0),
        ([a_pod("a", "01:00:01")], 1, 0.0),  # of a node whose clock is ahead
    ],
)
def test_the_oldest_of_those_that_wait_is_told(pods: list[PodObject], count: int, seconds: float):
    gates = Gates()
    gates.listed({("shop", one.metadata.name): one for one in pods}, 0.0)
    assert {one.metric: one.value for one in of_gates(gates, 7, NOW)} == {
        GATED_PODS: count,
        GATED_POD_WAIT: seconds,
        GATES_OPENED: 7,
    }
