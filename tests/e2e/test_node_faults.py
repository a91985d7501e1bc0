"""What goes wrong on a node: its disk, its agent, its way to the API. Nothing is lost, and status says so."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import pytest

from tests.e2e.cluster import (
    APPARMOR_NODES,
    SYSTEM,
    agent_pod,
    apply,
    condition,
    deny_write,
    eventually,
    files,
    get,
    kernel,
    kubectl,
    lab,
    ok,
    on_node,
    policy_revision,
    profile,
    ready,
    remove,
    report,
    restart_agent,
    unload_by_hand,
    wait_ready,
)

NODE = "debian12"
STATE, POLICIES = "/var/lib/hauberk", "/etc/apparmor.d"


@pytest.mark.long
def test_records_that_were_torn_are_set_aside_and_told_and_nothing_is_lost():
    apply(profile("torn", deny_write("torn")))
    wait_ready("torn")
    eventually(lambda: f"{STATE}/apparmor/torn.json" in files(NODE))
    held, before = kernel(NODE)["torn"], policy_revision(NODE)
    on_node(NODE, "sh", "-c", f"truncate --size=100 {STATE}/apparmor/torn.json")
    claim = '{"profile":"foreign","modes":{"runc":"enforce"}}'
    on_node(NODE, "sh", "-c", f"echo '{claim}' > {STATE}/apparmor/foreign.json")
    on_node(NODE, "sh", "-c", f"echo unfinished > {POLICIES}/.hauberk.torn.new")
    on_node(NODE, "sh", "-c", f"mkdir -p {STATE}/adopted; echo '[{{' > {STATE}/adopted/lost.json")

    restart_agent(NODE)

    told = [(one["reason"], one["message"].split(" was ")[0]) for one in report(NODE)["remarks"]]
    assert told == [
        ("StateTorn", "the record foreign.json"),
        ("StateTorn", "the record torn.json"),
        ("StateTorn", "what lost took over from the host can't be given back, its file"),
    ]
    assert "3 remarks" in get("profilenode", NODE)["status"]["summary"]
    eventually(lambda: ready("torn")[0] == "True")
    assert (kernel(NODE)["torn"], policy_revision(NODE)) == (held, before)
    # the record is there again, and nothing unfinished
    eventually(lambda: f"{STATE}/apparmor/torn.json" in files(NODE))
    assert [file for file in files(NODE) if ".new" in file] == []
    on_node(NODE, "sh", "-c", f"rm {STATE}/apparmor/*.torn {STATE}/adopted/*.torn")
    restart_agent(NODE)
    eventually(lambda: report(NODE)["remarks"] == [])


@contextmanager
def mounted(node: str, mount: str, folder: str) -> Generator[None]:
    """Put a mount over a folder of a node for the time of the context, and let the agent see it."""
    on_node(node, "sh", "-c", mount)
    try:
        restart_agent(node)
        yield
    finally:
        # the agent's own mount of it goes with its pod
        on_node(node, "umount", "--lazy", folder)
        restart_agent(node)


FULL = f"mount -t tmpfs -o size=64k tmpfs {STATE} && ! head --bytes=100000 /dev/zero > {STATE}/fill"
READ_ONLY = f"mount --bind {POLICIES} {POLICIES} && mount -o remount,bind,ro {POLICIES}"


@pytest.mark.long
@pytest.mark.parametrize(
    ("mount", "folder", "words"),
    [
        (FULL, STATE, "the node's disk took no record of it: No space left on device"),
        (READ_ONLY, POLICIES, "its boot will not load it: Read-only file system"),
    ],
    ids=["full", "read-only"],
)
def test_a_disk_that_takes_nothing_is_told_and_keeps_nothing_from_being_loaded(
    mount: str, folder: str, words: str
):
    with mounted(NODE, mount, folder):
        apply(profile("no-room", deny_write("no-room")))
        body = wait_ready("no-room")
        assert body["status"]["nodes"]["ready"] == 2
        eventually(lambda: report(NODE)["problems"].get("no-room", {}).get("reason") == "StateUnwritable")
        assert words in report(NODE)["problems"]["no-room"]["message"]
        eventually(lambda: get("secprof", "no-room")["status"]["failures"])
        assert kernel(NODE)["no-room"] == kernel("debian13")["no-room"]

    eventually(lambda: len(files(NODE)) == 2 and files(NODE) == files("debian13"))
    eventually(lambda: not report(NODE)["problems"])
    assert ready("no-room")[0] == "True"


@pytest.mark.long
def test_a_node_whose_agent_does_not_run_ends_readiness_and_holds_up_no_deletion():
    apply(profile("unwatched", deny_write("unwatched")))
    apply(profile("unheard", deny_write("unheard")))
    wait_ready("unwatched")
    wait_ready("unheard")
    # The agent's port is taken: it ends as soon as it starts, for as long as this lasts.
    listens = (
        "use IO::Socket::INET; "
        "$s = IO::Socket::INET->new(LocalAddr => '127.0.0.1:9797', Listen => 1, ReuseAddr => 1) or die; sleep"
    )
    remove(f"pod/{agent_pod(NODE)}", f"--namespace={SYSTEM}", "--now")
    taken = f'until perl -e "{listens.replace("$", chr(92) + "$")}"; do sleep 0.1; done & echo $!'
    pid = on_node(NODE, "setsid", "sh", "-c", f"({taken}) 2>/dev/null </dev/null").strip()
    try:
        eventually(lambda: ready("unwatched")[1] == "AgentDown", within=200)
        assert get("secprof", "unwatched")["status"]["nodes"]["agentDown"] == 1
        ok(kubectl("delete", "secprof/unheard", "--timeout=30s"))
        assert "unheard" in kernel(NODE)
    finally:
        on_node(NODE, "sh", "-c", f"kill {pid}; pkill perl")
        remove(f"pod/{agent_pod(NODE)}", f"--namespace={SYSTEM}", "--now")  # waits less than its backoff

    wait_ready("unwatched", timeout=120)
    eventually(lambda: "unheard" not in kernel(NODE))


@pytest.mark.long
def test_an_api_server_that_is_away_costs_nothing_but_news():
    apply(profile("carried", deny_write("carried")))
    wait_ready("carried")
    since = condition(get("secprof", "carried"), "Ready")["lastTransitionTime"]
    held = {node: kernel(node)["carried"] for node in APPARMOR_NODES}
    ok(lab("control-plane", "stop", "apiserver"))
    try:
        unload_by_hand(NODE, "carried")
        eventually(lambda: kernel(NODE).get("carried") == held[NODE], within=10)
        on_node(NODE, "sleep", "50")
        for node in APPARMOR_NODES:
            assert kernel(node)["carried"] == held[node]
    finally:
        ok(lab("control-plane", "start", "apiserver"))

    apply(profile("carried", deny_write("carried", "/var")))
    # Both agents hear of it, and so does the operator of them: nothing is left over from the outage.
    eventually(
        lambda: wait_ready("carried", timeout=120)["status"]["nodes"]["ready"] == 2,
        within=120,
    )
    assert since <= condition(get("secprof", "carried"), "Ready")["lastTransitionTime"]
