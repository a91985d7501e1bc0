"""An API for the loops of operator and admission, which refuses what it is told to, and what they see."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from hauberk.crds.errors import BusyFault, ClusterFault, RefusedFault
from hauberk.crds.models import Condition, Metadata, ProfileStatus, SecurityProfile
from hauberk.crds.names import FINALIZER, SECURITY_PROFILES
from hauberk.crds.pods import PodObject
from hauberk.crds.reasons import Reason
from hauberk.operator.snapshot import Store
from hauberk.operator.writes import (
    AddFinalizer,
    CreateRevision,
    Entomb,
    LabelNode,
    OpenGate,
    RemoveFinalizer,
    TellOfPod,
    Write,
    object_of,
)


class Api:
    """Stands for the API's rim: remembers what it was told, refuses what it is told to refuse."""

    def __init__(self) -> None:
        self.writes: list[Write] = []
        self.statuses: dict[str, ProfileStatus] = {}
        self.tried: list[str] = []
        self.past_the_gate: list[PodObject] = []
        self.applied: list[str] = []
        self.accepted: dict[str, Condition] = {}
        self.events: list[str] = []
        self.refused: set[str] = set()
        self.listed: dict[str, list[dict[str, Any]]] = {}
        self.while_listing: Any = None
        self.where = Store("here")
        self.stores = 0
        self.going = False
        self.taken = True
        self.late: set[type[Write]] = set()
        self.busy = self.no_time_for_events = False
        self.written: list[str] = []
        self.order: list[str] = []  # of all that was taken
        self.there: dict[str, Metadata] = {}  # what an object is after a status was written
        self.gated: list[PodObject] = []
        self.while_writing: Any = None

    async def store(self) -> Store:
        self.stores += 1
        if "store" in self.refused:
            raise ClusterFault(Reason.PROGRESSING, "can't be read")
        return self.where

    async def leaving(self) -> bool:
        return self.going

    async def listing(self, plural: str) -> AsyncIterator[dict[str, Any]]:
        for body in self.listed.get(plural, []):
            if self.while_listing:
                self.while_listing()
            yield body

    async def gated_pods(self) -> AsyncIterator[PodObject]:
        for pod in self.gated:
            if "pods" in self.refused:
                raise ClusterFault(Reason.PROGRESSING, "can't be listed")
            yield pod

    async def pods_past_the_gate(self) -> AsyncIterator[PodObject]:
        for pod in self.past_the_gate:
            yield pod

    async def apply_daemonset(self, name: str, manifest: dict[str, Any]) -> int:
        del manifest
        if name in self.refused:
            raise RefusedFault(Reason.PROGRESSING, "not taken")
        self.applied.append(name)
        return 1

    async def carry_out(self, write: Write) -> bool:
        if isinstance(write, AddFinalizer | RemoveFinalizer) and object_of(write) in self.refused:
            raise RefusedFault(Reason.PROGRESSING, "not taken")
        if isinstance(write, CreateRevision) and write.revision.spec.profile in self.refused:
            raise RefusedFault(Reason.PROGRESSING, "not taken")
        if isinstance(write, Entomb) and "tombstones" in self.refused:
            raise RefusedFault(Reason.PROGRESSING, "not taken")
        if isinstance(write, LabelNode) and write.node in self.refused:
            raise RefusedFault(Reason.PROGRESSING, "not taken")
        if isinstance(write, OpenGate | TellOfPod) and write.pod.name in self.refused:
            raise RefusedFault(Reason.PROGRESSING, "not taken")
        self.writes.append(write)
        self.order.append(f"{type(write).__name__} {object_of(write)}")
        if isinstance(write, RemoveFinalizer) and self.taken:
            for one in self.listed.get(SECURITY_PROFILES, []):
                if one["metadata"]["name"] == write.profile.metadata.name:
                    kept = [name for name in one["metadata"]["finalizers"] if name != FINALIZER]
                    one["metadata"]["finalizers"] = kept
        return type(write) not in self.late

    async def write_status(self, name: str, status: ProfileStatus) -> Metadata | None:
        self.written.append(name)
        if self.busy:
            raise BusyFault(Reason.PROGRESSING, "no time", 7.0)
        if self.while_writing:
            self.while_writing()
        self.tried.append(name)
        if f"{name}/status" in self.refused:
            raise RefusedFault(Reason.PROGRESSING, "not taken")
        self.statuses[name] = status
        self.order.append(f"status {name}")
        return self.there.get(name)

    async def write_acceptance(self, name: str, condition: Condition) -> None:
        if f"{name}/status" in self.refused:
            raise RefusedFault(Reason.PROGRESSING, "not taken")
        self.accepted[name] = condition

    async def tell(self, profile: SecurityProfile, reason: str, message: str, *, warning: bool) -> None:
        if self.no_time_for_events:
            raise BusyFault(Reason.PROGRESSING, "no time", 7.0)
        if "events" in self.refused:
            raise RefusedFault(Reason.PROGRESSING, "not taken")
        self.order.append(f"event {profile.metadata.name}")
        self.events.append(f"{profile.metadata.name} {reason} {warning} {bool(message)}")


def body(name: str, policy: str = "", generation: int = 1, said: str = "") -> dict[str, Any]:
    """Return a SecurityProfile; `said`: the reason for which the admission accepted or refused its text."""
    accepted = {
        "type": "Accepted",
        "status": str(said == "Accepted"),
        "reason": said,
        "message": "line 3: no",
        "observedGeneration": generation,
    }
    return {
        "status": {"observedGeneration": generation, "conditions": [accepted] if said else []},
        "metadata": {
            "name": name,
            "uid": f"uid-{name}",
            "generation": generation,
            "finalizers": ["hauberk.dev/profile"],
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {"type": "AppArmor", "appArmor": {"policy": policy or f"profile {name} {{ }}"}},
    }


def report(node: str = "n", **section: Any) -> dict[str, Any]:
    return {"metadata": {"name": node}, "status": {"bootID": "b", "appArmor": section}}


def going(name: str) -> dict[str, Any]:
    one = body(name)
    one["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    return one
