"""Tells of pods that nobody gated: when to look for them, and what to say of each. No I/O, and no own clock.

Called by `controller`. Pods are listed, once, when there is reason to: the admission was away, or another
operator may have been when it was. A pod that was let through is not held back any more, only told of.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..crds.models import SecurityProfile
from ..crds.pods import PodObject
from ..crds.reasons import Reason
from .cluster import Held
from .gates import pod_of
from .gating import Owners, find, is_gated, is_mirror
from .writes import TellOfPod

# The one that is back is asked some seconds later: the webhook's Service has to hear of it first. What is
# created until then is found by a second look.
AGAIN_SECONDS = 20.0
# A Lease that was renewed no more for that much longer than it lasts is nobody's.
MARGIN_SECONDS = 3.0


@dataclass
class Absence:
    """Whether the admission is there, by its Lease, and when to look for what it missed.

    Attributes:
        looks: when to look for pods, in seconds that only go forward.
        away: nobody holds the Lease.
    """

    looks: list[float] = field(default_factory=list[float])
    away: bool = False
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
        self.looks = [one for one in self.looks if one > began]


def missed(pod: PodObject, profiles: Mapping[str, SecurityProfile], owners: Owners) -> TellOfPod | None:
    """Return what to say of a pending pod, in a namespace with the gate; None where nothing was missed."""
    if is_gated(pod) or is_mirror(pod) or pod.metadata.deletion_timestamp is not None:
        return None
    found = find(pod, profiles, owners)
    waits = found.waits_for
    if not waits and found.unknown:
        # A namespace may refuse such pods: this one was asked of nobody, or only warned of.
        names = tuple(dict.fromkeys(one.name for one in found.unknown))
        message = (
            f"names {', '.join(names)}, which no SecurityProfile defines, so no node will have it; apply one "
            "that does, or correct the name"
        )
        return TellOfPod(pod_of(pod), Reason.UNKNOWN_PROFILE, message, names, warning=True)
    if not waits:
        return None
    message = (
        f"names {', '.join(waits)}, not Available yet, and has no scheduling gate: nobody gated it as it was "
        "created. On a node without the profile its containers fail to start until the node has it. To have "
        "it wait instead, delete it: what its controller makes anew is gated, if hauberk-admission runs"
    )
    return TellOfPod(pod_of(pod), Reason.GATE_MISSED, message, tuple(waits), warning=True)
