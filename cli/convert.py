"""Makes SecurityProfiles of what people have already: what `hauberk import` prints.

Raw AppArmor profiles, CIL modules, seccomp's JSON, and objects of the security-profiles-operator. Called by
the command `import`. What the cluster would refuse is imported all the same where it can be, with a warning
that says what the cluster will say: that is the place from where its author goes on.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from msgspec.structs import replace

from ..crds.errors import InputFault
from ..crds.models import AppArmor, ProfileSpec, Seccomp, SELinux
from ..crds.names import GROUP, top_level
from ..crds.reasons import Reason
from ..profiles.check import POLICY_BYTES, Judge, check, refuse_text
from ..profiles.cil import read as read_cil
from ..profiles.parser import fault_message
from ..profiles.selinux import judge as judge_module
from . import foreign
from .foreign import Shared, UnfitObjectError, translated
from .manifest import distinct, manifest, object_name
from .permissive import without_permissive
from .sources import looks_like_objects, no_yaml

# What makes a text an AppArmor profile that the parser refuses, and not something else altogether.
_PROFILE = re.compile(r"^\s*(?:(?:profile|hat)\s|[\"/^@])[^\n{]*(?:\n\s*)?\{", re.MULTILINE)
_BLOCK = re.compile(r"\(\s*block\s+([^\s()]+)")
_CIL_COMMENT = re.compile(r";[^\n]*")
_FRAGMENT = "{{% from 'apparmor.j2' import {0} %}}{{{{ {0}() }}}}"


@dataclass(frozen=True)
class Draft:
    """A SecurityProfile to be.

    Attributes:
        file: what it was made of.
        said: how it was called there; its name is made of that.
        spec: what it says.
        warnings: sentences on what its author has to do.
    """

    file: str
    said: str
    spec: ProfileSpec
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Imported:
    """What became of files.

    Attributes:
        manifests: SecurityProfiles as YAML.
        warnings: a line for each thing that has to be looked at.
        errors: a line for each thing that could not be imported.
        types: of the SecurityProfiles.
    """

    manifests: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    types: set[str] = field(default_factory=set)


class UnfitError(Exception):
    """A text that no SecurityProfile can be made of; the message says why."""


async def imported(texts: Iterable[tuple[str, str]], judge: Judge) -> Imported:
    """Return what became of files, each given by its name and text.

    Raises:
        NodeFault: the parser or the renderer could not be run.
    """
    made, taken = Imported(), dict[str, Draft]()
    for file, text in texts:
        try:
            drafts = await _drafts(file, text, judge, made)
        except UnfitError as error:
            made.errors.append(f"{file}: error: {error}")
            continue
        for draft in drafts:
            _put(draft, made, taken)
    return made


def _put(draft: Draft, made: Imported, taken: dict[str, Draft]) -> None:
    wanted = object_name(draft.said)
    name = distinct(wanted, taken)
    warnings = list(draft.warnings)
    if name != wanted:
        first = taken[wanted]
        same = (first.said, first.spec.type) == (draft.said, draft.spec.type)
        warnings.insert(
            0,
            f"{wanted} is taken by {first.file}"
            + (f"; both define {draft.said}, and the cluster takes the first [NameClash]" if same else ""),
        )
    elif name != draft.said:
        warnings.insert(0, f"it can't be called {draft.said!a}, which is no name for an object")
    taken[name] = draft
    made.warnings.extend(f"{draft.file}: warning: {name}: {one}" for one in warnings)
    made.types.add(draft.spec.type)
    made.manifests.append(f"# from {Path(draft.file).name}\n{manifest(name, draft.spec)}")


async def _drafts(file: str, text: str, judge: Judge, made: Imported) -> list[Draft]:
    if not text.strip():
        raise UnfitError("it is empty")
    text = text if text.endswith("\n") else f"{text}\n"
    if file.endswith((".yaml", ".yml")) or looks_like_objects(text):
        drafts = [one async for one in _of_objects(file, text, judge, made)]
    elif file.endswith(".json") or text.lstrip().startswith("{"):
        drafts = [_seccomp(file, text)]
    elif file.endswith(".cil") or text.lstrip().startswith(("(", ";")):
        drafts = [_cil(file, text)]
    else:
        drafts = [await _apparmor(file, text, judge)]
    return [await _judged(one, judge) for one in drafts]


async def _apparmor(file: str, text: str, judge: Judge) -> Draft:
    """Return the draft of a raw profile, called as the parser names the first that it defines."""
    spec = ProfileSpec(type="AppArmor", app_armor=AppArmor(policy=text))
    try:
        refuse_text(text)  # the parser is not asked to read what lies elsewhere
        names = await judge.parser.names(text)
    except InputFault:
        if not _PROFILE.search(text):
            raise UnfitError(
                "it holds no AppArmor profile, CIL module, seccomp profile or object of Kubernetes"
            ) from None
        return Draft(file, Path(file).name, spec)
    if not names:
        raise UnfitError("it defines no AppArmor profile")
    return Draft(file, top_level(names[0]), spec)


def _cil(file: str, text: str) -> Draft:
    bare = _CIL_COMMENT.sub("", text)
    if "(" not in bare:
        raise UnfitError("it holds no CIL")
    block = _BLOCK.search(bare)
    said = block[1] if block else Path(file).stem
    return Draft(file, said, ProfileSpec(type="SELinux", selinux=SELinux(policy=text)))


def _seccomp(file: str, text: str) -> Draft:
    try:
        body = json.loads(text)
    except json.JSONDecodeError as error:
        raise UnfitError(f"no JSON: line {error.lineno}: {error.msg}") from error
    if not isinstance(body, dict) or not isinstance(body.get("defaultAction"), str):
        raise UnfitError("no seccomp profile: it has no defaultAction")
    return Draft(file, Path(file).stem, ProfileSpec(type="Seccomp", seccomp=Seccomp(policy=text)))


async def _of_objects(file: str, text: str, judge: Judge, made: Imported) -> AsyncIterator[Draft]:
    """Yield what the objects of a file become; told is what can't be imported, or need not be."""
    try:
        bodies = [one for body in yaml.load_all(text, Loader=yaml.CSafeLoader) for one in _single(body)]
    except yaml.YAMLError as error:
        fault = no_yaml(error)
        raise UnfitError(f"{fault} (line {fault.line})") from error
    ours = [one for one in bodies if str(one.get("apiVersion")).startswith(f"{GROUP}/")]
    theirs = [one for one in bodies if str(one.get("apiVersion")).startswith(f"{foreign.GROUP}/")]
    if not theirs and not ours:
        raise UnfitError(f"it holds no object of {foreign.GROUP}, and no other that could be imported")
    if ours:
        made.warnings.append(f"{file}: warning: passed over what is Hauberk's already")
    shared = await _shared(judge) if theirs else Shared("", "")
    for body in theirs:
        try:
            one = translated(body, shared)
        except UnfitObjectError as error:
            made.errors.append(f"{file}: error: {error}")
        else:
            yield Draft(file, one.name, one.spec, one.remarks)


