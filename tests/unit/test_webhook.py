"""The admission's HTTPS server: whom the API server stays connected to."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import httpx2
import pytest
from hauberk.operator import certificates
from hauberk.operator.admissions_cluster import AdmissionsCluster
from hauberk.operator.judging import Judging
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
