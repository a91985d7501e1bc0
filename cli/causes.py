"""What became of one profile that a pod names, and what is wrong with it. Pure.

Called by `why`, for each distinct profile of a pod. A cause is a word of crds/reasons.py, a sentence, what
shows it, and what to do. What a node holds is read by `states`, as for `hauberk status`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..crds.facts import supports
from ..crds.models import Condition, Entry, Model, ProfileNode, RevisionSpec, Section, SecurityProfile
from ..crds.names import APPARMOR, SECCOMP, SELINUX, security_module
from ..crds.reasons import Reason
from .naming import Definition, Guess, definition, is_foreign, meant, pasted, profile_of_remains
from .pods import Event, Pod
from .states import OnNode, Seen, State, held, on_nodes
from .waiting import current

# Nodes that a sentence names.
NODES = 5
_NO_NODES = "whether it is meant to can't be told without the right to list Nodes"
_LENIENT = ("complain", "permissive")
_WORDS = {APPARMOR: "AppArmor profile", SELINUX: "SELinux type", SECCOMP: "seccomp profile"}
# What a node without the security module makes of a pod that names one of its profiles.
_WITHOUT = {
    APPARMOR: "its kubelet refuses the pod",
    SELINUX: "containers start there without that confinement",
    SECCOMP: "its runtime does not start the container",
}


@dataclass(frozen=True)
class Snapshot:
    """All that is known of a pod and of what it names.

    Attributes:
        pod: the pod.
        profiles: all SecurityProfiles, by name.
        revisions: of those that the pod names, the revision that nodes are to hold.
        seen: the nodes, and what they hold.
        events: on the pod.
    """

    pod: Pod
    profiles: Mapping[str, SecurityProfile]
    revisions: Mapping[str, RevisionSpec]
    seen: Seen
    events: Sequence[Event] = ()


@dataclass(frozen=True)
class Use:
    """A profile that a pod names, once for all of its containers that it is for.

    Attributes:
        type: AppArmor, SELinux or Seccomp.
        name: as `pods.Named` has it.
        containers: for which it counts.
        fields: where it is named.
    """

    type: str
    name: str
    containers: tuple[str, ...]
    fields: tuple[str, ...]

    @property
    def words(self) -> str:
        """Return what it is, for a sentence."""
        return f"the {_WORDS[self.type]} {self.name}"


class Cause(Model, frozen=True, omit_defaults=False):
    """Why a pod does not start, or is not confined as it seems.

    Attributes:
        reason: one word for it; docs/reference/reasons.md explains each.
        message: a sentence.
        fix: what to do.
        evidence: what shows it.
        containers: that it is about; none where it is about the pod.
        fields: of the pod, where what it is about is named.
        profile: the SecurityProfile that it is about; empty where there is none.
    """

    reason: str
    message: str
    fix: str
    evidence: tuple[str, ...] = ()
    containers: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    profile: str = ""


@dataclass(frozen=True)
class Found:
    """What became of a profile that a pod names.

    Attributes:
        use: the name.
        profile: the SecurityProfile that defines it; None where none does.
        nodes: what that is on every node.
        here: what it is on the pod's node; None where the pod has none, or nothing is known of it.
        entry: what the pod's node told that it holds.
        foreign: the name is none that Hauberk could have to do with.
        causes: what is wrong.
        notes: what is worth to know.
    """

    use: Use
    profile: SecurityProfile | None = None
    nodes: Sequence[OnNode] = ()
    here: OnNode | None = None
    entry: Entry = field(default_factory=Entry)
    foreign: bool = False
    causes: list[Cause] = field(default_factory=list[Cause])
    notes: list[str] = field(default_factory=list[str])

    @property
    def holders(self) -> list[str]:
        """Return the nodes on which a pod that names it could start, as far as it goes."""
        return [one.node for one in self.nodes if _starts(one)]

    @property
    def told(self) -> list[str]:
        """Return what it is on the first few nodes, those where something is wrong with it first."""
        wrong = sorted(self.nodes, key=lambda one: not one.message)
        return [
            f"{one.node}: {one.state}{f', {one.message}' if one.message else ''}" for one in wrong[:NODES]
        ]

    def cause(self, reason: str, message: str, fix: str, *evidence: str) -> None:
        """Add a cause that is about this name; evidence that is empty is none."""
        name = self.profile.metadata.name if self.profile else ""
        shown = tuple(one for one in evidence if one)
        self.causes.append(Cause(reason, message, fix, shown, self.use.containers, self.use.fields, name))


def named_profiles(uses: Iterable[Use], profiles: Mapping[str, SecurityProfile]) -> list[SecurityProfile]:
    """Return the SecurityProfiles behind names: of these the revisions have to be read."""
    found = (definition(use.type, use.name, profiles) for use in uses)
    return list({one.profile.metadata.name: one.profile for one in found if one}.values())


def look(use: Use, snapshot: Snapshot) -> Found:
    """Return what became of a profile that a pod names."""
    defined = definition(use.type, use.name, snapshot.profiles)
    if defined is None:
        return _undefined(use, snapshot)
    profile, node = defined.profile, snapshot.pod.node
    wanted = snapshot.revisions.get(profile.metadata.name)
    nodes = on_nodes(profile, wanted, snapshot.seen) if wanted and defined.published else []
    here = next((one for one in nodes if one.node == node), None)
    report = snapshot.seen.reports.get(node)
    entry = held(profile.metadata.name, use.type, report) if here and here.revision else Entry()
    found = Found(use, profile, nodes, here, entry)
    if not _of_object(found, defined, wanted):
        return found
    if not node:
        _of_no_node(found, profile, snapshot.pod)
    elif here is None:
        found.cause(
            Reason.UPDATING,
            f"nothing is known of {node}, on which the pod is",
            "see whether its hauberk-agent runs: `kubectl -n hauberk-system get pods -o wide`",
            f"there is no Node or no ProfileNode {node}",
        )
    else:
        _of_node(found, profile, here, snapshot)
    return found


# --- names that nobody defines ----------------------------------------------------------------------------


def _undefined(use: Use, snapshot: Snapshot) -> Found:
    report = snapshot.seen.reports.get(snapshot.pod.node)
    section = report.status.section(use.type) if report else None
    gone = (
        {name: one for name, one in section.profiles.items() if name not in snapshot.profiles}
        if section
        else {}
    )
    if section and (remains := profile_of_remains(use.type, use.name, gone)):
        return _of_remains(use, remains, snapshot.pod.node, section)
    found = Found(use)
    guess = meant(use.type, use.name, snapshot.profiles)
    if guess and guess.sure:
        _misnamed(found, guess)
        return found
    foreign = is_foreign(use.type, use.name)
    if foreign or (guess is None and _is_the_nodes(use, snapshot.pod, report)):
        why = "" if foreign else ": a container runs with it, so the node has it from elsewhere"
        note = f"{use.words} is none of Hauberk's{why}; Hauberk neither loads nor checks it"
        return Found(use, foreign=True, notes=[note])
    found.cause(
        Reason.UNKNOWN_PROFILE,
        f"no SecurityProfile defines {use.words}",
        f"did you mean {guess.name}? {pasted(guess.profile, guess.name)}"
        if guess
        else "apply a SecurityProfile that defines it, or name one that is there: `hauberk status`",
        f"of {_count(len(snapshot.profiles), 'SecurityProfile')} none has that name in status.profiles",
    )
    return found


def _is_the_nodes(use: Use, pod: Pod, report: ProfileNode | None) -> bool:
    """Return whether the node must have a name from elsewhere, since a container of the pod runs with it.

    Not so for a seccomp file, which may be gone by now, nor on a node without SELinux: it takes any type.
    """
    if use.type == SECCOMP or not _runs(use, pod):
        return False
    return use.type == APPARMOR or (report is not None and supports(report.status.facts, SELINUX))


def _misnamed(found: Found, guess: Guess) -> None:
    """Tell of a name that is a SecurityProfile's, in a form that does not name it."""
    use, profile = found.use, guess.profile
    name = profile.metadata.name
    if profile.spec.type != use.type:
        why = f"is not defined; SecurityProfile {name} is of the type {profile.spec.type}"
    elif use.type == SECCOMP:
        why = f"is not the file of SecurityProfile {name}: Hauberk's are in hauberk/, and end in .json"
    else:
        why = f"is not defined; what SecurityProfile {name} defines is called {guess.name}"
    found.cause(Reason.WRONG_FORM, f"{use.words} {why}", f"name it so: {pasted(profile, guess.name)}")


