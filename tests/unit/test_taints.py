"""When the startup taint comes off a node: not before the node was seen to hold all that is meant for it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hauberk.crds.models import ProfileNode, ProfileRevision, SecurityProfile, decode
from hauberk.crds.names import PENDING_TAINT
from hauberk.operator.snapshot import AgentView, NodeView, Snapshot, node_view
from hauberk.operator.taints import untaints
from hauberk.operator.writes import Untaint

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HELD = {"a": "d1/enforce/aa", "b": "d1/enforce/bb"}


def a_profile(name: str, *, deleted: bool = False) -> SecurityProfile:
    metadata = {"name": name, "uid": f"uid-{name}", "generation": 1}
    gone = {"deletionTimestamp": "2026-01-01T00:00:00Z"} if deleted else {}
    spec = {"type": "AppArmor", "appArmor": {"policy": ""}}
    return decode(SecurityProfile, {"metadata": {**metadata, **gone}, "spec": spec})


def a_revision(name: str, digest: str = "d1", sequence: int = 1, **selector: str) -> ProfileRevision:
    placement = {"sequence": sequence, "nodeSelector": {"matchLabels": selector}}
    spec = {"profile": name, "profileUID": f"uid-{name}", "type": "AppArmor", "contract": 1}
    content = {"digest": digest, "mode": "Enforce"}
    body = {**spec, "content": content, "placement": placement}
    return decode(ProfileRevision, {"metadata": {"name": f"{name}.{digest}"}, "spec": body})


def a_report(
    held: dict[str, str], *, boot: str = "b", apparmor: bool = True, problems: Any = None
) -> ProfileNode:
    facts = {"lsms": ["apparmor"] if apparmor else ["selinux"], "appArmor": {"enabled": apparmor}}
    status: dict[str, Any] = {"bootID": boot, "facts": facts}
    if apparmor:
        status["appArmor"] = {"profiles": held, "problems": problems or {}}
    return decode(ProfileNode, {"metadata": {"name": "n"}, "status": status})


def let_go(
    report: ProfileNode | None,
    *revisions: ProfileRevision,
    profiles: tuple[SecurityProfile, ...] = (a_profile("a"), a_profile("b")),
    labelled: tuple[str, ...] = (),
    ready: bool = True,
    agent: bool = True,
    pending: bool = True,
) -> bool:
    long_ago = NOW - timedelta(hours=1)
    node = NodeView("n", {"pool": "x"}, ready=ready, ready_since=long_ago, boot_id="b", pending=pending)
    snapshot = Snapshot(
        profiles={one.metadata.name: one for one in profiles},
        revisions={one.metadata.name: one for one in revisions},
        reports={"n": report} if report else {},
        nodes={"n": node},
        agents={"n": AgentView("n", ready=agent, since=long_ago)},
        now=NOW,
    )
    writes = untaints(snapshot, labelled)
    assert writes in ([], [Untaint("n")])
    return bool(writes)


WANTED = (a_revision("a"), a_revision("b"))


def test_a_node_that_holds_everything_is_let_go():
    assert let_go(a_report(HELD), *WANTED)
    assert not let_go(a_report(HELD), *WANTED, pending=False)  # nothing to take off


@pytest.mark.parametrize(
    "report",
    [
        None,
        a_report({}),
        a_report({"a": "d1/enforce/aa"}),
        a_report(HELD, boot="the-one-before"),
        a_report({**HELD, "b": "d0/enforce/bb"}),
        a_report({**HELD, "b": "d1/complain/bb"}),
        a_report(
            {"a": "d1/enforce/aa"},
            problems={"b": {"revision": "d1", "reason": "LoadFailed", "message": "no"}},
        ),
    ],
    ids=["no report", "nothing", "one of two", "before a reboot", "older", "other mode", "failed"],
)
def test_a_node_that_lacks_something_is_not(report: ProfileNode | None):
    assert not let_go(report, *WANTED)


def test_nobody_is_believed_who_is_away():
    assert not let_go(a_report(HELD), *WANTED, ready=False)
    assert not let_go(a_report(HELD), *WANTED, agent=False)


def test_a_node_with_nothing_to_hold_is_let_go_once_its_agent_reported():
    assert not let_go(None, profiles=())
    assert not let_go(a_report({}, boot="the-one-before"), profiles=())
    assert let_go(a_report({}), profiles=())
    assert let_go(a_report({}))  # of two that are not published, or were refused
    assert let_go(a_report({}), a_revision("a", pool="y"), a_revision("b", pool="y"))
    assert not let_go(a_report({}), a_revision("a", pool="x"))
    assert let_go(a_report({}, apparmor=False), *WANTED)  # its kernel can't


def test_what_is_on_its_way_out_is_not_waited_for():
    assert let_go(a_report({}), a_revision("a"), profiles=(a_profile("a", deleted=True),))


def test_the_wanted_revision_counts():
    revisions = (a_revision("a"), a_revision("a", "d2", 2))
    assert not let_go(a_report(HELD), *revisions)
    assert let_go(a_report({"a": "d2/enforce/aa"}), *revisions)


def test_a_node_is_labelled_before_pods_come():
    assert not let_go(a_report(HELD), *WANTED, labelled=("n",))


@pytest.mark.parametrize(
    ("taints", "pending"),
    [
        (None, False),
        ([{"key": PENDING_TAINT, "effect": "NoSchedule"}], True),
        ([{"key": "x", "effect": "NoSchedule"}, {"key": PENDING_TAINT, "effect": "NoSchedule"}], True),
        ([{"key": PENDING_TAINT, "effect": "NoExecute"}], False),
        ([{"key": "x", "effect": "NoSchedule"}], False),
    ],
)
def test_the_taint_is_seen(taints: list[dict[str, str]] | None, pending: bool):
    metadata = {"name": "n", "creationTimestamp": "2026-01-01T00:00:00Z"}
    assert node_view({"metadata": metadata, "spec": {"taints": taints}}).pending is pending
