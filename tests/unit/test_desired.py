"""The operator's decisions: golden cases of clusters, and what holds for any cluster.

A case is tests/golden/<case>/in.yaml, a cluster in short, and out.yaml, the writes and status that follow.
In both a revision is called by its text: `v1` stands for the digest of the policy "v1", and `v1 complain` for
the same in mode Complain. A text that starts with "broken" is refused, one with "unjudged" is not judged yet,
and `names a,b` defines the kernel names a and b instead of its object's own name.

Of an orphan `orphans: {p: uid}` is short for one of this installation, `[uid, elsewhere]` names another; a
revision with `tombstone: uid` is one. `store: terminating` is a cluster that Hauberk's kinds are leaving.

`HAUBERK_GOLDEN=write pytest tests/unit/test_desired.py` writes out.yaml anew: read the difference then.
"""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hauberk.crds.models import (
    AppArmor,
    AppArmorFacts,
    Condition,
    Content,
    Facts,
    Metadata,
    NodeSelector,
    NodeStatus,
    Orphan,
    Placement,
    Problem,
    ProfileNode,
    ProfileRevision,
    ProfileSpec,
    ProfileStatus,
    RevisionSpec,
    Section,
    SecurityProfile,
    Text,
    decode,
)
from hauberk.crds.names import APPARMOR, CONTRACT, FINALIZER, FORCE_DELETE, digest, text_id, tombstone_name
from hauberk.crds.reasons import Reason
from hauberk.operator.acceptance import acceptance
from hauberk.operator.aggregate import aggregate
from hauberk.operator.desired import collected, desired, tombstones
from hauberk.operator.finalizers import finalizers
from hauberk.operator.publish import (
    NO_CONTENT,
    Judged,
    Judgement,
    Refusal,
    content_digest,
    judgement,
    name_owners,
    tombstone,
    wanted_revision,
)
from hauberk.operator.rollout import rollout
from hauberk.operator.snapshot import AgentView, NodeView, Store, without_text
from hauberk.operator.writes import (
    AddFinalizer,
    Collect,
    CreateRevision,
    DeleteRevision,
    Entomb,
    Extend,
    LabelNode,
    OpenGate,
    Place,
    RemoveFinalizer,
    TellOfPod,
    Untaint,
    Write,
)
from hauberk.profiles.check import Accepted
from hypothesis import given, settings
from hypothesis import strategies as st

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = sorted(folder.name for folder in GOLDEN.iterdir() if (folder / "in.yaml").exists())
NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
LONG_AGO = 3600
HERE = "here"


def digest_of(label: str) -> str:
    text, _, mode = label.partition(" complain")
    return digest("AppArmor", text, "Complain" if mode or label.endswith(" complain") else "Enforce")


def kernel_mode(label: str) -> str:
    return "complain" if label.endswith(" complain") else "enforce"


def names_of(text: str, profile: str) -> list[str]:
    return text.removeprefix("names ").split(",") if text.startswith("names ") else [profile]


def a_text(text: str, profile: str) -> Text:
    return Text(id=text_id(text), text=text, names=names_of(text, profile))


def judged(text: str, profile: str) -> Judgement | None:
    if "unjudged" in text:
        return None
    if text.startswith("broken"):
        return Refusal(Reason.POLICY_REFUSED, "apparmor_parser refuses the policy: line 3: syntax error")
    return Accepted((a_text(text, profile),))


# --- a cluster in short ---


def a_profile(name: str, short: dict[str, Any]) -> SecurityProfile:
    text, complains, _ = str(short["text"]).partition(" complain")
    spec = ProfileSpec(
        type="AppArmor",
        app_armor=AppArmor(
            policy=text,
            mode="Complain" if complains else "Enforce",
            allow_attachment=short.get("attach", False),
        ),
        node_selector=decode(NodeSelector, short.get("selector", {})),
        suspend=short.get("suspend", False),
        adopt=short.get("adopt", False),
    )
    conditions = [
        Condition(
            type=kind,
            status=status,
            reason="Before",
            message="before",
            observed_generation=1,
            last_transition_time="2025-01-01T00:00:00Z",
        )
        for kind, status in short.get("conditions", {}).items()
    ]
    return SecurityProfile(
        metadata=Metadata(
            name=name,
            uid=short.get("uid", f"uid-{name}"),
            generation=short.get("generation", 1),
            creation_timestamp=short.get("created", "2025-01-01T00:00:00Z"),
            deletion_timestamp="2026-01-01T00:00:00Z" if short.get("deleted") else None,
            finalizers=[] if short.get("fresh") else [FINALIZER],
            annotations={FORCE_DELETE: short["force"]} if "force" in short else {},
        ),
        spec=spec,
        status=ProfileStatus(conditions=conditions),
    )


