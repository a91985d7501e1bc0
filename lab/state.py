"""What a lab remembers between two commands: its nodes and the ids of its processes.

Used by cluster.py. One folder a lab, one file a fact, each written under a temporary name and renamed:
a command that is cut short leaves every fact either old or new.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Generator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lab import cache
from lab.network import Addresses
from lab.process import Process


def base() -> Path:
    """Return the folder of all labs: kernel-lab under XDG_STATE_HOME, ~/.local/state if unset."""
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "kernel-lab"


@dataclass(frozen=True)
class Node:
    """A node of the lab: its name, its kind (see rootfs.KINDS) and its number."""

    name: str
    kind: str
    index: int

    @property
    def at(self) -> Addresses:
        """The node's addresses."""
        return Addresses(self.index)


class State:
    """The folder of the lab called `name`; reading one that is not there gives nothing."""

    def __init__(self, name: str) -> None:
        self.folder = base() / name

    def exists(self) -> bool:
        """Whether `up` was begun and `down` was not finished."""
        return self.folder.exists()

    def create(self) -> None:
        """Make the folder; only root may look inside, for the keys are there."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def remove(self) -> None:
        """Forget everything."""
        cache.remove(self.folder)

    @contextlib.contextmanager
    def changing(self) -> Generator[None]:
        """Hold the lock that commands which change the lab take one after the other."""
        self.create()
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def node_folder(self, name: str) -> Path:
        """Return the folder of a node: its disk, its console, what its kernel sees as /lab/host."""
        return self.folder / "nodes" / name

    def nodes(self) -> list[Node]:
        """Return the nodes in the order of their numbers."""
        found = [Node(**_read(path)) for path in self.folder.glob("nodes/*/node.json")]
        return sorted(found, key=lambda node: node.index)

    def add_node(self, node: Node) -> None:
        """Remember a node."""
        _write(self.node_folder(node.name) / "node.json", asdict(node))

    def remove_node(self, name: str) -> None:
        """Forget a node with its disk."""
        cache.remove(self.node_folder(name))

    def store_folder(self, name: str) -> Path:
        """Return the folder of a saved store."""
        return self.folder / "stores" / name

    def stores(self) -> list[str]:
        """Return the names of the saved stores."""
        found = (path.name for path in self.folder.glob("stores/*"))
        return sorted(name for name in found if not name.startswith("making-"))

    def process(self, name: str) -> Process | None:
        """Return the process that was started under this name, which may have ended since."""
        path = self.folder / "processes" / f"{name}.json"
        with contextlib.suppress(FileNotFoundError):
            return Process(**_read(path))
        return None

    def processes(self) -> dict[str, Process]:
        """Return every process that was started and not forgotten, by name."""
        found = {path.stem: self.process(path.stem) for path in self.folder.glob("processes/*.json")}
        return {name: process for name, process in found.items() if process}

    def set_process(self, name: str, process: Process | None) -> None:
        """Remember a process, or forget it."""
        path = self.folder / "processes" / f"{name}.json"
        if process is None:
            path.unlink(missing_ok=True)
        else:
            _write(path, asdict(process))

    def setting(self, name: str) -> str | None:
        """Return what was remembered under this name, None if nothing was."""
        with contextlib.suppress(FileNotFoundError):
            return str(_read(self.folder / f"{name}.json")["value"])
        return None

    def set_setting(self, name: str, value: str) -> None:
        """Remember a word."""
        _write(self.folder / f"{name}.json", {"value": value})


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def _write(path: Path, content: dict[str, str | int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(content))
    temporary.rename(path)


def free_name(kind: str, taken: set[str]) -> str:
    """Return a node's name: its kind, with a number from 2 on if that is taken."""
    number = 2
    name = kind
    while name in taken:
        name, number = f"{kind}-{number}", number + 1
    return name


def free_index(taken: set[int]) -> int:
    """Return the lowest number from 1 on that no node has."""
    return next(number for number in range(1, len(taken) + 2) if number not in taken)
