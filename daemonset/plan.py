"""Decides what to do on this node. Pure: a snapshot in, steps out, with a reason for every "no".

Called by `reconciler` whenever a revision, the node's labels or what is loaded changed; a backend carries its
steps out. It is the same for every type of profile. Planning again after any of them gives the rest, so a
crash between two steps heals itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from ..crds.models import Problem, ProfileRevision, RevisionSpec, Text
from ..crds.names import ANY_FACTS, CONTRACT, SECCOMP, selinux_module, top_level
from ..crds.reasons import Reason
from .holdings import Holding
from .host import Loaded


class Key(NamedTuple):
    """What identifies a step, so that one that failed is not tried again before something changed."""

    kind: str
    profile: str
    revision: str


@dataclass(frozen=True)
class Load:
    """Compile, load and read back a text.

    Attributes:
        profile: name of the SecurityProfile.
        uid: its UID.
        revision: the content's digest.
        mode: Enforce, Complain or Permissive.
        text: the policy.
        installation: which store of SecurityProfiles the revision is from.
        allow_attachment: the text may attach to programs of the host.
        adopt: what the host owns under its names may be taken over.
        drift: what someone else did to the recorded profile in this boot; empty for another reason to load.
        allow_host_types: its SELinux module may speak of types that it does not declare.
        requires: profiles that its SELinux module needs.
    """

    profile: str
    uid: str
    revision: str
    mode: str
    text: str
    installation: str = ""
    allow_attachment: bool = False
    adopt: bool = False
    drift: str = ""
    allow_host_types: bool = False
    requires: tuple[str, ...] = ()

    @property
    def key(self) -> Key:
        """Return what identifies this step."""
        return Key("load", self.profile, self.revision)

    def holding(
        self, profile_type: str, modes: dict[str, str], digests: list[str], *, boots: bool = False
    ) -> Holding:
        """Return what is held once this is loaded, but for the boot that it is loaded in."""
        return Holding(
            profile=self.profile,
            uid=self.uid,
            revision=self.revision,
            mode=self.mode,
            text=self.text,
            modes=modes,
            digests=digests,
            boot_id="",
            boots=boots,
            installation=self.installation,
            allow_attachment=self.allow_attachment,
            type=profile_type,
            requires=list(self.requires),
            allow_host_types=self.allow_host_types,
        )


@dataclass(frozen=True)
class Prune:
    """Remove kernel names that a replaced text defined and the loaded one does not, and forget them."""

    holding: Holding
    names: tuple[str, ...]

    @property
    def key(self) -> Key:
        """Return what identifies this step."""
        return Key("prune", self.holding.profile, self.holding.revision)


@dataclass(frozen=True)
class Persist:
    """Record a loaded profile on the node's disk, and write it to where the node's own boot loads it."""

    holding: Holding

    @property
    def key(self) -> Key:
        """Return what identifies this step."""
        return Key("persist", self.holding.profile, self.holding.revision)


@dataclass(frozen=True)
class Remove:
    """Unload a profile, unless a task is confined by it, and forget it."""

    holding: Holding

    @property
    def key(self) -> Key:
        """Return what identifies this step."""
        return Key("remove", self.holding.profile, self.holding.revision)


@dataclass(frozen=True)
class Release:
    """Put a permissive profile in the place of one that may go although tasks are confined by it."""

    holding: Holding

    @property
    def key(self) -> Key:
        """Return what identifies this step."""
        return Key("release", self.holding.profile, self.holding.revision)


Step = Load | Prune | Persist | Remove | Release


@dataclass(frozen=True)
class Snapshot:
    """What the decision rests on.

    Attributes:
        revisions: every ProfileRevision of the backend's type.
        labels: of this node.
        kind: of this node, as a revision's texts name the kinds that they are for (`facts_key`).
        holdings: what the agent recorded, by profile.
        kernel: what the kernel holds, by name.
        boot_id: of this boot.
        boot_files: revision written to where the node's own boot loads it, by profile.
        unrecorded: profiles whose holding is newer than its record on the disk.
        refused: problems that steps met, by their keys: not tried again as long as they are here.
    """

    revisions: tuple[ProfileRevision, ...]
    labels: Mapping[str, str]
    holdings: Mapping[str, Holding]
    kernel: Mapping[str, Loaded]
    boot_id: str
    boot_files: Mapping[str, str] = field(default_factory=dict[str, str])
    unrecorded: frozenset[str] = frozenset()
    refused: Mapping[Key, Problem] = field(default_factory=dict[Key, Problem])
    kind: str = ANY_FACTS

    @cached_property
    def by_profile(self) -> dict[str, list[ProfileRevision]]:
        """Return each profile's revisions, the wanted one first."""
        found: dict[str, list[ProfileRevision]] = {}
        for revision in self.revisions:
            found.setdefault(revision.spec.profile, []).append(revision)
        for several in found.values():
            if len(several) > 1:
                several.sort(key=lambda revision: revision.spec.placement.sequence, reverse=True)
        return found

    @cached_property
    def profiles(self) -> set[str]:
        """Return every profile that is wanted or held."""
        return self.by_profile.keys() | self.holdings.keys()

    @cached_property
    def claimed(self) -> frozenset[str]:
        """Return the names that the holdings' texts define."""
        return _claimed(self.holdings)

    @cached_property
    def children(self) -> Mapping[str, Sequence[str]]:
        """Return the kernel's child profiles by the name that stands before the first `//`."""
        return _children(self.kernel)


