"""Carries out the steps of a plan for seccomp: judge, write, read back. Decides nothing.

Called by `reconciler`. A profile is a file in the kubelet's folder, which the container runtime compiles into
a filter whenever a container starts: the file that the runtime reads is what is read back. A container that
runs keeps its filter whatever becomes of the file; starts and restarts need it, so it stays for as long as a
pod on the node names it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import msgspec
from asyncinotify import Inotify, Mask

from ..crds.errors import NodeFault
from ..crds.names import SECCOMP, seccomp_reference
from ..crds.reasons import Reason
from ..profiles import seccomp
from .backend import Backend, Outcome, Prepared
from .holdings import Holding
from .host import Loaded, Stamp, storing
from .plan import Load, Prune, Release, Remove, mismatch

_MODE = "enforce"
# Stands for the hash of what is no file, or one that can't be read: that of no profile.
_UNREAD = "-"
_CHANGES = (
    Mask.CLOSE_WRITE
    | Mask.CREATE
    | Mask.DELETE
    | Mask.MOVED_FROM
    | Mask.MOVED_TO
    | Mask.ATTRIB
    | Mask.DELETE_SELF
    | Mask.MOVE_SELF
)
# Pods that a refusal names.
_NAMED = 3

# Returns what the node's pods give as `localhostProfile`, each with the pods that do.
PodsOf = Callable[[], Awaitable[Mapping[str, Sequence[str]]]]


@dataclass(frozen=True)
class Seccomp(Backend):
    """The seccomp backend of one node.

    Attributes:
        pods: asks the API which profiles the node's pods name.
        elsewhere: where the kubelet looks instead, if that is not where this agent can write; empty: it does.
    """

    type: ClassVar[str] = SECCOMP
    done: ClassVar[str] = "written"
    pods: PodsOf
    elsewhere: str = ""
    _seen: dict[str, tuple[Stamp, str]] = field(
        default_factory=dict[str, tuple[Stamp, str]], init=False, compare=False, repr=False
    )

    @property
    def folder(self) -> Path:
        """Return where the files are: Hauberk's own folder within the kubelet's."""
        return self.host.seccomp / Path(seccomp_reference("")).parent

    def loaded(self, holdings: Mapping[str, Holding]) -> Mapping[str, Loaded]:
        """Return what the folder has, by what pods would give as `localhostProfile`."""
        del holdings
        stamps = self.host.stamps(self.folder, "")
        for name in self._seen.keys() - stamps.keys():
            del self._seen[name]
        for name, stamp in stamps.items():
            if name not in self._seen or self._seen[name][0] != stamp:
                content = self.host.read(self.folder, name)
                self._seen[name] = stamp, _UNREAD if content is None else hashlib.sha256(content).hexdigest()
        # A link is no file of Hauberk's, whatever it leads to by now.
        hashes = dict.fromkeys(self.host.names(self.folder, ""), _UNREAD)
        hashes |= {name: hash_ for name, (_, hash_) in self._seen.items()}
        return {f"{self.folder.name}/{name}": Loaded(_MODE, hash_) for name, hash_ in hashes.items()}

    # --- load ---------------------------------------------------------------------------------------------

    async def prepare(self, step: Load, slot: AbstractAsyncContextManager[object] | None = None) -> Prepared:
        """Judge a profile once more.

        Raises:
            InputFault: it is refused, by this agent's libseccomp at least.
            NodeFault: the kubelet looks elsewhere, or there is no libseccomp.
        """
        if self.elsewhere:
            raise NodeFault(
                Reason.LOAD_FAILED,
                f"the node's kubelet has its files in {self.elsewhere}, where this agent can't write; "
                "set KUBELET_DIR on the operator to that folder",
            )
        async with slot or contextlib.nullcontext():
            seccomp.check_text(step.text)
        digests = [hashlib.sha256(step.text.encode()).hexdigest()]
        holding = step.holding(SECCOMP, {seccomp_reference(step.profile): _MODE}, digests)
        return Prepared(step, holding)

    async def carry_out(
        self,
        steps: Sequence[Prune | Remove | Release],
        loads: Sequence[Prepared],
        holdings: Mapping[str, Holding],
    ) -> Outcome:
        """Delete and write files; return what became of each step."""
        outcome: Outcome = {}
        for step in steps:
            try:
                await self._remove(step)
            except Exception as error:  # noqa: BLE001 - a bug that one meets must not stop the others
                outcome[step.key] = error
            else:
                outcome[step.key] = None
        loaded = self.loaded(holdings)
        wanted: list[tuple[Load, Holding]] = []
        for one in loads:
            holding = msgspec.structs.replace(one.holding, boot_id=self.host.boot_id())
            there = loaded.get(holding.names[0])
            if there is None or one.step.profile in holdings or there.digest in holding.digests:
                wanted.append((one.step, holding))
            else:
                outcome[one.step.key] = NodeFault(
                    Reason.HOST_OWNED,
                    f"the kubelet's folder has a file {holding.names[0]} that Hauberk did not write and does "
                    "not replace; remove it from the node, or choose another name",
                )
        self.records.announce(holding for _, holding in wanted)
        for step, holding in wanted:
            try:
                outcome[step.key] = self._write(holding)
            except NodeFault as fault:
                outcome[step.key] = fault
        return outcome

    def _write(self, holding: Holding) -> Holding:
        if mismatch(holding, self.loaded({}), ""):
            with storing("not written to the kubelet's folder"):
                self.host.write(self.folder, Path(holding.names[0]).name, holding.text.encode())
        if wrong := mismatch(holding, self.loaded({}), holding.boot_id):
            raise NodeFault(Reason.NOT_IN_KERNEL, f"after it was written {wrong}")
        return holding

    async def _remove(self, step: Prune | Remove | Release) -> None:
        """Delete a profile's file and record; by force also while pods name it, whose containers run on.

        Raises:
            NodeFault: a pod on the node names it, or the disk keeps it.
            ClusterFault: the API can't be asked for the pods.
        """
        holding = step.holding
        if not isinstance(step, Release):
            used = await self.pods()
            if pods := sorted({pod for name in holding.modes for pod in used.get(name, ())}):
                more = f" and {len(pods) - _NAMED} more" if len(pods) > _NAMED else ""
                verb = "name" if len(pods) > 1 else "names"
                raise NodeFault(Reason.IN_USE, f"{', '.join(pods[:_NAMED])}{more} {verb} it")
        with storing("its file in the kubelet's folder can't be deleted"):
            for name in holding.modes:
                self.host.delete(self.folder, Path(name).name)
            self.records.delete(holding.profile)

    def settle(self, holdings: Iterable[Holding], wanted: Iterable[tuple[str, str]]) -> None:
        """Forget what was about to be written, half-written files too."""
        self.host.sweep(self.folder, "")
        super().settle(holdings, wanted)

    # --- drift --------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def changes(self, changed: asyncio.Event) -> Generator[None]:
        """Set `changed` whenever anyone changes the folder's files, for as long as the context lasts."""
        with Inotify() as notices:
            self._watch(notices)  # before anyone reads: what changes from then on is told
            hearing = asyncio.get_running_loop().create_task(self._hear(notices, changed))
            try:
                yield
            finally:
                hearing.cancel()

    async def _hear(self, notices: Inotify, changed: asyncio.Event) -> None:
        while True:
            await notices.get()
            changed.set()
            self._watch(notices)

    def _watch(self, notices: Inotify) -> None:
        """Watch the folders, again each time: one that was deleted and made anew is another."""
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            for folder in (self.host.seccomp, self.folder):
                notices.add_watch(folder, _CHANGES)
