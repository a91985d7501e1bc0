"""The command line against a real API server, the operator as a process, and nodes that the tests write."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab.controlplane import ControlPlane
from tests.kube.accounts import Accounts
from tests.kube.conftest import Kubectl
from tests.kube.operating import POLICY, Cluster, eventually, publish


@dataclass(frozen=True)
class Said:
    """How a run of hauberk ended and what it printed."""

    code: int
    out: str
    err: str

    @property
    def object(self) -> Any:
        return json.loads(self.out)


Hauberk = Callable[..., Said]


def run(*words: str, given: str = "") -> Said:
    done = subprocess.run(
        [sys.executable, "-m", "hauberk.cli", *words],
        input=given,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    return Said(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def hauberk(control_plane: ControlPlane) -> Hauberk:
    """Return the command line with all rights."""

    def call(*words: str, given: str = "") -> Said:
        return run(*words, "--kubeconfig", str(control_plane.kubeconfig), given=given)

    return call


@pytest.fixture
def viewer(kubectl: Kubectl, accounts: Accounts, tmp_path: Path) -> Path:
    """Return the kubeconfig of a user with the ClusterRole hauberk-viewer and no other right."""
    return account(kubectl, accounts, tmp_path, "looker", "hauberk-viewer")


def account(kubectl: Kubectl, accounts: Accounts, folder: Path, name: str, role: str) -> Path:
    for document in (
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": "default"}},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": "default"}],
        },
    ):
        kubectl.ok("apply", "-f", "-", given=document)
    file = folder / f"{name}.kubeconfig"
    file.write_text(json.dumps(accounts.kubeconfig(accounts.token(name, "default"))))
    return file


def manifest(name: str, policy: str, **spec: Any) -> str:
    body = {
        "apiVersion": "hauberk.dev/v1alpha1",
        "kind": "SecurityProfile",
        "metadata": {"name": name},
        "spec": {"type": "AppArmor", "appArmor": {"policy": policy}, **spec},
    }
    return yaml.safe_dump(body, sort_keys=False)


def trouble(cluster: Cluster, node: str, profile: str, revision: str, message: str) -> None:
    """Write a problem into a node's report, as its agent would."""
    there = cluster.get("profilenodes", node)
    there["status"]["appArmor"]["problems"] = {
        profile: {"revision": revision, "reason": "LoadFailed", "message": message}
    }
    cluster.api.replace_cluster_custom_object("hauberk.dev", "v1alpha1", "profilenodes", node, there)


def test_status_tells_of_a_profile_that_is_ready(cluster: Cluster, hauberk: Hauberk):
    digest = publish(cluster, "shown")
    listed = hauberk("status")
    assert listed.code == 0
    assert re.search(r"^shown +AppArmor +Enforce +2/2 +Ready +shown *$", listed.out, re.MULTILINE)
    said = hauberk("status", "shown")
    assert (said.code, said.err) == (0, "")
    assert re.search(rf"^one +ready +{digest} +enforce", said.out, re.MULTILINE)
    assert "      localhostProfile: shown" in said.out
    (one,) = hauberk("status", "shown", "-o", "json").object
    assert {node["node"]: (node["state"], node["revision"]) for node in one["nodes"]} == {
        "one": ("ready", digest),
        "two": ("ready", digest),
    }
    assert yaml.safe_load(hauberk("status", "shown", "-o", "yaml").out) == [one]

    said = hauberk("nodes")
    assert said.code == 0
    assert re.search(r"^one .*AppArmor .* 1/1 +0$", said.out, re.MULTILINE)
    said = hauberk("nodes", "one")
    assert said.code == 0
    assert re.search(rf"^shown +AppArmor +{digest} +enforce +0123456789", said.out, re.MULTILINE)
    assert hauberk("nodes", "nope").code == 1


