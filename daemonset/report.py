"""Turns what the agent holds and what it met into the node's ProfileNode. Pure.

Called by `agent` after each round; `cluster` writes the result, and only when it differs from the last one.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..crds.models import Backend, Facts, Metadata, NodeStatus, OwnerReference, Problem, ProfileNode
from ..crds.reasons import Reason
from ..profiles.parser import plain
from .holdings import Holding
from .host import Loaded
from .plan import mismatch

DIGEST_LENGTH = 10
# The CRD takes no more: past it the worst is known anyway, and the object stays small.
PROBLEMS = 512


def backend(
    holdings: Mapping[str, Holding],
    kernel: Mapping[str, Loaded],
    problems: Mapping[str, Problem],
    boot_id: str,
) -> Backend:
    """Return the AppArmor section: only what the kernel was just read to hold counts as loaded."""
    profiles: dict[str, str] = {}
    told = {
        name: Problem(revision=problem.revision, reason=problem.reason, message=plain(problem.message))
        for name, problem in problems.items()
    }
    for name, holding in sorted(holdings.items()):
        if wrong := mismatch(holding, kernel, boot_id):
            told.setdefault(
                name, Problem(revision=holding.revision, reason=Reason.NOT_IN_KERNEL, message=plain(wrong))
            )
            continue
        first = kernel[holding.names[0]]
        digest = (first.digest or "-")[:DIGEST_LENGTH]
        profiles[name] = f"{holding.revision}/{first.mode}/{digest}"
    return Backend(profiles=profiles, problems=dict(sorted(told.items())[:PROBLEMS]))


def summary(section: Backend | None) -> str:
    """Return the column of `kubectl get profilenodes`: `12/12`, or `11/12, 1 failed`."""
    if section is None:
        return "unsupported"
    wanted = len(section.profiles.keys() | section.problems.keys())
    told = f"{len(section.profiles)}/{wanted}"
    failed = len(section.problems)
    return f"{told}, {failed} failed" if failed else told


def profile_node(
    node: str, node_uid: str, boot_id: str, facts: Facts, section: Backend | None
) -> ProfileNode:
    """Return the whole object, owned by the Node so that Kubernetes collects it with the node."""
    owner = OwnerReference(api_version="v1", kind="Node", name=node, uid=node_uid)
    return ProfileNode(
        metadata=Metadata(name=node, owner_references=[owner]),
        status=NodeStatus(boot_id=boot_id, facts=facts, summary=summary(section), app_armor=section),
    )
