"""Several backends in one agent: each has its own loop, and what one does holds up no other.

Most goes round by hand, as in test_agent.py; what is about time runs a whole agent, with a small API.
"""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import replace
from typing import cast

import pytest
from hauberk.crds.models import (
    Content,
    Metadata,
    Placement,
    ProfileNode,
    ProfileRevision,
    RevisionSpec,
    Section,
    Text,
)
from hauberk.crds.names import APPARMOR, CONTRACT, SECCOMP, SELINUX, text_id
from hauberk.crds.reasons import Reason
from hauberk.daemonset import agent as agents
from hauberk.daemonset import reconciler as reconcilers
from hauberk.daemonset import selinux, turns
from hauberk.daemonset.agent import Agent
from hauberk.daemonset.apparmor import AppArmor
from hauberk.daemonset.backend import Backend
from hauberk.daemonset.cache import Cache
from hauberk.daemonset.cluster import Cluster, NodeObject
from hauberk.daemonset.compiling import Compiling
from hauberk.daemonset.reconciler import Reconciler
from hauberk.daemonset.seccomp import Seccomp
from hauberk.daemonset.selinux import SELinux

from tests.unit.node import Loader, Tree
from tests.unit.selinux_node import FakeStore, Kernel, a_store, someone_removes

FILTER = '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]}'
TEXTS = {
    APPARMOR: "profile {0} {{ file, }}",
    SELINUX: "(block {0} (type process))",
    SECCOMP: FILTER.replace("{", "{{").replace("}", "}}"),
}
BASE = "(block {0} (blockabstract {0}))"
INHERITS = "(block {0} (type process) (blockinherit {1}))"


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have nothing waited for that might come up too, but where a test says so."""
    monkeypatch.setattr(selinux, "QUIET_SECONDS", (0.0, 0.0))


def revision(
    profile: str = "p",
    kind: str = SELINUX,
    digest: str = "d1",
    sequence: int = 1,
    *,
    text: str = "",
    uid: str = "",
    requires: tuple[str, ...] = (),
    withdrawn: bool = False,
    force: bool = False,
    contract: int = CONTRACT,
) -> ProfileRevision:
    text = text or TEXTS[kind].format(profile)
    return ProfileRevision(
        metadata=Metadata(name=f"{profile}.{digest}"),
        spec=RevisionSpec(
            profile=profile,
            profile_uid=uid or f"uid-{profile}-{kind}",
            type=kind,
            contract=contract,
            installation="here",
            content=Content(
                digest=digest,
                mode="Enforce",
                texts=[Text(id=text_id(text), text=text, names=[])],
                requires=list(requires),
            ),
            placement=Placement(sequence=sequence, withdrawn=withdrawn, force=force),
        ),
    )


def named(*revisions: ProfileRevision) -> dict[str, ProfileRevision]:
    found = {one.metadata.name: one for one in revisions}
    assert len(found) == len(revisions)
    return found


Show = Callable[[Mapping[str, ProfileRevision]], None]
Tell = Callable[[str, ProfileRevision | None], None]

OWN = NodeObject(metadata=Metadata(name="n1", uid="uid-n1"))


class Api:
    """The API of one agent: what it is shown, and what it wrote."""

    def __init__(self, *revisions: ProfileRevision) -> None:
        self.revisions = revisions
        self.written: list[ProfileNode] = []
        self.wrote = asyncio.Event()
        self.show: Show | None = None
        self.tell: Tell | None = None
        self.nodes = 1

    async def follow_node(self, seen: Callable[[NodeObject | None], None]) -> None:
        seen(OWN)
        await asyncio.Event().wait()

    async def follow_revisions(self, listed: Show, changed: Tell) -> None:
        self.show, self.tell = listed, changed
        listed(named(*self.revisions))
        await asyncio.Event().wait()

    async def write(self, profile_node: ProfileNode) -> None:
        self.written.append(profile_node)
        self.wrote.set()

    async def holds(self, profile_node: ProfileNode) -> bool:
        return profile_node == self.written[-1]

    async def seccomp_profiles(self) -> dict[str, list[str]]:
        return {}

    async def agents(self) -> int:
        return self.nodes

    async def reports(self, kind: str, profiles: Mapping[str, str]) -> None:
        """Return once a section of the report names just these revisions."""
        async with asyncio.timeout(10):
            while not self.written or held(self.written[-1], kind) != profiles:
                self.wrote.clear()
                await self.wrote.wait()


def held(report: ProfileNode, kind: str) -> dict[str, str] | None:
    section = report.status.section(kind)
    return section and {name: one.partition("/")[0] for name, one in section.profiles.items()}


class Node:
    """A node with all three modules, and an agent on it."""

    def __init__(self, tree: Tree, loader: Loader) -> None:
        self.tree, self.loader = tree, loader
        root = tree.host.state.parent
        kernel = Kernel(root)
        self.host = replace(tree.host, selinux=kernel)
        self.store: FakeStore = a_store(root, kernel)
        self.pods: dict[str, list[str]] = {}
        self.start()

    def start(self) -> None:
        """Start a new agent: it has only the disk to know from."""

        async def pods() -> dict[str, list[str]]:
            return self.pods

        self.backends: list[Backend] = [
            AppArmor(self.host, self.loader, Cache(self.host, "compiler")),
            SELinux(self.host, self.host.selinux, self.store),
            Seccomp(self.host, pods),
        ]
        self.agent = Agent(self.host, cast("Cluster", None), self.backends, "n1")
        self.loops = self.agent.reconcilers
        self.compiling = {
            kind: Compiling(one.backend.prepare, one._failed, one.wake) for kind, one in self.loops.items()
        }
        for one in self.loops.values():
            one._remember()
        self.agent._node_seen(OWN)

    async def given(self, *revisions: ProfileRevision) -> None:
        self.agent._revisions_listed(named(*revisions))
        await self.settle()

    async def settle(self) -> None:
        """Go round until there is nothing to wait for but time."""
        async with asyncio.timeout(20):
            for kind, loop in self.loops.items():
                await self._settle(loop, self.compiling[kind])

    async def _settle(self, loop: Reconciler, compiling: Compiling) -> None:
        while True:
            await loop.reconcile(compiling)
            loop._tell(loop._planned())
            if not compiling.tasks and not compiling.ready:
                return
            await loop._wait(compiling.due())

    def time_passes(self) -> None:
        for loop in self.loops.values():
            for one in loop.refused.values():
                if one.until != float("inf"):
                    one.until = time.monotonic() - 1

    def section(self, kind: str) -> Section:
        assert self.agent.profile_node
        section = self.agent.profile_node.status.section(kind)
        assert section
        return section

    def profiles(self, kind: str = SELINUX) -> dict[str, str]:
        return {name: one.partition("/")[0] for name, one in self.section(kind).profiles.items()}

    def problems(self, kind: str = SELINUX) -> dict[str, str]:
        return {name: one.reason for name, one in self.section(kind).problems.items()}

    @property
    def modules(self) -> set[str]:
        return {name.removeprefix("hauberk_") for name in self.store.modules()}


@pytest.fixture
def node(tree: Tree, loader: Loader) -> Node:
    return Node(tree, loader)


# --- types -------------------------------------------------------------------------------------------------


async def test_each_backend_takes_the_revisions_of_its_type(node: Node):
    await node.given(revision("a", APPARMOR), revision("b", SELINUX), revision("c", SECCOMP))
    assert {kind: node.profiles(kind) for kind in node.loops} == {
        APPARMOR: {"a": "d1"},
        SELINUX: {"b": "d1"},
        SECCOMP: {"c": "d1"},
    }
    assert node.agent.profile_node
    assert node.agent.profile_node.status.summary == "3/3"
    assert {kind: set(one.backend.records.read()[0]) for kind, one in node.loops.items()} == {
        APPARMOR: {"a"},
        SELINUX: {"b"},
        SECCOMP: {"c"},
    }


async def test_what_is_refused_by_one_is_no_matter_to_the_others(node: Node):
    bad = revision("b", SELINUX, text="(block b (type process) (allow process nope_t (file (read))))")
    await node.given(revision("a", APPARMOR), bad, revision("c", SECCOMP))
    assert (node.profiles(APPARMOR), node.profiles(SECCOMP)) == ({"a": "d1"}, {"c": "d1"})
    assert (node.profiles(), node.problems()) == ({}, {"b": Reason.LOAD_FAILED})
    assert node.agent.profile_node
    assert node.agent.profile_node.status.summary == "2/3, 1 failed"


async def test_a_node_without_a_store_serves_the_other_types(node: Node):
    node.store.folder.rename(node.store.folder.with_name("gone"))
    node.start()
    await node.given(revision("a", APPARMOR), revision("b", SELINUX), revision("c", SECCOMP))
    assert (node.profiles(APPARMOR), node.profiles(SECCOMP)) == ({"a": "d1"}, {"c": "d1"})
    assert node.problems() == {"b": Reason.LOAD_FAILED}


@pytest.mark.parametrize("told", ["by its revision", "by a tombstone"])
async def test_a_name_that_comes_back_with_another_type_is_another_profile(node: Node, told: str):
    await node.given(revision("p", APPARMOR))
    new = revision("p", SECCOMP, "d2")
    if told == "by its revision":
        # withdrawn, and gone before the agent came to it
        node.agent._revisions_listed(named(revision("p", APPARMOR, withdrawn=True)))
        await node.given(new)
    else:
        await node.given(new)  # deleted and made anew while nobody looked
        assert node.profiles(APPARMOR) == {"p": "d1"}
        assert node.section(APPARMOR).orphans["p"].uid == f"uid-p-{APPARMOR}"
        assert node.section(SECCOMP).orphans == {}
        gone = revision("p", APPARMOR, "", 0, withdrawn=True)
        spec = replace_content(gone)
        await node.given(new, ProfileRevision(metadata=Metadata(name="p.gone-1"), spec=spec))
    assert (node.profiles(APPARMOR), node.section(APPARMOR).orphans) == ({}, {})
    assert node.tree.names == set()
    assert node.profiles(SECCOMP) == {"p": "d2"}


def replace_content(one: ProfileRevision) -> RevisionSpec:
    """Return a tombstone's spec."""
    return RevisionSpec(
        profile=one.spec.profile,
        profile_uid=one.spec.profile_uid,
        type=one.spec.type,
        contract=CONTRACT,
        installation="here",
        placement=one.spec.placement,
    )


