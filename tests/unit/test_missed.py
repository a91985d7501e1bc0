"""When pods are looked for that nobody gated, and what is said of each."""

from __future__ import annotations

from typing import Any

import pytest
from hauberk.crds.models import ProfileRevision, SecurityProfile, decode
from hauberk.crds.names import POD_GATE
from hauberk.crds.pods import PodObject
from hauberk.operator.cluster import Held
from hauberk.operator.gating import Known
from hauberk.operator.missed import AGAIN_SECONDS, NOW_AND_THEN_SECONDS, Absence, missed
from hauberk.operator.snapshot import NodeView, parse_time
from hauberk.operator.writes import PodOf, TellOfPod


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
    assert absence.looks == [30.0 + AGAIN_SECONDS + NOW_AND_THEN_SECONDS]


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


def a_profile(*, available: bool, since: str = "", **spec: Any) -> dict[str, SecurityProfile]:
    said = {"reason": "x", "message": "", "observedGeneration": 1, "lastTransitionTime": since}
    body = {
        "metadata": {"name": "web", "uid": "p", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"type": "AppArmor", "appArmor": {"policy": ""}, **spec},
        "status": {"conditions": [{"type": "Available", "status": str(available), **said}]},
    }
    return {"web": decode(SecurityProfile, body)}


def said_of(pod: PodObject, profiles: dict[str, SecurityProfile], **labels: str) -> TellOfPod | None:
    """Return what is said of a pod where there is one node, `n`, with these labels."""
    node = NodeView("n", labels, True, parse_time("2026-01-01T00:00:00Z"), "b")
    return missed(pod, Known(profiles), {"n": node})


@pytest.mark.parametrize("pod", [a_pod(), a_pod(nodeName="n")], ids=["not scheduled", "on a node without"])
def test_a_pod_that_should_have_been_gated_is_told_of(pod: PodObject):
    said = said_of(pod, a_profile(available=False))
    assert said is not None
    assert (said.pod.namespace, said.pod.name, said.pod.uid) == ("shop", "p", "u")
    assert (said.reason, said.about, said.warning) == ("GateMissed", ("web",), True)
    assert said.message.startswith("names web, not Available yet, and has no scheduling gate")


def test_a_pod_that_names_what_nobody_defines_is_told_of():
    context = {"seccompProfile": {"type": "Localhost", "localhostProfile": "hauberk/nobodys.json"}}
    containers = [{"name": name, "securityContext": context} for name in ("a", "b")]
    said = said_of(a_pod(containers=containers), a_profile(available=True))
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
    assert said_of(pod, profiles) is None


@pytest.mark.parametrize(
    ("created", "lost", "published", "told"),
    [
        # it was Available then
        ("2026-01-02T00:00:00Z", "2026-01-03T00:00:00Z", "2026-01-01T00:00:01Z", False),
        ("2026-01-02T00:00:00Z", "2026-01-01T12:00:00Z", "2026-01-01T00:00:01Z", True),
        # applied together: said a moment later
        ("2026-01-01T00:00:00Z", "2026-01-01T00:00:02Z", "2026-01-01T00:00:00Z", True),
        # the profile came after the pod
        ("2025-12-31T00:00:00Z", "2026-01-01T00:00:02Z", "2026-01-01T00:00:01Z", True),
        # all of Hauberk was away as both were applied: it is said, and published, when that is back
        ("2026-01-02T00:00:00Z", "2026-01-03T00:00:00Z", "2026-01-03T00:00:00Z", True),
        ("2026-01-02T00:00:00Z", "2026-01-03T00:00:00Z", "", True),
    ],
)
def test_what_was_available_as_the_pod_was_created_was_not_missed(
    created: str, lost: str, published: str, told: bool
):
    pod = a_pod(metadata={"creationTimestamp": created})
    spec = {"profile": "web", "profileUID": "p", "type": "AppArmor", "contract": 1, "content": {}}
    metadata = {"name": "web.1", "creationTimestamp": published}
    revision = {"metadata": metadata, "spec": {**spec, "placement": {"sequence": 1}}}
    revisions = {"web.1": decode(ProfileRevision, revision)} if published else {}
    known = Known(a_profile(available=False, since=lost), revisions=revisions)
    assert (missed(pod, known, {}) is not None) == told


