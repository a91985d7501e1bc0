"""A pod as `hauberk why` reads it: where it may run, and how far Kubernetes came with it. Pure.

Called by `why`; `cluster` and `podfiles` decode into these models. Where a pod may run is told by the rules
of kube-scheduler that need no more than the pod and the Node: selectors, required node affinity and taints.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..crds import pods
from ..crds.models import Model, NodeSelector, Requirement
from ..crds.names import POD_GATE
from .states import NodeView, Taint

# What the kubelet says of a container that is only on its way.
_ON_ITS_WAY = ("ContainerCreating", "PodInitializing", "")


class Waiting(Model, frozen=True):
    """Why a container does not run yet."""

    reason: str = ""
    message: str = ""


class ContainerState(Model, frozen=True):
    """What a container is; at most one of these is set."""

    waiting: Waiting | None = None
    running: dict[str, Any] | None = None
    terminated: Waiting | None = None


class ContainerStatus(Model, frozen=True):
    """A container of a pod, as its kubelet sees it."""

    name: str = ""
    state: ContainerState = ContainerState()
    last_state: ContainerState = ContainerState()


class PodCondition(Model, frozen=True):
    """A condition of a pod."""

    type: str
    status: str
    reason: str = ""
    message: str = ""


class PodStatus(pods.PodStatus, frozen=True):
    """How far a pod is."""

    reason: str = ""
    message: str = ""
    conditions: list[PodCondition] | None = None
    init_container_statuses: list[ContainerStatus] | None = None
    container_statuses: list[ContainerStatus] | None = None
    ephemeral_container_statuses: list[ContainerStatus] | None = None


class Toleration(Model, frozen=True):
    """A taint that a pod does not mind."""

    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""

    def covers(self, taint: Taint) -> bool:
        """Return whether it is about a taint, by the rules of v1.Toleration."""
        if self.effect not in {"", taint.effect} or (self.key and self.key != taint.key):
            return False
        return self.operator == "Exists" or (bool(self.key) and self.value == taint.value)


class NodeSelectorTerm(Model, frozen=True):
    """One way for a node to suit a pod; all of it has to hold."""

    match_expressions: list[Requirement] | None = None
    match_fields: list[Requirement] | None = None


class NodeSelectorTerms(Model, frozen=True):
    """Ways for a node to suit a pod; one is enough."""

    node_selector_terms: tuple[NodeSelectorTerm, ...] = ()


class NodeAffinity(Model, frozen=True):
    """Which nodes a pod asks for; what it merely prefers is not read."""

    required_during_scheduling_ignored_during_execution: NodeSelectorTerms | None = None


class Affinity(Model, frozen=True):
    """The part of a pod's affinity that is about nodes."""

    node_affinity: NodeAffinity | None = None


class PodSpec(pods.PodSpec, frozen=True):
    """What a pod is to be."""

    node_selector: dict[str, str] | None = None
    affinity: Affinity | None = None
    tolerations: list[Toleration] | None = None


class Pod(pods.PodObject, frozen=True):
    """A Pod, or the template of one."""

    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    @property
    def node(self) -> str:
        """Return the node that it was given; empty where it has none yet."""
        return self.spec.node_name or ""

    @property
    def gates(self) -> list[str]:
        """Return the names of its scheduling gates."""
        return [one.name for one in self.spec.scheduling_gates or []]

    @property
    def gated(self) -> bool:
        """Return whether Hauberk's gate keeps it from being scheduled."""
        return POD_GATE in self.gates

    @property
    def started(self) -> frozenset[str]:
        """Return the containers that run, or have run."""
        return frozenset(
            one.name
            for one in self._statuses()
            if one.state.running is not None
            or one.state.terminated is not None
            or one.last_state.terminated is not None
        )

    @property
    def stuck(self) -> dict[str, Waiting]:
        """Return the containers that do not get on, each with what the kubelet says."""
        return {
            one.name: one.state.waiting
            for one in self._statuses()
            if one.state.waiting and one.state.waiting.reason not in _ON_ITS_WAY
        }

    @property
    def ended(self) -> bool:
        """Return whether none of it will run again."""
        return self.status.phase in {"Succeeded", "Failed"}

    @property
    def unscheduled(self) -> PodCondition | None:
        """Return what the scheduler says of a pod for which it has no node."""
        conditions = self.status.conditions or []
        return next((one for one in conditions if one.type == "PodScheduled" and one.status == "False"), None)

    def _statuses(self) -> Iterable[ContainerStatus]:
        for several in (
            self.status.init_container_statuses,
            self.status.container_statuses,
            self.status.ephemeral_container_statuses,
        ):
            yield from several or []


class Source(Model, frozen=True):
    """The part of who told an Event that is read."""

    component: str = ""


class Event(Model, frozen=True):
    """An Event on a pod."""

    type: str = ""
    reason: str = ""
    message: str = ""
    last_timestamp: str | None = None
    event_time: str | None = None
    source: Source = Source()
    reporting_component: str = ""

    @property
    def when(self) -> str:
        """Return when it happened last; what is later sorts behind."""
        return self.last_timestamp or self.event_time or ""

    @property
    def of_hauberk(self) -> bool:
        """Return whether it was told by Hauberk."""
        return "hauberk" in f"{self.reporting_component} {self.source.component}"


def misfit(spec: PodSpec, node: NodeView) -> str:
    """Return why a pod may not be scheduled to a node, in a few words; empty where nothing is against it."""
    for key, value in (spec.node_selector or {}).items():
        if node.labels.get(key) != value:
            return f"the pod's nodeSelector {key}={value}"
    affinity = spec.affinity.node_affinity if spec.affinity else None
    required = affinity.required_during_scheduling_ignored_during_execution if affinity else None
    if required and not any(_suits(term, node) for term in required.node_selector_terms):
        return "the pod's nodeAffinity"
    for taint in node.taints:
        kept_off = taint.effect in {"NoSchedule", "NoExecute"}
        if kept_off and not any(one.covers(taint) for one in spec.tolerations or []):
            return f"the node's taint {taint.key}{f'={taint.value}' if taint.value else ''}:{taint.effect}"
    return "" if node.ready else "the node is not Ready"


def _suits(term: NodeSelectorTerm, node: NodeView) -> bool:
    expressions, fields = term.match_expressions or [], term.match_fields or []
    if not expressions and not fields:
        return False  # an empty term suits none: component-helpers, nodeaffinity
    named = {"metadata.name": node.name}
    return all(_holds(one, node.labels) for one in expressions) and all(_holds(one, named) for one in fields)


def _holds(one: Requirement, labels: Mapping[str, str]) -> bool:
    if one.operator not in {"Gt", "Lt"}:
        return NodeSelector(match_expressions=[one]).matches(labels)
    try:
        there, bound = int(labels[one.key]), int(one.values[0])
    except (KeyError, IndexError, ValueError):
        return False
    return there > bound if one.operator == "Gt" else there < bound
