"""What a template may know of a node, and the key under which a revision keeps the text for it. Pure.

The admission renders with `visible` and files the result under `facts_key`; the agent looks its own key up.
Both use this file, so that they can't differ.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from .models import Facts
from .names import APPARMOR, SECCOMP, SELINUX

_RELEASE = re.compile(r"(\d+)\.(\d+)")


def supports(facts: Facts, profile_type: str) -> bool:
    """Return whether a node's kernel can hold profiles of a type: the others are `unsupported` there."""
    if profile_type == APPARMOR:
        return facts.app_armor.enabled
    if profile_type == SELINUX:
        return "selinux" in facts.lsms
    if profile_type == SECCOMP:
        return facts.seccomp
    raise KeyError(profile_type)


def visible(facts: Facts) -> dict[str, Any]:
    """Return what templates see of a node; docs/reference/templates.md describes it field by field.

    Less than the facts: a kernel's patch level differs between nodes that are alike, and a text for each of
    them would be one too many.
    """
    found = _RELEASE.match(facts.kernel)
    major, minor = (int(found[1]), int(found[2])) if found else (0, 0)
    return {
        "node": {
            "os": {"id": facts.os.id, "version": facts.os.version, "like": facts.os.like.split()},
            "kernel": {"major": major, "minor": minor},
            "arch": facts.arch,
        },
        "apparmor": {
            "features": sorted(facts.app_armor.features),
            "hostParser": facts.app_armor.host_parser,
        },
        "selinux": {
            "policy": facts.selinux.policy,
            "mls": facts.selinux.mls,
            "mode": facts.selinux.mode,
        },
        "runtime": {"name": facts.runtime.name, "version": facts.runtime.version},
    }


def facts_key(facts: Facts) -> str:
    """Return the first ten hex digits of the SHA-256 over what templates see of a node."""
    text = json.dumps(visible(facts), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:10]