def a_revision(short: dict[str, Any]) -> ProfileRevision:
    profile = short["profile"]
    if uid := short.get("tombstone"):
        return tombstone(profile, APPARMOR, Orphan(uid=uid, installation=HERE))
    label = str(short["text"])
    text, complains, _ = label.partition(" complain")
    return ProfileRevision(
        metadata=Metadata(name=f"{profile}.{digest_of(label)}"),
        spec=RevisionSpec(
            profile=profile,
            profile_uid=short.get("uid", f"uid-{profile}"),
            type="AppArmor",
            contract=CONTRACT,
            installation=HERE,
            content=Content(
                digest=digest_of(label),
                mode="Complain" if complains else "Enforce",
                texts=[a_text(text, profile)],
            ),
            placement=Placement(
                sequence=short.get("sequence", 1),
                node_selector=decode(NodeSelector, short.get("selector", {})),
                suspend=short.get("suspend", False),
                withdrawn=short.get("withdrawn", False),
                force=short.get("force", False),
                adopt=short.get("adopt", False),
            ),
        ),
    )


def a_node(name: str, short: dict[str, Any]) -> NodeView:
    return NodeView(
        name=name,
        labels={"kubernetes.io/os": "linux"} | short.get("labels", {}),
        ready=short.get("ready", True),
        ready_since=NOW - timedelta(seconds=short.get("for", LONG_AGO)),
        boot_id=short.get("boot", f"boot-{name}"),
    )


def a_report(name: str, short: dict[str, Any] | None) -> ProfileNode:
    """Return a ProfileNode; None is one whose kernel has no AppArmor."""
    section = None
    if short is not None:
        held = {
            profile: f"{digest_of(label)}/{short.get('mode') or kernel_mode(label)}/aa"
            for profile, label in short.get("holds", {}).items()
        }
        problems = {
            profile: Problem(revision=digest_of(str(one[0])), reason=one[1], message=one[2])
            for profile, one in short.get("problems", {}).items()
        }
        orphans = {
            profile: Orphan(uid=one, installation=HERE)
            if isinstance(one, str)
            else Orphan(uid=one[0], installation=one[1])
            for profile, one in short.get("orphans", {}).items()
        }
        section = Section(profiles=held, problems=problems, orphans=orphans)
    boot = (short or {}).get("boot", f"boot-{name}")
    facts = Facts(app_armor=AppArmorFacts(enabled=section is not None))
    return ProfileNode(
        metadata=Metadata(name=name), status=NodeStatus(boot_id=boot, facts=facts, app_armor=section)
    )


def a_cluster(short: dict[str, Any]) -> Judged:
    profiles = {name: a_profile(name, one) for name, one in short.get("profiles", {}).items()}
    revisions = [a_revision(one) for one in short.get("revisions", [])]
    nodes = {name: a_node(name, one or {}) for name, one in short.get("nodes", {}).items()}
    agents = {name: {"ready": True} for name in nodes} | short.get("agents", {})
    judgements = {
        content_digest(one): verdict
        for one in profiles.values()
        if one.spec.app_armor and (verdict := judged(one.spec.app_armor.policy, one.metadata.name))
    }
    return Judged(
        profiles=profiles,
        revisions={one.metadata.name: one for one in revisions},
        reports={name: a_report(name, one) for name, one in short.get("reports", {}).items()},
        nodes=nodes,
        agents={
            name: AgentView(name, one["ready"], NOW - timedelta(seconds=one.get("for", LONG_AGO)))
            for name, one in agents.items()
            if one
        },
        judgements=judgements,
        now=NOW,
        store=Store(
            installation=short.get("installation", HERE), terminating=short.get("store") == "terminating"
        ),
    )


# --- what comes of it ---


def writes_for(snapshot: Judged) -> list[Write]:
    """Return the writes for all profiles, first the operator's, who sees no text, then the admission's."""
    seen = by_the_operator(snapshot)
    return [
        write
        for name in sorted(snapshot.profiles)
        for profile in [seen.profiles[name]]
        for write in finalizers(profile, seen, rollout(profile, seen))
    ] + published_for(snapshot)


def published_for(snapshot: Judged) -> list[Write]:
    """Return the admission's writes for all profiles: of nodes it knows reports, and what a status says."""
    seen = replace(taken_note_of(snapshot), nodes={}, agents={})
    owners = name_owners(seen)
    return [
        *(write for _, profile in sorted(seen.profiles.items()) for write in desired(profile, seen, owners)),
        *collected(seen),
        *tombstones(seen),
    ]


def taken_note_of(snapshot: Judged) -> Judged:
    """Return a cluster in which the operator has written every status."""
    profiles = {
        name: msgspec.structs.replace(one, status=status_of(one, snapshot))
        for name, one in snapshot.profiles.items()
    }
    return replace(snapshot, profiles=profiles)


def by_the_operator(snapshot: Judged) -> Judged:
    """Return a cluster as the operator knows it."""
    return replace(
        snapshot,
        profiles={name: without_text(one) for name, one in snapshot.profiles.items()},
        revisions={name: without_text(one) for name, one in snapshot.revisions.items()},
        judgements={},
    )


def accepted(snapshot: Judged) -> Judged:
    """Return a cluster with what the admission says of each text, as its status has it."""
    owners = name_owners(snapshot)
    profiles = dict(snapshot.profiles)
    for name, profile in snapshot.profiles.items():
        said = judgement(profile, snapshot, owners)
        if said is not None and not profile.metadata.deletion_timestamp:
            others = [one for one in profile.status.conditions if one.type != "Accepted"]
            conditions = [acceptance(profile, said, snapshot.now), *others]
            status = msgspec.structs.replace(profile.status, conditions=conditions)
            profiles[name] = msgspec.structs.replace(profile, status=status)
    return replace(snapshot, profiles=profiles)


