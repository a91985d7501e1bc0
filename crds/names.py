"""The names that Hauberk gives to things: API group, kinds, labels, files and digests. Pure.

Used by the operator when it publishes and by the agents when they read, so the two can't differ.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

GROUP = "hauberk.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

# Types of profiles: `spec.type`.
APPARMOR, SELINUX, SECCOMP = "AppArmor", "SELinux", "Seccomp"
TYPES = (APPARMOR, SELINUX, SECCOMP)

SECURITY_PROFILES = "securityprofiles"
PROFILE_REVISIONS = "profilerevisions"
PROFILE_NODES = "profilenodes"

FINALIZER = f"{GROUP}/profile"
# On a SecurityProfile that is being deleted: don't wait for tasks that it confines.
FORCE_DELETE = f"{GROUP}/force-delete"
FIELD_MANAGER = "hauberk"
LABEL_PROFILE = f"{GROUP}/profile"
# A pod's scheduling gate: it names profiles that no node holds yet.
POD_GATE = f"{GROUP}/profiles-pending"
# A new node's taint, with the effect NoSchedule, where its node pool puts one on: it may lack profiles still.
PENDING_TAINT = POD_GATE
# On a pod with that gate, so that the operator watches these and no others; and the SecurityProfiles, with
# commas between them, that it was gated for.
LABEL_GATED = f"{GROUP}/gated"
GATED_FOR = f"{GROUP}/gated-for"
# On a namespace: its pods wait for their profiles; those that name one that nobody defines are refused.
LABEL_POD_GATE, GATE_ENABLED = f"{GROUP}/pod-gate", "enabled"
LABEL_UNKNOWN_PROFILE, UNKNOWN_DENIED = f"{GROUP}/unknown-profile", "deny"
# The configuration of the webhook that pods are looked at by.
POD_GATE_WEBHOOK = "hauberk-pod-gate"
LABEL_COMPONENT = "app.kubernetes.io/component"
AGENT_COMPONENT = "agent"
OPERATOR = "hauberk-operator"
# Its Deployment, Service, Secret and webhook configuration; its authority, without the key, is a ConfigMap.
ADMISSION = "hauberk-admission"
ADMISSION_AUTHORITY = "hauberk-admission-authority"
AGENT = "hauberk-agent"
# The agent of nodes with SELinux, which must be privileged; each node has one of the two.
AGENT_SELINUX = "hauberk-agent-selinux"
# On a Node: whether its kernel runs this security module; and which of the two agents it has.
LABEL_LSM = {APPARMOR: f"{GROUP}/lsm-apparmor", SELINUX: f"{GROUP}/lsm-selinux"}
HAS, LACKS = "true", "false"
LABEL_AGENT = f"{GROUP}/agent"
AGENT_OF_SELINUX = "selinux"

# The shape of a ProfileRevision that this code writes and reads. An agent leaves a revision with a
# higher number alone (and says so) instead of guessing.
CONTRACT = 1

# The key of a text that fits every node: what a policy without a template has.
ANY_FACTS = "any"

# Behind the revision in a node's report: the kernel holds a text that it has for other kinds of nodes.
OF_OTHER_KIND = "~"

# Profiles of container runtimes. Replacing one of them would change every container of a node, so no
# SecurityProfile may define them: docker-default (moby profiles/apparmor), cri-containerd.apparmor.d
# (containerd internal/cri), crio-default (cri-o internal/config/apparmor), the others are the programs'
# own profiles as Ubuntu and Debian ship them in /etc/apparmor.d.
PROTECTED = frozenset(
    {
        "buildah",
        "containerd",
        "containers-default",
        "cri-containerd.apparmor.d",
        "crio-default",
        "crun",
        "docker-default",
        "dockerd",
        "kubelet",
        "podman",
        "runc",
        "unconfined",
    }
)


def digest(  # noqa: PLR0913 - most are given by name
    profile_type: str,
    policy: str,
    mode: str,
    *,
    allow_attachment: bool = False,
    allow_host_types: bool = False,
    requires: Sequence[str] = (),
    values: Mapping[str, Any] | None = None,
) -> str:
    """Return the first ten hex digits of the SHA-256 over what the user wrote; `values`: of a template.

    It names the content of a revision: the same source, mode and right to attach give the same revision, so
    going back to an old policy reuses it. Forty bits: a clash within one profile's history is not a concern.
    """
    written: list[Any] = [profile_type, policy, mode, allow_attachment or None]
    if values is not None:
        written.append(values)
    if allow_host_types or requires:
        written.append([allow_host_types, *requires])
    source = json.dumps(written, ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(source.encode()).hexdigest()[:10]


def text_id(text: str) -> str:
    """Return what identifies a text among those of its revision."""
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def tombstone_name(profile: str, uid: str) -> str:
    """Return the name of the ProfileRevision that tells of the end of the SecurityProfile with this UID."""
    return f"{profile}.gone-{hashlib.sha256(uid.encode()).hexdigest()[:10]}"


def revision_name(profile: str, content: str) -> str:
    """Return the name of the ProfileRevision that carries `content` (a digest) of `profile`."""
    return f"{profile}.{content}"


def top_level(name: str) -> str:
    """Return the top-level profile that a kernel name belongs to: `parent` for `parent//child`."""
    return name.split("//", 1)[0]


def host_file(profile: str) -> str:
    """Return the name of the profile's file in a node's /etc/apparmor.d."""
    return f"hauberk.{profile}"


def security_module(profile_type: str) -> str:
    """Return what a kernel has to have for a type of profiles, in words for a message."""
    return "seccomp" if profile_type == SECCOMP else profile_type


def selinux_module(profile: str) -> str:
    """Return the name of the profile's module in a node's SELinux store."""
    return f"hauberk_{profile}"


def seccomp_reference(profile: str) -> str:
    """Return what a pod gives as `localhostProfile`: the profile's file in the kubelet's seccomp folder."""
    return f"hauberk/{profile}.json"
