"""Seccomp profiles on all nodes, whatever their security module: written, read back, kept, and taken away."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest

from tests.e2e.cluster import (
    NO_MKDIR,
    NODES,
    SELINUX_NODE,
    agent_of_selinux_stays,
    agent_pod,
    agent_ready,
    apply,
    condition,
    confined,
    events,
    eventually,
    get,
    kubectl,
    ok,
    on_node,
    ready,
    remove,
    seccomp_profile,
    start,
    wait_ready,
)

FOLDER = "/var/lib/kubelet/seccomp/hauberk"
# The first profile of this type has the node with SELinux get its other agent.
FIRST_SECONDS = 120


@pytest.fixture(scope="module")
def agent_stays() -> Iterator[None]:
    with agent_of_selinux_stays():
        yield


def content(node: str, name: str) -> str:
    """Return what a profile's file on a node holds; empty where there is none."""
    return on_node(node, "sh", "-c", f"cat {FOLDER}/{name}.json 2>/dev/null || true")


def names_it(name: str, node: str, profile: str) -> dict[str, object]:
    localhost = {"type": "Localhost", "localhostProfile": f"hauberk/{profile}.json"}
    return confined(name, node, {"seccompProfile": localhost})


def test_a_call_is_denied_on_every_node_and_the_file_stays_while_a_pod_names_it():
    apply(seccomp_profile("no-mkdir", NO_MKDIR))
    status = wait_ready("no-mkdir", FIRST_SECONDS)["status"]
    assert (status["summary"]["ready"], status["nodes"]["unsupported"]) == ("3/3", 0)
    assert status["reference"] == {
        "seccompProfile": {"type": "Localhost", "localhostProfile": "hauberk/no-mkdir.json"}
    }
    start(*(names_it(f"on-{node}", node, "no-mkdir") for node in NODES))
    for node in NODES:
        denied = kubectl("exec", f"on-{node}", "--", "mkdir", "/tmp/x")
        assert (denied.code, "Operation not permitted" in denied.stderr) == (1, True)
        ok(kubectl("exec", f"on-{node}", "--", "touch", "/tmp/y"))
        assert content(node, "no-mkdir") == NO_MKDIR
        held = get("profilenode", node)["status"]["seccomp"]["profiles"]["no-mkdir"]
        assert held.split("/")[2] == hashlib.sha256(NO_MKDIR.encode()).hexdigest()[:10]

    ok(kubectl("delete", "secprof/no-mkdir", "--wait=false"))
    eventually(lambda: condition(get("secprof", "no-mkdir"), "Ready")["reason"] == "InUse")
    eventually(lambda: f"pod default/on-{SELINUX_NODE} names it" in ready("no-mkdir")[2])
    remove("pod/on-debian12", "--now")
    eventually(lambda: content("debian12", "no-mkdir") == "")
    assert content("debian13", "no-mkdir") == content(SELINUX_NODE, "no-mkdir") == NO_MKDIR
    remove("pods", "--selector=made-by=e2e", "--now")
    ok(kubectl("wait", "--for=delete", "secprof/no-mkdir", "--timeout=60s"))
    assert [content(node, "no-mkdir") for node in NODES] == ["", "", ""]
    assert [on_node(node, "find", "/var/lib/hauberk/seccomp", "-type", "f") for node in NODES] == [""] * 3
    # nothing needs the privileged agent any more
    eventually(lambda: "hauberk.dev/agent" not in get("node", SELINUX_NODE)["metadata"]["labels"])
    eventually(lambda: agent_pod(SELINUX_NODE).startswith("hauberk-agent-selinux") is False)
    eventually(lambda: agent_ready(SELINUX_NODE), within=90)


@pytest.mark.usefixtures("agent_stays")
def test_what_someone_does_to_a_file_is_undone_at_once():
    apply(seccomp_profile("kept", NO_MKDIR))
    wait_ready("kept", FIRST_SECONDS)
    for node, deed in zip(NODES, ("echo {} > kept.json", "rm kept.json", "rm -r ../hauberk"), strict=True):
        on_node(node, "sh", "-c", f"cd {FOLDER} && {deed}")
        eventually(lambda node=node: content(node, "kept") == NO_MKDIR, within=20)
    told = eventually(lambda: len(events("kept", "DriftRepaired")) >= 3 and events("kept", "DriftRepaired"))
    assert {one.partition(":")[0] for one in told} == set(NODES)


@pytest.mark.usefixtures("agent_stays")
def test_a_file_that_hauberk_did_not_write_is_left_alone():
    on_node("debian13", "sh", "-c", f"mkdir -p {FOLDER} && echo theirs > {FOLDER}/foreign.json")
    try:
        apply(seccomp_profile("foreign", NO_MKDIR))
        eventually(lambda: ready("foreign")[1] == "NodesFailed", within=FIRST_SECONDS)
        (failure,) = get("secprof", "foreign")["status"]["failures"]
        assert (failure["node"], failure["reason"]) == ("debian13", "HostOwned")
        assert content("debian13", "foreign") == "theirs\n"
    finally:
        on_node("debian13", "rm", "-f", f"{FOLDER}/foreign.json")
    wait_ready("foreign")
