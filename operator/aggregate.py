"""Turns what the nodes report into a SecurityProfile's status. Pure; the rim gives it the time.

Called by `controller` for a profile of which something changed; the result is written only where it differs
from what is there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from ..crds.models import (
    Condition,
    Counts,
    Failure,
    ProfileStatus,
    RevisionSpec,
    SecurityProfile,
    Summary,
)
from ..crds.names import APPARMOR, SECCOMP, SELINUX, seccomp_reference, security_module
from ..crds.reasons import NodeState, Reason
from .rollout import OnNode, Rollout

FAILURES = 10
# What the operator says. `Accepted` is the admission's.
TYPES = ("Available", "Ready", "Reconciling", "Stalled")
# What keeps a profile from going.
_USERS = {APPARMOR: "tasks", SECCOMP: "pods", SELINUX: "tasks or other profiles"}


@dataclass(frozen=True)
class _Verdict:
    """A condition's word before it becomes one."""

    status: str
    reason: str
    message: str


def own(status: ProfileStatus) -> ProfileStatus:
    """Return the part of a status that is the operator's, in the order in which `aggregate` makes it."""
    by = {one.type: one for one in status.conditions}
    return msgspec.structs.replace(status, conditions=[by[kind] for kind in TYPES if kind in by])


def aggregate(profile: SecurityProfile, rollout: Rollout, now: datetime) -> ProfileStatus:
    """Return the status that the profile should have now, but for the condition Accepted.

    `now` is the time of a condition that changes.
    """
    wanted, states = rollout.wanted, rollout.states
    counts = count(states)
    texts = wanted.content.texts if wanted else []
    names = list(dict.fromkeys(name for text in texts for name in text.names))
    if profile.spec.type == SECCOMP and wanted:
        names = [seccomp_reference(profile.metadata.name)]
    reference = reference_name(profile, names)
    ready = _ready(profile, rollout, counts)
    return ProfileStatus(
        observed_generation=profile.metadata.generation,
        revision=wanted.content.digest if wanted else "",
        reference=_reference(profile.spec.type, reference),
        profiles=names,
        nodes=counts,
        summary=Summary(
            ready=f"{counts.ready}/{counts.targeted}",
            mode=wanted.content.mode if wanted else profile.spec.mode,
            status=ready.reason,
            reference=reference,
        ),
        failures=_failures(rollout),
        conditions=_conditions(
            profile,
            {
                "Available": _available(profile, wanted, states),
                "Ready": ready,
                "Reconciling": _reconciling(ready),
                "Stalled": _stalled(ready),
            },
            now,
        ),
    )


def count(states: Sequence[OnNode]) -> Counts:
    """Return how many nodes are in each state; those without the LSM are not targeted."""
    by = Counter(one.state for one in states)
    return Counts(
        targeted=len(states) - by[NodeState.UNSUPPORTED],
        ready=by[NodeState.READY],
        updating=by[NodeState.UPDATING],
        failed=by[NodeState.FAILED],
        agent_down=by[NodeState.AGENT_DOWN],
        unreachable=by[NodeState.UNREACHABLE],
        unsupported=by[NodeState.UNSUPPORTED],
    )


def reference_name(profile: SecurityProfile, names: list[str]) -> str:
    """Return the name for pods.

    Of AppArmor the top-level profile named like the object, of SELinux the type that runs processes in the
    block of that name, else the first of either. A module that is only made to be inherited has none: its
    names are those of blocks.
    """
    top = [name for name in names if "//" not in name]
    usual = profile.metadata.name
    if profile.spec.type == SELINUX:
        usual = f"{usual}.process"
        types = [name for name in top if "." in name]  # all types stand in blocks
        top = [name for name in types if name.endswith(".process")] or types
    return usual if usual in top else next(iter(top), "")


def _reference(profile_type: str, name: str) -> dict[str, Any]:
    """Return what a pod has in its securityContext."""
    if not name:
        return {}
    if profile_type == SELINUX:
        return {"seLinuxOptions": {"type": name}}
    field = "seccompProfile" if profile_type == SECCOMP else "appArmorProfile"
    return {field: {"type": "Localhost", "localhostProfile": name}}


def _ready(profile: SecurityProfile, rollout: Rollout, counts: Counts) -> _Verdict:
    if profile.metadata.deletion_timestamp:
        return _terminating(profile, rollout.holding)
    wanted = rollout.wanted
    accepted = next((one for one in profile.status.conditions if one.type == "Accepted"), None)
    if accepted is None or accepted.observed_generation != profile.metadata.generation:
        return _Verdict("False", Reason.UPDATING, "the policy is being checked")
    if accepted.status == "False":
        return _Verdict("False", accepted.reason, accepted.message)
    # Until it carries this generation's number, what nodes are counted by is still an earlier one's.
    if wanted is None or wanted.placement.sequence != profile.metadata.generation:
        if profile.spec.suspend and (wanted is None or wanted.placement.suspend):
            return _Verdict("False", Reason.SUSPENDED, "spec.suspend holds the new policy back")
        return _Verdict("False", Reason.UPDATING, "what was asked for is being published")
    return _nodes_ready(profile.spec.type, counts, rollout.states)


def _terminating(profile: SecurityProfile, holding: Mapping[str, str]) -> _Verdict:
    if used := {node: why for node, why in holding.items() if why}:
        told = "; ".join(f"{node}: {why}" for node, why in list(used.items())[:3])
        what = _USERS[profile.spec.type]
        return _Verdict("False", Reason.IN_USE, f"waiting for {what} to end on {_nodes(len(used))}: {told}")
    return _Verdict("False", Reason.TERMINATING, f"{_nodes(len(holding))} still to unload the profile")