async def test_a_restart_finds_all_of_it_and_does_nothing(node: Node):
    wanted = revision("a", APPARMOR), revision("b", SELINUX), revision("c", SECCOMP)
    await node.given(*wanted)
    before = node.agent.profile_node
    loads, runs = len(node.tree.runs), len(node.store.runs)
    node.start()
    await node.given(*wanted)
    assert node.agent.profile_node == before
    assert (len(node.tree.runs), len(node.store.runs)) == (loads, runs)


@pytest.mark.parametrize("kind", [APPARMOR, SELINUX, SECCOMP])
async def test_what_a_later_release_wrote_is_told_and_takes_nothing_away(node: Node, kind: str):
    """An agent that is older than the admission keeps what it holds, also over its own restart."""
    await node.given(revision("p", kind))
    later = revision("p", kind, "d2", 2, contract=CONTRACT + 1)
    fresh = revision("q", kind, "d1", 1, contract=CONTRACT + 1)
    for _ in range(2):
        await node.given(later, fresh)
        assert node.profiles(kind) == {"p": "d1"}
        assert node.problems(kind) == {"p": Reason.AWAITING_RENDER, "q": Reason.AWAITING_RENDER}
        told = node.section(kind).problems["p"].message
        assert told.startswith(f"the revision has contract {CONTRACT + 1} and this agent knows {CONTRACT}; ")
        node.start()
    # the release that knows both
    await node.given(revision("p", kind, "d2", 2), revision("q", kind))
    assert (node.profiles(kind), node.problems(kind)) == ({"p": "d2", "q": "d1"}, {})


