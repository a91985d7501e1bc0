"""Kinds of nodes that are common: what a template is tried on where no node is known.

Used by `check` for the first profile of an empty cluster. As the nodes' agents report them; the features are
those of the distributions' kernels, by the names in /sys/kernel/security/apparmor/features.
"""

from __future__ import annotations

from ..crds.models import AppArmorFacts, Facts, OperatingSystem, Runtime, SELinuxFacts
from ..crds.names import APPARMOR, SECCOMP, SELINUX

_UPSTREAM = (
    *("capability", "caps", "domain", "file", "mount", "namespaces", "namespaces/profile", "network_v8"),
    *("policy", "ptrace", "query", "rlimit", "signal"),
)
# Linux 6.7
_NEWER = (*_UPSTREAM, "io_uring", "io_uring/override_creds", "io_uring/sqpoll", "namespaces/userns_create")
_JAMMY = (*_UPSTREAM, "dbus", "network", "network/af_unix")
_NOBLE = (*_NEWER, "dbus", "ipc", "ipc/posix_mqueue", "network", "network/af_unix")


def _kind(system: OperatingSystem, kernel: str, features: tuple[str, ...], abi: str) -> Facts:
    return Facts(
        os=system,
        kernel=kernel,
        arch="x86_64",
        lsms=["capability", "apparmor"],
        app_armor=AppArmorFacts(features=sorted(features), enabled=True, host_parser=abi),
        seccomp=True,
        runtime=Runtime(name="containerd", version="1.7.24"),
    )


def _with_selinux(system: OperatingSystem, kernel: str, policy: str = "targeted") -> Facts:
    return Facts(
        os=system,
        kernel=kernel,
        arch="x86_64",
        lsms=["capability", "selinux"],
        selinux=SELinuxFacts(policy=policy, mls=True, mode="enforcing"),
        seccomp=True,
        runtime=Runtime(name="cri-o", version="1.32.0"),
    )


COMMON = (
    _kind(OperatingSystem(id="debian", version="12"), "6.1.0", _UPSTREAM, "3.0"),
    _kind(OperatingSystem(id="debian", version="13"), "6.12.0", _NEWER, "4.0"),
    _kind(OperatingSystem(id="ubuntu", version="22.04", like="debian"), "5.15.0", _JAMMY, "3.0"),
    _kind(OperatingSystem(id="ubuntu", version="24.04", like="debian"), "6.8.0", _NOBLE, "4.0"),
)
_SELINUX = (
    _with_selinux(OperatingSystem(id="fedora", version="43"), "6.17.0"),
    _with_selinux(OperatingSystem(id="rhel", version="9.6", like="fedora"), "5.14.0"),
    _with_selinux(OperatingSystem(id="rhel", version="10.0", like="centos fedora"), "6.12.0"),
    _with_selinux(OperatingSystem(id="debian", version="13"), "6.12.0", "default"),
)

# By the type of profiles that their kernels hold.
COMMON_OF = {APPARMOR: COMMON, SELINUX: _SELINUX, SECCOMP: (*COMMON, *_SELINUX)}
