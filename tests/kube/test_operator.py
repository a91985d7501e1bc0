"""The operator as a process against a real API server, with nodes whose reports the tests write themselves.

What a report leads to is decided in pure code and tested in tests/unit; here it is whether the operator sees
what happens, writes what it decides, and survives what happens to it and to the API server.
"""

from __future__ import annotations

import itertools
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from hauberk.crds.names import PENDING_TAINT
from kubernetes import client

from lab.controlplane import ControlPlane
from tests.kube.accounts import SYSTEM
from tests.kube.operating import GROUP, VERSION, Cluster, eventually, publish

numbers = itertools.count(1)


def everything_is_seen(cluster: Cluster):
    """Return once the operator has decided on what was written before."""
    for _ in range(2):  # the second one is decided on after the first round was carried out whole
        name = f"after-{next(numbers)}"
        cluster.apply(name)
        eventually(lambda name=name: cluster.message(name).startswith("verified on"))


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
    everything_is_seen(cluster)

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
    cluster.taboo = ("Traceback",)  # it answers requests before it knows all roles
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


def orphan(uid: str, installation: str) -> dict[str, str]:
    return {"uid": uid, "installation": installation}


GONE, ELSEWHERE = "00000000-0000-0000-0000-00000000dead", "00000000-0000-0000-0000-0000000e15e0"


def test_nodes_that_missed_a_deletion_are_told_until_they_hold_nothing(cluster: Cluster):
    digest = publish(cluster, "alive")
    here, uid = cluster.installation(), cluster.get("securityprofiles", "alive")["metadata"]["uid"]
    unsure = {"alive": orphan(uid, here), "elsewhere": orphan(GONE, ELSEWHERE), "unknown": orphan(GONE, "")}
    cluster.report("one", {"missed": orphan(GONE, here), **unsure}, alive=digest)
    (stone,) = eventually(lambda: cluster.revisions("missed"))

    assert stone["spec"]["profileUID"] == GONE
    assert stone["spec"]["installation"] == here
    assert stone["spec"]["placement"]["withdrawn"] is True
    assert not stone["spec"].get("content", {}).get("texts")
    # all of a report is decided at once, in the order of names, so the others have been decided
    assert not cluster.revisions("elsewhere")
    assert not cluster.revisions("unknown")
    (wanted,) = cluster.revisions("alive")
    assert not wanted["spec"]["placement"].get("withdrawn")

    cluster.report("two", {"missed": orphan(GONE, here)}, alive=digest)
    cluster.report("one", alive=digest)
    everything_is_seen(cluster)
    assert cluster.revisions("missed") == [stone]
    cluster.report("two", alive=digest)
    eventually(lambda: not cluster.revisions("missed"))


def test_an_earlier_object_of_the_same_name_is_told_of_beside_the_later_one(cluster: Cluster):
    digest = publish(cluster, "again")
    cluster.report("one", {"again": orphan(GONE, cluster.installation())}, again=digest)
    wanted, stone = eventually(lambda: len(found := cluster.revisions("again")) == 2 and found)

    assert stone["spec"]["profileUID"] == GONE
    assert wanted["spec"]["content"]["digest"] == digest
    assert not wanted["spec"]["placement"].get("withdrawn")
    assert cluster.ready("again") == ("True", "Ready")


def test_a_repair_is_told_once_and_an_old_one_never(cluster: Cluster):
    digest = publish(cluster, "drifted")
    cluster.stop()

    def repaired(count: int) -> None:
        told = {"drifted": {"count": count, "message": "the kernel had no drifted"}}
        cluster.report("one", repairs=told, drifted=digest)

    repaired(3)
    cluster.start()
    everything_is_seen(cluster)
    assert not cluster.events("drifted", "DriftRepaired")

    repaired(4)
    (event,) = eventually(lambda: cluster.events("drifted", "DriftRepaired"))
    assert event.type == "Warning"
    assert event.message.startswith("one: the kernel had no drifted; it is loaded again (4 times since")
    cluster.report("two", drifted=digest)
    everything_is_seen(cluster)
    assert len(cluster.events("drifted", "DriftRepaired")) == 1