def _nodes_ready(profile_type: str, counts: Counts, states: Sequence[OnNode]) -> _Verdict:
    of = f"of {_nodes(counts.targeted)}"
    if counts.targeted == 0:
        module = security_module(profile_type)
        lacking = f"; {counts.unsupported} selected without {module}" if counts.unsupported else ""
        return _Verdict("False", Reason.NO_NODES, f"no node with {module} is selected{lacking}")
    if counts.failed:
        first = next(one.failure for one in states if one.state is NodeState.FAILED and one.failure)
        return _Verdict(
            "False",
            Reason.NODES_FAILED,
            f"failed on {counts.failed} {of}: {first.node}: {first.reason}: {first.message}",
        )
    if counts.agent_down:
        return _Verdict("False", Reason.AGENT_DOWN, f"no running agent on {counts.agent_down} {of}")
    if counts.updating:
        return _Verdict("False", Reason.UPDATING, f"verified on {counts.ready} {of}")
    if not counts.ready:
        return _Verdict("False", Reason.NODES_UNREACHABLE, f"none {of} is Ready")
    away = f", {counts.unreachable} unreachable" if counts.unreachable else ""
    where = "in the kubelet's folder" if profile_type == SECCOMP else "in the kernel"
    return _Verdict("True", Reason.READY, f"verified {where} on {counts.ready} {of}{away}")


def _nodes(number: int) -> str:
    return f"{number} node{'' if number == 1 else 's'}"


def _conditions(profile: SecurityProfile, verdicts: dict[str, _Verdict], time: datetime) -> list[Condition]:
    """Return the conditions; one whose status did not change keeps its time."""
    before = {one.type: one for one in profile.status.conditions}
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ")
    return [
        Condition(
            type=kind,
            status=verdict.status,
            reason=verdict.reason,
            message=verdict.message,
            observed_generation=profile.metadata.generation,
            last_transition_time=before[kind].last_transition_time
            if kind in before and before[kind].status == verdict.status
            else now,
        )
        for kind, verdict in verdicts.items()
    ]


def _available(profile: SecurityProfile, wanted: RevisionSpec | None, states: Sequence[OnNode]) -> _Verdict:
    """Return whether a pod could start somewhere: an older revision that stays loaded counts.

    Where no node is that could hold the profile, pods must not be held back: nobody else has one made.
    """
    if wanted is None:
        return _Verdict("False", Reason.NOT_VERIFIED, "nothing was published for the nodes to load")
    there = [one for one in states if one.state not in (NodeState.UNSUPPORTED, NodeState.UNREACHABLE)]
    if holding := [one for one in there if one.holds]:
        return _Verdict("True", Reason.VERIFIED, f"a revision of it is loaded on {_nodes(len(holding))}")
    if not there:
        lost = any(one.state is NodeState.UNREACHABLE for one in states)
        lacking = "no node that can be reached" if lost else "no node"
        return _Verdict("True", Reason.NO_NODES, f"{lacking} is targeted, so none lacks the profile")
    if _was_without_nodes(profile, wanted) and all(one.state is NodeState.UPDATING for one in there):
        return _Verdict(
            "True", Reason.NO_NODES, f"no node had been targeted, and {_nodes(len(there))} will hold it soon"
        )
    return _Verdict("False", Reason.NOT_VERIFIED, "no reachable node's kernel holds the profile")


def _was_without_nodes(profile: SecurityProfile, wanted: RevisionSpec) -> bool:
    """Return whether what is wanted now was Available because it had no nodes.

    Nodes that join then do not take that back: a pod that is made meanwhile may need yet another node.
    """
    said = any(
        (one.type, one.status, one.reason) == ("Available", "True", Reason.NO_NODES)
        for one in profile.status.conditions
    )
    return said and profile.status.revision == wanted.content.digest


def _reconciling(ready: _Verdict) -> _Verdict:
    if ready.reason in (Reason.UPDATING, Reason.TERMINATING, Reason.IN_USE):
        return _Verdict("True", Reason.PROGRESSING, ready.message)
    return _Verdict("False", Reason.SETTLED, "nothing is left to do until something changes")


def _stalled(ready: _Verdict) -> _Verdict:
    waiting = {
        Reason.READY,
        Reason.UPDATING,
        Reason.TERMINATING,
        Reason.IN_USE,
        Reason.SUSPENDED,
        Reason.NO_NODES,
    }
    if ready.reason in waiting:
        return _Verdict("False", Reason.SETTLED, "nothing stands in the way")
    return _Verdict("True", ready.reason, ready.message)


def _failures(rollout: Rollout) -> list[Failure]:
    """Return at most ten troubles, worst first, and after them the remarks on nodes that are ready."""
    told = sorted((one for one in rollout.states if one.failure), key=lambda one: (one.state, one.node))
    failures = [one.failure for one in told if one.failure]
    failures += _shared_kernels(rollout)
    return failures[:FAILURES]


def _shared_kernels(rollout: Rollout) -> list[Failure]:
    """Return a remark for each of the profile's nodes that shares its kernel with another of them."""
    if not rollout.shared_kernels:
        return []
    there = {one.node for one in rollout.states}
    together = [[node for node in nodes if node in there] for nodes in rollout.shared_kernels]
    return [
        Failure(
            node=node,
            reason=Reason.SHARED_KERNEL,
            message=f"runs on the same kernel as {', '.join(other for other in nodes if other != node)}: "
            "what one loads or unloads, the other does too",
        )
        for nodes in sorted(together)
        if len(nodes) > 1
        for node in nodes
    ]
