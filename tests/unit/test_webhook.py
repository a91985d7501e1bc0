"""The admission's HTTPS server: whom the API server stays connected to."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import httpx2
import pytest
from hauberk.crds import metrics
from hauberk.operator import certificates, probes
from hauberk.operator.admissions_cluster import AdmissionsCluster
from hauberk.operator.judging import Judging
from hauberk.operator.metrics import Metrics
from hauberk.operator.publisher import Publisher
from hauberk.operator.webhook import REVIEW_PATH, Webhook
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


BROKEN = "profile broken {\n  bogus\n}\n"
QUIET = (
    "profile a flags=(attach_disconnected) {\n  file,\n  signal (receive) peer=runc,\n"
    "  signal (receive) peer=crun,\n  signal (receive) peer=unconfined,\n}\n"
)


@pytest.mark.parametrize(
    ("asked", "status", "verdict"),
    [
        (question(body("a", QUIET)), 200, "allowed"),
        (question(body("a")), 200, "warned"),
        (question(body("broken", BROKEN)), 200, "refused"),
        ({"request": {"uid": "u", "object": {"spec": 1}}}, 400, "failed"),
        ({}, 400, "failed"),
    ],
    ids=["allowed", "warned", "refused", "of-no-shape", "nothing"],
)
async def test_each_answer_is_counted_by_its_verdict(
    parser: Parser, tmp_path: Path, asked: dict[str, Any], status: int, verdict: str
):
    served, trusting = contexts(tmp_path)
    counts = Metrics("admission")
    counts.keep(metrics.WEBHOOK_ANSWERS, [(one,) for one in metrics.VERDICTS])
    counts.keep(metrics.WEBHOOK_DURATION)
    judging = Judging(Judge(parser, Renderer()))
    publisher = Publisher(cast("AdmissionsCluster", Api()), judging=judging)
    webhook = Webhook(publisher, served, lambda: True, free_ports(1)[0], counts=counts)
    await webhook.start()
    try:
        async with httpx2.AsyncClient(
            verify=trusting, base_url=f"https://localhost:{webhook.port}"
        ) as client:
            said = await client.post(REVIEW_PATH, json=asked)
    finally:
        await webhook.stop()
        await judging.close()
    assert said.status_code == status
    read = counts.registry.get_sample_value
    told = {one: read("hauberk_webhook_answers_total", {"verdict": one}) for one in metrics.VERDICTS}
    assert told == {one: float(one == verdict) for one in metrics.VERDICTS}
    assert read("hauberk_webhook_duration_seconds_count") == 1


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