def _of_remains(use: Use, profile: str, node: str, section: Section) -> Found:
    """Return what became of a profile whose object is gone and which the pod's node still holds."""
    found = Found(use, entry=Entry.read(section.profiles[profile]))
    problem, lost = section.problems.get(profile), profile in section.orphans
    gone = f"SecurityProfile {profile}, which defined {use.words}, is gone"
    found.cause(
        Reason.ORPHANED if lost else Reason.DELETED,
        f"{gone}, and nobody deleted it: {node} keeps what it holds, and no other node gets it"
        if lost
        else f"{gone}: {node} unloads it once nothing uses it any more, and the pod can't start again then",
        f"apply SecurityProfile {profile} again, or end the pod and name another profile",
        f"ProfileNode {node} holds {profile}: {section.profiles[profile]}",
        f"ProfileNode {node}: {problem.reason}: {problem.message}" if problem else "",
    )
    return found


# --- the SecurityProfile ----------------------------------------------------------------------------------


def _of_object(found: Found, defined: Definition, wanted: RevisionSpec | None) -> bool:
    """Tell what is wrong with the SecurityProfile itself; return whether nodes may hold the name at all."""
    profile, use = defined.profile, found.use
    name, may_hold = profile.metadata.name, defined.published and wanted is not None
    accepted, ready = current(profile, "Accepted"), current(profile, "Ready")
    if profile.metadata.deletion_timestamp:
        found.cause(
            ready.reason if ready else Reason.TERMINATING,
            f"SecurityProfile {name} is being deleted: nodes unload it where nothing uses it, and the pod "
            "can't start again then",
            f"apply it again once it is gone, or have the pod name another profile; `hauberk status {name}` "
            "shows what keeps it",
            _shown(profile, ready),
        )
        return may_hold
    if accepted and accepted.status == "False":
        kept = (
            f"nodes keep the last good policy, revision {wanted.content.digest}"
            if defined.published and wanted
            else f"no policy that defines {use.name} was ever published"
        )
        found.cause(
            accepted.reason,
            f"SecurityProfile {name} is refused, and {kept}: {accepted.message}",
            f"correct the policy (docs/reference/reasons.md has more on {accepted.reason}) and apply it; "
            "`hauberk lint FILE` says beforehand whether it will do",
            _shown(profile, accepted),
        )
        return may_hold
    if _held_back(profile, wanted):
        what = "newer content" if defined.published else f"the policy that defines {use.name}"
        kept = f"; nodes keep revision {wanted.content.digest}" if wanted else ""
        found.cause(
            Reason.SUSPENDED,
            f"spec.suspend of SecurityProfile {name} holds {what} back{kept}",
            f'let it go: kubectl patch secprof {name} --type merge -p \'{{"spec":{{"suspend":false}}}}\'',
            _shown(profile, ready),
        )
        return may_hold
    if not may_hold:
        generation = profile.metadata.generation
        why = ready.message if ready else f"the operator has not looked at generation {generation} yet"
        found.cause(
            Reason.UPDATING,
            f"SecurityProfile {name} is there, and nothing that defines {use.name} is published: {why}",
            f"wait for it: `hauberk wait {name}`; if that takes long see whether hauberk-admission and "
            "hauberk-operator run",
            _shown(profile, ready),
        )
    return may_hold


