"""Why a pod does not start, or is not confined as one thinks: a snapshot in, causes out. Pure.

Called by `live` with what `cluster` read. `causes` looks at each profile that the pod names; here is what
concerns the pod as a whole: what its containers choose, its scheduling, and what else keeps it from running.
`tables` writes the result as text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from msgspec.structs import replace

from ..crds.models import Model
from ..crds.names import APPARMOR, POD_GATE, SECCOMP, SELINUX
from ..crds.pods import LOCALHOST_PREFIX, Choice, Container, choices, containers
from ..crds.reasons import Reason
from .causes import Cause, Found, Snapshot, Use, look
from .pods import Pod, Waiting, misfit
from .states import State
from .waiting import current

# Events that are told, the latest of those that warn; and nodes on which a pod may not run.
_EVENTS = 4
_NODES = 5
_ABOUT_PROFILES = re.compile(r"apparmor|seccomp|selinux|/attr/|keycreate", re.IGNORECASE)


class Confinement(Model, frozen=True, omit_defaults=False):
    """What counts for one container and one type of profile.

    Attributes:
        container: its name.
        type: AppArmor, SELinux or Seccomp; empty for a container of which nothing is said.
        names: the profile, or RuntimeDefault or Unconfined.
        field: where that stands in the pod.
        profile: the SecurityProfile that defines it.
        state: what that is on the pod's node.
        revision: of its content, as the node holds it.
        mode: as the kernel says it.
        digest: the start of the hash of what is loaded, as the kernel, the store or the file has it.
    """

    container: str
    type: str = ""
    names: str = ""
    field: str = ""
    profile: str = ""
    state: str = ""
    revision: str = ""
    mode: str = ""
    digest: str = ""


class Why(Model, frozen=True, omit_defaults=False):
    """All there is to say of a pod.

    Attributes:
        namespace: of the pod.
        pod: its name.
        node: the one that it was given; empty where it has none.
        phase: as Kubernetes has it; empty for one that is only in a file.
        fine: nothing is wrong with what it names, and nothing else keeps it from running.
        confinement: each container and what counts for it.
        causes: what is wrong, the first one first.
        notes: what is worth to know.
        observed: what Kubernetes says of the pod.
    """

    namespace: str
    pod: str
    node: str
    phase: str
    fine: bool
    confinement: list[Confinement]
    causes: list[Cause]
    notes: list[str]
    observed: list[str]


def uses(pod: Pod) -> list[Use]:
    """Return the profiles that a pod names, once each."""
    found: dict[tuple[str, str], Use] = {}
    own = pod.spec.security_context
    sandbox = own.se_linux_options.type if own and own.se_linux_options else None
    if sandbox:  # the pod's sandbox is a process too
        found[SELINUX, sandbox] = Use(SELINUX, sandbox, (), ("spec.securityContext.seLinuxOptions.type",))
    for one in choices(pod):
        if one.name:
            use = found.get((one.type, one.name), Use(one.type, one.name, (), ()))
            fields = tuple(dict.fromkeys((*use.fields, one.field)))
            found[one.type, one.name] = Use(one.type, one.name, (*use.containers, one.container), fields)
    return list(found.values())


def why(snapshot: Snapshot) -> Why:
    """Return what is wrong with a pod, or what confines it."""
    pod = snapshot.pod
    founds = {(use.type, use.name): look(use, snapshot) for use in uses(pod)}
    chosen = choices(pod)
    if pod.status.phase == "Succeeded":
        return _ended(snapshot, chosen, founds)
    causes = [cause for one in founds.values() for cause in one.causes]
    causes += _chosen(pod, chosen, founds)
    ours = [one for one in founds.values() if not one.foreign]
    if not pod.node and not pod.ended:
        causes = [*_gated(snapshot, ours), *causes, *_unscheduled(snapshot, ours, bool(causes))]
    causes += _stuck(pod, causes)
    if not ours and not causes:
        causes.append(_nothing(pod, list(founds.values())))
    notes = [note for one in founds.values() for note in one.notes]
    notes += [] if pod.node else _elsewhere(snapshot, ours)
    return Why(
        namespace=pod.metadata.namespace,
        pod=pod.metadata.name,
        node=pod.node,
        phase=pod.status.phase,
        fine=not causes,
        confinement=list(_confinement(pod, chosen, founds)),
        causes=causes,
        notes=list(dict.fromkeys(notes)),
        observed=_observed(snapshot, causes),
    )


def _ended(snapshot: Snapshot, chosen: Sequence[Choice], founds: Mapping[tuple[str, str], Found]) -> Why:
    """Return what there is to say of a pod that has done its work: that a node let go of it is no fault."""
    pod = snapshot.pod
    return Why(
        namespace=pod.metadata.namespace,
        pod=pod.metadata.name,
        node=pod.node,
        phase=pod.status.phase,
        fine=True,
        confinement=list(_confinement(pod, chosen, founds)),
        causes=[],
        notes=["the pod has ended: what its node holds now need not be what it ran with"],
        observed=[],
    )


def _confinement(
    pod: Pod, chosen: Sequence[Choice], founds: Mapping[tuple[str, str], Found]
) -> Iterator[Confinement]:
    for name in dict.fromkeys(one.name for _, one in containers(pod.spec)):
        said = [one for one in chosen if one.container == name and one.how]
        for one in said:
            found = founds.get((one.type, one.name))
            names = one.name or one.how
            if found is None:
                yield Confinement(name, one.type, names, one.field)
                continue
            profile = found.profile.metadata.name if found.profile else ""
            yield Confinement(
                name, one.type, names, one.field, profile, _state(found, pod.node), *found.entry[:3]
            )
        if not said:
            yield Confinement(name)


def _state(found: Found, node: str) -> str:
    """Return what a profile is on the pod's node, or why it can't be anything there."""
    if found.foreign:
        return "not Hauberk's"
    if found.profile is None:
        return "not defined"
    if not found.nodes:
        return "not published"
    if not node:
        number = len(found.holders)
        return f"on {number} node{'' if number == 1 else 's'}"
    return found.here.state if found.here else State.UNKNOWN


# --- what the containers choose ---------------------------------------------------------------------------


def _chosen(pod: Pod, chosen: Sequence[Choice], founds: Mapping[tuple[str, str], Found]) -> Iterator[Cause]:
    """Yield what containers say that leaves them without a profile of the pod's, or of their own."""
    ours = {key for key, one in founds.items() if not one.foreign}
    confined = {one.container for one in chosen if (one.type, one.name) in ours}
    privileged = {
        one.name
        for _, one in containers(pod.spec)
        if one.security_context and one.security_context.privileged
    }
    of_pod = {one.type: one for one in choices(_without_containers(pod)) if (one.type, one.name) in ours}
    for (kind, field), several in _by_field(chosen).items():
        one, names = several[0], tuple(other.container for other in several)
        above = of_pod.get(kind)
        if above and not one.inherited and not one.name:
            yield _overridden(one, above, names)
        elif one.how == "Unconfined" and (free := tuple(name for name in names if name not in confined)):
            yield Cause(
                Reason.UNCONFINED,
                f"{_containers(free)} to run without {kind}: {field} is Unconfined",
                "name a profile there: `hauberk status` lists them",
                containers=free,
                fields=(field,),
            )
        loose = tuple(name for name in names if name in privileged)
        if (kind, one.name) in ours and kind != APPARMOR and loose:
            yield _privileged(one, loose)
        waiting = tuple(name for name in names if name not in pod.started)
        if kind == APPARMOR and one.given.startswith(LOCALHOST_PREFIX) and waiting:
            yield _prefixed(one, waiting)


