"""How an agent finds the API server: what Kubernetes gives its pod, and tokens that are replaced."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from pathlib import Path

import httpx2
import msgspec
import pytest
from hauberk.crds.models import Metadata, Model
from hauberk.daemonset.api import Api, ApiFault, Resource
from hauberk.daemonset.way import NoWayError, of_pod
from hauberk.operator import certificates

from tests.answering import Answering

ENVIRON = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}


class Thing(Model, frozen=True):
    metadata: Metadata


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    authority, _ = certificates.new_authority(datetime.now(UTC))
    (tmp_path / "ca.crt").write_bytes(authority)
    (tmp_path / "namespace").write_text("hauberk-system\n")
    (tmp_path / "token").write_text("first\n")
    return tmp_path


@pytest.mark.parametrize(
    ("host", "server"),
    [("10.96.0.1", "https://10.96.0.1:443"), ("fd00::1", "https://[fd00::1]:443")],
)
def test_a_pod_is_told_where_the_api_server_is_and_whom_to_trust(folder: Path, host: str, server: str):
    way = of_pod({**ENVIRON, "KUBERNETES_SERVICE_HOST": host}, folder)
    assert (way.server, way.namespace, way.token()) == (server, "hauberk-system", "first")
    assert len(way.tls.get_ca_certs()) == 1  # and nobody whom the image trusts


async def test_a_token_that_the_kubelet_replaced_is_shown_from_then_on(folder: Path):
    shown: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        shown.append(request.headers["Authorization"])
        assert request.headers["Host"] == "10.96.0.1:443"
        return httpx2.Response(200, content=msgspec.json.encode(Thing(Metadata(name="a"))))

    api = dataclasses.replace(Api.open(of_pod(ENVIRON, folder)), client=Answering(answer))
    things = Resource("/things", Thing)
    assert await api.get(things, "a")
    (folder / "token").write_text("second")
    assert await api.get(things, "a")
    assert shown == ["Bearer first", "Bearer second"]
    (folder / "token").write_bytes(b"\xc3\xa4")
    with pytest.raises(ApiFault, match="holds no token"):
        await api.get(things, "a")
    (folder / "token").unlink()
    with pytest.raises(ApiFault, match="FileNotFoundError"):
        await api.get(things, "a")


@pytest.mark.parametrize("missing", ["KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"])
def test_who_is_no_pod_is_told_what_is_missing(folder: Path, missing: str):
    environ = {name: value for name, value in ENVIRON.items() if name != missing}
    with pytest.raises(NoWayError, match=f"{missing} is not set"):
        of_pod(environ, folder)


def test_a_port_that_is_none_is_told(folder: Path):
    with pytest.raises(NoWayError, match="KUBERNETES_SERVICE_PORT is no number: tcp:"):
        of_pod({**ENVIRON, "KUBERNETES_SERVICE_PORT": "tcp://10.96.0.1:443"}, folder)


@pytest.mark.parametrize("missing", ["ca.crt", "namespace"])
def test_a_pod_without_a_service_account_is_told_so(folder: Path, missing: str):
    (folder / missing).unlink()
    with pytest.raises(NoWayError, match="No such file"):
        of_pod(ENVIRON, folder)