@dataclass(frozen=True)
class Plan:
    """What is to be done, and what there is to tell.

    Attributes:
        steps: to take, in this order.
        problems: that no step can mend, by profile.
        orphans: profiles that are held without a revision.
        of_other_kind: profiles held with a text that their revision has for other kinds of nodes.
    """

    steps: tuple[Step, ...]
    problems: Mapping[str, Problem]
    orphans: frozenset[str] = frozenset()
    of_other_kind: frozenset[str] = frozenset()


def plan(snapshot: Snapshot, at_rest: Collection[str] = ()) -> Plan:
    """Return the steps that bring the kernel from what it holds to what the revisions want.

    `at_rest` are profiles of which it is known that there is nothing to do or to tell.
    """
    steps: list[Step] = []
    problems: dict[str, Problem] = {}
    orphans: set[str] = set()
    other: set[str] = set()
    for profile in sorted(snapshot.profiles.difference(at_rest)):
        revisions, holding = snapshot.by_profile.get(profile, []), snapshot.holdings.get(profile)
        step, problem = _one(profile, revisions, snapshot)
        if step and step.key in snapshot.refused:
            problem = problem or snapshot.refused[step.key]
        elif step:
            steps.append(step)
        if problem:
            problems[profile] = problem
        if holding and _orphan(holding, revisions):
            orphans.add(profile)
        if holding and _of_other_kind(holding, revisions, snapshot):
            other.add(profile)
    steps.sort(key=lambda step: _ORDER[type(step)])
    return Plan(tuple(steps), problems, frozenset(orphans), frozenset(other))


# What goes away goes first: a profile may take over a name that another gives up. The disk comes last: what
# the kernel holds does not wait for it.
_ORDER: dict[type[Step], int] = {Remove: 0, Release: 1, Prune: 2, Load: 3, Persist: 4}


def _withdrawn(revisions: Iterable[ProfileRevision]) -> dict[str, bool]:
    """Return the UIDs of SecurityProfiles that are deleted, each with whether by force.

    One withdrawn revision speaks for all of its SecurityProfile: they are withdrawn one after the other.
    """
    found: dict[str, bool] = {}
    for revision in revisions:
        if revision.spec.placement.withdrawn:
            uid = revision.spec.profile_uid
            found[uid] = found.get(uid, False) or revision.spec.placement.force
    return found


def _orphan(holding: Holding, revisions: list[ProfileRevision]) -> bool:
    """Return whether no revision says what is to become of a profile that is held."""
    gone = _withdrawn(revisions)
    told = holding.uid in gone or any(one.spec.profile_uid not in gone for one in revisions)
    return not told and not holding.released


