"""One profile on one node, and Nodes and Pods as the operator reads them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hauberk.crds.models import (
    AppArmorFacts,
    Content,
    Entry,
    Facts,
    Metadata,
    NodeStatus,
    Placement,
    Problem,
    ProfileNode,
    RevisionSpec,
    Section,
)
from hauberk.crds.names import CONTRACT, OF_OTHER_KIND
from hauberk.crds.reasons import NodeState, Reason
from hauberk.operator.rollout import agent_down, held, nodes_still_holding, on_nodes
from hauberk.operator.snapshot import AgentView, NodeView, Snapshot, agent_view, node_view, parse_time

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def a_node(
    name: str = "n", *, ready: bool = True, boot: str = "b", labels: dict[str, str] | None = None
) -> NodeView:
    return NodeView(name, labels or {}, ready, ago(5000), boot)


def a_report(
    entry: str = "", problem: tuple[str, str] | None = None, *, boot: str = "b", supported: bool = True
) -> ProfileNode:
    section = Section(
        profiles={"p": entry} if entry else {},
        problems={"p": Problem(revision=problem[0], reason=problem[1], message="why")} if problem else {},
    )
    facts = Facts(app_armor=AppArmorFacts(enabled=supported))
    status = NodeStatus(boot_id=boot, facts=facts, app_armor=section if supported else None)
    return ProfileNode(metadata=Metadata(name="n"), status=status)


def cluster(node: NodeView, report: ProfileNode | None, agent: AgentView | None = None) -> Snapshot:
    return Snapshot(
        profiles={},
        revisions={},
        reports={node.name: report} if report else {},
        nodes={node.name: node},
        agents={node.name: agent or AgentView(node.name, ready=True, since=ago(5000))},
        now=NOW,
    )


def wanted(mode: str = "Enforce") -> RevisionSpec:
    """Return what every selected node should hold: profile p with content d1, on all nodes."""
    return RevisionSpec(
        profile="p",
        profile_uid="u",
        type="AppArmor",
        contract=CONTRACT,
        content=Content(digest="d1", mode=mode),
        placement=Placement(sequence=1),
    )


@pytest.mark.parametrize(
    ("entry", "problem", "mode", "state", "told"),
    [
        ("d1/enforce/aa", None, "Enforce", NodeState.READY, None),
        ("d1/complain/aa", None, "Complain", NodeState.READY, None),
        ("d1/kill/aa", None, "Enforce", NodeState.READY, None),
        ("d1/enforce/-", None, "Enforce", NodeState.READY, None),
        ("d1/complain/aa", None, "Enforce", NodeState.UPDATING, None),
        ("d1/enforce/aa", None, "Complain", NodeState.UPDATING, None),
        ("d1/enforce/aa", ("d1", "StateUnwritable"), "Enforce", NodeState.READY, "StateUnwritable"),
        ("", None, "Enforce", NodeState.UPDATING, None),
        ("d0/enforce/aa", None, "Enforce", NodeState.UPDATING, None),
        ("d0/enforce/aa", ("d1", "PolicyRefused"), "Enforce", NodeState.FAILED, "PolicyRefused"),
        ("", ("d1", "HostOwned"), "Enforce", NodeState.FAILED, "HostOwned"),
        ("", ("d0", "HostOwned"), "Enforce", NodeState.UPDATING, None),  # of an earlier text
        ("nonsense", None, "Enforce", NodeState.UPDATING, None),
    ],
)
def test_what_a_report_means(
    entry: str, problem: tuple[str, str] | None, mode: str, state: NodeState, told: str | None
):
    (one,) = on_nodes(wanted(mode), cluster(a_node(), a_report(entry, problem)))
    assert one.state is state
    assert (one.failure.reason if one.failure else None) == told
    assert one.holds == entry.partition("/")[0]


@pytest.mark.parametrize(
    ("node", "report", "agent", "state"),
    [
        (a_node(), None, None, NodeState.UPDATING),
        (a_node(boot="c"), a_report("d1/enforce/aa"), None, NodeState.UPDATING),
        (a_node(), a_report(supported=False), None, NodeState.UNSUPPORTED),
        (a_node(ready=False), a_report(supported=False), None, NodeState.UNSUPPORTED),
        (a_node(ready=False), a_report("d1/enforce/aa"), None, NodeState.UNREACHABLE),
        (a_node(ready=False), None, None, NodeState.UNREACHABLE),
        (a_node(), a_report("d1/enforce/aa"), AgentView("n", ready=False, since=ago(90)), NodeState.READY),
        (
            a_node(),
            a_report("d1/enforce/aa"),
            AgentView("n", ready=False, since=ago(91)),
            NodeState.AGENT_DOWN,
        ),
        (a_node(), None, AgentView("n", ready=False, since=ago(91)), NodeState.AGENT_DOWN),
        (a_node(ready=False), None, AgentView("n", ready=False, since=ago(91)), NodeState.UNREACHABLE),
    ],
)
def test_what_a_node_and_its_agent_mean(
    node: NodeView, report: ProfileNode | None, agent: AgentView | None, state: NodeState
):
    (one,) = on_nodes(wanted(), cluster(node, report, agent))
    assert one.state is state


def test_a_report_of_an_earlier_boot_does_not_say_what_the_kernel_has_now():
    """After a reboot with AppArmor on, the node is left out and Ready=True is said without it."""
    snapshot = cluster(a_node(boot="after"), a_report(supported=False, boot="before"))
    (one,) = on_nodes(wanted(), snapshot)
    assert one.state is NodeState.UPDATING


def test_two_missing_boot_ids_prove_nothing():
    snapshot = cluster(a_node(boot=""), a_report("d1/enforce/aa", boot=""))
    (one,) = on_nodes(wanted(), snapshot)
    assert one.state is NodeState.UPDATING


def test_what_an_earlier_boot_held_is_not_available():
    """The node was rebooted and its agent is away: Available=True rests on what no kernel holds."""
    snapshot = cluster(
        a_node(boot="after"),
        a_report("d1/enforce/aa", boot="before"),
        AgentView("n", ready=False, since=ago(500)),
    )
    (one,) = on_nodes(wanted(), snapshot)
    assert one.holds == ""


@pytest.mark.parametrize(
    ("labels", "selected"),
    [
        ({}, True),
        ({"kubernetes.io/os": "linux"}, True),
        ({"kubernetes.io/os": "windows"}, False),
        ({"type": "virtual-kubelet"}, False),
        ({"eks.amazonaws.com/compute-type": "fargate"}, False),
        ({"eks.amazonaws.com/compute-type": "ec2"}, True),
    ],
)
def test_only_nodes_with_a_kernel_are_targeted(labels: dict[str, str], selected: bool):
    found = on_nodes(wanted(), cluster(a_node(labels=labels), None))
    assert bool(found) is selected


@pytest.mark.parametrize(
    ("agent", "ready_since", "down"),
    [
        (None, 5000, True),
        (AgentView("n", ready=True, since=ago(1)), 5000, False),
        (AgentView("n", ready=False, since=ago(89)), 5000, False),
        (AgentView("n", ready=False, since=ago(91)), 5000, True),
        (AgentView("n", ready=False, since=ago(5000)), 89, False),
        (AgentView("n", ready=False, since=ago(5000)), 91, True),
    ],
)
def test_an_agent_may_be_away_for_ninety_seconds(agent: AgentView | None, ready_since: float, down: bool):
    node = NodeView("n", {}, ready=True, ready_since=ago(ready_since), boot_id="b")
    assert agent_down(node, agent, NOW) is down


@pytest.mark.parametrize(
    ("entry", "found"),
    [
        ("d1/enforce/aa/7", Entry("d1", "enforce", "aa", 7)),
        ("d1/enforce/aa", Entry("d1", "enforce", "aa")),
        ("d1", Entry("d1")),
        ("", Entry()),
        ("a/b", Entry("a", "b")),
        ("a/b/c/d", Entry("a", "b", "c")),
    ],
)
def test_an_entry_is_revision_mode_hash_and_sequence(entry: str, found: Entry):
    assert held(wanted(), a_report(entry)) == found


def test_without_a_report_nothing_is_held():
    assert held(wanted(), None) == Entry()
    assert held(wanted(), a_report(supported=False)) == Entry()


@pytest.mark.parametrize(
    ("node", "report", "found"),
    [
        (a_node(), a_report("d0/enforce/aa"), {"n": ""}),
        (a_node(), a_report("d0/enforce/aa", ("d0", Reason.IN_USE)), {"n": "why"}),
        (a_node(), a_report(), {}),
        (a_node(), None, {}),
        (a_node(ready=False), a_report("d0/enforce/aa"), {}),
    ],
)
def test_a_deletion_waits_for_reachable_nodes_only(
    node: NodeView, report: ProfileNode | None, found: dict[str, str]
):
    assert nodes_still_holding("p", "AppArmor", cluster(node, report)) == found


def condition(status: str, since: str | None = "2026-01-01T11:00:00Z", kind: str = "Ready") -> dict[str, Any]:
    return {"type": kind, "status": status, "lastTransitionTime": since}


@pytest.mark.parametrize(
    ("status", "ready", "since"),
    [
        ({}, False, "2026-01-01T00:00:00Z"),
        ({"conditions": []}, False, "2026-01-01T00:00:00Z"),
        ({"conditions": [condition("True", kind="DiskPressure")]}, False, "2026-01-01T00:00:00Z"),
        ({"conditions": [condition("True")]}, True, "2026-01-01T11:00:00Z"),
        ({"conditions": [condition("Unknown")]}, False, "2026-01-01T11:00:00Z"),
        ({"conditions": [condition("False", None)]}, False, "2026-01-01T00:00:00Z"),
    ],
)
def test_readiness_and_its_time(status: dict[str, Any], ready: bool, since: str):
    metadata = {"name": "n", "creationTimestamp": "2026-01-01T00:00:00Z"}
    node = node_view({"metadata": metadata, "status": status})
    assert (node.ready, node.ready_since, node.labels, node.boot_id) == (ready, parse_time(since), {}, "")
    agent = agent_view({"metadata": metadata, "spec": {"nodeName": "n"}, "status": status})
    assert agent == AgentView("n", ready, parse_time(since))


def test_a_node_without_a_status_is_read():
    body = {
        "metadata": {"name": "n", "creationTimestamp": "2026-01-01T00:00:00Z", "labels": None},
        "status": None,
    }
    assert node_view(body).ready is False


@pytest.mark.parametrize(
    "body",
    [
        {"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}},
        {"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"nodeName": ""}},
        {
            "metadata": {
                "creationTimestamp": "2026-01-01T00:00:00Z",
                "deletionTimestamp": "2026-01-01T00:00:00Z",
            },
            "spec": {"nodeName": "n"},
        },
    ],
)
def test_a_pod_without_a_node_or_on_its_way_out_is_no_agent(body: dict[str, Any]):
    assert agent_view(body) is None


@pytest.mark.parametrize(
    ("entry", "problem", "state"),
    [
        ("d1/enforce/aa", None, NodeState.READY),
        (f"d1{OF_OTHER_KIND}/enforce/aa", None, NodeState.UPDATING),
        (f"d1{OF_OTHER_KIND}/enforce/aa", ("d1", Reason.AWAITING_RENDER), NodeState.UPDATING),
        (f"d1{OF_OTHER_KIND}/enforce/aa", ("d1", Reason.TEMPLATE_REFUSED), NodeState.FAILED),
        ("", ("d1", Reason.AWAITING_RENDER), NodeState.UPDATING),
        ("", ("d1", Reason.TEMPLATE_REFUSED), NodeState.FAILED),
    ],
)
def test_a_node_is_ready_with_the_text_for_its_kind_only(
    entry: str, problem: tuple[str, str] | None, state: NodeState
):
    (found,) = on_nodes(wanted(), cluster(a_node(), a_report(entry, problem)))
    assert found.state is state


@pytest.mark.parametrize(
    ("entry", "state"),
    [
        ("d1/enforce/0123456789/1", NodeState.READY),
        ("d1/enforce/0123456789", NodeState.READY),  # of an agent that tells none
        ("d1/enforce/0123456789/0", NodeState.UPDATING),
        ("d1/enforce/0123456789/2", NodeState.UPDATING),
    ],
)
def test_a_report_from_before_a_profile_was_changed_and_changed_back_does_not_count(
    entry: str, state: NodeState
):
    (one,) = on_nodes(wanted(), cluster(a_node(), a_report(entry)))
    assert one.state is state
