"""Decides whether a policy may be published: the one place where a text is refused before any node sees it.

Called by the admission for every SecurityProfile whose text it has not judged yet. `check` asks the real
parser of its type; the rules beside it are pure and give a fault for the first thing that is wrong, in the
order in which a reader would fix it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..crds.errors import InputFault
from ..crds.facts import facts_key, visible
from ..crds.models import AppArmor, Facts, ProfileSpec, SELinux, Text, Unrendered
from ..crds.names import PROTECTED, SELINUX, text_id, top_level
from ..crds.reasons import Reason
from . import compiled, seccomp, selinux
from .advice import Looked
from .advice import advice as advice_on
from .includes import refuse_includes, refuse_spelling, with_included
from .kinds import COMMON_OF
from .parser import Parser, fault_message
from .secilc import Secilc

if TYPE_CHECKING:  # the agent judges texts too, and never renders: jinja2 would be a tenth of its memory
    from .rendering import Renderer

POLICY_BYTES = 128 * 1024
# Of what a template makes for all kinds of nodes together; the schema of ProfileRevisions says the same.
TEXTS, TEXTS_BYTES = 64, 1 << 20
VALUES_BYTES = 64 * 1024
NAMES = 64
# The schema of ProfileRevisions says the same.
MODULE_NAMES = 256
# What a profile may be in the kernel; unconfined is judged by `refuse_unconfined`.
_MODES = frozenset({"enforce", "complain", "kill", "unconfined"})
_COMMENT = re.compile(r"#[^\n]*")
NAME_BYTES = 256


@dataclass(frozen=True)
class Accepted:
    """A policy that passed, a template: for one kind of node at least.

    Attributes:
        texts: every distinct text, with the kinds of nodes that it is for.
        unrendered: the kinds for which the template makes no text that can be loaded, and why.
        advice: sentences on what is probably not meant; no part of the verdict.
    """

    texts: tuple[Text, ...] = ()
    unrendered: tuple[Unrendered, ...] = ()
    advice: tuple[str, ...] = field(default=(), compare=False)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the kernel names that the texts define, each once, in their order."""
        return tuple(dict.fromkeys(name for text in self.texts for name in text.names))

    @property
    def kinds(self) -> frozenset[str]:
        """Return the kinds of nodes that it says something about."""
        return frozenset(key for one in (*self.texts, *self.unrendered) for key in one.facts)


@dataclass(frozen=True)
class Judge:
    """What judging takes: the languages' real parsers, and the process that renders templates."""

    parser: Parser
    renderer: Renderer
    secilc: Secilc = field(default_factory=Secilc)


async def check(spec: ProfileSpec, judge: Judge, kinds: Mapping[str, Facts]) -> Accepted:
    """Return the texts of a profile's policy; `kinds`: of nodes that hold its type, by their `facts_key`.

    Without any node that is known a template is tried on common ones, and passes with no text yet.

    Raises:
        InputFault: it is refused, a template for all kinds of nodes; the message says by whom, why, what to
        do. NodeFault: the parser or the renderer itself could not be run.
    """
    _refuse_size(spec.policy)
    if spec.template is None:
        found, advised = await _judged(spec.policy, spec, judge, kinds)
        return Accepted(
            (Text(id=text_id(spec.policy), text=spec.policy, names=found),), advice=tuple(advised)
        )
    if kinds:
        return await _check_template(spec, spec.template.values, judge, kinds)
    common = {facts_key(facts): facts for facts in COMMON_OF[spec.type]}
    tried = await _check_template(spec, spec.template.values, judge, common)
    return Accepted(advice=tried.advice)


async def _judged(
    policy: str, spec: ProfileSpec, judge: Judge, kinds: Mapping[str, Facts]
) -> tuple[list[str], list[str]]:
    """Return the names that a text defines in a kernel, and what is advised; seccomp has no names."""
    if spec.app_armor:
        defined = await check_text(policy, spec.app_armor, judge.parser)
        return [one.name for one in defined], _advised(policy, defined, spec.app_armor, judge.parser, kinds)
    if spec.selinux:
        return await _judged_module(policy, spec.selinux, judge.secilc)
    seccomp.check_text(policy)
    return [], []


async def _judged_module(policy: str, wanted: SELinux, secilc: Secilc) -> tuple[list[str], list[str]]:
    _refuse_size(policy)
    module = await selinux.check_text(policy, secilc, allow_host_types=wanted.allow_host_types)
    names = list(module.types or module.blocks)
    if len(names) > MODULE_NAMES:
        raise InputFault(
            Reason.POLICY_TOO_LARGE,
            f"the module declares {len(names)} types, at most {MODULE_NAMES} are allowed; split it up",
        )
    if wanted.mode == "Enforce":
        return names, []
    if not module.types:
        raise InputFault(
            Reason.MODE_MISMATCH,
            "the module declares no type that could be permissive; leave spec.selinux.mode out",
        )
    return names, ["spec.selinux.mode is Permissive: what the policy does not allow is logged, and allowed"]


