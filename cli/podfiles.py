"""Finds the pods in manifests: Pods, and the templates of what makes pods. Pure.

Called by `live` for `hauberk why -f`. Objects of other kinds are passed over, as a folder of manifests has
them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import yaml
from msgspec.structs import replace

from ..crds.models import decode
from .pods import Pod, PodStatus
from .sources import UnreadableError, no_yaml

# Where the template is, by kind (Kubernetes' API reference, workloads).
_TEMPLATES = {
    "Pod": (),
    "PodTemplate": ("template",),
    "Job": ("spec", "template"),
    "DaemonSet": ("spec", "template"),
    "Deployment": ("spec", "template"),
    "ReplicaSet": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "ReplicationController": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
}


def pods_of(text: str) -> list[Pod]:
    """Return the pods of a stream of YAML or JSON, none of which was created yet.

    A template is called after what it is of: `Deployment web`.

    Raises:
        UnreadableError: it is no YAML, or a pod without the shape of one.
    """
    try:
        bodies = list(yaml.load_all(text, Loader=yaml.CSafeLoader))
    except yaml.YAMLError as error:
        raise no_yaml(error) from error
    return [pod for body in bodies for pod in _pods(body)]


def _pods(body: Any) -> Iterator[Pod]:
    if not isinstance(body, dict):
        return
    kind = str(body.get("kind", ""))
    if kind.endswith("List") and isinstance(items := body.get("items"), list):
        for one in items:
            yield from _pods(one)
        return
    if kind not in _TEMPLATES:
        return
    metadata = body.get("metadata") or {}
    template = body
    for step in _TEMPLATES[kind]:
        template = template.get(step) if isinstance(template, dict) else None
    name = metadata.get("name") or metadata.get("generateName") or "without a name"
    try:
        pod = decode(Pod, _without_nulls(template))
    except msgspec.ValidationError as error:
        raise UnreadableError(f"{kind} {name} has no pod that can be read: {error}") from error
    called = name if kind == "Pod" else f"{kind} {name}"
    namespace = metadata.get("namespace") or ""
    yield replace(pod, metadata=replace(pod.metadata, name=called, namespace=namespace), status=PodStatus())


def _without_nulls(value: Any) -> Any:
    """Return an object without the fields that are null, as the API server reads it."""
    if isinstance(value, dict):
        return {key: _without_nulls(one) for key, one in value.items() if one is not None}
    return [_without_nulls(one) for one in value] if isinstance(value, list) else value