async def test_drift_of_each_type_is_mended_and_counted(node: Node):
    await node.given(revision("a", APPARMOR), revision("b", SELINUX), revision("c", SECCOMP))
    node.tree.host.remove("a")
    someone_removes(node.store, 400, "hauberk_b")
    (node.host.seccomp / "hauberk/c.json").unlink()
    await node.settle()
    repairs = {
        kind: {name: one.message for name, one in node.section(kind).repairs.items()} for kind in node.loops
    }
    assert repairs == {
        APPARMOR: {"a": "the kernel does not hold a"},
        SELINUX: {"b": "the kernel does not hold b.process"},
        SECCOMP: {"c": "the kubelet's folder does not hold hauberk/c.json"},
    }
    assert node.profiles() == {"b": "d1"}


# --- what one requires of another --------------------------------------------------------------------------


def base(
    digest: str = "d1", sequence: int = 1, *, withdrawn: bool = False, force: bool = False
) -> ProfileRevision:
    text = BASE.format("base") + f"; {digest}"
    return revision("base", SELINUX, digest, sequence, text=text, withdrawn=withdrawn, force=force)


def web(*, withdrawn: bool = False, force: bool = False) -> ProfileRevision:
    text = INHERITS.format("web", "base")
    return revision("web", text=text, requires=("base",), withdrawn=withdrawn, force=force)


