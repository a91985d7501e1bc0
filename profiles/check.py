"""Decides whether a policy may be published: the one place where a text is refused before any node sees it.

Called by the operator for every SecurityProfile whose text it has not judged yet. `check` asks the real
parser; the rules beside it are pure and give a fault for the first thing that is wrong, in the order in
which a reader would fix it.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..crds.errors import InputFault
from ..crds.models import ProfileSpec
from ..crds.names import PROTECTED, top_level
from ..crds.reasons import Reason
from . import compiled
from .includes import refuse_includes, refuse_spelling
from .parser import Parser

POLICY_BYTES = 128 * 1024
NAMES = 64
NAME_BYTES = 256


@dataclass(frozen=True)
class Verdict:
    """A text that passed: the kernel names it defines, top-level ones and children, in the text's order."""

    names: tuple[str, ...]


async def check(spec: ProfileSpec, parser: Parser) -> Verdict:
    """Return the verdict on a profile's policy.

    Raises:
        InputFault: it is refused; the message says by whom, why and what to do.
        NodeFault: the parser itself could not be run.
    """
    if spec.type != "AppArmor" or spec.app_armor is None:
        raise InputFault(
            Reason.TYPE_NOT_SERVED,
            f"Hauberk does not load profiles of type {spec.type} yet; only AppArmor is served",
        )
    policy, mode = spec.app_armor.policy, spec.app_armor.mode
    refuse_text(policy)
    refuse_includes(policy, parser.base)
    binary = await parser.compile(policy, mode)
    defined = compiled.read(binary)
    refuse_defined(defined, mode, allow_attachment=spec.app_armor.allow_attachment)
    refuse_unconfined(policy, defined)
    return Verdict(tuple(one.name for one in defined))


def refuse_text(policy: str) -> None:
    """Refuse what is wrong with a text whatever the parser may think of it.

    Raises:
        InputFault: too large, a NUL character, or an include that names a file elsewhere.
    """
    size = len(policy.encode())
    if size > POLICY_BYTES:
        raise InputFault(
            Reason.POLICY_TOO_LARGE,
            f"the policy has {size} bytes, at most {POLICY_BYTES} are allowed; split it up",
        )
    if "\0" in policy:
        raise InputFault(Reason.POLICY_REFUSED, "the policy holds a NUL character; remove it")
    refuse_spelling(policy)


def refuse_defined(defined: list[compiled.Defined], mode: str, *, allow_attachment: bool = False) -> None:
    """Refuse profiles that may not be loaded under the names, modes or attachments that they have.

    Raises:
        InputFault: with the name of the first such profile.
    """
    if not defined:
        raise InputFault(
            Reason.POLICY_EMPTY, "the policy defines no profile; it needs one `profile NAME { ... }` at least"
        )
    if len(defined) > NAMES:
        raise InputFault(
            Reason.POLICY_TOO_LARGE,
            f"the policy defines {len(defined)} profiles, at most {NAMES} are allowed",
        )
    for one in defined:
        _refuse_name(one)
        _refuse_orphan(one.name, {other.name for other in defined})
        if one.attaches and not allow_attachment:
            raise InputFault(
                Reason.ATTACHMENT_REFUSED,
                f"profile {one.name} attaches to programs of the host by their path, which would confine the "
                "node itself; write `profile NAME {` without a path, pods name it in their securityContext "
                "(spec.appArmor.allowAttachment lifts this, for who has the right to set it)",
            )
        if one.mode == "complain" and mode == "Enforce":
            raise InputFault(
                Reason.MODE_MISMATCH,
                f"profile {one.name} has flags=(complain) while spec.appArmor.mode is Enforce; "
                "remove the flag, or set the mode to Complain",
            )


def refuse_unconfined(policy: str, defined: list[compiled.Defined]) -> None:
    """Refuse flags=(unconfined), under which a profile is a name that confines nothing.

    A profile with `default_allow` looks the same in the binary and may still deny: the text tells them apart.

    Raises:
        InputFault: with the name of the first such profile.
    """
    for one in defined:
        if one.mode == "unconfined" and "default_allow" not in policy:
            raise InputFault(
                Reason.MODE_MISMATCH,
                f"profile {one.name} has flags=(unconfined) and would confine nothing; remove the flag",
            )


def _refuse_orphan(name: str, names: set[str]) -> None:
    parent = top_level(name) if "//" in name else ""
    if parent and parent not in names:
        raise InputFault(
            Reason.NAME_UNUSABLE,
            f"profile {name} is a child of {parent}, which this policy does not define; "
            "write the child within its parent",
        )


def _refuse_name(one: compiled.Defined) -> None:
    name = one.name
    if one.namespace or name.startswith(":"):
        raise InputFault(
            Reason.NAME_UNUSABLE,
            f"profile {name} asks for the policy namespace {one.namespace}; pods can't name profiles there, "
            "define it without a namespace",
        )
    if len(name.encode(errors="surrogateescape")) > NAME_BYTES or not name.isprintable():
        raise InputFault(
            Reason.NAME_UNUSABLE,
            f"a profile's name must be printable and have at most {NAME_BYTES} bytes: {ascii(name)[:80]}",
        )
    if top_level(name) in PROTECTED:
        raise InputFault(
            Reason.NAME_PROTECTED,
            f"profile {name} belongs to the container runtime and would change every container of a node; "
            "choose another name",
        )
