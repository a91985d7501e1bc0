"""The agent's loop, on a tree like the kernel's: what it holds after each round, and after it was killed.

The loop is gone round by hand, so that nothing here waits for a time that passes.
"""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import cast

import pytest
from hauberk.crds.models import (
    Content,
    Metadata,
    NodeSelector,
    Placement,
    Problem,
    ProfileRevision,
    RevisionSpec,
    Text,
)
from hauberk.crds.names import CONTRACT, text_id
from hauberk.crds.reasons import Reason
from hauberk.daemonset import reconciler as reconcilers
from hauberk.daemonset.agent import Agent
from hauberk.daemonset.apparmor import AppArmor
from hauberk.daemonset.cache import Cache
from hauberk.daemonset.cluster import Cluster, NodeObject
from hauberk.daemonset.compiling import Compiling
from hauberk.daemonset.drift import REPAIRS
from hauberk.daemonset.holdings import Holding, Records
from hauberk.daemonset.plan import Key, Prune
from hauberk.daemonset.reconciler import RECORD_SECONDS, Reconciler, Refused

from tests.unit.node import Loader, Newer, NodeHost, Tree

MORE = "profile {} {{ file, capability kill, }}"


def revision(
    profile: str = "p",
    digest: str = "d1",
    sequence: int = 1,
    *,
    text: str = "",
    uid: str = "",
    withdrawn: bool = False,
    force: bool = False,
    adopt: bool = False,
    selector: NodeSelector | None = None,
) -> ProfileRevision:
    text = text or f"profile {profile} {{ file, }}"
    return ProfileRevision(
        metadata=Metadata(name=f"{profile}.{digest}"),
        spec=RevisionSpec(
            profile=profile,
            profile_uid=uid or f"uid-{profile}",
            type="AppArmor",
            contract=CONTRACT,
            installation="here",
            content=Content(
                digest=digest, mode="Enforce", texts=[Text(id=text_id(text), text=text, names=[profile])]
            ),
            placement=Placement(
                sequence=sequence,
                withdrawn=withdrawn,
                force=force,
                adopt=adopt,
                node_selector=selector or NodeSelector(),
            ),
        ),
    )


class Node:
    """An agent, and what it is told."""

    def __init__(self, tree: Tree, loader: Loader) -> None:
        self.tree, self.loader = tree, loader
        self.start()

    def start(self) -> None:
        """Start a new agent, as after the end of the one before: it has only the disk to know from."""
        self.backend = AppArmor(self.tree.host, self.loader, Cache(self.tree.host, "compiler"))
        self.agent = Agent(self.tree.host, cast("Cluster", None), [self.backend], "n1")
        self.loop = self.agent.reconcilers["AppArmor"]
        self.compiling = Compiling(self.backend.prepare, self.loop._failed, self.loop.wake)
        self.loop._remember()
        node = NodeObject(metadata=Metadata(name="n1", uid="uid-n1", labels={"pool": "a"}))
        self.agent._node_seen(node)

    def shows(self, *revisions: ProfileRevision) -> None:
        self.agent._revisions_listed({one.metadata.name: one for one in revisions})

    async def settle(self) -> None:
        """Go round until there is nothing to wait for but time."""
        async with asyncio.timeout(20):
            while True:
                await self.loop.reconcile(self.compiling)
                self.loop._tell(self.loop._planned())
                if not self.compiling.tasks and not self.compiling.ready:
                    return
                await self.loop._wait(self.compiling.due())

    async def given(self, *revisions: ProfileRevision) -> None:
        self.shows(*revisions)
        await self.settle()

    def time_passes(self) -> None:
        """Let all that is waited for be due."""
        for one in self.loop.refused.values():
            if one.until != float("inf"):
                one.until = time.monotonic() - 1

    @property
    def profiles(self) -> dict[str, str]:
        """Return what is reported as loaded: the revision of each profile."""
        assert self.agent.profile_node
        section = self.agent.profile_node.status.app_armor
        assert section
        return {name: entry.split("/")[0] for name, entry in section.profiles.items()}

    @property
    def problems(self) -> dict[str, str]:
        assert self.agent.profile_node
        section = self.agent.profile_node.status.app_armor
        assert section
        return {name: one.reason for name, one in section.problems.items()}


