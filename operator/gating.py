"""Decides whether a pod may be scheduled yet, and on which nodes. Pure.

Asked by `pod_review` when a pod is created, and by the operator, which takes the gate off again. A pod waits
for a profile until that is Available: verified on one node, or targeted to none yet, for then nobody would
make the node that the pod is to run on. After that nothing closes the gate again: nodes that join are the
taint's matter.

Kubernetes' rules: pod scheduling readiness (KEP-3521), node affinity (`nodeaffinity` in component-helpers).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from typing import Any

from ..crds.declared import declares
from ..crds.facts import supports
from ..crds.models import (
    Condition,
    NodeSelector,
    ProfileNode,
    ProfileRevision,
    SecurityProfile,
)
from ..crds.names import (
    APPARMOR,
    GATED_FOR,
    LABEL_GATED,
    LABEL_LSM,
    LACKS,
    OF_OTHER_KIND,
    POD_GATE,
    PROTECTED,
    SECCOMP,
    SELINUX,
    seccomp_reference,
)
from ..crds.pods import MIRROR, Named, PodObject, named
from ..crds.reasons import Reason
from .snapshot import by_owner, parse_time

_GATED = "true"
_TERMS = "requiredDuringSchedulingIgnoredDuringExecution"
_SECCOMP_FOLDER, _, _SECCOMP_END = seccomp_reference("*").partition("*")

# Whoever may make pods may write anything there: no more digits than a generation has.
_GENERATION = re.compile(r"[0-9]{1,18}")
# A condition of a SecurityProfile is first said when it is made, or a little later where much is to be done.
_FIRST_SAID = timedelta(seconds=60)
_UNSAID = Condition(type="Available", status="Unknown", reason="", message="", observed_generation=0)
# SecurityProfiles by the type of their profiles and the name of one.
Owners = Mapping[tuple[str, str], str]


@dataclass(frozen=True)
class Known:
    """What is known of profiles as a pod is looked at.

    Attributes:
        profiles: the SecurityProfiles by name.
        owners: of the names that they define; None: who holds them by what is published.
        lacking: the types of profiles that not all nodes can hold.
        revisions: what of them is published.
        reports: what nodes told.
    """

    profiles: Mapping[str, SecurityProfile]
    owners: Owners | None = None
    lacking: frozenset[str] = frozenset()
    revisions: Mapping[str, ProfileRevision] = field(default_factory=dict[str, ProfileRevision])
    reports: Mapping[str, ProfileNode] = field(default_factory=dict[str, ProfileNode])

    def published(self, profile: SecurityProfile) -> list[ProfileRevision]:
        """Return what is published of a SecurityProfile, the newest first."""
        return self._by_owner.get(profile.metadata.uid, [])

    @cached_property
    def _by_owner(self) -> Mapping[str, list[ProfileRevision]]:
        return by_owner(self.revisions.values())

    def published_before(self, profile: SecurityProfile, since: str) -> list[ProfileRevision]:
        """Return what of a SecurityProfile was published by a time (RFC 3339) and is there still."""
        at = parse_time(since)
        return [
            one
            for one in self.published(profile)
            if (made := one.metadata.creation_timestamp) and parse_time(made) <= at
        ]

    def held(self, profile: str, kind: str) -> frozenset[str]:
        """Return the digests of what nodes hold of a SecurityProfile: looked up once."""
        if profile not in self._held:
            entries = (one.status.held(profile, kind) for one in self.reports.values())
            digests = (one.revision.removesuffix(OF_OTHER_KIND) for one in entries)
            self._held[profile] = frozenset(filter(None, digests))
        return self._held[profile]

    @cached_property
    def _held(self) -> dict[str, frozenset[str]]:
        return {}

    @cached_property
    def holders(self) -> Owners:
        """Return who holds each name: who holds one keeps it, so it is published for one at a time.

        But for a moment, while it goes from one to another.
        """
        if self.owners is not None:
            return self.owners
        return {
            (one.spec.type, name): owner
            for owner, profile in self.profiles.items()
            for one in self.published(profile)
            for text in one.spec.content.texts
            for name in text.names
        }


@dataclass(frozen=True)
class Found:
    """What the profiles that a pod names are to it.

    Attributes:
        managed: SecurityProfiles that define one of the names, by their own names.
        unknown: names that look like Hauberk's and that no SecurityProfile defines, or none any more.
        undefined: all names that no SecurityProfile defines yet, and one may.
        newer: the managed ones of which something is published that does not define the name, and no node
            is known to hold what does: each with the generation that first defines it.
    """

    managed: Mapping[str, SecurityProfile] = field(default_factory=dict[str, SecurityProfile])
    unknown: tuple[Named, ...] = ()
    undefined: tuple[Named, ...] = ()
    newer: Mapping[str, int] = field(default_factory=dict[str, int])

    @property
    def waits_for(self) -> list[str]:
        """Return the SecurityProfiles that are not Available yet, or not by the name that is meant."""
        return sorted(
            name for name, one in self.managed.items() if name in self.newer or not is_available(one)
        )

    @property
    def gated_for(self) -> list[str]:
        """Return what a pod's annotation says of that.

        With the generation that first defines the name, where the SecurityProfile is Available by an earlier
        one: who opens the gate may not have seen yet that there is a later one. And with the UID that this
        generation is of: who deletes and makes the object anew begins to count anew.
        """
        return [
            f"{name}:{self.newer[name]}:{_short(self.managed[name])}" if name in self.newer else name
            for name in self.waits_for
        ]


def find(pod: PodObject, known: Known) -> Found:
    """Return what the profiles are that a pod names, as far as its containers are known."""
    return find_named(named(pod), known)


def find_named(names: Iterable[Named], known: Known) -> Found:
    """Return what the profiles of these names are.

    A SecurityProfile that is being deleted is none any more: nodes unload it.
    """
    profiles = known.profiles
    managed: dict[str, SecurityProfile] = {}
    unknown: list[Named] = []
    undefined: list[Named] = []
    newer: dict[str, int] = {}
    for one in names:
        owner = _owner(one, profiles, known.holders)
        if owner and owner.metadata.deletion_timestamp is None:
            managed[(name := owner.metadata.name)] = owner
            if not _is_by_name(one, owner, known):
                newer[name] = max(newer.get(name, 0), _first_defined(one, owner, known))
        elif owner or _looks_like_ours(one) or namesake(one, profiles):
            unknown.append(one)
        elif one.type == APPARMOR and one.name not in PROTECTED:
            undefined.append(one)
        if owner is None and _looks_like_ours(one):
            undefined.append(one)
    return Found(managed, tuple(unknown), tuple(undefined), newer)


def _is_by_name(one: Named, profile: SecurityProfile, known: Known) -> bool:
    """Return whether a SecurityProfile, if it is Available, is so for this one of its names.

    While a revision goes out it is Available by an older one, which may not define all names of the new one.
    """
    available = is_available(profile)
    if one.type == SECCOMP or (available and _said(profile).reason == Reason.NO_NODES):
        return True
    revisions = known.published(profile)
    defining = {each.spec.content.digest for each in revisions if _defines(each, one)}
    if len(defining) == len(revisions):  # as nearly always: whichever it is, or will be
        return True
    return available and not defining.isdisjoint(known.held(profile.metadata.name, profile.spec.type))


def _first_defined(one: Named, profile: SecurityProfile, known: Known) -> int:
    """Return the generation by which a name is defined, which may not be published yet."""
    defining = (each.spec.placement.sequence for each in known.published(profile) if _defines(each, one))
    return min(defining, default=profile.metadata.generation)


def _defines(revision: ProfileRevision, one: Named) -> bool:
    return any(one.name in text.names for text in revision.spec.content.texts)


def _short(profile: SecurityProfile) -> str:
    return profile.metadata.uid[:8]


def namesake(one: Named, profiles: Mapping[str, SecurityProfile]) -> SecurityProfile | None:
    """Return the SecurityProfile that is called like a name, and defines others."""
    there = profiles.get(_usual(one))
    return there if there and there.spec.type == one.type and one.name not in there.status.profiles else None


def _owner(one: Named, profiles: Mapping[str, SecurityProfile], owners: Owners) -> SecurityProfile | None:
    """Return the SecurityProfile that defines a name, or will, once its text is judged."""
    if one.type == SECCOMP:
        name = one.name.removeprefix(_SECCOMP_FOLDER).removesuffix(_SECCOMP_END)
        found = profiles.get(name) if seccomp_reference(name) == one.name else None
        return found if found and found.spec.type == SECCOMP else None
    if owner := profiles.get(owners.get((one.type, one.name), "")):
        return owner
    # Applied together with the pod it may not be judged yet.
    usual = profiles.get(_usual(one))
    if usual and usual.spec.type == one.type and not _is_out(usual):
        return usual
    return next((profile for profile in profiles.values() if _may_define(profile, one)), None)


def _usual(one: Named) -> str:
    """Return the SecurityProfile that a name is of by custom."""
    return one.name.removesuffix(".process") if one.type == SELINUX else one.name


def _may_define(profile: SecurityProfile, one: Named) -> bool:
    """Return whether a profile defines a name, as far as its text tells before it is published."""
    return profile.spec.type == one.type and not _is_out(profile) and declares(profile, one.name)


def _is_out(profile: SecurityProfile) -> bool:
    """Return whether all that a profile defines is published, so that `status.profiles` has every name.

    Who knows no texts, as the operator, asks of pods that are there: what they were gated for is noted.
    """
    status, spec = profile.status, profile.spec
    return bool(status.profiles) and (not spec.policy or status.revision == spec.content_digest)


def _looks_like_ours(one: Named) -> bool:
    """Return whether only Hauberk would give such a name.

    Types of a distribution's policy have no dot: those of CIL's blocks do, and a SecurityProfile has nothing
    else. An AppArmor profile may be the node's own under any name.
    """
    if one.type == SECCOMP:
        return one.name.startswith(_SECCOMP_FOLDER)
    return one.type == SELINUX and "." in one.name


def is_available(profile: SecurityProfile) -> bool:
    """Return whether pods may be scheduled that name it."""
    return _said(profile).status == "True"


def _said(profile: SecurityProfile) -> Condition:
    """Return the condition Available; one that says nothing where there is none yet."""
    return next((one for one in profile.status.conditions if one.type == "Available"), _UNSAID)


def was_available(profile: SecurityProfile, known: Known, since: str) -> bool:
    """Return whether a SecurityProfile that is not Available was so at a time (RFC 3339), as far as is known.

    It was not before anything of it was published; and of one that has just been made it is said a moment
    later that it is not.
    """
    said = _said(profile)
    if said.status != "False" or not since or not said.last_transition_time:
        return False
    lost, made = parse_time(said.last_transition_time), parse_time(profile.metadata.creation_timestamp)
    out = known.published_before(profile, since)
    return bool(out) and lost > parse_time(since) and lost - made > _FIRST_SAID


def is_gated(pod: PodObject) -> bool:
    """Return whether a pod has Hauberk's gate."""
    return any(one.name == POD_GATE for one in pod.spec.scheduling_gates or ())


