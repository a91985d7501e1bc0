"""The lab itself, on real kernels: `pytest -m lab`, as root.

Uses the lab that LAB_NAME names if it is up, else brings up one of its own and removes it.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

BOOT_ID = "/proc/sys/kernel/random/boot_id"


class Lab:
    """`python -m lab --name NAME`, as a user types it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *words: str, given: str = "") -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "lab", "--name", self.name, *words]
        return subprocess.run(command, input=given, capture_output=True, text=True, check=False, timeout=280)

    def good(self, *words: str) -> str:
        done = self(*words)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout

    def status(self) -> dict[str, Any]:
        return json.loads(self.good("status", "-o", "json"))

    def nodes(self) -> dict[str, dict[str, Any]]:
        return {node["name"]: node for node in self.status()["nodes"]}


def eventually(check: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.5)


@pytest.fixture(scope="module")
def lab() -> Generator[Lab]:
    if os.geteuid() != 0:
        pytest.fail("the lab needs root")
    named = os.environ.get("LAB_NAME")
    lab = Lab(named or f"test-{os.getpid()}")
    own = lab("status").returncode != 0
    try:
        if own:
            lab.good("up", "--nodes", "debian12,selinux")
        yield lab
    finally:
        if own:
            lab.good("down")


@pytest.fixture
def apparmor(lab: Lab) -> str:
    return next(name for name, node in lab.nodes().items() if node["kind"] == "debian12")


@pytest.fixture
def selinux(lab: Lab) -> str:
    return next(name for name, node in lab.nodes().items() if node["kind"] == "selinux")


def test_up_again_changes_nothing(lab: Lab):
    before = lab.nodes()
    lab.good("up", "--nodes", ",".join(node["kind"] for node in before.values()))
    assert {name: node["pid"] for name, node in lab.nodes().items()} == {
        name: node["pid"] for name, node in before.items()
    }


def test_memory_stays_below_what_was_promised(lab: Lab):
    assert 500 < lab.status()["memory_mib"] < 6 * 1024


def test_exec_passes_everything_on(lab: Lab, apparmor: str):
    done = lab("exec", apparmor, "--", "sh", "-c", "cat; echo 'a  b'; echo bad >&2; exit 9", given="hello ")
    assert (done.returncode, done.stdout, done.stderr) == (9, "hello a  b\n", "bad\n")


def test_run_is_inside_and_passes_the_exit_code_on(lab: Lab):
    script = (
        f'kubectl get nodes -o name && {sys.executable} -m lab kubeconfig && test "$KUBECONFIG" && exit 7'
    )
    done = lab("run", "--", "sh", "-c", script)
    assert done.returncode == 7, done.stderr
    assert "node/selinux" in done.stdout
    assert "admin.kubeconfig" in done.stdout


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("exec", "nowhere", "--", "true"), 2, "There is no node nowhere"),
        (("add", "debian11"), 2, "no kind of node"),
        (("load", "/no-such.tar"), 2, "no file"),
        (("logs", "selinux", "nonsense"), 2, "no log of a node"),
        (("store", "restore", "not-there"), 2, "There is no saved store not-there"),
        (("store", "save", "../out"), 2, "is no name for a store"),
        (("--name", "not-there", "status"), 4, "is not up"),
    ],
)
def test_errors_are_one_sentence(lab: Lab, words: tuple[str, ...], code: int, said: str):
    done = lab(*words)
    assert done.returncode == code
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_each_kernel_has_its_own_security_module(lab: Lab, apparmor: str, selinux: str):
    assert "apparmor" in lab.good("exec", apparmor, "--", "cat", "/sys/kernel/security/lsm")
    assert "cri-containerd" not in lab.good("exec", selinux, "--", "cat", "/sys/kernel/security/lsm")
    assert lab.good("exec", selinux, "--", "getenforce").strip() in {"Permissive", "Enforcing"}
    enabled = lab.good("exec", apparmor, "--", "cat", "/sys/module/apparmor/parameters/enabled")
    assert enabled.strip() == "Y"


POD = """
apiVersion: v1
kind: Pod
metadata: {{name: probe-{node}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 0
  containers:
  - name: probe
    image: busybox:lab
    imagePullPolicy: Never
    command:
    - sh
    - -c
    - cat /proc/1/attr/current; nc -w 5 10.96.0.1 443 </dev/null && echo reached; sleep 1000
"""


