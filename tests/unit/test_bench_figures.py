"""Figures say what they were held against, and two runs are told apart beyond noise."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bench import compare, figures, page
from bench.figures import Figure, Floor, percentile
from bench.scale.accounting import AuditLog, Metrics, Written, tally


def figure(value: float, **more: Any) -> Figure:
    return Figure("key", "what it is", value, "s", **more)


@pytest.mark.parametrize(
    ("one", "met"),
    [
        (figure(3), None),
        (figure(3, goal=3), True),
        (figure(3.1, goal=3), False),
        (figure(3, goal=1.5, floor=Floor("bare", 2)), True),
        (figure(3.1, goal=1.5, floor=Floor("bare", 2)), False),
        (figure(3, goal=1.5, floor=Floor("bare", 0)), False),
        (figure(math.nan, goal=3), False),
        (figure(0, goal=0), True),
    ],
)
def test_a_goal_is_for_the_ratio_where_there_is_a_floor(one: Figure, met: bool | None):
    assert one.met is met


@pytest.mark.parametrize(
    ("share", "sample"), [(0.5, 2), (0.95, 4), (1, 4), (0, 1)], ids=["median", "95", "most", "least"]
)
def test_a_percentile_is_one_of_the_samples(share: float, sample: float):
    assert percentile([4, 1, 3, 2], share) == sample
    assert math.isnan(percentile([], share))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0312, "0.0312"), (1.234, "1.23"), (3, "3"), (1234.5, "1,234"), (1000000, "1,000,000")],
)
def test_numbers_have_three_digits_that_count(value: float, text: str):
    assert figures.number(value) == text
    assert figures.number(math.nan) == "-"


@pytest.mark.parametrize(("decides", "code"), [(True, 1), (False, 0)])
def test_only_what_decides_fails_the_run(decides: bool, code: int, capsys: pytest.CaptureFixture[str]):
    missed = figure(3, goal=1, decides=decides)
    assert figures.show([figure(1, goal=1), missed], Console(width=80, highlight=False)) == code
    said = capsys.readouterr().out
    assert "MISSED" in said
    assert all(len(line) <= 80 for line in said.splitlines())


def results(folder: Path, value: float, samples: list[float], floor: float) -> dict[str, Any]:
    made = [
        figure(value, floor=Floor("bare", floor), samples=samples),
        Figure("writes-10", "API writes", value, "", notes={"agent patch": 3}),
    ]
    figures.write(folder / "result.json", "Simulated nodes", made)
    return json.loads((folder / "result.json").read_text())


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        ((10, [9, 10, 11], 5), (10.4, [10, 10.4, 11], 5), "same"),
        ((10, [9.9, 10, 10.1], 5), (13, [12.9, 13, 13.1], 5), "worse"),
        ((10, [9.9, 10, 10.1], 5), (7, [6.9, 7, 7.1], 5), "better"),
        # the machine was slower: so was the floor
        ((10, [9.9, 10, 10.1], 5), (20, [19.9, 20, 20.1], 10), "same"),
    ],
)
def test_what_is_slower_than_the_floor_was_is_worse(
    tmp_path: Path, before: tuple[Any, ...], after: tuple[Any, ...], verdict: str
):
    found = compare.differences(results(tmp_path, *before), results(tmp_path, *after))
    assert found[0].verdict == verdict


def test_the_page_has_each_figure_and_what_it_is_made_of(tmp_path: Path):
    said = page.page([results(tmp_path, 3, [3], 2) | {"title": "Simulated nodes"}], "Nothing was missed.\n")
    assert "| what it is | 3 s | 2 (bare) | 1.50 |  |  |" in said
    assert "* API writes: agent patch: 3" in said
    assert said.endswith("Nothing was missed.\n")


def event(verb: str, resource: str, sub: str = "") -> str:
    about = {"resource": resource, "subresource": sub} if sub else {"resource": resource}
    user = {"username": "system:serviceaccount:hauberk-system:hauberk-agent"}
    return (
        json.dumps({"user": user, "verb": verb, "objectRef": about, "responseStatus": {"code": 200}}) + "\n"
    )


def test_the_audit_log_is_read_on_from_where_it_was_read(tmp_path: Path):
    audit = AuditLog(tmp_path)
    assert audit.read() == []
    audit.log.write_text(event("patch", "profilenodes") + event("update", "leases") + '{"half')
    assert audit.read() == [Written("hauberk-agent", "patch", "profilenodes", 200)]
    audit.log.write_text(event("patch", "profilenodes") + event("update", "leases"))
    with audit.log.open("a") as file:
        file.write(event("patch", "securityprofiles", "status"))
    found = audit.read()
    assert tally(found) == {"hauberk-agent patch securityprofiles/status": 1}


def test_metrics_are_summed_by_their_labels():
    text = (
        "# TYPE apiserver_watch_events_sizes histogram\n"
        'apiserver_watch_events_sizes_sum{group="hauberk.dev",resource="profilenodes"} 5\n'
        'apiserver_watch_events_sizes_sum{group="hauberk.dev",resource="profilerevisions"} 7\n'
        'apiserver_watch_events_sizes_sum{group="",resource="nodes"} 100\n'
        "# TYPE process_resident_memory_bytes gauge\nprocess_resident_memory_bytes 2097152\n"
    )
    metrics = Metrics.parse(text)
    assert metrics.watched_bytes() == 12
    assert metrics.memory_mib == 2
