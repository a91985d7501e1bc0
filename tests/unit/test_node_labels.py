"""Which labels a Node gets: its security modules, and the agent that it is to have."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hauberk.crds.models import (
    AppArmorFacts,
    Content,
    Facts,
    Metadata,
    NodeStatus,
    Orphan,
    Placement,
    Problem,
    ProfileNode,
    ProfileRevision,
    ProfileSpec,
    RevisionSpec,
    Section,
    SecurityProfile,
)
from hauberk.crds.names import APPARMOR, CONTRACT, LABEL_AGENT, LABEL_LSM, SECCOMP, SELINUX
from hauberk.operator.node_labels import node_labels
from hauberk.operator.snapshot import NodeView, Snapshot
from hauberk.operator.writes import LabelNode
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime(2026, 1, 1, tzinfo=UTC)
OF_APPARMOR, OF_SELINUX = LABEL_LSM[APPARMOR], LABEL_LSM[SELINUX]
PROBLEM = Problem(revision="d1", reason="InUse", message="1 task runs as p.process")


def a_node(labels: dict[str, str] | None = None, boot: str = "b") -> NodeView:
    return NodeView("n", labels or {}, ready=True, ready_since=NOW, boot_id=boot)


def a_report(
    lsms: str = "selinux", boot: str = "b", selinux: Section | None = None, seccomp: Section | None = None
) -> ProfileNode:
    facts = Facts(lsms=lsms.split(), app_armor=AppArmorFacts(enabled="apparmor" in lsms))
    return ProfileNode(
        metadata=Metadata(name="n"),
        status=NodeStatus(boot_id=boot, facts=facts, selinux=selinux, seccomp=seccomp),
    )


def a_profile(kind: str) -> SecurityProfile:
    return SecurityProfile(metadata=Metadata(name=f"of-{kind}", uid="u"), spec=ProfileSpec(type=kind))


def a_revision(kind: str) -> ProfileRevision:
    spec = RevisionSpec(
        profile="p",
        profile_uid="u",
        type=kind,
        contract=CONTRACT,
        content=Content(digest="d1", mode="Enforce"),
        placement=Placement(sequence=1, withdrawn=True),
    )
    return ProfileRevision(metadata=Metadata(name="p.d1"), spec=spec)


def changed(
    report: ProfileNode | None, node: NodeView | None = None, *types: str, published: str = ""
) -> dict[str, str | None] | None:
    """Return what is written to the node's labels; None: nothing is. `types`: of the profiles that exist."""
    snapshot = Snapshot(
        profiles={kind: a_profile(kind) for kind in types},
        revisions={"p.d1": a_revision(published)} if published else {},
        reports={"n": report} if report else {},
        nodes={"n": node or a_node()},
        agents={},
        now=NOW,
    )
    writes = node_labels(snapshot)
    assert len(writes) <= 1
    assert all(isinstance(one, LabelNode) and one.node == "n" for one in writes)
    return dict(writes[0].labels) if writes else None


@pytest.mark.parametrize(
    ("lsms", "labels"),
    [
        ("capability apparmor", {OF_APPARMOR: "true", OF_SELINUX: "false"}),
        ("capability selinux", {OF_APPARMOR: "false", OF_SELINUX: "true"}),
        ("selinux apparmor", {OF_APPARMOR: "true", OF_SELINUX: "true"}),
        ("capability", {OF_APPARMOR: "false", OF_SELINUX: "false"}),
    ],
)
def test_a_node_gets_the_labels_of_its_modules(lsms: str, labels: dict[str, str]):
    assert changed(a_report(lsms)) == labels


def test_a_module_that_is_gone_is_known_to_be_lacking():
    before = {OF_APPARMOR: "true", OF_SELINUX: "true", LABEL_AGENT: "selinux", "pool": "a"}
    assert changed(a_report("capability apparmor"), a_node(before)) == {
        OF_SELINUX: "false",
        LABEL_AGENT: None,
    }


def test_what_someone_made_of_a_label_is_put_right():
    before = {OF_APPARMOR: "true", OF_SELINUX: "no", LABEL_AGENT: "other"}
    put_right = {OF_APPARMOR: "false", OF_SELINUX: "true", LABEL_AGENT: None}
    assert changed(a_report(), a_node(before)) == put_right


