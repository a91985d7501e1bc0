"""The operator's loop, with an API that refuses and a parser that misbehaves."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
from hauberk.crds.errors import ClusterFault
from hauberk.crds.models import ProfileStatus, SecurityProfile
from hauberk.crds.names import PROFILE_REVISIONS, SECURITY_PROFILES
from hauberk.crds.reasons import Reason
from hauberk.operator.cluster import Cluster
from hauberk.operator.controller import Controller
from hauberk.operator.desired import CreateRevision, Write
from hauberk.operator.publish import content_digest
from hauberk.profiles.parser import Parser


class Api:
    """Stands for the API's rim: remembers what it was told, refuses what it is told to refuse."""

    def __init__(self) -> None:
        self.writes: list[Write] = []
        self.statuses: dict[str, ProfileStatus] = {}
        self.events: list[str] = []
        self.refused: set[str] = set()
        self.listed: dict[str, list[dict[str, Any]]] = {}
        self.while_listing: Any = None

    async def listing(self, plural: str) -> AsyncIterator[dict[str, Any]]:
        for body in self.listed.get(plural, []):
            if self.while_listing:
                self.while_listing()
            yield body

    async def carry_out(self, write: Write) -> None:
        if isinstance(write, CreateRevision) and write.revision.spec.profile in self.refused:
            raise ClusterFault(Reason.PROGRESSING, "not taken")
        self.writes.append(write)

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
    return Controller(cast("Cluster", api), parser)


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
