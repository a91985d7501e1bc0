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
# What the API does not take of one pod is tried again so much later: the first time, and at most.
AGAIN_SECONDS = (1.0, 60.0)

Key = tuple[str, str]


@dataclass
class Gates:
    """The gated pods, by namespace and name.

    Attributes:
        pods: as they were seen last.
        since: when each was seen first, by its UID, in seconds that only go forward.
        told: what was said of each, by its UID.
        refused: of those of which a write was not taken, how often in a row, and until when to leave it.
        due: when there will be something to write; infinity: not before something changes.
    """

    pods: dict[Key, PodObject] = field(default_factory=dict[Key, PodObject])
    since: dict[str, float] = field(default_factory=dict[str, float])
    told: dict[str, set[tuple[str, ...]]] = field(default_factory=dict[str, set[tuple[str, ...]]])
    refused: dict[str, tuple[int, float]] = field(default_factory=dict[str, tuple[int, float]])
    due: float = math.inf

    def listed(self, pods: Mapping[Key, PodObject], now: float) -> None:
        """Take note of all that there are.

        A pod that has the label alone is none: whoever labels pods by a template has them made anew, without
        end, if their labels are taken away.
        """
        self.pods = {key: pod for key, pod in pods.items() if is_gated(pod)}
        uids = {one.metadata.uid for one in self.pods.values()}
        self.since = {uid: self.since.get(uid, now) for uid in uids}
        self.told = {uid: said for uid, said in self.told.items() if uid in uids}
        self.refused = {uid: tries for uid, tries in self.refused.items() if uid in uids}

    def changed(self, key: Key, pod: PodObject | None, now: float) -> None:
        """Take note of one that is another now, or gone (None)."""
        before = self.pods.pop(key, None)
        pod = pod if pod and is_gated(pod) else None
        if before and (pod is None or pod.metadata.uid != before.metadata.uid):
            for memory in (self.since, self.told, self.refused):
                memory.pop(before.metadata.uid, None)
        if pod is not None:
            self.pods[key] = pod
            self.since.setdefault(pod.metadata.uid, now)

    def carried_out(self, write: OpenGate | TellOfPod) -> None:
        """Take note of a write that was taken, so that it is not done again."""
        key = (write.pod.namespace, write.pod.name)
        there = self.pods.get(key)
        if there is None or there.metadata.uid != write.pod.uid:
            return
        self.refused.pop(write.pod.uid, None)
        if isinstance(write, OpenGate):
            self.changed(key, None, 0.0)
        else:
            self.told.setdefault(write.pod.uid, set()).add(write.about)

    def was_refused(self, write: OpenGate | TellOfPod, now: float) -> None:
        """Take note of a write that was not taken: that pod is left alone for a while, and no other."""
        tries = self.refused.get(write.pod.uid, (0, 0.0))[0]
        first, longest = AGAIN_SECONDS
        self.refused[write.pod.uid] = (tries + 1, now + min(first * 2.0 ** min(tries, 10), longest))

    def waiting(self) -> list[PodObject]:
        """Return the pods that wait."""
        return [one for one in self.pods.values() if one.metadata.deletion_timestamp is None]

    def openings(
        self,
        profiles: Mapping[str, SecurityProfile],
        revisions: Mapping[str, ProfileRevision],
        now: float,
    ) -> list[OpenGate]:
        """Return the gates to open, the oldest pod's first."""
        return [
            OpenGate(pod_of(pod))
            for pod, names in self._waiting(profiles, revisions)
            if not names and self._left_until(pod) <= now
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
            at = self._left_until(pod)
            if names:
                at = max(at, self.since[uid] + PATIENCE_SECONDS)
            elif at <= now:
                continue  # its gate was opened in this round, or is to be in the next one
            if at > now:
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

    def _left_until(self, pod: PodObject) -> float:
        return self.refused.get(pod.metadata.uid, (0, 0.0))[1]

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
