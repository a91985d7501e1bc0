"""`hauberk why` against a real API server: what it reads of pods, with which rights, and what it says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client

from lab.controlplane import ControlPlane
from tests.kube.accounts import Accounts
from tests.kube.conftest import Kubectl
from tests.kube.operating import Cluster, eventually, publish
from tests.kube.test_cli import Hauberk, Said, account, run, trouble

SHOP = "shop"


@pytest.fixture
def hauberk(control_plane: ControlPlane) -> Hauberk:
    """Return the command line with all rights, in the namespace of the pods."""

    def call(*words: str, given: str = "") -> Said:
        return run("why", *words, "-n", SHOP, "--kubeconfig", str(control_plane.kubeconfig), given=given)

    return call


@pytest.fixture
def shop(kubectl: Kubectl, cluster: Cluster) -> Iterator[Cluster]:
    """Return a cluster with a namespace for pods, which are all gone afterwards."""
    for kind, name in (("Namespace", SHOP), ("ServiceAccount", "default")):
        metadata = {"name": name} if kind == "Namespace" else {"name": name, "namespace": SHOP}
        kubectl.ok("apply", "-f", "-", given={"apiVersion": "v1", "kind": kind, "metadata": metadata})
    for node in ("one", "two"):  # nobody takes off what the API server puts on a new Node
        cluster.core.patch_node(node, {"spec": {"taints": None}})
    yield cluster
    cluster.core.delete_collection_namespaced_pod(SHOP, grace_period_seconds=0)


def pod(name: str, profile: str, **spec: Any) -> dict[str, Any]:
    context = {"appArmorProfile": {"type": "Localhost", "localhostProfile": profile}}
    containers = [{"name": "app", "image": "x", "securityContext": context}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": SHOP},
        "spec": {"containers": containers, "automountServiceAccountToken": False, **spec},
    }


def create(cluster: Cluster, body: Any) -> str:
    """Create a pod and return its UID."""
    made: Any = cluster.core.create_namespaced_pod(SHOP, body)
    return made.metadata.uid


def waits(cluster: Cluster, name: str, reason: str, message: str) -> None:
    """Write into a pod's status, as its kubelet would, that its container waits."""
    state = {"waiting": {"reason": reason, "message": message}}
    container = {
        "name": "app",
        "image": "x",
        "imageID": "",
        "ready": False,
        "restartCount": 0,
        "state": state,
    }
    status = {"status": {"phase": "Pending", "containerStatuses": [container]}}
    cluster.core.patch_namespaced_pod_status(name, SHOP, status)


def runs(cluster: Cluster, name: str) -> None:
    """Write into a pod's status, as its kubelet would, that it runs."""
    state = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
    container = {"name": "app", "image": "x", "imageID": "", "ready": True, "restartCount": 0, "state": state}
    status = {"status": {"phase": "Running", "containerStatuses": [container]}}
    cluster.core.patch_namespaced_pod_status(name, SHOP, status)


def warn(cluster: Cluster, name: str, uid: str, message: str) -> None:
    involved = client.V1ObjectReference(api_version="v1", kind="Pod", name=name, namespace=SHOP, uid=uid)
    event = client.CoreV1Event(
        metadata=client.V1ObjectMeta(generate_name=f"{name}.", namespace=SHOP),
        involved_object=involved,
        type="Warning",
        reason="Failed",
        message=message,
    )
    cluster.core.create_namespaced_event(SHOP, event)


def test_a_pod_that_is_confined(shop: Cluster, hauberk: Hauberk):
    digest = publish(shop, "sold")
    create(shop, pod("web-0", "sold", nodeName="one"))
    runs(shop, "web-0")
    said = hauberk("web-0")
    assert (said.code, said.err) == (0, "")
    assert "Verdict:  fine: one holds every profile of Hauberk's that it names\n" in said.out
    told = hauberk("pod/web-0", "-o", "json").object
    (one,) = told["confinement"]
    assert (told["fine"], one["state"], one["revision"], one["mode"], one["digest"]) == (
        True,
        "ready",
        digest,
        "enforce",
        "0123456789",
    )
    assert yaml.safe_load(hauberk("web-0", "-o", "yaml").out) == told


def test_a_name_that_is_not_there_and_what_the_events_say(shop: Cluster, hauberk: Hauberk):
    publish(shop, "sold")
    uid = create(shop, pod("web-1", "slod", nodeName="one"))
    waits(shop, "web-1", "CreateContainerError", "apparmor profile not found slod")
    warn(shop, "web-1", uid, "a sandbox \x1b[31mfell over")
    warn(shop, "another", "another", "is not told")
    said = hauberk("web-1")
    assert said.code == 1
    assert "UnknownProfile: no SecurityProfile defines the AppArmor profile slod\n" in said.out
    assert "did you mean sold?" in said.out
    assert "container app waits: CreateContainerError: apparmor profile not found slod\n" in said.out
    assert "Event Failed: a sandbox ?[31mfell over\n" in said.out
    assert "is not told" not in said.out


