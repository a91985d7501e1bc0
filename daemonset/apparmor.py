"""Carries out the steps of a plan for AppArmor: compile, load, read back, record. Decides nothing.

Called by `agent`. The order within a load is what makes it safe: nothing on disk changes before the kernel
took the policy and was read back, so a text that fails leaves the last good one loaded and recorded.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from ..crds.errors import NodeFault
from ..crds.names import host_file
from ..crds.reasons import Reason
from ..profiles import compiled
from ..profiles.check import refuse_defined, refuse_text, refuse_unconfined
from ..profiles.parser import Parser
from . import holdings as records
from .holdings import Holding
from .host import Host
from .plan import Load, Persist, Prune, Remove, foreign_names, mismatch, stale_names

# The node's boot compiles what is in /etc/apparmor.d with a parser of its own and no time limit: a text
# that takes longer than this to compile is loaded by the agent only.
BOOT_SECONDS = 2.0

# apparmor_parser(8) loads a file in complain mode when this folder has one of the same name.
_COMPLAIN_FOLDER = "force-complain"
_ABI = re.compile(r"^[ \t]*abi[ \t]+<abi/([^>\s]+)>[ \t]*,[ \t]*$", re.MULTILINE)
_HEAD = re.compile(r"^# Written by Hauberk for SecurityProfile (\S+), revision (\S+)\.$")


def portable(flat: str, abis: frozenset[str]) -> str:
    """Return a flattened text without the abi rules that the node's parser has no file for.

    The abstractions of the image's parser name the newest abi, which an older parser refuses to read on
    without. Until the agent has loaded its own compilation, the boot's one uses the node's default abi.
    """
    return _ABI.sub(lambda rule: rule[0] if rule[1] in abis else "", flat)


def _former(before: Holding | None, names: set[str]) -> list[str]:
    """Return what an earlier text defined and the new one does not."""
    return sorted({*before.modes, *before.former} - names) if before else []


@dataclass(frozen=True)
class AppArmor:
    """The AppArmor backend of one node."""

    host: Host
    parser: Parser

    async def load(self, step: Load, holdings: Mapping[str, Holding]) -> Holding:
        """Load a text and return the record of it, read back from the kernel; `persist` writes it.

        Raises:
            InputFault: the text is refused, on this node at least.
            NodeFault: the kernel refuses it, or a name belongs to someone else.
        """
        refuse_text(step.text)
        began = time.monotonic()
        binary = await self.parser.compile(step.text, step.mode)
        boots = time.monotonic() - began <= BOOT_SECONDS
        defined = compiled.read(binary)
        refuse_defined(defined, step.mode)
        refuse_unconfined(step.text, defined)
        holding = Holding(
            profile=step.profile,
            uid=step.uid,
            revision=step.revision,
            mode=step.mode,
            text=step.text,
            modes={one.name: one.mode for one in defined},
            digests=sorted(compiled.digests(binary)),
            boot_id=self.host.boot_id(),
            boots=boots,
            former=_former(holdings.get(step.profile), {one.name for one in defined}),
        )
        self._refuse_foreign(holding, holdings)
        if mismatch(holding, self.host.kernel(), ""):
            await self.parser.load(binary)
        self._verify(holding)
        return holding

    def boot_files(self) -> dict[str, str]:
        """Return the revision that was written to the node's apparmor.d, by profile."""
        found: dict[str, str] = {}
        for first_line in self.host.first_lines(self.host.policies, host_file("")):
            if head := _HEAD.match(first_line):
                found[head[1]] = head[2]
        return found

    async def persist(self, step: Persist) -> None:
        """Record a loaded profile on the node's disk, and write it to where the node's own boot loads it.

        There with its includes put in place, so that the node's abstractions can't change what it means;
        a text that is slow to compile is kept from the boot.

        Raises:
            NodeFault: the disk does not take it; the profile stays loaded.
        """
        holding = step.holding
        self._record(holding)
        name = host_file(holding.profile)
        complain = self.host.policies / _COMPLAIN_FOLDER
        if not holding.boots:
            self.host.delete(complain, name)
            self.host.delete(self.host.policies, name)
            return
        head = (
            f"# Written by Hauberk for SecurityProfile {holding.profile}, revision {holding.revision}.\n"
            "# Includes are put in place. Changes made here are lost.\n"
        )
        flat = portable(await self.parser.flatten(holding.text), self.host.abis())
        try:
            if holding.mode == "Complain":
                self.host.link(complain, name, f"../{name}")
            else:
                self.host.delete(complain, name)
            self.host.write(self.host.policies, name, head + flat)
        except OSError as error:
            raise NodeFault(
                Reason.STATE_UNWRITABLE,
                "loaded, but not written to the node's apparmor.d, so its boot will not load it: "
                f"{error.strerror}",
            ) from error

    def prune(self, step: Prune) -> Holding:
        """Remove names that an earlier text left in the kernel; return the record without them, to persist.

        Raises:
            NodeFault: a task is still confined by one of them.
        """
        self._drop(step.names)
        return msgspec.structs.replace(step.holding, former=[])

    def remove(self, step: Remove) -> None:
        """Unload a profile and forget it.

        Raises:
            NodeFault: a task is confined by it; unloading would leave that task unconfined.
        """
        holding = step.holding
        held = self.host.kernel()
        # With what earlier texts left behind: without a record it would be the host's for ever.
        self._drop((*(name for name in holding.modes if name in held), *stale_names(holding, {}, held)))
        for folder in (self.host.policies / _COMPLAIN_FOLDER, self.host.policies):
            self.host.delete(folder, host_file(holding.profile))
        records.delete(self.host, holding.profile)

    def _refuse_foreign(self, holding: Holding, holdings: Mapping[str, Holding]) -> None:
        foreign = foreign_names(holding.profile, holding, holdings, self.host.kernel())
        for name, owner in foreign.items():
            if owner:
                raise NodeFault(
                    Reason.NAME_CLASH, f"SecurityProfile {owner} holds the kernel name {name} here"
                )
            raise NodeFault(
                Reason.HOST_OWNED,
                f"the node has a profile {name} that Hauberk did not load and does not replace; "
                "choose another name, or remove it from the node",
            )

    def _verify(self, holding: Holding) -> None:
        if wrong := mismatch(holding, self.host.kernel(), holding.boot_id):
            raise NodeFault(Reason.NOT_IN_KERNEL, f"after the load {wrong}")

    def _drop(self, names: tuple[str, ...]) -> None:
        """Remove names from the kernel, children first, none of them if a task is confined by any."""
        if not names:
            return
        confined = self.host.confined()
        held = {name: confined[name] for name in names if confined[name]}
        if held:
            tasks = sum(held.values())
            raise NodeFault(
                Reason.IN_USE, f"{tasks} task{'s are' if tasks > 1 else ' is'} confined by {', '.join(held)}"
            )
        for name in sorted(names, key=lambda name: name.count("//"), reverse=True):
            self.host.remove(name)

    def _record(self, holding: Holding) -> None:
        try:
            records.write(self.host, holding)
        except OSError as error:
            raise NodeFault(
                Reason.STATE_UNWRITABLE, f"loaded, but the node's disk took no record of it: {error.strerror}"
            ) from error