def _by_field(chosen: Sequence[Choice]) -> dict[tuple[str, str], list[Choice]]:
    """Return choices by the field that they come from; what says nothing is by its container."""
    found: dict[tuple[str, str], list[Choice]] = {}
    for one in chosen:
        field = one.field or f"the seLinuxOptions of container {one.container}"
        found.setdefault((one.type, field), []).append(one)
    return found


def _without_containers(pod: Pod) -> Pod:
    """Return a pod with one container that says nothing: what counts for it is the pod's own."""
    spec = replace(pod.spec, init_containers=None, ephemeral_containers=None, containers=[Container()])
    return replace(pod, spec=spec)


def _containers(names: Sequence[str]) -> str:
    return f"container {names[0]} is" if len(names) == 1 else f"containers {', '.join(names)} are"


def _overridden(one: Choice, above: Choice, names: tuple[str, ...]) -> Cause:
    says = one.how or "seLinuxOptions without a type"
    return Cause(
        Reason.UNCONFINED if one.how == "Unconfined" else Reason.OVERRIDDEN,
        f"container {one.container} says {says} for itself, so what the pod names for {one.type}, "
        f"{above.name}, does not count for it",
        f"take that away, or name {above.name} there",
        containers=names,
        fields=tuple(filter(None, (one.field, above.field))),
    )


