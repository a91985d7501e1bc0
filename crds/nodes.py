"""What the labels of a Node tell: whether an agent can reach a kernel there. Pure.

Used by the operator, which counts nodes, and by the command line, which shows them.
"""

from __future__ import annotations

from collections.abc import Mapping

# Nodes without a kernel of their own: nothing can be loaded there (virtual-kubelet, AWS Fargate).
_VIRTUAL = {"type": "virtual-kubelet", "eks.amazonaws.com/compute-type": "fargate"}


def has_kernel(labels: Mapping[str, str]) -> bool:
    """Return whether it is a Linux node with a kernel that an agent can reach."""
    if labels.get("kubernetes.io/os", "linux") != "linux":
        return False
    return not any(labels.get(key) == value for key, value in _VIRTUAL.items())
