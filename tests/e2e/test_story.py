"""The main story: from kubectl apply to an enforced pod, through changes and mistakes, to deletion."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.e2e.cluster import (
    APPARMOR_NODES,
    ROOT,
    apply,
    condition,
    deny_write,
    eventually,
    expected_hash,
    files,
    get,
    kernel,
    kubectl,
    ok,
    on_node,
    past_the_webhook,
    pod,
    profile,
    ready,
    refused,
    remove,
    start,
    wait_ready,
    watched,
)

LIBRARY = sorted(
    file
    for file in (ROOT / "profiles" / "library").glob("*.yaml")
    if yaml.safe_load(file.read_text())["spec"]["type"] == "AppArmor"
)
DENY_WRITE = "k8s-apparmor-example-deny-write"


def test_a_pod_with_the_profile_is_denied_and_one_without_writes():
    ok(kubectl("apply", "--filename", f"profiles/library/{DENY_WRITE}.yaml"))
    body = wait_ready(DENY_WRITE)

    assert body["status"]["nodes"] == {
        "targeted": 2, "ready": 2, "updating": 0, "failed": 0,
        "agentDown": 0, "unreachable": 0, "unsupported": 1,
    }  # fmt: skip
    assert body["status"]["reference"] == {
        "appArmorProfile": {"type": "Localhost", "localhostProfile": DENY_WRITE}
    }
    start(
        *(pod(f"confined-{node}", node, DENY_WRITE) for node in APPARMOR_NODES),
        *(pod(f"free-{node}", node) for node in APPARMOR_NODES),
    )
    for node in APPARMOR_NODES:
        denied = kubectl("exec", f"confined-{node}", "--", "touch", "/tmp/x")
        assert denied.code == 1
        assert "touch: /tmp/x: Permission denied" in denied.stderr
        label = ok(kubectl("exec", f"confined-{node}", "--", "cat", "/proc/1/attr/current"))
        assert label.strip() == f"{DENY_WRITE} (enforce)"
        ok(kubectl("exec", f"free-{node}", "--", "touch", "/tmp/x"))


@pytest.mark.long
@pytest.mark.parametrize("file", LIBRARY, ids=lambda file: file.stem)
def test_every_profile_of_the_library_loads_and_lets_a_pod_start(file: Path):
    document = yaml.safe_load(file.read_text())
    name, mode = document["metadata"]["name"], document["spec"]["appArmor"].get("mode", "Enforce")
    apply(document)
    body = wait_ready(name)

    assert body["status"]["summary"]["ready"] == "2/2"
    start(*(pod(f"library-{node}", node, name) for node in APPARMOR_NODES))
    for node in APPARMOR_NODES:
        assert kernel(node)[name][0] == mode.lower()
        label = ok(kubectl("exec", f"library-{node}", "--", "cat", "/proc/1/attr/current"))
        assert label.strip() == f"{name} ({mode.lower()})"


def test_the_table_that_people_look_at():
    apply(profile("table", deny_write("table")))
    wait_ready("table")

    lines = ok(kubectl("get", "secprof,profilenodes")).splitlines()
    assert lines[0].split() == ["NAME", "TYPE", "MODE", "READY", "STATUS", "REFERENCE", "AGE"]
    assert lines[1].split()[:6] == [
        "securityprofile.hauberk.dev/table", "AppArmor", "Enforce", "2/2", "Ready", "table",
    ]  # fmt: skip
    nodes = {line.split()[0].rpartition("/")[2]: line.split() for line in lines[4:]}
    assert nodes["debian12"][1:5] == ["6.1.176", "debian", "true", "1/1"]
    assert nodes["selinux"][3:5] == ["false", "unsupported"]


def test_a_changed_policy_is_not_ready_until_both_kernels_hold_it():
    before, after = deny_write("changing", "/tmp"), deny_write("changing", "/var")
    apply(profile("changing", before))
    wait_ready("changing")
    for node in APPARMOR_NODES:
        assert kernel(node)["changing"] == ("enforce", expected_hash(node, before))

    path = "/apis/hauberk.dev/v1alpha1/securityprofiles?fieldSelector=metadata.name%3Dchanging"
    with watched(path) as states:
        apply(profile("changing", after))
        wait_ready("changing")
        eventually(lambda: condition(states[-1], "Ready").get("observedGeneration") == 2)
        eventually(lambda: condition(states[-1], "Ready").get("status") == "True")

    of_new = [
        condition(one, "Ready")["status"]
        for one in states
        if condition(one, "Ready").get("observedGeneration") == 2
    ]
    assert of_new[0] == "False"
    assert of_new[-1] == "True"
    assert "False" not in of_new[of_new.index("True") :]
    for node in APPARMOR_NODES:
        assert kernel(node)["changing"] == ("enforce", expected_hash(node, after))
    eventually(lambda: len(get("profilerevisions", "--selector=hauberk.dev/profile=changing")["items"]) == 1)


def test_going_back_reuses_the_revision():
    old, new = deny_write("back", "/tmp"), deny_write("back", "/var")
    apply(profile("back", old))
    first = wait_ready("back")["status"]["revision"]
    apply(profile("back", new))
    assert wait_ready("back")["status"]["revision"] != first
    apply(profile("back", old))
    assert wait_ready("back")["status"]["revision"] == first


def test_a_broken_update_leaves_the_old_one_loaded_and_says_which_line():
    good = deny_write("broken")
    apply(profile("broken", good))
    wait_ready("broken")
    held = {node: kernel(node)["broken"] for node in APPARMOR_NODES}

    def recorded(node: str) -> list[str]:
        """What is loaded is on the disk as well, which comes after users were told."""
        found = files(node)
        settled = "/etc/apparmor.d/hauberk.broken" in found and not any("/loading/" in file for file in found)
        return found if settled else []

    there = {node: eventually(lambda node=node: recorded(node)) for node in APPARMOR_NODES}

    bad = profile("broken", good.replace("  network,", "  network bogus rule,"))
    assert "apparmor_parser refuses the policy: line 6: " in refused(bad)
    assert ready("broken")[0] == "True"
    with past_the_webhook():
        apply(bad)
    eventually(lambda: ready("broken")[0] == "False" and ready("broken")[1] == "PolicyRefused")

    status, reason, message = ready("broken")
    assert (status, reason) == ("False", "PolicyRefused")
    assert "apparmor_parser refuses the policy: line 6: " in message
    assert condition(get("secprof", "broken"), "Available")["status"] == "True"
    events = get("events", "--field-selector=involvedObject.name=broken,type=Warning")["items"]
    assert any("line 6" in event["message"] for event in events)
    for node in APPARMOR_NODES:
        assert kernel(node)["broken"] == held[node]
        assert files(node) == there[node]
    start(pod("still-confined", "debian12", "broken"))
    assert "Permission denied" in kubectl("exec", "still-confined", "--", "touch", "/tmp/x").stderr

    apply(profile("broken", good))
    assert wait_ready("broken")["status"]["summary"]["ready"] == "2/2"


def test_complain_mode_is_the_kernels_and_survives_in_the_boot_file():
    apply(profile("complaining", deny_write("complaining"), mode="Complain"))
    body = wait_ready("complaining")

    assert body["status"]["summary"]["mode"] == "Complain"
    for node in APPARMOR_NODES:
        assert kernel(node)["complaining"][0] == "complain"
        link = on_node(node, "readlink", "/etc/apparmor.d/force-complain/hauberk.complaining")
        assert link.strip() == "../hauberk.complaining"
    apply(profile("complaining", deny_write("complaining"), mode="Enforce"))
    wait_ready("complaining")
    for node in APPARMOR_NODES:
        assert kernel(node)["complaining"][0] == "enforce"
        eventually(lambda node=node: not any("force-complain" in file for file in files(node)))


def test_several_profiles_hats_and_odd_names():
    policy = (
        'profile "odd name (x)" { file, }\nprofile several { file, ^hat { file, } '
        'profile "child (y)" { file, } }\n'
    )
    apply(profile("several", policy))
    body = wait_ready("several")

    assert body["status"]["profiles"] == ["odd name (x)", "several", "several//child (y)", "several//hat"]
    assert body["status"]["summary"]["reference"] == "several"
    for node in APPARMOR_NODES:
        assert set(body["status"]["profiles"]) <= kernel(node).keys()
    # what a new text no longer defines goes away, children too
    apply(profile("several", "profile several { file, }"))
    wait_ready("several")
    for node in APPARMOR_NODES:
        eventually(
            lambda node=node: not {"odd name (x)", "several//hat", "several//child (y)"} & kernel(node).keys()
        )


def test_a_profile_in_use_stays_until_the_last_task_ends():
    apply(profile("used", deny_write("used")))
    wait_ready("used")
    start(pod("user", "debian13", "used"))

    ok(kubectl("delete", "secprof/used", "--wait=false"))
    eventually(lambda: condition(get("secprof", "used"), "Ready").get("reason") == "InUse")

    told = condition(get("secprof", "used"), "Ready")["message"]
    assert told == "waiting for tasks to end on 1 node: debian13: 1 task is confined by used"
    assert "used" in kernel("debian13")
    remove("pod/user", "--now")
    ok(kubectl("wait", "--for=delete", "secprof/used", "--timeout=60s"))
    for node in APPARMOR_NODES:
        assert "used" not in kernel(node)
        assert files(node) == []


def test_a_selector_takes_and_gives_up_nodes():
    apply(profile("chosen", deny_write("chosen"), nodeSelector={"matchLabels": {"pool": "a"}}))
    eventually(lambda: ready("chosen")[1] == "NoNodes")
    try:
        ok(kubectl("label", "node/debian12", "pool=a"))
        assert wait_ready("chosen")["status"]["nodes"]["targeted"] == 1
        assert "chosen" in kernel("debian12")
        assert "chosen" not in kernel("debian13")
    finally:
        ok(kubectl("label", "node/debian12", "pool-"))
    eventually(lambda: ready("chosen")[1] == "NoNodes")
    eventually(lambda: "chosen" not in kernel("debian12"))