def _privileged(one: Choice, names: tuple[str, ...]) -> Cause:
    no_filter = "container runtimes give such a container no seccomp filter"
    no_label = "containerd, for one, gives such a container no SELinux label"
    return Cause(
        Reason.PRIVILEGED,
        f"{_containers(names)} privileged, and {no_filter if one.type == SECCOMP else no_label}: {one.name} "
        "does not confine it",
        "do without privileged; capabilities are often enough",
        containers=names,
        fields=(one.field,),
    )


def _prefixed(one: Choice, names: tuple[str, ...]) -> Cause:
    return Cause(
        Reason.WRONG_FORM,
        f"{one.given} is no name for a profile: the prefix {LOCALHOST_PREFIX} belongs into the old "
        "annotation; containerd takes it off, other runtimes need not",
        f"write localhostProfile: {one.name}",
        containers=names,
        fields=(one.field,),
    )


# --- a pod without a node ---------------------------------------------------------------------------------


def _gated(snapshot: Snapshot, ours: Sequence[Found]) -> Iterator[Cause]:
    """Yield why Hauberk's gate is still closed."""
    if not snapshot.pod.gated:
        return
    every = f"the pod's scheduling gate {POD_GATE} is closed{{}} every profile that it names is Available"
    lacking = [(one, said) for one in ours if (said := _not_available(one))]
    if not lacking:
        coming = first = ""
        if any(one.profile and one.profile.status.nodes.updating for one in ours):
            coming = "; more nodes are about to hold them, and it waits for those"
            first = " once they do, or five seconds after one holds all that the pod names; if it does not"
        yield Cause(
            Reason.GATED,
            f"{every.format(', and')}{coming}",
            f"the operator opens it{first}: see whether it runs, and its log: "
            "`kubectl -n hauberk-system logs deployment/hauberk-operator`",
            fields=("spec.schedulingGates",),
        )
        return
    yield Cause(
        Reason.GATED,
        f"{every.format(' until')}: {'; '.join(said for _, said in lacking)}",
        "the operator opens it once that is so; `hauberk status NAME` says all that is in the way",
        evidence=tuple(told for one, _ in lacking for told in one.told),
        containers=tuple(dict.fromkeys(name for one, _ in lacking for name in one.use.containers)),
        fields=("spec.schedulingGates",),
    )


def _not_available(found: Found) -> str:
    """Return why a profile keeps the gate closed; empty where it does not."""
    if found.profile is None:
        return f"no SecurityProfile defines {found.use.name}"
    name, available = found.profile.metadata.name, current(found.profile, "Available")
    if available is None:
        return f"{name}: the operator has not looked at it yet"
    return "" if available.status == "True" else f"{name}: {available.reason}: {available.message}"


def _unscheduled(snapshot: Snapshot, ours: Sequence[Found], known: bool) -> Iterator[Cause]:
    """Yield why a pod has no node, as far as profiles and the scheduler tell."""
    pod, nodes = snapshot.pod, snapshot.seen.nodes
    holders = _holders(ours)
    others = [one for one in pod.gates if one != POD_GATE]
    if holders and nodes is not None:
        against = {name: misfit(pod.spec, nodes[name]) for name in sorted(holders) if name in nodes}
        if all(against.values()):
            names = list(dict.fromkeys(one.profile.metadata.name for one in ours if one.profile))
            yield Cause(
                Reason.NO_FITTING_NODE,
                f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} held by {_some(sorted(holders))}, "
                "where the pod may not run",
                "change the pod's nodeSelector, affinity or tolerations, or widen spec.nodeSelector of the "
                "SecurityProfile to where the pod may run",
                tuple(f"{name}: {why}" for name, why in list(against.items())[:_NODES]),
                fields=("spec.nodeSelector", "spec.affinity", "spec.tolerations"),
            )
            return
    if others:
        yield Cause(
            Reason.NOT_OF_PROFILES,
            f"the pod has {'another' if pod.gated else 'a'} scheduling gate, which is not Hauberk's: "
            f"{', '.join(others)}",
            "whoever put it there takes it off",
            fields=("spec.schedulingGates",),
        )
    elif pod.unscheduled and not known and not pod.gated:
        yield Cause(
            Reason.NOT_OF_PROFILES,
            "the scheduler has no node for the pod, and not because of its profiles: "
            f"{pod.unscheduled.message}",
            "see `kubectl describe pod`",
        )