@pytest.fixture
def node(tree: Tree, loader: Loader) -> Iterator[Node]:
    made = Node(tree, Newer(features=loader.features))
    yield made
    assert made.compiling.tasks == {}


# --- rounds ------------------------------------------------------------------------------------------------


async def test_what_is_wanted_is_loaded_in_one_run_recorded_and_reported(node: Node):
    await node.given(*(revision(name) for name in "abc"))
    assert sorted(node.tree.runs) == [["a"], ["b"], ["c"]]
    assert node.profiles == dict.fromkeys("abc", "d1")
    assert set(Records(node.tree.host, "apparmor").read()[0]) == set("abc")
    assert Records(node.tree.host, "apparmor").announced() == []  # settled: all of it is recorded
    assert not node.loop.unrecorded
    runs = len(node.tree.runs)
    await node.settle()
    assert len(node.tree.runs) == runs


async def test_records_wait_for_what_is_about_to_be_loaded_but_not_for_long(
    node: Node, monkeypatch: pytest.MonkeyPatch
):
    """A record costs the parser a run as well: of many profiles the last would be loaded twice as late."""
    slow, compile_one = asyncio.Event(), Loader.compile

    async def held_up(self: Loader, text: str, mode: str) -> bytes:
        if "q" in text:
            await slow.wait()
        return await compile_one(self, text, mode)

    monkeypatch.setattr(Loader, "compile", held_up)
    recorded = Records(node.tree.host, "apparmor")
    q = revision("q", text="profile q { file, }")
    node.shows(revision("p"), q)

    async def until_loaded(name: str) -> None:
        async with asyncio.timeout(5):
            while not (node.agent.profile_node and name in node.profiles):
                await node.loop.reconcile(node.compiling)
                node.loop._tell(node.loop._planned())
                await asyncio.sleep(0.05)

    await until_loaded("p")
    await node.loop.reconcile(node.compiling)
    assert recorded.read()[0] == {}
    assert [one.profile for one in recorded.announced()] == ["p"]  # whoever starts again knows of it
    assert node.loop._next(node.compiling) == node.loop.record_by
    assert time.monotonic() < node.loop.record_by < time.monotonic() + RECORD_SECONDS
    node.loop.record_by = time.monotonic()  # it takes too long
    await node.loop.reconcile(node.compiling)
    assert [*recorded.read()[0]] == ["p"]
    slow.set()
    await until_loaded("q")
    await node.settle()
    assert sorted(recorded.read()[0]) == ["p", "q"]


async def test_until_all_is_known_nothing_is_loaded_unloaded_or_reported(node: Node):
    await node.given(revision())
    node.start()
    await node.settle()
    assert node.agent.profile_node is None
    assert node.tree.names == {"p"}
    node.shows(revision("q"))
    node.agent._node_seen(None)
    await node.settle()
    assert node.agent.profile_node is None
    assert node.tree.names == {"p"}


async def test_a_text_that_is_refused_holds_no_other_up_and_is_told_once(node: Node):
    await node.given(revision("bad", text="profile bad {"), revision("good"))
    assert node.profiles == {"good": "d1"}
    assert node.problems == {"bad": Reason.POLICY_REFUSED}
    compiled = len(node.loader.texts)
    node.time_passes()
    await node.settle()
    assert len(node.loader.texts) == compiled  # a text that is refused is not tried again


