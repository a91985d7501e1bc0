"""What the operator tells of repairs: each once, and nothing of before it started."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hauberk.crds.models import Metadata, NodeStatus, ProfileNode, Repairs, Section
from hauberk.crds.names import APPARMOR, SECCOMP, SELINUX
from hauberk.operator.drift import Counts, Repaired, counts, news
from hauberk.operator.snapshot import Snapshot
from hypothesis import given
from hypothesis import strategies as st


def cluster(reports: dict[str, dict[str, int] | None]) -> Snapshot:
    """Return a cluster whose nodes tell of so many repairs by profile; None: a kernel without AppArmor."""

    def report(node: str, repairs: dict[str, int] | None) -> ProfileNode:
        section = None
        if repairs is not None:
            told = {name: Repairs(count=count, message=f"{name} was gone") for name, count in repairs.items()}
            section = Section(repairs=told)
        return ProfileNode(metadata=Metadata(name=node), status=NodeStatus(app_armor=section))

    return Snapshot(
        profiles={},
        revisions={},
        reports={node: report(node, repairs) for node, repairs in reports.items()},
        nodes={},
        agents={},
        now=datetime(2026, 1, 1, tzinfo=UTC),
    )


ONE = "n: p was gone; it is loaded again (1 time since that node's agent started)"
THREE = "n: p was gone; it is loaded again (3 times since that node's agent started)"


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        ({}, {}, []),
        ({}, {"n": None}, []),
        ({}, {"n": {}}, []),
        ({}, {"n": {"p": 1}}, [ONE]),
        ({("n", APPARMOR, "p"): 1}, {"n": {"p": 1}}, []),
        ({("n", APPARMOR, "p"): 1}, {"n": {"p": 3}}, [THREE]),
        ({("n", APPARMOR, "p"): 5}, {"n": {"p": 1}}, [ONE]),  # its agent started again
        ({("n", APPARMOR, "p"): 5}, {"n": {}}, []),
        ({("other", APPARMOR, "p"): 1}, {"n": {"p": 1}}, [ONE]),
        ({("n", APPARMOR, "q"): 1}, {"n": {"p": 1}}, [ONE]),
    ],
)
def test_what_was_repaired_since(before: Counts, now: dict[str, dict[str, int] | None], told: list[str]):
    assert news(before, cluster(now)) == [
        Repaired("n", APPARMOR, "p", (now["n"] or {})["p"], message) for message in told
    ]


def test_nodes_and_profiles_are_told_in_order():
    snapshot = cluster({"n2": {"a": 1}, "n1": {"b": 1, "a": 1}})
    assert [(one.message.split(":")[0], one.profile) for one in news({}, snapshot)] == [
        ("n1", "a"),
        ("n1", "b"),
        ("n2", "a"),
    ]


def test_each_type_has_its_own_repairs():
    """A name that came back with another type: what is told of either is told once, and of that one."""

    def section(count: int, message: str) -> Section:
        return Section(repairs={"p": Repairs(count=count, message=message)})

    status = NodeStatus(
        app_armor=section(1, "the kernel does not hold p"),
        selinux=section(2, "the kernel does not hold p.process"),
        seccomp=section(3, "the kubelet's folder does not hold hauberk/p.json"),
    )
    snapshot = replace(cluster({}), reports={"n": ProfileNode(metadata=Metadata(name="n"), status=status)})
    assert [(one.type, one.count, one.message.partition(";")[0]) for one in news({}, snapshot)] == [
        (APPARMOR, 1, "n: the kernel does not hold p"),
        (SELINUX, 2, "n: the kernel does not hold p.process"),
        (SECCOMP, 3, "n: the kubelet's folder does not hold hauberk/p.json"),
    ]
    assert news(counts(snapshot), snapshot) == []
    before = {**counts(snapshot), ("n", SELINUX, "p"): 1}
    assert [(one.type, one.count) for one in news(before, snapshot)] == [(SELINUX, 2)]


repairs = st.dictionaries(
    st.sampled_from(["n1", "n2"]), st.dictionaries(st.sampled_from(["p", "q"]), st.integers(1, 4))
)


@given(repairs, repairs)
def test_each_is_told_once_and_the_baseline_is_never_told(
    first: dict[str, dict[str, int]], second: dict[str, dict[str, int]]
):
    before, now = cluster(dict(first)), cluster(dict(second))
    assert news(counts(before), before) == []
    told = news(counts(before), now)
    changed = {
        (node, profile)
        for node, of in second.items()
        for profile, count in of.items()
        if first.get(node, {}).get(profile) != count
    }
    assert {(one.message.split(":")[0], one.profile) for one in told} == changed
    assert len(told) == len(changed)