def _holders(ours: Sequence[Found]) -> frozenset[str]:
    """Return the nodes that hold every profile of Hauberk's that a pod names."""
    several = [frozenset(one.holders) for one in ours]
    return frozenset.intersection(*several) if several else frozenset()


def _elsewhere(snapshot: Snapshot, ours: Sequence[Found]) -> list[str]:
    """Return a note on nodes to which the pod may be scheduled, and on which it can't start."""
    nodes, holders = snapshot.seen.nodes, _holders(ours)
    if nodes is None:
        return ["where the pod may run can't be told without the right to list Nodes"] if ours else []
    fitting = [name for name, one in sorted(nodes.items()) if not misfit(snapshot.pod.spec, one)]
    lacking = [name for name in fitting if name not in holders]
    if not ours or not lacking or not holders.intersection(fitting):
        return []
    word = "does" if len(lacking) == 1 else "do"
    note = f"the pod may also be scheduled to {_some(lacking)}, which {word} not hold all that it names: it "
    return [f"{note}would not start there; a nodeSelector keeps it away"]


# --- what else --------------------------------------------------------------------------------------------


def _stuck(pod: Pod, causes: Sequence[Cause]) -> Iterator[Cause]:
    """Yield why containers do not run that no cause is about."""
    explained = {name for one in causes for name in one.containers}
    for name, waiting in pod.stuck.items():
        if name not in explained and not any(not one.containers for one in causes):
            yield _waits(name, waiting, pod.node)
    if pod.status.phase == "Failed" and pod.status.reason and not causes:
        yield Cause(
            Reason.NOT_OF_PROFILES,
            f"the pod has failed: {pod.status.reason}: {pod.status.message}",
            "whatever made it has to make another; a pod does not start anew",
        )


def _waits(container: str, waiting: Waiting, node: str) -> Cause:
    said = f"{waiting.reason}: {waiting.message}" if waiting.message else waiting.reason
    if waiting.reason == "CrashLoopBackOff":
        return Cause(
            Reason.NOT_OF_PROFILES,
            f"container {container} starts, and ends each time: {said}",
            "see its log (`kubectl logs --previous`); whether a profile denies it something the kernel's log "
            f"of {node} tells, and a try with the profile in mode Complain or Permissive",
            containers=(container,),
        )
    if _ABOUT_PROFILES.search(waiting.message):
        return Cause(
            Reason.NOT_IN_KERNEL,
            f"the runtime of {node} did not find for container {container} what the node's report says is "
            f"there: {waiting.message}",
            "if it was loaded just now the kubelet tries again by itself; else see the log of the node's "
            f"hauberk-agent and `hauberk nodes {node}`",
            containers=(container,),
        )
    return Cause(
        Reason.NOT_OF_PROFILES,
        f"container {container} does not run, and not because of its profiles: {said}",
        "see `kubectl describe pod`",
        containers=(container,),
    )


def _nothing(pod: Pod, foreign: Sequence[Found]) -> Cause:
    named = ", ".join(one.use.name for one in foreign)
    return Cause(
        Reason.FOREIGN,
        f"the pod names no profile of Hauberk's{f', only {named}' if named else ''}: what confines it is the "
        "container runtime's default, or the node's own",
        "name one in a securityContext: `hauberk status NAME` shows what to paste",
        containers=tuple(one.name for _, one in containers(pod.spec)),
    )


def _observed(snapshot: Snapshot, causes: Sequence[Cause]) -> list[str]:
    """Return what Kubernetes says of the pod and no cause has said: of containers, scheduling, and Events."""
    pod, told = snapshot.pod, [one.message for one in causes]

    def news(head: str, message: str) -> list[str]:
        if message and any(message in one for one in told):
            return []
        told.append(message)
        return [f"{head}: {message}" if message else head]

    said: list[str] = []
    for name, one in pod.stuck.items():
        said += news(f"container {name} waits: {one.reason}", one.message)
    if pod.status.reason:
        said += news(f"{pod.status.phase}: {pod.status.reason}", pod.status.message)
    if pod.unscheduled:
        said += news(f"not scheduled: {pod.unscheduled.reason}", pod.unscheduled.message)
    warnings = [
        one
        for one in sorted(snapshot.events, key=lambda one: one.when, reverse=True)
        if one.of_hauberk or (one.type == "Warning" and causes)
    ]
    events = [sentence for one in warnings for sentence in news(f"Event {one.reason}", one.message)]
    return said + events[:_EVENTS]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NODES} more" if len(names) > _NODES else ""
    return ", ".join(names[:_NODES]) + more
