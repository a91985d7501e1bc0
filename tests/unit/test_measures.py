"""What the operator's memory comes to in figures."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hauberk.crds.metrics import Reading
from hauberk.crds.models import ProfileNode, SecurityProfile, decode
from hauberk.operator.measures import of_cluster, of_process
from hauberk.operator.snapshot import AgentView, NodeView, Snapshot

from tests.unit.loops import body, report

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def profile(
    name: str, reason: str = "", status: str = "False", generation: int = 1, **nodes: int
) -> SecurityProfile:
    made = body(name)
    condition = {
        "type": "Ready",
        "status": status,
        "reason": reason,
        "message": "",
        "observedGeneration": generation,
    }
    made["status"] = {"conditions": [condition] if reason else [], "nodes": nodes}
    return decode(SecurityProfile, made)


def snapshot(*profiles: SecurityProfile, **more: Any) -> Snapshot:
    given: dict[str, Any] = {"revisions": {}, "reports": {}, "nodes": {}, "agents": {}, "now": NOW, **more}
    return Snapshot(profiles={one.metadata.name: one for one in profiles}, **given)


def told(readings: list[Reading]) -> dict[tuple[str, ...], float]:
    return {(one.metric.name.removeprefix("hauberk_"), *one.labels): one.value for one in readings}


def test_profiles_are_counted_by_the_reason_that_people_see():
    figures = told(
        of_cluster(
            snapshot(
                profile("a", "Ready", "True", targeted=3, ready=2, unreachable=1),
                profile("b", "Ready", "True"),
                profile("c", "NodesFailed", targeted=2, failed=1, ready=1),
                profile("d"),
            ),
            {("AppArmor", "c"): 7, ("SELinux", "a"): 9},
        )
    )
    assert figures["profiles", "AppArmor", "Ready"] == 2
    assert figures["profiles", "AppArmor", "NodesFailed"] == 1
    assert figures["profiles", "AppArmor", "Progressing"] == 1
    assert figures["profile_ready", "a", "AppArmor", "Ready"] == 1
    assert figures["profile_ready", "c", "AppArmor", "NodesFailed"] == 0
    assert figures["profile_ready", "d", "AppArmor", "Progressing"] == 0
    assert figures["profile_nodes_targeted", "a", "AppArmor"] == 3
    assert figures["profile_nodes", "a", "AppArmor", "unreachable"] == 1
    assert figures["drift_repairs_total", "c", "AppArmor"] == 7
    assert figures["drift_repairs_total", "a", "AppArmor"] == 0  # that was another type's


def test_the_states_of_nodes_add_up_to_those_targeted():
    one = profile("a", targeted=15, ready=1, updating=2, failed=3, agentDown=4, unreachable=5, unsupported=6)
    figures = told(of_cluster(snapshot(one), {}))
    assert sum(value for key, value in figures.items() if key[0] == "profile_nodes") == 15


def test_a_word_on_an_old_generation_is_no_readiness():
    figures = told(of_cluster(snapshot(profile("a", "Ready", "True", generation=0)), {}))
    assert figures["profile_ready", "a", "AppArmor", "Updating"] == 0


def test_a_profile_has_nine_series_however_many_nodes_there_are():
    """docs/reference/metrics.md says so."""
    nodes = {f"n{at}": NodeView(f"n{at}", {}, ready=True, ready_since=NOW, boot_id="b") for at in range(50)}
    before = of_cluster(snapshot(nodes=nodes), {})
    after = of_cluster(snapshot(profile("a", "Ready", "True", targeted=50), nodes=nodes), {})
    assert len(after) - len(before) == 9


def test_problems_are_counted_by_reasons_that_there_are():
    reports = {
        node: decode(
            ProfileNode, report(node, problems={"a": told_problem("LoadFailed"), "b": told_problem(word)})
        )
        for node, word in (("n1", "LoadFailed"), ("n2", "\n made_up 1"))
    }
    figures = told(of_cluster(snapshot(reports=reports), {}))
    problems = {key: value for key, value in figures.items() if key[0] == "problems"}
    assert problems == {("problems", "AppArmor", "LoadFailed"): 3, ("problems", "AppArmor", "Bug"): 1}


def told_problem(reason: str) -> dict[str, str]:
    return {"revision": "r", "reason": reason, "message": ""}


@pytest.mark.parametrize(
    ("ready", "labels", "agent", "figure"),
    [
        (True, {}, True, ("ready", 1)),
        (True, {}, False, ("down", 1)),
        (True, {}, None, ("missing", 1)),
        (False, {}, False, ("down", 0)),  # the node's trouble, of which others tell
        (True, {"kubernetes.io/os": "windows"}, None, ("missing", 0)),
    ],
)
def test_agents_count_where_they_could_work(
    ready: bool, labels: dict[str, str], agent: bool | None, figure: tuple[str, int]
):
    nodes = {"n": NodeView("n", labels, ready=ready, ready_since=NOW, boot_id="b")}
    agents = {} if agent is None else {"n": AgentView("n", agent, NOW)}
    figures = told(of_cluster(snapshot(nodes=nodes, agents=agents), {}))
    assert figures["agents", figure[0]] == figure[1]


def test_of_itself_a_process_tells_whether_it_leads_and_what_waits():
    assert told(of_process(leads=True, pending={"judging": 2})) == {("leader",): 1, ("pending", "judging"): 2}
