"""SELinux modules on a node whose kernel enforces: installed, read back, kept, and taken away.

A run of semodule takes 12 s and more on this node, so each test gets by with few of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Iterator
from contextlib import contextmanager

import pytest

from tests.e2e.cluster import (
    NO_MKDIR,
    SELINUX_NODE,
    SYSTEM,
    agent_of_selinux_stays,
    agent_pod,
    apply,
    condition,
    confined,
    deny_write,
    deployment,
    events,
    eventually,
    get,
    kubectl,
    lab,
    namespace,
    ok,
    on_node,
    pods_of,
    profile,
    ready,
    remove,
    seccomp_profile,
    selinux_profile,
    start,
    wait_published,
    wait_ready,
    wait_rolled_out,
    watched,
)
from tests.e2e.cluster import failures as failures_in

# With the agent's own start, where it is the first profile of its type.
WITHIN_SECONDS = 180
CONTAINER = """\
(block {name}
  (type process)
  (roletype system_r process)
  (typeattributeset domain process)
  (typeattributeset container_domain process)
  (typeattributeset container_system_domain process)
  (typeattributeset mcs_constrained_type process)
  (allow process container_var_lib_t (dir (add_name getattr open read remove_name search write)))
  (allow process container_var_lib_t (file (create entrypoint execute execute_no_trans getattr map)))
  (allow process container_var_lib_t (file (open read setattr unlink write)))
  (allow process container_var_lib_t (lnk_file (getattr read)))
  {more}
)
"""


def container(name: str, more: str = "") -> str:
    """Return a module whose type may do what every container may do, but for the network."""
    return CONTAINER.format(name=name, more=more)


def ours() -> list[str]:
    """Return Hauberk's modules as the node's own semodule lists them, with their checksums."""
    said = on_node(SELINUX_NODE, "semodule", "-lfull", "-m")
    return [line for line in said.splitlines() if " hauberk_" in line]


def kernel_knows(name: str) -> bool:
    said = on_node(SELINUX_NODE, "sh", "-c", f"runcon -t {name} true 2>&1 || true")
    return "Invalid argument" not in said


def runs(since: int) -> list[dict[str, object]]:
    """Return the runs of semodule that the node's agent logged after that many."""
    log = ok(kubectl("logs", f"--namespace={SYSTEM}", agent_pod(SELINUX_NODE)))
    told = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    return [one for one in told if one["event"] == "semodule"][since:]


@contextmanager
def enforcing() -> Generator[None]:
    on_node(SELINUX_NODE, "setenforce", "1")
    try:
        yield
    finally:
        on_node(SELINUX_NODE, "setenforce", "0")


@pytest.fixture(scope="module", autouse=True)
def agent_stays() -> Iterator[None]:
    with agent_of_selinux_stays():
        yield


def test_a_domain_is_enforced_is_kept_while_it_runs_and_leaves_nothing():
    policy = container("confined")
    with enforcing():
        apply(selinux_profile("confined", policy))
        status = wait_ready("confined", WITHIN_SECONDS)["status"]
        assert (status["summary"]["ready"], status["nodes"]["unsupported"]) == ("1/1", 2)
        assert status["reference"] == {"seLinuxOptions": {"type": "confined.process"}}
        (line,) = ours()
        checksum = hashlib.sha256(policy.encode()).hexdigest()
        assert line.split() == ["400", "hauberk_confined", "cil", f"sha256:{checksum}"]
        held = get("profilenode", SELINUX_NODE)["status"]["selinux"]["profiles"]["confined"]
        assert held.split("/")[1:] == ["enforcing", checksum[:10], "1"]

        start(confined("runs", SELINUX_NODE, {"seLinuxOptions": {"type": "confined.process"}}))
        context = ok(kubectl("exec", "runs", "--", "cat", "/proc/1/attr/current"))
        assert context.startswith("system_u:system_r:confined.process:s0:c")
        ok(kubectl("exec", "runs", "--", "touch", "/tmp/x"))
        denied = kubectl("exec", "runs", "--", "nc", "-w", "1", "10.96.0.1", "443")
        assert (denied.code, "Permission denied" in denied.stderr) == (1, True)

        ok(kubectl("delete", "secprof/confined", "--wait=false"))
        eventually(lambda: condition(get("secprof", "confined"), "Ready")["reason"] == "InUse")
        assert "as confined.process" in ready("confined")[2]
        assert len(ours()) == 1
        assert kubectl("exec", "runs", "--", "nc", "-w", "1", "10.96.0.1", "443").code == 1
        remove("pod/runs", "--now")
        ok(kubectl("wait", "--for=delete", "secprof/confined", f"--timeout={WITHIN_SECONDS}s", timeout=240))
    assert ours() == []
    assert not kernel_knows("confined.process")
    assert on_node(SELINUX_NODE, "find", "/var/lib/hauberk/selinux", "-type", "f") == ""


