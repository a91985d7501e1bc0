"""Answers what becomes of a new pod: it waits, it is kept to some nodes, or it goes on. Pure.

Called by `webhook`, for pods of namespaces that ask for it. Whether what looks like Hauberk's and is unknown
is refused is the namespace's to say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..crds.models import SecurityProfile
from ..crds.names import APPARMOR, SECCOMP, SELINUX
from ..crds.pods import Named, PodObject, named
from . import gating
from .answers import cut
from .gating import Known

_KINDS = {APPARMOR: "AppArmor profile", SECCOMP: "seccomp profile", SELINUX: "SELinux type"}


@dataclass(frozen=True)
class PodAnswer:
    """What is said of a pod, and what is changed of it.

    Attributes:
        refused: why it may not be created, in one sentence; empty where it may.
        warnings: what its author should know all the same.
        patch: a JSON patch.
    """

    refused: str = ""
    warnings: tuple[str, ...] = ()
    patch: tuple[dict[str, Any], ...] = ()


def review_pod(raw: Mapping[str, Any], pod: PodObject, known: Known, *, deny_unknown: bool) -> PodAnswer:
    """Return what to say of a pod and to change of it; `raw` is the object that `pod` was read from."""
    if gating.is_of_no_concern(pod):
        return PodAnswer()
    found = gating.find(pod, known)
    wanted = gating.requirements(found.managed.values(), known.lacking)
    changes = gating.patch(raw, waits_for=found.gated_for, wanted=wanted)
    said = _said(found, known, "the pod is not scheduled before a node holds", deny_unknown=deny_unknown)
    return said if said.refused else replace(said, patch=tuple(changes))


def may_be_early(pod: PodObject, known: Known) -> bool:
    """Return whether a pod names a profile that nobody defines, and that may come with it.

    Helm and kustomize put Deployments before kinds that they don't know, so pods are made a moment earlier
    than their SecurityProfiles.
    """
    if gating.is_of_no_concern(pod):
        return False
    return bool(gating.find(pod, known).undefined)


def review_ephemeral(before: PodObject, pod: PodObject, known: Known, *, deny_unknown: bool) -> PodAnswer:
    """Return what to say of the ephemeral containers that a pod is to get; it has its node, and keeps it."""
    there = {one.name for one in before.spec.ephemeral_containers or ()}
    new = {one.name for one in pod.spec.ephemeral_containers or ()} - there
    names = [one for one in named(pod) if one.container in new]
    found = gating.find_named(names, known)
    # it has its node, and waits for nothing: its kubelet tries again until the profile is there
    until = "the container fails to start until the pod's node holds"
    return _said(found, known, until, deny_unknown=deny_unknown)


def _said(found: gating.Found, known: Known, until: str, *, deny_unknown: bool) -> PodAnswer:
    """Return what is said of profiles; `until`: what does not come about before they are Available."""
    missing = _missing(found.unknown, known.profiles)
    if missing and deny_unknown:
        return PodAnswer(refused="; ".join(missing))
    told = (f"{until} {_listed(found.waits_for)}",) if found.waits_for else ()
    return PodAnswer(warnings=cut(told + missing))


def _missing(unknown: Iterable[Named], profiles: Mapping[str, SecurityProfile]) -> tuple[str, ...]:
    return tuple(
        f"{one.field}: no SecurityProfile defines the {_KINDS[one.type]} {one.name}, so no node will "
        f"have it; {_advice(gating.namesake(one, profiles))}"
        for one in unknown
    )


def _advice(namesake: SecurityProfile | None) -> str:
    if namesake is None or not namesake.status.summary.reference:
        return "create it, or correct the name"
    return f"SecurityProfile {namesake.metadata.name} is named in pods as {namesake.status.summary.reference}"


def _listed(profiles: list[str]) -> str:
    several = "SecurityProfiles" if len(profiles) > 1 else "SecurityProfile"
    return f"{several} {', '.join(profiles)}"
