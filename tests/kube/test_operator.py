"""The operator as a process against a real API server, with nodes whose reports the tests write themselves.

What a report leads to is decided in pure code and tested in tests/unit; here it is whether the operator sees
what happens, writes what it decides, and survives what happens to it and to the API server.
"""

from __future__ import annotations

import itertools
import signal

from lab.controlplane import ControlPlane
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
