"""Carries out the steps of a plan for SELinux: judge, install in one transaction, read back. Decides nothing.

Called by `reconciler`. A module is loaded when the node's store has exactly it and the kernel knows every
type that it declares, in the right mode: the store alone proves nothing, for a policy may fail to be loaded.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import msgspec

from ..crds.errors import NodeFault
from ..crds.names import SELINUX, selinux_module
from ..crds.reasons import Reason
from ..profiles import selinux
from ..profiles.secilc import Secilc
from .backend import Backend, Outcome, Prepared
from .holdings import Holding
from .host import Loaded, storing
from .plan import Key, Load, Prune, Release, Remove, mismatch
from .selinuxfs import SELinuxFS
from .semodule import Failed, Store

# A module without types of its own (a block that others inherit) has its blocks' names in this mode.
BLOCK = "block"
_PERMISSIVE = "permissive"
# What is applied together comes one by one: each is judged and published by itself. So much of what a run
# takes is waited for more, within these bounds: the slower the node, the dearer a run that could be saved.
QUIET_SHARE = 1 / 3
QUIET_SECONDS = (1.5, 5.0)
# Of all of Hauberk's modules on a node. libsepol numbers a policy's types and attributes with 16 bits and
# does not notice where it runs out of them; a distribution's own policy has some five thousand.
MOST_TYPES = 20_000


@dataclass(frozen=True)
class _Change:
    """One module in a transaction: the text to install, or None to remove it."""

    key: Key
    module: str
    text: str | None
    holding: Holding


@dataclass(frozen=True)
class SELinux(Backend):
    """The SELinux backend of one node."""

    type: ClassVar[str] = SELINUX
    kernel: SELinuxFS
    store: Store
    secilc: Secilc = field(default_factory=Secilc)

    @property
    def quiet_seconds(self) -> float:
        """Return for how long nothing more may come up before a transaction, which takes far longer."""
        least, most = QUIET_SECONDS
        return min(max(least, self.store.last_seconds * QUIET_SHARE), most)

    def changes(self, changed: asyncio.Event) -> AbstractContextManager[None]:
        """Set `changed` after every load of a policy, for as long as the context lasts."""
        return self.kernel.changes(changed)

    def loaded(self, holdings: Mapping[str, Holding]) -> Mapping[str, Loaded]:
        """Return the types of these holdings that the kernel knows, each with its module's checksum.

        Of modules of one name the one of the highest priority is in force. The checksum is empty where the
        store lacks Hauberk's, or can't be read: whoever changes it is told why.
        """
        modules: Mapping[str, Mapping[int, str]] = {}
        with contextlib.suppress(NodeFault):
            modules = self.store.modules()
        found: dict[str, Loaded] = {}
        for holding in holdings.values():
            there = modules.get(selinux_module(holding.profile), {})
            checksum = there[max(there)] if self.store.priority in there else ""
            for name, wanted in holding.modes.items():
                mode = (BLOCK if checksum else "") if wanted == BLOCK else self.kernel.mode(name)
                if mode:
                    found[name] = Loaded(mode, checksum)
        return found

    # --- load ---------------------------------------------------------------------------------------------

    async def prepare(self, step: Load, slot: AbstractAsyncContextManager[object] | None = None) -> Prepared:
        """Judge a module once more: what is in a node's store can change its whole policy.

        Raises:
            InputFault: it is refused.
            NodeFault: secilc can't be run.
        """
        async with slot or contextlib.nullcontext():
            module = await selinux.check_text(step.text, self.secilc, allow_host_types=step.allow_host_types)
        mode = _PERMISSIVE if step.mode == "Permissive" else "enforcing"
        modes = dict.fromkeys(module.types, mode) or dict.fromkeys(module.blocks, BLOCK)
        return Prepared(step, step.holding(SELINUX, modes, _digests(step.text, modes)))

    async def carry_out(
        self,
        steps: Sequence[Prune | Remove | Release],
        loads: Sequence[Prepared],
        holdings: Mapping[str, Holding],
    ) -> Outcome:
        """Install and remove in one transaction, and return what became of each step."""
        outcome: Outcome = {}
        changes: list[_Change] = []
        used = self.host.domains()
        before = self.loaded({**holdings, **{one.step.profile: one.holding for one in loads}})
        for step in steps:
            try:
                changes.append(self._taking_away(step, used))
            except NodeFault as fault:
                outcome[step.key] = fault
        types = {name: len(one.modes) for name, one in holdings.items()}
        for one in loads:
            before_it = types.get(one.step.profile, 0)
            types[one.step.profile] = len(one.holding.modes)
            try:
                _refuse_many(sum(types.values()))
                change = self._installing(one, holdings.get(one.step.profile), used)
            except NodeFault as fault:
                types[one.step.profile] = before_it
                outcome[one.step.key] = fault
                continue
            if mismatch(change.holding, before, ""):
                changes.append(change)
            else:  # the record of it was lost
                outcome[one.step.key] = change.holding
        self.records.announce(one.holding for one in changes if one.text is not None)
        outcome |= await self._in_one(changes)
        return outcome

    def _installing(self, one: Prepared, before: Holding | None, used: Mapping[str, int]) -> _Change:
        module = selinux_module(one.step.profile)
        there = self.store.modules().get(module, {})
        ours = {self.store.priority} if before else set[int]()
        known = one.holding.digests
        if foreign := [at for at, checksum in there.items() if at not in ours and checksum not in known]:
            raise NodeFault(
                Reason.HOST_OWNED,
                f"the node's store has a module {module} at priority {foreign[0]} that Hauberk did not "
                "install and does not replace; remove it from the node, or choose another name",
            )
        if before:
            _refuse_used(before.modes.keys() - one.holding.modes.keys(), used, "the new policy lacks it")
        holding = msgspec.structs.replace(one.holding, boot_id=self.host.boot_id())
        return _Change(one.step.key, module, installed(holding.text, holding.modes), holding)

    def _taking_away(self, step: Prune | Remove | Release, used: Mapping[str, int]) -> _Change:
        holding = step.holding
        module = selinux_module(holding.profile)
        if not isinstance(step, Release) or BLOCK in holding.modes.values():
            _refuse_used(holding.modes, used)
            return _Change(step.key, module, None, holding)
        modes = dict.fromkeys(holding.modes, _PERMISSIVE)
        released = msgspec.structs.replace(
            holding, modes=modes, digests=_digests(holding.text, modes), released=True
        )
        return _Change(step.key, module, installed(holding.text, modes), released)

    async def _in_one(self, changes: Sequence[_Change]) -> Outcome:
        """Make all changes in one transaction; where it fails, without those to blame."""
        if not changes:
            return {}
        try:
            failed = await self._changed(changes)
        except NodeFault as fault:
            return {one.key: fault for one in changes}
        if failed is None:
            return self._read_back(changes)
        if len(changes) == 1:
            others = sorted(failed.blamed - {changes[0].module})
            of = f"in the module {others[0]}: " if others and len(others) == len(failed.blamed) else ""
            message = f"semodule refuses it: {of}{failed.message}"
            return {changes[0].key: NodeFault(Reason.LOAD_FAILED, message)}
        blamed = [one for one in changes if one.module in failed.blamed]
        if blamed and len(blamed) < len(changes):
            outcome = await self._in_one([one for one in changes if one not in blamed])
            for one in blamed:  # each by itself: the words are then about it alone
                outcome |= await self._in_one([one])
            return outcome
        half = len(changes) // 2
        return await self._in_one(changes[:half]) | await self._in_one(changes[half:])

    async def _changed(self, changes: Sequence[_Change]) -> Failed | None:
        """Make all changes in one transaction, if there is anything to do; return why it failed.

        Raises:
            NodeFault: it could not be tried.
        """
        there = self.store.modules()
        removed = [
            one.module
            for one in changes
            if one.text is None and self.store.priority in there.get(one.module, {})
        ]
        with self._files(changes) as files:
            return await self.store.change(files, removed) if files or removed else None

    @contextlib.contextmanager
    def _files(self, changes: Sequence[_Change]) -> Generator[list[Path]]:
        """Write the modules to where semodule reads them, and delete them afterwards."""
        folder = self.host.state / "modules"
        names = {f"{one.module}.cil": one.text for one in changes if one.text is not None}
        try:
            with storing("not installed, for the node's disk did not take the module"):
                for name, text in names.items():
                    self.host.write(folder, name, text.encode(), durable=False)
            yield [folder / name for name in names]
        finally:
            for name in names:
                self.host.discard(folder, name)

    def _read_back(self, changes: Sequence[_Change]) -> Outcome:
        installed = {one.holding.profile: one.holding for one in changes if one.text is not None}
        loaded = self.loaded(installed)
        outcome: Outcome = {}
        for one in changes:
            if one.text is None:
                outcome[one.key] = self._forgotten(one)
            elif wrong := mismatch(one.holding, loaded, one.holding.boot_id):
                outcome[one.key] = NodeFault(Reason.NOT_IN_KERNEL, f"after the load {wrong}")
            else:
                outcome[one.key] = one.holding
        return outcome

    def _forgotten(self, one: _Change) -> Exception | None:
        """Delete the record of a module that is gone; return what is in the way."""
        left = [name for name, mode in one.holding.modes.items() if mode != BLOCK and self.kernel.mode(name)]
        if left:
            return NodeFault(Reason.NOT_IN_KERNEL, f"after the removal the kernel still holds {left[0]}")
        try:
            with storing("removed, but its record can't be deleted"):
                self.records.delete(one.holding.profile)
        except NodeFault as fault:
            return fault
        return None


def installed(policy: str, modes: Mapping[str, str]) -> str:
    """Return the module to install for a policy whose types are to be in these modes."""
    types = [name for name, mode in modes.items() if mode == _PERMISSIVE]
    return selinux.permissive(policy, types) if types else policy


def _digests(policy: str, modes: Mapping[str, str]) -> list[str]:
    return [hashlib.sha256(installed(policy, modes).encode()).hexdigest()]


def _refuse_many(types: int) -> None:
    if types > MOST_TYPES:
        raise NodeFault(
            Reason.POLICY_TOO_LARGE,
            f"with it, Hauberk's modules would have {types} types on this node, at most {MOST_TYPES} may be; "
            "have fewer SecurityProfiles select it",
        )


def _refuse_used(names: Iterable[str], used: Mapping[str, int], why: str = "") -> None:
    """Refuse to take types away that tasks have: they would have no valid context any more."""
    if held := {name: used[name] for name in sorted(names) if used.get(name)}:
        tasks = sum(held.values())
        verb = "tasks run" if tasks > 1 else "task runs"
        raise NodeFault(Reason.IN_USE, f"{tasks} {verb} as {', '.join(held)}{f', and {why}' if why else ''}")
