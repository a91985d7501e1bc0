"""Which profiles a pod names, and what it says where it names none. Pure.

Used by the agent (which seccomp files pods need), by the command line, and by whoever judges pods. The rules
are Kubernetes' own (1.35): `pkg/security/apparmor` for AppArmor, `kuberuntime/helpers.go` for seccomp,
`pkg/securitycontext/util.go` for SELinux.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from .models import Metadata, Model
from .names import APPARMOR, SECCOMP, SELINUX

# What a container got its AppArmor profile by before Kubernetes 1.30, followed by the container's name.
APPARMOR_ANNOTATION = "container.apparmor.security.beta.kubernetes.io/"
LOCALHOST_PREFIX = "localhost/"
# What a kubelet puts on the image, in the API, of a pod that it runs by itself.
MIRROR = "kubernetes.io/config.mirror"
_LOCALHOST, _RUNTIME_DEFAULT, _UNCONFINED = "Localhost", "RuntimeDefault", "Unconfined"
_ANNOTATED = {"runtime/default": _RUNTIME_DEFAULT, "unconfined": _UNCONFINED}


class LocalhostProfile(Model, frozen=True):
    """An appArmorProfile or a seccompProfile: `type`, and a profile of the node where that is Localhost."""

    type: str = ""
    localhost_profile: str | None = None


class SELinuxOptions(Model, frozen=True):
    """The part of a process's SELinux context that is read."""

    type: str | None = None


class SecurityContext(Model, frozen=True):
    """The part of a pod's or container's security context that is read; a pod's is never privileged."""

    app_armor_profile: LocalhostProfile | None = None
    se_linux_options: SELinuxOptions | None = None
    seccomp_profile: LocalhostProfile | None = None
    privileged: bool | None = None


class Container(Model, frozen=True):
    """The part of a container, of whatever sort, that is read."""

    name: str = ""
    security_context: SecurityContext | None = None


class SchedulingGate(Model, frozen=True):
    """What keeps a pod from being scheduled for as long as it is there."""

    name: str = ""


class PodSpec(Model, frozen=True):
    """The part of a pod's spec that is read."""

    node_name: str | None = None
    security_context: SecurityContext | None = None
    init_containers: list[Container] | None = None
    containers: list[Container] | None = None
    ephemeral_containers: list[Container] | None = None
    scheduling_gates: list[SchedulingGate] | None = None


class PodStatus(Model, frozen=True):
    """The part of a pod's status that is read."""

    phase: str = ""


class PodMetadata(Metadata, frozen=True, kw_only=True):
    """A pod's metadata: one that is about to be created may have no name yet."""

    name: str = ""
    generate_name: str = ""


class PodObject(Model, frozen=True):
    """The part of a Pod that is read."""

    metadata: PodMetadata = PodMetadata()
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


class Named(NamedTuple):
    """A profile of the node that a pod names.

    Attributes:
        container: that it is for; empty where the pod names it, for every container that does not choose.
        type: AppArmor, SELinux or Seccomp.
        name: the profile's name in the kernel, the SELinux type, or the seccomp file in the kubelet's folder.
        field: where it is named, as a path in the pod.
    """

    container: str
    type: str
    name: str
    field: str


class Choice(NamedTuple):
    """What counts for one container and one type of profile.

    Attributes:
        container: its name.
        type: AppArmor, SELinux or Seccomp.
        how: Localhost, RuntimeDefault or Unconfined; of SELinux Localhost, for a type of whichever policy;
            empty where nothing is said.
        name: of the profile, as `Named` has it; empty unless `how` is Localhost.
        field: where it is said; empty where it is not.
        inherited: it is the pod's, and the container says nothing of its own.
        given: the name as it is written, before a prefix was taken off.
    """

    container: str
    type: str
    how: str = ""
    name: str = ""
    field: str = ""
    inherited: bool = False
    given: str = ""


def named(pod: PodObject) -> list[Named]:
    """Return the profiles that a pod names, as far as they count, each once for each that names it.

    What the pod names and every container overrides does not count, but for SELinux: the pod's sandbox is a
    process that runs with the pod's own type. Whose the names are is not asked: they may be the node's.
    """
    found = dict.fromkeys(_named(one) for one in choices(pod) if one.name)
    own = _of_context("", SELINUX, pod.spec.security_context, "spec.securityContext")
    return list(dict.fromkeys([*([_named(own)] if own and own.name else []), *found]))


def _named(one: Choice) -> Named:
    return Named("" if one.inherited else one.container, one.type, one.name, one.field)


def choices(pod: PodObject) -> list[Choice]:
    """Return what counts for each container: its own word for each type, or else the pod's."""
    return [
        _choice(pod, container, kind, path)
        for path, container in containers(pod.spec)
        for kind in (APPARMOR, SELINUX, SECCOMP)
    ]


def containers(spec: PodSpec) -> Iterator[tuple[str, Container]]:
    """Yield each container with its path in the pod: those that init first, ephemeral ones last."""
    for field, several in (
        ("initContainers", spec.init_containers),
        ("containers", spec.containers),
        ("ephemeralContainers", spec.ephemeral_containers),
    ):
        for index, one in enumerate(several or []):
            yield f"spec.{field}[{index}]", one


def _choice(pod: PodObject, container: Container, kind: str, path: str) -> Choice:
    own = _of_context(container.name, kind, container.security_context, f"{path}.securityContext")
    if own is None and kind == APPARMOR:
        own = _annotated(pod, container.name)
    if own is not None:
        return own
    pods = _of_context(container.name, kind, pod.spec.security_context, "spec.securityContext")
    return pods._replace(inherited=True) if pods else Choice(container.name, kind)


def _of_context(container: str, kind: str, context: SecurityContext | None, path: str) -> Choice | None:
    """Return what a security context says of a type of profiles; None where it says nothing."""
    if context is None:
        return None
    if kind == SELINUX:
        return _selinux(container, context.se_linux_options, f"{path}.seLinuxOptions.type")
    field, said = (
        ("appArmorProfile", context.app_armor_profile)
        if kind == APPARMOR
        else ("seccompProfile", context.seccomp_profile)
    )
    if said is None:
        return None
    given = (said.localhost_profile or "") if said.type in {"", _LOCALHOST} else ""
    if not given:
        return Choice(container, kind, said.type, field=f"{path}.{field}.type", given="")
    # the prefix was part of the annotation's value; containerd takes it off the field's as well
    name = given.removeprefix(LOCALHOST_PREFIX) if kind == APPARMOR else given
    return Choice(container, kind, _LOCALHOST, name, f"{path}.{field}.localhostProfile", given=given)


def _selinux(container: str, options: SELinuxOptions | None, field: str) -> Choice | None:
    """Return what options say; options without a type hide the pod's, for they replace them as a whole."""
    if options is None:
        return None
    if not options.type:
        return Choice(container, SELINUX)
    return Choice(container, SELINUX, _LOCALHOST, options.type, field, given=options.type)


def _annotated(pod: PodObject, container: str) -> Choice | None:
    """Return what the old annotation says; the API server makes fields of it, but not for static pods."""
    key = f"{APPARMOR_ANNOTATION}{container}"
    value = pod.metadata.annotations.get(key, "")
    field = f"metadata.annotations[{key}]"
    if value in _ANNOTATED:
        return Choice(container, APPARMOR, _ANNOTATED[value], field=field)
    name = value.removeprefix(LOCALHOST_PREFIX)
    if name == value or not name:
        return None  # no form that the kubelet knows
    return Choice(container, APPARMOR, _LOCALHOST, name, field, given=name)