def test_pods_are_confined_and_reach_the_api(lab: Lab, apparmor: str, selinux: str):
    confined = {
        apparmor: "cri-containerd.apparmor.d (enforce)",
        selinux: "system_u:system_r:container_t:s0:c",
    }
    try:
        lab.good("exec", selinux, "--", "setenforce", "1")
        for node in confined:
            done = lab("run", "--", "kubectl", "apply", "-f", "-", given=POD.format(node=node))
            assert done.returncode == 0, done.stderr
        for node, label in confined.items():
            lab.good(
                "run", "--", "kubectl", "wait", "--for=condition=Ready", f"pod/probe-{node}", "--timeout=60s"
            )
            logs = ["run", "--", "kubectl", "logs", f"probe-{node}"]
            eventually(lambda logs=logs: "reached" in lab.good(*logs))
            assert label in lab.good(*logs)
            inside = lab("run", "--", "kubectl", "exec", f"probe-{node}", "--", "sh", "-c", "exit 5")
            assert inside.returncode == 5
    finally:
        lab("exec", selinux, "--", "setenforce", "0")
        lab("run", "--", "kubectl", "delete", "pod", *(f"probe-{node}" for node in confined), "--now")


def test_cut_node_is_lost_to_the_cluster_alone(lab: Lab, selinux: str):
    lab.good("cut", selinux)
    try:
        assert lab.good("exec", selinux, "--", "echo", "still here") == "still here\n"
        wait = ["run", "--", "kubectl", "wait", f"node/{selinux}", "--timeout=60s"]
        lab.good(*wait, "--for=condition=Ready=Unknown")
    finally:
        lab.good("mend", selinux)
    lab.good(*wait, "--for=condition=Ready")


def test_reboot_keeps_the_disk_and_loses_the_kernel(lab: Lab, apparmor: str):
    profile = "profile lab-reboot-test /nonexistent {}"
    script = (
        f"echo '{profile}' >/etc/apparmor.d/lab-reboot-test; touch /run/gone; cat {BOOT_ID} /etc/machine-id"
    )
    boot, machine = lab.good("exec", apparmor, "--", "sh", "-c", script).split()
    lab.good("reboot", apparmor)
    again = lab.good("exec", apparmor, "--", "cat", BOOT_ID, "/etc/machine-id").split()
    assert again[0] != boot
    assert again[1] == machine
    assert lab("exec", apparmor, "--", "test", "-e", "/run/gone").returncode == 1
    # as a real host does, it loads at boot what is in /etc/apparmor.d
    loaded = lab.good("exec", apparmor, "--", "cat", "/sys/kernel/security/apparmor/profiles")
    assert "lab-reboot-test (enforce)" in loaded
    lab.good("exec", apparmor, "--", "rm", "/etc/apparmor.d/lab-reboot-test")


def test_crash_loses_what_was_not_written(lab: Lab, selinux: str):
    lab.good("exec", selinux, "--", "sh", "-c", "echo kept >/root/kept; sync; echo lost >/root/lost")
    lab.good("crash", selinux)
    assert not lab.nodes()[selinux]["running"]
    assert lab("exec", selinux, "--", "true").returncode == 4
    lab.good("reboot", selinux)
    assert lab.good("exec", selinux, "--", "cat", "/root/kept") == "kept\n"
    assert lab("exec", selinux, "--", "test", "-s", "/root/lost").returncode == 1


def test_a_node_joins_and_leaves(lab: Lab):
    name = lab.good("add", "debian12").strip()
    assert name.startswith("debian12-")
    assert lab.nodes()[name]["ready"]
    pid = lab.nodes()[name]["pid"]
    lab.good("remove", name)
    assert name not in lab.nodes()
    assert name not in lab.good("run", "--", "kubectl", "get", "nodes")
    assert not Path(f"/proc/{pid}/exe").exists()