async def check_text(policy: str, wanted: AppArmor, parser: Parser) -> list[compiled.Defined]:
    """Return the profiles that a text defines, top-level ones and children, in the text's order.

    Raises:
        InputFault: it is refused.
        NodeFault: the parser could not be run.
    """
    refuse_text(policy)
    refuse_includes(policy, parser.base)
    binary = await parser.compile(policy, wanted.mode)
    defined = compiled.read(binary)
    refuse_defined(defined, wanted.mode, allow_attachment=wanted.allow_attachment)
    refuse_unconfined(policy, defined)
    return defined


def _advised(
    policy: str, defined: list[compiled.Defined], wanted: AppArmor, parser: Parser, kinds: Mapping[str, Facts]
) -> list[str]:
    named = {described(facts): facts for facts in kinds.values()}
    return advice_on(Looked(policy, with_included(policy, parser.base), defined, wanted.mode), named)


async def _check_template(
    spec: ProfileSpec, values: Mapping[str, Any], judge: Judge, kinds: Mapping[str, Facts]
) -> Accepted:
    if len(json.dumps(values)) > VALUES_BYTES:
        raise InputFault(
            Reason.POLICY_TOO_LARGE, f"spec.template.values has more than {VALUES_BYTES} bytes as JSON"
        )
    contexts = [{**visible(facts), "values": values} for facts in kinds.values()]
    rendered = await judge.renderer.render(spec.policy, contexts, POLICY_BYTES)
    of_text: dict[str, list[str]] = {}
    faults: list[tuple[list[str], InputFault]] = []
    for key, one in zip(kinds, rendered, strict=True):
        if isinstance(one, InputFault):
            _add(faults, key, one)
        else:
            of_text.setdefault(one, []).append(key)
    texts: list[Text] = []
    advised: dict[str, None] = {}  # each sentence once, in order
    for text, keys in of_text.items():
        try:
            found, advice = await _judged(text, spec, judge, {key: kinds[key] for key in keys})
        except InputFault as fault:
            faults.append((keys, fault))
        else:
            texts.append(Text(id=text_id(text), facts=keys, text=text, names=found))
            advised |= dict.fromkeys(advice)
    if faults and not texts:
        keys, fault = faults[0]
        raise InputFault(fault.reason, f"for {described(kinds[keys[0]])}: {fault.message}")
    if len(texts) > TEXTS or sum(len(one.text.encode()) for one in texts) > TEXTS_BYTES:
        raise InputFault(
            Reason.POLICY_TOO_LARGE,
            f"the template makes {len(texts)} texts; it may make {TEXTS}, of {TEXTS_BYTES} bytes together",
        )
    return Accepted(
        tuple(texts),
        tuple(
            Unrendered(facts=keys, reason=fault.reason, message=fault_message(fault))
            for keys, fault in faults
        ),
        tuple(advised),
    )


def _add(faults: list[tuple[list[str], InputFault]], key: str, fault: InputFault) -> None:
    """Take note of a kind's fault: with those that have the same."""
    for keys, other in faults:
        if other.message == fault.message:
            keys.append(key)
            return
    faults.append(([key], fault))


def described(facts: Facts) -> str:
    """Return what a kind of node is, in words for a message."""
    seen = visible(facts)["node"]
    system = " ".join(one for one in (seen["os"]["id"], seen["os"]["version"]) if one) or "an unknown system"
    kernel = f"{seen['kernel']['major']}.{seen['kernel']['minor']}"
    return f"{system} (kernel {kernel}, {seen['arch'] or 'any machine'})"


def clashing(owner: str, name: str, profile_type: str) -> str:
    """Return what to say of a kernel name that another SecurityProfile holds."""
    what = "type" if profile_type == SELINUX else "profile"
    return (
        f"SecurityProfile {owner} already holds the kernel name {name}, and a kernel has one {what} of a "
        f"name; rename the {what} in this policy, or delete the other"
    )


def _refuse_size(policy: str) -> None:
    size = len(policy.encode())
    if size > POLICY_BYTES:
        raise InputFault(
            Reason.POLICY_TOO_LARGE,
            f"the policy has {size} bytes, at most {POLICY_BYTES} are allowed; split it up",
        )


def refuse_text(policy: str) -> None:
    """Refuse what is wrong with a text whatever the parser may think of it.

    Raises:
        InputFault: too large, a NUL character, or an include that names a file elsewhere.
    """
    _refuse_size(policy)
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
        if one.mode not in _MODES:
            raise InputFault(
                Reason.MODE_MISMATCH,
                f"profile {one.name} has flags=({one.mode}), which asks a program that no node has; "
                "remove the flag",
            )


def refuse_unconfined(policy: str, defined: list[compiled.Defined]) -> None:
    """Refuse flags=(unconfined), under which a profile is a name that confines nothing.

    A profile with `default_allow` looks the same in the binary and may still deny: the text tells them apart.

    Raises:
        InputFault: with the name of the first such profile.
    """
    meant = "default_allow" in _COMMENT.sub("", policy)
    for one in defined:
        if one.mode == "unconfined" and not meant:
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
