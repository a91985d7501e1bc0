"""The operators' Lease on a real API server, with the rights that are shipped."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hauberk.crds.names import OPERATOR
from hauberk.operator.operators_cluster import OperatorsCluster
from kubernetes import client
from lightkube import AsyncClient

from tests.kube.accounts import SYSTEM, Accounts
from tests.kube.operating import Cluster, eventually


@pytest.fixture
async def rim(accounts: Accounts) -> AsyncIterator[OperatorsCluster]:
    connection = AsyncClient(config=accounts.config(accounts.token(OPERATOR, SYSTEM)))
    yield OperatorsCluster(connection, SYSTEM)
    await connection.close()


def lease(cluster: Cluster) -> Any:
    return client.CoordinationV1Api(cluster.core.api_client).read_namespaced_lease(OPERATOR, SYSTEM)


def hold(cluster: Cluster, holder: str, seconds: int) -> None:
    """Write the Lease as another operator would."""
    there = lease(cluster)
    there.spec.holder_identity, there.spec.lease_duration_seconds = holder, seconds
    client.CoordinationV1Api(cluster.core.api_client).replace_namespaced_lease(OPERATOR, SYSTEM, there)


async def test_of_two_who_write_at_once_one_is_taken(rim: OperatorsCluster, cluster: Cluster):
    eventually(lambda: lease(cluster).spec.holder_identity)
    cluster.stop()
    seen = await rim.lease()
    assert seen
    assert seen.holder == ""  # the operator released it
    assert await rim.take_lease(seen, "first", 60)
    assert not await rim.take_lease(seen, "second", 60)
    assert not await rim.take_lease(None, "second", 60)
    held = await rim.lease()
    assert held
    assert (held.holder, held.seconds, held.transitions) == ("first", 60, seen.transitions + 1)
    assert await rim.take_lease(held, "", 1)


def test_an_operator_that_waits_writes_nothing_and_knows_all_when_it_leads(cluster: Cluster):
    eventually(lambda: lease(cluster).spec.holder_identity == os.uname().nodename)
    cluster.stop()
    hold(cluster, "another", 60)
    cluster.log.write_text("")
    cluster.start()
    eventually(lambda: "waits" in cluster.log.read_text())
    cluster.apply("waiting")
    cluster.delete("profilenodes", "two")
    with pytest.raises(AssertionError, match="not within"):
        eventually(lambda: cluster.get("securityprofiles", "waiting")["metadata"]["finalizers"], within=5)
    assert not cluster.revisions("waiting")
    assert cluster.operator
    assert cluster.operator.poll() is None

    hold(cluster, "", 1)
    eventually(lambda: cluster.revisions("waiting"))
    assert lease(cluster).spec.holder_identity == os.uname().nodename

    # someone else took it: no word more
    hold(cluster, "another", 2)
    eventually(lambda: cluster.log.read_text().count("waits") == 2)
    # and stayed away: it goes on by itself
    eventually(lambda: lease(cluster).spec.holder_identity == os.uname().nodename)
    digest = cluster.revisions("waiting")[0]["spec"]["content"]["digest"]
    for node in ("one", "two"):
        cluster.report(node, waiting=digest)
    eventually(lambda: cluster.ready("waiting") == ("True", "Ready"))
