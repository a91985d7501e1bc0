"""What users get wrong: a clear word where they look, other profiles unharmed, nothing left on a disk."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.e2e.cluster import (
    APPARMOR_NODES,
    Kernel,
    apply,
    condition,
    deny_write,
    eventually,
    files,
    get,
    kernel,
    kubectl,
    load_by_hand,
    ok,
    past_the_webhook,
    profile,
    ready,
    refused,
    remove,
    unload_by_hand,
    wait_ready,
)

REFUSED = {
    "syntax": ("profile bad {\n  /x q,\n}\n", "PolicyRefused", "line 2: "),
    "never-closed": ("profile bad {\n", "PolicyRefused", "syntax error"),
    "no-profile": ("# only a comment\n", "PolicyEmpty", "defines no profile"),
    "unknown-include": ("profile bad { include <abstractions/not-there> }\n", "PolicyRefused", "line 1: "),
    "absolute-include": ('profile bad { include "/etc/shadow" }\n', "IncludeRefused", "line 1: include"),
    "outside-include": ("profile bad { include <../shadow> }\n", "IncludeRefused", "line 1: include"),
    "attachment": ("profile bad /usr/bin/* { file, }\n", "AttachmentRefused", "without a path"),
    "path-name": ("/usr/bin/containerd { file, }\n", "AttachmentRefused", "without a path"),
    "namespace": ("profile :other:bad { file, }\n", "NameUnusable", "namespace other"),
    "protected": ("profile cri-containerd.apparmor.d { file, }\n", "NameProtected", "container runtime"),
    "unconfined": ("profile bad flags=(unconfined) { file, }\n", "ModeMismatch", "would confine nothing"),
    "complains": ("profile bad flags=(complain) { file, }\n", "ModeMismatch", "spec.appArmor.mode"),
}


@pytest.fixture(scope="module", autouse=True)
def neighbour() -> Iterator[None]:
    """A good profile beside the bad ones, which must stay as it is through all of them."""
    apply(kept(profile("neighbour", deny_write("neighbour"))))
    wait_ready("neighbour")
    held = {node: kernel(node)["neighbour"] for node in APPARMOR_NODES}
    yield
    assert ready("neighbour")[0] == "True"
    for node in APPARMOR_NODES:
        assert kernel(node)["neighbour"] == held[node]
    remove("secprof", "--selector=kept=by-file")


@pytest.fixture(scope="module")
def stored(neighbour: None) -> dict[str, tuple[Kernel, list[str]]]:  # noqa: ARG001 - it must be there first
    """All bad policies at once; returns each node's kernel and files after the last of them was judged."""
    with past_the_webhook():
        for case, (policy, _, _) in REFUSED.items():
            apply(kept(profile(f"bad-{case}", policy)))
    for case in REFUSED:
        eventually(lambda case=case: ready(f"bad-{case}")[1] not in ("Updating", ""))
    return {node: (kernel(node), files(node)) for node in APPARMOR_NODES}


def kept(document: dict[str, Any]) -> dict[str, Any]:
    """Return a document that stays until the last test of this file."""
    document["metadata"]["labels"] = {"kept": "by-file"}
    return document


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_policy_is_refused_by_kubectl_apply(case: str):
    policy, _, words = REFUSED[case]
    assert words in refused(profile("refused", policy))
    assert kubectl("get", "secprof/refused").code != 0


@pytest.mark.parametrize("case", REFUSED)
def test_what_came_past_the_webhook_is_told_and_leaves_nothing(
    case: str, stored: dict[str, tuple[Kernel, list[str]]]
):
    _, reason, words = REFUSED[case]
    name = f"bad-{case}"

    assert ready(name)[:2] == ("False", reason)
    assert words in ready(name)[2]
    body = get("secprof", name)
    assert condition(body, "Accepted")["status"] == "False"
    assert condition(body, "Stalled")["status"] == "True"
    assert get("profilerevisions", f"--selector=hauberk.dev/profile={name}")["items"] == []
    for held, there in stored.values():
        assert "bad" not in held
        assert [file for file in there if "neighbour" not in file] == []


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"type": "AppArmor"}, "appArmor"),
        ({"type": "AppArmor", "seccomp": {"policy": "{}"}}, "appArmor"),
        ({"type": "AppArmour", "appArmor": {"policy": "profile x {}"}}, "AppArmor"),
        ({"type": "AppArmor", "appArmor": {"policy": ""}}, "policy"),
        ({"type": "AppArmor", "appArmor": {"policy": "#" * (128 * 1024 + 1)}}, "131072"),
    ],
    ids=["no-block", "wrong-block", "wrong-type", "empty", "oversized"],
)
def test_the_wrong_shape_is_refused_by_kubectl_apply(spec: dict[str, object], words: str):
    document = profile("shapeless", "") | {"spec": spec}
    said = kubectl("apply", "--filename=-", given=document)
    assert said.code != 0
    assert words in said.stderr
    assert kubectl("get", "secprof/shapeless").code != 0