def is_mirror(pod: PodObject) -> bool:
    """Return whether a pod only shows what a kubelet runs by itself."""
    return MIRROR in pod.metadata.annotations


def is_of_no_concern(pod: PodObject) -> bool:
    """Return whether nobody schedules a pod: it has its node already, as static pods have theirs."""
    return bool(pod.spec.node_name) or is_mirror(pod)


def awaited(pod: PodObject, known: Known) -> list[str]:
    """Return the SecurityProfiles that a gated pod still waits for; none: its gate may be opened.

    What it was gated for counts even where nobody knows by now which names that has, or where it is gone: the
    pod could not start without it.
    """
    names = {*find(pod, known).waits_for}
    for name, (generation, of) in gated_for(pod).items():
        one = known.profiles.get(name)
        if one is None or one.metadata.deletion_timestamp is not None or not is_available(one):
            names.add(name)
        elif of == _short(one):
            there = known.published(one)
            if not there or there[0].spec.placement.sequence < generation:
                names.add(name)
    return sorted(names)


def gated_for(pod: PodObject) -> dict[str, tuple[int, str]]:
    """Return what a pod waits for by its annotation, which `Found.gated_for` wrote: by SecurityProfile.

    With a generation, and the beginning of the UID of the object that it is of; 0 and empty: of any.
    """
    found: dict[str, tuple[int, str]] = {}
    for entry in filter(None, pod.metadata.annotations.get(GATED_FOR, "").split(",")):
        name, *more = entry.split(":")
        is_given = len(more) == 2 and _GENERATION.fullmatch(more[0])
        found[name] = (int(more[0]), more[1]) if is_given else (0, "")
    return found