def status_of(profile: SecurityProfile, snapshot: Judged) -> ProfileStatus:
    """Return a profile's whole status, as the two make it."""
    seen = by_the_operator(accepted(snapshot))
    one = seen.profiles[profile.metadata.name]
    said = [each for each in one.status.conditions if each.type == "Accepted"]
    status = aggregate(one, rollout(one, seen), seen.now)
    return msgspec.structs.replace(status, conditions=[*said, *status.conditions])


def told(write: Write) -> str:
    match write:
        case AddFinalizer(profile) | RemoveFinalizer(profile):
            return f"{type(write).__name__} {profile.metadata.name}"
        case CreateRevision(revision) | Entomb(revision):
            return f"{type(write).__name__} {revision.metadata.name}: {_placed(revision.spec.placement)}"
        case Extend(revision, texts, _):
            return f"Extend {revision.metadata.name}: {len(texts)} texts"
        case Place(name, placement):
            return f"Place {name}: {_placed(placement)}"
        case DeleteRevision(name):
            return f"DeleteRevision {name}"
        case Collect(revision):
            return f"Collect {revision.metadata.name}"
        case LabelNode() | Untaint() | OpenGate() | TellOfPod():
            raise AssertionError("nodes and pods are not for the admission to write")


def _placed(placement: Placement) -> str:
    words = [f"sequence {placement.sequence}"]
    words += [word for word in ("suspend", "withdrawn", "force", "adopt") if getattr(placement, word)]
    words += [f"{key}={value}" for key, value in placement.node_selector.match_labels.items()]
    return ", ".join(words)


def shown(status: ProfileStatus) -> dict[str, Any]:
    nodes = {key: number for key, number in msgspec.to_builtins(status.nodes).items() if number}
    made: dict[str, Any] = {
        "revision": status.revision,
        "summary": " ".join(msgspec.to_builtins(status.summary).values()),
        "nodes": nodes,
        "conditions": {one.type: f"{one.status} {one.reason}: {one.message}" for one in status.conditions},
        "failures": [f"{one.node} {one.reason}: {one.message}" for one in status.failures],
        "unchanged since": [
            one.type for one in status.conditions if one.last_transition_time.startswith("2025")
        ],
    }
    return {key: value for key, value in made.items() if value}


def outcome(snapshot: Judged, labels: set[str]) -> dict[str, Any]:
    statuses = {name: shown(status_of(one, snapshot)) for name, one in snapshot.profiles.items()}
    made = {"writes": [told(write) for write in writes_for(snapshot)], "status": statuses}
    text = yaml.safe_dump(made, sort_keys=False, width=110)
    for label in labels:
        text = text.replace(digest_of(label), label)
    for one in snapshot.reports.values():
        for profile, orphan in (one.status.app_armor.orphans if one.status.app_armor else {}).items():
            text = text.replace(tombstone_name(profile, orphan.uid), f"{profile}.gone-{orphan.uid}")
    return yaml.safe_load(text)


def labels_in(short: dict[str, Any]) -> set[str]:
    texts = [
        one["text"]
        for one in (*short.get("profiles", {}).values(), *short.get("revisions", []))
        if "text" in one
    ]
    held = [
        label for one in short.get("reports", {}).values() if one for label in one.get("holds", {}).values()
    ]
    return {str(text) for text in (*texts, *held)}


@pytest.mark.parametrize("case", CASES)
def test_golden(case: str):
    short = yaml.safe_load((GOLDEN / case / "in.yaml").read_text())
    found = outcome(a_cluster(short), labels_in(short))
    if os.environ.get("HAUBERK_GOLDEN") == "write":
        (GOLDEN / case / "out.yaml").write_text(
            yaml.safe_dump(found, sort_keys=False, width=110, allow_unicode=True)
        )
    assert found == yaml.safe_load((GOLDEN / case / "out.yaml").read_text())


def test_there_are_golden_cases():
    assert len(CASES) >= 25


# --- what holds for any cluster ---

PUBLISHED = ["names P", "names P,one", "names P complain", "names shared", "names P,shared"]
LABELS = st.sampled_from([*PUBLISHED, "broken P", "unjudged P"])
PROFILES = st.sampled_from(["a", "b", "c"])
HELD = st.dictionaries(PROFILES, st.sampled_from(PUBLISHED), max_size=3).map(
    lambda held: {name: label.replace("P", name) for name, label in held.items()}
)
SELECTORS = st.sampled_from([{}, {}, {"matchLabels": {"pool": "x"}}])
NODES = ("n1", "n2", "n3")


