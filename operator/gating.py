"""Decides whether a pod may be scheduled yet, and on which nodes. Pure.

Asked by `pod_review` when a pod is created, and by the operator, which takes the gate off again. A pod waits
for a profile until that is Available: verified on one node, or targeted to none yet, for then nobody would
make the node that the pod is to run on. After that nothing closes the gate again: nodes that join are the
taint's matter.

Kubernetes' rules: pod scheduling readiness (KEP-3521), node affinity (`nodeaffinity` in component-helpers).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..crds.declared import declares
from ..crds.facts import supports
from ..crds.models import NodeSelector, ProfileNode, ProfileRevision, SecurityProfile
from ..crds.names import (
    APPARMOR,
    GATED_FOR,
    LABEL_GATED,
    LABEL_LSM,
    LACKS,
    POD_GATE,
    PROTECTED,
    SECCOMP,
    SELINUX,
    seccomp_reference,
)
from ..crds.pods import MIRROR, Named, PodObject, named

_GATED = "true"
_TERMS = "requiredDuringSchedulingIgnoredDuringExecution"
_SECCOMP_FOLDER, _, _SECCOMP_END = seccomp_reference("*").partition("*")

# SecurityProfiles by the type of their profiles and the name of one.
Owners = Mapping[tuple[str, str], str]


@dataclass(frozen=True)
class Found:
    """What the profiles that a pod names are to it.

    Attributes:
        managed: SecurityProfiles that define one of the names, by their own names.
        unknown: names that look like Hauberk's and that no SecurityProfile defines, or none any more.
        undefined: all names that no SecurityProfile defines yet, and one may.
    """

    managed: Mapping[str, SecurityProfile] = field(default_factory=dict[str, SecurityProfile])
    unknown: tuple[Named, ...] = ()
    undefined: tuple[Named, ...] = ()

    @property
    def waits_for(self) -> list[str]:
        """Return the SecurityProfiles that are not Available yet."""
        return sorted(name for name, one in self.managed.items() if not is_available(one))


def find(pod: PodObject, profiles: Mapping[str, SecurityProfile], owners: Owners) -> Found:
    """Return what the profiles are that a pod names, as far as its containers are known."""
    return find_named(named(pod), profiles, owners)


def find_named(names: Iterable[Named], profiles: Mapping[str, SecurityProfile], owners: Owners) -> Found:
    """Return what the profiles of these names are.

    A SecurityProfile that is being deleted is none any more: nodes unload it.
    """
    managed: dict[str, SecurityProfile] = {}
    unknown: list[Named] = []
    undefined: list[Named] = []
    for one in names:
        owner = _owner(one, profiles, owners)
        if owner and owner.metadata.deletion_timestamp is None:
            managed[owner.metadata.name] = owner
        elif owner or _looks_like_ours(one) or namesake(one, profiles):
            unknown.append(one)
        elif one.type == APPARMOR and one.name not in PROTECTED:
            undefined.append(one)
        if owner is None and _looks_like_ours(one):
            undefined.append(one)
    return Found(managed, tuple(unknown), tuple(undefined))


def namesake(one: Named, profiles: Mapping[str, SecurityProfile]) -> SecurityProfile | None:
    """Return the SecurityProfile that is called like a name, and defines others."""
    there = profiles.get(_usual(one))
    return there if there and there.spec.type == one.type and one.name not in there.status.profiles else None


def holders(
    profiles: Mapping[str, SecurityProfile], revisions: Mapping[str, ProfileRevision]
) -> dict[tuple[str, str], str]:
    """Return the SecurityProfiles that hold names, by what of them is published.

    Who holds a name keeps it, so it is published for one at a time, but for a moment.
    """
    found: dict[tuple[str, str], str] = {}
    for revision in revisions.values():
        spec = revision.spec
        owner = profiles.get(spec.profile)
        if owner is not None and owner.metadata.uid == spec.profile_uid:
            for text in spec.content.texts:
                found.update(((spec.type, name), spec.profile) for name in text.names)
    return found


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
    return any(one.type == "Available" and one.status == "True" for one in profile.status.conditions)


def is_gated(pod: PodObject) -> bool:
    """Return whether a pod has Hauberk's gate."""
    return any(one.name == POD_GATE for one in pod.spec.scheduling_gates or ())


def is_mirror(pod: PodObject) -> bool:
    """Return whether a pod only shows what a kubelet runs by itself."""
    return MIRROR in pod.metadata.annotations


def is_of_no_concern(pod: PodObject) -> bool:
    """Return whether nobody schedules a pod: it has its node already, as static pods have theirs."""
    return bool(pod.spec.node_name) or is_mirror(pod)


def awaited(pod: PodObject, profiles: Mapping[str, SecurityProfile], owners: Owners) -> list[str]:
    """Return the SecurityProfiles that a gated pod still waits for; none: its gate may be opened.

    What it was gated for counts even where nobody knows by now which names that has, or where it is gone: the
    pod could not start without it.
    """
    names = {*find(pod, profiles, owners).waits_for}
    for name in filter(None, pod.metadata.annotations.get(GATED_FOR, "").split(",")):
        one = profiles.get(name)
        if one is None or one.metadata.deletion_timestamp is not None or not is_available(one):
            names.add(name)
    return sorted(names)


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
