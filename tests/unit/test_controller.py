"""The operator's loop, with an API that refuses."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import math
from typing import Any, cast

import pytest
from hauberk.crds.errors import BusyFault, ClusterFault
from hauberk.crds.metrics import GATED_PODS, GATES_OPENED, LEADER, PENDING, PROFILE_READY
from hauberk.crds.models import (
    Content,
    Metadata,
    Placement,
    ProfileRevision,
    RevisionSpec,
    SecurityProfile,
    decode,
    encode,
)
from hauberk.crds.names import (
    FINALIZER,
    GATED_FOR,
    LABEL_GATED,
    PENDING_TAINT,
    POD_GATE,
    PROFILE_NODES,
    PROFILE_REVISIONS,
    SECURITY_PROFILES,
)
from hauberk.crds.pods import PodObject
from hauberk.operator import controller as controllers
from hauberk.operator.backoffs import AGAIN_SECONDS
from hauberk.operator.controller import Controller
from hauberk.operator.gates import PATIENCE_SECONDS, SETTLING_SECONDS
from hauberk.operator.operators_cluster import OperatorsCluster
from hauberk.operator.pace import DISTANCES, PER_SECOND
from hauberk.operator.snapshot import Store
from hauberk.operator.writes import (
    AddFinalizer,
    LabelNode,
    OpenGate,
    PodOf,
    RemoveFinalizer,
    TellOfPod,
    Untaint,
    Write,
)

from tests.unit.loops import Api, body, going, report


@pytest.fixture
def api() -> Api:
    return Api()


def controller_of(api: Api) -> Controller:
    return Controller(cast("OperatorsCluster", api))


def clock(controller: Controller) -> list[float]:
    """Have a controller's time stand still, at what the list's one entry says."""
    now = [100.0]
    controller.clock = lambda: now[0]
    return now


def a_revision(name: str, *, withdrawn: bool = False) -> dict[str, Any]:
    placement = Placement(sequence=1, withdrawn=withdrawn)
    content = Content(digest="0123456789", mode="Enforce")
    spec = RevisionSpec(
        profile=name,
        profile_uid=f"uid-{name}",
        type="AppArmor",
        contract=1,
        content=content,
        placement=placement,
    )
    return encode(ProfileRevision(metadata=Metadata(name=f"{name}.0123456789"), spec=spec))


async def test_what_the_admission_refused_is_told_once(api: Api):
    controller = controller_of(api)
    for name, said in (("a", "Accepted"), ("b", ""), ("c", "PolicyRefused")):
        controller.seen(SECURITY_PROFILES, name, body(name, said=said), deleted=False)
    await controller.reconcile()
    await controller.reconcile()
    assert {name: one.summary.status for name, one in api.statuses.items()} == {
        "a": "Updating",
        "b": "Updating",
        "c": "PolicyRefused",
    }
    assert api.events == ["c PolicyRefused True True"]
    assert api.writes == []


async def test_what_nodes_load_does_not_outlive_its_object(api: Api):
    controller = controller_of(api)
    fresh = body("a")
    fresh["metadata"]["finalizers"] = ["someone.else/kept"]
    controller.seen(SECURITY_PROFILES, "a", fresh, deleted=False)
    await controller.reconcile()
    await controller.reconcile()  # before the watch tells of what was written
    (write,) = api.writes
    assert isinstance(write, AddFinalizer)
    assert controller.profiles["a"].metadata.finalizers == ["someone.else/kept", FINALIZER]


async def test_it_keeps_no_text(api: Api):
    controller = controller_of(api)
    controller.seen(SECURITY_PROFILES, "a", body("a", "profile secret { }"), deleted=False)
    revision = a_revision("a")
    revision["spec"]["content"]["texts"] = [
        {"id": "0" * 10, "text": "profile secret { }", "names": ["secret"]}
    ]
    controller.seen(PROFILE_REVISIONS, "a.0123456789", revision, deleted=False)
    assert "profile secret" not in repr(controller.snapshot())
    assert controller.revisions["a.0123456789"].spec.content.texts[0].names == ["secret"]


async def test_what_did_not_change_is_not_written(api: Api):
    controller = controller_of(api)
    controller.seen(SECURITY_PROFILES, "c", body("c", said="PolicyRefused"), deleted=False)
    await controller.reconcile()
    api.statuses.clear()
    api.events.clear()
    await controller.reconcile()
    assert (api.statuses, api.events) == ({}, [])


async def test_a_heartbeat_wakes_nobody(api: Api):
    controller = controller_of(api)
    for _ in range(2):
        controller.wake.clear()
        controller.seen(SECURITY_PROFILES, "a", body("a"), deleted=False)
    assert not controller.wake.is_set()
    controller.seen(SECURITY_PROFILES, "a", {}, deleted=True)
    assert controller.wake.is_set()
    assert controller.profiles == {}


async def test_an_object_that_can_not_be_read_is_passed_over(api: Api):
    controller = controller_of(api)
    controller.seen(SECURITY_PROFILES, "bad", {"metadata": {"name": "bad"}}, deleted=False)
    controller.seen(SECURITY_PROFILES, "a", body("a"), deleted=False)
    assert list(controller.profiles) == ["a"]


async def test_an_event_that_is_refused_holds_no_other_profile_up(api: Api):
    controller = controller_of(api)
    for name in ("a", "b"):
        controller.seen(SECURITY_PROFILES, name, body(name, said="PolicyRefused"), deleted=False)
    api.refused = {"events"}
    await controller.reconcile()
    assert set(api.statuses) == {"a", "b"}


async def test_a_status_that_is_refused_holds_no_other_profile_up(api: Api):
    """One object that the API refuses for good (a webhook, a quota, a schema) stops all others for ever."""
    controller = controller_of(api)
    for name in ("a", "b"):
        controller.seen(SECURITY_PROFILES, name, body(name), deleted=False)
    api.refused = {"a/status"}
    now = clock(controller)
    await controller.reconcile()  # a failure would be raised, and all of the next round put off
    assert set(api.statuses) == {"b"}
    waits: list[float] = []
    for _ in range(3):
        waits.append(controller.due - now[0])
        now[0] = controller.due - 0.1
        api.tried.clear()
        controller.due = math.inf
        await controller.reconcile()
        assert api.tried == []  # it is left alone, and the loop knows until when
        now[0], controller.due = controller.due, math.inf
        await controller.reconcile()
        assert api.tried == ["a"]
    assert waits == pytest.approx([1.0, 2.0, 4.0])
    controller.seen(SECURITY_PROFILES, "a", body("a", generation=2), deleted=False)
    api.refused = set()
    await controller.reconcile()  # it is another one now
    assert set(api.statuses) == {"a", "b"}


async def test_a_list_does_not_undo_what_a_watch_told_meanwhile(api: Api):
    controller = controller_of(api)
    api.listed = {SECURITY_PROFILES: [body("a", generation=1)]}
    api.while_listing = lambda: controller.seen(
        SECURITY_PROFILES, "a", body("a", generation=2), deleted=False
    )
    await controller.relist()
    assert controller.profiles["a"].metadata.generation == 2


async def test_a_list_forgets_what_is_gone(api: Api):
    controller = controller_of(api)
    controller.seen(SECURITY_PROFILES, "gone", body("gone"), deleted=False)
    api.listed = {SECURITY_PROFILES: [body("a")], PROFILE_REVISIONS: []}
    await controller.relist()
    assert list(controller.profiles) == ["a"]


async def test_a_node_lacks_its_agent_since_that_was_noticed(api: Api):
    controller = controller_of(api)
    node = {"metadata": {"name": "n", "creationTimestamp": "2026-01-01T00:00:00Z"}}
    controller.seen("nodes", "n", node, deleted=False)
    first = controller.snapshot().agents["n"]
    assert not first.ready
    assert controller.snapshot().agents["n"].since == first.since
    pod = {
        "metadata": {"name": "agent-x", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"nodeName": "n"},
        "status": {
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]
        },
    }
    controller.seen("pods", "agent-x", pod, deleted=False)
    assert controller.snapshot().agents["n"].ready
    controller.seen("pods", "agent-x", pod, deleted=True)
    assert controller.snapshot().agents["n"].since > first.since


def an_agents_pod(name: str, *, ready: bool, minute: int) -> dict[str, Any]:
    since = f"2026-01-01T00:{minute:02}:00Z"
    return {
        "metadata": {"name": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"nodeName": "n"},
        "status": {"conditions": [{"type": "Ready", "status": str(ready), "lastTransitionTime": since}]},
    }


@pytest.mark.parametrize("order", [("old", "new"), ("new", "old")])
@pytest.mark.parametrize("ready", [True, False])
async def test_of_two_agents_on_a_node_the_newer_one_counts(api: Api, order: tuple[str, str], ready: bool):
    """It goes from one kind of agent to the other, and the one that goes is there for a moment still."""
    pods = {
        "old": an_agents_pod("old", ready=not ready, minute=1),
        "new": an_agents_pod("new", ready=ready, minute=2),
    }
    controller = controller_of(api)
    node = {"metadata": {"name": "n", "creationTimestamp": "2026-01-01T00:00:00Z"}}
    controller.seen("nodes", "n", node, deleted=False)
    for name in order:
        controller.seen("pods", name, pods[name], deleted=False)
    assert controller.snapshot().agents["n"].ready is ready
    # on its way out it is no agent any more
    pods["new"]["metadata"]["deletionTimestamp"] = "2026-01-01T00:03:00Z"
    controller.seen("pods", "new", pods["new"], deleted=False)
    assert controller.snapshot().agents["n"].ready is not ready


def with_selinux(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a Node and its report."""
    node = {
        "metadata": {"name": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "status": {"nodeInfo": {"bootID": "b"}},
    }
    return node, {"metadata": {"name": name}, "status": {"bootID": "b", "facts": {"lsms": ["selinux"]}}}


async def test_nodes_are_labelled_and_one_that_refuses_holds_no_other_up(api: Api):
    controller = controller_of(api)
    for name in ("n1", "n2", "n3"):
        node, reported = with_selinux(name)
        controller.seen("nodes", name, node, deleted=False)
        controller.seen(PROFILE_NODES, name, reported, deleted=False)
    api.refused = {"n1"}
    now = clock(controller)
    await controller.reconcile()
    labels = {"hauberk.dev/lsm-apparmor": "false", "hauberk.dev/lsm-selinux": "true"}
    assert api.writes == [LabelNode("n2", labels), LabelNode("n3", labels)]
    assert controller.due == now[0] + 1.0
    api.refused, now[0] = set(), controller.due
    await controller.reconcile()
    assert LabelNode("n1", labels) in api.writes


# --- what nodes report ---


def repaired(count: int) -> dict[str, Any]:
    return report(repairs={"a": {"count": count, "message": "the kernel did not hold a"}})


async def test_what_was_repaired_before_it_started_is_old(api: Api):
    controller = controller_of(api)
    controller.seen(SECURITY_PROFILES, "a", body("a", said="PolicyRefused"), deleted=False)
    controller.seen(PROFILE_NODES, "n", repaired(3), deleted=False)
    await controller.reconcile()
    assert [one for one in api.events if "DriftRepaired" in one] == []
    controller.seen(PROFILE_NODES, "n", repaired(4), deleted=False)
    await controller.reconcile()
    await controller.reconcile()
    assert [one for one in api.events if "DriftRepaired" in one] == ["a DriftRepaired True True"]


async def test_an_agent_that_counts_anew_is_told_anew(api: Api):
    controller = controller_of(api)
    controller.seen(SECURITY_PROFILES, "a", body("a", said="PolicyRefused"), deleted=False)
    for state in (report(), repaired(1), report(), repaired(1), repaired(4)):
        controller.seen(PROFILE_NODES, "n", state, deleted=False)
        await controller.reconcile()
    assert controller.repaired == {("AppArmor", "a"): 5}
    assert [one for one in api.events if "DriftRepaired" in one] == ["a DriftRepaired True True"] * 3


async def test_an_event_that_is_refused_is_told_later_and_no_other_twice(api: Api):
    controller = controller_of(api)
    controller.seen(SECURITY_PROFILES, "a", body("a", said="PolicyRefused"), deleted=False)
    await controller.reconcile()
    controller.seen(PROFILE_NODES, "n", repaired(1), deleted=False)
    api.refused = {"events"}
    now = clock(controller)
    await controller.reconcile()
    api.refused = set()
    await controller.reconcile()
    assert [one for one in api.events if "DriftRepaired" in one] == []
    now[0] = controller.due
    await controller.reconcile()
    await controller.reconcile()
    assert [one for one in api.events if "DriftRepaired" in one] == ["a DriftRepaired True True"]


async def test_a_repair_of_another_types_profile_is_not_told_of_this_one(api: Api):
    controller = controller_of(api)
    controller.seen(SECURITY_PROFILES, "a", body("a", said="PolicyRefused"), deleted=False)
    await controller.reconcile()
    api.events.clear()
    of_seccomp = {"metadata": {"name": "n"}, "status": {"bootID": "b"}}
    of_seccomp["status"]["seccomp"] = repaired(1)["status"]["appArmor"]  # type: ignore[index]
    controller.seen(PROFILE_NODES, "n", of_seccomp, deleted=False)
    await controller.reconcile()
    assert api.events == []


async def test_a_repair_of_what_is_no_profile_here_is_passed_over(api: Api):
    controller = controller_of(api)
    await controller.reconcile()
    controller.seen(PROFILE_NODES, "n", repaired(1), deleted=False)
    await controller.reconcile()
    assert api.events == []


# --- how often a status is written ---


class Nodes:
    """Nodes that report one after the other, and the time."""

    def __init__(self, controller: Controller, number: int) -> None:
        self.controller, self.number, self.now = controller, number, 1000.0
        controller.clock = lambda: self.now
        for at in range(number):
            name = f"n{at}"
            node = {
                "metadata": {"name": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
                "status": {
                    "nodeInfo": {"bootID": name},
                    "conditions": [
                        {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
                    ],
                },
            }
            pod = an_agents_pod("x", ready=True, minute=0)
            pod["metadata"]["name"], pod["spec"]["nodeName"] = f"agent-{name}", name
            controller.seen("nodes", name, node, deleted=False)
            controller.seen("pods", f"agent-{name}", pod, deleted=False)
            self.report(at)

    def report(self, at: int, *profiles: str) -> None:
        name = f"n{at}"
        status = {
            "bootID": name,
            "facts": {"appArmor": {"enabled": True}},
            "appArmor": {"profiles": dict.fromkeys(profiles, "0123456789/enforce/aa")},
        }
        self.controller.seen(
            PROFILE_NODES, name, {"metadata": {"name": name}, "status": status}, deleted=False
        )


def publish(controller: Controller, *names: str) -> None:
    for name in names:
        controller.seen(SECURITY_PROFILES, name, body(name, said="Accepted"), deleted=False)
        controller.seen(PROFILE_REVISIONS, f"{name}.0123456789", a_revision(name), deleted=False)


async def test_progress_costs_few_writes_and_its_end_none_of_the_time(api: Api):
    controller = controller_of(api)
    nodes = Nodes(controller, 40)
    publish(controller, "a")
    told: list[str] = []
    for at in range(40):  # one each half second
        await controller.reconcile()
        told.append(api.statuses["a"].summary.ready)
        nodes.report(at, "a")
        nodes.now += 0.5
    await controller.reconcile()
    # at first that nothing is there, then that something is, then after 2, 4 and 8 seconds
    assert sorted(set(told), key=told.index) == ["0/40", "1/40", "5/40", "13/40", "29/40"]
    assert api.statuses["a"].summary.ready == "40/40"
    assert len(api.written) == 6
    assert api.events == ["a Ready False True"]


async def test_the_last_progress_comes_out_in_the_end(api: Api):
    controller = controller_of(api)
    nodes = Nodes(controller, 4)
    publish(controller, "a")
    await controller.reconcile()
    for at in range(2):
        nodes.report(at, "a")
        await controller.reconcile()
    assert api.statuses["a"].summary.ready == "1/4"
    assert controller.due == nodes.now + DISTANCES[0]
    nodes.now = controller.due
    await controller.reconcile()
    assert api.statuses["a"].summary.ready == "2/4"


async def test_what_waits_to_be_written_is_told_as_pending(api: Api):
    controller = controller_of(api)
    nodes = Nodes(controller, 9)
    publish(controller, "a", "b")

    def pending() -> float:
        (found,) = [one.value for one in controller.readings() if one.metric is PENDING]
        return found

    await controller.reconcile()
    assert pending() == 0
    for at in range(4):
        nodes.report(at, "a", "b")
        await controller.reconcile()
    assert pending() == 2
    nodes.now += 3600
    await controller.reconcile()
    assert pending() == 0


async def test_an_operator_that_waits_tells_only_that(api: Api):
    controller = controller_of(api)
    publish(controller, "a")
    controller.ready = True
    assert PROFILE_READY in {one.metric for one in controller.readings()}
    controller.leads = lambda: False
    assert [(one.metric, one.value) for one in controller.readings()] == [(LEADER, 0), (PENDING, 0)]


async def test_many_profiles_at_once_tell_their_progress_more_seldom(api: Api):
    controller = controller_of(api)
    nodes = Nodes(controller, 3)
    names = [f"p{at:02}" for at in range(50)]
    publish(controller, *names)
    await controller.reconcile()
    nodes.report(0, *names)
    await controller.reconcile()
    api.written.clear()
    nodes.report(1, *names)
    await controller.reconcile()
    nodes.now += len(names) / PER_SECOND - 0.1
    await controller.reconcile()
    assert api.written == []
    nodes.now += 0.2
    await controller.reconcile()
    assert api.written == names
    nodes.report(2, *names)
    await controller.reconcile()
    assert {one.summary.status for one in api.statuses.values()} == {"Ready"}


async def test_a_few_of_many_wait_for_their_turn_though_the_others_have_just_told(api: Api):
    controller = controller_of(api)
    nodes = Nodes(controller, 4)
    names = [f"p{at:02}" for at in range(50)]
    publish(controller, *names)
    await controller.reconcile()
    for at in range(2):
        nodes.report(at, *names)
        await controller.reconcile()
    nodes.now += len(names) / PER_SECOND
    await controller.reconcile()  # all have told
    api.written.clear()
    nodes.report(2, *names[:3])
    nodes.now += DISTANCES[-1] + 1
    await controller.reconcile()
    assert api.written == []
    nodes.now += len(names) / PER_SECOND
    await controller.reconcile()
    assert api.written == names[:3]


async def test_a_status_that_someone_else_wrote_is_put_right(api: Api):
    controller = controller_of(api)
    nodes = Nodes(controller, 2)
    for at in range(2):
        nodes.report(at, "a")
    publish(controller, "a")
    await controller.reconcile()
    right = api.statuses["a"]
    overwritten = body("a", said="Accepted")
    overwritten["status"]["conditions"].append(
        {"type": "Ready", "status": "False", "reason": "Other", "message": "", "observedGeneration": 1}
    )
    controller.seen(SECURITY_PROFILES, "a", overwritten, deleted=False)
    await controller.reconcile()
    assert api.written == ["a", "a"]
    assert api.statuses["a"].nodes == right.nodes
    assert api.statuses["a"].summary.status == "Ready"


@pytest.mark.parametrize("holding", [0, 1, 3])
async def test_who_starts_where_another_one_stopped_writes_nothing(api: Api, holding: int):
    """After a restart, and for whoever takes over: with profiles in every state, and several nodes."""
    first = controller_of(api)
    nodes = Nodes(first, 3)
    names = ("a", "b", "c")
    publish(first, *names)
    first.seen(SECURITY_PROFILES, "d", body("d", said="PolicyRefused"), deleted=False)
    for at in range(holding):
        nodes.report(at, "a", "b")
    for _ in range(2):
        await first.reconcile()
        nodes.now += 100
    stored = {name: encode(one) for name, one in first.profiles.items()}
    api.written.clear()
    api.events.clear()

    second = controller_of(api)
    nodes = Nodes(second, 3)
    publish(second, *names)
    for name, one in stored.items():
        second.seen(SECURITY_PROFILES, name, one, deleted=False)
    for at in range(holding):
        nodes.report(at, "a", "b")
    await second.reconcile()
    assert (api.written, api.writes, api.events) == ([], [], [])


async def test_a_round_of_many_writes_tells_what_is_known_by_then(api: Api):
    """What was known as it began would be written, and then written again."""
    controller = controller_of(api)
    nodes = Nodes(controller, 2)
    publish(controller, "a", "b", "c")

    def meanwhile() -> None:
        nodes.now += 1
        for at in range(2):
            nodes.report(at, "a", "b", "c")

    api.while_writing = meanwhile
    await controller.reconcile()
    assert {name: one.summary.status for name, one in api.statuses.items()} == {
        "a": "Updating",
        "b": "Ready",
        "c": "Ready",
    }
    assert api.written == ["a", "b", "c"]


async def test_finalizers_come_before_statuses_and_events_after_them(api: Api):
    """Publishing waits for the first, users for the second."""
    controller = controller_of(api)
    nodes = Nodes(controller, 2)
    publish(controller, "a", "b")
    for name in "ab":
        new = body(name, said="Accepted")
        new["metadata"]["finalizers"] = []
        controller.seen(SECURITY_PROFILES, name, new, deleted=False)
    for at in range(2):
        nodes.report(at, "a", "b")
    await controller.reconcile()
    assert api.order == [
        *("AddFinalizer a", "AddFinalizer b"),
        *("status a", "status b"),
        *("event a", "event b"),
    ]
    api.order.clear()
    await controller.reconcile()  # the watch has brought nothing back yet
    assert api.order == []


async def test_a_profile_that_comes_during_a_round_gets_its_finalizer_before_more_statuses(api: Api):
    controller = controller_of(api)
    nodes = Nodes(controller, 1)
    publish(controller, "a", "b")
    new = body("c")
    new["metadata"]["finalizers"] = []

    def meanwhile() -> None:
        nodes.now += 1
        controller.seen(SECURITY_PROFILES, "c", new, deleted=False)

    api.while_writing = meanwhile
    await controller.reconcile()
    assert api.order[:3] == ["status a", "AddFinalizer c", "status b"]


def held(api: Api, *names: str) -> Nodes:
    """Return the one node, which holds profiles; its controller has told nobody yet."""
    controller = controller_of(api)
    nodes = Nodes(controller, 1)
    publish(controller, *names)
    nodes.report(0, *names)
    return nodes


async def test_events_that_had_to_wait_are_told_later(api: Api):
    controller = held(api, "a", "b").controller

    def meanwhile() -> None:
        api.busy = True

    api.while_writing = meanwhile
    with pytest.raises(BusyFault):
        await controller.reconcile()
    assert (api.events, [*api.statuses]) == ([], ["a"])
    api.busy, api.while_writing = False, None
    await controller.reconcile()
    assert [one.split()[0] for one in api.events] == ["a", "b"]
    await controller.reconcile()
    assert len(api.events) == 2


async def test_events_are_not_pressed_on_an_api_server_that_has_no_time(api: Api):
    controller = held(api, "a", "b").controller
    api.no_time_for_events = True
    with pytest.raises(BusyFault):
        await controller.reconcile()
    assert len(controller.events) == 2
    api.no_time_for_events = False
    await controller.reconcile()
    assert len(api.events) == 2


async def test_of_many_events_some_wait_for_the_next_round(api: Api):
    nodes = held(api, "a", "b")
    controller = nodes.controller
    tell = api.tell

    async def slowly(profile: SecurityProfile, reason: str, message: str, *, warning: bool) -> None:
        await tell(profile, reason, message, warning=warning)
        nodes.now += controllers.FRESH_SECONDS * 2

    api.tell = slowly
    await controller.reconcile()
    assert ([one.split()[0] for one in api.events], controller.due) == (["a"], nodes.now)
    await controller.reconcile()
    assert [one.split()[0] for one in api.events] == ["a", "b"]


async def test_what_was_to_be_told_when_another_one_began_to_lead_is_not_told(api: Api):
    controller = held(api, "a").controller
    api.no_time_for_events = True
    with pytest.raises(BusyFault):
        await controller.reconcile()
    controller.elected(anew=True)
    api.no_time_for_events = False
    await controller.reconcile()
    assert api.events == []


async def test_finalizers_rest_on_objects_as_they_are_by_then_and_are_tried_once_a_round(api: Api):
    """The admission writes to the same new objects meanwhile: what rests on an older version is refused."""
    controller = controller_of(api)
    nodes = Nodes(controller, 1)

    def new(name: str, version: str) -> dict[str, Any]:
        one = body(name)
        one["metadata"] |= {"finalizers": [], "resourceVersion": version}
        return one

    for name in "abc":
        controller.seen(SECURITY_PROFILES, name, new(name, "1"), deleted=False)
    carry_out = api.carry_out
    tries: list[str] = []

    async def meanwhile(write: Write) -> bool:
        if isinstance(write, AddFinalizer):
            name = write.profile.metadata.name
            tries.append(f"{name} {write.profile.metadata.resource_version}")
            if name == "a":
                controller.seen(SECURITY_PROFILES, "b", new("b", "2"), deleted=False)
                nodes.now += controllers.FRESH_SECONDS * 2
                return False  # someone else came first
        return await carry_out(write)

    def later() -> None:
        nodes.now += 1

    api.carry_out = meanwhile
    api.while_writing = later
    await controller.reconcile()
    assert tries == ["a 1", "b 2", "c 1"]
    assert {name for name in "abc" if FINALIZER in controller.profiles[name].metadata.finalizers} == {
        "b",
        "c",
    }


async def test_a_profile_that_goes_during_a_round_is_passed_over(api: Api):
    controller = controller_of(api)
    nodes = Nodes(controller, 1)
    publish(controller, "a", "b")

    def meanwhile() -> None:
        nodes.now += 1
        controller.seen(SECURITY_PROFILES, "b", {}, deleted=True)

    api.while_writing = meanwhile
    await controller.reconcile()
    assert api.written == ["a"]


async def test_an_api_server_that_has_no_time_is_left_alone(api: Api):
    controller = controller_of(api)
    Nodes(controller, 2)
    publish(controller, "a", "b", "c")
    api.busy = True
    with pytest.raises(BusyFault):
        await controller.reconcile()
    assert api.written == ["a"]
    assert api.writes == []
    api.busy = False
    await controller.reconcile()
    assert set(api.statuses) == {"a", "b", "c"}


async def test_what_is_gone_is_forgotten(api: Api):
    controller = controller_of(api)
    publish(controller, "a", "b")
    await controller.reconcile()
    controller.seen(SECURITY_PROFILES, "a", {}, deleted=True)
    await controller.reconcile()
    assert (list(controller.made), list(controller.written)) == (["b"], ["b"])


# --- while kinds or all of Hauberk go away ---


async def test_the_store_is_asked_before_a_deletion_means_anything(api: Api):
    """A profile that goes because its kind goes was not deleted by anyone."""
    controller = controller_of(api)
    controller.store = api.where
    controller.seen(SECURITY_PROFILES, "a", body("a"), deleted=False)
    controller.seen(PROFILE_REVISIONS, "a.0123456789", a_revision("a"), deleted=False)
    await controller.reconcile()
    assert api.stores == 0
    api.where = Store(terminating=True)
    controller.seen(SECURITY_PROFILES, "a", going("a"), deleted=False)
    await controller.reconcile()
    assert [type(write) for write in api.writes] == [RemoveFinalizer]
    assert api.stores == 1


async def test_a_profile_keeps_its_object_until_its_revision_is_withdrawn(api: Api):
    controller = controller_of(api)
    controller.store = api.where
    controller.seen(SECURITY_PROFILES, "a", going("a"), deleted=False)
    controller.seen(PROFILE_REVISIONS, "a.0123456789", a_revision("a"), deleted=False)
    await controller.reconcile()
    assert api.writes == []
    assert api.statuses["a"].summary.status == "Terminating"
    controller.seen(PROFILE_REVISIONS, "a.0123456789", a_revision("a", withdrawn=True), deleted=False)
    await controller.reconcile()
    (write,) = api.writes
    assert isinstance(write, RemoveFinalizer)
    assert write.once_withdrawn


async def test_a_deletion_costs_a_status_that_says_so_and_the_finalizer(api: Api):
    """The finalizer is taken off the version of the object that the status made, or that would be refused."""
    controller = controller_of(api)
    controller.store = api.where
    controller.seen(SECURITY_PROFILES, "a", going("a"), deleted=False)
    controller.seen(PROFILE_REVISIONS, "a.0123456789", a_revision("a", withdrawn=True), deleted=False)
    api.there = {"a": Metadata(name="a", uid="uid-a", resource_version="7", finalizers=["theirs", FINALIZER])}
    await controller.reconcile()
    assert api.order == ["status a", "RemoveFinalizer a"]
    (write,) = api.writes
    assert isinstance(write, RemoveFinalizer)
    assert (write.profile.metadata.resource_version, write.profile.metadata.finalizers) == (
        "7",
        ["theirs", FINALIZER],
    )


async def test_what_is_said_to_go_already_goes_without_another_status(api: Api):
    controller = controller_of(api)
    controller.store = api.where
    nodes = Nodes(controller, 2)
    controller.seen(SECURITY_PROFILES, "a", going("a"), deleted=False)
    controller.seen(PROFILE_REVISIONS, "a.0123456789", a_revision("a", withdrawn=True), deleted=False)
    nodes.report(0, "a")
    await controller.reconcile()
    assert api.order == ["status a"]
    assert api.statuses["a"].summary.status == "Terminating"
    nodes.report(0)
    nodes.now += 60
    await controller.reconcile()
    assert api.order == ["status a", "RemoveFinalizer a"]


async def test_what_may_not_go_is_told_of_as_it_is(api: Api):
    """Someone refuses that the finalizer is taken off: the status must not stay at what it was before."""
    controller = controller_of(api)
    controller.store = api.where
    nodes = Nodes(controller, 2)
    controller.seen(SECURITY_PROFILES, "a", going("a"), deleted=False)
    controller.seen(PROFILE_REVISIONS, "a.0123456789", a_revision("a", withdrawn=True), deleted=False)
    nodes.report(0, "a")
    await controller.reconcile()
    before = api.statuses["a"]
    nodes.report(0)
    api.refused = {"a"}
    for _ in range(2):
        nodes.now += 60
        await controller.reconcile()
    assert api.statuses["a"] != before
    api.refused = set()
    nodes.now += 120
    await controller.reconcile()
    assert api.order[-1] == "RemoveFinalizer a"
    api.order.clear()
    await controller.reconcile()  # the watch has not told yet that it is gone
    assert api.order == []


async def test_another_object_of_its_name_is_not_what_was_decided_on(api: Api):
    controller = controller_of(api)
    controller.store = api.where
    controller.seen(SECURITY_PROFILES, "a", going("a"), deleted=False)
    controller.seen(PROFILE_REVISIONS, "a.0123456789", a_revision("a", withdrawn=True), deleted=False)
    api.there = {"a": Metadata(name="a", uid="another", resource_version="7", finalizers=[FINALIZER])}
    await controller.reconcile()
    (write,) = api.writes
    assert isinstance(write, RemoveFinalizer)
    assert write.profile.metadata.resource_version == ""


async def test_where_the_store_can_not_be_asked_no_deletion_goes_on(api: Api):
    controller = controller_of(api)
    controller.store = api.where
    controller.seen(SECURITY_PROFILES, "a", going("a"), deleted=False)
    api.refused = {"store"}
    with pytest.raises(ClusterFault):
        await controller.reconcile()
    assert api.writes == []


@pytest.mark.parametrize("leaving", [True, False])
async def test_finalizers_are_let_go_only_when_all_of_hauberk_goes(api: Api, leaving: bool):
    controller = controller_of(api)
    others = body("b")
    others["metadata"]["finalizers"] = ["someone.else/kept"]
    shared = body("c")
    shared["metadata"]["finalizers"] = ["someone.else/kept", FINALIZER]
    api.listed = {SECURITY_PROFILES: [body("a"), others, shared]}
    api.going = leaving
    await controller.let_go()
    let_go = [write.profile.metadata.name for write in api.writes if isinstance(write, RemoveFinalizer)]
    assert let_go == (["a", "c"] if leaving else [])
    assert len(api.writes) == len(let_go)
    kept = [one["metadata"]["finalizers"] for one in api.listed[SECURITY_PROFILES]]
    assert (FINALIZER in kept[0]) is (FINALIZER in kept[2]) is not leaving
    assert all("someone.else/kept" in one for one in kept[1:])


async def test_finalizers_are_read_anew_and_not_from_memory(api: Api):
    """Whoever changed an object meanwhile has its finalizer in a version that memory does not know."""
    controller = controller_of(api)
    controller.seen(SECURITY_PROFILES, "gone", body("gone"), deleted=False)
    api.listed = {SECURITY_PROFILES: [body("new")]}
    api.going = True
    await controller.let_go()
    assert [w.profile.metadata.name for w in api.writes if isinstance(w, RemoveFinalizer)] == ["new"]


async def test_a_finalizer_that_stays_is_tried_again_and_not_for_ever(
    api: Api, monkeypatch: pytest.MonkeyPatch
):
    """The kubelet ends the pod after half a minute; a write that met a conflict is not the end of it."""
    monkeypatch.setattr(controllers, "RETRY_SECONDS", (0.01, 0.02))
    monkeypatch.setattr(controllers, "LET_GO_SECONDS", 0.1)
    controller = controller_of(api)
    api.listed = {SECURITY_PROFILES: [body("a")]}
    api.going, api.taken = True, False
    with pytest.raises(ClusterFault, match="1 finalizers were there still"):
        await controller.let_go()
    assert len(api.writes) > 2
    api.taken = True
    await controller.let_go()
    assert api.listed[SECURITY_PROFILES][0]["metadata"]["finalizers"] == []


async def test_nothing_to_let_go_is_no_trouble(api: Api):
    controller = controller_of(api)
    api.going = True
    await controller.let_go()
    assert api.writes == []


async def test_the_store_is_known_from_the_first_list_on(api: Api):
    controller = controller_of(api)
    assert controller.snapshot().store == Store()
    await controller.relist()
    assert controller.snapshot().store == Store("here")


# --- pods that wait ---


def a_gated_pod(profile: str, name: str = "web-0", uid: str = "u") -> PodObject:
    metadata = {
        "name": name,
        "namespace": "shop",
        "uid": uid,
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "labels": {LABEL_GATED: "true"},
        "annotations": {GATED_FOR: profile},
    }
    return decode(PodObject, {"metadata": metadata, "spec": {"schedulingGates": [{"name": POD_GATE}]}})


OPENED = OpenGate(PodOf("shop", "web-0", "u"))


async def test_a_gate_is_opened_in_the_round_that_calls_the_profile_available(api: Api):
    controller = controller_of(api)
    nodes = Nodes(controller, 2)
    publish(controller, "a")
    controller.gates.changed(("shop", "web-0"), a_gated_pod("a"), nodes.now)
    await controller.reconcile()
    assert OPENED not in api.writes
    nodes.report(0, "a")
    nodes.report(1, "a")
    await controller.reconcile()
    await controller.reconcile()
    assert api.writes.count(OPENED) == 1


async def test_a_gate_waits_for_the_other_nodes_for_a_while(api: Api):
    controller = controller_of(api)
    nodes = Nodes(controller, 2)
    publish(controller, "a")
    controller.gates.changed(("shop", "web-0"), a_gated_pod("a"), nodes.now)
    nodes.report(0, "a")
    await controller.reconcile()
    assert OPENED not in api.writes
    assert controller.due == nodes.now + SETTLING_SECONDS  # and it wakes for that
    nodes.now += SETTLING_SECONDS
    await controller.reconcile()
    assert api.writes.count(OPENED) == 1


async def test_pods_that_wait_and_gates_that_were_opened_are_told_in_figures(
    api: Api, monkeypatch: pytest.MonkeyPatch
):
    controller = controller_of(api)
    controller.ready = True
    nodes = Nodes(controller, 1)
    publish(controller, "a")
    controller.gates.changed(("shop", "web-0"), a_gated_pod("a"), nodes.now)

    def figures() -> list[float]:
        return [one.value for one in controller.readings() if one.metric in (GATED_PODS, GATES_OPENED)]

    assert figures() == [1, 0]
    nodes.report(0, "a")
    carry_out = api.carry_out

    async def told_before(write: Write) -> bool:
        done = await carry_out(write)
        controller.gates.changed(("shop", "web-0"), None, nodes.now)
        return done

    monkeypatch.setattr(api, "carry_out", told_before)  # the watch may be faster than the answer
    await controller.reconcile()
    assert figures() == [0, 1]


async def test_who_waits_for_its_turn_opens_nothing_and_tells_nothing(api: Api):
    controller = controller_of(api)
    controller.leads = lambda: False
    nodes = Nodes(controller, 1)
    controller.gates.changed(("shop", "web-0"), a_gated_pod("never"), nodes.now)
    nodes.now += 100.0
    await controller.reconcile()
    assert api.writes == []


async def test_the_loop_wakes_up_to_tell_of_a_pod_that_waits(api: Api):
    controller = controller_of(api)
    nodes = Nodes(controller, 1)
    controller.gates.changed(("shop", "web-0"), a_gated_pod("never"), nodes.now)
    await controller.reconcile()
    assert controller.due == nodes.now + PATIENCE_SECONDS
    nodes.now = controller.due
    await controller.reconcile()
    assert [one.reason for one in api.writes if isinstance(one, TellOfPod)] == ["Gated"]


async def test_who_is_uninstalled_opens_all_gates(api: Api):
    controller = controller_of(api)
    api.going, api.gated = True, [a_gated_pod("never")]
    await controller.let_go()
    assert api.writes == [OPENED]


async def test_a_pod_that_can_not_be_opened_leaves_no_other_one_gated(api: Api):
    controller = controller_of(api)
    api.going, api.refused = True, {"web-0"}
    api.gated = [a_gated_pod("never"), a_gated_pod("never", "web-1", "v")]
    await controller.let_go()
    assert api.writes == [OpenGate(PodOf("shop", "web-1", "v"))]


async def test_a_pod_of_which_nothing_is_taken_holds_up_nothing_else(api: Api):
    """Whoever may make pods could slow the operator down by a policy or a quota of a namespace."""
    controller = controller_of(api)
    nodes = Nodes(controller, 1)
    publish(controller, "a")
    controller.gates.changed(("shop", "web-0"), a_gated_pod("a"), nodes.now)
    controller.gates.changed(("shop", "web-1"), a_gated_pod("a", "web-1", "v"), nodes.now)
    api.refused = {"web-0"}
    nodes.report(0, "a")
    await controller.reconcile()  # a failure would be raised, and the next round put off
    assert api.writes == [OpenGate(PodOf("shop", "web-1", "v"))]
    assert controller.due == nodes.now + AGAIN_SECONDS[0]
    api.refused = set()
    nodes.now = controller.due
    await controller.reconcile()
    assert api.writes[1:] == [OPENED]


async def test_gates_that_can_not_be_opened_hold_no_finalizer_up(api: Api):
    controller = controller_of(api)
    api.going, api.gated, api.refused = True, [a_gated_pod("never")], {"pods"}
    api.listed = {SECURITY_PROFILES: [body("a")]}
    await controller.let_go()
    assert [type(one) for one in api.writes] == [RemoveFinalizer]


async def test_who_only_ends_opens_none(api: Api):
    controller = controller_of(api)
    api.gated = [a_gated_pod("never")]
    await controller.let_go()
    assert api.writes == []


def a_missed_pod(name: str) -> PodObject:
    context = {"appArmorProfile": {"type": "Localhost", "localhostProfile": "a"}}
    metadata = {"name": name, "namespace": "shop", "uid": f"uid-{name}"}
    spec = {"containers": [{"name": "c", "securityContext": context}]}
    return decode(PodObject, {"metadata": metadata, "spec": spec})


def told_of(api: Api) -> list[str]:
    """Return the pods that were told of since this was asked last."""
    found = [one.pod.name for one in api.writes if isinstance(one, TellOfPod)]
    api.writes.clear()
    return found


async def test_what_the_gate_missed_is_told_once_and_what_was_refused_again(api: Api):
    controller = controller_of(api)
    Nodes(controller, 1)
    controller.seen(SECURITY_PROFILES, "a", body("a"), deleted=False)
    api.past_the_gate = [a_missed_pod("one"), a_missed_pod("other")]
    api.refused = {"one"}
    await controller._tell_missed()
    assert told_of(api) == ["other"]
    api.refused = set()
    await controller._tell_missed()
    assert told_of(api) == ["one"]
    await controller._tell_missed()
    assert told_of(api) == []


async def test_a_bug_that_one_pod_meets_ends_no_look(api: Api, monkeypatch: pytest.MonkeyPatch):
    """Whoever may make pods could end the operator by it, and the next one."""
    controller = controller_of(api)
    Nodes(controller, 1)
    controller.seen(SECURITY_PROFILES, "a", body("a"), deleted=False)
    really = controllers.missed

    def missed(pod: PodObject, *more: Any) -> TellOfPod | None:
        if pod.metadata.name == "one":
            raise KeyError("a bug")
        return really(pod, *more)

    monkeypatch.setattr(controllers, "missed", missed)
    api.past_the_gate = [a_missed_pod("one"), a_missed_pod("other")]
    await controller._tell_missed()
    assert told_of(api) == ["other"]


async def test_a_daemonset_that_is_refused_holds_up_nothing_else(api: Api):
    """A policy may refuse what is privileged: the agents of other nodes are none of it."""
    controller = controller_of(api)
    now = clock(controller)
    controller.pod = "operator"
    containers = [{"image": "hauberk"}]
    manifest = {"spec": {"template": {"spec": {"containers": containers}}}}
    controller.manifests = {"first": manifest, "second": manifest}
    api.refused = {"first"}
    await controller.reconcile()
    assert api.applied == ["second"]
    assert controller.due == now[0] + 1.0
    api.refused = set()
    await controller.reconcile()
    assert api.applied == ["second"]
    now[0] = controller.due
    await controller.reconcile()
    assert api.applied == ["second", "first"]


async def test_the_startup_taint_comes_off_once_the_node_is_labelled_and_holds_everything(api: Api):
    controller = controller_of(api)
    nodes = Nodes(controller, 1)
    publish(controller, "a")

    def tainted(labels: dict[str, str]) -> None:
        node = {
            "metadata": {
                "name": "n0",
                "creationTimestamp": "2026-01-01T00:00:00Z",
                "labels": labels,
            },
            "spec": {"taints": [{"key": PENDING_TAINT, "effect": "NoSchedule"}]},
            "status": {
                "nodeInfo": {"bootID": "n0"},
                "conditions": [
                    {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
                ],
            },
        }
        controller.seen("nodes", "n0", node, deleted=False)

    def reported(*profiles: str) -> None:
        facts = {"lsms": ["apparmor"], "appArmor": {"enabled": True}}
        held = {"profiles": dict.fromkeys(profiles, "0123456789/enforce/aa")}
        status = {"bootID": "n0", "facts": facts, "appArmor": held}
        controller.seen(PROFILE_NODES, "n0", {"metadata": {"name": "n0"}, "status": status}, deleted=False)

    assert nodes.number == 1
    tainted({})
    reported("a")
    await controller.reconcile()
    labels = {"hauberk.dev/lsm-apparmor": "true", "hauberk.dev/lsm-selinux": "false"}
    assert api.writes == [LabelNode("n0", labels)]
    tainted(labels)
    reported()
    await controller.reconcile()
    assert Untaint("n0") not in api.writes
    reported("a")
    await controller.reconcile()
    assert api.writes[-1] == Untaint("n0")