def test_status_tells_why_a_profile_is_not_ready(cluster: Cluster, hauberk: Hauberk):
    digest = publish(cluster, "broken")
    cluster.node("three")
    cluster.report("three")
    trouble(cluster, "three", "broken", digest, "the kernel \x1b[31msays no")
    cluster.node("two", ready=False)
    eventually(lambda: cluster.ready("broken") == ("False", "NodesFailed"))
    said = hauberk("status", "broken")
    assert said.code == 1
    assert re.search(r"^three +failed +- +- +LoadFailed", said.out, re.MULTILINE)
    assert re.search(r"^two +unreachable ", said.out, re.MULTILINE)
    assert "  three: the kernel ?[31msays no" in said.out
    missing = hauberk("status", "broken", "nope")
    assert (missing.code, "there is no SecurityProfile nope" in missing.err) == (1, True)

    said = hauberk("nodes", "three")
    assert (said.code, "  broken: LoadFailed: the kernel ?[31msays no" in said.out) == (1, True)
    told = hauberk("nodes", "three", "-o", "json").object
    assert told["problems"]["broken"]["message"] == "the kernel \x1b[31msays no"

    said = hauberk("wait", "broken", "--timeout", "0")
    assert said.code == 1
    assert said.err.startswith("broken: not Ready: NodesFailed: failed on 1 of 3 nodes")
    assert "  three: the kernel ?[31msays no" in said.err
    assert hauberk("wait", "broken", "--for", "Available").out == "broken: Available\n"


def test_who_may_not_list_nodes_is_shown_what_the_reports_say(cluster: Cluster, viewer: Path):
    digest = publish(cluster, "looked-at")
    eventually(lambda: run("status", "--kubeconfig", str(viewer)).code == 0)
    said = run("status", "looked-at", "--kubeconfig", str(viewer))
    assert said.code == 0
    assert "you may not list Nodes" in said.err
    assert re.search(rf"^one +reported +{digest} +enforce", said.out, re.MULTILINE)
    nodes = run("nodes", "--kubeconfig", str(viewer))
    assert (nodes.code, "you may not list Nodes" in nodes.err, "\ntwo " in nodes.out) == (0, True, True)
    assert run("wait", "looked-at", "--kubeconfig", str(viewer)).code == 0
    changed = manifest("looked-at", POLICY.format(name="looked-at", folder="/var"))
    compared = run("diff", "-", "--kubeconfig", str(viewer), given=changed)
    assert (compared.code, "nodes that load it: one, two" in compared.out) == (1, True)


def test_who_may_nothing_is_told_what_is_missing(kubectl: Kubectl, accounts: Accounts, tmp_path: Path):
    file = account(kubectl, accounts, tmp_path, "stranger", "system:discovery")
    for words in (["status"], ["wait", "x"], ["nodes"], ["diff", "-"]):
        said = run(*words, "--kubeconfig", str(file), given=manifest("x", "profile x {\n}\n"))
        assert (said.code, said.out) == (3, "")
        assert "have someone bind the ClusterRole hauberk-viewer to you" in said.err


def test_wait_ends_when_it_is_ready(cluster: Cluster, control_plane: ControlPlane):
    words = [sys.executable, "-m", "hauberk.cli", "wait", "awaited", "--timeout", "50s"]
    words += ["--kubeconfig", str(control_plane.kubeconfig)]
    waiting = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    publish(cluster, "awaited")  # it was not there when the wait began
    assert waiting.communicate(timeout=60)[0] == "awaited: Ready\n"
    assert waiting.returncode == 0


def test_wait_does_not_believe_an_old_generation(cluster: Cluster, hauberk: Hauberk):
    publish(cluster, "moved")
    cluster.stop()
    cluster.apply("moved", "/var")
    said = hauberk("wait", "moved", "--timeout", "1s")
    assert (said.code, said.out) == (1, "")
    assert "moved: not Ready: Progressing: the operator has not looked at generation 2 yet" in said.err


def test_what_is_refused_ends_a_wait_and_is_foreseen_by_diff(cluster: Cluster, hauberk: Hauberk):
    cluster.apply("refused", policy="profile refused {\n  bogus\n}\n")
    said = hauberk("wait", "refused", "--timeout", "50s")
    assert said.code == 1
    assert "refused: refused: PolicyRefused: apparmor_parser refuses the policy: line" in said.err
    said = hauberk("wait", "refused", "-o", "json")
    assert [(one["reached"], one["refused"]) for one in said.object] == [(False, True)]

    publish(cluster, "holder")
    said = hauberk("diff", "-", given=manifest("new", "profile new {\n  bogus\n}\n"))
    assert said.code == 1
    assert said.out.startswith("new: new (-)\n  refused: PolicyRefused: apparmor_parser refuses the policy: ")
    said = hauberk("diff", "-", given=manifest("other", "profile holder {\n}\n"))
    assert (said.code, "refused: NameClash: SecurityProfile holder already holds" in said.out) == (1, True)
    assert hauberk("diff", "-", given="profile raw {\n}\n").code == 2
    assert hauberk("diff", "/nope").code == 2
    assert hauberk("diff", "-", given="apiVersion: hauberk.dev/v1\nkind: SecurityProfile\n").code == 2


