"""The agents' DaemonSets as they should be. Pure: a template and settings in, manifests out.

Called by `controller`, which applies a manifest whenever the object in the cluster differs. One is for every
node but those that the operator labelled for the other: SELinux' agent must be privileged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import jinja2
import yaml

from ..crds import names

AGENTS = (names.AGENT, names.AGENT_SELINUX)


@dataclass(frozen=True)
class OnNodes:
    """What an administrator may set for agents, on the operator's Deployment.

    Attributes:
        health_port: on each node's loopback, for the kubelet's probes.
        kubelet: the kubelet's directory on the nodes.
        priority: of modules in the nodes' SELinux stores.
        metrics_port: on each node's address, for Prometheus; 0: nothing listens.
        log_format: of the agents' logs, in the words of `logs.FORMATS`; empty: as they choose.
    """

    health_port: int = 9797
    kubelet: str = "/var/lib/kubelet"
    priority: int = 400
    metrics_port: int = 9798
    log_format: str = ""


@dataclass(frozen=True)
class Settings:
    """What the agents inherit from the operator's own Deployment.

    Attributes:
        namespace: of the operator.
        image: the operator's own, so that both always have the same version.
        pull_policy: of that image.
        pull_secrets: names of the Secrets to pull it with.
        owner_uid: of the operator's Deployment: deleting it deletes the agents.
        on_nodes: what an administrator set.
    """

    namespace: str
    image: str
    owner_uid: str
    pull_policy: str = "IfNotPresent"
    pull_secrets: list[str] = field(default_factory=list[str])
    on_nodes: OnNodes = OnNodes()


def settings_from(pod: Mapping[str, Any], owner_uid: str, on_nodes: OnNodes) -> Settings:
    """Return the settings that the operator's own Pod implies."""
    # By name: a mesh or a policy engine may have put a container of its own in front.
    container = next(one for one in pod["spec"]["containers"] if one["name"] == "operator")
    return Settings(
        namespace=pod["metadata"]["namespace"],
        image=container["image"],
        owner_uid=owner_uid,
        pull_policy=container.get("imagePullPolicy", "IfNotPresent"),
        pull_secrets=[one["name"] for one in pod["spec"].get("imagePullSecrets") or []],
        on_nodes=on_nodes,
    )


def manifests(settings: Settings) -> dict[str, dict[str, Any]]:
    """Return the DaemonSets of the agents by their names."""
    return {name: _manifest(settings, selinux=name == names.AGENT_SELINUX) for name in AGENTS}


def _manifest(settings: Settings, *, selinux: bool) -> dict[str, Any]:
    template = resources.files("hauberk.daemonset").joinpath("daemonset.yaml.j2").read_text()
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701 - YAML, with every value through tojson
    )
    text = environment.from_string(template).render(settings=settings, names=names, selinux=selinux)
    return yaml.safe_load(text)


def image_of(manifest: dict[str, Any]) -> str:
    """Return the image that a DaemonSet's agents run."""
    return manifest["spec"]["template"]["spec"]["containers"][0]["image"]
