"""The operator as a process against a real API server, with nodes whose reports the tests write themselves.

What a report leads to is decided in pure code and tested in tests/unit; here it is whether the operator sees
what happens, writes what it decides, and survives what happens to it and to the API server.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, config

from lab.controlplane import ControlPlane
from tests.kube.conftest import Kubectl

GROUP, VERSION = "hauberk.dev", "v1alpha1"
BOOT = "11111111-2222-3333-4444-555555555555"
POLICY = "profile {name} {{\n  file,\n  deny {folder}/** w,\n}}\n"


def eventually(what: Callable[[], Any], within: float = 15) -> Any:
    """Return what a function returns once that is true; what is not there yet is not yet."""
    end = time.monotonic() + within
    while True:
        last: object = None
        try:
            if found := what():
                return found
        except (AssertionError, KeyError, client.ApiException) as error:
            last = error
        assert time.monotonic() < end, f"not within {within:g} s; last: {last}"
        time.sleep(0.05)


class Cluster:
    """The API server with a few nodes in it, and the operator as a process that can be ended."""

    def __init__(
        self, api: client.CustomObjectsApi, core: client.CoreV1Api, kubeconfig: Path, log: Path
    ) -> None:
        self.api, self.core, self.kubeconfig, self.log = api, core, kubeconfig, log
        self.operator: subprocess.Popen[bytes] | None = None

    # --- the operator -------------------------------------------------------------------------------------

    def start(self) -> None:
        environment = {**os.environ, "KUBECONFIG": str(self.kubeconfig), "NAMESPACE": "hauberk-system"}
        environment.pop("POD_NAME", None)  # there are no agents to keep here
        with self.log.open("ab") as log:
            self.operator = subprocess.Popen(
                [sys.executable, "-m", "hauberk.operator.main"], env=environment, stderr=log, stdout=log
            )

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        assert self.operator
        self.operator.send_signal(how)
        self.operator.wait(timeout=20)

    # --- objects ------------------------------------------------------------------------------------------

    def apply(self, name: str, folder: str = "/tmp", **spec: Any) -> None:
        """Create a profile, or replace its spec."""
        policy = spec.pop("policy", POLICY.format(name=name, folder=folder))
        body = {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": "SecurityProfile",
            "metadata": {"name": name},
            "spec": {"type": "AppArmor", "appArmor": {"policy": policy}, **spec},
        }
        try:
            self.api.create_cluster_custom_object(GROUP, VERSION, "securityprofiles", body)
        except client.ApiException as error:
            if error.status != 409:
                raise
            self.api.patch_cluster_custom_object(GROUP, VERSION, "securityprofiles", name, body)

    def get(self, plural: str, name: str) -> dict[str, Any]:
        found: Any = self.api.get_cluster_custom_object(GROUP, VERSION, plural, name)
        return found

    def is_gone(self, plural: str, name: str) -> bool:
        try:
            self.get(plural, name)
        except client.ApiException as error:
            return error.status == 404
        return False

    def delete(self, plural: str, name: str) -> None:
        self.api.delete_cluster_custom_object(GROUP, VERSION, plural, name)

    def revisions(self, profile: str) -> list[dict[str, Any]]:
        """Return a profile's revisions, the wanted one first."""
        listed: Any = self.api.list_cluster_custom_object(
            GROUP, VERSION, "profilerevisions", label_selector=f"hauberk.dev/profile={profile}"
        )
        found = listed["items"]
        return sorted(found, key=lambda one: one["spec"]["placement"]["sequence"], reverse=True)

    def ready(self, name: str) -> tuple[str, str]:
        """Return status and reason of Ready, of the current generation only."""
        body = self.get("securityprofiles", name)
        for one in body["status"]["conditions"]:
            if one["type"] == "Ready" and one["observedGeneration"] == body["metadata"]["generation"]:
                return one["status"], one["reason"]
        return "", ""

    def node(self, name: str, *, ready: bool = True) -> None:
        """Make a node, or change whether it is Ready."""
        labels = {"kubernetes.io/os": "linux"}
        body = client.V1Node(metadata=client.V1ObjectMeta(name=name, labels=labels))
        try:
            self.core.create_node(body)
        except client.ApiException as error:
            if error.status != 409:
                raise
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        condition = {"type": "Ready", "status": str(ready), "lastTransitionTime": now, "reason": "Test"}
        info = dict.fromkeys(
            (
                "architecture",
                "containerRuntimeVersion",
                "kernelVersion",
                "kubeProxyVersion",
                "kubeletVersion",
                "machineID",
                "operatingSystem",
                "osImage",
                "systemUUID",
            ),
            "",
        )
        status = {"conditions": [condition], "nodeInfo": {**info, "bootID": BOOT}}
        self.core.patch_node_status(name, {"status": status})

    def report(self, node: str, **profiles: str) -> None:
        """Write a node's report as its agent would."""
        held = {name.replace("_", "-"): f"{digest}/enforce/0123456789" for name, digest in profiles.items()}
        body = {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": "ProfileNode",
            "metadata": {"name": node},
            "status": {
                "bootID": BOOT,
                "facts": {"appArmor": {"enabled": True}},
                "appArmor": {"profiles": held, "problems": {}},
            },
        }
        try:
            self.api.create_cluster_custom_object(GROUP, VERSION, "profilenodes", body)
        except client.ApiException as error:
            if error.status != 409:
                raise
            there = self.get("profilenodes", node)
            body["metadata"] = {"name": node, "resourceVersion": there["metadata"]["resourceVersion"]}
            self.api.replace_cluster_custom_object(GROUP, VERSION, "profilenodes", node, body)