@st.composite
def clusters(draw: st.DrawFn) -> Judged:
    profiles = {
        name: {
            "text": draw(LABELS).replace("P", name),
            "generation": draw(st.integers(4, 5)),
            "selector": draw(SELECTORS),
            "suspend": draw(st.integers(0, 3)) == 0,
            "deleted": draw(st.integers(0, 3)) == 0,
            "force": draw(st.sampled_from(["true", "false", ""])),
            "adopt": draw(st.booleans()),
            "fresh": draw(st.booleans()),
            "created": draw(st.sampled_from(["2025-01-01T00:00:00Z", "2025-02-01T00:00:00Z"])),
        }
        for name in draw(st.lists(PROFILES, unique=True))
    }
    revisions: list[dict[str, Any]] = []
    for name in draw(st.lists(PROFILES, unique=True)):
        # A sequence is the generation that asked for the content: none is higher, and no two are the same.
        revisions += [
            {
                "profile": name,
                "text": draw(st.sampled_from(PUBLISHED)).replace("P", name),
                "sequence": sequence,
                "selector": draw(SELECTORS),
                "withdrawn": draw(st.integers(0, 3)) == 0,
                "uid": draw(st.sampled_from([f"uid-{name}", f"uid-{name}", "earlier"])),
            }
            for sequence in draw(st.lists(st.integers(1, 3), unique=True))
        ]
        if name in profiles and draw(st.booleans()):
            one = profiles[name]
            revisions.append({"profile": name, "sequence": one["generation"], **one, "force": False})
    revisions += [
        {"profile": name, "tombstone": draw(st.sampled_from([f"uid-{name}", "earlier"]))}
        for name in draw(st.lists(PROFILES, max_size=1))
    ]
    return a_cluster(
        {
            "profiles": profiles,
            "installation": draw(st.sampled_from([HERE, HERE, HERE, "elsewhere", ""])),
            "store": draw(st.sampled_from(["", "", "", "terminating"])),
            "revisions": revisions,
            "nodes": {
                name: {
                    "ready": draw(st.integers(0, 3)) > 0,
                    "for": draw(st.sampled_from([10, 1000])),
                    "labels": draw(
                        st.sampled_from(
                            [{}, {"pool": "x"}, {"kubernetes.io/os": "windows"}, {"type": "virtual-kubelet"}]
                        )
                    ),
                }
                for name in draw(st.lists(st.sampled_from(NODES), unique=True))
            },
            "agents": {
                name: draw(
                    st.sampled_from([{"ready": True}, {"ready": False, "for": 10}, {"ready": False}, None])
                )
                for name in NODES
            },
            "reports": {
                name: draw(
                    st.one_of(
                        st.none(),
                        st.fixed_dictionaries(
                            {
                                "boot": st.sampled_from([f"boot-{name}", f"boot-{name}", "an earlier"]),
                                "holds": HELD,
                                "problems": st.dictionaries(
                                    PROFILES,
                                    st.tuples(LABELS, st.just("LoadFailed"), st.just("no")),
                                    max_size=2,
                                ),
                                "orphans": st.dictionaries(
                                    PROFILES,
                                    st.sampled_from(
                                        ["uid-a", "uid-b", "earlier", ("uid-a", "elsewhere"), ("earlier", "")]
                                    ),
                                    max_size=2,
                                ),
                            }
                        ),
                    )
                )
                for name in draw(st.lists(st.sampled_from(NODES), unique=True))
            },
        }
    )


def applied(snapshot: Judged, writes: list[Write]) -> Judged:  # noqa: C901 - a case for each write
    """Return the cluster after writes, as an API server would leave it."""
    profiles, revisions = dict(snapshot.profiles), dict(snapshot.revisions)
    for write in writes:
        match write:
            case AddFinalizer(profile):
                metadata = msgspec.structs.replace(profile.metadata, finalizers=[FINALIZER])
                there = profiles[profile.metadata.name]  # which has its text
                profiles[profile.metadata.name] = msgspec.structs.replace(there, metadata=metadata)
            case RemoveFinalizer(profile):
                assert profile.metadata.deletion_timestamp
                del profiles[profile.metadata.name]
            case CreateRevision(revision):
                assert revision.metadata.name not in revisions
                revisions[revision.metadata.name] = revision
            case Extend(revision, texts, unrendered):
                content = msgspec.structs.replace(revision.spec.content, texts=list(texts))
                spec = msgspec.structs.replace(revision.spec, content=content, unrendered=list(unrendered))
                revisions[revision.metadata.name] = msgspec.structs.replace(revision, spec=spec)
            case Place(name, placement):
                one = revisions[name]
                revisions[name] = msgspec.structs.replace(
                    one, spec=msgspec.structs.replace(one.spec, placement=placement)
                )
            case DeleteRevision(name):
                revisions.pop(name, None)  # one that is gone is as good as deleted
            case Collect(revision):
                assert revision.spec.profile_uid not in {one.metadata.uid for one in profiles.values()}
                revisions.pop(revision.metadata.name, None)
            case LabelNode() | Untaint() | OpenGate() | TellOfPod():
                pytest.fail("nodes and pods are not for the admission to write")
            case Entomb(stone):
                assert stone.metadata.name not in revisions
                asked_for = [one for one in profiles.values() if one.metadata.deletion_timestamp is None]
                assert stone.spec.profile_uid not in {one.metadata.uid for one in asked_for}
                revisions[stone.metadata.name] = stone
    return replace(snapshot, profiles=profiles, revisions=revisions)


