"""What a process knows of the cluster at one moment, as plain values. Pure.

Filled by `loop` from API objects. The operator (`controller`) decides on it by `aggregate` and `finalizers`,
the admission (`publisher`) by `desired`: it has the texts and knows nothing of nodes but their reports.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

import msgspec

from ..crds.facts import facts_key
from ..crds.models import Facts, ProfileNode, ProfileRevision, Section, SecurityProfile
from ..crds.names import PENDING_TAINT, TYPES
from ..crds.nodes import has_kernel
from .sharing import interned


@dataclass(frozen=True)
class NodeView:
    """The part of a Node that decisions need.

    Attributes:
        name: of the Node.
        labels: its labels.
        ready: whether its kubelet reports, and reports well.
        ready_since: when that last changed.
        boot_id: of the running kernel, as the kubelet reports it.
        pending: whether it has Hauberk's startup taint still.
    """

    name: str
    labels: Mapping[str, str]
    ready: bool
    ready_since: datetime
    boot_id: str
    pending: bool = False

    @cached_property
    def has_kernel(self) -> bool:
        """Return whether it is a Linux node with a kernel that an agent can reach."""
        return has_kernel(self.labels)


@dataclass(frozen=True)
class AgentView:
    """One node's agent: whether the kubelet calls its pod ready, and since when; one without a pod is not."""

    node: str
    ready: bool
    since: datetime
    has_pod: bool = True


@dataclass(frozen=True)
class Store:
    """Where SecurityProfiles are kept: their CustomResourceDefinition, and whether Hauberk's are going away.

    Its UID is the installation: with another one, what this API server has never heard of proves nothing.
    """

    installation: str = ""
    terminating: bool = False


@dataclass(frozen=True)
class Snapshot:
    """Everything that decisions rest on.

    Attributes:
        profiles: by name, as all the following but one.
        revisions: of all profiles.
        reports: what the nodes' agents told.
        nodes: of the cluster.
        agents: by their node's name.
        now: when all this was so.
        store: where the profiles are kept.
    """

    profiles: Mapping[str, SecurityProfile]
    revisions: Mapping[str, ProfileRevision]
    reports: Mapping[str, ProfileNode]
    nodes: Mapping[str, NodeView]
    agents: Mapping[str, AgentView]
    now: datetime
    store: Store = Store()

    @cached_property
    def kinds(self) -> dict[str, dict[str, Facts]]:
        """Return the kinds of nodes that hold each type of profile, by `facts_key`.

        Templates are rendered for these.
        """
        found: dict[str, dict[str, Facts]] = {one: {} for one in TYPES}
        keys: dict[int, str] = {}  # nodes that are alike share their facts' object: see `sharing`
        for _, report in sorted(self.reports.items()):
            facts = report.status.facts
            key = keys.get(id(facts)) or keys.setdefault(id(facts), facts_key(facts))
            for profile_type in report.status.sections:
                found[profile_type][key] = facts
        return found

    @cached_property
    def sections(self) -> list[tuple[str, Section]]:
        """Return what each backend of each node reported, with the type of its profiles."""
        return [pair for one in self.reports.values() for pair in one.status.sections.items()]

    @cached_property
    def shared_kernels(self) -> tuple[tuple[str, ...], ...]:
        """Return the nodes that share their kernel with others, as kind's nodes do, by the name of each."""
        boots: dict[str, list[str]] = {}
        for name, report in self.reports.items():
            if report.status.boot_id:
                boots.setdefault(report.status.boot_id, []).append(name)
        return tuple(sorted(tuple(sorted(nodes)) for nodes in boots.values() if len(nodes) > 1))

    def revisions_of(self, profile: SecurityProfile) -> list[ProfileRevision]:
        """Return the profile's own revisions, the wanted one first."""
        return self._by_owner.get(profile.metadata.uid, [])

    @cached_property
    def _by_owner(self) -> dict[str, list[ProfileRevision]]:
        return by_owner(self.revisions.values())


def by_owner(revisions: Iterable[ProfileRevision]) -> dict[str, list[ProfileRevision]]:
    """Return revisions by the UID of the SecurityProfile that they are of, the wanted one of each first."""
    found: dict[str, list[ProfileRevision]] = {}
    for one in revisions:
        found.setdefault(one.spec.profile_uid, []).append(one)
    for several in found.values():
        several.sort(key=lambda one: one.spec.placement.sequence, reverse=True)
    return found


def node_view(body: Mapping[str, Any]) -> NodeView:
    """Return a Node as decisions need it; one that never reported is not ready since it was created."""
    metadata, status = body["metadata"], body.get("status") or {}
    ready, since = _condition(status, metadata)
    boot_id = (status.get("nodeInfo") or {}).get("bootID", "")
    taints = (body.get("spec") or {}).get("taints") or []
    pending = any(is_pending(one) for one in taints)
    return NodeView(metadata["name"], interned(metadata.get("labels") or {}), ready, since, boot_id, pending)


def is_pending(taint: Mapping[str, Any]) -> bool:
    """Return whether a taint of a Node is Hauberk's startup taint."""
    return taint.get("key") == PENDING_TAINT and taint.get("effect") == "NoSchedule"


def agent_view(body: Mapping[str, Any]) -> AgentView | None:
    """Return an agent's pod as decisions need it; None before it has a node or when it is going away."""
    node = (body.get("spec") or {}).get("nodeName")
    if not node or body["metadata"].get("deletionTimestamp"):
        return None
    ready, since = _condition(body.get("status") or {}, body["metadata"])
    return AgentView(node, ready, since)


def _condition(status: Mapping[str, Any], metadata: Mapping[str, Any]) -> tuple[bool, datetime]:
    for condition in status.get("conditions") or []:
        if condition["type"] == "Ready":
            since = condition.get("lastTransitionTime") or metadata["creationTimestamp"]
            return condition["status"] == "True", parse_time(since)
    return False, parse_time(metadata["creationTimestamp"])


def parse_time(text: str) -> datetime:
    """Return a Kubernetes timestamp (RFC 3339, UTC)."""
    return datetime.fromisoformat(text)


def without_text(model: Any) -> Any:
    """Return an object as it is read, but for the policies in it."""
    match model:
        case SecurityProfile(spec=spec):
            blocks = {
                block: msgspec.structs.replace(there, policy="")
                for block in ("app_armor", "selinux", "seccomp")
                if (there := getattr(spec, block))
            }
            return msgspec.structs.replace(model, spec=msgspec.structs.replace(spec, template=None, **blocks))
        case ProfileRevision(spec=spec):
            texts = [msgspec.structs.replace(one, text="") for one in spec.content.texts]
            content = msgspec.structs.replace(spec.content, texts=texts)
            return msgspec.structs.replace(model, spec=msgspec.structs.replace(spec, content=content))
        case _:
            return model
