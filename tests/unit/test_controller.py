"""The operator's loop, with an API that refuses and a parser that misbehaves."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from hauberk.crds.errors import ClusterFault
from hauberk.crds.models import ProfileStatus, RevisionSpec, SecurityProfile, encode
from hauberk.crds.names import FINALIZER, PROFILE_NODES, PROFILE_REVISIONS, SECURITY_PROFILES
from hauberk.crds.reasons import Reason
from hauberk.operator import controller as controllers
from hauberk.operator.cluster import Cluster
from hauberk.operator.controller import Controller
from hauberk.operator.desired import CreateRevision, DeleteRevision, Entomb, RemoveFinalizer, Write
from hauberk.operator.publish import content_digest
from hauberk.operator.snapshot import Store
from hauberk.profiles.check import Judge
from hauberk.profiles.parser import Parser
from hauberk.profiles.rendering import Renderer


class Api:
    """Stands for the API's rim: remembers what it was told, refuses what it is told to refuse."""

    def __init__(self) -> None:
        self.writes: list[Write] = []
        self.statuses: dict[str, ProfileStatus] = {}
        self.events: list[str] = []
        self.refused: set[str] = set()
        self.listed: dict[str, list[dict[str, Any]]] = {}
        self.while_listing: Any = None
        self.where = Store("here")
        self.stores = 0
        self.going = False
        self.taken = True
        self.late: set[type[Write]] = set()

    async def store(self) -> Store:
        self.stores += 1
        if "store" in self.refused:
            raise ClusterFault(Reason.PROGRESSING, "can't be read")
        return self.where

    async def leaving(self) -> bool:
        return self.going

    async def listing(self, plural: str) -> AsyncIterator[dict[str, Any]]:
        for body in self.listed.get(plural, []):
            if self.while_listing:
                self.while_listing()
            yield body

    async def carry_out(self, write: Write) -> bool:
        if isinstance(write, CreateRevision) and write.revision.spec.profile in self.refused:
            raise ClusterFault(Reason.PROGRESSING, "not taken")
        if isinstance(write, Entomb) and "tombstones" in self.refused:
            raise ClusterFault(Reason.PROGRESSING, "not taken")
        self.writes.append(write)
        if isinstance(write, RemoveFinalizer) and self.taken:
            for one in self.listed.get(SECURITY_PROFILES, []):
                if one["metadata"]["name"] == write.profile.metadata.name:
                    kept = [name for name in one["metadata"]["finalizers"] if name != FINALIZER]
                    one["metadata"]["finalizers"] = kept
        return type(write) not in self.late

    async def write_status(self, name: str, status: ProfileStatus) -> None:
        if f"{name}/status" in self.refused:
            raise ClusterFault(Reason.PROGRESSING, "not taken")
        self.statuses[name] = status

    async def tell(self, profile: SecurityProfile, reason: str, message: str, *, warning: bool) -> None:
        if "events" in self.refused:
            raise ClusterFault(Reason.PROGRESSING, "not taken")
        self.events.append(f"{profile.metadata.name} {reason} {warning} {bool(message)}")


@pytest.fixture
def api() -> Api:
    return Api()


def controller_of(api: Api, parser: Parser) -> Controller:
    return Controller(cast("Cluster", api), Judge(parser, Renderer()))