def settled(snapshot: Judged) -> Judged:
    for _ in range(8):
        writes = writes_for(snapshot)
        if not writes:
            return snapshot
        snapshot = applied(snapshot, writes)
    raise AssertionError(f"never done: {[told(write) for write in writes_for(snapshot)]}")


@settings(max_examples=150, deadline=None)
@given(snapshot=clusters())
def test_writes_come_to_an_end(snapshot: Judged):
    done = settled(snapshot)
    assert writes_for(done) == []


@settings(max_examples=120, deadline=None)
@given(snapshot=clusters(), stop=st.integers(0, 5))
def test_it_may_be_killed_between_any_two_writes(snapshot: Judged, stop: int):
    through = settled(snapshot)
    resumed = settled(applied(snapshot, writes_for(snapshot)[:stop]))
    # Where all kinds go away nothing is told of orphans any more, and what was told before just stays.
    stays = {
        name
        for name, one in snapshot.revisions.items()
        if snapshot.store.terminating and one.spec.content == NO_CONTENT
    }
    left, expected = (
        {name: one.spec for name, one in end.revisions.items() if name not in stays}
        for end in (resumed, through)
    )
    assert left == expected
    assert resumed.profiles.keys() == through.profiles.keys()


@settings(max_examples=150, deadline=None)
@given(snapshot=clusters())
def test_no_two_profiles_publish_one_kernel_name_anew(snapshot: Judged):
    held = {
        (name, one.spec.profile_uid)
        for one in snapshot.revisions.values()
        for text in one.spec.content.texts
        for name in text.names
    }
    for write in writes_for(snapshot):
        if isinstance(write, CreateRevision):
            for name in write.revision.spec.content.texts[0].names:
                others = {uid for one, uid in held if one == name} - {write.revision.spec.profile_uid}
                living = {one.metadata.uid for one in snapshot.profiles.values()}
                assert (name, write.revision.spec.profile_uid) in held or not others & living


@settings(max_examples=150, deadline=None)
@given(snapshot=clusters())
def test_counts_add_up_and_ready_is_exact(snapshot: Judged):
    for profile in snapshot.profiles.values():
        status = status_of(profile, snapshot)
        counts = status.nodes
        parts = counts.ready + counts.updating + counts.failed + counts.agent_down + counts.unreachable
        assert counts.targeted == parts
        assert len(status.failures) <= 10
        assert [one.type for one in status.conditions if one.type != "Accepted"] == [
            "Available",
            "Ready",
            "Reconciling",
            "Stalled",
        ]
        by = {one.type: one for one in status.conditions}
        assert by["Reconciling"].status != "True" or by["Stalled"].status != "True"
        assert status.summary.status == by["Ready"].reason
        if by["Ready"].status == "True":
            assert_exactly_ready(profile, snapshot, status)


def assert_exactly_ready(profile: SecurityProfile, snapshot: Judged, status: ProfileStatus) -> None:
    """Judge Ready by DESIGN's words, without the code that said it."""
    assert status.observed_generation == profile.metadata.generation
    assert profile.metadata.deletion_timestamp is None
    assert profile.spec.app_armor
    verified = 0
    for node in snapshot.nodes.values():
        report = snapshot.reports.get(node.name)
        if "windows" in node.labels.values() or "virtual-kubelet" in node.labels.values():
            continue
        if not profile.spec.node_selector.matches(dict(node.labels)) or not node.ready:
            continue
        if report and report.status.app_armor is None:
            continue
        assert report
        assert report.status.app_armor
        assert report.status.boot_id == node.boot_id
        revision, mode, _ = report.status.app_armor.profiles[profile.metadata.name].split("/")
        assert revision == content_digest(profile) == status.revision
        assert (mode == "complain") == (profile.spec.app_armor.mode == "Complain")
        agent = snapshot.agents.get(node.name)
        assert agent
        away = snapshot.now - max(agent.since, node.ready_since)
        assert agent.ready or away <= timedelta(seconds=90)
        verified += 1
    assert verified > 0


@settings(max_examples=100, deadline=None)
@given(snapshot=clusters())
def test_nothing_changes_before_the_operator_has_taken_back_what_it_said(snapshot: Judged):
    """What is claimed of an earlier generation must not become wrong while the operator is away."""
    owners = name_owners(snapshot)
    for profile in snapshot.profiles.values():
        assert profile.status.observed_generation != profile.metadata.generation
        claimed = Condition(type="Ready", status="True", reason="Ready", message="", observed_generation=0)
        status = msgspec.structs.replace(profile.status, conditions=[claimed])
        assert desired(msgspec.structs.replace(profile, status=status), snapshot, owners) == []


@pytest.mark.parametrize(
    ("conditions", "published"), [({}, True), ({"Accepted": "True"}, True), ({"Ready": "False"}, False)]
)
def test_a_status_that_says_nothing_holds_no_new_profile_up(conditions: dict[str, str], published: bool):
    snapshot = a_cluster({"profiles": {"p": {"text": "v1", "conditions": conditions}}, "nodes": {"n1": {}}})
    found = desired(snapshot.profiles["p"], snapshot, name_owners(snapshot))
    assert [type(one) for one in found] == ([CreateRevision] if published else [])


