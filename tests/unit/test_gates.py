"""Which gated pods are opened, of which it is told why they wait, and how often."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hauberk.crds.models import SecurityProfile, decode
from hauberk.crds.names import GATED_FOR, LABEL_GATED, POD_GATE
from hauberk.crds.pods import PodObject
from hauberk.operator.gates import EVENTS, PATIENCE_SECONDS, SETTLING_SECONDS, Gates
from hauberk.operator.gating import Known
from hauberk.operator.writes import OpenGate, PodOf, TellOfPod

LATER = PATIENCE_SECONDS


def gated(name: str = "web-0", uid: str = "u0", profile: str = "web", *, gate: bool = True) -> PodObject:
    context = {"appArmorProfile": {"type": "Localhost", "localhostProfile": profile}}
    body: dict[str, Any] = {
        "metadata": {
            "name": name,
            "namespace": "shop",
            "uid": uid,
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {LABEL_GATED: "true"},
            "annotations": {GATED_FOR: profile},
        },
        "spec": {
            "containers": [{"name": "c", "securityContext": context}],
            "schedulingGates": [{"name": POD_GATE}] if gate else [],
        },
    }
    return decode(PodObject, body)


def profiles(
    reason: str = "Updating", *, available: bool = False, updating: int = 0
) -> dict[str, SecurityProfile]:
    said = {"observedGeneration": 1, "message": "1 of 2"}
    conditions = [
        {"type": "Available", "status": str(available), "reason": "Verified", **said},
        {"type": "Ready", "status": "False", "reason": reason, **said},
    ]
    body = {
        "metadata": {"name": "web", "uid": "p", "generation": 1},
        "spec": {"type": "AppArmor", "appArmor": {"policy": ""}},
        "status": {"conditions": conditions, "nodes": {"updating": updating}},
    }
    return {"web": decode(SecurityProfile, body)}


def keeping(*pods: PodObject) -> Gates:
    gates = Gates()
    gates.listed({(one.metadata.namespace, one.metadata.name): one for one in pods}, 0.0)
    return gates


def told(gates: Gates, known: dict[str, SecurityProfile], now: float = LATER) -> list[str]:
    """Return what is told of pods, as it is once the API took it."""
    writes = gates.tellings(Known(known), now)
    for one in writes:
        gates.carried_out(one)
    return [one.message for one in writes]


def test_a_gate_is_opened_once():
    gates = keeping(gated())
    assert gates.openings(Known(profiles()), LATER) == []
    (write,) = gates.openings(Known(profiles(available=True)), LATER)
    assert write == OpenGate(PodOf("shop", "web-0", "u0"))
    assert gates.openings(Known(profiles(available=True)), LATER) == [write]  # until the API took it
    gates.carried_out(write)
    assert gates.openings(Known(profiles(available=True)), LATER) == []
    assert gates.since == {}


def test_a_pod_that_may_come_to_a_node_that_holds_it_soon_waits_a_little():
    gates = keeping(gated())
    soon = Known(profiles(available=True, updating=1))
    assert gates.openings(soon, LATER) == []
    assert gates.tellings(soon, LATER) == []  # it does not wait for anything that there is to tell of
    assert gates.due == LATER + SETTLING_SECONDS
    assert gates.openings(soon, LATER + SETTLING_SECONDS - 0.1) == []
    assert len(gates.openings(soon, LATER + SETTLING_SECONDS)) == 1  # nobody waits for a node that is stuck
    # and at once where all hold it
    assert len(gates.openings(Known(profiles(available=True)), LATER + 0.1)) == 1


def test_what_is_not_available_any_more_settles_anew():
    gates = keeping(gated())
    soon = Known(profiles(available=True, updating=1))
    assert gates.openings(soon, LATER) == []
    gates.tellings(Known(profiles(updating=1)), LATER + 3.0)
    later = LATER + 2 * SETTLING_SECONDS
    assert gates.openings(soon, later) == []
    assert len(gates.openings(soon, later + SETTLING_SECONDS)) == 1
    gates.changed(("shop", "web-0"), None, later)
    assert gates.settling == {}


def test_what_was_done_to_an_earlier_pod_of_that_name_is_not_done_to_this_one():
    gates = keeping(gated())
    (write,) = gates.openings(Known(profiles(available=True)), LATER)
    gates.changed(("shop", "web-0"), gated(uid="u1"), 1.0)
    gates.carried_out(write)
    assert gates.openings(Known(profiles(available=True)), LATER) == [OpenGate(PodOf("shop", "web-0", "u1"))]
    assert gates.since == {"u1": 1.0}


def test_a_pod_that_goes_away_is_left_alone():
    pod = gated()
    metadata = msgspec.structs.replace(pod.metadata, deletion_timestamp="2026-01-01T00:01:00Z")
    going = msgspec.structs.replace(pod, metadata=metadata)
    gates = keeping(pod)
    gates.changed(("shop", "web-0"), going, 0.0)
    assert gates.openings(Known(profiles(available=True)), LATER) == []
    assert told(gates, profiles()) == []
    gates.changed(("shop", "web-0"), None, 0.0)
    assert (gates.pods, gates.since) == ({}, {})


def test_a_label_without_a_gate_is_left_alone():
    """A ReplicaSet lets a pod go that lost a label of its selector, and makes another one, without end."""
    gates = keeping(gated(gate=False))
    assert gates.openings(Known(profiles(available=True)), LATER) == []
    assert told(gates, profiles()) == []
    gates.changed(("shop", "web-1"), gated("web-1", "u1", gate=False), 0.0)
    assert (gates.pods, gates.since) == ({}, {})
    gates.changed(("shop", "web-1"), gated("web-1", "u1"), 1.0)
    gates.changed(("shop", "web-1"), gated("web-1", "u1", gate=False), 2.0)
    assert (gates.pods, gates.since) == ({}, {})


def test_a_pod_of_which_a_write_was_refused_is_left_for_a_while_and_no_other():
    gates = keeping(gated(), gated("web-1", "u1"))
    known = profiles(available=True)
    one, other = gates.openings(Known(known), 10.0)
    waits: list[float] = []
    now = 10.0
    for _ in range(9):
        gates.was_refused(one, now)
        assert gates.openings(Known(known), now) == [other]
        assert gates.tellings(Known(known), now) == []
        waits.append(gates.due - now)
        now = gates.due
        assert gates.openings(Known(known), now) == [one, other]
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]
    gates.carried_out(one)
    assert gates.refused.left_until(("OpenGate", "u0")) == 0.0


def test_an_event_that_was_refused_is_told_again_later():
    gates = keeping(gated(), gated("web-1", "u1"))
    one, other = gates.tellings(Known(profiles()), LATER)
    gates.was_refused(one, LATER)
    gates.carried_out(other)
    assert gates.tellings(Known(profiles()), LATER) == []
    assert gates.due == LATER + 1.0
    assert gates.tellings(Known(profiles()), LATER + 1.0) == [one]


def test_an_event_that_is_refused_delays_no_opening():
    """A namespace may have no room for Events."""
    gates = keeping(gated())
    (event,) = gates.tellings(Known(profiles()), LATER)
    for _ in range(5):
        gates.was_refused(event, LATER)
    assert gates.openings(Known(profiles(available=True)), LATER) == [OpenGate(event.pod)]


def test_a_pod_that_waits_is_told_of_after_a_while_and_once_for_each_cause():
    gates = keeping(gated())
    assert told(gates, profiles(), LATER - 1) == []
    assert gates.due == LATER  # the loop is to look again by then
    assert told(gates, profiles()) == ["waits for web: web: Updating: 1 of 2"]
    assert gates.due == math.inf
    assert told(gates, profiles()) == []
    assert told(gates, profiles("PolicyRefused")) == ["waits for web: web: PolicyRefused: 1 of 2"]
    assert told(gates, profiles()) == []
    assert told(gates, {}) == ["waits for web: web: there is no such SecurityProfile any more"]


def test_what_the_api_did_not_take_is_told_again():
    gates = keeping(gated())
    assert gates.tellings(Known(profiles()), LATER) == gates.tellings(Known(profiles()), LATER) != []


def test_a_new_list_forgets_neither_since_when_a_pod_waits_nor_what_was_told():
    gates = keeping(gated())
    assert told(gates, profiles()) != []
    gates.listed({("shop", "web-0"): gated(), ("shop", "web-1"): gated("web-1", "u1")}, 100.0)
    assert gates.since == {"u0": 0.0, "u1": 100.0}
    assert told(gates, profiles(), 100.0) == []
    gates.listed({}, 200.0)
    assert (gates.since, gates.told) == ({}, {})


@pytest.mark.parametrize("number", [EVENTS, EVENTS + 1])
def test_many_pods_are_told_of_in_turns(number: int):
    gates = keeping(*(gated(f"web-{at:03}", f"u{at}") for at in range(number)))
    assert len(told(gates, profiles())) == EVENTS
    assert gates.due == (math.inf if number == EVENTS else LATER)
    assert len(told(gates, profiles())) == number - EVENTS


def test_an_event_is_of_the_pod():
    (write,) = keeping(gated()).tellings(Known(profiles()), LATER)
    message = "waits for web: web: Updating: 1 of 2"
    assert write == TellOfPod(PodOf("shop", "web-0", "u0"), "Gated", message, ("web Updating",))