@pytest.mark.long
def test_the_modules_of_the_library_do_what_they_say():
    for name in ("container-without-network", "container-reads-host-logs"):
        ok(kubectl("apply", f"--filename=profiles/library/{name}.yaml"))
    for name in ("container-without-network", "container-reads-host-logs"):
        wait_ready(name, WITHIN_SECONDS)
    made = [
        confined(name, SELINUX_NODE, {"seLinuxOptions": {"type": f"{kind}.process"}})
        for name, kind in (
            ("without-network", "container_without_network"),
            ("reads-logs", "container_reads_host_logs"),
        )
    ]
    on_node(SELINUX_NODE, "sh", "-c", "echo told > /var/log/hauberk-test; restorecon /var/log/hauberk-test")
    for one in made:
        volumes = {"logs": "/var/log", "etc": "/etc"}
        one["spec"]["volumes"] = [
            {"name": name, "hostPath": {"path": path}} for name, path in volumes.items()
        ]
        one["spec"]["containers"][0]["volumeMounts"] = [
            {"name": name, "mountPath": f"/node/{name}"} for name in volumes
        ]
    with enforcing():
        start(*made)
        for name in ("without-network", "reads-logs"):
            ok(kubectl("exec", name, "--", "sh", "-c", "echo x > /tmp/x && rm /tmp/x"))
            assert kubectl("exec", name, "--", "cat", "/node/etc/shadow").code == 1
        connects = ("nc", "-w", "3", "10.96.0.1", "443")
        denied = kubectl("exec", "without-network", "--", *connects)
        assert (denied.code, "Permission denied" in denied.stderr) == (1, True)
        ok(kubectl("exec", "reads-logs", "--", *connects))
        assert kubectl("exec", "without-network", "--", "cat", "/node/logs/hauberk-test").code == 1
        assert ok(kubectl("exec", "reads-logs", "--", "cat", "/node/logs/hauberk-test")) == "told\n"
        assert kubectl("exec", "reads-logs", "--", "rm", "/node/logs/hauberk-test").code == 1
        remove("pods", "--selector=made-by=e2e", "--now")


