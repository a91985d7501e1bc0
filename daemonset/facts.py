"""What a node is, from what its files say. Pure but for the `Host` that it is handed.

Called by `agent` once at its start: none of this changes without a reboot or a new agent, but for SELinux'
mode and the container runtime, which the Node tells.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable

from ..crds.models import AppArmorFacts, Facts, OperatingSystem, Runtime
from .host import Host

_ABI = re.compile(r"\d+\.\d+")


def os_release(text: str) -> OperatingSystem:
    """Return the distribution from os-release(5); fields that it lacks, or that make no sense, are empty."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if not equals or key.startswith("#"):
            continue
        try:
            words = shlex.split(value)
        except ValueError:
            continue
        fields[key.strip()] = " ".join(words)[:64]
    return OperatingSystem(
        id=fields.get("ID", ""), version=fields.get("VERSION_ID", ""), like=fields.get("ID_LIKE", "")
    )


def gather(host: Host) -> Facts:
    """Return this node's facts."""
    enabled = host.has_apparmor()
    return Facts(
        os=os_release(host.os_release_text()),
        kernel=host.kernel_release(),
        arch=host.architecture(),
        lsms=host.lsms(),
        app_armor=AppArmorFacts(
            features=host.features(),
            features_digest=host.features_digest(),
            enabled=True,
            host_parser=newest_abi(host.abis()),
        )
        if enabled
        else AppArmorFacts(),
        selinux=host.selinux.facts(),
        seccomp=host.has_seccomp(),
    )


def newest_abi(names: Iterable[str]) -> str:
    """Return the highest of the policy ABIs that a parser ships files for, such as `3.0`; empty for none.

    The folder also holds descriptions of single kernels (`kernel-5.4-vanilla`); not of the parser.
    """
    numbers = [tuple(map(int, name.split("."))) for name in names if _ABI.fullmatch(name)]
    return ".".join(map(str, max(numbers))) if numbers else ""


def runtime(said: str) -> Runtime:
    """Return the container runtime from what the kubelet calls it, such as `containerd://1.7.24`."""
    name, _, version = said.partition("://")
    return Runtime(name=name[:64], version=version[:64])