def test_who_waited_for_it_once_was_not_missed():
    """Its gate is open, and the profile's only node was lost since."""
    pod = a_pod(metadata={"annotations": {"hauberk.dev/gated-for": "other,web:2:p"}})
    assert said_of(pod, a_profile(available=False)) is None


ZONE: dict[str, Any] = {"nodeSelector": {"matchLabels": {"zone": "a"}}}


@pytest.mark.parametrize(
    ("spec", "labels", "expected"),
    [
        (ZONE, {}, ("NotSelected", "which the profile's nodeSelector leaves out")),
        (ZONE, {"zone": "a"}, None),
        ({}, {"hauberk.dev/lsm-apparmor": "false"}, ("Unsupported", "whose kernel runs without AppArmor")),
        ({}, {"hauberk.dev/lsm-selinux": "false"}, None),
    ],
)
def test_a_pod_on_a_node_that_will_never_hold_its_profile_is_told_of(
    spec: dict[str, Any], labels: dict[str, str], expected: tuple[str, str] | None
):
    profiles = a_profile(available=True, **spec)
    assert said_of(a_pod(), profiles, **labels) is None  # it has no node yet
    assert said_of(a_pod(nodeName="unknown"), profiles, **labels) is None
    said = said_of(a_pod(nodeName="n"), profiles, **labels)
    if expected is None:
        assert said is None
    else:
        assert said is not None
        assert (said.reason, said.about, said.warning) == (expected[0], ("web", "n"), True)
        assert expected[1] in said.message


def test_a_pod_with_a_seccomp_profile_is_misplaced_by_the_selector_alone():
    """Nodes have no label for seccomp: a kernel without it is none of Kubernetes'."""
    context = {"seccompProfile": {"type": "Localhost", "localhostProfile": "hauberk/web.json"}}
    pod = a_pod(nodeName="n", containers=[{"name": "c", "securityContext": context}])
    spec: dict[str, Any] = {"type": "Seccomp", "seccomp": {"policy": ""}, "appArmor": None}
    assert said_of(pod, a_profile(available=True, **spec)) is None
    said = said_of(pod, a_profile(available=True, **spec, **ZONE))
    assert said is not None
    assert said.reason == "NotSelected"


# --- how often ---


def test_who_looked_looks_again_now_and_then():
    """One that is there may be asked in vain: nothing tells of an answer that came too late."""
    absence = Absence()
    absence.plan(0.0)
    absence.looked(0.0)
    absence.looked(AGAIN_SECONDS)
    assert not absence.is_due(AGAIN_SECONDS + NOW_AND_THEN_SECONDS - 1)
    assert absence.is_due(AGAIN_SECONDS + NOW_AND_THEN_SECONDS)
    absence.looked(2 * NOW_AND_THEN_SECONDS)
    assert absence.looks == [3 * NOW_AND_THEN_SECONDS]


def test_what_was_told_is_told_again_only_where_it_was_not_found_in_between():
    absence = Absence()
    one, other = (TellOfPod(PodOf("shop", name, name), "GateMissed", "m", ("web",)) for name in "ab")
    assert absence.news([one, other]) == [one, other]
    absence.was_told(one)  # the other one was refused
    assert absence.news([one, other]) == [other]
    assert absence.news([]) == []
    assert absence.news([one]) == [one]


def test_of_two_profiles_that_were_told_of_one_is_no_news():
    absence = Absence()
    both, left = (
        TellOfPod(PodOf("shop", "a", "a"), "GateMissed", "m", names) for names in (("a", "b"), ("b",))
    )
    absence.was_told(both)
    assert absence.news([left]) == []
    absence.was_told(left)
    assert absence.news([both]) == []  # a is there and gone again