def test_the_api_server_can_be_restarted(lab: Lab):
    lab.good("control-plane", "stop", "apiserver")
    assert not lab.status()["control_plane"]["kube-apiserver"]["running"]
    assert lab("run", "--", "kubectl", "get", "nodes", "--request-timeout=2s").returncode != 0
    before = lab.status()["control_plane"]
    lab.good("control-plane", "start", "apiserver")
    lab.good("run", "--", "kubectl", "get", "nodes")
    # its clients are started again with it, so that no node is called lost for their late watches
    for client in ("kube-controller-manager", "kube-scheduler"):
        now = lab.status()["control_plane"][client]
        assert now["running"]
        assert now["pid"] != before[client]["pid"]


def test_the_store_is_put_back_while_the_nodes_run_on(lab: Lab, apparmor: str):
    kubectl = ("run", "--", "kubectl")
    pod = [*kubectl, "run", "probe-store", "--image=busybox:lab", "--image-pull-policy=Never"]
    override = f'{{"spec": {{"nodeName": "{apparmor}", "terminationGracePeriodSeconds": 0}}}}'
    boots = lab.good("exec", apparmor, "--", "cat", BOOT_ID)
    try:
        lab.good(*kubectl, "create", "configmap", "probe-kept", "--from-literal=when=before")
        lab.good("store", "save", "before")
        lab.good(*kubectl, "delete", "configmap", "probe-kept")
        lab.good(*kubectl, "create", "configmap", "probe-later")
        lab.good(*pod, f"--overrides={override}", "--", "sleep", "1000")
        lab.good(*kubectl, "wait", "--for=condition=Ready", "pod/probe-store", "--timeout=60s")

        lab.good("store", "restore", "before")

        assert all(one["running"] for one in lab.status()["control_plane"].values())
        found = lab.good(*kubectl, "get", "configmaps,pods", "--output=name").split()
        assert "configmap/probe-kept" in found
        assert not {"configmap/probe-later", "pod/probe-store"} & set(found)
        assert lab.good("exec", apparmor, "--", "cat", BOOT_ID) == boots
        # the kubelet follows the store as it is now: a new pod of that name starts
        lab.good(*pod, f"--overrides={override}", "--", "sleep", "1000")
        lab.good(*kubectl, "wait", "--for=condition=Ready", "pod/probe-store", "--timeout=60s")
    finally:
        lab(*kubectl, "delete", "configmap/probe-kept", "configmap/probe-later", "--ignore-not-found")
        lab(*kubectl, "delete", "pod/probe-store", "--now", "--ignore-not-found")


def test_saving_twice_keeps_the_last(lab: Lab):
    kubectl = ("run", "--", "kubectl")
    lab.good("control-plane", "stop", "scheduler")
    try:
        lab.good("store", "save", "twice")
        lab.good(*kubectl, "create", "configmap", "probe-twice")
        lab.good("store", "save", "twice")
        # what was stopped on purpose stays so
        assert not lab.status()["control_plane"]["kube-scheduler"]["running"]
        lab.good(*kubectl, "delete", "configmap", "probe-twice")
        lab.good("store", "restore", "twice")
        assert "probe-twice" in lab.good(*kubectl, "get", "configmaps", "--output=name")
    finally:
        lab.good("control-plane", "start", "scheduler")
        lab.good(*kubectl, "delete", "configmap", "probe-twice", "--ignore-not-found")


def test_logs_are_there(lab: Lab, selinux: str):
    for part, word in (("kubelet", "Kubelet version"), ("containerd", "containerd"), ("kernel", "is up")):
        assert word in lab.good("logs", selinux, part, "--lines", "100000")


def test_down_leaves_nothing(tmp_path: Path):
    if os.geteuid() != 0:
        pytest.fail("the lab needs root")
    # the control plane alone: what `up` has begun when it is stopped early
    lab = Lab(f"short-{os.getpid()}")
    lab.good("up", "--nodes", "")
    status = lab.status()
    folder = Path(status["kubeconfig"]).parent.parent
    shutil.copy2(folder / "control-plane" / "admin.kubeconfig", tmp_path)
    # a process that no file tells of, as a command that was killed leaves it
    namespace = f"--net=/run/netns/{status['namespace']}"
    stray = subprocess.Popen(["nsenter", namespace, "--", "sleep", "300"], start_new_session=True)
    try:
        lab.good("down")
        assert stray.wait(timeout=10) != 0
    finally:
        stray.kill()
        stray.wait()
    assert not folder.exists()
    assert not Path("/run/netns", status["namespace"]).exists()
    assert lab("down").returncode == 0