def body(name: str, policy: str = "", generation: int = 1) -> dict[str, Any]:
    return {
        "metadata": {
            "name": name,
            "uid": f"uid-{name}",
            "generation": generation,
            "finalizers": ["hauberk.dev/profile"],
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {"type": "AppArmor", "appArmor": {"policy": policy or f"profile {name} {{ }}"}},
    }


async def judged(controller: Controller) -> None:
    """Reconcile until every text is judged."""
    await controller.reconcile()
    while controller.judging:
        await asyncio.wait(controller.judging.values())


async def test_each_text_is_judged_once_and_published(api: Api, parser: Parser):
    controller = controller_of(api, parser)
    for name in ("a", "b"):
        controller.seen(SECURITY_PROFILES, name, body(name), deleted=False)
    controller.seen(SECURITY_PROFILES, "c", body("c", "broken"), deleted=False)
    await judged(controller)
    await controller.reconcile()
    assert [type(write).__name__ for write in api.writes] == ["CreateRevision", "CreateRevision"]
    assert {name: one.summary.status for name, one in api.statuses.items()} == {
        "a": "Updating",
        "b": "Updating",
        "c": "PolicyRefused",
    }
    assert api.events == ["c PolicyRefused True True"]
    assert controller.judging == {}


async def test_what_did_not_change_is_not_written(api: Api, parser: Parser):
    controller = controller_of(api, parser)
    controller.seen(SECURITY_PROFILES, "c", body("c", "broken"), deleted=False)
    await judged(controller)
    await controller.reconcile()
    api.statuses.clear()
    api.events.clear()
    await controller.reconcile()
    assert (api.statuses, api.events) == ({}, [])


async def test_a_heartbeat_wakes_nobody(api: Api, parser: Parser):
    controller = controller_of(api, parser)
    for _ in range(2):
        controller.wake.clear()
        controller.seen(SECURITY_PROFILES, "a", body("a"), deleted=False)
    assert not controller.wake.is_set()
    controller.seen(SECURITY_PROFILES, "a", {}, deleted=True)
    assert controller.wake.is_set()
    assert controller.profiles == {}


async def test_an_object_that_can_not_be_read_is_passed_over(api: Api, parser: Parser):
    controller = controller_of(api, parser)
    controller.seen(SECURITY_PROFILES, "bad", {"metadata": {"name": "bad"}}, deleted=False)
    controller.seen(SECURITY_PROFILES, "a", body("a"), deleted=False)
    assert list(controller.profiles) == ["a"]


async def test_a_bug_that_a_text_meets_does_not_make_the_loop_spin(api: Api, tmp_path: Path):
    program = tmp_path / "parser"
    program.write_text("#!/bin/sh\necho this is no compiled policy\n")
    program.chmod(0o755)
    controller = controller_of(api, Parser(program=str(program), base=tmp_path))
    controller.seen(SECURITY_PROFILES, "a", body("a"), deleted=False)
    await controller.reconcile()
    (task,) = controller.judging.values()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.5):
            await asyncio.shield(task)
    assert not task.done()  # it waits before the next attempt
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_texts_that_nobody_asks_for_are_forgotten(api: Api, parser: Parser):
    controller = controller_of(api, parser)
    controller.seen(SECURITY_PROFILES, "a", body("a", "broken"), deleted=False)
    await judged(controller)
    first = content_digest(controller.profiles["a"])
    assert list(controller.judgements) == [first]
    controller.seen(SECURITY_PROFILES, "a", body("a", "broken too", generation=2), deleted=False)
    await judged(controller)
    assert list(controller.judgements) == [content_digest(controller.profiles["a"])] != [first]


async def test_an_event_that_is_refused_holds_no_other_profile_up(api: Api, parser: Parser):
    controller = controller_of(api, parser)
    for name in ("a", "b"):
        controller.seen(SECURITY_PROFILES, name, body(name, "broken"), deleted=False)
    await judged(controller)
    api.refused = {"events"}
    await controller.reconcile()
    assert set(api.statuses) == {"a", "b"}


@pytest.mark.parametrize("refused", ["a", "a/status"])
async def test_a_write_that_is_refused_holds_no_other_profile_up(api: Api, parser: Parser, refused: str):
    """One object that the API refuses for good (a webhook, a quota, a schema) stops all others for ever."""
    controller = controller_of(api, parser)
    for name in ("a", "b"):
        controller.seen(SECURITY_PROFILES, name, body(name), deleted=False)
    await judged(controller)
    api.statuses.clear()
    api.refused = {refused}
    with contextlib.suppress(ClusterFault):
        await controller.reconcile()
    published = {write.revision.spec.profile for write in api.writes if isinstance(write, CreateRevision)}
    assert "b" in published
    assert "b" in api.statuses


async def test_a_list_does_not_undo_what_a_watch_told_meanwhile(api: Api, parser: Parser):
    controller = controller_of(api, parser)
    api.listed = {SECURITY_PROFILES: [body("a", generation=1)]}
    api.while_listing = lambda: controller.seen(
        SECURITY_PROFILES, "a", body("a", generation=2), deleted=False
    )
    await controller.relist()
    assert controller.profiles["a"].metadata.generation == 2


async def test_a_list_forgets_what_is_gone(api: Api, parser: Parser):
    controller = controller_of(api, parser)
    controller.seen(SECURITY_PROFILES, "gone", body("gone"), deleted=False)
    api.listed = {SECURITY_PROFILES: [body("a")], PROFILE_REVISIONS: []}
    await controller.relist()
    assert list(controller.profiles) == ["a"]


async def test_a_node_lacks_its_agent_since_that_was_noticed(api: Api, parser: Parser):
    controller = controller_of(api, parser)
    node = {"metadata": {"name": "n", "creationTimestamp": "2026-01-01T00:00:00Z"}}
    controller.seen("nodes", "n", node, deleted=False)
    first = controller.snapshot().agents["n"]
    assert not first.ready
    assert controller.snapshot().agents["n"].since == first.since
    pod = {
        "metadata": {"name": "agent-x", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"nodeName": "n"},
        "status": {
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]
        },
    }
    controller.seen("pods", "agent-x", pod, deleted=False)
    assert controller.snapshot().agents["n"].ready
    controller.seen("pods", "agent-x", pod, deleted=True)
    assert controller.snapshot().agents["n"].since > first.since


