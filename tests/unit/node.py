"""A node below a folder: the kernel's tree, a process table, a disk; and a parser that loads into it."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hauberk.daemonset.host import Host
from hauberk.daemonset.selinuxfs import SELinuxFS
from hauberk.profiles import compiled
from hauberk.profiles.parser import Parser

BOOT = "boot-1"


@dataclass(frozen=True)
class NodeHost(Host):
    """A host with a kernel: what is loaded comes into the tree, and what is removed leaves it.

    Its `.remove` is a pipe.
    """

    kernel_takes: Callable[[bytes], None] = field(default=lambda _: None, compare=False)

    def replace(self, policy: bytes) -> None:
        self.kernel_takes(policy)

    def remove(self, name: str) -> bool:
        entry = entries(self).get(name)
        if entry is None:
            return False
        assert super().remove(name)
        shutil.rmtree(entry)
        return True


def entries(host: Host) -> dict[str, Path]:
    """Return the folder of each profile that the tree has, by full name."""

    def below(folder: Path, parent: str) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for entry in sorted(folder.glob("profiles/*")):
            own = (entry / "name").read_bytes().removesuffix(b"\n").decode(errors="surrogateescape")
            name = f"{parent}//{own}" if parent else own
            found[name] = entry
            found |= below(entry, name)
        return found

    return below(host.apparmor / "policy", "")


class Tree:
    """A node's files below a folder.

    Attributes:
        removed: what was written to the kernel's `.remove`.
        runs: the names of each policy that the kernel was to load.
        refused: names that it takes from no one.
        hashes: whether it gives hashes and raw data of what was loaded.
    """

    def __init__(self, root: Path) -> None:
        self.host = NodeHost(
            securityfs=root / "security",
            policies=root / "apparmor.d",
            state=root / "state",
            proc=root / "proc",
            os_release=root / "os-release",
            seccomp=root / "kubelet/seccomp",
            selinux=SELinuxFS(root / "host"),
            kernel_takes=self.replace,
        )
        self.runs: list[list[str]] = []
        self.refused: set[str] = set()
        self.hashes = True
        self.put(root / "security/lsm", "lockdown,capability,apparmor,bpf")
        self.put(self.host.apparmor / ".replace", "")
        self.put(self.host.apparmor / "features/domain/change_hat", "yes\n")
        (self.host.apparmor / "policy/profiles").mkdir(parents=True)
        self.put(root / "proc/sys/kernel/random/boot_id", f"{BOOT}\n")
        self.put(root / "os-release", 'ID=debian\nVERSION_ID="13"\n')
        # a pipe behind `.remove`, because the kernel's file takes one name a write
        self.read, self.write = os.pipe()
        (self.host.apparmor / ".remove").symlink_to(f"/proc/self/fd/{self.write}")
        self.entries = self.loads = 0
        self.ended = False

    def put(self, file: Path, text: str | bytes) -> Path:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return file

    def loaded(self, name: str, mode: str = "enforce", *, parent: Path | None = None, **files: str) -> Path:
        """Have the kernel hold a profile; `files` are hashes and the like."""
        folder = parent or self.host.apparmor / "policy"
        entry = folder / "profiles" / f"mangled.{self.entries}"
        self.entries += 1
        self.put(entry / "name", name + "\n")
        self.put(entry / "mode", mode + "\n")
        for file, value in files.items():
            self.put(entry / file, value + "\n")
        return entry

    def replace(self, policy: bytes) -> None:
        """Take what an agent loads, or refuse it."""
        self.runs.append([one.name for one in compiled.read(policy)])
        if self.refused.intersection(self.runs[-1]):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        self.take(policy, hashes=self.hashes, raw=self.hashes)

    def take(self, policy: bytes, *, hashes: bool = True, raw: bool = True) -> None:
        """Load or replace compiled policy as a kernel does: a parent that is replaced keeps its children."""
        self.loads += 1
        for one in compiled.read(policy):
            there = entries(self.host)
            parent, _, own = one.name.rpartition("//")
            entry = there.get(one.name) or self.loaded(own, parent=there[parent] if parent else None)
            self.put(entry / "mode", one.mode + "\n")
            for file in ("raw_sha256", "raw_data", "raw_abi"):
                (entry / file).unlink(missing_ok=True)
            if hashes:
                self.put(entry / "raw_sha256", hashlib.sha256(policy).hexdigest() + "\n")
            if raw:
                self.put(entry / "raw_data", policy)
                (entry / "raw_abi").symlink_to(f"../../raw_data/{self.loads}/abi")

    def task(self, pid: int, label: str, file: str = "attr/apparmor/current") -> None:
        self.put(self.host.proc / str(pid) / "task" / str(pid) / file, label)

    def end_task(self, pid: int) -> None:
        shutil.rmtree(self.host.proc / str(pid))

    def reboot(self) -> None:
        """Start anew: another boot ID, and a kernel that holds nothing."""
        self.put(self.host.proc / "sys/kernel/random/boot_id", "boot-2\n")
        shutil.rmtree(self.host.apparmor / "policy")
        (self.host.apparmor / "policy/profiles").mkdir(parents=True)

    def close(self) -> None:
        if not self.ended:
            os.close(self.read)
            os.close(self.write)
        self.ended = True

    @property
    def names(self) -> set[str]:
        return set(self.host.kernel())

    @property
    def removed(self) -> bytes:
        os.set_blocking(self.read, False)
        try:
            return os.read(self.read, 65536)
        except BlockingIOError:
            return b""


@dataclass(frozen=True, kw_only=True)
class Loader(Parser):
    """The real parser; `texts` are what it compiled."""

    texts: list[str] = field(default_factory=list[str])

    async def compile(self, text: str, mode: str) -> bytes:
        self.texts.append(text)
        return await super().compile(text, mode)


class Newer(Loader):
    """One that takes the rule `all,`, for which this machine's parser may be too old."""

    async def compile(self, text: str, mode: str) -> bytes:
        return await super().compile(text.replace("  all,\n", "  file,\n"), mode)


def contents(folder: Path) -> Mapping[str, bytes]:
    """Return what the files of a folder hold, by name."""
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
