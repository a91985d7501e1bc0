"""When pods are looked for that nobody gated, and what is said of each."""

from __future__ import annotations

from typing import Any

import pytest
from hauberk.crds.models import SecurityProfile, decode
from hauberk.crds.names import POD_GATE
from hauberk.crds.pods import PodObject
from hauberk.operator.cluster import Held
from hauberk.operator.missed import AGAIN_SECONDS, Absence, missed


def held(version: int, holder: str = "one", transitions: int = 0) -> Held:
    return Held(holder, seconds=12, transitions=transitions, version=str(version))


def watching(*leases: tuple[float, Held | None]) -> Absence:
    absence = Absence()
    for now, lease in leases:
        absence.seen(lease, now)
    return absence


def test_while_the_lease_is_renewed_nobody_looks():
    absence = watching(*((3.0 * at, held(at)) for at in range(100)))
    assert (absence.looks, absence.away) == ([], False)


@pytest.mark.parametrize(
    "gone",
    [
        [(3.0, None)],
        [(3.0, held(2, holder=""))],
        [(now, held(1)) for now in (3.0, 6.0, 9.0, 12.0, 15.0, 18.0)],
    ],
    ids=["deleted", "given up", "not renewed"],
)
def test_the_admission_was_away_and_is_back(gone: list[tuple[float, Held | None]]):
    absence = watching((0.0, held(1)), *gone)
    assert absence.away
    assert not absence.is_due(20.0)
    absence.seen(held(3), 30.0)
    assert not absence.away
    assert absence.is_due(30.0)
    absence.looked(30.5)
    assert not absence.is_due(30.5 + AGAIN_SECONDS / 2)
    assert absence.is_due(30.0 + AGAIN_SECONDS)  # the webhook's Service had to hear of it
    absence.looked(30.0 + AGAIN_SECONDS)
    assert absence.looks == []


def test_a_lease_that_is_renewed_late_is_held_still():
    absence = watching((0.0, held(1)), (14.0, held(1)), (15.0, held(2)))
    assert (absence.looks, absence.away) == ([], False)


def test_another_one_took_over_between_two_looks():
    absence = watching((0.0, held(1)), (3.0, held(2, "two", transitions=1)))
    assert absence.is_due(3.0)


def test_who_begins_to_lead_looks():
    absence = Absence()
    absence.plan(5.0)
    assert absence.is_due(5.0)
    absence.looked(5.0)
    assert absence.looks == [5.0 + AGAIN_SECONDS]


# --- what is said ---


def a_pod(**more: Any) -> PodObject:
    context = {"appArmorProfile": {"type": "Localhost", "localhostProfile": "web"}}
    metadata = {"name": "p", "namespace": "shop", "uid": "u", **more.pop("metadata", {})}
    spec = {"containers": [{"name": "c", "securityContext": context}], **more}
    return decode(PodObject, {"metadata": metadata, "spec": spec})


def a_profile(*, available: bool) -> dict[str, SecurityProfile]:
    said = {"reason": "x", "message": "", "observedGeneration": 1}
    body = {
        "metadata": {"name": "web", "uid": "p"},
        "spec": {"type": "AppArmor", "appArmor": {"policy": ""}},
        "status": {"conditions": [{"type": "Available", "status": str(available), **said}]},
    }
    return {"web": decode(SecurityProfile, body)}


@pytest.mark.parametrize("pod", [a_pod(), a_pod(nodeName="n")], ids=["not scheduled", "on a node without"])
def test_a_pod_that_should_have_been_gated_is_told_of(pod: PodObject):
    said = missed(pod, a_profile(available=False), {})
    assert said is not None
    assert (said.pod.namespace, said.pod.name, said.pod.uid) == ("shop", "p", "u")
    assert (said.reason, said.about, said.warning) == ("GateMissed", ("web",), True)
    assert said.message.startswith("names web, not Available yet, and has no scheduling gate")


def test_a_pod_that_names_what_nobody_defines_is_told_of():
    context = {"seccompProfile": {"type": "Localhost", "localhostProfile": "hauberk/nobodys.json"}}
    containers = [{"name": name, "securityContext": context} for name in ("a", "b")]
    said = missed(a_pod(containers=containers), a_profile(available=True), {})
    assert said is not None
    assert (said.reason, said.about, said.warning) == ("UnknownProfile", ("hauberk/nobodys.json",), True)
    assert said.message.startswith("names hauberk/nobodys.json, which no SecurityProfile defines")


@pytest.mark.parametrize(
    ("pod", "profiles"),
    [
        (a_pod(), a_profile(available=True)),
        (a_pod(), {}),
        (a_pod(schedulingGates=[{"name": POD_GATE}]), a_profile(available=False)),
        (a_pod(metadata={"deletionTimestamp": "x"}), a_profile(available=False)),
        (
            a_pod(nodeName="n", metadata={"annotations": {"kubernetes.io/config.mirror": "x"}}),
            a_profile(available=False),
        ),
    ],
    ids=["available", "nobody's", "gated", "going", "mirror"],
)
def test_of_others_nothing_is_said(pod: PodObject, profiles: dict[str, SecurityProfile]):
    assert missed(pod, profiles, {}) is None
