"""A node's SELinux: a store laid out as libsemanage's, a semodule that changes it, and a kernel."""

from __future__ import annotations

import asyncio
import bz2
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hauberk.daemonset.selinuxfs import SELinuxFS
from hauberk.daemonset.semodule import Store
from hauberk.profiles.sandbox import Run

# Types of the node's own policy; a rule about another one can't be resolved.
HOST_TYPES = {"etc_t", "container_t"}
# What semodule prints on many nodes although all went well.
NOISE = "libsemanage.add_user: user sddm not in password file\n"

_BLOCK = re.compile(r"\(block ([\w.]+)")
_TYPE = re.compile(r"\(type ([\w.]+)\)")
_PERMISSIVE = re.compile(r"\(typepermissive ([\w.]+)\)")
_INHERITS = re.compile(r"\(blockinherit ([\w.]+)\)")
_HOSTS = re.compile(r"\(allow \S+ (\S+_t) ")


@dataclass(frozen=True)
class Kernel(SELinuxFS):
    """A kernel's SELinux without its files: the types of its policy, each with its mode."""

    types: dict[str, str] = field(default_factory=dict[str, str])

    def mode(self, name: str) -> str:
        return self.types.get(name, "")


@dataclass(frozen=True)
class FakeStore(Store):
    """A store whose semodule is a few lines: it links the modules that are in force, and loads what it made.

    Attributes:
        kernel: which gets the policy.
        bad: modules that don't link, besides those that speak of what is not there.
        runs: the options of each run.
        begun: is set as a run begins.
        gate: a run ends once it is set.
        flags: `missing`: there is no semodule; `quiet`: what is wrong is said to be in no module;
            `not loaded`: the kernel does not take what was linked.
    """

    kernel: Kernel = field(default_factory=Kernel)
    bad: set[str] = field(default_factory=set[str])
    runs: list[list[str]] = field(default_factory=list[list[str]])
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    flags: set[str] = field(default_factory=set[str])

    async def _run(self, *options: str) -> Run:
        self.runs.append(list(options))
        self.begun.set()
        await self.gate.wait()
        if "missing" in self.flags:
            return Run(127, b"", "chroot: failed to run command 'semodule': No such file or directory\n")
        made = self.folder.with_name("tmp")
        shutil.rmtree(made, ignore_errors=True)
        shutil.copytree(self.folder, made)
        priority = made / "modules" / options[options.index("-X") + 1]
        for option, value in zip(options[::2], options[1::2], strict=True):
            if option == "-i":
                source = self.root / value.lstrip("/")
                put(made, int(priority.name), source.stem, source.read_text())
            elif option == "-r" and not (priority / value).exists():
                words = f"libsemanage.semanage_direct_remove_key: Unable to remove module {value} at priority"
                return Run(
                    1, b"", f"{words} {priority.name}. (No such file or directory).\nsemodule:  Failed!\n"
                )
            elif option == "-r":
                shutil.rmtree(priority / value)
        if said := self._linked(made):
            return Run(1, b"", said + "Failed to resolve AST\nsemodule:  Failed!\n")
        commit(self.folder, made)
        if "not loaded" not in self.flags:
            self.load()
        return Run(0, b"", NOISE)

    def load(self) -> None:
        """Have the kernel take the policy that the store makes."""
        self.kernel.types.clear()
        for text in in_force(self.folder).values():
            self.kernel.types.update(dict.fromkeys(types_of(text), "enforcing"))
            self.kernel.types.update(dict.fromkeys(_PERMISSIVE.findall(text), "permissive"))

    def _linked(self, folder: Path) -> str:
        """Return what libsepol says of the first statement that can't be resolved; empty where all can."""
        texts = in_force(folder)
        blocks = {block for text in texts.values() for block in _BLOCK.findall(text)}
        for module, text in sorted(texts.items()):
            at = max(int(one.parent.name) for one in folder.glob(f"modules/*/{module}"))
            place = f"{folder}/modules/{at}/{module}/cil:1\n"
            missing = set(_INHERITS.findall(text)) - blocks
            if module in self.bad or set(_HOSTS.findall(text)) - HOST_TYPES:
                said = f"Failed to resolve allow statement at {place}"
            elif missing:
                said = f"Failed to resolve blockinherit statement at {place}"
            else:
                continue
            return "libsepol: policy could not be linked\n" if "quiet" in self.flags else said
        return ""


def a_store(root: Path, kernel: Kernel, policy: str = "targeted") -> FakeStore:
    """Return a store with a module of the node's own."""
    store = FakeStore(root, policy, kernel=kernel)
    store.gate.set()
    (store.folder / "modules").mkdir(parents=True)
    put(store.folder, 100, "base", "(block node (type t))")
    (store.folder / "commit_num").write_bytes(b"1")
    store.load()
    return store


def put(folder: Path, priority: int, module: str, text: str, *, bzip: bool = True) -> None:
    """Write a module as libsemanage does."""
    where = folder / "modules" / str(priority) / module
    where.mkdir(parents=True, exist_ok=True)
    (where / "cil").write_bytes(bz2.compress(text.encode()) if bzip else text.encode())
    (where / "lang_ext").write_text("cil")


def commit(active: Path, made: Path) -> None:
    """Put a changed store in the place of the old one."""
    (made / "commit_num").unlink(missing_ok=True)
    (made / "commit_num").write_bytes(b"2")
    before = active.with_name("previous")
    shutil.rmtree(before, ignore_errors=True)
    active.rename(before)
    made.rename(active)


def someone_installs(store: FakeStore, priority: int, module: str, text: str) -> None:
    """Install a module as someone else would."""
    made = store.folder.with_name("tmp")
    shutil.copytree(store.folder, made)
    put(made, priority, module, text)
    commit(store.folder, made)
    store.load()


def someone_removes(store: FakeStore, priority: int, module: str) -> None:
    """Remove a module as someone else would."""
    made = store.folder.with_name("tmp")
    shutil.copytree(store.folder, made)
    shutil.rmtree(made / "modules" / str(priority) / module)
    commit(store.folder, made)
    store.load()


def in_force(folder: Path) -> Mapping[str, str]:
    """Return the text of each module in its highest priority."""
    found: dict[str, str] = {}
    for priority in sorted(folder.glob("modules/*"), key=lambda one: int(one.name)):
        for module in priority.iterdir():
            content = (module / "cil").read_bytes()
            text = bz2.decompress(content) if content.startswith(b"BZh") else content
            found[module.name] = text.decode()
    return found


def types_of(text: str) -> list[str]:
    """Return the types of a module of a single block."""
    block = _BLOCK.search(text)
    return [f"{block[1]}.{name}" for name in _TYPE.findall(text)] if block else []
