"""How gated pods are followed: what ends a watch, and what is told of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, cast

import httpx2
import pytest
from hauberk.crds.errors import ClusterFault
from hauberk.crds.names import GATED_FOR, LABEL_GATED
from hauberk.crds.pods import APPARMOR_ANNOTATION, MIRROR, PodObject
from hauberk.operator import gated_pods
from hauberk.operator.gated_pods import Key, follow
from lightkube import ApiError, AsyncClient
from lightkube.models.meta_v1 import Status


def a_pod(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "shop", "uid": f"u-{name}", "resourceVersion": "8"}}


class Pods:
    """A list of pods, as lightkube gives it."""

    def __init__(self, bodies: list[dict[str, Any]]) -> None:
        self.bodies, self.resourceVersion = bodies, "7"

    async def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        for one in self.bodies:
            yield one


class Client:
    """Stands for lightkube's: what it lists, what its watch tells, and how that ends."""

    def __init__(self, events: list[tuple[str, dict[str, Any]]], end: Exception | None) -> None:
        self.events, self.end = events, end
        self.asked: list[dict[str, Any]] = []

    def list(self, *_: Any, **asked: Any) -> Pods:
        self.asked.append(asked)
        return Pods([a_pod("a"), {"metadata": 1}, a_pod("b")])

    async def watch(self, *_: Any, **asked: Any) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        self.asked.append(asked)
        for one in self.events:
            yield one
        if self.end:
            raise self.end
        await asyncio.Event().wait()


async def followed(client: Client) -> tuple[list[list[Key]], list[tuple[Key, bool]]]:
    """Return the lists that were told of, and each change: whether the pod is there still."""
    lists: list[list[Key]] = []
    changes: list[tuple[Key, bool]] = []

    def listed(pods: Mapping[Key, PodObject]) -> None:
        lists.append(sorted(pods))

    def changed(key: Key, pod: PodObject | None) -> None:
        changes.append((key, pod is not None))

    await follow(cast("AsyncClient", client), listed, changed)
    return lists, changes


def refused(code: int) -> ApiError:
    return ApiError(status=Status(code=code, message="no"))


async def test_what_the_server_forgot_is_listed_anew():
    events = [("ADDED", a_pod("c")), ("MODIFIED", a_pod("a")), ("DELETED", a_pod("b"))]
    client = Client([*events, ("ADDED", {"metadata": 1})], refused(410))
    lists, changes = await followed(client)
    assert lists == [[("shop", "a"), ("shop", "b")]]
    assert changes == [(("shop", "c"), True), (("shop", "a"), True), (("shop", "b"), False)]
    for asked in client.asked:  # never all pods of a cluster
        assert (asked["namespace"], asked["labels"]) == ("*", {LABEL_GATED: "true"})
    assert client.asked[1]["resource_version"] == "7"


async def test_a_watch_is_bounded_in_time(monkeypatch: pytest.MonkeyPatch):
    """A cut link never ends it by itself."""
    monkeypatch.setattr(gated_pods, "WATCH_SECONDS", 0.05)
    lists, changes = await followed(Client([], None))
    assert (len(lists), changes) == (1, [])


async def test_an_event_that_can_not_be_read_costs_a_new_list_and_no_more(monkeypatch: pytest.MonkeyPatch):
    """Half an event, where a line was ended in the middle of it."""
    monkeypatch.setattr(gated_pods, "BROKEN_SECONDS", (0.0, 0.0))
    half = httpx2.Response(200, text='{"type":"MODIFIED","object":{"metadata":{"name":"a\u0085b"}}}')
    lines = list(half.iter_lines())
    assert len(lines) == 2  # as httpx2 does it; without this no guard is needed
    with pytest.raises(ValueError, match="Unterminated string") as broken:
        json.loads(lines[0])
    lists, changes = await followed(Client([("ADDED", a_pod("c"))], broken.value))
    assert (len(lists), changes) == (1, [(("shop", "c"), True)])


def test_of_annotations_no_more_is_kept_than_is_read():
    annotations = {
        "notes": "x" * 100_000,
        GATED_FOR: "web," * 50_000,
        f"{APPARMOR_ANNOTATION}c": "localhost/web",
        MIRROR: "hash",
    }
    body = {"metadata": {"name": "a", "namespace": "shop", "uid": "u", "annotations": annotations}}
    pod = gated_pods.read(body)
    assert pod is not None
    assert {key: len(value) for key, value in pod.metadata.annotations.items()} == {
        GATED_FOR: gated_pods.ANNOTATION_LENGTH,
        f"{APPARMOR_ANNOTATION}c": len("localhost/web"),
        MIRROR: 4,
    }


@pytest.mark.parametrize("end", [refused(403), httpx2.ConnectError("refused"), OSError("gone")], ids=str)
async def test_whatever_else_ends_it_is_tried_again_with_backoff(end: Exception):
    with pytest.raises(ClusterFault, match="gated pods can't be watched"):
        await followed(Client([], end))
