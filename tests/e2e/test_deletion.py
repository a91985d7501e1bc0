"""How a profile goes: never from under a task, never held up by a node that is away, and nothing stays."""

from __future__ import annotations

import pytest

from tests.e2e.cluster import (
    APPARMOR_NODES,
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
    pod,
    profile,
    ready,
    remove,
    start,
    wait_ready,
)


def gone(name: str) -> bool:
    return kubectl("get", f"secprof/{name}").code != 0


def test_a_forced_deletion_leaves_tasks_confined_by_something_that_denies_nothing():
    apply(profile("forced", deny_write("forced")))
    wait_ready("forced")
    start(pod("forced-user", "debian13", "forced"))
    assert kubectl("exec", "forced-user", "--", "touch", "/tmp/x").code == 1

    ok(kubectl("delete", "secprof/forced", "--wait=false"))
    eventually(lambda: condition(get("secprof", "forced"), "Ready").get("reason") == "InUse")
    ok(kubectl("annotate", "secprof/forced", "hauberk.dev/force-delete=true"))

    ok(kubectl("wait", "--for=delete", "secprof/forced", "--timeout=60s"))
    label = ok(kubectl("exec", "forced-user", "--", "cat", "/proc/1/attr/current"))
    assert label == "forced (enforce)\n"
    ok(kubectl("exec", "forced-user", "--", "touch", "/tmp/x"))
    assert "forced" not in kernel("debian12")
    eventually(lambda: not any("apparmor.d" in file for file in files("debian13")))
    # what took its place goes with the last task
    remove("pod/forced-user", "--now")
    eventually(lambda: "forced" not in kernel("debian13"))
    eventually(lambda: files("debian13") == [])


def test_a_forced_deletion_can_be_taken_back_by_applying_the_profile_again():
    apply(profile("regretted", deny_write("regretted")))
    wait_ready("regretted")
    start(pod("regretter", "debian12", "regretted"))
    held = kernel("debian12")["regretted"]
    ok(kubectl("annotate", "secprof/regretted", "hauberk.dev/force-delete=true"))
    ok(kubectl("delete", "secprof/regretted", "--timeout=60s"))
    ok(kubectl("exec", "regretter", "--", "touch", "/tmp/x"))

    apply(profile("regretted", deny_write("regretted")))
    wait_ready("regretted")

    assert kernel("debian12")["regretted"] == held
    assert kubectl("exec", "regretter", "--", "touch", "/tmp/y").code == 1


@pytest.mark.long
def test_a_node_that_was_away_during_a_deletion_cleans_up_by_itself():
    apply(profile("missed", deny_write("missed")))
    wait_ready("missed")
    ok(lab("cut", "debian13"))
    try:
        eventually(lambda: get("secprof", "missed")["status"]["nodes"]["unreachable"] == 1, within=90)
        ok(kubectl("delete", "secprof/missed", "--timeout=30s"))
        assert "missed" in kernel("debian13")
    finally:
        ok(lab("mend", "debian13"))

    eventually(lambda: "missed" not in kernel("debian13"), within=120)
    eventually(lambda: files("debian13") == [])
    eventually(lambda: get("profilerevisions")["items"] == [])


@pytest.mark.long
def test_a_finalizer_that_someone_takes_off_leaves_nothing_behind():
    apply(profile("cut-short", deny_write("cut-short")))
    wait_ready("cut-short")
    start(pod("holder", "debian12", "cut-short"))
    ok(kubectl("delete", "secprof/cut-short", "--wait=false"))
    ok(kubectl("patch", "secprof/cut-short", "--type=merge", '--patch={"metadata":{"finalizers":[]}}'))
    eventually(lambda: gone("cut-short"))
    assert "cut-short" in kernel("debian12")

    remove("pod/holder", "--now")
    for node in APPARMOR_NODES:
        eventually(lambda node=node: "cut-short" not in kernel(node))
        eventually(lambda node=node: files(node) == [])


@pytest.mark.long
def test_a_node_that_is_no_longer_selected_keeps_what_is_in_use():
    selector = {"matchLabels": {"kubernetes.io/hostname": "debian12"}}
    apply(profile("deselected", deny_write("deselected")))
    wait_ready("deselected")
    start(pod("stays", "debian13", "deselected"))

    apply(profile("deselected", deny_write("deselected"), nodeSelector=selector))
    eventually(lambda: get("secprof", "deselected")["status"]["nodes"]["targeted"] == 1)
    wait_ready("deselected")
    eventually(lambda: get("profilenode", "debian13")["status"]["appArmor"]["problems"])

    problem = get("profilenode", "debian13")["status"]["appArmor"]["problems"]["deselected"]
    assert problem["reason"] == "InUse"
    assert "deselected" in kernel("debian13")
    remove("pod/stays", "--now")
    eventually(lambda: "deselected" not in kernel("debian13"))
    assert ready("deselected")[0] == "True"