def cause(name: str, profiles: Mapping[str, SecurityProfile]) -> tuple[str, str]:
    """Return why a SecurityProfile is not Available: a reason, and the same in words."""
    profile = profiles.get(name)
    if profile is None:
        return "Deleted", f"{name}: there is no such SecurityProfile any more"
    if profile.metadata.deletion_timestamp is not None:
        return "Terminating", f"{name}: it is being deleted"
    by = {one.type: one for one in profile.status.conditions}
    # what is said of the nodes together tells more than that none of them holds it
    said = by.get("Ready") or by.get("Available")
    if said is None or said.observed_generation != profile.metadata.generation:
        return "Updating", f"{name}: nobody has looked at it yet"
    return said.reason, f"{name}: {said.reason}: {said.message}"


# --- where it may run ---------------------------------------------------------------------------------------


def lacking(reports: Iterable[ProfileNode]) -> frozenset[str]:
    """Return the types of profiles that some node's kernel can't hold."""
    facts = {id(one.status.facts): one.status.facts for one in reports}  # nodes that are alike share theirs
    known = [one for one in facts.values() if one.lsms]
    return frozenset(kind for kind in LABEL_LSM if not all(supports(one, kind) for one in known))


def requirements(profiles: Iterable[SecurityProfile], lacking: frozenset[str]) -> list[dict[str, Any]]:
    """Return what a node's labels must be for it to hold all of these profiles: NodeSelectorRequirements.

    `lacking` are the types that not all nodes can hold; of the others nothing is asked. A node that nobody
    has looked at yet has no label of them, and has to be made for a pod that waits for it: so only those that
    are known to lack a module are left out.
    """
    found: list[dict[str, Any]] = []
    for profile in sorted(profiles, key=lambda one: one.metadata.name):
        found += _selected(profile.spec.node_selector)
        if profile.spec.type in lacking:
            found.append({"key": LABEL_LSM[profile.spec.type], "operator": "NotIn", "values": [LACKS]})
    unique: list[dict[str, Any]] = []
    for one in found:
        if one not in unique:
            unique.append(one)
    return unique


