"""The loops of operator and admission while the definitions of Hauberk's kinds go away, or were made anew."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from hauberk.crds.models import Condition, Metadata, ProfileStatus
from hauberk.crds.names import SECURITY_PROFILES
from hauberk.operator.admissions_cluster import AdmissionsCluster
from hauberk.operator.controller import Controller
from hauberk.operator.judging import Judging
from hauberk.operator.operators_cluster import OperatorsCluster
from hauberk.operator.publisher import Publisher
from hauberk.operator.snapshot import Store
from hauberk.operator.writes import CreateRevision, RemoveFinalizer, Write
from hauberk.profiles.check import Judge
from hauberk.profiles.parser import Parser
from hauberk.profiles.rendering import Renderer


class Api:
    """Stands for the API's rim: says where profiles are kept, and remembers what it was told."""

    def __init__(self) -> None:
        self.kept = Store("here")
        self.asked: Callable[[], None] | None = None
        self.writes: list[Write] = []

    async def store(self) -> Store:
        kept = self.kept
        if self.asked:
            self.asked()
        return kept

    async def carry_out(self, write: Write) -> bool:
        self.writes.append(write)
        return True

    async def write_status(self, name: str, status: ProfileStatus) -> Metadata:
        del status
        return Metadata(name=name, finalizers=["hauberk.dev/profile"])

    async def write_acceptance(self, name: str, condition: Condition) -> None:
        del name, condition


def body(name: str, **metadata: str) -> dict[str, Any]:
    return {
        "metadata": {
            "name": name,
            "uid": f"uid-{name}",
            "generation": 1,
            "finalizers": ["hauberk.dev/profile"],
            "creationTimestamp": "2026-01-01T00:00:00Z",
            **metadata,
        },
        "status": {"observedGeneration": 1},
        "spec": {"type": "AppArmor", "appArmor": {"policy": f"profile {name} {{ }}"}},
    }


def deleted(name: str) -> dict[str, Any]:
    return body(name, deletionTimestamp="2026-01-01T00:00:01Z")


async def test_what_is_published_says_where_it_is_from_now(parser: Parser):
    api = Api()
    publisher = Publisher(cast("AdmissionsCluster", api), judging=Judging(Judge(parser, Renderer())))
    publisher.store = Store("there")  # as it was when everything was listed last
    publisher.seen(SECURITY_PROFILES, "a", body("a"), deleted=False)
    await publisher.reconcile()
    await asyncio.wait(publisher.asked.values())
    await publisher.reconcile()
    (write,) = api.writes
    assert isinstance(write, CreateRevision)
    assert write.revision.spec.installation == "here"


async def test_a_deletion_is_believed_only_as_far_as_it_was_asked_about():
    """All kinds begin to go away while it is asked, for another deletion's sake, whether they do."""
    api = Api()
    controller = Controller(cast("OperatorsCluster", api))
    for name in ("a", "b"):
        controller.seen(SECURITY_PROFILES, name, body(name), deleted=False)
    controller.seen(SECURITY_PROFILES, "a", deleted("a"), deleted=False)

    def all_go_away() -> None:
        api.kept = Store("here", terminating=True)
        controller.seen(SECURITY_PROFILES, "b", deleted("b"), deleted=False)

    api.asked = all_go_away
    await controller.reconcile()
    assert [
        (type(one), one.profile.metadata.name) for one in api.writes if isinstance(one, RemoveFinalizer)
    ] == [(RemoveFinalizer, "a")]
    await controller.reconcile()
    last = api.writes[-1]
    assert isinstance(last, RemoveFinalizer)
    assert last.profile.metadata.name == "b"
