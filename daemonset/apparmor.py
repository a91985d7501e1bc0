"""Carries out the steps of a plan for AppArmor: compile, load, read back, record. Decides nothing.

Called by `reconciler`. The order is what makes a load safe: what is about to be loaded is announced on the
disk, the kernel takes it and is read back, and only then a record replaces the last good one (`persist`). A
text that fails leaves the last good one loaded and recorded.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import hashlib
import re
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, field
from typing import ClassVar

import msgspec

from ..crds.errors import InputFault, NodeFault
from ..crds.names import APPARMOR, host_file, top_level
from ..crds.reasons import Reason
from ..profiles import compiled
from ..profiles.check import refuse_defined, refuse_text, refuse_unconfined
from ..profiles.includes import refuse_includes
from ..profiles.parser import Parser
from . import adoption
from .adoption import Original
from .backend import Backend, Outcome, Prepared
from .cache import Cache, Compiled
from .holdings import Holding
from .host import Host, Loaded, Stamp, storing
from .plan import Key, Load, Persist, Prune, Release, Remove, foreign_names, mismatch, stale_names

# The node's boot compiles what is in /etc/apparmor.d with a parser of its own and no time limit: a text
# that takes longer than this to compile is loaded by the agent only.
BOOT_SECONDS = 2.0

# apparmor_parser(8) loads a file in complain mode when this folder has one of the same name.
_COMPLAIN_FOLDER = "force-complain"
_ABI = re.compile(r"^[ \t]*abi[ \t]+<abi/([^>\s]+)>[ \t]*,[ \t]*$", re.MULTILINE)
_HEAD = re.compile(
    r"# Written by Hauberk for SecurityProfile (\S+), revision (\S+), mode (\S+)\.\n"
    r"# Body: sha256 ([0-9a-f]{64})\."
)


def portable(flat: str, abis: frozenset[str]) -> str:
    """Return a flattened text without the abi rules that the node's parser has no file for.

    The abstractions of the image's parser name the newest abi, which an older parser refuses to read on
    without. Until the agent has loaded its own compilation, the boot's one uses the node's default abi.
    """
    return _ABI.sub(lambda rule: rule[0] if rule[1] in abis else "", flat)


def boot_file(holding: Holding, flat: str) -> bytes:
    """Return the file that the node's boot loads a profile from: what it is, and a flattened text."""
    body = ("# Includes are put in place. Changes made here are lost.\n" + flat).encode(
        errors="surrogateescape"
    )
    head = (
        f"# Written by Hauberk for SecurityProfile {holding.profile}, revision {holding.revision}, "
        f"mode {holding.mode}.\n# Body: sha256 {hashlib.sha256(body).hexdigest()}.\n"
    )
    return head.encode() + body


def boot_revision(content: bytes, link: str, name: str) -> str:
    """Return the revision that a boot file gives a node; empty where someone changed it or its mode.

    `link` is where the link of that name in the folder for complain mode leads, empty without one.
    """
    lines = content.split(b"\n", 2)
    head = _HEAD.fullmatch(b"\n".join(lines[:2]).decode(errors="replace"))
    if not head or len(lines) < 3 or hashlib.sha256(lines[2]).hexdigest() != head[4]:
        return ""
    if host_file(head[1]) != name:
        return ""
    return head[2] if link == (f"../{name}" if head[3] == "Complain" else "") else ""


def permissive(names: Iterable[str]) -> str:
    """Return a policy that allows everything to whatever is confined by these names."""
    return "".join(
        f"profile {_quoted(name)} flags=(attach_disconnected,mediate_deleted) {{\n  all,\n}}\n"
        for name in names
    )


def _quoted(name: str) -> str:
    """Return a name as a text has to spell it for the parser to read just that.

    The parser keeps each backslash that it does not take for the start of an escape, and keeps an escaped one
    as two (parser_misc.c, processunquoted): doubling them would name another profile.
    """
    escaped = name.replace("\\\\", r"\134").replace('"', r"\"")
    return f'"{escaped}"'


def _former(before: Holding | None, names: set[str]) -> list[str]:
    """Return what an earlier text defined and the new one does not."""
    return sorted({*before.modes, *before.former} - names) if before else []


