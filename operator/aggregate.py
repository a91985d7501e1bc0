"""Turns what the nodes report into a SecurityProfile's status. Pure; the rim gives it the time.

Called by `controller` after every change; the result is written only where it differs from what is there.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ..crds.models import Condition, Counts, Failure, ProfileStatus, SecurityProfile, Summary
from ..crds.reasons import NodeState, Reason
from ..profiles.check import Accepted
from .desired import wants_new_content
from .publish import judgement, placement, policy_of
from .rollout import OnNode, nodes_still_holding, on_nodes
from .snapshot import Refusal, Snapshot

FAILURES = 10


@dataclass(frozen=True)
class _Verdict:
    """A condition's word before it becomes one."""

    status: str
    reason: Reason
    message: str


def aggregate(profile: SecurityProfile, snapshot: Snapshot, owners: dict[str, str]) -> ProfileStatus:
    """Return the status that the profile should have now; `owners` as `publish.name_owners` gave them."""
    judged = judgement(profile, snapshot, owners)
    if judged is None and profile.status.observed_generation == profile.metadata.generation:
        return profile.status  # after a restart: what was said stands until the text is judged again
    revisions = snapshot.revisions_of(profile)
    wanted = revisions[0].spec if revisions else None
    states = on_nodes(wanted, snapshot) if wanted else []
    counts = count(states)
    texts = wanted.content.texts if wanted else []
    names = list(dict.fromkeys(name for text in texts for name in text.names))
    reference = reference_name(profile.metadata.name, names)
    accepted = _accepted(profile, judged)
    ready = _ready(profile, accepted, counts, states, snapshot)
    return ProfileStatus(
        observed_generation=profile.metadata.generation,
        revision=wanted.content.digest if wanted else "",
        reference=_reference(reference),
        profiles=names,
        nodes=counts,
        summary=Summary(
            ready=f"{counts.ready}/{counts.targeted}",
            mode=wanted.content.mode if wanted else policy_of(profile.spec)[1],
            status=ready.reason,
            reference=reference,
        ),
        failures=_failures(states, snapshot),
        conditions=_conditions(
            profile,
            {
                "Accepted": accepted,
                "Available": _available(states, counts, published=wanted is not None),
                "Ready": ready,
                "Reconciling": _reconciling(ready),
                "Stalled": _stalled(ready),
            },
            snapshot.now,
        ),
    )


def count(states: list[OnNode]) -> Counts:
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


def reference_name(profile: str, names: list[str]) -> str:
    """Return the kernel name for pods: the top-level one named like the object, else the first."""
    top = [name for name in names if "//" not in name]
    return profile if profile in top else next(iter(top), "")


def _reference(name: str) -> dict[str, Any]:
    return {"appArmorProfile": {"type": "Localhost", "localhostProfile": name}} if name else {}


def _accepted(profile: SecurityProfile, judged: Accepted | Refusal | None) -> _Verdict:
    if profile.metadata.deletion_timestamp:
        return _Verdict("Unknown", Reason.TERMINATING, "the profile is being deleted")
    if judged is None:
        return _Verdict("Unknown", Reason.PROGRESSING, "the policy is being checked")
    if isinstance(judged, Refusal):
        return _Verdict("False", judged.reason, judged.message)
    return _Verdict("True", Reason.ACCEPTED, _what_is_accepted(profile, judged))


def _what_is_accepted(profile: SecurityProfile, judged: Accepted) -> str:
    several = "" if len(judged.names) == 1 else "s"
    defines = f"defines {len(judged.names)} profile{several}"
    if profile.spec.template is None:
        return f"the policy {defines}"
    if not judged.kinds:
        return (
            "the template is good for common kinds of nodes; it is rendered once a node with AppArmor reports"
        )
    rendered = sum(len(one.facts) for one in judged.texts)
    return (
        f"the template {defines}; it makes {len(judged.texts)} text{'' if len(judged.texts) == 1 else 's'} "
        f"for {rendered} of {len(judged.kinds)} kinds of nodes"
    )