def test_a_node_that_refuses_it_and_one_that_is_not_ready(shop: Cluster, hauberk: Hauberk):
    digest = publish(shop, "sold")
    shop.report("one")
    trouble(shop, "one", "sold", digest, "the kernel says no")
    eventually(lambda: shop.ready("sold") == ("False", "NodesFailed"))
    create(shop, pod("web-2", "sold", nodeName="one"))
    said = hauberk("web-2")
    assert said.code == 1
    assert "LoadFailed: one has not loaded sold: the kernel says no\n" in said.out
    assert "keep the pod on nodes that hold it: two" in " ".join(said.out.split())
    shop.node("two", ready=False)
    create(shop, pod("web-3", "sold", nodeName="two"))
    eventually(lambda: "NodesUnreachable: " in hauberk("web-3").out)


def test_a_pod_behind_the_gate_and_one_that_fits_nowhere(shop: Cluster, hauberk: Hauberk):
    publish(shop, "sold")
    gates = [{"name": "hauberk.dev/profiles-pending"}]
    create(shop, pod("web-4", "sold", schedulingGates=gates))
    said = hauberk("web-4", "-o", "json").object
    assert [one["reason"] for one in said["causes"]] == ["Gated"]
    create(shop, pod("web-5", "sold", nodeSelector={"disk": "ssd"}))
    said = hauberk("web-5", "-o", "json").object
    (cause,) = said["causes"]
    assert cause["reason"] == "NoFittingNode"
    assert cause["evidence"] == [
        "one: the pod's nodeSelector disk=ssd",
        "two: the pod's nodeSelector disk=ssd",
    ]


def test_the_api_servers_own_fields_for_the_old_annotation(shop: Cluster, hauberk: Hauberk):
    publish(shop, "sold")
    body = pod("web-6", "sold", nodeName="one")
    body["spec"]["containers"][0].pop("securityContext")
    body["metadata"]["annotations"] = {"container.apparmor.security.beta.kubernetes.io/app": "localhost/sold"}
    create(shop, body)
    told = hauberk("web-6", "-o", "json").object
    assert [(one["names"], one["state"]) for one in told["confinement"]] == [("sold", "ready")]


def test_files_before_they_are_applied(shop: Cluster, hauberk: Hauberk):
    publish(shop, "sold")
    body = pod("web-7", "sold")
    template = {"metadata": {"labels": {"a": "b"}}, "spec": body["spec"]}
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}}
    deployment |= {"spec": {"template": template}}
    said = hauberk("-f", "-", given=yaml.safe_dump_all([deployment, {**body, "kind": "Service"}]))
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith("Pod:      Deployment web\n")
    body["spec"]["containers"][0]["securityContext"]["appArmorProfile"]["localhostProfile"] = "nobodys"
    said = hauberk("-f", "-", "-o", "json", given=json.dumps(body))
    assert said.code == 1
    assert [cause["reason"] for one in said.object for cause in one["causes"]] == ["UnknownProfile"]


def test_pods_and_namespaces_that_are_not_there(shop: Cluster, hauberk: Hauberk, control_plane: ControlPlane):
    del shop
    said = hauberk("nobody")
    assert (said.code, said.out, said.err) == (1, "", "error: there is no pod nobody in namespace shop\n")
    words = ["--kubeconfig", str(control_plane.kubeconfig)]
    said = run("why", "x", "-n", "nowhere", *words)
    assert said.code == 1
    assert said.err == "error: there is no pod x in namespace nowhere: there is no namespace nowhere\n"
    assert run("why", "x", *words).err == "error: there is no pod x in namespace default\n"


def test_with_the_rights_that_the_page_names(
    shop: Cluster, kubectl: Kubectl, accounts: Accounts, tmp_path: Path
):
    digest = publish(shop, "sold")
    uid = create(shop, pod("web-8", "sold", nodeName="one"))
    runs(shop, "web-8")
    warn(shop, "web-8", uid, "of yesterday")
    file = account(kubectl, accounts, tmp_path, "seller", "hauberk-viewer")
    words = ["web-8", "-n", SHOP, "--kubeconfig", str(file)]
    said = eventually(
        lambda: (told := run("why", *words)).code == 3 and "you may not read pods" in told.err and told
    )
    assert "you may not read pods in namespace shop: that is the namespace's own right, and the" in said.err
    assert said.out == ""
    binding: dict[str, Any] = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "seller", "namespace": SHOP},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "pods"},
        "subjects": [{"kind": "ServiceAccount", "name": "seller", "namespace": "default"}],
    }
    role: dict[str, Any] = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": "pods", "namespace": SHOP},
        "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}],
    }
    for one in (role, binding):
        kubectl.ok("apply", "-f", "-", given=one)
    said = eventually(lambda: (told := run("why", *words)).code == 0 and told)
    assert "you may not list events in namespace shop: none are shown" in said.err
    assert "you may not list Nodes" in said.err
    told = run("why", *words, "-o", "json").object
    assert [(one["state"], one["revision"]) for one in told["confinement"]] == [("reported", digest)]
    role["rules"].append({"apiGroups": [""], "resources": ["events"], "verbs": ["list"]})
    kubectl.ok("apply", "-f", "-", given=role)
    eventually(lambda: "events" not in run("why", *words).err)