@pytest.fixture
def cluster(
    kubectl: Kubectl, control_plane: ControlPlane, api: client.CustomObjectsApi, tmp_path: Path
) -> Iterator[Cluster]:
    """An API server with two nodes that have AppArmor, and the operator running."""
    del kubectl  # it is asked for because it brings the CRDs
    with config.new_client_from_config(str(control_plane.kubeconfig)) as connection:
        made = Cluster(api, client.CoreV1Api(connection), control_plane.kubeconfig, tmp_path / "operator.log")
        for node in ("one", "two"):
            made.node(node)
            made.report(node)
        made.start()
        yield made
        if made.operator and made.operator.poll() is None:
            made.stop()
        left: Any = api.list_cluster_custom_object(GROUP, VERSION, "securityprofiles")
        for one in left["items"]:
            name = one["metadata"]["name"]
            api.patch_cluster_custom_object(
                GROUP, VERSION, "securityprofiles", name, {"metadata": {"finalizers": None}}
            )
            made.delete("securityprofiles", name)
        for plural in ("profilerevisions", "profilenodes"):
            api.delete_collection_cluster_custom_object(GROUP, VERSION, plural)
        made.core.delete_collection_node()
        for line in made.log.read_text().splitlines():
            assert "Traceback" not in line, made.log.read_text()


def publish(cluster: Cluster, name: str, folder: str = "/tmp") -> str:
    """Apply a profile, report it from both nodes and return its revision once it is Ready."""
    cluster.apply(name, folder)
    digest = eventually(lambda: cluster.revisions(name))[0]["spec"]["content"]["digest"]
    for node in ("one", "two"):
        cluster.report(node, **{name.replace("-", "_"): digest})
    eventually(lambda: cluster.ready(name) == ("True", "Ready"))
    return digest


def test_it_publishes_and_believes_the_nodes_only(cluster: Cluster):
    cluster.apply("web")
    revision = eventually(lambda: cluster.revisions("web"))[0]

    assert revision["spec"]["content"]["texts"][0]["names"] == ["web"]
    assert cluster.get("securityprofiles", "web")["metadata"]["finalizers"] == ["hauberk.dev/profile"]
    eventually(lambda: cluster.ready("web") == ("False", "Updating"))
    digest = revision["spec"]["content"]["digest"]
    cluster.report("one", web=digest)
    eventually(lambda: cluster.get("securityprofiles", "web")["status"]["summary"]["ready"] == "1/2")
    assert cluster.ready("web") == ("False", "Updating")
    cluster.report("two", web=digest)
    eventually(lambda: cluster.ready("web") == ("True", "Ready"))


