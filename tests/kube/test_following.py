"""Following ProfileRevisions as agents do, on a real API server: what it costs, and what ends a watch."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing
from pathlib import Path

import httpcore2
import pytest
from hauberk.crds.models import ProfileRevision
from hauberk.crds.names import API_VERSION, CONTRACT, GROUP, PROFILE_REVISIONS, VERSION
from hauberk.daemonset import following
from hauberk.daemonset.api import Api, ApiFault, Change, ExpiredFault, Listed, Resource, T
from hauberk.daemonset.cluster import Cluster
from hauberk.daemonset.way import Way
from kubernetes import config
from kubernetes.client import CustomObjectsApi

from lab.controlplane import APISERVER, ETCD, ControlPlane
from tests.kube.conftest import CRDS, Kubectl, wait_served

Send = Callable[[httpcore2.Request], Awaitable[httpcore2.Response]]

REVISIONS = Resource(f"/apis/{API_VERSION}/{PROFILE_REVISIONS}", ProfileRevision)
numbers = itertools.count(1)


def connect(control_plane: ControlPlane) -> Api:
    """Return the API server as an agent asks it, but by a certificate: without its roles."""
    keys = control_plane.credentials.folder
    tls = ssl.create_default_context(cafile=str(keys / "ca.crt"))
    tls.load_cert_chain(keys / "admin.crt", keys / "admin.key")
    return Api.open(Way(control_plane.at.server, tls, lambda: "none", "ns"))


@dataclasses.dataclass(frozen=True)
class Aged(Api):
    """An API server whose first list is so old that nobody remembers what came after it."""

    lists: list[str] = dataclasses.field(default_factory=list[str])

    async def list(self, what: Resource[T], at: str = "") -> Listed[T]:
        found = await super().list(what, at)
        self.lists.append(at)
        return dataclasses.replace(found, version="1") if len(self.lists) == 1 else found


class Follower:
    """An agent's client that follows revisions, and what it knows.

    Requests are counted as they are sent; `told` is how often a list was handed on.
    """

    def __init__(self, api: Api) -> None:
        self.api = api
        self.known: dict[str, ProfileRevision] = {}
        self.news = asyncio.Event()
        self.lists, self.watches, self.told = 0, 0, 0
        for pool in (api.client, api.watcher):
            # what `request` and `stream` go through, of either
            vars(pool)["handle_async_request"] = self.counting(pool.handle_async_request)

    def counting(self, send: Send) -> Send:
        async def sent(request: httpcore2.Request) -> httpcore2.Response:
            if b"watch=true" in request.url.target:
                self.watches += 1
            else:
                self.lists += 1
            self.news.set()
            return await send(request)

        return sent

    def listed(self, revisions: Mapping[str, ProfileRevision]) -> None:
        self.told += 1
        self.known = dict(revisions)
        self.news.set()

    def changed(self, name: str, revision: ProfileRevision | None) -> None:
        if revision is None:
            self.known.pop(name, None)
        else:
            self.known[name] = revision
        self.news.set()

    async def until(self, what: Callable[[], bool]) -> None:
        """Return once that is true."""
        async with asyncio.timeout(30):
            while not what():
                self.news.clear()
                await self.news.wait()

    @contextlib.asynccontextmanager
    async def follows(self) -> AsyncGenerator[None]:
        task = asyncio.create_task(Cluster(self.api, "n1", "ns").follow_revisions(self.listed, self.changed))
        try:
            yield
            assert not task.done()
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await self.api.close()


class Store:
    """ProfileRevisions as the admission writes them."""

    def __init__(self, api: CustomObjectsApi) -> None:
        self.api = api

    def create(self) -> str:
        """Create a revision; return its name."""
        name = f"following-{next(numbers)}"
        text = {"id": "0123456789", "facts": ["any"], "text": f"profile {name} {{}}", "names": [name]}
        body = {
            "apiVersion": API_VERSION,
            "kind": "ProfileRevision",
            "metadata": {"name": f"{name}.0123456789", "annotations": {"long": "x" * 1000}},
            "spec": {
                "profile": name,
                "profileUID": name,
                "type": "AppArmor",
                "contract": CONTRACT,
                "content": {"digest": "0123456789", "mode": "Enforce", "texts": [text]},
                "placement": {"sequence": 1},
            },
        }
        self.api.create_cluster_custom_object(GROUP, VERSION, PROFILE_REVISIONS, body)
        return f"{name}.0123456789"

    def withdraw(self, name: str) -> None:
        change = {"spec": {"placement": {"sequence": 2, "withdrawn": True}}}
        self.api.patch_cluster_custom_object(GROUP, VERSION, PROFILE_REVISIONS, name, change)

    def delete(self, name: str) -> None:
        self.api.delete_cluster_custom_object(GROUP, VERSION, PROFILE_REVISIONS, name)


@pytest.fixture
def store(api: CustomObjectsApi) -> Iterator[Store]:
    yield Store(api)
    api.delete_collection_cluster_custom_object(GROUP, VERSION, PROFILE_REVISIONS)


@pytest.fixture
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the server end watches after a second or two."""
    monkeypatch.setattr(following, "WATCH_SECONDS", 1.0)
    monkeypatch.setattr(following, "RETRY_SECONDS", (0.05, 0.2))


