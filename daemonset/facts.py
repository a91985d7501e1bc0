"""What a node is, from what its files say. Pure but for the `Host` that it is handed.

Called by `agent` once at its start: none of this changes without a reboot or a new agent.
"""

from __future__ import annotations

import shlex

from ..crds.models import AppArmorFacts, Facts, OperatingSystem
from .host import Host


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
        app_armor=AppArmorFacts(features=host.features() if enabled else "", enabled=enabled),
    )
