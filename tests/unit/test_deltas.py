"""What is kept up from snapshot to snapshot is what each snapshot alone says."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hauberk.crds.models import (
    AppArmorFacts,
    Content,
    Facts,
    Metadata,
    NodeSelector,
    NodeStatus,
    Placement,
    Problem,
    ProfileNode,
    ProfileRevision,
    ProfileSpec,
    RevisionSpec,
    Section,
    SecurityProfile,
)
from hauberk.crds.names import APPARMOR, CONTRACT, SECCOMP, SELINUX
from hauberk.operator.aggregate import aggregate
from hauberk.operator.deltas import Rollouts
from hauberk.operator.rollout import OnNode, Rollout, Seen, on_node, rollout
from hauberk.operator.snapshot import AgentView, NodeView, Snapshot
from hypothesis import given, settings
from hypothesis import strategies as st

START = datetime(2026, 1, 1, 12, tzinfo=UTC)
NODES = ("n1", "n2", "n3", "n4")
PROFILES = ("p", "q", "r")
TYPE_OF = {"p": APPARMOR, "q": SECCOMP, "r": SELINUX}

entries = st.sampled_from(["d1/enforce/aa", "d1/complain/aa", "d2/enforce/aa", "d2/complain/aa"])
problems = st.builds(
    Problem,
    revision=st.sampled_from(["d1", "d2"]),
    reason=st.sampled_from(["LoadFailed", "AwaitingRender", "InUse"]),
    message=st.sampled_from(["a", "b"]),
)
facts = st.builds(
    Facts,
    app_armor=st.builds(AppArmorFacts, enabled=st.booleans()),
    seccomp=st.booleans(),
    lsms=st.sampled_from([[], ["selinux"]]),
)
BLOCKS = ("app_armor", "selinux", "seccomp")
ALL = Facts(app_armor=AppArmorFacts(enabled=True), seccomp=True, lsms=["selinux"])


@dataclass
class World:
    """A cluster to which anything may happen; what does not change stays the same object."""

    now: datetime = START
    profiles: dict[str, SecurityProfile] = field(default_factory=dict[str, SecurityProfile])
    revisions: dict[str, ProfileRevision] = field(default_factory=dict[str, ProfileRevision])
    reports: dict[str, ProfileNode] = field(default_factory=dict[str, ProfileNode])
    nodes: dict[str, NodeView] = field(default_factory=dict[str, NodeView])
    agents: dict[str, AgentView] = field(default_factory=dict[str, AgentView])

    def snapshot(self) -> Snapshot:
        return Snapshot(
            profiles=dict(self.profiles),
            revisions=dict(self.revisions),
            reports=dict(self.reports),
            nodes=dict(self.nodes),
            agents=dict(self.agents),
            now=self.now,
        )

    def happen(self, draw: Any) -> None:
        changes = (self.time, self.node, self.agent, self.profile, self.revision)
        draw(st.sampled_from((*changes, self.report, self.report_in_part, self.report_in_part)))(draw)

    def time(self, draw: Any) -> None:
        self.now += timedelta(seconds=draw(st.sampled_from([1, 60, 100])))

    def node(self, draw: Any) -> None:
        name = draw(st.sampled_from(NODES))
        if name in self.nodes and draw(st.integers(0, 3)) == 0:
            del self.nodes[name]
            return
        labels = draw(st.sampled_from([{}, {"a": "b"}, {"kubernetes.io/os": "windows"}]))
        boot_id = draw(st.sampled_from(["b1", "b2", ""]))
        self.nodes[name] = NodeView(name, labels, draw(st.booleans()), self.now, boot_id)

    def agent(self, draw: Any) -> None:
        name = draw(st.sampled_from(NODES))
        if draw(st.integers(0, 3)) == 0:
            self.agents.pop(name, None)
        else:
            self.agents[name] = AgentView(name, draw(st.booleans()), self.now)

    def report(self, draw: Any) -> None:
        name = draw(st.sampled_from(NODES))
        if draw(st.booleans()):
            self.reports.pop(name, None)
        else:
            status = NodeStatus(boot_id=draw(st.sampled_from(["b1", "b2", ""])), facts=draw(facts))
            self.reports[name] = ProfileNode(metadata=Metadata(name=name), status=status)

    def report_in_part(self, draw: Any) -> None:
        """Let a report tell one thing otherwise, as most of them do."""
        name, profile = draw(st.sampled_from(NODES)), draw(st.sampled_from(PROFILES))
        if not (there := self.reports.get(name)):
            return
        block = draw(st.sampled_from(BLOCKS))
        section = getattr(there.status, block) or Section()
        held, told, changes = dict(section.profiles), dict(section.problems), dict[str, Any]()
        match draw(st.sampled_from(["entry", "problem", "no entry", "no problem", "facts", "section"])):
            case "entry":
                held[profile] = draw(entries)
            case "problem":
                told[profile] = draw(problems)
            case "no entry":
                held.pop(profile, None)
            case "no problem":
                told.pop(profile, None)
            case "facts":
                changes["facts"] = draw(facts)
            case _:
                changes[block] = draw(st.sampled_from([None, Section()]))
        changes = changes or {block: Section(profiles=held, problems=told)}
        status = msgspec.structs.replace(there.status, **changes)
        self.reports[name] = msgspec.structs.replace(there, status=status)

    def profile(self, draw: Any) -> None:
        name = draw(st.sampled_from(PROFILES))
        if name in self.profiles and draw(st.integers(0, 3)) == 0:
            del self.profiles[name]
            return
        deleted = draw(st.sampled_from([None, None, "2026-01-01T00:00:00Z"]))
        uid = draw(st.sampled_from(["1", "1", "1", "2"]))
        metadata = Metadata(
            name=name, uid=f"{name}{uid}", generation=draw(st.integers(1, 2)), deletion_timestamp=deleted
        )
        kind = draw(st.sampled_from([TYPE_OF[name], TYPE_OF[name], APPARMOR]))
        self.profiles[name] = SecurityProfile(metadata=metadata, spec=ProfileSpec(type=kind))

    def revision(self, draw: Any) -> None:
        name, digest = draw(st.sampled_from(PROFILES)), draw(st.sampled_from(["d1", "d2"]))
        if draw(st.integers(0, 4)) == 0:
            self.revisions.pop(f"{name}.{digest}", None)
            return
        selector = draw(st.sampled_from([NodeSelector(), NodeSelector(match_labels={"a": "b"})]))
        self.revisions[f"{name}.{digest}"] = ProfileRevision(
            metadata=Metadata(name=f"{name}.{digest}"),
            spec=RevisionSpec(
                # one that speaks of another's profile is nobody's work, but the API takes it
                profile=draw(st.sampled_from([name] * 5 + ["q"])),
                profile_uid=f"{name}1",
                type=TYPE_OF[name],
                contract=CONTRACT,
                content=Content(digest=digest, mode=draw(st.sampled_from(["Enforce", "Complain"]))),
                placement=Placement(sequence=draw(st.integers(1, 3)), node_selector=selector),
            ),
        )


def parts(one: Rollout) -> tuple[Any, ...]:
    return one.wanted, list(one.states), list(one.holding.items()), one.shared_kernels


def a_cluster() -> World:
    """Return three profiles of which all nodes hold the second revision."""
    world = World()
    for name, kind in TYPE_OF.items():
        metadata = Metadata(name=name, uid=f"{name}1", generation=1)
        world.profiles[name] = SecurityProfile(metadata=metadata, spec=ProfileSpec(type=kind))
        spec = RevisionSpec(
            profile=name,
            profile_uid=f"{name}1",
            type=kind,
            contract=CONTRACT,
            content=Content(digest="d2", mode="Enforce"),
            placement=Placement(sequence=2),
        )
        world.revisions[f"{name}.d2"] = ProfileRevision(metadata=Metadata(name=f"{name}.d2"), spec=spec)
    held = Section(profiles=dict.fromkeys(PROFILES, "d2/enforce/aa"))
    for name in NODES:
        world.nodes[name] = NodeView(name, {"a": "b"}, True, START, "b1")
        world.agents[name] = AgentView(name, True, START)
        status = NodeStatus(boot_id="b1", facts=ALL, **dict.fromkeys(BLOCKS, held))
        world.reports[name] = ProfileNode(metadata=Metadata(name=name), status=status)
    return world


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_it_comes_to_what_a_snapshot_alone_says(data: st.DataObject):
    world, rollouts = a_cluster(), Rollouts()
    for _ in range(data.draw(st.integers(2, 12))):
        snapshot = world.snapshot()
        look = rollouts.look(snapshot)
        if data.draw(st.integers(0, 5)) == 5:  # a round that ends early
            next(look, None)
            continue
        for _ in look:
            pass
        for name, profile in snapshot.profiles.items():
            if data.draw(st.integers(0, 4)) == 4:  # a round that does not come to it
                continue
            found, expected = rollouts.of(profile, snapshot), rollout(profile, snapshot)
            assert parts(found) == parts(expected), name
            assert aggregate(profile, found, world.now) == aggregate(profile, expected, world.now)
        for _ in range(data.draw(st.integers(0, 3))):
            world.happen(data.draw)


def a_world() -> World:
    """Return one profile that all nodes hold."""
    world = World()
    world.profiles["p"] = SecurityProfile(
        metadata=Metadata(name="p", uid="p1", generation=1), spec=ProfileSpec(type=APPARMOR)
    )
    spec = RevisionSpec(
        profile="p",
        profile_uid="p1",
        type=APPARMOR,
        contract=CONTRACT,
        content=Content(digest="d1", mode="Enforce"),
        placement=Placement(sequence=1),
    )
    world.revisions["p.d1"] = ProfileRevision(metadata=Metadata(name="p.d1"), spec=spec)
    for name in NODES:
        world.nodes[name] = NodeView(name, {}, True, START, f"boot-{name}")
        world.agents[name] = AgentView(name, True, START)
        world.reports[name] = a_report(name, p="d1/enforce/aa")
    return world


def a_report(node: str, **profiles: str) -> ProfileNode:
    status = NodeStatus(
        boot_id=f"boot-{node}",
        facts=Facts(app_armor=AppArmorFacts(enabled=True)),
        app_armor=Section(profiles=profiles),
    )
    return ProfileNode(metadata=Metadata(name=node), status=status)


def looked(rollouts: Rollouts, world: World) -> Rollout:
    snapshot = world.snapshot()
    for _ in rollouts.look(snapshot):
        pass
    return rollouts.of(snapshot.profiles["p"], snapshot)


def a_heartbeat(world: World) -> None:
    world.now += timedelta(seconds=15)


def another_profiles_entry(world: World) -> None:
    world.reports["n1"] = a_report("n1", p="d1/enforce/aa", q="d1/enforce/aa")


def the_same_once_more(world: World) -> None:
    world.reports["n1"] = a_report("n1", p="d1/enforce/aa")


def a_write_of_the_revisions_metadata(world: World) -> None:
    there = world.revisions["p.d1"]
    world.revisions["p.d1"] = msgspec.structs.replace(
        there, metadata=Metadata(name="p.d1", resource_version="2"), spec=msgspec.structs.replace(there.spec)
    )


@pytest.mark.parametrize(
    "change",
    [a_heartbeat, another_profiles_entry, the_same_once_more, a_write_of_the_revisions_metadata],
)
def test_what_is_no_change_of_a_profile_is_none(change: Any):
    world, rollouts = a_world(), Rollouts()
    before = looked(rollouts, world)
    change(world)
    assert looked(rollouts, world) is before


def test_only_what_changed_is_looked_at(monkeypatch: pytest.MonkeyPatch):
    world, rollouts = a_world(), Rollouts()
    looked(rollouts, world)
    asked: list[str] = []

    def noted(wanted: RevisionSpec, seen: Seen) -> OnNode | None:
        asked.append(seen.node.name)
        return on_node(wanted, seen)

    monkeypatch.setattr("hauberk.operator.deltas.on_node", noted)
    world.reports["n2"] = a_report("n2", p="d0/enforce/aa")
    looked(rollouts, world)
    assert asked == ["n2"]
    asked.clear()
    world.agents["n3"] = AgentView("n3", False, START)
    looked(rollouts, world)
    assert asked == []
    world.now += timedelta(seconds=100)
    looked(rollouts, world)
    assert asked == ["n3"]


def test_nodes_that_share_a_kernel_are_told_when_one_comes():
    world, rollouts = a_world(), Rollouts()
    before = looked(rollouts, world)
    twin = replace(world.nodes["n1"], name="n0")
    status = world.reports["n1"].status
    world.nodes["n0"] = twin
    world.reports["n0"] = ProfileNode(metadata=Metadata(name="n0"), status=status)
    after = looked(rollouts, world)
    assert (before.shared_kernels, after.shared_kernels) == ((), (("n0", "n1"),))
    assert [one.node for one in after.states] == ["n0", *NODES]


def test_a_revision_that_speaks_of_another_profile_is_looked_at_by_that_ones_name():
    """Nobody makes such, but the API would take it, and the same must come of it as from scratch."""
    world, rollouts = a_world(), Rollouts()
    there = world.revisions["p.d1"]
    world.revisions["p.d1"] = msgspec.structs.replace(
        there, spec=msgspec.structs.replace(there.spec, profile="q")
    )
    looked(rollouts, world)
    world.reports["n1"] = a_report("n1", p="d1/enforce/aa", q="d1/enforce/aa")
    found = looked(rollouts, world)
    assert parts(found) == parts(rollout(world.profiles["p"], world.snapshot()))
