"""What the host owns: taken over only when asked for, given back as it was; attachments likewise."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.cluster import (
    APPARMOR_NODES,
    apply,
    deny_write,
    eventually,
    get,
    kernel,
    kubectl,
    load_by_hand,
    ok,
    past_the_webhook,
    profile,
    ready,
    refused,
    unload_by_hand,
    wait_ready,
)

# Two profiles and a child that the kernel gets in one file; only the first is taken over.
HOSTS = "profile adopted flags=(complain) { file, profile part { file, } }\nprofile other { /etc/hosts r, }\n"


@pytest.fixture
def hosts() -> Iterator[dict[str, dict[str, tuple[str, str]]]]:
    """Policy that the nodes' administrator loaded; returns each kernel as it was with it."""
    for node in APPARMOR_NODES:
        load_by_hand(node, HOSTS)
    yield {node: kernel(node) for node in APPARMOR_NODES}
    for node in APPARMOR_NODES:
        for name in ("adopted", "other"):
            unload_by_hand(node, name)


def modes(node: str) -> dict[str, str]:
    """Return the modes of what the host had loaded."""
    return {
        name: mode
        for name, (mode, _) in kernel(node).items()
        if name.startswith("adopted") or name == "other"
    }


def test_a_profile_of_the_host_is_taken_over_and_given_back(hosts: dict[str, dict[str, tuple[str, str]]]):
    before = {node: modes(node) for node in APPARMOR_NODES}
    assert before["debian12"] == {"adopted": "complain", "adopted//part": "enforce", "other": "enforce"}
    apply(profile("adopted", deny_write("adopted")))
    eventually(lambda: ready("adopted")[1] == "NodesFailed")
    assert "spec.adopt" in ready("adopted")[2]

    apply(profile("adopted", deny_write("adopted"), adopt=True))
    wait_ready("adopted")

    for node in APPARMOR_NODES:
        assert modes(node) == {"adopted": "enforce", "other": "enforce"}
        assert kernel(node)["other"] == hosts[node]["other"]
    # without the flag it is the host's again, at once
    apply(profile("adopted", deny_write("adopted")))
    eventually(lambda: ready("adopted")[1] == "NodesFailed")
    for node in APPARMOR_NODES:
        assert modes(node) == before[node]
    apply(profile("adopted", deny_write("adopted"), adopt=True))
    wait_ready("adopted")
    ok(kubectl("delete", "secprof/adopted", "--timeout=60s"))
    for node in APPARMOR_NODES:
        assert modes(node) == before[node]
        assert kernel(node)["other"] == hosts[node]["other"]


def test_no_flag_takes_over_what_belongs_to_the_container_runtime():
    document = profile("runtime", deny_write("cri-containerd.apparmor.d"), adopt=True)
    assert "belongs to the container runtime" in refused(document)
    with past_the_webhook():
        apply(document)
    eventually(lambda: ready("runtime")[1] == "NameProtected")


def test_a_profile_attaches_to_programs_only_where_it_may():
    policy = "profile attached /usr/local/bin/not-there { file, }\n"
    assert "spec.appArmor.allowAttachment" in refused(profile("attached", policy))
    document = profile("attached", policy)
    document["spec"]["appArmor"]["allowAttachment"] = True
    apply(document)
    wait_ready("attached")
    for node in APPARMOR_NODES:
        assert kernel(node)["attached"][0] == "enforce"

    assert "spec.appArmor.allowAttachment" in refused(profile("attached", policy))
    with past_the_webhook():
        apply(profile("attached", policy))  # taken away again: refused, and the last good one stays
    eventually(lambda: ready("attached")[1] == "AttachmentRefused")
    assert get("secprof", "attached")["status"]["nodes"]["ready"] == 2
    for node in APPARMOR_NODES:
        assert kernel(node)["attached"][0] == "enforce"
