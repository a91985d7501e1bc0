"""Profiles of the other types under chaos: a seccomp profile on all nodes, a module on the one with SELinux.

Part of the scene, changed by `faults`. What nodes hold of them is looked at when a round should be whole, not
followed in between: how long their Ready was wrong is not judged. Nothing here asks the product.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.e2e.cluster import (
    NODES,
    SELINUX_NODE,
    condition,
    exec_on,
    get,
    seccomp_profile,
    selinux_profile,
)

SECCOMP, SELINUX = "mixed-seccomp", "mixed-selinux"
NAMES = (SECCOMP, SELINUX)
FILE = f"/var/lib/kubelet/seccomp/hauberk/{SECCOMP}.json"
MODULE = f"/var/lib/selinux/default/active/modules/400/hauberk_{SELINUX}"
# Which of its texts a profile has.
VERSIONS = (0, 1, 2)


def text(name: str, version: int) -> str:
    """Return one of the texts of a profile."""
    if name == SECCOMP:
        calls = [["mkdir"], ["mkdir", "rmdir"], ["chroot"]][version]
        rule = {"names": calls, "action": "SCMP_ACT_ERRNO"}
        return json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]})
    attributes = ["domain", "container_domain", "container_system_domain"][: version + 1]
    sets = " ".join(f"(typeattributeset {one} process)" for one in attributes)
    return f"(block mixed{version} (type process) (roletype system_r process) {sets})\n"


def document(name: str, version: int) -> dict[str, Any]:
    """Return a profile as it is applied."""
    made = seccomp_profile if name == SECCOMP else selinux_profile
    return made(name, text(name, version))


@dataclass
class Others:
    """Which version of each profile should be there; one that is deleted is not here."""

    wanted: dict[str, int] = field(default_factory=dict[str, int])

    def lost(self) -> Iterator[str]:
        """Yield what nodes do not hold as they should."""
        if (version := self.wanted.get(SECCOMP)) is not None:
            for node in NODES:
                if _said(node, f"cat {FILE}") != text(SECCOMP, version):
                    yield f"{node} does not hold version {version} of {SECCOMP}"
        if (version := self.wanted.get(SELINUX)) is not None:
            checksum = hashlib.sha256(text(SELINUX, version).encode()).hexdigest()
            if f"sha256:{checksum}" not in _said(SELINUX_NODE, "semodule -lfull -m"):
                yield f"the store of {SELINUX_NODE} does not hold version {version} of {SELINUX}"
            elif not _known(f"mixed{version}.process"):
                yield f"the kernel of {SELINUX_NODE} does not know mixed{version}.process"

    def left(self) -> Iterator[str]:
        """Yield what nodes hold and should not."""
        if SECCOMP not in self.wanted:
            files = f"ls {FILE} /var/lib/hauberk/seccomp/{SECCOMP}.json"
            yield from (f"{node} has {path}" for node in NODES for path in _said(node, files).split())
        if SELINUX not in self.wanted:
            files = f"ls -d {MODULE} /var/lib/hauberk/selinux/{SELINUX}.json"
            yield from (f"{SELINUX_NODE} has {path}" for path in _said(SELINUX_NODE, files).split())
        for version in VERSIONS:
            if version != self.wanted.get(SELINUX) and _known(f"mixed{version}.process"):
                yield f"the kernel of {SELINUX_NODE} still knows mixed{version}.process"

    def unsaid(self) -> Iterator[str]:
        """Yield what the API says otherwise than it should."""
        bodies = {one["metadata"]["name"]: one for one in get("secprof")["items"]}
        for name, count in ((SECCOMP, len(NODES)), (SELINUX, 1)):
            body = bodies.get(name)
            if name not in self.wanted:
                if body:
                    yield f"{name} is still there: {condition(body, 'Ready').get('reason')}"
                continue
            ready = condition(body, "Ready") if body else {}
            counts: dict[str, int] = body.get("status", {}).get("nodes", {}) if body else {}
            current = body and ready.get("observedGeneration") == body["metadata"]["generation"]
            unsupported = len(NODES) - count
            said = (counts.get("ready"), counts.get("targeted"), counts.get("unsupported"))
            if not current or ready["status"] != "True" or said != (count, count, unsupported):
                yield f"{name} is {ready.get('reason')}, ready, targeted, unsupported on {said}"


def damage(name: str, dice: int) -> tuple[str, str]:
    """Do to a node what its agent has to undo; return where and what."""
    if name == SELINUX:
        _said(SELINUX_NODE, f"semodule -r hauberk_{SELINUX}")
        return SELINUX_NODE, "removed from the store"
    node = NODES[dice % len(NODES)]
    kinds = {"deleted": f"rm {FILE}", "overwritten": f"echo '{{}}' > {FILE}", "cut short": f": > {FILE}"}
    what = list(kinds)[dice // len(NODES) % len(kinds)]
    _said(node, kinds[what])
    return node, what


def _known(name: str) -> bool:
    context = shlex.quote(f"system_u:object_r:{name}:s0")
    return _said(SELINUX_NODE, f"printf %s {context} > /sys/fs/selinux/context && echo known") == "known\n"


def _said(node: str, script: str) -> str:
    return exec_on(node, "sh", "-c", f"{{ {script}; }} 2>/dev/null").stdout