def test_a_deletion_is_forced_by_the_annotation(cluster: Cluster):
    publish(cluster, "held")
    cluster.delete("securityprofiles", "held")
    eventually(lambda: cluster.revisions("held")[0]["spec"]["placement"]["withdrawn"])
    assert not cluster.revisions("held")[0]["spec"]["placement"].get("force")

    change = {"metadata": {"annotations": {"hauberk.dev/force-delete": "true"}}}
    cluster.api.patch_cluster_custom_object(GROUP, VERSION, "securityprofiles", "held", change)
    eventually(lambda: cluster.revisions("held")[0]["spec"]["placement"]["force"])
    assert not cluster.is_gone("securityprofiles", "held")  # nodes hold it still

    for node in ("one", "two"):
        cluster.report(node)
    eventually(lambda: cluster.is_gone("securityprofiles", "held"))
    eventually(lambda: not cluster.revisions("held"))


def test_a_deletion_goes_on_where_its_revisions_were_lost(cluster: Cluster):
    digest = publish(cluster, "bereft")
    uid = cluster.get("securityprofiles", "bereft")["metadata"]["uid"]
    cluster.stop()
    cluster.delete("securityprofiles", "bereft")
    for one in cluster.revisions("bereft"):
        cluster.delete("profilerevisions", one["metadata"]["name"])
    cluster.report("one", {"bereft": orphan(uid, cluster.installation())}, bereft=digest)
    cluster.report("two")
    cluster.start()
    (stone,) = eventually(lambda: cluster.revisions("bereft"))
    assert stone["spec"]["placement"]["withdrawn"] is True

    cluster.report("one", bereft=digest)  # told, and a task is confined by it
    everything_is_seen(cluster)
    assert cluster.revisions("bereft") == [stone]
    assert cluster.ready("bereft") == ("False", "Terminating")

    cluster.report("one")
    eventually(lambda: cluster.is_gone("securityprofiles", "bereft"))
    eventually(lambda: not cluster.revisions("bereft"))


# --- nodes with SELinux ------------------------------------------------------------------------------------

MODULE = "(block {} (type process))"
FEDORA = {"lsms": ["capability", "selinux"], "seccomp": True}


def labels(cluster: Cluster, node: str) -> dict[str, str]:
    """Return Hauberk's own labels of a node."""
    found: Any = cluster.core.read_node(node)
    prefix = "hauberk.dev/"
    return {
        key.removeprefix(prefix): value
        for key, value in (found.metadata.labels or {}).items()
        if key.startswith(prefix)
    }


def module(cluster: Cluster, name: str) -> str:
    """Apply an SELinux module and return its revision once it is published."""
    body = {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "SecurityProfile",
        "metadata": {"name": name},
        "spec": {"type": "SELinux", "selinux": {"policy": MODULE.format(name)}},
    }
    cluster.api.create_cluster_custom_object(GROUP, VERSION, "securityprofiles", body)
    return eventually(lambda: cluster.revisions(name))[0]["spec"]["content"]["digest"]


def test_nodes_are_labelled_by_what_they_are_and_need(cluster: Cluster):
    fedoras = {"lsm-apparmor": "false", "lsm-selinux": "true"}
    cluster.tell("one", {"lsms": ["apparmor"], "appArmor": {"enabled": True}}, appArmor={})
    cluster.tell("two", FEDORA)
    eventually(lambda: labels(cluster, "one") == {"lsm-apparmor": "true", "lsm-selinux": "false"})
    eventually(lambda: labels(cluster, "two") == fedoras)
    found: Any = cluster.core.read_node("two")
    everything_is_seen_without_nodes(cluster)
    again: Any = cluster.core.read_node("two")
    assert again.metadata.resource_version == found.metadata.resource_version

    digest = module(cluster, "logger")
    eventually(lambda: labels(cluster, "two") == {**fedoras, "agent": "selinux"})
    assert labels(cluster, "one") == {"lsm-apparmor": "true", "lsm-selinux": "false"}
    eventually(lambda: cluster.ready("logger") == ("False", "Updating"))
    held = {"profiles": {"logger": f"{digest}/enforcing/0123456789"}}
    cluster.tell("two", FEDORA, selinux=held, seccomp={})
    eventually(lambda: cluster.ready("logger") == ("True", "Ready"))
    status = cluster.get("securityprofiles", "logger")["status"]
    assert status["reference"] == {"seLinuxOptions": {"type": "logger.process"}}
    assert (status["nodes"]["targeted"], status["nodes"]["unsupported"]) == (1, 1)

    cluster.delete("securityprofiles", "logger")
    in_use = {"revision": digest, "reason": "InUse", "message": "1 task runs as logger.process"}
    cluster.tell("two", FEDORA, selinux={**held, "problems": {"logger": in_use}})
    eventually(lambda: "1 task runs as logger.process" in cluster.message("logger"))
    assert labels(cluster, "two") == {**fedoras, "agent": "selinux"}
    cluster.tell("two", FEDORA, selinux={}, seccomp={})
    eventually(lambda: cluster.is_gone("securityprofiles", "logger"))
    eventually(lambda: labels(cluster, "two") == fedoras)