@pytest.mark.usefixtures("_short")
async def test_watches_that_end_are_gone_on_with_and_nothing_is_listed_again(
    store: Store, control_plane: ControlPlane
):
    old = store.create()
    follower = Follower(connect(control_plane))
    async with follower.follows():
        await follower.until(lambda: follower.known.keys() == {old})
        for count in range(1, 4):  # between one watch and the next, in the middle of one: wherever it falls
            new = store.create()
            await follower.until(lambda new=new: new in follower.known)
            await follower.until(lambda count=count: follower.watches > count)
        store.withdraw(old)
        await follower.until(lambda: follower.known[old].spec.placement.withdrawn)
        store.delete(old)
        await follower.until(lambda: old not in follower.known)
    assert len(follower.known) == 3
    assert follower.watches > 3
    assert follower.lists == 1
    assert {len(one.metadata.annotations) for one in follower.known.values()} == {0}


async def test_the_server_sends_bookmarks(store: Store, control_plane: ControlPlane):
    """Two seconds before a watch ends at the latest, of whatever came since it began."""
    connection = connect(control_plane)
    try:
        listed = await connection.list(REVISIONS)
        async with aclosing(connection.watch(REVISIONS, listed.version, 5)) as changes:
            assert (await anext(changes)).version == listed.version
            for _ in range(2):
                assert store.create() == (await anext(changes)).name
            bookmark = await anext(changes)
    finally:
        await connection.close()
    assert (bookmark.name, bookmark.object) == ("", None)
    assert int(bookmark.version) > int(listed.version) + 1


async def test_a_version_that_nobody_remembers_costs_one_list(store: Store, control_plane: ControlPlane):
    old = store.create()
    aged = Aged(**vars(connect(control_plane)))
    with pytest.raises(ExpiredFault, match="410 Expired"):
        assert not [change async for change in aged.watch(REVISIONS, "1", 5) if change.name]
    follower = Follower(aged)
    async with follower.follows():
        await follower.until(lambda: follower.watches == 2)
        new = store.create()
        await follower.until(lambda: follower.known.keys() == {old, new})
    assert aged.lists == ["0", ""]
    assert follower.lists == 2


@dataclasses.dataclass(frozen=True)
class Ahead(Api):
    """An API server whose store was put back after the first list, with a connection that broke by that."""

    asked: list[str] = dataclasses.field(default_factory=list[str])

    async def list(self, what: Resource[T], at: str = "") -> Listed[T]:
        self.asked.append(f"list {at}")
        found = await super().list(what, at)
        return dataclasses.replace(found, version="999999999") if len(self.asked) == 1 else found

    async def watch(self, what: Resource[T], version: str, seconds: float) -> AsyncGenerator[Change[T]]:
        self.asked.append(f"watch {version}")
        if len(self.asked) == 2:
            raise ApiFault("connection reset")
        async with aclosing(super().watch(what, version, seconds)) as changes:
            async for change in changes:
                yield change


async def test_a_store_that_was_put_back_is_listed_as_it_is(
    store: Store, control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
):
    """A watch from a version that it has not reached hears nothing, and nobody says so."""
    monkeypatch.setattr(following, "RELIST_AFTER_BREAK_SECONDS", (1.0, 1.0))
    old = store.create()
    ahead = Ahead(**vars(connect(control_plane)))
    follower = Follower(ahead)
    async with follower.follows():
        await follower.until(lambda: follower.watches == 1)
        new = store.create()
        await follower.until(lambda: follower.known.keys() == {old, new})
    expected = ["list 0", "watch 999999999", "watch 999999999", "list 999999999", "list "]
    assert ahead.asked[:5] == expected


# --- an API server that goes away --------------------------------------------------------------------------


@pytest.fixture
def alone(control_plane: ControlPlane, tmp_path: Path) -> Iterator[ControlPlane]:
    """Another API server, which nobody else needs."""
    with ControlPlane.local(tmp_path, control_plane.binaries) as running:
        yield running


async def test_what_happened_while_the_server_was_away_is_known_when_it_is_back(
    alone: ControlPlane, kubectl: Kubectl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(following, "RETRY_SECONDS", (0.05, 0.2))
    own = dataclasses.replace(kubectl, kubeconfig=alone.kubeconfig, cache=tmp_path / "cache")
    own.ok("apply", "-k", str(CRDS))
    wait_served(own)
    with config.new_client_from_config(str(alone.kubeconfig)) as connection:
        store = Store(CustomObjectsApi(connection))
        old = store.create()
        follower = Follower(connect(alone))
        async with follower.follows():
            await follower.until(lambda: follower.known.keys() == {old})
            watches = follower.watches
            alone.stop([APISERVER], grace=1)
            await follower.until(lambda: follower.watches > watches + 2)  # in vain
            alone.start([ETCD, APISERVER])
            new = store.create()
            await follower.until(lambda: new in follower.known)
            store.delete(old)
            await follower.until(lambda: old not in follower.known)
    assert follower.known.keys() == {new}
    assert follower.told <= 2  # an API server that just started remembers nothing of the time before
