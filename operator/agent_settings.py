"""What an administrator may set for the agents, as the operator's environment says it. Pure.

Called by `main`, which has the environment; `agents` makes the DaemonSets of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec

from ..crds import logs, names, settings
from ..crds.settings import HIGHEST_PORT, HIGHEST_PRIORITY, SettingError

OS = "kubernetes.io/os"
LINUX = "linux"

# A quantity of Kubernetes, without its exponents: 10m, 64Mi, 1.5Gi.
Quantity = Annotated[str, msgspec.Meta(pattern=r"^[0-9]+(\.[0-9]+)?([numkMGTPE]|[KMGTPE]i)?$")]
Amounts = dict[str, Quantity | int | float]


class Toleration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, rename="camel"):
    """core/v1 Toleration."""

    key: str | None = None
    operator: Literal["Exists", "Equal"] | None = None
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    toleration_seconds: int | None = None


class Resources(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """core/v1 ResourceRequirements, without claims."""

    requests: Amounts = {}
    limits: Amounts = {}


class Term(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, rename="camel"):
    """core/v1 NodeSelectorTerm."""

    match_expressions: list[dict[str, Any]] = []
    match_fields: list[dict[str, Any]] = []


class Required(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """core/v1 NodeSelector."""

    node_selector_terms: Annotated[list[Term], msgspec.Meta(min_length=1)]


class NodeAffinity(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, rename="camel"
):
    """core/v1 NodeAffinity."""

    required: Required | None = msgspec.field(
        default=None, name="requiredDuringSchedulingIgnoredDuringExecution"
    )
    preferred: list[dict[str, Any]] = msgspec.field(
        default_factory=list[dict[str, Any]], name="preferredDuringSchedulingIgnoredDuringExecution"
    )


class Affinity(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, rename="camel"):
    """core/v1 Affinity."""

    node_affinity: NodeAffinity | None = None
    pod_affinity: dict[str, Any] | None = None
    pod_anti_affinity: dict[str, Any] | None = None


class Pods(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """What is to be otherwise with the agents' pods than the template has it: the JSON of AGENT_PODS.

    Attributes:
        priority_class_name: instead of system-node-critical.
        tolerations: instead of one for every taint.
        node_selector: labels of the nodes that get an agent, beside those that Hauberk asks for itself.
        affinity: the same in more words. Hauberk's own term joins each of `required`.
        resources: of the agent of most nodes, instead of its own.
        selinux_resources: of the agent of nodes with SELinux, instead of its own.
    """

    priority_class_name: str | None = None
    tolerations: list[Toleration] | None = None
    node_selector: dict[str, str] = {}
    affinity: Affinity = Affinity()
    resources: Resources | None = None
    selinux_resources: Resources | None = None


@dataclass(frozen=True)
class OnNodes:
    """What an administrator may set for agents, on the operator's Deployment.

    Attributes:
        health_port: on each node's loopback, for the kubelet's probes.
        kubelet: the kubelet's directory on the nodes.
        priority: of modules in the nodes' SELinux stores.
        pods: what is to be otherwise with the agents' pods.
        metrics_port: on each node's address, for Prometheus; 0: nothing listens.
        log_format: of the agents' logs, in the words of `logs.FORMATS`; empty: as they choose.
    """

    health_port: int = 9797
    kubelet: str = "/var/lib/kubelet"
    priority: int = 400
    pods: Pods = field(default_factory=Pods)
    metrics_port: int = 9798
    log_format: str = ""


def on_nodes(environment: Mapping[str, str]) -> OnNodes:
    """Return the settings that the operator's environment says; what it does not name is as by default.

    Raises:
        SettingError: one of them can't be read, or can't be meant; it is named as its variable.
    """
    default = OnNodes()
    kubelet = environment.get("KUBELET_DIR", default.kubelet)
    if not kubelet.startswith("/"):
        raise SettingError(f"KUBELET_DIR: {kubelet!r} is no absolute path")

    def number(name: str, otherwise: int, lowest: int, highest: int) -> int:
        return settings.number(name, environment.get(name, str(otherwise)), lowest, highest)

    return OnNodes(
        health_port=number("AGENT_HEALTH_PORT", default.health_port, 1, HIGHEST_PORT),
        kubelet=kubelet,
        priority=number("SELINUX_PRIORITY", default.priority, 1, HIGHEST_PRIORITY),
        pods=_pods(environment.get("AGENT_PODS", "{}")),
        metrics_port=number("AGENT_METRICS_PORT", default.metrics_port, 0, HIGHEST_PORT),
        log_format=logs.checked(environment.get("LOG_FORMAT", default.log_format)),
    )


def _pods(text: str) -> Pods:
    try:
        pods = msgspec.json.decode(text, type=Pods)
    except msgspec.DecodeError as error:  # of which ValidationError is one
        raise SettingError(f"AGENT_PODS: {error}") from error
    if names.LABEL_AGENT in pods.node_selector:
        raise SettingError(
            f"AGENT_PODS: the label {names.LABEL_AGENT} in nodeSelector is set by Hauberk alone"
        )
    if pods.node_selector.get(OS, LINUX) != LINUX:
        raise SettingError(
            f"AGENT_PODS: nodeSelector asks for {OS}={pods.node_selector[OS]}, and agents need Linux"
        )
    node_affinity = pods.affinity.node_affinity
    if node_affinity and node_affinity.required and Term() in node_affinity.required.node_selector_terms:
        raise SettingError(
            "AGENT_PODS: affinity has an empty term in nodeSelectorTerms, which selects no node"
        )
    return pods


def tolerations(pods: Pods) -> list[dict[str, Any]]:
    """Return what taints the agents tolerate: all, if nothing else is said."""
    if pods.tolerations is None:
        return [{"operator": "Exists"}]
    return msgspec.to_builtins(pods.tolerations)


def node_selector(pods: Pods, *, selinux: bool) -> dict[str, str]:
    """Return the labels that a node needs for this agent."""
    own = {names.LABEL_AGENT: names.AGENT_OF_SELINUX} if selinux else {}
    return {OS: LINUX, **pods.node_selector, **own}


def affinity(pods: Pods, *, selinux: bool) -> dict[str, Any]:
    """Return the affinity of this agent: that of most nodes keeps away from the other one's.

    Terms are alternatives: Hauberk's own condition has to stand in each.
    """
    made: dict[str, Any] = msgspec.to_builtins(pods.affinity)
    if selinux:
        return made
    others = {"key": names.LABEL_AGENT, "operator": "NotIn", "values": [names.AGENT_OF_SELINUX]}
    required = pods.affinity.node_affinity and pods.affinity.node_affinity.required
    given: list[Term] = required.node_selector_terms if required else [Term()]
    terms = [
        msgspec.structs.replace(term, match_expressions=[*term.match_expressions, others]) for term in given
    ]
    made.setdefault("nodeAffinity", {})["requiredDuringSchedulingIgnoredDuringExecution"] = (
        msgspec.to_builtins(Required(terms))
    )
    return made


def resources(pods: Pods, *, selinux: bool) -> dict[str, Any] | None:
    """Return the resources of this agent; None: those of the template."""
    given = pods.selinux_resources if selinux else pods.resources
    return None if given is None else msgspec.to_builtins(given)
