"""The admission's HTTPS server: what it answers, and whom the API server stays connected to."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, cast

import httpx2
import pytest
from hauberk.crds import metrics
from hauberk.crds.exporter import Metrics
from hauberk.crds.models import SecurityProfile, decode
from hauberk.crds.names import APPARMOR, SECURITY_PROFILES
from hauberk.operator import certificates, probes
from hauberk.operator import webhook as webhooks
from hauberk.operator.admissions_cluster import AdmissionsCluster
from hauberk.operator.judging import Judging
from hauberk.operator.publisher import Publisher
from hauberk.operator.webhook import PODS_DENY_PATH, PODS_PATH, REVIEW_PATH, Webhook
from hauberk.profiles.check import Judge
from hauberk.profiles.parser import Parser
from hauberk.profiles.rendering import Renderer

from lab.controlplane import free_ports
from tests.unit.loops import Api, body


def contexts(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return what a server and its client need to trust each other as far as localhost."""
    now = datetime.now(UTC)
    authority, key = certificates.new_authority(now)
    served = folder / "served.pem"
    served.write_bytes(b"".join(certificates.serving(authority, key, ["localhost"], now)))
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(served)
    return server, ssl.create_default_context(cadata=authority.decode())


def question(profile: dict[str, Any]) -> dict[str, Any]:
    return {"request": {"uid": "u", "object": profile}}


@pytest.mark.parametrize(
    ("leads", "ending", "last"),
    [(True, False, False), (False, False, True), (True, True, True)],
    ids=["publishes", "waits", "ends"],
)
async def test_only_who_publishes_is_asked_again(
    parser: Parser, tmp_path: Path, leads: bool, ending: bool, last: bool
):
    served, trusting = contexts(tmp_path)
    judging = Judging(Judge(parser, Renderer()))
    publisher = Publisher(cast("AdmissionsCluster", Api()), judging=judging, leads=lambda: leads)
    webhook = Webhook(publisher, served, lambda: True, *free_ports(1), is_ending=ending)
    await webhook.start()
    try:
        async with httpx2.AsyncClient(
            verify=trusting, base_url=f"https://localhost:{webhook.port}"
        ) as client:
            said = await client.post(REVIEW_PATH, json=question(body("a")))
    finally:
        await webhook.stop()
        await judging.close()
    assert said.json()["response"]["allowed"]
    assert (said.headers.get("Connection") == "close") == last


# --- pods ---------------------------------------------------------------------------------------------------


def pod(apparmor: str = "", seccomp: str = "") -> dict[str, Any]:
    context: dict[str, Any] = {}
    if apparmor:
        context["appArmorProfile"] = {"type": "Localhost", "localhostProfile": apparmor}
    if seccomp:
        context["seccompProfile"] = {"type": "Localhost", "localhostProfile": seccomp}
    return {
        "metadata": {"generateName": "web-"},
        "spec": {"containers": [{"name": "c", "securityContext": context}]},
    }


async def answers(
    parser: Parser, folder: Path, path: str, *asked: dict[str, Any], publisher: Any = None
) -> list[Any]:
    """Return what is answered to requests about pods, where there is a SecurityProfile `a`."""
    served, trusting = contexts(folder)
    judging = Judging(Judge(parser, Renderer()))
    made = publisher or Publisher(cast("AdmissionsCluster", Api()), judging=judging)
    if publisher is None:
        made.seen(SECURITY_PROFILES, "a", body("a"), deleted=False)
    (port,) = free_ports(1)
    webhook = Webhook(made, served, lambda: True, port)
    await webhook.start()
    try:
        async with httpx2.AsyncClient(
            verify=trusting, base_url=f"https://localhost:{webhook.port}"
        ) as client:
            return [await client.post(path, json={"request": {"uid": "u", **one}}) for one in asked]
    finally:
        await webhook.stop()
        await judging.close()


async def test_a_pod_that_waits_is_changed_by_a_json_patch(parser: Parser, tmp_path: Path):
    (said,) = await answers(parser, tmp_path, PODS_PATH, {"object": pod("a"), "namespace": "shop"})
    response = said.json()["response"]
    patch = json.loads(base64.b64decode(response.pop("patch")))
    assert {one["path"] for one in patch} == {
        "/spec/schedulingGates",
        "/metadata/labels",
        "/metadata/annotations",
    }
    assert response == {
        "uid": "u",
        "allowed": True,
        "patchType": "JSONPatch",
        "warnings": ["the pod is not scheduled before a node holds SecurityProfile a"],
    }


