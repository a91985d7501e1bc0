"""How Hauberk goes away: its operator, as the README says, or all of its kinds at once while it runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hauberk.crds.names import GATED_FOR, LABEL_GATED, POD_GATE
from kubernetes import watch

from tests.kube.conftest import CRDS, DEPLOY, Kubectl, deploy, wait_served
from tests.kube.operating import GROUP, VERSION, Cluster, eventually, publish

FINALIZERS = ["hauberk.dev/profile"]


@pytest.fixture
def taking_away(cluster: Cluster, kubectl: Kubectl) -> Iterator[Cluster]:
    """The same, for a test that takes something of deploy/ away: it is put back."""
    cluster.taboo = ()
    yield cluster
    cluster.stop()
    deploy(kubectl)
    wait_served(kubectl)


def finalizers(cluster: Cluster, name: str) -> list[str]:
    return cluster.get("securityprofiles", name)["metadata"].get("finalizers", [])


# -- the operator ends ------------------------------------------------------------------------------


def test_an_operator_that_only_ends_keeps_its_finalizers(cluster: Cluster):
    publish(cluster, "kept")
    cluster.stop()
    assert finalizers(cluster, "kept") == FINALIZERS


def gated(cluster: Cluster, kubectl: Kubectl) -> str:
    """Return the name of a pod that waits for a profile which never comes."""
    name = "leaving-gated"
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}
    metadata = {"name": name, "labels": {LABEL_GATED: "true"}, "annotations": {GATED_FOR: "never"}}
    spec = {
        "serviceAccountName": name,
        "automountServiceAccountToken": False,
        "containers": [{"name": "c", "image": "none"}],
        "schedulingGates": [{"name": POD_GATE}],
    }
    kubectl.ok("apply", "-f", "-", given=account)
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
    kubectl.ok("create", "-f", "-", given=pod)
    about = f"involvedObject.name={name}"
    eventually(lambda: cluster.core.list_namespaced_event("default", field_selector=about).items)
    found: Any = cluster.core.read_namespaced_pod(name, "default")
    assert [one.name for one in found.spec.scheduling_gates] == [POD_GATE]
    return name


@pytest.mark.parametrize(
    "what",
    [
        ["deployment/hauberk-operator", "--namespace=hauberk-system"],
        ["-k", str(DEPLOY / "operator")],
    ],
    ids=["its-deployment", "all-of-it"],
)
def test_an_operator_that_is_taken_away_lets_everything_go(
    taking_away: Cluster, kubectl: Kubectl, what: list[str]
):
    cluster = taking_away
    publish(cluster, "free")
    cluster.api.patch_cluster_custom_object(
        GROUP, VERSION, "securityprofiles", "free", {"metadata": {"finalizers": [*FINALIZERS, "test/other"]}}
    )
    publish(cluster, "deleted")
    cluster.delete("securityprofiles", "deleted")
    eventually(lambda: cluster.revisions("deleted")[0]["spec"]["placement"]["withdrawn"])

    waiting = gated(cluster, kubectl)

    kubectl.ok("delete", "--ignore-not-found", *what)
    cluster.stop()

    pod: Any = cluster.core.read_namespaced_pod(waiting, "default")
    assert pod.spec.scheduling_gates is None
    cluster.core.delete_namespaced_pod(waiting, "default", grace_period_seconds=0)
    assert finalizers(cluster, "free") == ["test/other"]
    assert not cluster.revisions("free")[0]["spec"]["placement"]["withdrawn"]
    assert cluster.is_gone("securityprofiles", "deleted")


def test_an_operator_that_could_not_begin_lets_everything_go_too(taking_away: Cluster, kubectl: Kubectl):
    """It was started again after its rights were gone, and waits for what it may not read."""
    cluster = taking_away
    publish(cluster, "waited-for")
    cluster.stop()
    kubectl.ok("delete", "--ignore-not-found", "-k", str(DEPLOY / "operator"))
    cluster.log.write_text("")
    cluster.start()
    eventually(lambda: "can't be read" in cluster.log.read_text())
    assert finalizers(cluster, "waited-for") == FINALIZERS
    cluster.stop()
    assert finalizers(cluster, "waited-for") == []


# -- the kinds go away ------------------------------------------------------------------------------


def revisions_then(cluster: Cluster, since: str) -> list[dict[str, Any]]:
    """Return every state that revisions have had since a moment that a list's resourceVersion tells."""
    stream = watch.Watch().stream(
        cluster.api.list_cluster_custom_object,
        GROUP,
        VERSION,
        "profilerevisions",
        resource_version=since,
        timeout_seconds=1,
    )
    told: list[Any] = list(stream)
    return [one["object"] for one in told]


def test_a_kind_that_goes_away_takes_nothing_from_the_nodes(taking_away: Cluster, kubectl: Kubectl):
    """Only SecurityProfiles' definition: what becomes of the revisions can be watched."""
    cluster = taking_away
    for name in ("one", "two"):
        publish(cluster, name)
    listed: Any = cluster.api.list_cluster_custom_object(GROUP, VERSION, "profilerevisions")

    kubectl.ok("delete", "crd/securityprofiles.hauberk.dev", "--timeout=30s")

    left = revisions_then(cluster, listed["metadata"]["resourceVersion"])
    assert not [one for one in left if one["spec"]["placement"]["withdrawn"]]
    for name in ("one", "two"):
        assert len(cluster.revisions(name)) == 1


def test_kinds_that_went_away_while_nobody_was_there_and_come_back(taking_away: Cluster, kubectl: Kubectl):
    """An operator that was started again meanwhile lets them go, and serves the next ones."""
    cluster = taking_away
    publish(cluster, "before")
    cluster.stop()
    assert finalizers(cluster, "before") == FINALIZERS
    kubectl.ok("delete", "-k", str(CRDS), "--wait=false")
    kubectl.ok("wait", "crd/profilerevisions.hauberk.dev", "--for=delete", "--timeout=30s")
    assert not cluster.is_gone("securityprofiles", "before")

    cluster.start()

    kubectl.ok("wait", "crd/securityprofiles.hauberk.dev", "--for=delete", "--timeout=30s")
    deploy(kubectl)
    wait_served(kubectl)
    cluster.apply("anew")
    (revision,) = eventually(lambda: cluster.revisions("anew"), within=60)
    assert revision["spec"]["installation"] == cluster.installation()
    cluster.apply("anew", "/var")  # a watch told of it: nothing else would within minutes
    eventually(lambda: len(cluster.revisions("anew")) == 2)