# --- deletions ---


def of_kind(snapshot: Judged, kind: type[Write]) -> list[str]:
    return [told(write) for write in writes_for(snapshot) if isinstance(write, kind)]


@settings(max_examples=150, deadline=None)
@given(snapshot=clusters())
def test_only_what_this_store_lost_is_entombed(snapshot: Judged):
    # the revisions of an object that nobody holds back any more are about to go with it
    owned = {
        profile.metadata.uid
        for profile in snapshot.profiles.values()
        if profile.metadata.deletion_timestamp is None or FINALIZER in profile.metadata.finalizers
    }
    published = owned & {
        one.spec.profile_uid for one in snapshot.revisions.values() if one.spec.content != NO_CONTENT
    }
    alive = {
        profile.metadata.uid
        for profile in snapshot.profiles.values()
        if profile.metadata.deletion_timestamp is None or profile.metadata.uid in published
    }
    here = snapshot.store.installation
    orphans = {
        (profile, orphan.uid)
        for report in snapshot.reports.values()
        if report.status.app_armor
        for profile, orphan in report.status.app_armor.orphans.items()
        if here and orphan.installation == here
    }
    for write in tombstones(snapshot):
        match write:
            case Entomb(stone):
                spec = stone.spec
                assert spec.profile_uid not in alive
                assert (spec.profile, spec.profile_uid) in orphans
                assert spec.installation == here
                assert spec.content == NO_CONTENT
                assert spec.placement.withdrawn
                assert not spec.placement.force
                assert stone.metadata.name not in snapshot.revisions
            case DeleteRevision(name):
                assert snapshot.revisions[name].spec.content == NO_CONTENT
            case _:
                pytest.fail(f"not a tombstone's: {write}")
    needed = {(profile, uid) for profile, uid in orphans if uid not in alive}
    before = {
        (one.spec.profile, one.spec.profile_uid)
        for one in snapshot.revisions.values()
        if one.spec.content == NO_CONTENT and one.spec.installation == here
    }
    held = {
        profile
        for report in snapshot.reports.values()
        if report.status.app_armor
        for profile in report.status.app_armor.profiles
    }
    waited = {(profile, uid) for profile, uid in before if uid not in alive and profile in held}
    assert needed <= settled_stones(snapshot) <= needed | waited


STONE = tombstone_name("p", "uid")


@pytest.mark.parametrize(
    ("orphan", "alive", "there", "installation", "writes"),
    [
        (("uid", HERE), [], [], HERE, [f"Entomb {STONE}"]),
        (("uid", HERE), ["uid"], [], HERE, []),  # its revision is still to be published, perhaps
        (("uid", HERE), ["other"], [], HERE, [f"Entomb {STONE}"]),  # made anew under its name
        (("uid", "elsewhere"), [], [], HERE, []),  # of a store that this one knows nothing of
        (("uid", ""), [], [], HERE, []),
        (("uid", ""), [], [], "", []),  # where nothing is known nothing is the same
        (("uid", HERE), [], [], "", []),
        (("uid", HERE), [], ["uid"], HERE, []),
        (("uid", HERE), ["uid"], ["uid"], HERE, [f"DeleteRevision {STONE}"]),
        (("uid", HERE), [], ["uid"], "elsewhere", [f"DeleteRevision {STONE}"]),
        (None, [], ["uid"], HERE, [f"DeleteRevision {STONE}"]),
        (None, [], [], HERE, []),
    ],
)
def test_a_tombstone_is_for_what_this_store_knows_to_be_deleted(
    orphan: tuple[str, str] | None, alive: list[str], there: list[str], installation: str, writes: list[str]
):
    snapshot = a_cluster(
        {
            "profiles": {f"p{number}": {"text": "v1", "uid": uid} for number, uid in enumerate(alive)},
            "revisions": [{"profile": "p", "tombstone": uid} for uid in there],
            "installation": installation,
            "nodes": {"n1": {}, "n2": {}},
            "reports": {node: {"orphans": {"p": orphan} if orphan else {}} for node in ("n1", "n2")},
        }
    )
    assert [told(write).split(": ")[0] for write in tombstones(snapshot)] == writes


@pytest.mark.parametrize(
    ("holds", "alive", "stays"),
    [
        ({"p": "v1"}, [], True),  # told, and waiting for a task to end
        ({}, [], False),
        ({"p": "v1"}, ["uid"], False),  # it is back, as in an etcd that was restored
        ({"p": "v2"}, ["another"], False),  # its successor has loaded its own
        ({"p": "v1"}, ["another"], True),  # its successor waits for it
        ({"other": "v1"}, [], False),
    ],
)
def test_a_tombstone_stays_until_no_node_holds_what_it_is_of(
    holds: dict[str, str], alive: list[str], stays: bool
):
    snapshot = a_cluster(
        {
            "profiles": {"p": {"text": "v2", "uid": alive[0]}} if alive else {},
            "revisions": [
                {"profile": "p", "tombstone": "uid"},
                *({"profile": "p", "text": "v2", "uid": uid} for uid in alive),
            ],
            "nodes": {"n1": {}},
            "reports": {"n1": {"holds": holds}},
        }
    )
    assert [told(write) for write in tombstones(snapshot)] == ([] if stays else [f"DeleteRevision {STONE}"])


