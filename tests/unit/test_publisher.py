"""The admission's loop, with an API that refuses and a parser that misbehaves."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from hauberk.crds.errors import ClusterFault
from hauberk.crds.metrics import PENDING
from hauberk.crds.models import encode
from hauberk.crds.names import APPARMOR, PROFILE_NODES, PROFILE_REVISIONS, SECURITY_PROFILES
from hauberk.operator.admissions_cluster import AdmissionsCluster
from hauberk.operator.judging import KEPT, Judging
from hauberk.operator.publish import content_digest
from hauberk.operator.publisher import Publisher
from hauberk.operator.snapshot import Store
from hauberk.operator.writes import Collect, CreateRevision, DeleteRevision, Entomb, Place
from hauberk.profiles.check import Judge
from hauberk.profiles.parser import Parser
from hauberk.profiles.rendering import Renderer

from tests.unit.loops import Api, body, going, report


@pytest.fixture
def api() -> Api:
    return Api()


def publisher_of(api: Api, parser: Parser) -> Publisher:
    judging = Judging(Judge(parser, Renderer()))
    return Publisher(cast("AdmissionsCluster", api), judging=judging)


async def judged(publisher: Publisher) -> None:
    """Reconcile until every text is judged."""
    await publisher.reconcile()
    while publisher.asked:
        await asyncio.wait(publisher.asked.values())


async def test_each_text_is_judged_once_and_published(api: Api, parser: Parser):
    publisher = publisher_of(api, parser)
    for name in ("a", "b"):
        publisher.seen(SECURITY_PROFILES, name, body(name), deleted=False)
    publisher.seen(SECURITY_PROFILES, "c", body("c", "broken"), deleted=False)
    await judged(publisher)
    await publisher.reconcile()
    assert [type(write).__name__ for write in api.writes] == ["CreateRevision", "CreateRevision"]
    assert {name: (one.status, one.reason) for name, one in api.accepted.items()} == {
        "a": ("True", "Accepted"),
        "b": ("True", "Accepted"),
        "c": ("False", "PolicyRefused"),
    }
    assert publisher.asked == {}


async def test_what_is_being_judged_is_told_as_pending(api: Api, parser: Parser):
    publisher = publisher_of(api, parser)
    publisher.seen(SECURITY_PROFILES, "a", body("a"), deleted=False)

    def pending() -> list[float]:
        return [one.value for one in publisher.readings() if one.metric is PENDING]

    await publisher.reconcile()
    await asyncio.sleep(0)
    assert pending() == [1]
    await judged(publisher)
    assert pending() == [0]


async def test_a_list_changes_who_owns_a_name_as_a_watch_does(api: Api, parser: Parser):
    publisher = publisher_of(api, parser)
    publisher.seen(SECURITY_PROFILES, "a", body("a"), deleted=False)
    await judged(publisher)
    assert publisher.owners() == {(APPARMOR, "a"): "a"}
    await publisher.relist()
    assert publisher.owners() == {}


async def test_a_revision_is_created_once_though_the_watch_is_behind(api: Api, parser: Parser):
    publisher = publisher_of(api, parser)
    publisher.seen(SECURITY_PROFILES, "a", body("a"), deleted=False)
    await judged(publisher)
    for _ in range(3):  # before the watch tells of what was created
        await publisher.reconcile()
    assert [type(write) for write in api.writes] == [CreateRevision]


async def test_what_did_not_change_is_not_written(api: Api, parser: Parser):
    publisher = publisher_of(api, parser)
    publisher.seen(SECURITY_PROFILES, "c", body("c", "broken"), deleted=False)
    await judged(publisher)
    await publisher.reconcile()
    api.accepted.clear()
    await publisher.reconcile()
    assert api.accepted == {}


async def test_nothing_is_published_before_the_operator_keeps_the_object(api: Api, parser: Parser):
    publisher = publisher_of(api, parser)
    fresh = body("a")
    fresh["metadata"]["finalizers"] = []
    publisher.seen(SECURITY_PROFILES, "a", fresh, deleted=False)
    await judged(publisher)
    await publisher.reconcile()
    assert api.writes == []
    assert api.accepted["a"].status == "True"
    publisher.seen(SECURITY_PROFILES, "a", body("a"), deleted=False)
    await publisher.reconcile()
    assert [type(write) for write in api.writes] == [CreateRevision]


async def test_a_waiting_replica_writes_nothing(api: Api, parser: Parser):
    publisher = publisher_of(api, parser)
    publisher.leads = lambda: False
    publisher.seen(SECURITY_PROFILES, "a", body("a"), deleted=False)
    await judged(publisher)
    await publisher.reconcile()
    assert (api.writes, api.accepted) == ([], {})


async def test_a_bug_that_a_text_meets_does_not_make_the_loop_spin(api: Api, tmp_path: Path):
    program = tmp_path / "parser"
    program.write_text("#!/bin/sh\necho this is no compiled policy\n")
    program.chmod(0o755)
    publisher = publisher_of(api, Parser(program=str(program), base=tmp_path))
    publisher.seen(SECURITY_PROFILES, "a", body("a"), deleted=False)
    await publisher.reconcile()
    (task,) = publisher.asked.values()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.5):
            await asyncio.shield(task)
    assert not task.done()  # it waits before the next attempt
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_texts_that_nobody_asks_for_are_forgotten(api: Api, parser: Parser):
    publisher = publisher_of(api, parser)
    judging = publisher.judging
    for number in range(KEPT + 2):
        publisher.seen(SECURITY_PROFILES, "a", body("a", f"broken {number}", number + 1), deleted=False)
        await judged(publisher)
    assert len(judging.judgements) == KEPT + 1  # the last one is asked for
    await publisher.reconcile()
    assert content_digest(publisher.profiles["a"]) in judging.judgements
    publisher.seen(SECURITY_PROFILES, "a", {}, deleted=True)
    await publisher.reconcile()
    assert len(judging.judgements) == KEPT


@pytest.mark.parametrize("refused", ["a", "a/status"])
async def test_a_write_that_is_refused_holds_no_other_profile_up(api: Api, parser: Parser, refused: str):
    """One object that the API refuses for good (a webhook, a quota, a schema) stops all others for ever."""
    publisher = publisher_of(api, parser)
    for name in ("a", "b"):
        publisher.seen(SECURITY_PROFILES, name, body(name), deleted=False)
    await judged(publisher)
    api.accepted.clear()
    publisher.profiles = {
        name: msgspec.structs.replace(one, status=msgspec.structs.replace(one.status, conditions=[]))
        for name, one in publisher.profiles.items()
    }
    api.refused = {refused}
    with contextlib.suppress(ClusterFault):
        await publisher.reconcile()
    published = {write.revision.spec.profile for write in api.writes if isinstance(write, CreateRevision)}
    assert "b" in published
    assert "b" in api.accepted


async def test_tombstones_do_not_wait_for_other_writes(api: Api, parser: Parser):
    publisher = publisher_of(api, parser)
    publisher.store = api.where
    api.refused = {"a"}
    publisher.seen(SECURITY_PROFILES, "a", body("a"), deleted=False)
    await judged(publisher)
    orphans = {"p": {"uid": "uid", "installation": "here"}}
    publisher.seen(PROFILE_NODES, "n", report(orphans=orphans), deleted=False)
    await publisher.reconcile()
    assert [type(write) for write in api.writes] == [Entomb]


async def test_an_orphan_of_this_store_gets_a_tombstone_and_no_longer_than_it_needs_it(
    api: Api, parser: Parser
):
    publisher = publisher_of(api, parser)
    publisher.store = api.where
    orphans = {"p": {"uid": "uid", "installation": "here"}, "q": {"uid": "uid", "installation": "elsewhere"}}
    publisher.seen(PROFILE_NODES, "n", report(orphans=orphans), deleted=False)
    await publisher.reconcile()
    (write,) = api.writes
    assert isinstance(write, Entomb)
    stone = write.tombstone
    publisher.revisions[stone.metadata.name] = stone
    api.writes.clear()
    await publisher.reconcile()
    assert api.writes == []
    publisher.seen(PROFILE_NODES, "n", report(), deleted=False)
    await publisher.reconcile()
    assert api.writes == [DeleteRevision(stone.metadata.name)]


# --- deletions ---


async def test_the_store_is_asked_before_a_deletion_means_anything(api: Api, parser: Parser):
    """A profile that goes because its kind goes was not deleted by anyone."""
    publisher = publisher_of(api, parser)
    publisher.store = api.where
    await publish(publisher, api, "a")
    assert api.stores == 1  # to say where it is from
    api.where = Store(terminating=True)
    publisher.seen(SECURITY_PROFILES, "a", going("a"), deleted=False)
    await publisher.reconcile()
    assert api.writes == []
    assert api.stores == 2


async def test_where_the_store_can_not_be_asked_no_deletion_goes_on(api: Api, parser: Parser):
    publisher = publisher_of(api, parser)
    publisher.store = api.where
    await publish(publisher, api, "a")
    publisher.seen(SECURITY_PROFILES, "a", going("a"), deleted=False)
    api.refused = {"store"}
    with pytest.raises(ClusterFault):
        await publisher.reconcile()
    assert api.writes == []


async def test_a_deleted_profile_is_withdrawn_and_collected(api: Api, parser: Parser):
    publisher = publisher_of(api, parser)
    publisher.store = api.where
    await publish(publisher, api, "a")
    publisher.seen(SECURITY_PROFILES, "a", going("a"), deleted=False)
    await publisher.reconcile()
    (write,) = api.writes
    assert isinstance(write, Place)
    assert write.placement.withdrawn
    api.writes.clear()
    publisher.seen(SECURITY_PROFILES, "a", {}, deleted=True)
    await publisher.reconcile()
    assert [type(one) for one in api.writes] == [Collect]


async def test_what_someone_else_keeps_has_no_revision_once_the_operator_let_it_go(api: Api, parser: Parser):
    publisher = publisher_of(api, parser)
    publisher.store = api.where
    await publish(publisher, api, "a")
    left = going("a")
    left["metadata"]["finalizers"] = ["someone.else/kept"]
    publisher.seen(SECURITY_PROFILES, "a", left, deleted=False)
    await publisher.reconcile()
    assert [type(one) for one in api.writes] == [DeleteRevision]


async def publish(publisher: Publisher, api: Api, name: str) -> dict[str, Any]:
    """Have a profile published, and see what became of it."""
    publisher.seen(SECURITY_PROFILES, name, body(name), deleted=False)
    await judged(publisher)
    await publisher.reconcile()
    (create,) = api.writes
    assert isinstance(create, CreateRevision)
    api.writes.clear()
    made = encode(create.revision)
    publisher.seen(PROFILE_REVISIONS, create.revision.metadata.name, made, deleted=False)
    return made
