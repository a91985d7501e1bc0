"""Keeps the pods that have Hauberk's gate, and decides which to open, and of which to say why they wait.

Called by `controller`, fed by `gated_pods`; what a pod waits for says `gating`. No I/O; it remembers, and is
given the time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ..crds.pods import PodObject
from ..crds.reasons import Reason
from .backoffs import Backoffs
from .gating import Known, awaited, cause, find, gated_for, is_gated
from .writes import OpenGate, PodOf, TellOfPod

# A pod that waits for longer than a profile usually takes is told of.
PATIENCE_SECONDS = 5.0
# So long a pod whose profiles are Available waits for nodes that are about to hold them: it may come to one
# of those, where its container would fail at first. A node that takes longer holds no pod up.
SETTLING_SECONDS = 5.0
# Events in one round: what else is to be written comes first, and there may be many pods.
EVENTS = 50

Key = tuple[str, str]


@dataclass
class Gates:
    """The gated pods, by namespace and name.

    Attributes:
        pods: as they were seen last.
        since: when each was seen first, by its UID, in seconds that only go forward.
        settling: since when what each waits for is Available, by its UID.
        told: what was said of each, by its UID.
        refused: what was not taken, by the kind of write and the pod's UID.
        due: when there will be something to write; infinity: not before something changes.
    """

    pods: dict[Key, PodObject] = field(default_factory=dict[Key, PodObject])
    since: dict[str, float] = field(default_factory=dict[str, float])
    settling: dict[str, float] = field(default_factory=dict[str, float])
    told: dict[str, set[tuple[str, ...]]] = field(default_factory=dict[str, set[tuple[str, ...]]])
    refused: Backoffs[tuple[str, str]] = field(default_factory=Backoffs[tuple[str, str]])
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
        self.settling = {uid: at for uid, at in self.settling.items() if uid in uids}

    def changed(self, key: Key, pod: PodObject | None, now: float) -> None:
        """Take note of one that is another now, or gone (None)."""
        before = self.pods.pop(key, None)
        pod = pod if pod and is_gated(pod) else None
        if before and (pod is None or pod.metadata.uid != before.metadata.uid):
            for memory in (self.since, self.told, self.settling):
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
        self.refused.taken(_key(type(write), write.pod.uid))
        if isinstance(write, OpenGate):
            self.changed(key, None, 0.0)
        else:
            self.told.setdefault(write.pod.uid, set()).add(write.about)

    def was_refused(self, write: OpenGate | TellOfPod, now: float) -> None:
        """Take note of a write that was not taken: that pod is left alone for a while, and no other."""
        self.refused.refused(_key(type(write), write.pod.uid), now)

    def waiting(self) -> list[PodObject]:
        """Return the pods that wait."""
        return [one for one in self.pods.values() if one.metadata.deletion_timestamp is None]

    def openings(self, known: Known, now: float) -> list[OpenGate]:
        """Return the gates to open, the oldest pod's first."""
        return [
            OpenGate(pod_of(pod), because=opened_because(pod, known))
            for pod, names in self._waiting(known)
            if not names and self._opens_at(pod, known, now) <= now
        ]

    def _opens_at(self, pod: PodObject, known: Known, now: float) -> float:
        """Return when the gate of a pod may be opened that waits for no profile any more."""
        uid = pod.metadata.uid
        settled = self.settling.setdefault(uid, now) + SETTLING_SECONDS if is_settling(pod, known) else now
        return max(settled, self.refused.left_until(_key(OpenGate, uid)))

    def tellings(self, known: Known, now: float) -> list[TellOfPod]:
        """Return what to say of pods that wait: once for each cause, after a while."""
        found: list[TellOfPod] = []
        self.due = math.inf
        for pod, names in self._waiting(known):
            uid = pod.metadata.uid
            if names:
                self.settling.pop(uid, None)
                at = max(self.refused.left_until(_key(TellOfPod, uid)), self.since[uid] + PATIENCE_SECONDS)
            elif (at := self._opens_at(pod, known, now)) <= now:
                continue  # its gate was opened in this round, or is to be in the next one
            if at > now:
                self.due = min(self.due, at)
                continue
            causes = [cause(name, known.profiles) for name in names]
            about = tuple(f"{name} {reason}" for name, (reason, _) in zip(names, causes, strict=True))
            if about in self.told.get(uid, ()):
                continue
            if len(found) == EVENTS:
                self.due = now
                break
            message = f"waits for {', '.join(names)}: {'; '.join(told for _, told in causes)}"
            found.append(TellOfPod(pod_of(pod), Reason.GATED, message, about))
        return found

    def _waiting(self, known: Known) -> Iterator[tuple[PodObject, list[str]]]:
        """Yield each pod with the SecurityProfiles that it waits for."""
        pods = sorted(self.pods.items(), key=lambda one: (one[1].metadata.creation_timestamp, one[0]))
        for _, pod in pods:
            if pod.metadata.deletion_timestamp is None:
                yield pod, awaited(pod, known)


def _key(write: type[OpenGate | TellOfPod], uid: str) -> tuple[str, str]:
    return write.__name__, uid


def _named(pod: PodObject, known: Known) -> list[str]:
    """Return the SecurityProfiles that a pod names, or was gated for."""
    return sorted({*find(pod, known).managed, *gated_for(pod)})


def is_settling(pod: PodObject, known: Known) -> bool:
    """Return whether nodes are about to hold what a pod names, beside those that do."""
    found = (known.profiles.get(name) for name in _named(pod, known))
    return any(one is not None and one.status.nodes.updating > 0 for one in found)


def opened_because(pod: PodObject, known: Known) -> str:
    """Return why nothing holds a pod back any more."""
    names = _named(pod, known)
    return f"Available: {', '.join(names)}" if names else "it names no profile of Hauberk's"


def pod_of(pod: PodObject) -> PodOf:
    """Return what names a pod in a write."""
    return PodOf(pod.metadata.namespace, pod.metadata.name, pod.metadata.uid)
