"""Turns objects of the security-profiles-operator into policies, as text in their own languages. Pure.

Called by `convert`. The shapes are those of its CRDs (security-profiles-operator.x-k8s.io: AppArmorProfile,
SeccompProfile, SelinuxProfile, RawSelinuxProfile), of its older versions too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from ..crds.models import AppArmor, ProfileSpec, Seccomp, SELinux
from ..profiles.quoting import UnfitError, aa_glob, aa_name, cil_name

GROUP = "security-profiles-operator.x-k8s.io"
_CAPABILITY = re.compile(r"[a-z_]+")
# An older way to write ptrace rules: among the paths.
_PTRACE = re.compile(r"ptrace\s*\((?P<access>\w+)\)\s*,\s*(?:#.*)?")
_PEER = re.compile(r"(?:[\w./*?-]|@\{profile_name\})+")
_ACCESS = {"read", "readby", "trace", "tracedby"}
# What brackets may stand in without being any, and brackets: the CIL reference's lexer.
_CIL_TOKEN = re.compile(r';[^\n]*|"[^"\n]*"|[()"]')
# The fields of the OCI runtime specification that a SeccompProfile has as well.
_SECCOMP = ("defaultAction", "architectures", "flags", "listenerPath", "listenerMetadata", "syscalls")


class UnfitObjectError(Exception):
    """An object that no policy can be made of; the message says why."""


@dataclass(frozen=True)
class Shared:
    """Rules that profiles of containers share, as the fragments of docs/reference/templates.md write them.

    That operator puts rules of this kind into each profile too.

    Attributes:
        runtime: a pod can be stopped.
        protect_kernel: what leads from a container to its node is denied.
    """

    runtime: str
    protect_kernel: str


@dataclass(frozen=True)
class Translated:
    """What an object became.

    Attributes:
        name: the object's.
        spec: of the SecurityProfile.
        remarks: what its author has to know.
    """

    name: str
    spec: ProfileSpec
    remarks: tuple[str, ...] = ()


class _Base(msgspec.Struct, rename="camel"):
    state: str = "Enabled"
    disabled: bool = False


class _Executable(msgspec.Struct, rename="camel"):
    allowed_executables: list[str] = []
    allowed_libraries: list[str] = []


class _Filesystem(msgspec.Struct, rename="camel"):
    read_only_paths: list[str] = []
    write_only_paths: list[str] = []
    read_write_paths: list[str] = []


class _Protocols(msgspec.Struct, rename="camel"):
    allow_tcp: bool | None = None
    allow_udp: bool | None = None


class _Network(msgspec.Struct, rename="camel"):
    allow_raw: bool | None = None
    allowed_protocols: _Protocols | None = None


class _Capability(msgspec.Struct, rename="camel"):
    allowed_capabilities: list[str] = []


class _Ptrace(msgspec.Struct, rename="camel"):
    allowed_access: list[str] = []
    peer: str = ""


class _Abstract(msgspec.Struct, rename="camel"):
    executable: _Executable | None = None
    filesystem: _Filesystem | None = None
    network: _Network | None = None
    capability: _Capability | None = None
    ptrace: _Ptrace | None = None


class _AppArmor(_Base):
    abstract: _Abstract = msgspec.field(default_factory=_Abstract)
    mode: str = "Enforce"
    complain_mode: bool = False
    # the first version of all had the text itself
    policy: str = ""


class _Inherit(msgspec.Struct, rename="camel"):
    name: str
    kind: str = "System"


class _SELinux(_Base):
    inherit: list[_Inherit] = msgspec.field(default_factory=lambda: [_Inherit("container")])
    allow: dict[str, dict[str, list[str]]] = {}
    mode: str = "Enforcing"
    permissive: bool = False


class _RawSELinux(_Base):
    policy: str = ""


def translated(body: Mapping[str, Any], shared: Shared) -> Translated:
    """Return what an object of the security-profiles-operator becomes; AppArmor's get the `shared` rules.

    Raises:
        UnfitObjectError: it has not the shape of its kind, or says what has no counterpart.
    """
    kind = str(body.get("kind"))
    metadata, spec = body.get("metadata"), body.get("spec")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if not isinstance(name, str) or not name:
        raise UnfitObjectError(f"{kind} without metadata.name")
    if not isinstance(spec, dict):
        raise UnfitObjectError(f"{kind} {name} has no spec")
    try:
        made, remarks = _translated(kind, name, spec, shared)
        disabled = _is_disabled(spec)
    except (UnfitError, msgspec.ValidationError) as error:
        raise UnfitObjectError(f"{kind} {name}: {error}") from error
    if disabled:
        made = msgspec.structs.replace(made, suspend=True)
        remarks.append("it was disabled, so `suspend` is set")
    return Translated(name, made, tuple(remarks))


def _translated(kind: str, name: str, spec: dict[str, Any], shared: Shared) -> tuple[ProfileSpec, list[str]]:
    match kind:
        case "AppArmorProfile":
            return _apparmor(name, msgspec.convert(spec, _AppArmor), shared)
        case "SeccompProfile":
            return _seccomp(spec)
        case "SelinuxProfile":
            return _selinux(name, msgspec.convert(spec, _SELinux))
        case "RawSelinuxProfile" | "SelinuxPolicy":
            return _raw_selinux(name, msgspec.convert(spec, _RawSELinux))
        case _:
            raise UnfitObjectError(f"{kind} {name} is no profile, and Hauberk has nothing in its place")


def _is_disabled(spec: dict[str, Any]) -> bool:
    base = msgspec.convert(spec, _Base)
    return base.disabled or base.state == "Disabled"


def _apparmor(name: str, spec: _AppArmor, shared: Shared) -> tuple[ProfileSpec, list[str]]:
    complain = spec.complain_mode or spec.mode == "Complain"
    mode = "Complain" if complain else "Enforce"
    if spec.policy:
        return ProfileSpec(type="AppArmor", app_armor=AppArmor(policy=spec.policy, mode=mode)), []
    # a deny rule denies in Complain as well
    rules = [*_rules(spec.abstract, denials=not complain)]
    protect = "" if complain else f"\n  # the node's kernel\n{shared.protect_kernel.rstrip()}\n"
    policy = (
        "include <tunables/global>\n\n"
        f"profile {aa_name(name)} flags=(attach_disconnected,mediate_deleted) {{\n"
        "  include <abstractions/base>\n\n"
        + "".join(f"  {rule}\n" if rule else "\n" for rule in rules)
        + f"\n  # a pod can be stopped\n{shared.runtime.rstrip()}\n{protect}}}\n"
    )
    return ProfileSpec(type="AppArmor", app_armor=AppArmor(policy=policy, mode=mode)), []


def _rules(abstract: _Abstract, *, denials: bool) -> Iterator[str]:
    run, files = abstract.executable or _Executable(), abstract.filesystem or _Filesystem()
    yield from _paths("what it may run", run.allowed_executables, "ixr")
    yield from _paths("libraries", run.allowed_libraries, "mr")
    yield from _paths("files", files.read_only_paths, "r", "wlk" if denials else "")
    yield from _paths("files to write", files.write_only_paths, "wlk", "r" if denials else "")
    yield from _paths("files to read and write", files.read_write_paths, "rwlk")
    network = abstract.network or _Network()
    if network.allow_raw is not None and (network.allow_raw or denials):
        yield "network raw," if network.allow_raw else "deny network raw,"
    protocols = network.allowed_protocols or _Protocols()
    if protocols.allow_tcp:
        yield "network tcp,"
    if protocols.allow_udp:
        yield "network udp,"
    for one in (abstract.capability or _Capability()).allowed_capabilities:
        word = one.lower().removeprefix("cap_")
        if not _CAPABILITY.fullmatch(word):
            raise UnfitError(f"{one[:60]!a} is no capability")
        yield f"capability {word},"
    if abstract.ptrace and abstract.ptrace.allowed_access:
        yield _ptrace(abstract.ptrace.allowed_access, abstract.ptrace.peer)


def _paths(title: str, paths: Iterable[str], allowed: str, denied: str = "") -> Iterator[str]:
    paths = list(paths)
    if not paths:
        return
    yield f"# {title}"
    for path in paths:
        if old := _PTRACE.fullmatch(path.strip()):
            yield _ptrace([old["access"]], "")
            continue
        # what stands behind a path in a list is a comment: paths of people begin with `/` and have no such
        quoted = aa_glob(path)
        yield f"{quoted} {allowed},"
        if denied:
            yield f"deny {quoted} {denied},"
    yield ""


def _ptrace(access: list[str], peer: str) -> str:
    if wrong := sorted(set(access) - _ACCESS):
        raise UnfitError(f"{wrong[0][:60]!a} is no access of ptrace")
    if peer and not _PEER.fullmatch(peer):
        raise UnfitError(f"{peer[:60]!a} is no peer of ptrace")
    return f"ptrace ({', '.join(access)}){f' peer={peer}' if peer else ''},"


def _seccomp(spec: dict[str, Any]) -> tuple[ProfileSpec, list[str]]:
    if not isinstance(spec.get("defaultAction"), str):
        raise UnfitError("spec.defaultAction is missing")
    policy = {key: spec[key] for key in _SECCOMP if spec.get(key)}
    remarks: list[str] = []
    if base := spec.get("baseProfileName"):
        remarks.append(
            f"its base profile {str(base)[:80]!a} is not in it: add the system calls that it allows"
        )
    text = json.dumps(policy, indent=2) + "\n"
    return ProfileSpec(type="Seccomp", seccomp=Seccomp(policy=text)), remarks


def _selinux(name: str, spec: _SELinux) -> tuple[ProfileSpec, list[str]]:
    others = [one.name for one in spec.inherit if one.kind != "System"]
    if others:
        raise UnfitError(
            f"it inherits from the SelinuxProfile {others[0][:60]!a}, which would be a module of its own; "
            "write both as one policy in CIL"
        )
    block = _block(name)
    lines = [f"(block {block}", *(f"    (blockinherit {cil_name(one.name)})" for one in spec.inherit)]
    for label, classes in sorted(spec.allow.items()):
        target = "process" if label == "@self" else cil_name(label)
        for kind, permissions in sorted(classes.items()):
            allowed = " ".join(cil_name(one) for one in dict.fromkeys(permissions))
            lines.append(f"    (allow process {target} ({cil_name(kind)} ({allowed})))")
    policy = "\n".join([*lines, ")", ""])
    mode = "Permissive" if spec.permissive or spec.mode == "Permissive" else "Enforce"
    return ProfileSpec(type="SELinux", selinux=SELinux(policy=policy, mode=mode)), _named(block)


def _raw_selinux(name: str, spec: _RawSELinux) -> tuple[ProfileSpec, list[str]]:
    if not spec.policy.strip():
        raise UnfitError("spec.policy is empty")
    if not balanced(spec.policy):
        raise UnfitError("the brackets of spec.policy don't match")
    block = _block(name)
    # its text is what stands in a block that is named after the object
    policy = f"(block {block}\n{spec.policy.rstrip()}\n)\n"
    return ProfileSpec(type="SELinux", selinux=SELinux(policy=policy)), _named(block)


def balanced(cil: str) -> bool:
    """Return whether every bracket of a text in CIL has its other one, so that it stays within a block."""
    depth = 0
    for found in _CIL_TOKEN.finditer(cil):
        depth += {"(": 1, ")": -1, '"': -len(cil)}.get(found[0], 0)  # a string without an end
        if depth < 0:
            return False
    return depth == 0


def _block(name: str) -> str:
    """Return a block's name: a dot in it would be a block within a block."""
    return cil_name(name.replace(".", "_"))


def _named(block: str) -> list[str]:
    return [f"pods have to name its process type as {block}.process"]
