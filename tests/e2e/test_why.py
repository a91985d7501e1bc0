"""`hauberk why` of pods that real kubelets and runtimes turn down, or that run otherwise than one thinks."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.cluster import (
    SELINUX_NODE,
    apply,
    command,
    confined,
    deny_write,
    eventually,
    get,
    namespace,
    pod,
    profile,
    ready,
    remove,
    wait_ready,
)

HERE, ELSEWHERE = "debian13", "debian12"
SPACE = "why"
LABEL = {"why": "here"}
PROFILES = [
    profile("why-fine", deny_write("why-fine")),
    profile("why-lax", deny_write("why-lax"), mode="Complain"),
    profile("why-object", deny_write("why-inner")),
    profile(
        "why-elsewhere",
        deny_write("why-elsewhere"),
        nodeSelector={"matchLabels": {"kubernetes.io/hostname": ELSEWHERE}},
    ),
    profile("why-held-back", deny_write("why-held-back"), suspend=True),
]
NOT_FOUND = "apparmor profile not found"


def apparmor(name: str, on: str = HERE) -> dict[str, Any]:
    return pod("", on, name)


def context(**said: Any) -> dict[str, Any]:
    return confined("", HERE, said)


def localhost(file: str) -> dict[str, str]:
    return {"type": "Localhost", "localhostProfile": file}


def waits_at_the_gate() -> dict[str, Any]:
    made = pod("", "", "why-held-back")
    del made["spec"]["nodeName"]
    return made


# Each pod with the causes that are true, and a word of what Kubernetes itself says of it.
PODS: dict[str, tuple[dict[str, Any], str, str]] = {
    "fine": (apparmor("why-fine"), "", ""),
    "unknown": (apparmor("why-fnie"), "UnknownProfile", f"{NOT_FOUND} why-fnie"),
    "object": (apparmor("why-object"), "WrongForm", f"{NOT_FOUND} why-object"),
    "not-selected": (apparmor("why-elsewhere"), "NotSelected", f"{NOT_FOUND} why-elsewhere"),
    "held-back": (apparmor("why-held-back"), "Suspended", f"{NOT_FOUND} why-held-back"),
    "no-module": (apparmor("why-fine", SELINUX_NODE), "Unsupported", "AppArmor"),
    "no-file": (
        context(seccompProfile=localhost("hauberk/why-nobodys.json")),
        "UnknownProfile",
        "why-nobodys.json",
    ),
    "lax": (apparmor("why-lax"), "NotEnforced", ""),
    "unconfined": (context(appArmorProfile={"type": "Unconfined"}), "Unconfined", ""),
    "gated": (waits_at_the_gate(), "Gated Suspended", "SchedulingGated"),
}


@pytest.fixture(scope="module")
def pods() -> Iterator[None]:
    """Every pod, in a namespace with the gate: those that name their node themselves pass it."""
    names = [one["metadata"]["name"] for one in PROFILES]
    for one in PROFILES:
        one["metadata"]["labels"] = {"kept": "by-file"}
        apply(one)
    try:
        for name in names[:-1]:
            wait_ready(name)
        eventually(lambda: ready("why-held-back")[1] == "Suspended")
        with namespace(SPACE, **{"hauberk.dev/pod-gate": "enabled"}):
            for name, (made, _, _) in PODS.items():
                made["metadata"] |= {"name": name, "namespace": SPACE, "labels": LABEL}
                apply(made)
            yield
    finally:
        remove(*(f"secprof/{one}" for one in names))


def why(name: str) -> dict[str, Any]:
    said = command(sys.executable, "-m", "hauberk.cli", "why", name, f"--namespace={SPACE}", "-o", "json")
    assert said.stdout, said.stderr
    return json.loads(said.stdout)


@pytest.mark.parametrize("name", PODS)
@pytest.mark.usefixtures("pods")
@pytest.mark.long
def test_the_true_cause_is_told(name: str):
    _, causes, word = PODS[name]

    def told() -> dict[str, Any]:
        """The kubelet has come to it, and says what it has to say."""
        found = why(name)
        assert [one["reason"] for one in found["causes"]] == causes.split(), found
        assert any(word in one for one in found["observed"]) or not word, found
        return found

    found = eventually(told)
    assert found["fine"] == (causes == "")
    runs = name in {"fine", "lax", "unconfined"}
    if runs:
        eventually(lambda: get("pod", name, f"--namespace={SPACE}")["status"]["phase"] == "Running")
    else:
        assert found["causes"][0]["fix"]
