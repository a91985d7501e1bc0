"""What the reconciler asks of a security module: the few verbs that AppArmor, SELinux and seccomp share.

`apparmor`, `selinux` and `seccomp` implement it, `reconciler` is the only caller. A backend decides nothing:
it prepares texts, carries steps out, and reads back what is loaded.
"""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from typing import ClassVar

from ..crds.errors import NodeFault
from .holdings import Holding, Records
from .host import Host, Loaded, storing
from .plan import Key, Load, Persist, Prune, Release, Remove


@dataclass(frozen=True)
class Prepared:
    """A text that passed here: what will be recorded once it is loaded."""

    step: Load
    holding: Holding


# What became of each step: what is held since, None where nothing is any more, or why it was not done.
Outcome = dict[Key, Holding | Exception | None]


@dataclass(frozen=True)
class Backend(ABC):
    """One security module of one node.

    What is not abstract fits a module whose profiles need nothing but their records to outlive a boot.

    Attributes:
        host: the node.
        type: of the profiles that it loads.
        done: what it does with them, in a word for a message.
    """

    host: Host
    type: ClassVar[str]
    done: ClassVar[str] = "loaded"

    @property
    def quiet_seconds(self) -> float:
        """Return for how long nothing more may come up before what is due is done: where a run is dear."""
        return 0.0

    @property
    def records(self) -> Records:
        """Return where it records what it loaded."""
        return Records(self.host, self.type.lower())

    def set_aside(self) -> list[NodeFault]:
        """Set aside what else of its state was torn, and return a fault for each."""
        return []

    @abstractmethod
    def loaded(self, holdings: Mapping[str, Holding]) -> Mapping[str, Loaded]:
        """Return what is read to be loaded now, by name; of what nobody holds as much as is known."""

    def boot_files(self) -> Mapping[str, str]:
        """Return the revision that the node's own boot would load, by profile."""
        return {}

    @abstractmethod
    def changes(self, changed: asyncio.Event) -> AbstractContextManager[None]:
        """Set `changed` whenever anyone changes what is loaded, for as long as the context lasts."""

    @abstractmethod
    async def prepare(self, step: Load, slot: AbstractAsyncContextManager[object] | None = None) -> Prepared:
        """Judge a text, and compile it where that is the module's way; compile only within the slot.

        Raises:
            InputFault: the text is refused, on this node at least.
            NodeFault: its parser can't be run.
        """

    @abstractmethod
    async def carry_out(
        self,
        steps: Sequence[Prune | Remove | Release],
        loads: Sequence[Prepared],
        holdings: Mapping[str, Holding],
    ) -> Outcome:
        """Take away and load, in as few runs as the module allows, and return what became of each step.

        `holdings` are all that is held now.
        """

    async def persist(self, step: Persist) -> None:
        """Record what is loaded on the node's disk, and have its own boot load it where that is needed.

        Raises:
            NodeFault: the disk does not take it; the profile stays loaded.
        """
        with storing(f"{self.done}, but the node's disk took no record of it"):
            self.records.write(step.holding)

    def settle(self, holdings: Iterable[Holding], wanted: Iterable[tuple[str, str]]) -> None:
        """Drop what only a crash would have needed, and what nobody holds or wants (text and mode)."""
        del holdings, wanted
        with contextlib.suppress(OSError):  # a disk that can't be written can't be tidied either
            self.records.settle()