def _of_other_kind(holding: Holding, revisions: list[ProfileRevision], snapshot: Snapshot) -> bool:
    """Return whether a held text is not the one that its revision has for this kind of node.

    So it is for a moment after the node changed: a new kernel, a new release of its distribution.
    """
    for one in revisions:
        if (one.spec.content.digest, one.spec.profile_uid) == (holding.revision, holding.uid):
            text = text_for(one, snapshot.kind)
            return text is None or text.text != holding.text
    return False


def _one(
    profile: str, revisions: list[ProfileRevision], snapshot: Snapshot
) -> tuple[Step | None, Problem | None]:
    holding = snapshot.holdings.get(profile)
    gone = _withdrawn(revisions)
    live = [one for one in revisions if one.spec.profile_uid not in gone]
    if live:
        return _wanted(profile, live, holding, snapshot)
    if holding is None:
        return None, None
    if holding.released or holding.uid in gone:
        return _going(holding, snapshot, force=gone.get(holding.uid, False))
    # Absence is not deletion: what is loaded stays, and stays repaired, until someone says otherwise.
    return _repair(holding, snapshot), None


def _going(
    holding: Holding, snapshot: Snapshot, *, force: bool = False
) -> tuple[Step | None, Problem | None]:
    """Return the step that takes a profile away; what others here are made of stays as long as they do."""
    record = Persist(holding)
    if holding.released and holding.profile in snapshot.unrecorded and record.key not in snapshot.refused:
        return record, None  # else a restart would find what was released, and confine its tasks again
    if needing := _needing(holding, snapshot):
        message = f"SecurityProfile {needing[0]} requires it, and is loaded here"
        return None, Problem(revision=holding.revision, reason=Reason.IN_USE, message=message)
    step = Remove(holding)
    met = snapshot.refused.get(step.key)
    in_use = met is not None and met.reason == Reason.IN_USE
    return (Release(holding) if force and in_use and not holding.released else step), None


def _needing(holding: Holding, snapshot: Snapshot) -> list[str]:
    """Return the profiles that have to go before one that they require.

    Profiles that require each other go as one, if all of them are to go: none ever would before the others.
    """
    holdings, gone = snapshot.holdings, _withdrawn(snapshot.revisions)
    circle = {
        name
        for name in _made_of(holding, holdings) & holdings.keys()
        if holding.profile in _made_of(holdings[name], holdings)
    }
    together = {holding.profile}
    if all(holdings[name].uid in gone for name in circle):
        together |= circle
    return sorted(
        name
        for name, one in holdings.items()
        if name not in together and not together.isdisjoint(one.requires)
    )


def _made_of(holding: Holding, holdings: Mapping[str, Holding]) -> set[str]:
    """Return the profiles that one requires, with those that these require."""
    found: set[str] = set()
    waiting = list(holding.requires)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += holdings[name].requires if name in holdings else []
    return found


def _wanted(
    profile: str, revisions: list[ProfileRevision], holding: Holding | None, snapshot: Snapshot
) -> tuple[Step | None, Problem | None]:
    newest = revisions[0].spec
    if newest.contract > CONTRACT:
        problem = _problem(
            revisions[0],
            Reason.AWAITING_RENDER,
            f"the revision has contract {newest.contract} and this agent knows {CONTRACT}; update the agent",
        )
        return (_kept(holding, snapshot) if holding else None), problem
    placement = newest.placement
    if not placement.node_selector.matches(dict(snapshot.labels)):
        return _going(holding, snapshot) if holding else (None, None)
    if holding and _lacks_leave(holding, newest):
        return _going(holding, snapshot)
    if placement.suspend and holding and not holding.released:
        return _repair(holding, snapshot), None
    return _newest_that_works(profile, revisions, holding, snapshot)


