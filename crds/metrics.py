"""Every metric of Hauberk's: name, type, labels and meaning. Pure: a table, and what is asked of who counts.

`exporter` keeps the values; docs/reference/metrics.md, the alerts and the dashboard are tested against this
table. Decisions count nothing: only the rims and the loops import it.

Names and types follow https://prometheus.io/docs/practices/naming and the text format 0.0.4
(https://prometheus.io/docs/instrumenting/exposition_formats).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

OPERATOR, ADMISSION, AGENT = "operator", "admission", "agent"
BOTH = (OPERATOR, ADMISSION)
ALL = (*BOTH, AGENT)

# The label that tells the programs apart where they share a metric; whoever keeps the values fills it in.
COMPONENT = "component"


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: as it is asked for: that of a counter ends in `_total`.
        type: in the words of the text format.
        help: what it means, in one sentence.
        labels: their names; `component` is the first where it is one.
        by: the components that export it.
        buckets: upper bounds of a histogram, in seconds.
    """

    name: str
    type: Literal["counter", "gauge", "histogram", "summary"]
    help: str
    labels: tuple[str, ...] = ()
    by: tuple[str, ...] = (OPERATOR,)
    buckets: tuple[float, ...] = ()


class Reading(NamedTuple):
    """What a gauge, or a counter that is kept elsewhere, is at the moment when someone asks."""

    metric: Metric
    value: float
    labels: tuple[str, ...] = ()


class Counts(Protocol):
    """Whoever keeps the values."""

    def count(self, metric: Metric, *labels: str, by: float = 1.0) -> None:
        """Add to a counter."""
        ...

    def observe(self, metric: Metric, seconds: float, *labels: str) -> None:
        """Add to a histogram or a summary."""
        ...


class Uncounted:
    """Keeps nothing: for whoever runs a part of Hauberk alone."""

    def count(self, metric: Metric, *labels: str, by: float = 1.0) -> None:
        """Count nothing."""

    def observe(self, metric: Metric, seconds: float, *labels: str) -> None:
        """Observe nothing."""


# --- what the cluster is like, told by the operator that leads ---------------------------------------------

PROFILES = Metric(
    "hauberk_profiles",
    "gauge",
    "SecurityProfiles by type and by the reason of their condition Ready.",
    ("type", "reason"),
)
PROFILE_READY = Metric(
    "hauberk_profile_ready",
    "gauge",
    "Whether a SecurityProfile's condition Ready is True (1) or not (0), with its reason.",
    ("profile", "type", "reason"),
)
PROFILE_NODES_TARGETED = Metric(
    "hauberk_profile_nodes_targeted",
    "gauge",
    "Nodes that a SecurityProfile selects and whose kernels can hold it.",
    ("profile", "type"),
)
PROFILE_NODES = Metric(
    "hauberk_profile_nodes",
    "gauge",
    "Targeted nodes of a profile by what it is there: ready, updating, failed, agent_down, unreachable.",
    ("profile", "type", "state"),
)
PROBLEMS = Metric(
    "hauberk_problems",
    "gauge",
    "Problems that nodes report now, one for each node and profile, by reason.",
    ("type", "reason"),
)
AGENTS = Metric(
    "hauberk_agents",
    "gauge",
    "Nodes that are Ready, by what their agent's pod is: ready, down, or missing.",
    ("state",),
)
DRIFT_REPAIRS = Metric(
    "hauberk_drift_repairs_total",
    "counter",
    "Times that nodes repaired what someone else did to a profile, as their reports tell.",
    ("profile", "type"),
)
GATED_PODS = Metric(
    "hauberk_gated_pods",
    "gauge",
    "Pods with the gate that wait for their profiles.",
)
GATED_POD_WAIT = Metric(
    "hauberk_gated_pod_longest_wait_seconds",
    "gauge",
    "How old the oldest pod is that has the gate and waits for its profiles; 0 where none does.",
)
GATES_OPENED = Metric(
    "hauberk_gates_opened_total",
    "counter",
    "Gates of pods that were opened.",
)

# --- operator and admission --------------------------------------------------------------------------------

LEADER = Metric(
    "hauberk_leader",
    "gauge",
    "Whether this replica holds the Lease of its component and writes (1), or waits (0).",
    (COMPONENT,),
    BOTH,
)
ROUND_DURATION = Metric(
    "hauberk_round_duration_seconds",
    "histogram",
    "How long a round of the loop took: decide, and write.",
    (COMPONENT,),
    BOTH,
    (0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0),
)
RETRIES = Metric(
    "hauberk_retries_total",
    "counter",
    "Times that work failed at the API and was put off to be done again: start, list, watch (of gated pods), "
    "write, certificate.",
    (COMPONENT, "work"),
    BOTH,
)
WATCH_EVENTS = Metric(
    "hauberk_watch_events_total",
    "counter",
    "Objects that watches told of, by kind.",
    (COMPONENT, "kind"),
    BOTH,
)
MISSED_CHANGES = Metric(
    "hauberk_missed_changes_total",
    "counter",
    "Objects that a later list found new or gone though no watch had told of it, by kind.",
    (COMPONENT, "kind"),
    BOTH,
)
WEBHOOK_DURATION = Metric(
    "hauberk_webhook_duration_seconds",
    "histogram",
    "How long the API server waited for an answer on a SecurityProfile or a Pod.",
    ("kind",),
    (ADMISSION,),
    (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 27.0),
)
WEBHOOK_ANSWERS = Metric(
    "hauberk_webhook_answers_total",
    "counter",
    "Answers to the API server on a SecurityProfile or a Pod by verdict: allowed, changed (a pod, to wait or "
    "to keep to some nodes), warned (and allowed as it is), refused, failed (none was found).",
    ("kind", "verdict"),
    (ADMISSION,),
)