@pytest.mark.parametrize(
    ("types", "published", "section", "needed"),
    [
        ((), "", {}, False),
        ((APPARMOR,), APPARMOR, {}, False),
        ((SELINUX,), "", {}, True),
        ((SECCOMP,), "", {}, True),
        ((APPARMOR, SECCOMP), "", {}, True),
        # the object is gone, and what nodes are to unload is still published
        ((), SELINUX, {}, True),
        ((), SECCOMP, {}, True),
        # or the node still has something of it
        ((), "", {"selinux": Section(profiles={"p": "d1/enforcing/aa"})}, True),
        ((), "", {"seccomp": Section(profiles={"p": "d1/enforce/aa"})}, True),
        ((), "", {"selinux": Section(orphans={"p": Orphan(uid="u")})}, True),
        # permissive, by force, until its last task ends
        ((), "", {"selinux": Section(problems={"p": PROBLEM})}, True),
        ((), "", {"selinux": Section(), "seccomp": Section()}, False),
    ],
)
def test_the_privileged_agent_is_where_something_needs_it_and_until_it_is_gone(
    types: tuple[str, ...], published: str, section: dict[str, Section], needed: bool
):
    report = a_report(selinux=section.get("selinux"), seccomp=section.get("seccomp"))
    without = {OF_APPARMOR: "false", OF_SELINUX: "true"}
    with_it = {**without, LABEL_AGENT: "selinux"}
    if needed:
        assert changed(report, a_node(without), *types, published=published) == {LABEL_AGENT: "selinux"}
        assert changed(report, a_node(with_it), *types, published=published) is None
    else:
        assert changed(report, a_node(with_it), *types, published=published) == {LABEL_AGENT: None}
        assert changed(report, a_node(without), *types, published=published) is None


@pytest.mark.parametrize("kind", [SELINUX, SECCOMP])
def test_a_node_without_selinux_has_the_other_agent_whatever_there_is(kind: str):
    report = a_report("apparmor", seccomp=Section(profiles={"p": "d1/enforce/aa"}))
    assert changed(report, a_node(), kind) == {OF_APPARMOR: "true", OF_SELINUX: "false"}


@pytest.mark.parametrize(
    ("report", "node"),
    [
        (None, a_node({OF_SELINUX: "true"})),
        (a_report("apparmor", boot="before"), a_node({OF_SELINUX: "true"}, boot="after")),
        (a_report("apparmor"), a_node(boot="")),
        (a_report("apparmor", boot=""), a_node(boot="")),
        (a_report(""), a_node({OF_SELINUX: "true"})),  # by an agent that told no modules yet
        (a_report(), a_node({"kubernetes.io/os": "windows"})),
        (a_report(), a_node({"type": "virtual-kubelet"})),
    ],
)
def test_what_proves_nothing_changes_nothing(report: ProfileNode | None, node: NodeView):
    assert changed(report, node, SELINUX) is None


def test_a_node_that_is_not_there_gets_no_label():
    snapshot = Snapshot({}, {}, {"gone": a_report()}, {}, {}, NOW)
    assert node_labels(snapshot) == []


LABELS = st.dictionaries(
    st.sampled_from([OF_APPARMOR, OF_SELINUX, LABEL_AGENT, "pool"]), st.sampled_from(["true", "selinux", "x"])
)


@given(
    LABELS,
    st.sampled_from(["apparmor", "selinux", "apparmor selinux", "capability"]),
    st.lists(st.sampled_from([APPARMOR, SELINUX, SECCOMP]), unique=True),
    st.booleans(),
)
def test_once_written_nothing_is_left_to_write(
    labels: dict[str, str], lsms: str, types: list[str], holds: bool
):
    report = a_report(lsms, selinux=Section(profiles={"p": "d1/enforcing/aa"}) if holds else None)
    change = changed(report, a_node(labels), *types) or {}
    after = {key: value for key, value in (labels | change).items() if value is not None}
    assert changed(report, a_node(after), *types) is None
    assert after.get("pool") == labels.get("pool")
    assert (after.get(LABEL_AGENT) == "selinux") == (
        "selinux" in lsms and (holds or bool({*types} - {APPARMOR}))
    )