# --- what nodes report ---


def report(node: str = "n", **section: Any) -> dict[str, Any]:
    return {"metadata": {"name": node}, "status": {"bootID": "b", "appArmor": section}}


def repaired(count: int) -> dict[str, Any]:
    return report(repairs={"a": {"count": count, "message": "the kernel did not hold a"}})


async def test_what_was_repaired_before_it_started_is_old(api: Api, parser: Parser):
    controller = controller_of(api, parser)
    controller.seen(SECURITY_PROFILES, "a", body("a", "broken"), deleted=False)
    controller.seen(PROFILE_NODES, "n", repaired(3), deleted=False)
    await judged(controller)
    await controller.reconcile()
    assert [one for one in api.events if "DriftRepaired" in one] == []
    controller.seen(PROFILE_NODES, "n", repaired(4), deleted=False)
    await controller.reconcile()
    await controller.reconcile()
    assert [one for one in api.events if "DriftRepaired" in one] == ["a DriftRepaired True True"]


async def test_an_agent_that_counts_anew_is_told_anew(api: Api, parser: Parser):
    controller = controller_of(api, parser)
    controller.seen(SECURITY_PROFILES, "a", body("a", "broken"), deleted=False)
    await judged(controller)
    for state in (report(), repaired(1), report(), repaired(1)):
        controller.seen(PROFILE_NODES, "n", state, deleted=False)
        await controller.reconcile()
    assert [one for one in api.events if "DriftRepaired" in one] == ["a DriftRepaired True True"] * 2


async def test_an_event_that_is_refused_is_told_later_and_no_other_twice(api: Api, parser: Parser):
    controller = controller_of(api, parser)
    controller.seen(SECURITY_PROFILES, "a", body("a", "broken"), deleted=False)
    await judged(controller)
    await controller.reconcile()
    controller.seen(PROFILE_NODES, "n", repaired(1), deleted=False)
    api.refused = {"events"}
    with pytest.raises(ClusterFault):
        await controller.reconcile()
    api.refused = set()
    await controller.reconcile()
    await controller.reconcile()
    assert [one for one in api.events if "DriftRepaired" in one] == ["a DriftRepaired True True"]


async def test_a_repair_of_what_is_no_profile_here_is_passed_over(api: Api, parser: Parser):
    controller = controller_of(api, parser)
    await controller.reconcile()
    controller.seen(PROFILE_NODES, "n", repaired(1), deleted=False)
    await controller.reconcile()
    assert api.events == []


@pytest.mark.parametrize("refused", [set[str](), {"events"}, {"tombstones"}])
async def test_tombstones_and_repairs_do_not_wait_for_one_another(
    api: Api, parser: Parser, refused: set[str]
):
    controller = controller_of(api, parser)
    controller.store = api.where
    api.refused = refused
    controller.seen(SECURITY_PROFILES, "a", body("a", "broken"), deleted=False)
    await judged(controller)
    section = repaired(1)["status"]["appArmor"] | {"orphans": {"p": {"uid": "uid", "installation": "here"}}}
    controller.seen(PROFILE_NODES, "n", report(**section), deleted=False)
    with contextlib.suppress(ClusterFault):
        await controller.reconcile()
    entombed = [write for write in api.writes if isinstance(write, Entomb)]
    assert len(entombed) == (0 if "tombstones" in refused else 1)
    assert any("DriftRepaired" in one for one in api.events) == ("events" not in refused)


async def test_an_orphan_of_this_store_gets_a_tombstone_and_no_longer_than_it_needs_it(
    api: Api, parser: Parser
):
    controller = controller_of(api, parser)
    controller.store = api.where
    orphans = {"p": {"uid": "uid", "installation": "here"}, "q": {"uid": "uid", "installation": "elsewhere"}}
    controller.seen(PROFILE_NODES, "n", report(orphans=orphans), deleted=False)
    await controller.reconcile()
    (write,) = api.writes
    assert isinstance(write, Entomb)
    stone = write.tombstone
    controller.revisions[stone.metadata.name] = stone
    api.writes.clear()
    await controller.reconcile()
    assert api.writes == []
    controller.seen(PROFILE_NODES, "n", report(), deleted=False)
    await controller.reconcile()
    assert api.writes == [DeleteRevision(stone.metadata.name)]


# --- while kinds or all of Hauberk go away ---