async def test_a_module_waits_for_what_it_is_made_of(node: Node):
    await node.given(web())
    assert (node.profiles(), node.problems()) == ({}, {"web": Reason.AWAITING_REQUIRED})
    message = node.section(SELINUX).problems["web"].message
    assert message == "SecurityProfile base is not loaded here yet"
    assert node.store.runs == []
    await node.given(web(), base())
    assert (node.profiles(), node.problems()) == ({"base": "d1", "web": "d1"}, {})


async def test_what_others_are_made_of_is_updated_beneath_them(node: Node):
    await node.given(web(), base())
    await node.given(web(), base(), base("d2", 2))
    assert (node.profiles(), node.problems()) == ({"base": "d2", "web": "d1"}, {})


async def test_an_update_that_others_can_not_be_made_of_leaves_the_last_good_one(node: Node):
    await node.given(web(), base())
    lacking = revision("base", SELINUX, "d2", 2, text=BASE.format("another"))
    await node.given(web(), base(), lacking)
    assert node.profiles() == {"base": "d1", "web": "d1"}
    assert node.problems() == {"base": Reason.LOAD_FAILED}
    assert "in the module hauberk_web" in node.section(SELINUX).problems["base"].message


@pytest.mark.parametrize("force", [False, True])
async def test_what_others_are_made_of_stays_as_long_as_they_do(node: Node, force: bool):
    await node.given(web(), base())
    await node.given(web(), base(withdrawn=True, force=force))
    node.time_passes()
    await node.settle()
    assert (node.profiles(), node.problems()) == ({"base": "d1", "web": "d1"}, {"base": Reason.IN_USE})
    message = node.section(SELINUX).problems["base"].message
    assert message == "SecurityProfile web requires it, and is loaded here"
    await node.given(web(withdrawn=True), base(withdrawn=True, force=force))
    assert (node.profiles(), node.problems(), node.modules) == ({}, {}, set())


async def test_of_two_that_go_at_once_what_is_made_of_the_other_goes_first(node: Node):
    await node.given(web(), base())
    node.store.runs.clear()
    await node.given(web(withdrawn=True), base(withdrawn=True))
    removed = [run[run.index("-r") + 1 :: 2] for run in node.store.runs]
    assert removed == [["hauberk_web"], ["hauberk_base"]]
    assert node.profiles() == {}


async def test_what_is_in_use_keeps_what_it_is_made_of(node: Node):
    await node.given(web(), base())
    node.tree.task(7, "system_u:system_r:web.process:s0", "attr/current")
    await node.given(web(withdrawn=True), base(withdrawn=True))
    assert node.problems() == {"web": Reason.IN_USE, "base": Reason.IN_USE}
    assert node.modules == {"web", "base"}
    node.tree.end_task(7)
    node.time_passes()
    await node.settle()
    assert (node.profiles(), node.modules) == ({}, set())


async def test_by_force_what_is_in_use_is_permissive_and_keeps_what_it_is_made_of(node: Node):
    await node.given(web(), base())
    node.tree.task(7, "system_u:system_r:web.process:s0", "attr/current")
    going = web(withdrawn=True, force=True), base(withdrawn=True, force=True)
    await node.given(*going)
    assert node.host.selinux.mode("web.process") == "permissive"
    assert node.profiles() == {"base": "d1"}
    assert node.problems() == {"web": Reason.IN_USE, "base": Reason.IN_USE}
    node.start()  # which finds the record of what was released
    await node.given(*going)
    assert node.host.selinux.mode("web.process") == "permissive"
    node.tree.end_task(7)
    node.time_passes()
    await node.settle()
    assert (node.profiles(), node.modules) == ({}, set())


