"""The startup taint: no pod lands on a new node before its profiles are verified, nor fails after a reboot.

What came first is told by the numbers that the API server's store gave the writes: nodes, reports and pods
are counted together there, so no clock and no delay of a watch is in it.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from tests.e2e.cluster import (
    apply,
    assert_confined,
    condition,
    deny_write,
    deployment,
    eventually,
    failures,
    get,
    kernel,
    lab,
    namespace,
    ok,
    pods_of,
    profile,
    remove,
    version,
    wait_ready,
    wait_rolled_out,
    watched,
)

TAINT = "hauberk.dev/profiles-pending"
POOL = "late"
SPACE = "startup"
REPLICAS = 4
# Those that no pod names keep the node closed as well.
PROFILES = ("landing", *(f"landing-{number}" for number in range(9)))


NODES, REPORTS = "/api/v1/nodes", "/apis/hauberk.dev/v1alpha1/profilenodes"


def of(path: str, node: str) -> str:
    """Return the path of the one object that is named after a node, whether or not it is there yet."""
    return f"{path}?fieldSelector=metadata.name%3D{node}"


def new_name(kind: str) -> str:
    """Return the name that the next node of a kind gets."""
    taken = {one["metadata"]["name"] for one in get("nodes")["items"]}
    return next(name for number in range(2, 99) if (name := f"{kind}-{number}") not in taken)


def taints(node: dict[str, Any]) -> set[str]:
    return {one["key"] for one in node["spec"].get("taints", [])}


def is_verified(report: dict[str, Any], boot: str) -> bool:
    """Return whether a node's report is of a boot and has every profile as read from the kernel."""
    status = report.get("status", {})
    return (
        status.get("bootID") == boot
        and set(PROFILES) <= status.get("appArmor", {}).get("profiles", {}).keys()
    )


@pytest.fixture
def closed() -> Generator[str]:
    """A Deployment that waits for a node of a group, in a namespace without the gate: the node's name."""
    apply({"apiVersion": "v1", "kind": "List", "items": [profile(one, deny_write(one)) for one in PROFILES]})
    for one in PROFILES:
        wait_ready(one)
    with namespace(SPACE):
        apply(deployment(SPACE, "landing", "landing", REPLICAS, nodeSelector={"pool": POOL}))
        name = new_name("debian13")
        try:
            yield name
        finally:
            # by itself it would count as lost for a while, and hold up the profiles' end
            if name in {one["metadata"]["name"] for one in get("nodes")["items"]}:
                ok(lab("remove", name))
                remove(f"profilenode/{name}")


@pytest.mark.long
def test_no_pod_lands_on_a_node_before_it_has_its_profiles_also_after_a_reboot(closed: str):
    with (
        watched(pods_of(SPACE)) as pods,
        watched(of(REPORTS, closed)) as told,
        watched(of(NODES, closed)) as nodes,
    ):
        joined = lab("add", "debian13", "--label", f"pool={POOL}", "--taint", f"{TAINT}:NoSchedule")
        assert ok(joined).strip().splitlines()[-1] == closed
        # Ready, and closed for as long as it lacks the image of its agent.
        assert TAINT in taints(get("node", closed))
        assert not [one for one in pods if one["spec"].get("nodeName")]
        ok(lab("load", "build/image.tar"))
        running = wait_rolled_out(SPACE, "landing", timeout=180)

    assert len(running) == REPLICAS
    assert {one["spec"]["nodeName"] for one in running} == {closed}
    boot = get("node", closed)["status"]["nodeInfo"]["bootID"]
    assert TAINT in taints(nodes[0])
    verified = version(next(one for one in told if is_verified(one, boot)))
    opened = version(next(one for one in nodes if TAINT not in taints(one)))
    bound = min(version(one) for one in pods if one["spec"].get("nodeName"))
    assert verified < opened < bound
    assert not [one for one in nodes if version(one) > opened and TAINT in taints(one)]
    for one in running:
        assert_confined(one, "landing")
    assert failures(SPACE, pods) == []

    assert_comes_back(closed, boot, {started(one) for one in running})


def started(body: dict[str, Any]) -> tuple[str, str]:
    """Return what tells one start of a pod's container from another."""
    (container,) = body["status"]["containerStatuses"]
    return body["metadata"]["name"], container.get("containerID", "")


def assert_comes_back(node: str, boot: str, before: set[tuple[str, str]]) -> None:
    """Restart a node and assert that its pods come back to loaded profiles, and that it stays open."""
    with (
        watched(pods_of(SPACE)) as pods,
        watched(of(NODES, node)) as nodes,
        watched(of(REPORTS, node)) as told,
    ):
        ok(lab("reboot", node))
        now = get("node", node)["status"]["nodeInfo"]["bootID"]
        assert now != boot

        def all_back() -> list[dict[str, Any]]:
            """Every pod runs in a container of the new boot."""
            found = get("pods", f"--namespace={SPACE}")["items"]
            assert all(condition(one, "Ready").get("status") == "True" for one in found)
            assert not before & {started(one) for one in found}
            return found

        back = eventually(all_back, within=120)
        eventually(lambda: any(is_verified(one, now) for one in told), within=60)

    assert {one["metadata"]["name"] for one in back} == {name for name, _ in before}
    for one in back:
        assert_confined(one, "landing")
    assert set(PROFILES) <= kernel(node).keys()
    assert failures(SPACE, pods) == []
    assert not [one for one in nodes if TAINT in taints(one)]