def going(name: str) -> dict[str, Any]:
    one = body(name)
    one["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    return one


async def test_the_store_is_asked_before_a_deletion_means_anything(api: Api, parser: Parser):
    """A profile that goes because its kind goes was not deleted by anyone."""
    controller = controller_of(api, parser)
    controller.store = api.where
    controller.seen(SECURITY_PROFILES, "a", body("a"), deleted=False)
    await judged(controller)
    assert api.stores == 0
    api.where = Store(terminating=True)
    controller.seen(SECURITY_PROFILES, "a", going("a"), deleted=False)
    api.writes.clear()
    await controller.reconcile()
    assert [type(write) for write in api.writes] == [RemoveFinalizer]
    assert api.stores == 1


@pytest.mark.parametrize("late", [False, True])
async def test_a_profile_keeps_its_revision_until_its_finalizer_is_gone(api: Api, parser: Parser, late: bool):
    """Where that is not taken, a node that comes back still finds out that the profile was deleted."""
    controller = controller_of(api, parser)
    controller.store = api.where
    controller.seen(SECURITY_PROFILES, "a", body("a"), deleted=False)
    await judged(controller)
    await controller.reconcile()
    (create,) = api.writes
    assert isinstance(create, CreateRevision)
    revision = encode(msgspec.structs.replace(create.revision, spec=withdrawn(create.revision.spec)))
    controller.seen(PROFILE_REVISIONS, create.revision.metadata.name, revision, deleted=False)
    controller.seen(SECURITY_PROFILES, "a", going("a"), deleted=False)
    api.writes.clear()
    api.late = {RemoveFinalizer} if late else set()
    await controller.reconcile()
    expected = [RemoveFinalizer] if late else [RemoveFinalizer, DeleteRevision]
    assert [type(write) for write in api.writes] == expected


def withdrawn(spec: RevisionSpec) -> RevisionSpec:
    return msgspec.structs.replace(spec, placement=msgspec.structs.replace(spec.placement, withdrawn=True))


async def test_where_the_store_can_not_be_asked_no_deletion_goes_on(api: Api, parser: Parser):
    controller = controller_of(api, parser)
    controller.store = api.where
    controller.seen(SECURITY_PROFILES, "a", going("a"), deleted=False)
    api.refused = {"store"}
    with pytest.raises(ClusterFault):
        await controller.reconcile()
    assert api.writes == []


@pytest.mark.parametrize("leaving", [True, False])
async def test_finalizers_are_let_go_only_when_all_of_hauberk_goes(api: Api, parser: Parser, leaving: bool):
    controller = controller_of(api, parser)
    others = body("b")
    others["metadata"]["finalizers"] = ["someone.else/kept"]
    shared = body("c")
    shared["metadata"]["finalizers"] = ["someone.else/kept", FINALIZER]
    api.listed = {SECURITY_PROFILES: [body("a"), others, shared]}
    api.going = leaving
    await controller.let_go()
    let_go = [write.profile.metadata.name for write in api.writes if isinstance(write, RemoveFinalizer)]
    assert let_go == (["a", "c"] if leaving else [])
    assert len(api.writes) == len(let_go)
    kept = [one["metadata"]["finalizers"] for one in api.listed[SECURITY_PROFILES]]
    assert (FINALIZER in kept[0]) is (FINALIZER in kept[2]) is not leaving
    assert all("someone.else/kept" in one for one in kept[1:])


async def test_finalizers_are_read_anew_and_not_from_memory(api: Api, parser: Parser):
    """Whoever changed an object meanwhile has its finalizer in a version that memory does not know."""
    controller = controller_of(api, parser)
    controller.seen(SECURITY_PROFILES, "gone", body("gone"), deleted=False)
    api.listed = {SECURITY_PROFILES: [body("new")]}
    api.going = True
    await controller.let_go()
    assert [w.profile.metadata.name for w in api.writes if isinstance(w, RemoveFinalizer)] == ["new"]


async def test_a_finalizer_that_stays_is_tried_again_and_not_for_ever(
    api: Api, parser: Parser, monkeypatch: pytest.MonkeyPatch
):
    """The kubelet ends the pod after half a minute; a write that met a conflict is not the end of it."""
    monkeypatch.setattr(controllers, "RETRY_SECONDS", (0.01, 0.02))
    monkeypatch.setattr(controllers, "LET_GO_SECONDS", 0.1)
    controller = controller_of(api, parser)
    api.listed = {SECURITY_PROFILES: [body("a")]}
    api.going, api.taken = True, False
    with pytest.raises(ClusterFault, match="1 finalizers were there still"):
        await controller.let_go()
    assert len(api.writes) > 2
    api.taken = True
    await controller.let_go()
    assert api.listed[SECURITY_PROFILES][0]["metadata"]["finalizers"] == []


async def test_nothing_to_let_go_is_no_trouble(api: Api, parser: Parser):
    controller = controller_of(api, parser)
    api.going = True
    await controller.let_go()
    assert api.writes == []


async def test_the_store_is_known_from_the_first_list_on(api: Api, parser: Parser):
    controller = controller_of(api, parser)
    assert controller.snapshot().store == Store()
    await controller.relist()
    assert controller.snapshot().store == Store("here")