async def test_two_that_came_to_require_each_other_can_go(node: Node):
    """Each would wait for the other for ever."""
    await node.given(revision("a"), revision("b", requires=("a",)))
    both = revision("a", digest="d2", sequence=2, requires=("b", "a")), revision("b", requires=("a",))
    await node.given(*both)
    assert (node.profiles(), node.problems()) == ({"a": "d2", "b": "d1"}, {})
    a = revision("a", digest="d2", sequence=2, requires=("b", "a"), withdrawn=True)
    await node.given(a, revision("b", requires=("a",), withdrawn=True))
    assert (node.profiles(), node.problems(), node.modules) == ({}, {}, set())


# --- whole agents, in time ---------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def running(node: Node, api: Api) -> AsyncGenerator[Agent]:
    """Run an agent of the node for as long as the context lasts."""
    backends = [
        one if not isinstance(one, Seccomp) else Seccomp(node.host, api.seccomp_profiles)
        for one in node.backends
        if not isinstance(one, AppArmor)  # the tree's `revision` answers no poll()
    ]
    agent = Agent(node.host, cast("Cluster", api), backends, "n1")
    task = asyncio.create_task(agent.run())
    try:
        yield agent
    finally:
        node.store.gate.set()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "SPACING_SECONDS", (0.01, 0.01))
    for module in (agents, reconcilers):
        monkeypatch.setattr(module, "FIRST_SECONDS", 0.2)


@pytest.mark.usefixtures("_soon")
async def test_a_slow_backend_does_not_hold_up_the_report_of_another(node: Node):
    node.store.gate.clear()
    api = Api(revision("b", SELINUX), revision("c", SECCOMP))
    async with running(node, api):
        await node.store.begun.wait()
        await api.reports(SECCOMP, {"c": "d1"})
        assert held(api.written[-1], SELINUX) in (None, {})
        assert api.show
        api.show(named(revision("b", SELINUX), revision("c", SECCOMP), revision("d", SECCOMP)))
        await api.reports(SECCOMP, {"c": "d1", "d": "d1"})
        node.store.gate.set()
        await api.reports(SELINUX, {"b": "d1"})
    assert held(api.written[-1], SECCOMP) == {"c": "d1", "d": "d1"}


@pytest.mark.usefixtures("_soon")
async def test_the_first_report_has_all_that_is_held(node: Node, monkeypatch: pytest.MonkeyPatch):
    for module in (agents, reconcilers):
        monkeypatch.setattr(module, "FIRST_SECONDS", 30)
    wanted = revision("b", SELINUX), revision("c", SECCOMP)
    await node.given(*wanted)
    node.start()
    api = Api(*wanted)
    async with running(node, api):
        await api.reports(SECCOMP, {"c": "d1"})
        assert len(api.written) == 1
    assert held(api.written[0], SELINUX) == {"b": "d1"}


@pytest.mark.usefixtures("_soon")
@pytest.mark.parametrize("listed_late", [False, True])
@pytest.mark.parametrize("withdrawn", [False, True])
async def test_an_agent_that_starts_again_takes_nothing_back(
    node: Node, withdrawn: bool, listed_late: bool, monkeypatch: pytest.MonkeyPatch
):
    """What is held is told in time, however long it takes to install what is new, or to remove what goes."""
    await node.given(*(revision(name) for name in ("b", "old")[: 1 + withdrawn]))
    node.start()
    node.store.gate.clear()
    node.store.begun.clear()
    api = Api(revision("b"), revision("old", withdrawn=True) if withdrawn else revision("new"))
    if listed_late:
        follow = api.follow_revisions

        async def late(listed: Show, changed: Tell) -> None:
            await asyncio.sleep(agents.FIRST_SECONDS * 1.5)
            await follow(listed, changed)

        monkeypatch.setattr(api, "follow_revisions", late)
    async with running(node, api):
        await node.store.begun.wait()
        await api.reports(SELINUX, {"b": "d1", "old": "d1"} if withdrawn else {"b": "d1"})
        assert not node.store.gate.is_set()
        node.store.gate.set()
        await api.reports(SELINUX, {"b": "d1"} if withdrawn else {"b": "d1", "new": "d1"})