@pytest.mark.long
def test_many_modules_go_in_together_and_the_one_to_blame_stays_out():
    apply(selinux_profile("alone", container("alone")))
    wait_ready("alone", WITHIN_SECONDS)
    before = len(runs(0))
    # of the node's policy only the node knows that it has no such type
    bad = container("bad", "(allow process no_such_type_t (file (read)))")
    many = [selinux_profile(f"many{number}", container(f"many{number}")) for number in range(19)]
    asked = [*many, selinux_profile("bad", bad)]
    for one in asked:
        one["spec"]["nodeSelector"] = {"matchLabels": {"e2e": "many"}}
    apply({"apiVersion": "v1", "kind": "List", "items": asked})
    for one in asked:
        wait_published(one["metadata"]["name"])
    # all in one moment, however far apart a busy machine publishes them
    ok(kubectl("label", "node", SELINUX_NODE, "e2e=many"))
    for one in many:
        wait_ready(one["metadata"]["name"], WITHIN_SECONDS)
    eventually(lambda: ready("bad")[1] == "NodesFailed", within=WITHIN_SECONDS)
    (failure,) = get("secprof", "bad")["status"]["failures"]
    assert failure["reason"] == "LoadFailed"
    assert "semodule refuses it: line 12: Failed to resolve allow statement" in failure["message"]
    # all of them, all but the one to blame, and that one alone
    tried = [(one["installed"], one["code"]) for one in runs(before)]
    assert tried[:3] == [(20, 1), (19, 0), (1, 1)]
    assert len(ours()) == 20
    ok(kubectl("delete", "secprof", "--selector=kept!=by-file", f"--timeout={WITHIN_SECONDS}s", timeout=240))
    assert ours() == []
    ok(kubectl("label", "node", SELINUX_NODE, "e2e-"))


@pytest.mark.long
def test_permissive_is_the_module_alone_and_what_others_need_stays():
    base = "(block shared (blockabstract shared) (type process) (roletype system_r process)\n"
    base += "".join(
        f"  (typeattributeset {attribute} process)\n"
        for attribute in ("domain", "container_domain", "container_system_domain", "mcs_constrained_type")
    )
    # what a pod starts with; the rest is logged and allowed
    base += "  (allow process container_var_lib_t (file (entrypoint))))\n"
    user = "(block lenient (blockinherit shared))\n"
    apply(selinux_profile("lenient", user, mode="Permissive", requires=["base"]))
    eventually(lambda: "SecurityProfile base is not loaded here" in str(failures("lenient")), WITHIN_SECONDS)
    apply(selinux_profile("base", base, allowHostTypes=True))
    wait_ready("lenient", WITHIN_SECONDS)
    with enforcing():
        start(confined("tried", SELINUX_NODE, {"seLinuxOptions": {"type": "lenient.process"}}))
        ok(kubectl("exec", "tried", "--", "nc", "-w", "3", "10.96.0.1", "443"))
        assert on_node(SELINUX_NODE, "getenforce").strip() == "Enforcing"
    held = get("profilenode", SELINUX_NODE)["status"]["selinux"]["profiles"]["lenient"]
    assert held.split("/")[1] == "permissive"
    ok(kubectl("delete", "secprof/base", "--wait=false"))
    eventually(lambda: "SecurityProfile lenient requires it" in ready("base")[2])
    remove("pod/tried", "--now")
    ok(kubectl("delete", "secprof/lenient", f"--timeout={WITHIN_SECONDS}s", timeout=240))
    ok(kubectl("wait", "--for=delete", "secprof/base", f"--timeout={WITHIN_SECONDS}s", timeout=240))


def failures(name: str) -> object:
    return get("secprof", name)["status"].get("failures")


@pytest.mark.long
def test_what_someone_does_to_the_store_is_undone_and_what_is_theirs_is_left_alone():
    on_node(SELINUX_NODE, "sh", "-c", "echo '(block theirs (type t))' > /tmp/hauberk_theirs.cil")
    on_node(SELINUX_NODE, "semodule", "-X", "200", "-i", "/tmp/hauberk_theirs.cil")
    try:
        apply(selinux_profile("kept", container("kept")))
        apply(selinux_profile("theirs", container("ours")))
        wait_ready("kept", WITHIN_SECONDS)
        eventually(lambda: ready("theirs")[1] == "NodesFailed", within=WITHIN_SECONDS)
        assert "HostOwned: the node's store has a module hauberk_theirs" in ready("theirs")[2]
        on_node(SELINUX_NODE, "semodule", "-r", "hauberk_kept")
        eventually(lambda: any("hauberk_kept" in line for line in ours()), within=WITHIN_SECONDS)
        eventually(lambda: kernel_knows("kept.process"), within=WITHIN_SECONDS)
        eventually(lambda: events("kept", "DriftRepaired"), within=WITHIN_SECONDS)
        wait_ready("kept", WITHIN_SECONDS)
    finally:
        on_node(SELINUX_NODE, "semodule", "-X", "200", "-r", "hauberk_theirs")