def taints(cluster: Cluster, node: str) -> set[str]:
    found: Any = cluster.core.read_node(node)
    return {one.key for one in found.spec.taints or []}


def test_a_new_node_is_closed_until_it_holds_every_profile(cluster: Cluster):
    held = {name: publish(cluster, name) for name in ("first", "second")}
    spec = client.V1NodeSpec(
        taints=[client.V1Taint(key=key, effect="NoSchedule") for key in (PENDING_TAINT, "others")]
    )
    cluster.core.create_node(client.V1Node(metadata=client.V1ObjectMeta(name="new"), spec=spec))
    cluster.node("new")
    everything_is_seen(cluster)
    assert PENDING_TAINT in taints(cluster, "new")  # its agent has told nothing
    cluster.report("new", first=held["first"])
    everything_is_seen(cluster)
    assert PENDING_TAINT in taints(cluster, "new")
    # what everything_is_seen applied is meant for the new node as well: it has to hold that too
    for name in list(cluster.names("securityprofiles")):
        held[name] = cluster.revisions(name)[0]["spec"]["content"]["digest"]
    everything: Any = {name.replace("-", "_"): digest for name, digest in held.items()}
    cluster.report("new", **everything)
    eventually(lambda: PENDING_TAINT not in taints(cluster, "new"))
    assert "others" in taints(cluster, "new")
    # and nobody closes it again
    cluster.report("new")
    everything_is_seen(cluster)
    assert PENDING_TAINT not in taints(cluster, "new")


def everything_is_seen_without_nodes(cluster: Cluster) -> None:
    """Return once the operator has decided on what was written before, whatever the nodes can hold."""
    for _ in range(2):
        name = f"after-{next(numbers)}"
        cluster.apply(name, suspend=True)
        eventually(lambda name=name: cluster.ready(name) == ("False", "Suspended"))


@pytest.fixture
def with_agents(cluster: Cluster) -> Iterator[Cluster]:
    """The operator as its Deployment has it: as a pod, whose image the agents get."""
    name = "hauberk-operator-test"
    container = client.V1Container(
        name="operator", image="registry.example/hauberk:1", image_pull_policy="Always"
    )
    spec = client.V1PodSpec(service_account_name="hauberk-operator", containers=[container])
    pod = client.V1Pod(metadata=client.V1ObjectMeta(name=name), spec=spec)
    cluster.core.create_namespaced_pod(SYSTEM, pod)
    cluster.stop_operator()
    cluster.pod = name
    cluster.start()
    yield cluster
    cluster.stop_operator()
    cluster.pod = ""
    cluster.core.delete_namespaced_pod(name, SYSTEM, grace_period_seconds=0)
    client.AppsV1Api(cluster.core.api_client).delete_collection_namespaced_daemon_set(SYSTEM)
    cluster.start()


def test_both_agents_are_applied_and_kept(with_agents: Cluster):
    apps = client.AppsV1Api(with_agents.core.api_client)

    def there() -> dict[str, Any]:
        listed: Any = apps.list_namespaced_daemon_set(SYSTEM)
        return {one.metadata.name: one for one in listed.items}

    eventually(lambda: there().keys() == {"hauberk-agent", "hauberk-agent-selinux"})
    pods = {name: one.spec.template.spec for name, one in there().items()}
    for spec in pods.values():
        assert [one.image for one in spec.containers] == ["registry.example/hauberk:1"]
        assert [one.image_pull_policy for one in spec.containers] == ["Always"]
    privileged = {name: bool(spec.containers[0].security_context.privileged) for name, spec in pods.items()}
    assert privileged == {"hauberk-agent": False, "hauberk-agent-selinux": True}
    assert pods["hauberk-agent-selinux"].node_selector["hauberk.dev/agent"] == "selinux"
    selectors = [tuple(one.spec.selector.match_labels.items()) for one in there().values()]
    assert len(set(selectors)) == 2  # neither takes the other's pods for its own

    for name in pods:
        before = there()[name].metadata.uid
        apps.delete_namespaced_daemon_set(name, SYSTEM)
        eventually(lambda name=name, before=before: there()[name].metadata.uid != before)
        change = {"spec": {"template": {"spec": {"hostPID": False}}}}
        apps.patch_namespaced_daemon_set(name, SYSTEM, change)
        eventually(lambda name=name: there()[name].spec.template.spec.host_pid is True)
