"""Which SecurityProfile stands behind a name that a pod gives. Pure.

Called by `why`. A name may be any that the policy defines, not only the one in `status.reference`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from ..crds.declared import declares
from ..crds.models import SecurityProfile
from ..crds.names import APPARMOR, PROTECTED, SECCOMP, SELINUX, seccomp_reference
from ..crds.reasons import Reason
from .spelling import nearest
from .waiting import current

# The kubelet's folder for seccomp has one of Hauberk's.
_FOLDER = seccomp_reference("").partition("/")[0] + "/"


class Definition(NamedTuple):
    """The SecurityProfile that defines a name.

    Attributes:
        profile: it.
        published: a policy of it with this name was published, so that nodes may hold it; else only the text
            has it that was not accepted yet, or is held back.
    """

    profile: SecurityProfile
    published: bool


def definition(kind: str, name: str, profiles: Mapping[str, SecurityProfile]) -> Definition | None:
    """Return who defines a name of a type; None: nobody does, or nobody any more."""
    those = [one for _, one in sorted(profiles.items()) if one.spec.type == kind]
    for one in those:
        if name in one.status.profiles:
            return Definition(one, published=True)
    for one in those:
        if not _is_out(one) and declares(one, name):
            return Definition(one, published=False)
    return None


def _is_out(profile: SecurityProfile) -> bool:
    """Return whether all that a policy defines is published, so that `status.profiles` has every name."""
    accepted, ready = current(profile, "Accepted"), current(profile, "Ready")
    if accepted is None or accepted.status != "True" or ready is None:
        return False
    return bool(profile.status.profiles) and ready.reason not in {Reason.SUSPENDED, Reason.UPDATING}


def is_foreign(kind: str, name: str) -> bool:
    """Return whether a name, by its look, is none that Hauberk could have to do with."""
    if kind == SELINUX:
        return "." not in name  # a SecurityProfile's types stand in a block: block.type
    return not name.startswith(_FOLDER) if kind == SECCOMP else name in PROTECTED


class Guess(NamedTuple):
    """What may have been meant.

    Attributes:
        name: what the pod should give.
        profile: that defines it.
        sure: the pod gives that very profile, in a form that does not name it; else its name is only near.
    """

    name: str
    profile: SecurityProfile
    sure: bool


def meant(kind: str, name: str, profiles: Mapping[str, SecurityProfile]) -> Guess | None:
    """Return what may have been meant by a name that nobody defines; None: nothing that is there."""
    known = {name: one for one in profiles.values() if one.spec.type == kind for name in _names(one)}
    if kind == SECCOMP:
        last = name.rpartition("/")[2]
        for guess in (f"{_FOLDER}{last}", seccomp_reference(last)):
            if guess in known:
                return Guess(guess, known[guess], sure=True)
    called = profiles.get(
        name.removeprefix(_FOLDER).removesuffix(".json") if name.startswith(_FOLDER) else name
    )
    if called and reference(called) not in {"", name}:
        return Guess(reference(called), called, sure=True)
    near = nearest(name, known)
    return Guess(near, known[near], sure=False) if near else None


def _names(profile: SecurityProfile) -> list[str]:
    return profile.status.profiles or ([reference(profile)] if reference(profile) else [])


def reference(profile: SecurityProfile) -> str:
    """Return the name that pods are to give for a profile; empty before it was published."""
    return profile.status.summary.reference


def pasted(profile: SecurityProfile, name: str) -> str:
    """Return what goes into a securityContext for a name of a profile, in one line of YAML."""
    if profile.spec.type == SELINUX:
        return f"seLinuxOptions: {{type: {name}}}"
    field = "appArmorProfile" if profile.spec.type == APPARMOR else "seccompProfile"
    return f"{field}: {{type: Localhost, localhostProfile: {name}}}"


def profile_of_remains(kind: str, name: str, held: Mapping[str, str]) -> str:
    """Return the SecurityProfile, long gone, of which a node still holds a name; empty where it holds none.

    `held` is by SecurityProfile: what its names in the kernel were nobody knows any more but by custom.
    """
    for profile in held:
        usual = {APPARMOR: profile, SECCOMP: seccomp_reference(profile)}.get(kind)
        block = re.sub(r"[^a-z0-9]", "_", profile)
        if name == usual or (kind == SELINUX and name.startswith(f"{block}.")):
            return profile
    return ""