def _held_back(profile: SecurityProfile, wanted: RevisionSpec | None) -> bool:
    """Return whether nodes are kept on an earlier content."""
    if not profile.spec.suspend:
        return False
    ready = current(profile, "Ready")
    return wanted is None or (ready is not None and ready.reason == Reason.SUSPENDED)


def _shown(profile: SecurityProfile, condition: Condition | None) -> str:
    """Return a condition as evidence: what it says, and of which generation."""
    name, generation = profile.metadata.name, profile.metadata.generation
    if condition is None:
        return f"SecurityProfile {name}: no condition of generation {generation} yet"
    said = f"{condition.type}={condition.status}, {condition.reason}"
    return f"SecurityProfile {name}, generation {generation}: {said}"


# --- the nodes --------------------------------------------------------------------------------------------


def _of_no_node(found: Found, profile: SecurityProfile, pod: Pod) -> None:
    """Tell of a pod that has no node yet whether it could start on any."""
    if found.holders or found.causes or pod.gated:
        return
    ready = current(profile, "Ready")
    name = profile.metadata.name
    found.cause(
        ready.reason if ready else Reason.UPDATING,
        f"no node holds {name}: {ready.message if ready else 'nothing is known of it yet'}",
        f"see why with `hauberk status {name}`; the pod would not start on any node now",
        _shown(profile, ready),
        *found.told,
    )