@pytest.mark.parametrize("path", [PODS_PATH, PODS_DENY_PATH])
async def test_an_unknown_profile_is_refused_by_one_path_and_warned_of_by_the_other(
    parser: Parser, tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(webhooks, "EARLY_SECONDS", 0.1)
    ephemeral = pod()
    context = {"seccompProfile": {"type": "Localhost", "localhostProfile": "hauberk/x.json"}}
    ephemeral["spec"] |= {
        "nodeName": "n",
        "ephemeralContainers": [{"name": "e", "securityContext": context}],
    }
    asked = [
        {"object": pod(seccomp="hauberk/x.json")},
        {"object": ephemeral, "oldObject": pod(), "subResource": "ephemeralcontainers"},
        {"object": ephemeral, "oldObject": ephemeral, "subResource": "ephemeralcontainers"},
        {"object": pod("cri-containerd.apparmor.d")},
    ]
    *unknown, known, foreign = [
        one.json()["response"] for one in await answers(parser, tmp_path, path, *asked)
    ]
    for response in unknown:
        assert response["allowed"] is (path == PODS_PATH)
        told = response["warnings"][0] if response["allowed"] else response["status"]["message"]
        assert "no SecurityProfile defines the seccomp profile hauberk/x.json" in told
        assert "patch" not in response
    assert known == foreign == {"uid": "u", "allowed": True}


class Broken:
    """A publisher with a bug."""

    profiles: ClassVar[dict[str, Any]] = {}
    reports: ClassVar[dict[str, Any]] = {}

    def owners(self) -> dict[str, Any]:
        raise RuntimeError("planted")

    def leads(self) -> bool:
        return True


def of_seccomp(name: str) -> dict[str, Any]:
    spec = {"type": "Seccomp", "seccomp": {"policy": '{"defaultAction": "SCMP_ACT_ALLOW"}'}}
    return {**body(name), "spec": spec}


class Asked(Publisher):
    """A publisher that tells when it was first asked who owns what."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.asked_first = asyncio.Event()

    def owners(self) -> Mapping[tuple[str, str], str]:
        self.asked_first.set()
        return super().owners()


@pytest.mark.parametrize("path", [PODS_PATH, PODS_DENY_PATH])
@pytest.mark.parametrize("names", [{"apparmor": "a"}, {"seccomp": "hauberk/s.json"}], ids=str)
async def test_a_pod_that_comes_before_its_profile_waits_for_it_and_is_gated(
    parser: Parser, tmp_path: Path, path: str, names: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(webhooks, "EARLY_SECONDS", 60.0)  # the test's client gives up after five
    publisher = Asked(
        cast("AdmissionsCluster", Api()), judging=Judging(Judge(parser, Renderer())), leads=lambda: False
    )

    async def come() -> None:
        await publisher.asked_first.wait()
        publisher.seen(SECURITY_PROFILES, "other", body("other"), deleted=False)
        await asyncio.sleep(0)  # news that is of no use to it
        publisher.seen(SECURITY_PROFILES, "a", body("a"), deleted=False)
        publisher.seen(SECURITY_PROFILES, "s", of_seccomp("s"), deleted=False)

    coming = asyncio.create_task(come())
    (said,) = await answers(parser, tmp_path, path, {"object": pod(**names)}, publisher=publisher)
    await coming
    response = said.json()["response"]
    assert response["allowed"]
    assert "is not scheduled before a node holds SecurityProfile" in response["warnings"][0]
    assert "/spec/schedulingGates" in {one["path"] for one in json.loads(base64.b64decode(response["patch"]))}


async def test_pods_that_wait_for_nobody_are_answered_at_once(
    parser: Parser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(webhooks, "EARLY_SECONDS", 60.0)
    placed = pod("nobodys")
    placed["spec"]["nodeName"] = "n"
    for one in (pod("a"), pod("cri-containerd.apparmor.d"), pod(seccomp="mine.json"), pod(), placed):
        (said,) = await answers(parser, tmp_path, PODS_PATH, {"object": one})
        assert said.json()["response"]["allowed"]


async def test_a_name_that_nobody_ever_defines_is_the_nodes_own(
    parser: Parser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(webhooks, "EARLY_SECONDS", 0.1)
    (said,) = await answers(parser, tmp_path, PODS_DENY_PATH, {"object": pod("of-the-node")})
    assert said.json()["response"] == {"uid": "u", "allowed": True}


async def test_a_bug_holds_up_no_pod(parser: Parser, tmp_path: Path):
    (said,) = await answers(
        parser, tmp_path, PODS_DENY_PATH, {"object": pod("a")}, publisher=cast("Publisher", Broken())
    )
    response = said.json()["response"]
    assert response["allowed"]
    assert "met a bug" in response["warnings"][0]


async def test_a_question_that_is_none_is_refused(parser: Parser, tmp_path: Path):
    (said,) = await answers(parser, tmp_path, PODS_PATH, {"object": {"spec": {"containers": 1}}})
    assert said.status_code == 400  # and the API server, told to ignore failures, lets the pod through


async def test_who_owns_a_name_is_made_anew_when_something_changed(parser: Parser):
    judging = Judging(Judge(parser, Renderer()))
    publisher = Publisher(cast("AdmissionsCluster", Api()), judging=judging)
    assert publisher.owners() == {}
    assert publisher.owners() is publisher.owners()
    one = body("a", "profile other { }")
    await judging.judged(decode(SecurityProfile, one), {})
    publisher.seen(SECURITY_PROFILES, "a", one, deleted=False)
    assert publisher.owners() == {(APPARMOR, "other"): "a"}
    publisher.seen(SECURITY_PROFILES, "a", {}, deleted=True)
    assert publisher.owners() == {}
    await judging.close()


# --- what is counted --------------------------------------------------------------------------------------

BROKEN = "profile broken {\n  bogus\n}\n"
QUIET = (
    "profile a flags=(attach_disconnected) {\n  file,\n  signal (receive) peer=runc,\n"
    "  signal (receive) peer=crun,\n  signal (receive) peer=unconfined,\n}\n"
)


UNKNOWN = pod(seccomp="hauberk/x.json")


@pytest.mark.parametrize(
    ("path", "asked", "verdict"),
    [
        (REVIEW_PATH, question(body("a", QUIET)), "allowed"),
        (REVIEW_PATH, question(body("a")), "warned"),
        (REVIEW_PATH, question(body("broken", BROKEN)), "refused"),
        (REVIEW_PATH, question({"spec": 1}), "failed"),
        (REVIEW_PATH, {}, "failed"),
        (PODS_PATH, question(pod("cri-containerd.apparmor.d")), "allowed"),
        (PODS_PATH, question(pod("a")), "changed"),
        (PODS_PATH, question(UNKNOWN), "warned"),
        (PODS_DENY_PATH, question(UNKNOWN), "refused"),
        (PODS_DENY_PATH, question({"spec": {"containers": 1}}), "failed"),
    ],
)
async def test_each_answer_is_counted_by_its_verdict(
    parser: Parser, tmp_path: Path, path: str, asked: dict[str, Any], verdict: str
):
    counts = Metrics("admission")
    counts.keep(metrics.WEBHOOK_ANSWERS, metrics.ANSWERS)
    counts.keep(metrics.WEBHOOK_DURATION, [(kind,) for kind in metrics.REVIEWED])
    judging = Judging(Judge(parser, Renderer()))
    publisher = Publisher(cast("AdmissionsCluster", Api()), judging=judging)
    if path != REVIEW_PATH:
        publisher.seen(SECURITY_PROFILES, "a", body("a"), deleted=False)
    said = await counted(publisher, counts, tmp_path, path, asked)
    await judging.close()
    assert said.status_code == (400 if verdict == "failed" else 200)
    kind = "SecurityProfile" if path == REVIEW_PATH else "Pod"
    assert told(counts) == {each: float(each == (kind, verdict)) for each in metrics.ANSWERS}
    read = counts.registry.get_sample_value
    assert [read("hauberk_webhook_duration_seconds_count", {"kind": one}) for one in metrics.REVIEWED] == [
        float(one == kind) for one in metrics.REVIEWED
    ]


async def test_a_bug_that_lets_a_pod_through_is_counted_as_failed(tmp_path: Path):
    counts = Metrics("admission")
    counts.keep(metrics.WEBHOOK_ANSWERS, metrics.ANSWERS)
    counts.keep(metrics.WEBHOOK_DURATION, [(kind,) for kind in metrics.REVIEWED])
    said = await counted(cast("Publisher", Broken()), counts, tmp_path, PODS_PATH, question(pod("a")))
    assert said.json()["response"]["allowed"]
    assert told(counts)["Pod", "failed"] == 1


def told(counts: Metrics) -> dict[tuple[str, str], float | None]:
    """Return how many answers were counted by kind and verdict."""
    return {
        (kind, one): counts.registry.get_sample_value(
            "hauberk_webhook_answers_total", {"kind": kind, "verdict": one}
        )
        for kind, one in metrics.ANSWERS
    }


async def counted(
    publisher: Publisher, counts: Metrics, folder: Path, path: str, asked: dict[str, Any]
) -> httpx2.Response:
    """Return what is answered to one question by a server that counts."""
    served, trusting = contexts(folder)
    webhook = Webhook(publisher, served, lambda: True, free_ports(1)[0], counts=counts)
    await webhook.start()
    try:
        async with httpx2.AsyncClient(
            verify=trusting, base_url=f"https://localhost:{webhook.port}"
        ) as client:
            return await client.post(path, json=asked)
    finally:
        await webhook.stop()


async def test_probes_are_answered_by_what_is_so():
    counts, state = Metrics("admission"), {"alive": True, "ready": False}
    (port,) = free_ports(1)
    async with (
        probes.serve(
            port,
            is_alive=lambda: state["alive"],
            is_ready=lambda: state["ready"],
            metrics=counts.text,
        ),
        httpx2.AsyncClient(trust_env=False, base_url=f"http://127.0.0.1:{port}") as client,
    ):
        assert [(await client.get(path)).status_code for path in ("/livez", "/readyz")] == [200, 503]
        state |= {"alive": False, "ready": True}
        assert [(await client.get(path)).status_code for path in ("/livez", "/readyz")] == [503, 200]
        said = await client.get("/metrics")
        assert said.headers["Content-Type"].startswith("text/plain; version=")
        assert "process_resident_memory_bytes" in said.text
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"http://127.0.0.1:{port}/livez", trust_env=False)


async def test_without_a_port_nothing_listens():
    async with probes.serve(0, is_alive=bool, is_ready=bool, metrics=Metrics("operator").text):
        pass