def _lacks_leave(holding: Holding, wanted: RevisionSpec) -> bool:
    """Return whether what is held has power over the host that nobody gave to the one who wants it now.

    What was adopted is given back as soon as it may not be held. Host programs that an attachment confined
    keep the name: the next SecurityProfile of that name must not get them with it.
    """
    if holding.adopted and not wanted.placement.adopt:
        return True
    another = holding.uid != wanted.profile_uid
    return holding.allow_attachment and another and not wanted.content.allow_attachment


def _newest_that_works(
    profile: str, revisions: list[ProfileRevision], holding: Holding | None, snapshot: Snapshot
) -> tuple[Step | None, Problem | None]:
    """Return the step towards the wanted revision; where this node refuses it, the last good one stays."""
    problem: Problem | None = None
    good = holding if holding and not holding.released else None
    for revision in revisions:
        digest = revision.spec.content.digest
        text = text_for(revision, snapshot.kind)
        refusal = snapshot.refused.get(Key("load", profile, digest)) or _waiting(revision, snapshot)
        if text is None:
            refusal = _unrendered(revision, snapshot.kind)
        if text is None or refusal:
            problem = problem or refusal
            if good:
                return _repair(good, snapshot), problem
            continue
        held = (good.revision, good.uid, good.installation, good.text) if good else None
        if good and held == (digest, revision.spec.profile_uid, revision.spec.installation, text.text):
            return _repair(good, snapshot), problem
        return _load(revision, text.text, adopt=revisions[0].spec.placement.adopt), problem
    return (_going(holding, snapshot)[0] if holding else None), problem


def _waiting(revision: ProfileRevision, snapshot: Snapshot) -> Problem | None:
    """Return what a revision waits for: profiles that it is made of and that are not loaded here."""
    missing = [
        name
        for name in revision.spec.content.requires
        if name not in snapshot.holdings or snapshot.holdings[name].released
    ]
    if not missing:
        return None
    return _problem(
        revision, Reason.AWAITING_REQUIRED, f"SecurityProfile {missing[0]} is not loaded here yet"
    )


def _load(revision: ProfileRevision, text: str, *, adopt: bool) -> Load:
    spec = revision.spec
    return Load(
        profile=spec.profile,
        uid=spec.profile_uid,
        revision=spec.content.digest,
        mode=spec.content.mode,
        text=text,
        installation=spec.installation,
        allow_attachment=spec.content.allow_attachment,
        adopt=adopt,
        allow_host_types=spec.content.allow_host_types,
        requires=tuple(spec.content.requires),
    )


def text_for(revision: ProfileRevision, kind: str) -> Text | None:
    """Return the text that a revision has for a kind of node; None: none yet, or none at all."""
    texts = revision.spec.content.texts
    fitting = (one for wanted in (kind, ANY_FACTS) for one in texts if wanted in one.facts)
    return next(fitting, None)


def _unrendered(revision: ProfileRevision, kind: str) -> Problem:
    for one in revision.spec.unrendered:
        if kind in one.facts:
            return Problem(revision=revision.spec.content.digest, reason=one.reason, message=one.message)
    return _problem(
        revision, Reason.AWAITING_RENDER, "the template is still to be rendered for this kind of node"
    )


def _problem(revision: ProfileRevision, reason: Reason, message: str) -> Problem:
    return Problem(revision=revision.spec.content.digest, reason=reason, message=message)


def _kept(holding: Holding, snapshot: Snapshot) -> Step | None:
    """Return the step for what is held and not to be changed now; what was released goes all the same."""
    return _going(holding, snapshot)[0] if holding.released else _repair(holding, snapshot)