def _of_node(found: Found, profile: SecurityProfile, here: OnNode, snapshot: Snapshot) -> None:
    """Tell what is wrong with a profile on the pod's node."""
    name, node, module = profile.metadata.name, here.node, security_module(found.use.type)
    evidence = _held_there(found, node, snapshot.seen)
    match here.state:
        case State.READY | State.REPORTED:
            pass
        case State.UNSUPPORTED:
            found.cause(
                Reason.UNSUPPORTED,
                f"{node} can't hold {found.use.words}, for its kernel runs without {module}: "
                f"{_WITHOUT[found.use.type]}",
                f"keep the pod on nodes with {module}{_such(found.holders)}",
                f"ProfileNode {node}: modules {_modules(snapshot.seen.reports.get(node))}",
            )
        case State.NOT_SELECTED | State.UNLOADING:
            if not profile.metadata.deletion_timestamp:
                _of_selection(found, name, node, evidence, runs=_runs(found.use, snapshot.pod))
        case State.AGENT_DOWN | State.UNREACHABLE:
            found.cause(
                here.reason,
                f"what {node} holds of {name} is not known now: {here.message}",
                f"see `kubectl describe node {node}`, and its agent: `kubectl -n hauberk-system get pods "
                f"--field-selector spec.nodeName={node}`",
                evidence,
            )
        case State.FAILED:
            kept = f"; it keeps the older revision {found.entry.revision}" if found.entry.revision else ""
            found.cause(
                here.reason,
                f"{node} has not loaded {name}{kept}: {here.message}",
                _mended(here.reason, found.holders),
                f"ProfileNode {node}, problems: {name}: {here.reason}",
                evidence,
            )
        case State.UNKNOWN if found.entry.revision:
            found.notes.append(f"{node} holds another revision of {name} than the newest; {_NO_NODES}")
        case State.UNKNOWN:
            found.cause(
                Reason.NOT_VERIFIED,
                f"{node} does not hold {name}; {_NO_NODES}",
                f"see spec.nodeSelector of SecurityProfile {name}, or ask someone who may list Nodes",
                evidence,
            )
        case State.UPDATING:
            _of_update(found, name, here, evidence)
    _of_mode(found, name, node, snapshot.seen.reports.get(node))