def test_an_update_is_not_ready_on_the_old_reports(cluster: Cluster):
    first = publish(cluster, "moving")
    cluster.apply("moving", "/var")
    eventually(lambda: cluster.ready("moving") == ("False", "Updating"))
    new, old = eventually(lambda: len(found := cluster.revisions("moving")) == 2 and found)

    assert old["spec"]["content"]["digest"] == first  # kept while nodes still hold it
    for node in ("one", "two"):
        cluster.report(node, moving=new["spec"]["content"]["digest"])
    eventually(lambda: cluster.ready("moving") == ("True", "Ready"))
    eventually(lambda: len(cluster.revisions("moving")) == 1)


def test_a_changed_selector_replaces_the_old_one(cluster: Cluster):
    publish(cluster, "placed")
    cluster.apply("placed", nodeSelector={"matchLabels": {"a": "b"}})
    eventually(
        lambda: (
            cluster.revisions("placed")[0]["spec"]["placement"]["nodeSelector"]["matchLabels"] == {"a": "b"}
        )
    )
    cluster.api.patch_cluster_custom_object(
        GROUP, VERSION, "securityprofiles", "placed", {"spec": {"nodeSelector": None}}
    )
    eventually(
        lambda: not cluster.revisions("placed")[0]["spec"]["placement"]["nodeSelector"].get("matchLabels")
    )
    assert len(cluster.revisions("placed")) == 1


def test_deletion_waits_for_the_reachable_nodes_and_no_others(cluster: Cluster):
    publish(cluster, "leaving")
    cluster.node("two", ready=False)
    cluster.delete("securityprofiles", "leaving")
    eventually(lambda: cluster.revisions("leaving")[0]["spec"]["placement"]["withdrawn"])
    assert cluster.get("securityprofiles", "leaving")["metadata"]["deletionTimestamp"]

    cluster.report("one")

    # the unreachable node's last report still names it
    assert "leaving" in cluster.get("profilenodes", "two")["status"]["appArmor"]["profiles"]
    eventually(lambda: not cluster.revisions("leaving"))
    eventually(lambda: cluster.is_gone("securityprofiles", "leaving"))


def test_nothing_is_written_when_nothing_changed(cluster: Cluster):
    publish(cluster, "still")
    body, revision = cluster.get("securityprofiles", "still"), cluster.revisions("still")[0]

    cluster.stop(signal.SIGKILL)
    cluster.start()
    cluster.apply("after")  # once this is seen, the restarted operator has seen everything
    eventually(lambda: cluster.ready("after") == ("False", "Updating"))

    for before, after in (
        (body, cluster.get("securityprofiles", "still")),
        (revision, cluster.revisions("still")[0]),
    ):
        assert before["metadata"]["resourceVersion"] == after["metadata"]["resourceVersion"]


def test_what_happened_while_it_was_away_is_seen(cluster: Cluster):
    publish(cluster, "changed")
    publish(cluster, "deleted")
    cluster.stop()
    cluster.apply("changed", policy="profile changed {\n  bogus\n}\n")
    cluster.delete("securityprofiles", "deleted")
    for node in ("one", "two"):
        cluster.report(node, changed=cluster.revisions("changed")[0]["spec"]["content"]["digest"])
    cluster.start()

    eventually(lambda: cluster.ready("changed") == ("False", "PolicyRefused"))
    # withdrawn first, then gone: no report names it any more
    eventually(lambda: not cluster.revisions("deleted"))


def test_it_survives_a_restart_of_the_api_server(cluster: Cluster, control_plane: ControlPlane):
    publish(cluster, "before")
    control_plane.stop(["kube-apiserver"])
    control_plane.start(["kube-apiserver"])

    eventually(lambda: publish(cluster, "afterwards"), within=60)
    assert cluster.operator
    assert cluster.operator.poll() is None


def test_an_unreadable_text_does_not_stop_the_others(cluster: Cluster):
    cluster.apply("hostile", policy='profile hostile {\n  include "/etc/passwd"\n}\n')
    cluster.apply("twice", policy="profile clash {\n}\n")
    publish(cluster, "fine")

    eventually(lambda: cluster.ready("hostile") == ("False", "IncludeRefused"))
    eventually(lambda: cluster.revisions("twice"))
    cluster.apply("twice-again", policy="profile clash {\n}\n")
    eventually(lambda: cluster.ready("twice-again") == ("False", "NameClash"))
    assert cluster.ready("fine") == ("True", "Ready")