@pytest.mark.parametrize(
    ("revisions", "writes"),
    [
        ([], [f"Entomb {STONE}"]),
        ([{"profile": "p", "text": "v1", "uid": "uid", "withdrawn": True}], []),
    ],
)
def test_a_profile_that_is_being_deleted_and_lost_its_revisions_gets_a_tombstone(
    revisions: list[dict[str, Any]], writes: list[str]
):
    """A node that was away at its deletion came back before the finalizer went, and waited for ever."""
    snapshot = a_cluster(
        {
            "profiles": {"p": {"text": "v1", "uid": "uid", "deleted": True}},
            "revisions": revisions,
            "nodes": {"n1": {}},
            "reports": {"n1": {"holds": {"p": "v1"}, "orphans": {"p": "uid"}}},
        }
    )
    assert [told(write).split(": ")[0] for write in tombstones(snapshot)] == writes


def test_a_tombstone_has_all_that_agents_need():
    snapshot = a_cluster({"reports": {"n1": {"orphans": {"p": "uid"}}}})
    (write,) = tombstones(snapshot)
    assert isinstance(write, Entomb)
    spec = write.tombstone.spec
    assert (spec.profile, spec.profile_uid, spec.type, spec.contract) == ("p", "uid", "AppArmor", CONTRACT)
    assert spec.placement == Placement(sequence=0, withdrawn=True)
    assert write.tombstone.metadata.owner_references == []  # its owner is gone: it would be collected


def settled_stones(snapshot: Judged) -> set[tuple[str, str]]:
    after = applied(snapshot, tombstones(snapshot))
    assert tombstones(after) == []
    return {
        (one.spec.profile, one.spec.profile_uid)
        for one in after.revisions.values()
        if one.spec.content == NO_CONTENT
    }


@settings(max_examples=150, deadline=None)
@given(snapshot=clusters())
def test_while_all_kinds_go_away_nothing_is_withdrawn(snapshot: Judged):
    """A node keeps what it holds: nobody has deleted any of these profiles."""
    leaving = replace(snapshot, store=Store("", terminating=True))
    for profile in leaving.profiles.values():
        if profile.metadata.deletion_timestamp:
            finalized = FINALIZER in profile.metadata.finalizers
            found = finalizers(profile, leaving, rollout(profile, leaving))
            assert found == ([RemoveFinalizer(profile)] if finalized else [])
    noted = taken_note_of(leaving)
    for profile in noted.profiles.values():
        if profile.metadata.deletion_timestamp:
            assert desired(profile, noted, name_owners(noted)) == []
    assert not [write for write in writes_for(leaving) if isinstance(write, Entomb)]
    assert "withdrawn" not in " ".join(of_kind(leaving, Place))


@settings(max_examples=150, deadline=None)
@given(snapshot=clusters())
def test_a_withdrawn_placement_says_whether_by_force(snapshot: Judged):
    snapshot = taken_note_of(snapshot)
    for profile in snapshot.profiles.values():
        by_force = profile.metadata.annotations.get(FORCE_DELETE) == "true"
        for write in desired(profile, snapshot, name_owners(snapshot)):
            if isinstance(write, Place):
                deleted = bool(profile.metadata.deletion_timestamp)
                assert write.placement.withdrawn == deleted
                assert write.placement.force == (deleted and by_force)
                assert write.placement.adopt == (profile.spec.adopt and not deleted)


def one_profile(**more: Any) -> Judged:
    revision = {"profile": "p", "text": "v1"} | more.pop("revision", {})
    return a_cluster(
        {
            "profiles": {"p": {"text": "v1", "deleted": True} | more},
            "revisions": [revision],
            "nodes": {"n1": {}},
            "reports": {"n1": {"holds": {"p": "v1"}}},
        }
    )


@pytest.mark.parametrize(
    ("annotation", "placed", "writes"),
    [
        (None, {}, ["Place p.v1: sequence 1, withdrawn"]),
        ("true", {}, ["Place p.v1: sequence 1, withdrawn, force"]),
        ("true", {"withdrawn": True}, ["Place p.v1: sequence 1, withdrawn, force"]),  # added later
        ("true", {"withdrawn": True, "force": True}, []),
        (None, {"withdrawn": True, "force": True}, ["Place p.v1: sequence 1, withdrawn"]),  # and taken back
        ("yes", {"withdrawn": True}, []),
        ("", {"withdrawn": True}, []),
        ("True", {"withdrawn": True}, []),
    ],
)
def test_force_is_the_word_true_whenever_it_is_said(
    annotation: str | None, placed: dict[str, bool], writes: list[str]
):
    more = {} if annotation is None else {"force": annotation}
    found = [
        told(one).replace(digest_of("v1"), "v1") for one in writes_for(one_profile(revision=placed, **more))
    ]
    assert found == writes


def test_force_without_a_deletion_is_no_force():
    assert of_kind(one_profile(deleted=False, force="true"), Place) == []


