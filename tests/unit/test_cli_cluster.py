"""What the command line makes of an API server's answers, and of kubeconfigs that lead nowhere."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from hauberk.cli.cluster import Cluster, configuration
from hauberk.crds.errors import ClusterFault
from lightkube import AsyncClient, KubeConfig

Answer = Callable[[httpx2.Request], httpx2.Response]


@asynccontextmanager
async def server(answer: Answer) -> AsyncGenerator[Cluster]:
    transport: Any = httpx2.MockTransport(answer)
    config = KubeConfig.from_dict(kubeconfig())
    client = AsyncClient(config=config, transport=transport)
    yield Cluster(client)
    await client.close()


def kubeconfig(**more: Any) -> dict[str, Any]:
    return {
        "current-context": "it",
        "clusters": [{"name": "here", "cluster": {"server": "http://nowhere"}}],
        "contexts": [{"name": "it", "context": {"cluster": "here", "user": "who"}}],
        "users": [{"name": "who", "user": {}}],
        **more,
    }


def refused(code: int, message: str) -> Answer:
    body = {"kind": "Status", "apiVersion": "v1", "code": code, "message": message, "reason": "x"}
    return lambda _: httpx2.Response(code, json=body)


def listing(*items: dict[str, Any]) -> Answer:
    body = {"kind": "List", "metadata": {"resourceVersion": "1"}, "items": list(items)}
    return lambda _: httpx2.Response(200, json=body)


def nothing_there(_: httpx2.Request) -> httpx2.Response:
    return httpx2.Response(404, text="404 page not found")


def broken(_: httpx2.Request) -> httpx2.Response:
    raise httpx2.ConnectError("refused")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (refused(401, "Unauthorized"), "does not take your credentials"),
        (refused(403, "no\x1b[2J"), "bind the ClusterRole hauberk-viewer to you .the API server says: no[?]"),
        (nothing_there, "Hauberk is not installed there"),
        (refused(500, "etcd"), "the API server answers 500: etcd"),
        (broken, "the cluster can't be reached: ConnectError: refused"),
    ],
)
async def test_what_a_failed_list_means(answer: Answer, message: str):
    calls: list[Callable[[Cluster], Awaitable[Any]]] = [Cluster.profiles, lambda one: one.seen()]
    for call in calls:
        async with server(answer) as cluster:
            with pytest.raises(ClusterFault, match=message):
                await call(cluster)


async def test_an_object_of_an_unknown_shape_is_told_and_the_others_are_shown():
    good = {"metadata": {"name": "good"}, "spec": {"type": "AppArmor"}}
    later = {"metadata": {"name": "later"}, "spec": {"type": ["AppArmor"]}}
    async with server(listing(good, later)) as cluster:
        assert list(await cluster.profiles()) == ["good"]
        assert ["SecurityProfile later has a shape" in one for one in cluster.remarks] == [True]


async def test_the_wanted_revision_is_the_highest_of_the_objects_own():
    def revision(name: str, uid: str, sequence: int) -> dict[str, Any]:
        spec = {"profile": "web", "profileUID": uid, "type": "AppArmor", "contract": 1}
        content = {"digest": name, "mode": "Enforce", "texts": []}
        return {
            "metadata": {"name": f"web.{name}"},
            "spec": {**spec, "content": content, "placement": {"sequence": sequence}},
        }

    profile = {"metadata": {"name": "web", "uid": "u"}, "spec": {"type": "AppArmor"}}
    async with server(listing(profile)) as cluster:
        web = (await cluster.profiles(["web"]))["web"]
    several = listing(revision("old", "u", 2), revision("new", "u", 3), revision("foreign", "v", 9))
    async with server(several) as cluster:
        wanted = await cluster.wanted(web)
        assert wanted
        assert wanted.content.digest == "new"
    async with server(listing()) as cluster:
        assert await cluster.wanted(web) is None


async def test_what_a_watch_cuts_in_two_is_listed():
    """A line of a watch ends at U+0085 for httpx2, and a policy may have one."""

    def profile(version: str, policy: str) -> dict[str, Any]:
        metadata = {"name": "web", "resourceVersion": version}
        return {"metadata": metadata, "spec": {"type": "AppArmor", "appArmor": {"policy": policy}}}

    lists = iter([profile("1", "old"), profile("2", "cut \u0085 here")])

    def answer(request: httpx2.Request) -> httpx2.Response:
        if "watch" not in request.url.params:
            return listing(next(lists))(request)
        event = {"type": "MODIFIED", "object": profile("2", "cut \u0085 here")}
        return httpx2.Response(200, content=json.dumps(event, ensure_ascii=False).encode() + b"\n")

    async with server(answer) as cluster:
        seen = cluster.follow(["web"])
        policies = [(await anext(seen))["web"].spec.policy for _ in range(2)]
    assert policies == ["old", "cut \u0085 here"]


# --- pods -------------------------------------------------------------------------------------------------

POD = {
    "metadata": {"name": "web-0", "namespace": "shop", "uid": "u"},
    "spec": {"nodeName": "one", "containers": []},
}


def one(body: dict[str, Any]) -> Answer:
    return lambda _: httpx2.Response(200, json=body)


async def test_a_pod_that_is_there():
    async with server(one(POD)) as cluster:
        pod = await cluster.pod("web-0", "shop")
        assert pod
        assert (pod.metadata.name, pod.node) == ("web-0", "one")


@pytest.mark.parametrize(
    ("namespaces", "remark"),
    [
        (one({"metadata": {"name": "shop"}}), "error: there is no pod web-0 in namespace shop"),
        (refused(403, "no"), "error: there is no pod web-0 in namespace shop"),
        (
            refused(404, "x"),
            "error: there is no pod web-0 in namespace shop: there is no namespace shop",
        ),
    ],
)
async def test_a_pod_that_is_not_there(namespaces: Answer, remark: str):
    def answer(request: httpx2.Request) -> httpx2.Response:
        return (refused(404, "x") if "/pods/" in request.url.path else namespaces)(request)

    async with server(answer) as cluster:
        assert await cluster.pod("web-0", "shop") is None
        assert cluster.remarks == [remark]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (refused(403, "no"), "you may not read pods in namespace shop: .* the ClusterRole view has it"),
        (refused(401, "no"), "does not take your credentials"),
        (broken, "the cluster can't be reached"),
        (refused(500, "etcd"), "pods can't be read: the API server answers 500"),
        (one({"metadata": {"name": "web-0"}, "spec": {"containers": "none"}}), "shape"),
    ],
)
async def test_a_pod_that_can_not_be_read(answer: Answer, message: str):
    async with server(answer) as cluster:
        with pytest.raises(ClusterFault, match=message):
            await cluster.pod("web-0", "shop")


async def test_events_are_of_the_pod_alone_and_need_not_be_readable():
    asked: list[httpx2.URL] = []
    event = {
        "metadata": {"name": "e"},
        "involvedObject": {"kind": "Pod"},
        "type": "Warning",
        "reason": "Failed",
        "message": "no",
        "lastTimestamp": "2026-01-01T00:00:00Z",
        "eventTime": None,
    }

    def answer(request: httpx2.Request) -> httpx2.Response:
        if "/events" not in request.url.path:
            return one(POD)(request)
        asked.append(request.url)
        return listing(event)(request)

    async with server(answer) as cluster:
        pod = await cluster.pod("web-0", "shop")
        assert pod
        (found,) = await cluster.events(pod)
        assert (found.reason, found.message, found.when[:4]) == ("Failed", "no", "2026")
    (url,) = asked
    assert (url.path, url.params["fieldSelector"]) == (
        "/api/v1/namespaces/shop/events",
        "involvedObject.uid=u",
    )
    async with server(refused(403, "no")) as cluster:
        assert await cluster.events(pod) == []
        assert cluster.remarks == ["you may not list events in namespace shop: none are shown"]
    async with server(refused(500, "etcd")) as cluster:
        with pytest.raises(ClusterFault, match="events can't be read"):
            await cluster.events(pod)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"current-context": ""}, "no current context"),
        ({"current-context": "other"}, "no context other; it has it"),
        ({"clusters": []}, "leads nowhere"),
        ({"contexts": "x"}, "has not the shape"),
    ],
)
def test_a_kubeconfig_that_leads_nowhere(tmp_path: Path, changed: dict[str, Any], message: str):
    file = tmp_path / "config"
    file.write_text(yaml.safe_dump(kubeconfig(**changed)))
    with pytest.raises(ClusterFault, match=message):
        configuration(file, None)


def test_a_context_without_a_user_and_a_context_by_its_name(tmp_path: Path):
    file = tmp_path / "config"
    contexts = [{"name": one, "context": {"cluster": "here"}} for one in ("it", "other")]
    file.write_text(json.dumps(kubeconfig(contexts=contexts, users=[])))
    single = configuration(file, "other")
    assert (single.context_name, single.cluster.server) == ("other", "http://nowhere")
    assert single.user is not None


def test_no_kubeconfig_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(ClusterFault, match="there is no kubeconfig: name one with --kubeconfig"):
        configuration(None, None)
