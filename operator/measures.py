"""What the operator knows of the cluster, in figures. No I/O and no clock but the snapshot's.

Called by `controller` and `publisher` when Prometheus asks. Statuses are counted as the API has them, so that
figures and `kubectl get secprof` never differ.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime

from ..crds.metrics import (
    AGENTS,
    DRIFT_REPAIRS,
    GATED_POD_WAIT,
    GATED_PODS,
    GATES_OPENED,
    LEADER,
    PENDING,
    PROBLEMS,
    PROFILE_NODES,
    PROFILE_NODES_TARGETED,
    PROFILE_READY,
    PROFILES,
    Reading,
)
from ..crds.models import SecurityProfile
from ..crds.reasons import Reason
from .gates import Gates
from .snapshot import Snapshot, parse_time

_REASONS = frozenset(one.value for one in Reason)


def of_process(*, leads: bool, pending: Mapping[str, int]) -> list[Reading]:
    """Return whether a process leads, and what it has not done yet, by the word for that work."""
    return [
        Reading(LEADER, leads),
        *(Reading(PENDING, count, (work,)) for work, count in pending.items()),
    ]


def of_cluster(snapshot: Snapshot, repaired: Mapping[tuple[str, str], int]) -> list[Reading]:
    """Return the state of profiles and agents; `repaired` are repairs so far, by type and profile."""
    profiles = snapshot.profiles.values()
    return [
        *_profiles(profiles),
        *(reading for one in profiles for reading in _profile(one, repaired)),
        *_problems(snapshot),
        *_agents(snapshot),
    ]


def of_gates(gates: Gates, opened: int, now: datetime) -> list[Reading]:
    """Return how many pods wait for their profiles, and how long, and the gates `opened` so far."""
    waiting = gates.waiting()
    oldest = min((parse_time(one.metadata.creation_timestamp) for one in waiting), default=now)
    return [
        Reading(GATED_PODS, len(waiting)),
        Reading(GATED_POD_WAIT, max(0.0, (now - oldest).total_seconds())),
        Reading(GATES_OPENED, opened),
    ]


def _profiles(profiles: Iterable[SecurityProfile]) -> list[Reading]:
    found = Counter((one.spec.type, _ready(one)[1]) for one in profiles)
    return [Reading(PROFILES, count, key) for key, count in sorted(found.items())]


def _profile(profile: SecurityProfile, repaired: Mapping[tuple[str, str], int]) -> list[Reading]:
    own = (profile.metadata.name, profile.spec.type)
    is_ready, reason = _ready(profile)
    nodes = profile.status.nodes
    states = {
        "ready": nodes.ready,
        "updating": nodes.updating,
        "failed": nodes.failed,
        "agent_down": nodes.agent_down,
        "unreachable": nodes.unreachable,
    }
    return [
        Reading(PROFILE_READY, is_ready, (*own, reason)),
        Reading(PROFILE_NODES_TARGETED, nodes.targeted, own),
        *(Reading(PROFILE_NODES, count, (*own, state)) for state, count in states.items()),
        # at zero as long as there were none: the first one can then be seen as a step
        Reading(DRIFT_REPAIRS, repaired.get((own[1], own[0]), 0), own),
    ]


def _ready(profile: SecurityProfile) -> tuple[bool, str]:
    """Return whether a profile's status says that it is Ready, and why; one without a word progresses."""
    for one in profile.status.conditions:
        if one.type == "Ready":
            current = one.observed_generation == profile.metadata.generation
            return one.status == "True" and current, one.reason if current else Reason.UPDATING
    return False, Reason.PROGRESSING


def _problems(snapshot: Snapshot) -> list[Reading]:
    # What agents write is theirs: a node that nobody should trust must not make a series of each word.
    found = Counter(
        (kind, problem.reason if problem.reason in _REASONS else Reason.BUG.value)
        for kind, section in snapshot.sections
        for problem in section.problems.values()
    )
    return [Reading(PROBLEMS, count, key) for key, count in sorted(found.items())]


def _agents(snapshot: Snapshot) -> list[Reading]:
    """Return how many nodes have an agent that the kubelet calls ready, of those that are Ready.

    Where one is missing, it may be meant to: an administrator can keep agents away from nodes.
    """
    found = {"ready": 0, "down": 0, "missing": 0}
    for name, node in snapshot.nodes.items():
        if node.ready and node.has_kernel:
            agent = snapshot.agents.get(name)
            found["missing" if not (agent and agent.has_pod) else "ready" if agent.ready else "down"] += 1
    return [Reading(AGENTS, count, (state,)) for state, count in found.items()]