@pytest.mark.parametrize(
    ("agent", "node", "waits"),
    [
        ({"ready": True}, {}, True),
        ({"ready": False, "for": 89}, {}, True),  # perhaps it is just being upgraded
        ({"ready": False, "for": 91}, {}, False),
        ({"ready": False, "for": 5000}, {"for": 89}, True),  # the node has only just come back
        ({"ready": True}, {"ready": False}, False),
    ],
)
def test_a_deletion_waits_for_whom_it_can_reach(agent: dict[str, Any], node: dict[str, Any], waits: bool):
    snapshot = a_cluster(
        {
            "profiles": {"p": {"text": "v1", "deleted": True}},
            "revisions": [{"profile": "p", "text": "v1", "withdrawn": True}],
            "nodes": {"n1": node},
            "agents": {"n1": agent},
            "reports": {"n1": {"holds": {"p": "v1"}}},
        }
    )
    assert bool(of_kind(snapshot, RemoveFinalizer)) is not waits
    after = applied(snapshot, writes_for(snapshot))
    assert bool(of_kind(after, Collect)) is not waits


# --- what is published ---


@pytest.mark.parametrize("adopt", [True, False])
@pytest.mark.parametrize("attach", [True, False])
def test_guards_that_are_lifted_are_published(adopt: bool, attach: bool):
    profile = a_profile("p", {"text": "v1", "adopt": adopt, "attach": attach})
    made = wanted_revision(profile, Accepted((a_text("v1", "p"),)), HERE)
    assert made.spec.placement.adopt is adopt
    assert made.spec.content.allow_attachment is attach
    assert made.spec.installation == HERE
    assert (made.spec.content.digest == digest_of("v1")) is not attach
    assert made.metadata.name == f"p.{made.spec.content.digest}"


def test_the_right_to_attach_is_other_content():
    """Agents judge a revision by it, and a revision's content never changes."""
    snapshot = a_cluster(
        {
            "profiles": {"p": {"text": "v1", "attach": True, "generation": 2}},
            "revisions": [{"profile": "p", "text": "v1"}],
        }
    )
    (write,) = writes_for(snapshot)
    assert isinstance(write, CreateRevision)
    assert write.revision.spec.content.allow_attachment
    assert write.revision.metadata.name not in snapshot.revisions


def test_the_word_to_adopt_is_another_placement():
    snapshot = a_cluster(
        {
            "profiles": {"p": {"text": "v1", "adopt": True, "generation": 2}},
            "revisions": [{"profile": "p", "text": "v1"}],
        }
    )
    assert of_kind(snapshot, Place) == [f"Place p.{digest_of('v1')}: sequence 2, adopt"]


# --- Available, from one moment to the next ---


def moments(*clusters: dict[str, Any]) -> list[str]:
    """Return what is said of Available in each of these clusters, one after the other."""
    found: list[str] = []
    status = ProfileStatus()
    for short in clusters:
        revision = {"profile": "p", "text": short.get("text", "v1")}
        snapshot = a_cluster(
            {"profiles": {"p": {"text": revision["text"]}}, "revisions": [revision], **short}
        )
        now = {name: msgspec.structs.replace(one, status=status) for name, one in snapshot.profiles.items()}
        snapshot = replace(snapshot, profiles=now)
        status = status_of(snapshot.profiles["p"], snapshot)
        found += [f"{one.status} {one.reason}" for one in status.conditions if one.type == "Available"]
    return found


HOLDS: dict[str, Any] = {"holds": {"p": "v1"}}
FAILS: dict[str, Any] = {"problems": {"p": ["v1", "ParserFailed", "no"]}}
LOST: dict[str, Any] = {"ready": False}


@pytest.mark.parametrize(
    ("clusters", "said"),
    [
        # a first node that joins does not hold pods back that need another one
        ([{}, {"nodes": {"n": LOST}}, {"nodes": {"n": None}}], ["True NoNodes"] * 3),
        (
            [{}, {"nodes": {"n": None}}, {"nodes": {"n": None}, "reports": {"n": HOLDS}}],
            ["True NoNodes", "True NoNodes", "True Verified"],
        ),
        (
            [{}, {"nodes": {"n": None}, "reports": {"n": FAILS}}, {"nodes": {"n": None}}],
            ["True NoNodes", "False NotVerified", "False NotVerified"],
        ),
        # nobody has seen the new text anywhere, and there are nodes to load it
        ([{}, {"nodes": {"n": None}, "text": "v2"}], ["True NoNodes", "False NotVerified"]),
        ([{"nodes": {"n": None}}, {}], ["False NotVerified", "True NoNodes"]),
        # the only node is lost, with what it holds: pods must ask for another one
        (
            [
                {"nodes": {"n": None}, "reports": {"n": HOLDS}},
                {"nodes": {"n": LOST}, "reports": {"n": HOLDS}},
                {"nodes": {"n": LOST, "m": None}, "reports": {"n": HOLDS}},
            ],
            ["True Verified", "True NoNodes", "True NoNodes"],
        ),
    ],
)
def test_nodes_that_join_or_are_lost_hold_no_pod_back(clusters: list[dict[str, Any]], said: list[str]):
    assert moments(*clusters) == said