def test_wait_for_the_end_of_a_profile(cluster: Cluster, hauberk: Hauberk):
    publish(cluster, "ending")
    cluster.delete("securityprofiles", "ending")
    said = hauberk("wait", "ending", "--for", "delete", "--timeout", "0")
    assert (said.code, "ending: not deleted: Terminating: " in said.err) == (1, True)
    for node in ("one", "two"):
        cluster.report(node)
    said = hauberk("wait", "ending", "--for", "delete", "--timeout", "50s")
    assert (said.code, said.out) == (0, "ending: deleted\n")


def test_wait_survives_a_restart_of_the_api_server(cluster: Cluster, control_plane: ControlPlane):
    digest = publish(cluster, "through")
    cluster.node("three")
    cluster.report("three")
    cluster.taboo = ("Traceback",)  # it answers requests before it knows all roles
    eventually(lambda: cluster.ready("through") == ("False", "Updating"))
    words = [sys.executable, "-m", "hauberk.cli", "wait", "through", "--timeout", "100s"]
    words += ["--kubeconfig", str(control_plane.kubeconfig)]
    waiting = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert waiting.stderr
    assert waiting.stderr.readline().startswith("waiting for through: not Ready: Updating: ")
    control_plane.stop(["kube-apiserver"])
    control_plane.start(["kube-apiserver"])
    eventually(lambda: cluster.report("three", through=digest) is None, within=60)
    assert waiting.communicate(timeout=120)[0] == "through: Ready\n"


def test_diff_of_what_is_there_and_of_what_is_not(cluster: Cluster, hauberk: Hauberk, tmp_path: Path):
    publish(cluster, "compared")
    policy = POLICY.format(name="compared", folder="/tmp")
    (tmp_path / "compared.yaml").write_text(manifest("compared", policy))
    (tmp_path / "README.md").write_text("no profile\n")
    said = hauberk("diff", str(tmp_path))
    assert (said.code, said.out, said.err) == (0, "", "0 to change, 1 unchanged\n")

    selector = {"matchLabels": {"disk": "ssd"}}
    changed = manifest("compared", policy.replace("/tmp/", "/var/"), nodeSelector=selector)
    cluster.core.patch_node("one", {"metadata": {"labels": {"disk": "ssd"}}})
    said = hauberk("diff", "-", given=changed)
    assert said.code == 1
    assert 'spec.nodeSelector: {} -> {"matchLabels": {"disk": "ssd"}}' in said.out
    assert "\n-  deny /tmp/** w,\n+  deny /var/** w,\n" in said.out
    assert "nodes that load it: one\n" in said.out
    assert "nodes that unload it: two\n" in said.out


def test_diff_renders_a_template_for_the_nodes_that_there_are(cluster: Cluster, hauberk: Hauberk):
    policy = "profile made {\n  file,\n  deny {{ values.folder | aa_path('/**') }} w,\n}\n"
    template = {"values": {"folder": "/tmp"}}
    cluster.apply("made", policy=policy, template=template)
    digest = eventually(lambda: cluster.revisions("made"))[0]["spec"]["content"]["digest"]
    for node in ("one", "two"):
        cluster.report(node, made=digest)
    eventually(lambda: cluster.ready("made") == ("True", "Ready"))
    assert hauberk("diff", "-", given=manifest("made", policy, template=template)).code == 0
    said = hauberk("diff", "-", given=manifest("made", policy, template={"values": {"folder": "/var"}}))
    assert said.code == 1
    assert "spec.template.values.folder: /tmp -> /var" in said.out
    assert '\n-  deny "/tmp/**" w,\n+  deny "/var/**" w,\n' in said.out
    assert "nodes that load it: one, two" in said.out


def test_a_cluster_without_hauberk_and_no_cluster(tmp_path: Path, control_plane: ControlPlane):
    body = yaml.safe_load(control_plane.kubeconfig.read_text())
    for cluster in body["clusters"]:
        cluster["cluster"]["server"] = "https://127.0.0.1:1"
    nowhere = tmp_path / "nowhere"
    nowhere.write_text(yaml.safe_dump(body))
    said = run("status", "--kubeconfig", str(nowhere))
    assert (said.code, "the cluster can't be reached" in said.err) == (3, True)
    said = run("status", "--kubeconfig", str(control_plane.kubeconfig), "--context", "nope")
    assert (said.code, "the kubeconfig has no context nope; it has " in said.err) == (3, True)
    said = run("nodes", "--kubeconfig", str(tmp_path / "none"))
    assert (said.code, "can't be read: No such file" in said.err) == (3, True)