@pytest.mark.usefixtures("_soon")
async def test_an_agent_that_is_ended_waits_for_semodule(node: Node):
    node.store.gate.clear()
    api = Api(revision("b", SELINUX))
    async with running(node, api):
        await node.store.begun.wait()
    assert node.modules == {"b"}
    node.start()
    runs = len(node.store.runs)
    await node.given(revision("b", SELINUX))
    assert node.profiles() == {"b": "d1"}
    assert len(node.store.runs) == runs


@pytest.mark.usefixtures("_soon")
async def test_what_selinux_is_now_is_told(node: Node):
    selinux = node.host.selinux.folder
    node.tree.put(selinux / "enforce", "1")
    api = Api(revision("c", SECCOMP))
    async with running(node, api) as agent:
        await api.reports(SECCOMP, {"c": "d1"})
        assert api.written[-1].status.facts.selinux.mode == "enforcing"
        node.tree.put(selinux / "enforce", "0")
        assert api.show
        api.show(named(revision("c", SECCOMP), revision("d", SECCOMP)))
        await api.reports(SECCOMP, {"c": "d1", "d": "d1"})
        assert agent.facts.selinux.mode == "permissive"
    assert api.written[-1].status.facts.selinux.mode == "permissive"


@pytest.mark.usefixtures("_soon")
async def test_one_profile_that_changes_costs_one_write(node: Node):
    """However soon the next write could follow: nothing is told in between."""
    old, new = revision("c", SECCOMP), revision("c", SECCOMP, "d2", 2, text=TEXTS[SECCOMP].format() + " ")
    api = Api(old, revision("d", SECCOMP))
    async with running(node, api):
        await api.reports(SECCOMP, {"c": "d1", "d": "d1"})
        before = len(api.written)
        assert api.tell
        api.tell("c.d2", new)
        await api.reports(SECCOMP, {"c": "d2", "d": "d1"})
        api.tell("c.d1", None)
        api.tell("e.d1", revision("e", SECCOMP))
        await api.reports(SECCOMP, {"c": "d2", "d": "d1", "e": "d1"})
        assert len(api.written) == before + 2


async def test_a_hundred_new_profiles_cost_three_writes_at_most(node: Node, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(turns, "SPACING_SECONDS", (2.0, 2.0))
    api = Api()
    async with running(node, api):
        while not api.written:
            await api.wrote.wait()
        assert api.tell
        names = [f"p{number}" for number in range(100)]
        for name in names:
            api.tell(f"{name}.d1", revision(name, SECCOMP))
            await asyncio.sleep(0)
        await api.reports(SECCOMP, dict.fromkeys(names, "d1"))
        assert len(api.written) <= 1 + 3


# --- gathering ---------------------------------------------------------------------------------------------


async def test_what_comes_up_one_by_one_goes_into_one_run(node: Node, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(selinux, "QUIET_SECONDS", (0.3, 0.3))
    loop, compiling = node.loops[SELINUX], node.compiling[SELINUX]
    for number in range(4):
        loop.revisions_listed(named(*(revision(f"p{one}") for one in range(number + 1))))
        for _ in range(4):
            await loop.reconcile(compiling)
            await asyncio.sleep(0.01)
    assert node.store.runs == []
    async with asyncio.timeout(5):
        while not node.store.runs:
            await loop._wait(loop._next(compiling))
            await loop.reconcile(compiling)
    assert [one.count("-i") for one in node.store.runs] == [4]


async def test_what_never_ends_coming_up_is_not_waited_for(node: Node, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(selinux, "QUIET_SECONDS", (0.1, 0.1))
    loop, compiling = node.loops[SELINUX], node.compiling[SELINUX]
    began, number = time.monotonic(), 0
    while not node.store.runs:
        number += 1
        loop.revisions_listed(named(*(revision(f"p{one}") for one in range(number))))
        await loop.reconcile(compiling)
        await asyncio.sleep(0.02)
        assert time.monotonic() - began < 5
    assert time.monotonic() - began >= 0.1 * reconcilers.LONGEST_QUIET
