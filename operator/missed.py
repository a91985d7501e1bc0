"""Tells of pods that nobody gated: when to look for them, and what to say of each. No I/O, and no own clock.

Called by `controller`. Pods are listed at once when there is reason to: the admission was away, or another
operator may have been when it was. And now and then, for one that is there may be asked in vain: its answer
came too late. A pod that was let through is not held back any more, only told of.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from ..crds.models import SecurityProfile
from ..crds.names import LABEL_LSM, LACKS, security_module
from ..crds.pods import PodObject, named
from ..crds.reasons import Reason
from .cluster import Held
from .gates import pod_of
from .gating import Found, Known, find, gated_for, is_gated, is_mirror, was_available
from .snapshot import NodeView
from .writes import TellOfPod

# The one that is back is asked some seconds later: the webhook's Service has to hear of it first. What is
# created until then is found by a second look.
AGAIN_SECONDS = 20.0
# Pods are looked at that often where nothing calls for it: the API server is asked for pending ones alone.
NOW_AND_THEN_SECONDS = 300.0
# A Lease that was renewed no more for that much longer than it lasts is nobody's.
MARGIN_SECONDS = 3.0


@dataclass
class Absence:
    """Whether the admission is there, by its Lease, and when to look for what it missed.

    Attributes:
        looks: when to look for pods, in seconds that only go forward.
        away: nobody holds the Lease.
        told: of the pods that the last look found, by UID and reason, what was said of each.
    """

    looks: list[float] = field(default_factory=list[float])
    away: bool = False
    told: dict[tuple[str, str], frozenset[str]] = field(default_factory=dict[tuple[str, str], frozenset[str]])
    _lease: Held | None = None
    _since: float = -math.inf

    def plan(self, now: float) -> None:
        """Have pods looked at, at once and once more."""
        self.looks = [now, now + AGAIN_SECONDS]

    def seen(self, lease: Held | None, now: float) -> None:
        """Take note of the admission's Lease as it is now: what changes it is its renewal."""
        before = self._lease
        if lease != before:
            self._lease, self._since = lease, now
        lapsed = lease is None or now - self._since > lease.seconds + MARGIN_SECONDS
        if lease is None or lapsed or not lease.holder:
            self.away = True
            return
        another = before is not None and lease.transitions != before.transitions
        if self.away or another:
            self.plan(now)
        self.away = False

    def is_due(self, now: float) -> bool:
        """Return whether pods are to be looked at now."""
        return any(one <= now for one in self.looks)

    def looked(self, began: float) -> None:
        """Take note of a look that was done."""
        self.looks = [one for one in self.looks if one > began] or [began + NOW_AND_THEN_SECONDS]

    def news(self, found: Collection[TellOfPod]) -> list[TellOfPod]:
        """Return what was not said before, of what a look found; what it did not find is forgotten."""
        there = {_about(one) for one in found}
        self.told = {key: names for key, names in self.told.items() if key in there}
        return [one for one in found if not self.told.get(_about(one), frozenset()).issuperset(one.about)]

    def was_told(self, write: TellOfPod) -> None:
        """Take note of what was said of a pod."""
        self.told[_about(write)] = self.told.get(_about(write), frozenset()) | {*write.about}


def _about(one: TellOfPod) -> tuple[str, str]:
    return one.pod.uid, one.reason


def missed(pod: PodObject, known: Known, nodes: Mapping[str, NodeView]) -> TellOfPod | None:
    """Return what to say of a pending pod, in a namespace with the gate; None where nothing was missed."""
    if is_gated(pod) or is_mirror(pod) or pod.metadata.deletion_timestamp is not None:
        return None
    found = find(pod, known)
    if waits := _never_waited_for(pod, found, known):
        message = (
            f"names {', '.join(waits)}, not Available yet, and has no scheduling gate: nobody gated it as it "
            "was created. On a node without the profile its containers fail to start until the node has it. "
            "To have it wait instead, delete it: what its controller makes anew is gated, if "
            "hauberk-admission runs"
        )
        return TellOfPod(pod_of(pod), Reason.GATE_MISSED, message, tuple(waits), warning=True)
    if not found.waits_for and found.unknown:
        # A namespace may refuse such pods: this one was asked of nobody, or only warned of.
        names = tuple(dict.fromkeys(one.name for one in found.unknown))
        message = (
            f"names {', '.join(names)}, which no SecurityProfile defines, so no node will have it; apply one "
            "that does, or correct the name"
        )
        return TellOfPod(pod_of(pod), Reason.UNKNOWN_PROFILE, message, names, warning=True)
    node = nodes.get(pod.spec.node_name or "")
    return _misplaced(pod, found, known, node) if node else None


def _never_waited_for(pod: PodObject, found: Found, known: Known) -> list[str]:
    """Return the SecurityProfiles that a pod should have been gated for, as it was created, and was not.

    What was Available then, and was lost since, is none of them; nor is what was published then with the
    name, and is not held any more because a newer revision has none of that name.
    """
    before, since = gated_for(pod), pod.metadata.creation_timestamp
    return [
        name
        for name in found.waits_for
        if name not in before and not was_available(found.managed[name], known, since)
        if not (since and name in found.newer and _had_the_name(pod, found.managed[name], known))
    ]


def _had_the_name(pod: PodObject, profile: SecurityProfile, known: Known) -> bool:
    """Return whether what was published of a SecurityProfile as a pod was created defined what that names."""
    there = known.published_before(profile, pod.metadata.creation_timestamp)
    defined = {name for each in there for text in each.spec.content.texts for name in text.names}
    return any(one.name in defined for one in named(pod))


def _misplaced(pod: PodObject, found: Found, known: Known, node: NodeView) -> TellOfPod | None:
    """Return what to say of a pod that is on a node which will never hold its profile.

    One that was asked about is kept to the others; one that its author put there is not asked about.
    """
    report = known.reports.get(node.name)
    for name, profile in sorted(found.managed.items()):
        if report and report.status.held(name, profile.spec.type).revision:
            continue  # what is asked for now may be none of what is published
        if why := _unfit(profile, node):
            reason, told = why
            message = (
                f"names {name}, and is on node {node.name}, {told}; nobody kept it to nodes that hold the "
                "profile as it was created. Delete it: what its controller makes anew is kept to those, if "
                "hauberk-admission runs and the pod's template names no node"
            )
            return TellOfPod(pod_of(pod), reason, message, (name, node.name), warning=True)
    return None


def _unfit(profile: SecurityProfile, node: NodeView) -> tuple[Reason, str] | None:
    """Return why a node will not hold a profile: a reason, and the same in words."""
    if not profile.spec.node_selector.matches(node.labels):
        return (
            Reason.NOT_SELECTED,
            "which the profile's nodeSelector leaves out: its containers fail to start",
        )
    label = LABEL_LSM.get(profile.spec.type, "")  # whatever kernel there is has seccomp
    if node.labels.get(label) == LACKS:
        return (
            Reason.UNSUPPORTED,
            f"whose kernel runs without {security_module(profile.spec.type)}: it won't hold it",
        )
    return None