# What the kernel means by its errors (policy.c: aa_may_manage_policy, replacement_allowed,
# aa_replace_profiles; policy_unpack.c: aa_unpack).
_MEANT = {
    errno.EACCES: "the agent lacks CAP_MAC_ADMIN, or the node's policy is locked until its next boot "
    "(apparmor.lock_policy)",
    errno.EPERM: "the kernel lets nobody replace one of the policy's names",
    errno.EPROTO: "the policy is not as this kernel reads it",
    errno.EPROTONOSUPPORT: "the policy has a version that this kernel does not know",
    errno.ENOENT: "a profile that one of the policy's is the child of is not loaded",
    errno.ENOMEM: "the node is out of memory",
}


def refusal(error: OSError) -> str:
    """Return a sentence on why the kernel did not take a policy."""
    said = f"the kernel refuses the policy: {error.strerror}"
    meant = _MEANT.get(error.errno or 0)
    return f"{said}; {meant}" if meant else said


@dataclass(frozen=True)
class CompiledText(Prepared):
    """A text that compiled here."""

    compiled: Compiled


Loads = dict[Key, Holding | Exception]


@dataclass(frozen=True)
class AppArmor(Backend):
    """The AppArmor backend of one node."""

    type: ClassVar[str] = APPARMOR
    parser: Parser
    cache: Cache
    _boot: dict[str, tuple[Stamp, str, str]] = field(
        default_factory=dict[str, tuple[Stamp, str, str]], init=False, compare=False, repr=False
    )

    @classmethod
    async def open(cls, host: Host, parser: Parser) -> AppArmor:
        """Return the backend, with what a predecessor's end left half-written swept away.

        Raises:
            NodeFault: the parser can't be run.
        """
        for folder in (host.policies, host.policies / _COMPLAIN_FOLDER):
            host.sweep(folder, host_file(""))
        cache = Cache(host, f"{await parser.fingerprint()} {host.features()}")
        host.sweep(cache.folder, "")
        return cls(host, parser, cache)

    def set_aside(self) -> list[NodeFault]:
        """Set aside what was torn of what was taken over from the host, and return a fault for each."""
        return adoption.set_aside(self.host)

    def loaded(self, holdings: Mapping[str, Holding]) -> Mapping[str, Loaded]:
        """Return what the kernel holds now, by name."""
        del holdings
        return self.host.kernel()

    def changes(self, changed: asyncio.Event) -> AbstractContextManager[None]:
        """Set `changed` whenever anyone changes the kernel's policy, for as long as the context lasts."""
        return self.host.changes(changed)

    async def carry_out(
        self,
        steps: Sequence[Prune | Remove | Release],
        loads: Sequence[Prepared],
        holdings: Mapping[str, Holding],
    ) -> Outcome:
        """Take away, then load; return what became of each step."""
        outcome: Outcome = {}
        held = dict(holdings)
        for step in steps:
            try:
                outcome[step.key] = became = await self._take(step, held)
            except Exception as error:  # noqa: BLE001 - a bug that one meets must not stop the others
                outcome[step.key] = error
                continue
            if became:
                held[became.profile] = became
            else:
                held.pop(step.holding.profile, None)
        compiled_ones = [one for one in loads if isinstance(one, CompiledText)]
        return outcome | {**await self.load(compiled_ones, held)}

    async def _take(self, step: Prune | Remove | Release, held: Mapping[str, Holding]) -> Holding | None:
        match step:
            case Prune():
                return await self.prune(step)
            case Release():
                return await self.release(step, held)
            case Remove():
                await self.remove(step, held)
                return None

    # --- load ---------------------------------------------------------------------------------------------

    async def prepare(
        self, step: Load, slot: AbstractAsyncContextManager[object] | None = None
    ) -> CompiledText:
        """Compile a text, or find it compiled, and judge what it defines; compile only within the slot.

        Raises:
            InputFault: the text is refused, on this node at least.
            NodeFault: the parser can't be run.
        """
        refuse_text(step.text)
        refuse_includes(step.text, self.parser.base)
        binary = self.cache.find(step.text, step.mode)
        if binary is None:
            async with slot or contextlib.nullcontext():
                began = time.monotonic()
                made = await self.parser.compile(step.text, step.mode)
                slow = time.monotonic() - began > BOOT_SECONDS
            binary = self.cache.put(step.text, step.mode, made, slow=slow)
        defined = compiled.read(binary.binary)
        refuse_defined(defined, step.mode, allow_attachment=step.allow_attachment)
        refuse_unconfined(step.text, defined)
        modes = {one.name: one.mode for one in defined}
        digests = sorted(compiled.digests(binary.binary))
        holding = step.holding(APPARMOR, modes, digests, boots=not binary.slow)
        return CompiledText(step, holding, binary)

    async def load(self, prepared: Sequence[CompiledText], holdings: Mapping[str, Holding]) -> Loads:
        """Load texts, and return what the kernel was read to hold, or why not.

        What the kernel holds already is not loaded again. `holdings` are all that is held now.
        """
        outcome: Loads = {}
        claimed = dict(holdings)
        boot_id = self.host.boot_id()
        kernel = self.host.kernel()
        ready: list[tuple[CompiledText, Holding]] = []
        for one in prepared:
            before = holdings.get(one.step.profile)
            former = _former(before, set(one.holding.modes))
            holding = msgspec.structs.replace(one.holding, boot_id=boot_id, former=former)
            try:
                await self._refuse_foreign(one.step, holding, claimed, kernel)
            except Exception as error:  # noqa: BLE001 - a bug that one meets must not stop the others
                outcome[one.step.key] = error
                continue
            taken = self._originals(one.step.profile, holding.modes)
            holding = msgspec.structs.replace(holding, adopted=bool(taken))
            claimed[one.step.profile] = holding
            if mismatch(holding, kernel, ""):
                ready.append((one, holding))
            else:
                outcome[one.step.key] = holding
        if ready:
            self.records.announce(holding for _, holding in ready)
            outcome |= await self._into_kernel(ready)
        return outcome

    async def _into_kernel(self, ready: Sequence[tuple[CompiledText, Holding]]) -> Loads:
        refused = await self._replace(*(one.compiled.binary for one, _ in ready))
        kernel = self.host.kernel()
        outcome: Loads = {}
        for (one, holding), fault in zip(ready, refused, strict=True):
            wrong = mismatch(holding, kernel, holding.boot_id)
            # Without hashes the text before looks the same: only a kernel that took this one proves it.
            if not wrong and (fault is None or not mismatch(holding, kernel, "")):
                outcome[one.step.key] = holding
            else:
                outcome[one.step.key] = fault or NodeFault(Reason.NOT_IN_KERNEL, f"after the load {wrong}")
        return outcome

    async def _replace(self, *policies: bytes) -> list[NodeFault | None]:
        """Have the kernel take compiled policies: what apparmor_parser does last, without a run of it.

        All are tried. Returns for each why the kernel refuses it, None where it took it.
        """

        def refusals() -> list[NodeFault | None]:
            found: list[NodeFault | None] = []
            for policy in policies:
                try:
                    self.host.replace(policy)
                except OSError as error:
                    found.append(NodeFault(Reason.LOAD_FAILED, refusal(error)))
                else:
                    found.append(None)
            return found

        return await asyncio.to_thread(refusals)  # the kernel verifies a large policy for long

    async def _replace_all(self, *policies: bytes) -> None:
        """Have the kernel take compiled policies.

        Raises:
            NodeFault: the kernel refuses one of them at least; the first that it refuses.
        """
        for fault in filter(None, await self._replace(*policies)):
            raise fault

    async def _refuse_foreign(
        self, step: Load, holding: Holding, holdings: Mapping[str, Holding], kernel: Mapping[str, Loaded]
    ) -> None:
        foreign = foreign_names(holding.profile, holding, holdings, kernel)
        if "" in foreign.values():  # unless the record was lost, and the boot loaded Hauberk's own file
            own = await self._boot_names(holding.profile)
            foreign = {name: owner for name, owner in foreign.items() if owner or name not in own}
        for name, owner in foreign.items():
            if owner:
                raise NodeFault(
                    Reason.NAME_CLASH, f"SecurityProfile {owner} holds the kernel name {name} here"
                )
            if not step.adopt:
                raise NodeFault(
                    Reason.HOST_OWNED,
                    f"the node has a profile {name} that Hauberk did not load and does not replace; choose "
                    "another name, remove it from the node, or have it taken over by spec.adopt",
                )
        if foreign:
            await self._save(holding.profile, foreign, kernel)

    async def _boot_names(self, profile: str) -> set[str]:
        """Return the kernel names that Hauberk's boot file defines; none if someone changed it."""
        if not self.boot_files().get(profile):
            return set()
        text = self.host.read(self.host.policies, host_file(profile)) or b""
        return set(await self.parser.names(text.decode(errors="surrogateescape")))

    # --- what the host had --------------------------------------------------------------------------------

    async def _save(self, profile: str, names: Iterable[str], kernel: Mapping[str, Loaded]) -> None:
        """Keep what the host has under these names, to be given back."""
        originals = {one.name: one for one in adoption.read(self.host, profile)}
        # What was kept already was the host's before Hauberk, whose record of it is lost, put its own there.
        wanted = dict.fromkeys(top_level(name) for name in names)
        for name in (name for name in wanted if name not in originals):
            family = [one for one in kernel if one == name or one.startswith(f"{name}//")]
            policy = await self._original(name, family, kernel)
            originals[name] = Original(name, {one: kernel[one].mode for one in family}, policy)
        with storing("the host's profile is not taken over, for the node's disk took no copy of it"):
            adoption.write(self.host, profile, list(originals.values()))

    async def _original(self, name: str, family: Sequence[str], kernel: Mapping[str, Loaded]) -> bytes:
        """Return policy that defines a host's profile: the kernel's copy, else its text compiled anew."""
        # Each from where it was loaded last: the parser gives a kernel children in a load of their own.
        raw = {one: self.host.raw(one) for one in sorted(family, key=lambda one: one.count("//"))}
        with contextlib.suppress(ValueError):  # a namespace, or none of it was kept
            return b"".join(compiled.only(blob or b"", [one]) for one, blob in raw.items())
        theirs = dataclasses.replace(self.parser, base=self.host.policies)
        modes = {one: kernel[one].mode for one in family}
        for text in self.host.policy_texts():
            with contextlib.suppress(InputFault, ValueError):  # one that this parser refuses is not the one
                for mode in ("Enforce", "Complain") if name in await theirs.names(text) else ():
                    policy = compiled.only(await theirs.compile(text, mode), family)
                    if {one.name: one.mode for one in compiled.read(policy)} == modes:
                        return policy
        raise NodeFault(
            Reason.ADOPT_REFUSED,
            f"the host's {name} can be saved neither from the kernel nor from a file in its apparmor.d, so "
            "it could not be given back; remove it from the node by hand",
        )

    def _originals(self, profile: str, names: Iterable[str]) -> list[Original]:
        """Return what the host had under these names."""
        wanted = {top_level(name) for name in names}
        return [one for one in adoption.read(self.host, profile) if one.name in wanted]

    async def _give_back(self, originals: Sequence[Original]) -> None:
        """Load what the host had.

        Raises:
            NodeFault: the kernel does not take it.
        """
        await self._replace_all(*(one.policy for one in originals))
        if lacking := sorted(_names_in(originals) - self.host.kernel().keys()):
            raise NodeFault(Reason.NOT_IN_KERNEL, f"the host's {lacking[0]} was given back and is not there")

    # --- the disk -----------------------------------------------------------------------------------------

    def boot_files(self) -> dict[str, str]:
        """Return the revision that the node's apparmor.d has, by profile; none where someone changed it."""
        found: dict[str, str] = {}
        prefix = host_file("")
        links = self.host.links(self.host.policies / _COMPLAIN_FOLDER, prefix)
        stamps = self.host.stamps(self.host.policies, prefix)
        for name, stamp in stamps.items():
            link = links.get(name, "")
            # Read again only when it changed: a node may have hundreds.
            if name not in self._boot or self._boot[name][:2] != (stamp, link):
                content = self.host.read(self.host.policies, name) or b""
                self._boot[name] = stamp, link, boot_revision(content, link, name)
            found[name.removeprefix(prefix)] = self._boot[name][2]
        for name in self._boot.keys() - stamps.keys():
            del self._boot[name]
        return found

    async def persist(self, step: Persist) -> None:
        """Record a loaded profile on the node's disk, and write it to where the node's own boot loads it.

        There with its includes put in place, so that the node's abstractions can't change what it means;
        a text that is slow to compile is kept from the boot.

        Raises:
            NodeFault: the disk does not take it; the profile stays loaded.
        """
        await super().persist(step)
        holding = step.holding
        name = host_file(holding.profile)
        with storing("loaded, but not written to the node's apparmor.d, so its boot will not load it"):
            if holding.boots and not holding.released:
                flat = portable(await self.parser.flatten(holding.text), self.host.abis())
                if holding.mode == "Complain":
                    self.host.link(self.host.policies / _COMPLAIN_FOLDER, name, f"../{name}")
                else:
                    self.host.delete(self.host.policies / _COMPLAIN_FOLDER, name)
                self.host.write(self.host.policies, name, boot_file(holding, flat))
            else:
                self._keep_from_boot(name)

    def settle(self, holdings: Iterable[Holding], wanted: Iterable[tuple[str, str]]) -> None:
        """Drop what only a crash would have needed, and what nobody holds or wants any more."""
        with contextlib.suppress(OSError):  # a disk that can't be written can't be tidied either
            self.records.settle()
            held = list(holdings)
            self.cache.keep([*((one.text, one.mode) for one in held), *wanted])
            # where a record was torn nobody knows whether what was the host's was given back: that stays
            adoption.keep(self.host, {one.profile for one in held} | self.records.torn())

    def _keep_from_boot(self, name: str) -> None:
        for folder in (self.host.policies / _COMPLAIN_FOLDER, self.host.policies):
            self.host.delete(folder, name)

    # --- unload -------------------------------------------------------------------------------------------

    async def prune(self, step: Prune) -> Holding:
        """Remove names that an earlier text left in the kernel; return the record without them, to persist.

        Raises:
            NodeFault: a task is still confined by one of them.
        """
        given_up = [name for name in step.names if top_level(name) not in step.holding.modes]
        originals = self._originals(step.holding.profile, given_up)
        await self._replace_or_drop(originals, set(step.names) - _names_in(originals))
        return msgspec.structs.replace(step.holding, former=[])

    async def remove(self, step: Remove, holdings: Mapping[str, Holding]) -> None:
        """Unload a profile and forget it; what it took over from the host is the host's again.

        Raises:
            NodeFault: a task is confined by it (unloading would leave that task unconfined), or the disk
                keeps its file.
        """
        holding = step.holding
        await self._replace_or_drop(*self._going(holding, holdings))
        with storing("unloaded, but its file can't be deleted, so the node's boot would load it again"):
            self._keep_from_boot(host_file(holding.profile))
            self.records.delete(holding.profile)
            adoption.write(self.host, holding.profile, [])

    async def release(self, step: Release, holdings: Mapping[str, Holding]) -> Holding:
        """Put a permissive profile under each name of one in use; return the record of it, to persist.

        What it took over from the host is the host's again: made permissive it would free the host's tasks.

        Raises:
            NodeFault: the kernel does not take it.
        """
        holding = step.holding
        originals, names = self._going(holding, holdings)
        if not names:
            raise NodeFault(Reason.NOT_IN_KERNEL, "nothing of it is left to be released")
        text = permissive(sorted(names))
        binary = await self.parser.compile(text, "Enforce")
        released = msgspec.structs.replace(
            holding,
            text=text,
            mode="Enforce",
            modes={one.name: one.mode for one in compiled.read(binary)},
            digests=sorted(compiled.digests(binary)),
            boot_id=self.host.boot_id(),
            former=[],
            boots=False,
            released=True,
        )
        if released.modes.keys() != names:
            raise NodeFault(Reason.LOAD_FAILED, "its names can't be spelled, so nothing can take its place")
        if originals:
            await self._give_back(originals)
        await self._replace_all(binary)
        if wrong := mismatch(released, self.host.kernel(), released.boot_id):
            raise NodeFault(Reason.NOT_IN_KERNEL, f"after the load {wrong}")
        return released

    def _going(self, holding: Holding, holdings: Mapping[str, Holding]) -> tuple[list[Original], set[str]]:
        """Return what is to be the host's again when a profile goes, and which names leave the kernel.

        With what earlier texts left behind: without a record it would be the host's for ever. Without what
        another profile took over meanwhile.
        """
        others = {name for one in holdings.values() if one.profile != holding.profile for name in one.modes}
        names = {*holding.modes, *holding.former} - others
        held = self.host.kernel()
        originals = self._originals(holding.profile, names)
        going = {*(name for name in names if name in held), *stale_names(holding, holdings, held)}
        return originals, going - _names_in(originals)

    async def _replace_or_drop(self, originals: Sequence[Original], names: Collection[str]) -> None:
        """Give back what was the host's and remove the other names; nothing of it while one is in use."""
        self._refuse_used(names)
        if originals:
            await self._give_back(originals)
            self._refuse_used(names)  # that took its time
        for name in sorted(names, key=lambda name: (-name.count("//"), name)):  # children first
            self.host.remove(name)

    def _refuse_used(self, names: Collection[str]) -> None:
        if not names:
            return
        confined = self.host.confined()
        if held := {name: confined[name] for name in sorted(names) if confined[name]}:
            tasks = sum(held.values())
            raise NodeFault(
                Reason.IN_USE, f"{tasks} task{'s are' if tasks > 1 else ' is'} confined by {', '.join(held)}"
            )


def _names_in(originals: Iterable[Original]) -> set[str]:
    return {name for one in originals for name in one.modes}