def _selected(selector: NodeSelector) -> list[dict[str, Any]]:
    """Return a label selector as requirements of a node selector, which has the same operators."""
    labels = sorted(selector.match_labels.items())
    found: list[dict[str, Any]] = [{"key": key, "operator": "In", "values": [value]} for key, value in labels]
    for one in selector.match_expressions:
        values = {"values": list(one.values)} if one.values else {}
        found.append({"key": one.key, "operator": one.operator, **values})
    return found


def narrowed(affinity: Mapping[str, Any] | None, wanted: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a pod's affinity with requirements that each of its alternatives has to meet.

    The terms of a node selector are alternatives; a term with nothing in it matches no node, and stays so.
    """
    whole = dict(affinity or {})
    nodes = dict(whole.get("nodeAffinity") or {})
    required = dict(nodes.get(_TERMS) or {})
    before: list[Mapping[str, Any]] = required.get("nodeSelectorTerms") or []
    required["nodeSelectorTerms"] = (
        [_met(term, wanted) for term in before] if before else [{"matchExpressions": [*wanted]}]
    )
    return {**whole, "nodeAffinity": {**nodes, _TERMS: required}}


def _met(term: Mapping[str, Any], wanted: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    there: list[Mapping[str, Any]] = term.get("matchExpressions") or []
    if not there and not term.get("matchFields"):
        return dict(term)
    return {**term, "matchExpressions": [*there, *(one for one in wanted if one not in there)]}


# --- what is changed ----------------------------------------------------------------------------------------


def patch(
    pod: Mapping[str, Any], *, waits_for: Sequence[str] = (), wanted: Sequence[Mapping[str, Any]] = ()
) -> list[dict[str, Any]]:
    """Return the JSON patch (RFC 6902) that gates a pod, and keeps it to nodes that hold its profiles.

    Empty where the pod is so already: the API server may ask again, after other webhooks.
    """
    changes: list[dict[str, Any]] = []
    spec: Mapping[str, Any] = pod.get("spec") or {}
    metadata: Mapping[str, Any] = pod.get("metadata") or {}
    if waits_for:
        gates: list[Mapping[str, Any]] = spec.get("schedulingGates") or []
        if not any(one.get("name") == POD_GATE for one in gates):
            changes.append(_set("/spec/schedulingGates", [*gates, {"name": POD_GATE}]))
        for kind, key, value in (
            ("labels", LABEL_GATED, _GATED),
            ("annotations", GATED_FOR, ",".join(waits_for)),
        ):
            there: Mapping[str, str] = metadata.get(kind) or {}
            if there.get(key) != value:
                changes.append(_set(f"/metadata/{kind}", {**there, key: value}))
    if wanted:
        before = spec.get("affinity")
        after = narrowed(before, wanted)
        if after != before:
            changes.append(_set("/spec/affinity", after))
    return changes


def _set(path: str, value: Any) -> dict[str, Any]:
    return {"op": "add", "path": path, "value": value}  # "add" replaces what is there


def opening(uid: str) -> dict[str, Any]:
    """Return the strategic merge patch that takes gate and label off the pod of this UID.

    By the gate's name, whatever else is in the list by then; for a pod of another UID it is refused.
    What it was gated for stays to be read.
    """
    return {
        "metadata": {"uid": uid, "labels": {LABEL_GATED: None}},
        "spec": {"schedulingGates": [{"$patch": "delete", "name": POD_GATE}]},
    }
