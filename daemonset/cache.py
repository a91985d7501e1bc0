"""Keeps compiled policy on the node's disk, so that a reboot or a repair need not compile again.

Used by `apparmor`. An entry's name has the hash of what it was compiled from and the hash of what is in it: a
torn or changed file is no entry. Losing the whole cache costs time and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .host import Host

_FOLDER = "cache"
_SLOW, _QUICK = "slow", "quick"


@dataclass(frozen=True)
class Compiled:
    """Compiled policy.

    Attributes:
        binary: what the kernel takes.
        slow: whether it took too long to compile for the node's own boot.
    """

    binary: bytes
    slow: bool


@dataclass(frozen=True)
class Cache:
    """The compiled policy of one node.

    Attributes:
        host: whose disk it is on.
        compiler: says what compiled: two that differ in it may give different policy for one text.
    """

    host: Host
    compiler: str

    @property
    def folder(self) -> Path:
        """Return where the entries are."""
        return self.host.state / _FOLDER

    def key(self, text: str, mode: str) -> str:
        """Return the name of a text's entry."""
        source = f"{self.compiler}\0{mode}\0{text}"
        return hashlib.sha256(source.encode(errors="surrogatepass")).hexdigest()

    def find(self, text: str, mode: str) -> Compiled | None:
        """Return what a text compiles to, None where it is not known; deletes what can't be trusted."""
        key = self.key(text, mode)
        for file in self.host.names(self.folder, key):
            binary = self.host.read(self.folder, file)
            for slow in (False, True):
                if binary is not None and file == _name(key, binary, slow=slow):
                    return Compiled(binary, slow)
            self.host.discard(self.folder, file)
        return None

    def put(self, text: str, mode: str, binary: bytes, *, slow: bool) -> Compiled:
        """Return compiled policy, which is kept from now on, but where the disk is full."""
        with contextlib.suppress(OSError):  # it is a cache
            self.host.write(
                self.folder, _name(self.key(text, mode), binary, slow=slow), binary, durable=False
            )
        return Compiled(binary, slow)

    def keep(self, texts: Iterable[tuple[str, str]]) -> None:
        """Delete every entry but those of these texts with their modes."""
        kept = {self.key(text, mode) for text, mode in texts}
        for file in self.host.names(self.folder, ""):
            if file.split(".")[0] not in kept:
                self.host.discard(self.folder, file)


def _name(key: str, binary: bytes, *, slow: bool) -> str:
    return f"{key}.{hashlib.sha256(binary).hexdigest()}.{_SLOW if slow else _QUICK}"