def _single(body: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the objects of a document: one, or those of a list."""
    if isinstance(body, dict) and isinstance(body.get("items"), list):
        for item in body["items"]:
            yield from _single(item)
    elif isinstance(body, dict):
        yield body


async def _shared(judge: Judge) -> Shared:
    """Return the rules of the fragments as text."""
    rules = [
        one
        for macro in ("runtime", "protect_kernel")
        for one in await judge.renderer.render(_FRAGMENT.format(macro), [{}], POLICY_BYTES)
    ]
    runtime, protect = (one for one in rules if isinstance(one, str))
    return Shared(runtime, protect)


async def _judged(draft: Draft, judge: Judge) -> Draft:
    """Return a draft in the mode that its text asks for, with what the cluster will say of it."""
    spec = draft.spec
    try:
        await check(spec, judge, {})
    except InputFault as fault:
        if asked := await _in_the_mode_of_its_text(spec, fault.reason, judge):
            return Draft(draft.file, draft.said, asked[0], (*draft.warnings, asked[1]))
        said = f"the cluster will refuse it: {fault_message(fault)} [{fault.reason}]"
        return Draft(draft.file, draft.said, spec, (*draft.warnings, said))
    return draft


async def _in_the_mode_of_its_text(
    spec: ProfileSpec, reason: Reason, judge: Judge
) -> tuple[ProfileSpec, str] | None:
    """Return a spec that only logs, as its text asks, and what to say of it; None where that is not all."""
    if spec.app_armor and reason is Reason.MODE_MISMATCH:
        asked = replace(spec, app_armor=replace(spec.app_armor, mode="Complain"))
        said = "its text has flags=(complain), so the mode is Complain, which only logs"
        return (asked, said) if await _passes(asked, judge) else None
    if spec.selinux and reason is Reason.STATEMENT_REFUSED:
        policy, named = without_permissive(spec.selinux.policy)
        asked = replace(spec, selinux=replace(spec.selinux, policy=policy, mode="Permissive"))
        if not named or not await _passes(asked, judge):
            return None
        # the mode is that of all types of a module: where some were not permissive it would be another module
        if named == set(judge_module(read_cil(policy)).types):
            said = "its text makes its types permissive, so the mode is Permissive, which only logs"
            return asked, f"{said}; `typepermissive` was taken out"
    return None


async def _passes(spec: ProfileSpec, judge: Judge) -> bool:
    try:
        await check(spec, judge, {})
    except InputFault:
        return False
    return True