def _repair(holding: Holding, snapshot: Snapshot) -> Step | None:
    """Return the step that makes kernel and disk hold a recorded profile exactly; None where they do."""
    if wrong := mismatch(holding, snapshot.kernel, snapshot.boot_id):
        return Load(
            profile=holding.profile,
            uid=holding.uid,
            revision=holding.revision,
            mode=holding.mode,
            text=holding.text,
            installation=holding.installation,
            allow_attachment=holding.allow_attachment,
            allow_host_types=holding.allow_host_types,
            requires=tuple(holding.requires),
            drift=wrong if holding.boot_id == snapshot.boot_id else "",
        )
    stale = _stale(holding, snapshot.claimed, snapshot.children, snapshot.kernel)
    # Also where no name is left: what the host loads under one later must not be taken for it.
    prune = Prune(holding, stale) if stale or holding.former else None
    if prune and prune.key not in snapshot.refused:
        return prune
    # A name that can't go yet, for a task has it, does not keep what is loaded from the disk.
    written = snapshot.boot_files.get(holding.profile) == holding.revision
    if holding.profile in snapshot.unrecorded or (holding.boots and not written):
        return Persist(holding)
    return prune


def mismatch(holding: Holding, kernel: Mapping[str, Loaded], boot_id: str) -> str:
    """Return how the kernel differs from a recorded profile, empty where it holds it exactly.

    Names, modes, and, where there is one, the hash of the policy as it was loaded. A kernel that
    gives no hash can't tell our policy from what its own boot loaded: there, only a load in this boot counts.
    """
    keeper = "the kubelet's folder" if holding.type == SECCOMP else "the kernel"
    for name, mode in holding.modes.items():
        loaded = kernel.get(name)
        if loaded is None:
            return f"{keeper} does not hold {name}"
        if loaded.mode != mode:
            return f"{keeper} holds {name} in mode {loaded.mode} instead of {mode}"
        if loaded.digest == "":
            return f"the kernel holds {name}, and the node's store lacks {_module(holding)}"
        if loaded.digest is not None and loaded.digest not in holding.digests:
            return f"{keeper} holds another policy under the name {name}"
        if loaded.digest is None and holding.boot_id != boot_id:
            return f"{name} was not loaded by this agent since the node booted"
    return ""


def _module(holding: Holding) -> str:
    return f"the module {selinux_module(holding.profile)}"


def stale_names(
    holding: Holding, holdings: Mapping[str, Holding], kernel: Mapping[str, Loaded]
) -> tuple[str, ...]:
    """Return the kernel names that a profile's earlier text left behind and nobody else claims.

    Names that the text gave up, and children of those it kept: replacing a parent inherits its children.
    """
    return _stale(holding, _claimed(holdings), _children(kernel), kernel)


def _stale(
    holding: Holding,
    claimed: frozenset[str],
    children: Mapping[str, Sequence[str]],
    kernel: Mapping[str, Loaded],
) -> tuple[str, ...]:
    left = [child for name in holding.modes for child in children.get(name, ())]
    left += [name for name in holding.former if name in kernel]
    return tuple(sorted({name for name in left if name not in claimed and name not in holding.modes}))


def _claimed(holdings: Mapping[str, Holding]) -> frozenset[str]:
    """Return the names that the holdings' texts define."""
    return frozenset(name for one in holdings.values() for name in one.modes)


def _children(kernel: Mapping[str, Loaded]) -> dict[str, list[str]]:
    """Return the kernel's child profiles by the name that stands before the first `//`."""
    found: dict[str, list[str]] = {}
    for name in kernel:
        if "//" in name:
            found.setdefault(top_level(name), []).append(name)
    return found


def foreign_names(
    profile: str, wanted: Holding, holdings: Mapping[str, Holding], kernel: Mapping[str, Loaded]
) -> dict[str, str]:
    """Return the names that `wanted` may not replace, each with its owner (empty: the host).

    A name in the kernel that no record claims is the host's, unless it is byte for byte the policy that
    would be loaded: then a record was lost (a crash after the load) and nothing is replaced.
    """
    owners = {name: one.profile for one in holdings.values() for name in (*one.former, *one.modes)}
    foreign: dict[str, str] = {}
    for name in wanted.modes:
        owner = owners.get(name)
        if owner == profile or (owner is None and name not in kernel):
            continue
        if owner is None and kernel[name].digest in wanted.digests:
            continue
        foreign[name] = owner or ""
    return foreign
