"""What the operator and the admission write, as plain values. Pure.

Decided by `finalizers` (the operator) and by `desired` (the admission); `cluster` carries them out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..crds.models import Placement, ProfileRevision, SecurityProfile, Text, Unrendered
from ..crds.names import FINALIZER

# What the API takes of an Event's message (core/v1, Event).
MESSAGE_LENGTH = 1024


@dataclass(frozen=True)
class AddFinalizer:
    """Keep a profile's object until no kernel holds it."""

    profile: SecurityProfile

    @property
    def finalizers(self) -> list[str]:
        """Return what the object has then."""
        return [*_others(self.profile), FINALIZER]


@dataclass(frozen=True)
class RemoveFinalizer:
    """Let a profile's object go; `once_withdrawn`: not while a revision of it is there for nodes to load."""

    profile: SecurityProfile
    once_withdrawn: bool = False

    @property
    def finalizers(self) -> list[str]:
        """Return what the object has then."""
        return _others(self.profile)


def _others(profile: SecurityProfile) -> list[str]:
    return [one for one in profile.metadata.finalizers if one != FINALIZER]


@dataclass(frozen=True)
class CreateRevision:
    """Publish content."""

    revision: ProfileRevision


@dataclass(frozen=True)
class Place:
    """Change where a revision goes, or make it the wanted one."""

    revision: str
    placement: Placement


@dataclass(frozen=True)
class Extend:
    """Add texts for further kinds of nodes to a revision: as it was read, or not at all."""

    revision: ProfileRevision
    texts: tuple[Text, ...]
    unrendered: tuple[Unrendered, ...]


@dataclass(frozen=True)
class DeleteRevision:
    """Take back content that no node needs."""

    revision: str


@dataclass(frozen=True)
class Collect:
    """Take back a revision whose SecurityProfile is gone, once that is sure."""

    revision: ProfileRevision


@dataclass(frozen=True)
class Entomb:
    """Tell the agents that still hold a profile that its object was deleted, once that is sure."""

    tombstone: ProfileRevision


@dataclass(frozen=True)
class LabelNode:
    """Set labels of Hauberk's on a Node, or take those away that are None."""

    node: str
    labels: Mapping[str, str | None]


@dataclass(frozen=True)
class Untaint:
    """Take the startup taint off a Node; `because` is for the log."""

    node: str
    because: str = field(default="", compare=False)


@dataclass(frozen=True)
class PodOf:
    """One pod: another one of the same name is not meant."""

    namespace: str
    name: str
    uid: str


@dataclass(frozen=True)
class OpenGate:
    """Let a pod be scheduled, as far as it is up to Hauberk; `because` is for the log."""

    pod: PodOf
    because: str = field(default="", compare=False)


@dataclass(frozen=True)
class TellOfPod:
    """Record an Event on a pod, once for what it is `about`."""

    pod: PodOf
    reason: str
    message: str
    about: tuple[str, ...] = ()
    warning: bool = False


Write = (
    AddFinalizer
    | RemoveFinalizer
    | LabelNode
    | Untaint
    | OpenGate
    | TellOfPod
    | CreateRevision
    | Extend
    | Place
    | DeleteRevision
    | Collect
    | Entomb
)


def object_of(write: Write) -> str:
    """Return the name of what is written, for a log."""
    match write:
        case AddFinalizer(profile) | RemoveFinalizer(profile):
            return profile.metadata.name
        case CreateRevision(revision) | Extend(revision) | Collect(revision) | Entomb(revision):
            return revision.metadata.name
        case OpenGate(pod) | TellOfPod(pod):
            return f"{pod.namespace}/{pod.name}"
        case Place(name) | DeleteRevision(name) | LabelNode(name) | Untaint(name):
            return name


def told_of(write: Write) -> dict[str, Any]:
    """Return what a log says of a write beside its object's name: what is written, or why."""
    match write:
        case OpenGate(because=because) | Untaint(because=because):
            return {"because": because}
        case TellOfPod(reason=reason, message=message):
            return {"reason": reason, "message": message[:MESSAGE_LENGTH]}
        case LabelNode(labels=labels):
            return {"labels": dict(labels)}
        case _:
            return {}
