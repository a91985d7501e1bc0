"""A node that is only in memory: what an agent needs of a host, and a kernel behind the backends' protocol.

Used by `agents`. Everything above the protocol is the real agent. What a profile costs a kernel is not what
is measured here (`bench.lab` does that), so nothing is compiled: a name is read from the text, and the hash
of the text stands for what the kernel would hold.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import ClassVar

import msgspec
from hauberk.crds.errors import NodeFault
from hauberk.crds.names import APPARMOR
from hauberk.daemonset.backend import Backend, Outcome, Prepared
from hauberk.daemonset.holdings import Holding, Records
from hauberk.daemonset.host import Host, Loaded
from hauberk.daemonset.plan import Load, Prune, Release, Remove

_NAME = re.compile(r"^profile ([\w.-]+)", re.MULTILINE)
_OS_RELEASE = 'ID=debian\nVERSION_ID="13"\n'
_FEATURES = ("caps", "domain", "file", "mount", "network_v8", "policy", "ptrace", "signal")


@dataclass(frozen=True)
class MemoryHost(Host):
    """A node with AppArmor; `boot` identifies its kernel's start."""

    boot: str = ""

    def has_apparmor(self) -> bool:
        """Return that it has AppArmor."""
        return True

    def has_seccomp(self) -> bool:
        """Return that it takes no filters."""
        return False

    def lsms(self) -> list[str]:
        """Return the security modules."""
        return ["capability", "apparmor"]

    def boot_id(self) -> str:
        """Return the identity of this boot."""
        return self.boot

    def os_release_text(self) -> str:
        """Return its distribution."""
        return _OS_RELEASE

    def features(self) -> list[str]:
        """Return the names in the feature tree."""
        return list(_FEATURES)

    def features_digest(self) -> str:
        """Return the digest of the feature tree."""
        return "0123456789"

    def abis(self) -> frozenset[str]:
        """Return the ABIs of the node's own parser."""
        return frozenset({"4.0"})


@dataclass(frozen=True)
class MemoryRecords(Records):
    """Records of a disk that keeps nothing: a simulated agent never starts again on the same node."""

    def read(self) -> tuple[dict[str, Holding], list[NodeFault]]:
        """Return no records, and no faults."""
        return {}, []

    def write(self, holding: Holding) -> None:
        """Keep nothing."""

    def delete(self, profile: str) -> None:
        """Forget nothing."""

    def announce(self, about_to: Iterable[Holding]) -> None:
        """Note nothing."""

    def announced(self) -> list[Holding]:
        """Return nothing."""
        return []

    def settle(self) -> None:
        """Forget nothing."""


@dataclass(frozen=True)
class MemoryKernel(Backend):
    """What a node's kernel holds, by name; `someone_else` changes it as drift does."""

    type: ClassVar[str] = APPARMOR
    held: dict[str, Loaded] = field(default_factory=dict[str, Loaded])
    _waiting: set[asyncio.Event] = field(default_factory=set[asyncio.Event])

    @property
    def records(self) -> Records:
        """Return the disk that keeps nothing."""
        return MemoryRecords(self.host, APPARMOR.lower())

    def loaded(self, holdings: Mapping[str, Holding]) -> Mapping[str, Loaded]:
        """Return what is held now."""
        del holdings
        return self.held

    @contextlib.contextmanager
    def changes(self, changed: asyncio.Event) -> Generator[None]:
        """Set `changed` whenever someone else changes what is held."""
        self._waiting.add(changed)
        try:
            yield
        finally:
            self._waiting.discard(changed)

    def someone_else(self, name: str) -> None:
        """Unload a profile past the agent."""
        self.held.pop(name, None)
        for one in self._waiting:
            one.set()

    async def prepare(self, step: Load, slot: AbstractAsyncContextManager[object] | None = None) -> Prepared:
        """Return what would be recorded: the names in the text."""
        del slot
        digest = hashlib.sha256(step.text.encode()).hexdigest()
        modes = dict.fromkeys(_NAME.findall(step.text), "enforce")
        return Prepared(step, step.holding(APPARMOR, modes, [digest]))

    async def carry_out(
        self,
        steps: Sequence[Prune | Remove | Release],
        loads: Sequence[Prepared],
        holdings: Mapping[str, Holding],
    ) -> Outcome:
        """Take away and load at once."""
        del holdings
        outcome: Outcome = {}
        for step in steps:
            for name in step.names if isinstance(step, Prune) else step.holding.names:
                self.held.pop(name, None)
            outcome[step.key] = (
                msgspec.structs.replace(step.holding, former=[]) if isinstance(step, Prune) else None
            )
        for one in loads:
            holding = msgspec.structs.replace(one.holding, boot_id=self.host.boot_id())
            for name, mode in holding.modes.items():
                self.held[name] = Loaded(mode, holding.digests[0])
            outcome[one.step.key] = holding
        return outcome