def _of_selection(found: Found, name: str, node: str, evidence: str, *, runs: bool) -> None:
    then = "the container runs with it, and can't start again" if runs else "the container can't start"
    still = f"{node} still holds it until nothing uses it: " if found.entry.revision else ""
    found.cause(
        Reason.NOT_SELECTED,
        f"spec.nodeSelector of SecurityProfile {name} does not select {node}: {still}{then}",
        f"widen that selector, or keep the pod on nodes that hold {name}{_such(found.holders)}",
        evidence,
    )


def _of_update(found: Found, name: str, here: OnNode, evidence: str) -> None:
    said = f": {here.message}" if here.message else ""
    if found.entry.revision:
        found.notes.append(
            f"{here.node} holds revision {found.entry.revision} of {name}, and is to take another{said}"
        )
        return
    found.cause(
        here.reason or Reason.UPDATING,
        f"{here.node} does not hold {name} yet{said}",
        f"wait for it: `hauberk wait {name}`; the kubelet tries to start the container again by itself",
        evidence,
    )


def _of_mode(found: Found, name: str, node: str, report: ProfileNode | None) -> None:
    """Tell of a profile that is in force and denies nothing."""
    if found.entry.mode in _LENIENT:
        mode = "Complain" if found.use.type == APPARMOR else "Permissive"
        found.cause(
            Reason.NOT_ENFORCED,
            f"{node} has {name} loaded in {found.entry.mode} mode: it logs what it would deny, and denies "
            "nothing",
            f"once its log is quiet, set spec.{_block(found.use.type)}.mode of SecurityProfile {name} to "
            f"Enforce instead of {mode}",
            f"ProfileNode {node} holds {name}: {'/'.join(filter(None, found.entry[:3]))}",
        )
    elif found.use.type == SELINUX and report and report.status.facts.selinux.mode == "permissive":
        found.cause(
            Reason.NOT_ENFORCED,
            f"SELinux of {node} is permissive as a whole: {found.use.name} is in force, and denies nothing",
            "set that node to enforcing (`setenforce 1`, and /etc/selinux/config for its next boot)",
            f"ProfileNode {node}: facts.selinux.mode is permissive",
        )


def _runs(use: Use, pod: Pod) -> bool:
    """Return whether what a name counts for has started: its containers, or the sandbox."""
    return pod.started.issuperset(use.containers) and bool(pod.started)


def _block(kind: str) -> str:
    return "appArmor" if kind == APPARMOR else "selinux"


def _starts(one: OnNode) -> bool:
    """Return whether a container that names the profile could start on a node."""
    if one.state in {State.READY, State.REPORTED}:
        return True
    return bool(one.revision) and one.state in {State.UPDATING, State.FAILED, State.AGENT_DOWN}


def _held_there(found: Found, node: str, seen: Seen) -> str:
    """Return what a node's report says of a profile, whether or not it counts."""
    report = seen.reports.get(node)
    if report is None:
        return f"there is no ProfileNode {node}"
    section = report.status.section(found.use.type)
    name = found.profile.metadata.name if found.profile else ""
    entry = section.profiles.get(name, "") if section else ""
    return f"ProfileNode {node} holds {name}: {entry}" if entry else f"ProfileNode {node} holds no {name}"


def _mended(reason: str, holders: Sequence[str]) -> str:
    where = f"; or keep the pod on nodes that hold it{_such(holders)}" if holders else ""
    return f"do what that says; docs/reference/reasons.md has more on {reason}{where}"


def _modules(report: ProfileNode | None) -> str:
    return ", ".join(report.status.facts.lsms) if report and report.status.facts.lsms else "unknown"


def _such(nodes: Sequence[str]) -> str:
    """Return some nodes for the end of a sentence; nothing where there are none."""
    if not nodes:
        return ""
    more = f" and {len(nodes) - NODES} more" if len(nodes) > NODES else ""
    return f": {', '.join(nodes[:NODES])}{more}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