# --- all three ---------------------------------------------------------------------------------------------

API_WRITES = Metric(
    "hauberk_api_writes_total",
    "counter",
    "Writes that were sent to the API server, by the kind of object and what became of it: done, gone (the "
    "object was), conflict (someone came before), busy (429), refused, unanswered.",
    (COMPONENT, "kind", "result"),
    ALL,
)
PENDING = Metric(
    "hauberk_pending",
    "gauge",
    "Work that is known and not done yet: status (statuses that wait to be written), judging (texts), "
    "load (steps of an agent), report (1 while the API takes no report of an agent's).",
    (COMPONENT, "work"),
    ALL,
)

WATCH_RESTARTS = Metric(
    "hauberk_watch_restarts_total",
    "counter",
    "Watches that were begun again, by kind and cause: expired (with a new list), and of agents also ended "
    "(the time was over), broken, refused.",
    (COMPONENT, "kind", "cause"),
    ALL,
)

# --- agents ------------------------------------------------------------------------------------------------

AGENT_PROFILES = Metric(
    "hauberk_agent_profiles",
    "gauge",
    "Profiles of this node by type and state: held (read back), failed (a problem is told), orphaned.",
    ("type", "state"),
    (AGENT,),
)
AGENT_LOADS = Metric(
    "hauberk_agent_loads_total",
    "counter",
    "Profiles that were loaded on this node and read back.",
    ("type",),
    (AGENT,),
)
AGENT_LOAD_DURATION = Metric(
    "hauberk_agent_load_duration_seconds",
    "histogram",
    "How long one run of the backend took that loads what is due (many profiles at once) and reads it back.",
    ("type",),
    (AGENT,),
    (0.01, 0.05, 0.25, 1.0, 5.0, 15.0, 60.0, 300.0),
)
AGENT_FAILURES = Metric(
    "hauberk_agent_failures_total",
    "counter",
    "Steps that failed on this node, each try, by reason.",
    ("type", "reason"),
    (AGENT,),
)
AGENT_REPAIRS = Metric(
    "hauberk_agent_repairs_total",
    "counter",
    "Times that this node's agent repaired what someone else did to a profile.",
    ("type",),
    (AGENT,),
)
AGENT_ROUND_DURATION = Metric(
    "hauberk_agent_round_duration_seconds",
    "summary",
    "How long rounds of a backend's loop took, from the wake-up to rest: sum and count, no quantiles.",
    ("type",),
    (AGENT,),
)
METRICS: tuple[Metric, ...] = (
    *(PROFILES, PROFILE_READY, PROFILE_NODES_TARGETED, PROFILE_NODES, PROBLEMS, AGENTS, DRIFT_REPAIRS),
    *(GATED_PODS, GATED_POD_WAIT, GATES_OPENED),
    *(LEADER, ROUND_DURATION, RETRIES, WATCH_EVENTS, MISSED_CHANGES, WEBHOOK_DURATION, WEBHOOK_ANSWERS),
    *(API_WRITES, PENDING, WATCH_RESTARTS),
    *(AGENT_PROFILES, AGENT_LOADS, AGENT_LOAD_DURATION, AGENT_FAILURES, AGENT_REPAIRS, AGENT_ROUND_DURATION),
)

# The words of labels that are few and known beforehand: a counter is there, at zero, before it moves, so that
# its first step can be seen as one.
RESULTS = ("done", "gone", "conflict", "busy", "refused", "unanswered")
REVIEWED = ("SecurityProfile", "Pod")
VERDICTS = ("allowed", "changed", "warned", "refused", "failed")
# a SecurityProfile is stored as it is, or not at all
ANSWERS = [(kind, one) for kind in REVIEWED for one in VERDICTS if (kind, one) != (REVIEWED[0], "changed")]
CAUSES = ("ended", "broken", "expired", "refused")


def of(component: str) -> Iterable[Metric]:
    """Return the metrics that a component exports."""
    return [one for one in METRICS if component in one.by]


def result_of(code: int | None) -> str:
    """Return what became of a write: by the HTTP status that refused it; None where there was no answer."""
    if code is None:
        return "unanswered"
    return {404: "gone", 409: "conflict", 429: "busy"}.get(code, "refused")