def test_a_text_that_never_stops_compiling_holds_up_nobody():
    # The deterministic automaton for "an a, thirty letters before the end" has two to the thirtieth states.
    endless = profile("endless", "profile endless {\n  /**a" + "?" * 30 + " rw,\n}\n")
    with past_the_webhook():
        apply(endless)
    with ThreadPoolExecutor() as pool:
        said = pool.submit(refused, endless | {"metadata": {"name": "endless-too"}})
        apply(profile("beside-it", deny_write("beside-it")))
        wait_ready("beside-it")
        assert "apparmor_parser gave up: the policy took over" in said.result()
    eventually(lambda: ready("endless")[1] == "PolicyTooSlow")
    assert "apparmor_parser gave up: the policy took over" in ready("endless")[2]


def test_the_younger_of_two_profiles_of_one_name_is_told_who_holds_it():
    apply(profile("elder", deny_write("shared-name")))
    wait_ready("elder")
    held = {node: kernel(node)["shared-name"] for node in APPARMOR_NODES}

    younger = profile("younger", deny_write("shared-name", "/var"))
    assert "SecurityProfile elder already holds the kernel name shared-name" in refused(younger)
    with past_the_webhook():
        apply(younger)
    eventually(lambda: ready("younger")[1] == "NameClash")

    assert "SecurityProfile elder already holds the kernel name shared-name" in ready("younger")[2]
    assert ready("elder")[0] == "True"
    for node in APPARMOR_NODES:
        assert kernel(node)["shared-name"] == held[node]
    # once the elder is gone, the younger takes the name by itself
    ok(kubectl("delete", "secprof/elder", "--timeout=60s"))
    wait_ready("younger")


def test_a_profile_of_the_host_is_neither_replaced_nor_removed():
    for node in APPARMOR_NODES:
        load_by_hand(node, "profile of-the-host { file, }")
    held = {node: kernel(node)["of-the-host"] for node in APPARMOR_NODES}
    try:
        apply(profile("of-the-host", deny_write("of-the-host")))
        eventually(lambda: get("secprof", "of-the-host")["status"]["nodes"]["failed"] == 2)
        assert ready("of-the-host")[1] == "NodesFailed"

        body = get("secprof", "of-the-host")
        assert [one["reason"] for one in body["status"]["failures"]] == ["HostOwned", "HostOwned"]
        assert "that Hauberk did not load" in ready("of-the-host")[2]
        ok(kubectl("delete", "secprof/of-the-host", "--timeout=60s"))
        for node in APPARMOR_NODES:
            assert kernel(node)["of-the-host"] == held[node]
    finally:
        for node in APPARMOR_NODES:
            unload_by_hand(node, "of-the-host")


@pytest.mark.parametrize(
    ("kind", "policy", "words"),
    [
        (
            "SELinux",
            "(block bad\n  (type t)\n  (allow t self (file read)))\n",
            (
                "secilc refuses the policy: Invalid syntax; Bad class-permissions; "
                "Problem filling class-permissions list; line 3: Bad allow rule"
            ),
        ),
        ("SELinux", "(block bad\n  (allow init_t etc_t (file (read))))\n", "line 2: allow is about init_t"),
        ("Seccomp", '{"defaultAction": "SCMP_ACT_DENY"}', "Invalid enum value 'SCMP_ACT_DENY'"),
        (
            "Seccomp",
            (
                '{"defaultAction": "SCMP_ACT_ALLOW",'
                ' "syscalls": [{"names": ["mkdri"], "action": "SCMP_ACT_ERRNO"}]}'
            ),
            "there is no system call mkdri",
        ),
    ],
)
def test_the_images_own_parsers_judge_the_other_types(kind: str, policy: str, words: str):
    document = profile("bad", "")
    document["spec"] = {"type": kind, kind.lower(): {"policy": policy}}
    assert words in refused(document)