def test_a_pod_waits_for_its_type_and_for_its_seccomp_profile():
    """Both are held back at first, so the pod is sure to come before them."""
    calls = seccomp_profile("gate-calls", NO_MKDIR, suspend=True)
    module = selinux_profile("gate-type", container("gate_type"))
    module["spec"]["suspend"] = True
    for one in (calls, module):
        apply(one)
        eventually(lambda name=one["metadata"]["name"]: ready(name)[1] == "Suspended")
    names = {
        "seLinuxOptions": {"type": "gate_type.process"},
        "seccompProfile": {"type": "Localhost", "localhostProfile": "hauberk/gate-calls.json"},
    }
    with (
        namespace("gate-types", **{"hauberk.dev/pod-gate": "enabled"}) as space,
        watched(pods_of(space)) as states,
    ):
        apply(deployment(space, "typed", "", replicas=1, securityContext=names))
        eventually(lambda: len(states) >= 1)
        assert states[0]["metadata"]["annotations"]["hauberk.dev/gated-for"] == "gate-calls,gate-type"
        assert {"name": "hauberk.dev/profiles-pending"} in states[0]["spec"]["schedulingGates"]
        del calls["spec"]["suspend"]
        apply(calls)
        wait_ready("gate-calls", WITHIN_SECONDS)
        gated = get("pods", f"--namespace={space}")["items"]
        assert [len(one["spec"]["schedulingGates"]) for one in gated] == [1]  # the module is not there yet
        del module["spec"]["suspend"]
        apply(module)
        (pod,) = wait_rolled_out(space, "typed", timeout=WITHIN_SECONDS)

        # the only node whose kernel has SELinux: the gate kept the pod to it
        assert pod["spec"]["nodeName"] == SELINUX_NODE
        where = (pod["metadata"]["name"], f"--namespace={space}", "--")
        context = ok(kubectl("exec", *where, "cat", "/proc/1/attr/current"))
        assert context.startswith("system_u:system_r:gate_type.process:s0:c")
        assert "Operation not permitted" in kubectl("exec", *where, "mkdir", "/tmp/x").stderr
        assert failures_in(space, states) == []


@pytest.mark.long
def test_one_cluster_has_profiles_of_all_types():
    apply(profile("of-apparmor", deny_write("of-apparmor")))
    apply(seccomp_profile("of-seccomp", json.dumps({"defaultAction": "SCMP_ACT_LOG"})))
    apply(selinux_profile("of-selinux", container("of_selinux")))
    counted = {
        name: wait_ready(name, WITHIN_SECONDS)["status"]
        for name in ("of-apparmor", "of-seccomp", "of-selinux")
    }
    assert {
        name: (status["summary"]["ready"], status["nodes"]["unsupported"]) for name, status in counted.items()
    } == {"of-apparmor": ("2/2", 1), "of-seccomp": ("3/3", 0), "of-selinux": ("1/1", 2)}
    # what is installed outlives a reboot, and is verified only
    before = on_node(SELINUX_NODE, "stat", "-c", "%Y", "/var/lib/selinux/default/active/commit_num")
    ok(lab("reboot", SELINUX_NODE))
    eventually(lambda: ready("of-selinux")[0] == "True" and ready("of-seccomp")[0] == "True", within=120)
    eventually(lambda: get("secprof", "of-selinux")["status"]["nodes"]["ready"] == 1, within=120)
    after = on_node(SELINUX_NODE, "stat", "-c", "%Y", "/var/lib/selinux/default/active/commit_num")
    assert after == before
