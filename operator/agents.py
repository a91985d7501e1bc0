"""The agents' DaemonSet as it should be. Pure: a template and settings in, a manifest out.

Called by `controller`, which applies the manifest whenever the object in the cluster differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import jinja2
import yaml

from ..crds import names


@dataclass(frozen=True)
class Settings:
    """What the agents inherit from the operator's own Deployment.

    Attributes:
        namespace: of the operator.
        image: the operator's own, so that both always have the same version.
        pull_policy: of that image.
        pull_secrets: names of the Secrets to pull it with.
        owner_uid: of the operator's Deployment: deleting it deletes the agents.
        health_port: on each node's loopback, for the kubelet's probes.
    """

    namespace: str
    image: str
    owner_uid: str
    pull_policy: str = "IfNotPresent"
    pull_secrets: list[str] = field(default_factory=list[str])
    health_port: int = 9797


def settings_from(pod: Mapping[str, Any], owner_uid: str, health_port: int) -> Settings:
    """Return the settings that the operator's own Pod implies."""
    # By name: a mesh or a policy engine may have put a container of its own in front.
    container = next(one for one in pod["spec"]["containers"] if one["name"] == "operator")
    return Settings(
        namespace=pod["metadata"]["namespace"],
        image=container["image"],
        owner_uid=owner_uid,
        pull_policy=container.get("imagePullPolicy", "IfNotPresent"),
        pull_secrets=[one["name"] for one in pod["spec"].get("imagePullSecrets") or []],
        health_port=health_port,
    )


def manifest(settings: Settings) -> dict[str, Any]:
    """Return the DaemonSet of the agents."""
    template = resources.files("hauberk.daemonset").joinpath("daemonset.yaml.j2").read_text()
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701 - YAML, with every value through tojson
    )
    text = environment.from_string(template).render(settings=settings, names=names)
    return yaml.safe_load(text)
