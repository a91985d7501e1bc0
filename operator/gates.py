"""Keeps the pods that have Hauberk's gate, and decides which to open, and of which to say why they wait.

Called by `controller`, fed by `gated_pods`; what a pod waits for says `gating`. No I/O; it remembers, and is
given the time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ..crds.models import ProfileRevision, SecurityProfile
from ..crds.pods import PodObject
from ..crds.reasons import Reason
from .gating import awaited, cause, holders, is_gated
from .writes import OpenGate, PodOf, TellOfPod

# A pod that waits for longer than a profile usually takes is told of.
PATIENCE_SECONDS = 5.0
# Events in one round: what else is to be written comes first, and there may be many pods.
EVENTS = 50

Key = tuple[str, str]


@dataclass
class Gates:
    """The gated pods, by namespace and name.

    Attributes:
        pods: as they were seen last.
        since: when each was seen first, by its UID, in seconds that only go forward.
        told: what was said of each, by its UID.
        due: when there will be something to tell; infinity: not before something changes.
    """

    pods: dict[Key, PodObject] = field(default_factory=dict[Key, PodObject])
    since: dict[str, float] = field(default_factory=dict[str, float])
    told: dict[str, set[tuple[str, ...]]] = field(default_factory=dict[str, set[tuple[str, ...]]])
    due: float = math.inf

    def listed(self, pods: Mapping[Key, PodObject], now: float) -> None:
        """Take note of all that there are."""
        self.pods = dict(pods)
        uids = {one.metadata.uid for one in self.pods.values()}
        self.since = {uid: self.since.get(uid, now) for uid in uids}
        self.told = {uid: said for uid, said in self.told.items() if uid in uids}

    def changed(self, key: Key, pod: PodObject | None, now: float) -> None:
        """Take note of one that is another now, or gone (None)."""
        before = self.pods.pop(key, None)
        if before and (pod is None or pod.metadata.uid != before.metadata.uid):
            self.since.pop(before.metadata.uid, None)
            self.told.pop(before.metadata.uid, None)
        if pod is not None:
            self.pods[key] = pod
            self.since.setdefault(pod.metadata.uid, now)

    def carried_out(self, write: OpenGate | TellOfPod) -> None:
        """Take note of a write that was taken, so that it is not done again."""
        key = (write.pod.namespace, write.pod.name)
        there = self.pods.get(key)
        if there is None or there.metadata.uid != write.pod.uid:
            return
        if isinstance(write, OpenGate):
            self.changed(key, None, 0.0)
        else:
            self.told.setdefault(write.pod.uid, set()).add(write.about)

    def waiting(self) -> list[PodObject]:
        """Return the pods that wait."""
        return [
            one for one in self.pods.values() if is_gated(one) and one.metadata.deletion_timestamp is None
        ]

    def openings(
        self, profiles: Mapping[str, SecurityProfile], revisions: Mapping[str, ProfileRevision]
    ) -> list[OpenGate]:
        """Return the gates to open, the oldest pod's first.

        A pod without the gate, whose label alone is left, loses that.
        """
        return [
            OpenGate(pod_of(pod))
            for pod, names in self._waiting(profiles, revisions)
            if not names or not is_gated(pod)
        ]

    def tellings(
        self,
        profiles: Mapping[str, SecurityProfile],
        revisions: Mapping[str, ProfileRevision],
        now: float,
    ) -> list[TellOfPod]:
        """Return what to say of pods that wait: once for each cause, after a while."""
        found: list[TellOfPod] = []
        self.due = math.inf
        for pod, names in self._waiting(profiles, revisions):
            uid = pod.metadata.uid
            if not names or not is_gated(pod):
                continue
            if (at := self.since[uid] + PATIENCE_SECONDS) > now:
                self.due = min(self.due, at)
                continue
            causes = [cause(name, profiles) for name in names]
            about = tuple(f"{name} {reason}" for name, (reason, _) in zip(names, causes, strict=True))
            if about in self.told.get(uid, ()):
                continue
            if len(found) == EVENTS:
                self.due = now
                break
            message = f"waits for {', '.join(names)}: {'; '.join(told for _, told in causes)}"
            found.append(TellOfPod(pod_of(pod), Reason.GATED, message, about))
        return found

    def _waiting(
        self, profiles: Mapping[str, SecurityProfile], revisions: Mapping[str, ProfileRevision]
    ) -> Iterator[tuple[PodObject, list[str]]]:
        """Yield each pod with the SecurityProfiles that it waits for."""
        if not self.pods:
            return
        owners = holders(profiles, revisions)
        pods = sorted(self.pods.items(), key=lambda one: (one[1].metadata.creation_timestamp, one[0]))
        for _, pod in pods:
            if pod.metadata.deletion_timestamp is None:
                yield pod, awaited(pod, profiles, owners)


def pod_of(pod: PodObject) -> PodOf:
    """Return what names a pod in a write."""
    return PodOf(pod.metadata.namespace, pod.metadata.name, pod.metadata.uid)