def _ready(
    profile: SecurityProfile, accepted: _Verdict, counts: Counts, states: list[OnNode], snapshot: Snapshot
) -> _Verdict:
    if profile.metadata.deletion_timestamp:
        return _terminating(profile, snapshot)
    if accepted.status == "False":
        return _Verdict("False", accepted.reason, accepted.message)
    if wants_new_content(profile, snapshot):
        if profile.spec.suspend:
            return _Verdict("False", Reason.SUSPENDED, "spec.suspend holds the new policy back")
        return _Verdict("False", Reason.UPDATING, "the policy is being published")
    if snapshot.revisions_of(profile)[0].spec.placement != placement(profile):
        # What the nodes are counted by is still the earlier generation's.
        return _Verdict("False", Reason.UPDATING, "a changed selection of nodes is being published")
    return _nodes_ready(counts, states)


def _terminating(profile: SecurityProfile, snapshot: Snapshot) -> _Verdict:
    holding = nodes_still_holding(profile.metadata.name, snapshot)
    if used := {node: why for node, why in holding.items() if why}:
        told = "; ".join(f"{node}: {why}" for node, why in list(used.items())[:3])
        return _Verdict("False", Reason.IN_USE, f"waiting for tasks to end on {_nodes(len(used))}: {told}")
    return _Verdict("False", Reason.TERMINATING, f"{_nodes(len(holding))} still to unload the profile")


def _nodes_ready(counts: Counts, states: list[OnNode]) -> _Verdict:
    of = f"of {_nodes(counts.targeted)}"
    if counts.targeted == 0:
        lacking = f"; {counts.unsupported} selected without AppArmor" if counts.unsupported else ""
        return _Verdict("False", Reason.NO_NODES, f"no node with AppArmor is selected{lacking}")
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
    return _Verdict("True", Reason.READY, f"verified in the kernel on {counts.ready} {of}{away}")


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


def _available(states: list[OnNode], counts: Counts, *, published: bool) -> _Verdict:
    """Return whether a pod could start somewhere: an older revision that stays loaded counts."""
    if not published:
        return _Verdict("False", Reason.NOT_VERIFIED, "nothing was published for the nodes to load")
    if counts.targeted == 0:
        return _Verdict("True", Reason.NO_NODES, "no node is targeted, so none lacks the profile")
    holding = [one for one in states if one.holds and one.state is not NodeState.UNREACHABLE]
    if not holding:
        return _Verdict("False", Reason.NOT_VERIFIED, "no reachable node's kernel holds the profile")
    return _Verdict("True", Reason.VERIFIED, f"a revision of it is loaded on {_nodes(len(holding))}")


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


def _failures(states: list[OnNode], snapshot: Snapshot) -> list[Failure]:
    """Return at most ten troubles, worst first, and after them the remarks on nodes that are ready."""
    told = sorted((one for one in states if one.failure), key=lambda one: (one.state, one.node))
    failures = [one.failure for one in told if one.failure]
    failures += _shared_kernels(states, snapshot)
    return failures[:FAILURES]


def _shared_kernels(states: list[OnNode], snapshot: Snapshot) -> list[Failure]:
    """Return a remark for each node that shares its kernel with another, as kind's nodes do."""
    boots: dict[str, list[str]] = {}
    for one in states:
        report = snapshot.reports.get(one.node)
        if report and report.status.boot_id:
            boots.setdefault(report.status.boot_id, []).append(one.node)
    return [
        Failure(
            node=node,
            reason=Reason.SHARED_KERNEL,
            message=f"runs on the same kernel as {', '.join(other for other in nodes if other != node)}: "
            "what one loads or unloads, the other does too",
        )
        for nodes in boots.values()
        if len(nodes) > 1
        for node in nodes
    ]
