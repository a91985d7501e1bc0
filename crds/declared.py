"""Guesses which names a policy defines that nobody has parsed yet. Pure.

Used by who looks at pods, `operator/gating` and `cli/naming`: a pod and its SecurityProfile are often applied
together. Once a policy is published, `status.profiles` has every name.
"""

from __future__ import annotations

import re
from functools import lru_cache

from .models import SecurityProfile
from .names import APPARMOR, PROTECTED, SECCOMP, SELINUX, seccomp_reference

# A policy is up to 128 KiB, and is asked about for each pod that comes while it is judged.
TEXTS = 64

# The head of a profile block. Bounded, for whoever wrote the text may mean to keep the search busy.
_HEAD = re.compile(
    r"(?:^[ \t]*(?:profile[ \t]+)?|\bprofile[ \t]+)"
    r'(?:"([^"\n]{1,200})"|([^\s"#{},()]{1,200}))'
    r"[^\n{]{0,300}\{",
    re.MULTILINE,
)
_BLOCK = re.compile(r"\([ \t\n]{0,100}block[ \t\n]{1,100}([\w.-]{1,200})")


def declares(profile: SecurityProfile, name: str) -> bool:
    """Return whether a policy seems to define a name: in its own text, be that accepted or not."""
    if name in PROTECTED:
        return False
    kind = profile.spec.type
    if kind == SECCOMP:
        return name == seccomp_reference(profile.metadata.name)
    return name.partition("." if kind == SELINUX else "//")[0] in declared(kind, profile.spec.policy)


@lru_cache(maxsize=TEXTS)
def declared(kind: str, policy: str) -> frozenset[str]:
    """Return the profiles (AppArmor) or outermost blocks (SELinux) that a text seems to define."""
    if kind == APPARMOR:
        return frozenset(one[1] or one[2] for one in _HEAD.finditer(policy))
    if kind == SELINUX:
        return frozenset(one[1].partition(".")[0] for one in _BLOCK.finditer(policy))
    return frozenset()
