"""From the previous commit's Hauberk to this one's and back, with a hundred profiles that nobody may notice.

No kernel loads or loses anything, no profile is called anything but Ready, and while agents of both versions
run, each does what either version publishes. UPGRADE_FROM names another commit to come from.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.e2e.cluster import (
    APPARMOR_NODES,
    NODES,
    SYSTEM,
    Kernel,
    apply,
    condition,
    deny_write,
    eventually,
    expected_hash,
    get,
    kernel,
    kubectl,
    lab,
    ok,
    policy_revision,
    profile,
    wait_ready,
    watched,
    webhook_answers,
)
from tests.e2e.prepared import IMAGE, PREVIOUS, PREVIOUS_ARCHIVE, PREVIOUS_IMAGE, install, with_helm

NAMES = tuple(f"upgraded-{number:02}" for number in range(100))
LABEL, VALUE = "upgrade", "still"
PROFILES = f"/apis/hauberk.dev/v1alpha1/securityprofiles?labelSelector={LABEL}%3D{VALUE}"
AGENTS = f"/apis/apps/v1/namespaces/{SYSTEM}/daemonsets?fieldSelector=metadata.name%3Dhauberk-agent"
DEPLOYMENTS = ("deployment/hauberk-operator", "deployment/hauberk-admission")


def apply_previous() -> None:
    """Apply the previous commit's manifests, as its users do, with its image."""
    manifests = ok(kubectl("kustomize", str(PREVIOUS / "deploy")))
    with_image, count = re.subn(r"image: hauberk\.dev/hauberk:\S+", f"image: {PREVIOUS_IMAGE}", manifests)
    assert count == len(DEPLOYMENTS)
    ok(kubectl("apply", "--filename=-", given=with_image))


def apply_this() -> None:
    ok(kubectl("apply", "--kustomize", "deploy"))


def agents() -> dict[str, tuple[str, bool]]:
    """Return the image of each node's agent, and whether that is Ready."""
    found = get("pods", f"--namespace={SYSTEM}", "--selector=app.kubernetes.io/component=agent")["items"]
    return {
        one["spec"]["nodeName"]: (
            one["spec"]["containers"][0]["image"],
            condition(one, "Ready").get("status") == "True",
        )
        for one in found
        if one["spec"].get("nodeName") and not one["metadata"].get("deletionTimestamp")
    }


def all_are(image: str) -> bool:
    """Operator, admission and all agents are of an image."""
    for one in DEPLOYMENTS:
        ok(kubectl("rollout", "status", one, f"--namespace={SYSTEM}", "--timeout=120s", timeout=150))
    return agents() == dict.fromkeys(NODES, (image, True))


@pytest.fixture
def previous() -> Iterator[None]:
    """The previous commit's Hauberk, installed; afterwards this one's is again."""
    if with_helm():
        pytest.skip("both versions are applied by kustomize here")
    assert PREVIOUS_ARCHIVE.exists(), "`make e2e-all` and `python -m tests.e2e -k upgrade` build it"
    ok(lab("load", str(PREVIOUS_ARCHIVE)))
    apply_previous()
    try:
        eventually(lambda: all_are(PREVIOUS_IMAGE), within=180)
        eventually(webhook_answers)
        yield
    finally:
        install(restart=False)
        eventually(lambda: all_are(IMAGE), within=180)


@contextmanager
def kernels_looked_at() -> Generator[list[tuple[str, Kernel]]]:
    """Look at what both kernels hold, again and again while the context lasts."""
    looks: list[tuple[str, Kernel]] = []
    ended = threading.Event()

    def look() -> None:
        while not ended.is_set():
            looks.extend((node, kernel(node)) for node in APPARMOR_NODES)

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    try:
        yield looks
    finally:
        ended.set()
        looking.join(timeout=60)


def held(node: str) -> Kernel:
    return {name: one for name, one in kernel(node).items() if name in NAMES}


def mixed(image: str) -> bool:
    """One of the nodes with AppArmor has an agent of this image, the other one still its old one."""
    now = agents()
    return [now.get(node, ("", False))[0] == image for node in APPARMOR_NODES].count(True) == 1


@contextmanager
def roll_held(image: str) -> Generator[None]:
    """Hold the roll of the agents where the two versions are side by side: who rolls them is stopped."""
    eventually(lambda: mixed(image), within=180)
    ok(lab("control-plane", "stop", "controller-manager"))
    try:
        now = eventually(lambda: all(agents()[node][1] for node in APPARMOR_NODES) and agents())
        assert {now[node][0] for node in APPARMOR_NODES} == {IMAGE, PREVIOUS_IMAGE}
        yield
        assert {agents()[node] for node in APPARMOR_NODES} == {now[node] for node in APPARMOR_NODES}
    finally:
        ok(lab("control-plane", "start", "controller-manager"))


def roll(apply_it: Callable[[], None], image: str, policy: str) -> None:
    """Go to a version, and have one profile changed half way; assert that no other one takes notice."""
    before = {node: held(node) for node in APPARMOR_NODES}
    counts = {node: policy_revision(node) for node in APPARMOR_NODES}
    assert all(set(one) == set(NAMES) for one in before.values())
    with (
        watched(PROFILES) as states,
        watched(AGENTS) as rolls,
        kernels_looked_at() as looks,
    ):
        apply_it()
        with roll_held(image):

            def change() -> bool:
                """The admission, old or new, takes the change."""
                apply(profile("moving", policy))
                return True

            eventually(change)
            wait_ready("moving", timeout=90)
            for node in APPARMOR_NODES:
                assert kernel(node)["moving"] == ("enforce", expected_hash(node, policy))
        eventually(lambda: all_are(image), within=180)
        eventually(webhook_answers)

    assert {one["metadata"]["name"] for one in states} == set(NAMES)
    flaps = [
        (one["metadata"]["name"], condition(one, "Ready"))
        for one in states
        if condition(one, "Ready").get("status") != "True"
    ]
    assert flaps == []
    for node in APPARMOR_NODES:
        mine = [{name: look.get(name) for name in NAMES} for where, look in looks if where == node]
        assert len(mine) > 1
        assert all(look == before[node] for look in mine)
        assert held(node) == before[node]
        # one load, that of the change: none was loaded anew, and none removed in between
        assert policy_revision(node) == counts[node] + 1
    for one in rolls:
        assert one["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"] == "10%"
        assert one["status"].get("numberUnavailable", 0) <= 1, "a tenth of three, rounded up"


@pytest.mark.long
@pytest.mark.usefixtures("previous")
def test_an_upgrade_and_the_way_back_unload_nothing_and_no_profile_is_called_unready():
    still: list[dict[str, Any]] = [profile(name, f"profile {name} {{ file, }}") for name in NAMES]
    for one in still:
        one["metadata"]["labels"] = {LABEL: VALUE}
    apply({"apiVersion": "v1", "kind": "List", "items": [*still, profile("moving", deny_write("moving"))]})
    words = (f"--selector={LABEL}={VALUE}", "--for=condition=Ready", "--timeout=300s")
    ok(kubectl("wait", "secprof", *words, timeout=330))
    wait_ready("moving")

    roll(apply_this, IMAGE, deny_write("moving", "/var"))
    roll(apply_previous, PREVIOUS_IMAGE, deny_write("moving", "/srv"))
