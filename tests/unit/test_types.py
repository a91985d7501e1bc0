"""What the operator and the admission decide for each type of profile, and that types are kept apart."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hauberk.crds.facts import facts_key
from hauberk.crds.models import (
    AppArmor,
    AppArmorFacts,
    Condition,
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
    ProfileStatus,
    RevisionSpec,
    Seccomp,
    Section,
    SecurityProfile,
    SELinux,
    Template,
    Text,
)
from hauberk.crds.names import APPARMOR, CONTRACT, FINALIZER, SECCOMP, SELINUX, TYPES, text_id, tombstone_name
from hauberk.crds.reasons import NodeState, Reason
from hauberk.operator.aggregate import aggregate
from hauberk.operator.desired import tombstones
from hauberk.operator.finalizers import finalizers
from hauberk.operator.publish import (
    Judged,
    Judgement,
    Refusal,
    content_digest,
    judgement,
    name_owners,
    unjudged_kinds,
    wanted_revision,
)
from hauberk.operator.rollout import nodes_still_holding, on_nodes, rollout
from hauberk.operator.snapshot import AgentView, NodeView, Store, without_text
from hauberk.operator.writes import DeleteRevision, Entomb, RemoveFinalizer
from hauberk.profiles.check import Accepted

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
LONG_AGO = NOW - timedelta(hours=1)

# What nodes of three kinds are.
FACTS = {
    "debian": Facts(lsms=["apparmor"], app_armor=AppArmorFacts(enabled=True), seccomp=True, kernel="6.1"),
    "fedora": Facts(lsms=["selinux"], seccomp=True, kernel="6.17"),
    "old": Facts(lsms=["capability"]),
}
# What each says.
POLICIES = {APPARMOR: "profile p {}", SELINUX: "(block p (type process))", SECCOMP: "{}"}
# What each defines in a kernel.
NAMES = {APPARMOR: ["p", "p//c"], SELINUX: ["p.data", "p.process"], SECCOMP: list[str]()}


def a_spec(
    kind: str, policy: str = "", *, block: SELinux | None = None, template: Template | None = None
) -> ProfileSpec:
    policy = policy or POLICIES[kind]
    return ProfileSpec(
        type=kind,
        app_armor=AppArmor(policy=policy) if kind == APPARMOR else None,
        selinux=block or SELinux(policy=policy) if kind == SELINUX else None,
        seccomp=Seccomp(policy=policy) if kind == SECCOMP else None,
        template=template,
    )


def a_profile(
    kind: str, name: str = "p", *, block: SELinux | None = None, uid: str = "", deleted: bool = False
) -> SecurityProfile:
    accepted = Condition(type="Accepted", status="True", reason="Accepted", message="", observed_generation=1)
    return SecurityProfile(
        metadata=Metadata(
            name=name,
            uid=uid or f"uid-{name}-{kind}",
            generation=1,
            finalizers=[FINALIZER],
            creation_timestamp="2026-01-01T00:00:00Z",
            deletion_timestamp="2026-01-01T00:00:00Z" if deleted else None,
        ),
        spec=a_spec(kind, block=block),
        status=ProfileStatus(conditions=[accepted], observed_generation=1),
    )


def a_revision(
    kind: str,
    name: str = "p",
    *,
    mode: str = "Enforce",
    names: list[str] | None = None,
    withdrawn: bool = False,
) -> ProfileRevision:
    text = Text(id=text_id(kind), text=kind, names=NAMES[kind] if names is None else names)
    return ProfileRevision(
        metadata=Metadata(name=f"{name}.d1"),
        spec=RevisionSpec(
            profile=name,
            profile_uid=f"uid-{name}-{kind}",
            type=kind,
            contract=CONTRACT,
            installation="here",
            content=Content(digest="d1", mode=mode, texts=[text]),
            placement=Placement(sequence=1, withdrawn=withdrawn),
        ),
    )


def reported(name: str, facts: Facts, **sections: Section) -> ProfileNode:
    return ProfileNode(
        metadata=Metadata(name=name),
        status=NodeStatus(
            boot_id="b",
            facts=facts,
            app_armor=sections.get(APPARMOR),
            selinux=sections.get(SELINUX),
            seccomp=sections.get(SECCOMP),
        ),
    )


def cluster(
    *profiles: SecurityProfile,
    revisions: tuple[ProfileRevision, ...] = (),
    reports: tuple[ProfileNode, ...] = (),
    judgements: dict[str, Judgement] | None = None,
) -> Judged:
    names = [one.metadata.name for one in reports]
    return Judged(
        profiles={one.metadata.name: one for one in profiles},
        revisions={one.metadata.name: one for one in revisions},
        reports={one.metadata.name: one for one in reports},
        nodes={name: NodeView(name, {}, ready=True, ready_since=LONG_AGO, boot_id="b") for name in names},
        agents={name: AgentView(name, ready=True, since=LONG_AGO) for name in names},
        now=NOW,
        store=Store("here"),
        judgements=judgements or {},
    )


# --- one profile on one node -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("node", FACTS)
def test_a_node_that_can_not_hold_a_type_is_unsupported(kind: str, node: str):
    able = {APPARMOR: {"debian"}, SELINUX: {"fedora"}, SECCOMP: {"debian", "fedora"}}[kind]
    snapshot = cluster(reports=(reported(node, FACTS[node]),))
    (found,) = on_nodes(a_revision(kind).spec, snapshot)
    # it can, and its agent for that has not reported yet
    assert found.state is (NodeState.UPDATING if node in able else NodeState.UNSUPPORTED)


@pytest.mark.parametrize(
    ("kind", "entry", "mode", "state"),
    [
        (SELINUX, "d1/enforcing/aa", "Enforce", NodeState.READY),
        (SELINUX, "d1/permissive/aa", "Permissive", NodeState.READY),
        (SELINUX, "d1/permissive/aa", "Enforce", NodeState.UPDATING),
        (SELINUX, "d1/enforcing/aa", "Permissive", NodeState.UPDATING),
        (SELINUX, "d1/block/aa", "Enforce", NodeState.READY),
        (SELINUX, "d0/enforcing/aa", "Enforce", NodeState.UPDATING),
        (SECCOMP, "d1/enforce/aa", "Enforce", NodeState.READY),
        (SECCOMP, "d0/enforce/aa", "Enforce", NodeState.UPDATING),
        (SECCOMP, "", "Enforce", NodeState.UPDATING),
    ],
)
def test_what_a_report_means_for_a_type(kind: str, entry: str, mode: str, state: NodeState):
    section = Section(profiles={"p": entry} if entry else {})
    snapshot = cluster(reports=(reported("n", FACTS["fedora"], **{kind: section}),))
    (found,) = on_nodes(a_revision(kind, mode=mode).spec, snapshot)
    assert found.state is state


@pytest.mark.parametrize("kind", TYPES)
def test_what_a_node_holds_of_another_type_is_no_matter(kind: str):
    entry = Section(profiles={"p": "d1/enforce/aa"})
    others = {other: entry for other in TYPES if other != kind}
    facts = Facts(lsms=["apparmor", "selinux"], app_armor=AppArmorFacts(enabled=True), seccomp=True)
    snapshot = cluster(reports=(reported("n", facts, **others, **{kind: Section()}),))
    (found,) = on_nodes(a_revision(kind).spec, snapshot)
    assert (found.state, found.holds) == (NodeState.UPDATING, "")
    assert nodes_still_holding("p", kind, snapshot) == {}
    assert all(nodes_still_holding("p", other, snapshot) == {"n": ""} for other in others)


@pytest.mark.parametrize(
    ("reason", "revision", "state"),
    [
        (Reason.AWAITING_REQUIRED, "d1", NodeState.UPDATING),  # another profile's turn, not the node's
        (Reason.LOAD_FAILED, "d1", NodeState.FAILED),
        (Reason.LOAD_FAILED, "d0", NodeState.UPDATING),
        (Reason.HOST_OWNED, "d1", NodeState.FAILED),
        (Reason.IN_USE, "d1", NodeState.FAILED),
    ],
)
def test_what_a_problem_with_a_module_means(reason: Reason, revision: str, state: NodeState):
    problem = Problem(revision=revision, reason=reason, message="why")
    snapshot = cluster(
        reports=(reported("n", FACTS["fedora"], **{SELINUX: Section(problems={"p": problem})}),)
    )
    (found,) = on_nodes(a_revision(SELINUX).spec, snapshot)
    assert found.state is state


# --- a status ----------------------------------------------------------------------------------------------

HELD = {
    APPARMOR: ("debian", Section(profiles={"p": "d1/enforce/aa"})),
    SELINUX: ("fedora", Section(profiles={"p": "d1/enforcing/aa"})),
    SECCOMP: ("fedora", Section(profiles={"p": "d1/enforce/aa"})),
}


def status_of(kind: str, *reports: ProfileNode, profile: SecurityProfile | None = None) -> ProfileStatus:
    profile = profile or a_profile(kind)
    snapshot = cluster(profile, revisions=(a_revision(kind),), reports=reports)
    return aggregate(profile, rollout(profile, snapshot), snapshot.now)


def ready(status: ProfileStatus) -> tuple[str, str]:
    (one,) = [one for one in status.conditions if one.type == "Ready"]
    return one.reason, one.message


@pytest.mark.parametrize(
    ("kind", "reference", "names", "where"),
    [
        (
            APPARMOR,
            {"appArmorProfile": {"type": "Localhost", "localhostProfile": "p"}},
            ["p", "p//c"],
            "the kernel",
        ),
        (SELINUX, {"seLinuxOptions": {"type": "p.process"}}, ["p.data", "p.process"], "the kernel"),
        (
            SECCOMP,
            {"seccompProfile": {"type": "Localhost", "localhostProfile": "hauberk/p.json"}},
            ["hauberk/p.json"],
            "the kubelet's folder",
        ),
    ],
)
def test_a_ready_profile_says_how_pods_name_it_and_where_it_was_seen(
    kind: str, reference: dict[str, object], names: list[str], where: str
):
    node, section = HELD[kind]
    status = status_of(kind, reported("n", FACTS[node], **{kind: section}))
    assert (status.reference, status.profiles) == (reference, names)
    assert ready(status) == (Reason.READY, f"verified in {where} on 1 of 1 node")
    assert status.summary.ready == "1/1"
    assert status.summary.mode == "Enforce"
    last = next(iter(reference.values()))
    assert isinstance(last, dict)
    assert status.summary.reference in last.values()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (APPARMOR, "no node with AppArmor is selected; 1 selected without AppArmor"),
        (SELINUX, "no node with SELinux is selected; 1 selected without SELinux"),
        (SECCOMP, "no node with seccomp is selected; 1 selected without seccomp"),
    ],
)
def test_where_no_node_can_hold_it_that_is_said(kind: str, message: str):
    status = status_of(kind, reported("n", FACTS["old"]))
    assert ready(status) == (Reason.NO_NODES, message)
    assert (status.nodes.targeted, status.nodes.unsupported) == (0, 1)


@pytest.mark.parametrize("kind", [SELINUX, SECCOMP])
def test_a_node_whose_privileged_agent_is_on_its_way_is_waited_for(kind: str):
    status = status_of(
        kind, reported("n", FACTS["fedora"]), reported("m", FACTS["fedora"], **{kind: HELD[kind][1]})
    )
    assert ready(status) == (Reason.UPDATING, "verified on 1 of 2 nodes")


def test_what_semodule_says_is_told():
    problem = Problem(revision="d1", reason=Reason.LOAD_FAILED, message="semodule refuses it: line 3: no")
    status = status_of(SELINUX, reported("n", FACTS["fedora"], **{SELINUX: Section(problems={"p": problem})}))
    assert ready(status) == (
        Reason.NODES_FAILED,
        "failed on 1 of 1 node: n: LoadFailed: semodule refuses it: line 3: no",
    )
    assert [(one.node, one.reason) for one in status.failures] == [("n", Reason.LOAD_FAILED)]


def test_a_permissive_module_says_so():
    profile = a_profile(SELINUX, block=SELinux(policy="x", mode="Permissive"))
    revision = a_revision(SELINUX, mode="Permissive")
    section = Section(profiles={"p": "d1/permissive/aa"})
    snapshot = cluster(
        profile, revisions=(revision,), reports=(reported("n", FACTS["fedora"], **{SELINUX: section}),)
    )
    status = aggregate(profile, rollout(profile, snapshot), snapshot.now)
    assert (status.summary.mode, status.summary.status) == ("Permissive", Reason.READY)


def test_a_module_of_blocks_alone_gives_pods_nothing_to_name():
    profile = a_profile(SELINUX)
    snapshot = cluster(profile, revisions=(a_revision(SELINUX, names=["p"]),))
    status = aggregate(profile, rollout(profile, snapshot), snapshot.now)
    assert (status.profiles, status.reference, status.summary.reference) == (["p"], {}, "")


# --- a deletion --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("other", TYPES)
def test_a_deletion_waits_for_what_is_of_its_type(kind: str, other: str):
    """A node that was away may hold what had the name before, with another type: a tombstone is for that."""
    profile = a_profile(kind, deleted=True)
    report = reported("n", FACTS["debian"], **{other: Section(profiles={"p": "d1/enforce/aa"})})
    snapshot = cluster(profile, revisions=(a_revision(kind, withdrawn=True),), reports=(report,))
    expected = [] if kind == other else [RemoveFinalizer(profile, once_withdrawn=True)]
    assert finalizers(profile, snapshot, rollout(profile, snapshot)) == expected


def test_a_deletion_that_waits_for_pods_names_them():
    profile = a_profile(SECCOMP, deleted=True)
    problem = Problem(revision="d1", reason=Reason.IN_USE, message="pod a/b names it")
    section = Section(profiles={"p": "d1/enforce/aa"}, problems={"p": problem})
    status = status_of(SECCOMP, reported("n", FACTS["debian"], **{SECCOMP: section}), profile=profile)
    assert ready(status) == (Reason.IN_USE, "waiting for pods to end on 1 node: n: pod a/b names it")


# --- tombstones --------------------------------------------------------------------------------------------


def orphaned(kind: str, uid: str) -> ProfileNode:
    section = Section(profiles={"p": "d1/enforce/aa"}, orphans={"p": Orphan(uid=uid, installation="here")})
    return reported("n", FACTS["debian"], **{kind: section})


@pytest.mark.parametrize("kind", TYPES)
def test_an_orphan_gets_a_tombstone_of_its_type(kind: str):
    (write,) = tombstones(cluster(reports=(orphaned(kind, "uid-old"),)))
    assert isinstance(write, Entomb)
    spec = write.tombstone.spec
    assert (spec.type, spec.profile, spec.profile_uid) == (kind, "p", "uid-old")
    assert spec.placement.withdrawn


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("now", TYPES)
def test_a_name_that_came_back_leaves_no_orphan_of_its_old_type(kind: str, now: str):
    profile = a_profile(now)
    report = orphaned(kind, "uid-old")
    snapshot = cluster(profile, revisions=(a_revision(now),), reports=(report,))
    (write,) = tombstones(snapshot)
    assert isinstance(write, Entomb)
    assert (write.tombstone.spec.type, write.tombstone.spec.profile_uid) == (kind, "uid-old")
    assert write.tombstone.metadata.name == tombstone_name("p", "uid-old")


@pytest.mark.parametrize(("held", "kept"), [(APPARMOR, True), (SECCOMP, False)])
def test_a_tombstone_stays_for_what_is_held_of_its_type(held: str, kept: bool):
    (entomb,) = tombstones(cluster(reports=(orphaned(APPARMOR, "uid-old"),)))
    assert isinstance(entomb, Entomb)
    stone = entomb.tombstone
    profile = a_profile(SECCOMP)
    # an older revision of the new one, which is not published any more
    report = reported("n", FACTS["debian"], **{held: Section(profiles={"p": "d0/enforce/aa"})})
    snapshot = cluster(profile, revisions=(a_revision(SECCOMP), stone), reports=(report,))
    assert tombstones(snapshot) == ([] if kept else [DeleteRevision(stone.metadata.name)])


# --- what is published -------------------------------------------------------------------------------------


def judged(*profiles: SecurityProfile, names: list[str]) -> Judged:
    text = Text(id=text_id("x"), text="x", names=names)
    return cluster(*profiles, judgements={content_digest(one): Accepted((text,)) for one in profiles})


def test_profiles_of_two_types_may_have_one_name():
    one, other = a_profile(APPARMOR, "one"), a_profile(SELINUX, "other")
    snapshot = judged(one, other, names=["web.process"])
    owners = name_owners(snapshot)
    assert owners == {(APPARMOR, "web.process"): "one", (SELINUX, "web.process"): "other"}
    assert isinstance(judgement(one, snapshot, owners), Accepted)
    assert isinstance(judgement(other, snapshot, owners), Accepted)


def test_of_two_modules_with_one_type_the_other_is_refused():
    one = a_profile(SELINUX, "one")
    other = a_profile(SELINUX, "other", block=SELinux(policy="(block web (type process)) ; more"))
    snapshot = judged(one, other, names=["web.process"])
    refused = judgement(other, snapshot, name_owners(snapshot))
    assert isinstance(refused, Refusal)
    assert (refused.reason, refused.message) == (
        Reason.NAME_CLASH,
        (
            "SecurityProfile one already holds the kernel name web.process, and a kernel has one type of a "
            "name; rename the type in this policy, or delete the other"
        ),
    )


def test_seccomp_profiles_can_not_clash():
    one, other = a_profile(SECCOMP, "one"), a_profile(SECCOMP, "other")
    snapshot = judged(one, other, names=[])
    assert name_owners(snapshot) == {}
    assert isinstance(judgement(other, snapshot, {}), Accepted)


PLAIN = SELinux(policy="(block p (type process))")


@pytest.mark.parametrize(
    "block",
    [
        SELinux(policy=PLAIN.policy, mode="Permissive"),
        SELinux(policy=PLAIN.policy, requires=["base"]),
        SELinux(policy=PLAIN.policy, requires=["base", "more"]),
        SELinux(policy=PLAIN.policy, allow_host_types=True),
        SELinux(policy=PLAIN.policy, allow_host_types=True, requires=["base"]),
    ],
)
def test_all_that_a_module_is_asked_to_be_is_in_its_revision(block: SELinux):
    profile = a_profile(SELINUX, block=block)
    revision = wanted_revision(profile, Accepted((Text(id="1" * 10, text="x", names=["p"]),)), "here")
    content = revision.spec.content
    assert (content.mode, content.requires, content.allow_host_types) == (
        block.mode,
        block.requires,
        block.allow_host_types,
    )
    assert content_digest(profile) != content_digest(a_profile(SELINUX, block=PLAIN))


def test_one_text_of_two_types_is_two_contents():
    profiles = [SecurityProfile(metadata=Metadata(name="p"), spec=a_spec(kind, "x")) for kind in TYPES]
    assert len({content_digest(one) for one in profiles}) == 3


@pytest.mark.parametrize("kind", TYPES)
def test_a_template_is_for_the_nodes_that_hold_its_type(kind: str):
    spec = a_spec(kind, template=Template())
    profile = SecurityProfile(metadata=Metadata(name="p", uid="u"), spec=spec)
    nodes = {
        "debian": reported("debian", FACTS["debian"], **{APPARMOR: Section(), SECCOMP: Section()}),
        "fedora": reported("fedora", FACTS["fedora"], **{SELINUX: Section(), SECCOMP: Section()}),
        "old": reported("old", FACTS["old"]),
    }
    known = {APPARMOR: ["debian"], SELINUX: ["fedora"], SECCOMP: ["debian", "fedora"]}[kind]
    expected = {facts_key(FACTS[one]) for one in known}
    assert unjudged_kinds(profile, cluster(profile, reports=tuple(nodes.values()))) == expected
    assert unjudged_kinds(profile, cluster(profile, reports=(nodes["old"],))) == set()


def test_no_text_of_any_type_is_kept_by_the_operator():
    for kind in TYPES:
        kept = without_text(a_profile(kind))
        assert kept.spec.policy == ""
        assert kept.spec.type == kind