async def test_a_bug_that_one_meets_holds_no_other_up(node: Node, monkeypatch: pytest.MonkeyPatch):
    original = AppArmor._refuse_foreign

    async def broken(self: AppArmor, *args: object) -> None:
        if getattr(args[0], "profile", "") == "a":
            raise KeyError("a bug")
        await original(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(AppArmor, "_refuse_foreign", broken)
    await node.given(revision("a"), revision("b"))
    assert node.profiles == {"b": "d1"}
    assert node.problems == {"a": Reason.BUG}


async def test_an_update_is_loaded_and_what_it_gave_up_goes(node: Node):
    text = "profile p { profile c { file, } file, } profile q { }"
    await node.given(revision(text=text))
    assert node.tree.names == {"p", "p//c", "q"}
    await node.given(revision(text=text), revision(digest="d2", sequence=2))
    assert node.tree.names == {"p"}
    assert node.profiles == {"p": "d2"}
    assert Records(node.tree.host, "apparmor").read()[0]["p"].former == []


async def test_a_withdrawn_profile_goes_also_when_its_revision_went_meanwhile(node: Node):
    await node.given(revision())
    node.shows(revision(withdrawn=True))
    await node.given()
    assert node.tree.names == set()
    assert node.profiles == {}


async def test_what_comes_while_it_is_loaded_is_not_lost(node: Node, monkeypatch: pytest.MonkeyPatch):
    """A wake-up in the middle of a round is another round, not a wait for the next minute."""
    take = Tree.take

    def taken(tree: Tree, policy: bytes, **hashes: bool) -> None:
        take(tree, policy, **hashes)
        node.shows(revision("a"), revision("b"))

    monkeypatch.setattr(Tree, "take", taken)
    await node.given(revision("a"))
    assert node.profiles == {"a": "d1", "b": "d1"}


# --- time --------------------------------------------------------------------------------------------------


async def test_a_try_that_comes_due_while_the_report_is_made_is_not_slept_over(
    node: Node, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(reconcilers, "RETRY_SECONDS", (0.3, 0.3))
    node.tree.refused.add("p")
    await node.given(revision())
    (refused,) = node.loop.refused.values()
    node.tree.refused.clear()
    await asyncio.sleep(max(0.0, refused.until - time.monotonic()))
    node.loop._tell(node.loop._planned())  # what the loop does after its last round
    node.loop.wake.clear()
    async with asyncio.timeout(2):  # and not LOOK_SECONDS
        await node.loop._wait(float("inf"))
    await node.settle()
    assert node.profiles == {"p": "d1"}


async def test_a_problem_is_told_until_it_is_mended_and_not_until_the_next_try(node: Node):
    node.tree.loaded("p")
    await node.given(revision())
    assert node.problems == {"p": Reason.HOST_OWNED}
    node.time_passes()
    node.loop._tell(node.loop._planned())
    assert node.problems == {"p": Reason.HOST_OWNED}
    node.tree.host.remove("p")
    await node.settle()
    assert (node.profiles, node.problems) == ({"p": "d1"}, {})


@pytest.mark.parametrize("reason", [Reason.IN_USE, Reason.LOAD_FAILED, Reason.HOST_OWNED])
def test_what_fails_for_ever_is_tried_for_ever(node: Node, reason: Reason):
    """A pod that runs for hours keeps a deleted profile in use for hours."""
    key = Key("remove", "p", "d1")
    for _ in range(3000):
        node.loop._refuse(key, reason, "still")
    wait = node.loop.refused[key].until - time.monotonic()
    low, high = reconcilers.IN_USE_SECONDS if reason is Reason.IN_USE else reconcilers.RETRY_SECONDS
    assert low - 1 < wait <= high
    assert node.loop.refused[key].failures == 3000


async def test_what_stood_in_the_way_of_the_old_word_does_not_of_the_new(node: Node):
    node.tree.refused.add("p")
    await node.given(revision(), revision("q", text="profile q {"))
    node.tree.refused.clear()
    await node.given(revision(sequence=2), revision("q", text="profile q {", sequence=2))
    assert node.profiles == {"p": "d1"}
    assert node.problems == {"q": Reason.POLICY_REFUSED}  # the text is the same, and so is the verdict


async def test_what_is_not_recorded_stays_announced(node: Node):
    """On a full disk the announcement is all that tells the next agent whose the names are."""
    blocked = node.tree.put(node.tree.host.state / "apparmor", "a file where the folder belongs")
    await node.given(revision())
    assert node.profiles == {"p": "d1"}
    assert node.problems == {"p": Reason.STATE_UNWRITABLE}
    node.start()
    await node.given(revision())
    assert node.profiles == {"p": "d1"}
    assert [run for run in node.tree.runs if run == ["p"]] == [["p"]]
    blocked.unlink()
    node.time_passes()
    await node.settle()
    assert (node.problems, set(Records(node.tree.host, "apparmor").read()[0])) == ({}, {"p"})
    assert Records(node.tree.host, "apparmor").announced() == []


# --- drift -------------------------------------------------------------------------------------------------


async def test_a_fight_is_paused_and_told_and_counted(node: Node):
    await node.given(revision(), revision("calm"))
    for _ in range(REPAIRS + 1):
        assert node.problems == {}
        node.tree.host.remove("p")
        await node.settle()
    assert node.problems == {"p": Reason.CONTESTED}
    assert node.profiles == {"p": "d1", "calm": "d1"}  # it is loaded all the same
    assert node.loop.drifts["p"].count == REPAIRS + 1
    node.tree.host.remove("p")
    await node.settle()
    assert "p" not in node.tree.names  # left alone for a while
    assert node.profiles == {"calm": "d1"}
    node.time_passes()
    await node.settle()
    assert "p" in node.tree.names
    assert node.loop.drifts.keys() == {"p"}


async def test_a_reboot_is_no_drift(node: Node):
    await node.given(revision())
    node.tree.reboot()
    node.start()
    await node.given(revision())
    assert node.tree.names == {"p"}
    assert node.loop.drifts == {}


# --- by force ----------------------------------------------------------------------------------------------


async def released(node: Node) -> None:
    await node.given(revision())
    node.tree.task(7, "p (enforce)")
    await node.given(revision(withdrawn=True))
    assert node.problems == {"p": Reason.IN_USE}
    assert node.profiles == {"p": "d1"}
    await node.given(revision(withdrawn=True, force=True))
    assert node.profiles == {}
    assert node.tree.names == {"p"}
    assert node.loop.holdings["p"].released


async def test_by_force_what_is_in_use_is_released_and_goes_with_its_last_task(node: Node):
    await released(node)
    await node.given()
    node.time_passes()
    await node.settle()
    assert node.tree.names == {"p"}
    node.tree.end_task(7)
    node.time_passes()
    await node.settle()
    assert node.tree.names == set()
    assert Records(node.tree.host, "apparmor").read() == ({}, [])


def never(_: Reconciler, __: Compiling) -> float:
    """Stands for when records need not wait any longer."""
    return float("inf")


async def test_what_can_not_go_is_tried_once_though_records_wait(node: Node, monkeypatch: pytest.MonkeyPatch):
    """Each text that is compiled in a burst would have it tried again, and told of."""
    await node.given(revision(text="profile p { file, profile child { file, } }"))
    node.tree.task(7, "p//child (enforce)")
    tried: list[str] = []
    carry_out = AppArmor.prune

    async def prune(self: AppArmor, step: Prune) -> Holding:
        tried.append(step.holding.profile)
        return await carry_out(self, step)

    monkeypatch.setattr(AppArmor, "prune", prune)
    monkeypatch.setattr(Reconciler, "_records_wait_until", never)
    await node.given(revision(digest="d2", sequence=2))
    for _ in range(3):
        await node.loop.reconcile(node.compiling)
    assert tried == ["p"]


async def test_what_was_released_is_recorded_though_records_wait(node: Node, monkeypatch: pytest.MonkeyPatch):
    """By the record before, an agent that starts again would confine the tasks that were let go."""
    await node.given(revision())
    node.tree.task(7, "p (enforce)")
    monkeypatch.setattr(Reconciler, "_records_wait_until", never)
    node.shows(revision(withdrawn=True, force=True))
    await node.loop.reconcile(node.compiling)
    assert Records(node.tree.host, "apparmor").read()[0]["p"].released


async def test_what_was_released_stays_released_over_the_agents_end(node: Node):
    """A record of what was there before would have the next agent confine the tasks again."""
    await released(node)
    before = node.tree.host.kernel()
    runs = len(node.tree.runs)
    node.start()
    await node.given()
    assert node.tree.host.kernel() == before
    assert len(node.tree.runs) == runs
    assert node.profiles == {}
    assert not (node.tree.host.policies / "hauberk.p").exists()
    node.tree.end_task(7)
    node.time_passes()
    await node.settle()
    assert node.tree.names == set()


async def test_a_reboot_ends_what_was_released(node: Node):
    await released(node)
    node.tree.reboot()
    node.tree.end_task(7)
    node.start()
    await node.given()
    assert node.tree.names == set()
    assert (Records(node.tree.host, "apparmor").read(), node.profiles, node.problems) == (({}, []), {}, {})


async def test_what_was_released_is_loaded_anew_for_who_wants_it(node: Node):
    await released(node)
    await node.given(revision(uid="new", text=MORE.format("p"), digest="d2"))
    assert node.profiles == {"p": "d2"}
    assert not node.loop.holdings["p"].released


async def test_what_was_released_is_no_last_good_one(node: Node):
    """The new one's text is refused here: what is loaded is no revision of it, and goes when it can."""
    await released(node)
    await node.given(revision(uid="new", text="profile p {", digest="d2"))
    assert node.profiles == {}
    assert node.problems == {"p": Reason.POLICY_REFUSED}
    node.tree.end_task(7)
    node.time_passes()
    await node.settle()
    assert node.tree.names == set()


# --- killed ------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """The agent's end, in the middle of a step."""


@pytest.mark.parametrize("moment", ["before the load", "after the load"])
@pytest.mark.parametrize("hashes", [True, False])
@pytest.mark.parametrize("update", [True, False])
async def test_a_load_that_was_cut_off_is_made_good(
    node: Node, monkeypatch: pytest.MonkeyPatch, moment: str, hashes: bool, update: bool
):
    """In the end the kernel holds what is reported, whatever it held when the agent was killed."""
    node.tree.hashes = hashes
    wanted = revision(digest="d2", sequence=2, text=MORE.format("p"))
    shown = (revision(), wanted) if update else (wanted,)
    if update:
        await node.given(revision())
    take = Tree.replace

    def killed(_: NodeHost, policy: bytes) -> None:
        if moment == "after the load":
            take(node.tree, policy)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(NodeHost, "replace", killed)
        with pytest.raises(Killed):
            await node.given(*shown)
    node.start()
    await node.given(*shown)
    assert node.profiles == {"p": "d2"}
    assert node.problems == {}
    assert set(Records(node.tree.host, "apparmor").read()[0]) == {"p"}
    loads = [one for one in node.tree.runs if one == ["p"]]
    assert loads
    raw = await node.loader.compile(MORE.format("p"), "Enforce")
    if hashes:
        assert node.tree.host.raw("p") == raw
    else:  # no hash proves what the kernel has: only a load by the agent that reports it does
        before = 1 if update else 0
        assert len(loads) == before + (2 if moment == "after the load" else 1)


async def test_an_update_that_was_cut_off_and_is_refused_then_leaves_the_last_good_one(
    tree: Tree, loader: Loader, monkeypatch: pytest.MonkeyPatch
):
    tree.hashes = False
    node = Node(tree, loader)
    await node.given(revision())

    async def killed(*_: object, **__: object) -> None:
        raise Killed

    shown = revision(), revision(digest="d2", sequence=2, text=MORE.format("p"))
    with monkeypatch.context() as patch:
        patch.setattr(AppArmor, "_into_kernel", killed)
        with pytest.raises(Killed):
            await node.given(*shown)
    node.start()
    key = Key("load", "p", "d2")
    problem = Problem(revision="d2", reason=Reason.LOAD_FAILED, message="no")
    node.loop.refused[key] = Refused(problem, float("inf"))
    await node.given(*shown)
    assert node.profiles == {"p": "d1"}
    assert node.problems == {"p": Reason.LOAD_FAILED}
