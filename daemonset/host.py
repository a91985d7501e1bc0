"""The node as the agent's container sees it: the kernel's files and three folders; sole user of host paths.

Called by the backends (load, read back, drift), by `holdings` (records) and by `facts`. Nothing here decides
anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import platform
import re
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISREG

from ..crds.errors import NodeFault
from ..crds.names import host_file
from ..crds.reasons import Reason
from .selinuxfs import SELinuxFS

# Where the node's directories are in the agent's container.
ROOT = Path("/host")
KUBELET = "/var/lib/kubelet"

_HASHES = ("raw_sha256", "raw_sha1")
# Inode, size, and times of the last change of content and of metadata.
Stamp = tuple[int, int, int, int]

_OURS = host_file("")
_UNFINISHED = ".new"
# Longer ones (capabilities, signals) say what there is, not what the kernel asks AppArmor for.
_SHORT_MASK = 12
# proc_pid_status(5): a process in a namespace of a pod's has a number in that as well.
_NODES_OWN = re.compile(r"^NSpid:\s*\d+\s*$", re.MULTILINE)
_SAFE_FILE = re.compile(r"^[a-z0-9][a-z0-9._-]*\Z")


@dataclass(frozen=True)
class Loaded:
    """One profile as the kernel lists it: its mode, and the hash of its raw data where the kernel has one."""

    mode: str
    digest: str | None = None


@dataclass(frozen=True)
class Host:
    """Where the node's files are mounted in the agent's container.

    Attributes:
        securityfs: the kernel's security file system.
        policies: the node's /etc/apparmor.d, which its own boot loads.
        state: a folder of Hauberk's own on the node's disk.
        proc: process table of the node (the pod has hostPID).
        os_release: the node's /etc/os-release.
        seccomp: where the kubelet looks for seccomp profiles.
        selinux: the kernel's SELinux; seen only by the agent that has the node's whole root directory.
    """

    securityfs: Path = Path("/sys/kernel/security")
    policies: Path = Path("/host/etc/apparmor.d")
    state: Path = Path("/host/var/lib/hauberk")
    proc: Path = Path("/proc")
    os_release: Path = Path("/host/etc/os-release")
    seccomp: Path = Path("/host/var/lib/kubelet/seccomp")
    selinux: SELinuxFS = field(default_factory=SELinuxFS)
    _last_kernel: dict[str, dict[str, Loaded]] = field(
        default_factory=dict[str, dict[str, Loaded]], init=False, compare=False, repr=False
    )
    # What was read of the kernel's folders, by their paths: names, and what was loaded with its version.
    _names: dict[str, str] = field(default_factory=dict[str, str], init=False, compare=False, repr=False)
    _known: dict[str, tuple[str, Loaded]] = field(
        default_factory=dict[str, tuple[str, Loaded]], init=False, compare=False, repr=False
    )

    @property
    def apparmor(self) -> Path:
        """Return the folder of the kernel's AppArmor interface."""
        return self.securityfs / "apparmor"

    def has_apparmor(self) -> bool:
        """Return whether the running kernel enforces AppArmor."""
        return (self.apparmor / ".replace").exists() and "apparmor" in self.lsms()

    def lsms(self) -> list[str]:
        """Return the security modules that are active, in the kernel's order."""
        return [name for name in _read(self.securityfs / "lsm").strip().split(",") if name]

    def boot_id(self) -> str:
        """Return the identity of this boot of the kernel, as the kubelet reports it too."""
        return _read(self.proc / "sys/kernel/random/boot_id").strip()

    def kernel_release(self) -> str:
        """Return the kernel's release, such as `6.1.0-18-amd64`."""
        return platform.release()

    def architecture(self) -> str:
        """Return the machine's architecture, such as `x86_64`."""
        return platform.machine()

    def os_release_text(self) -> str:
        """Return the node's os-release(5), empty where it has none."""
        return _read(self.os_release)

    def features(self) -> list[str]:
        """Return the names in the kernel's AppArmor feature tree: folders, switches that are on, short masks.

        The words of a mask stand in its place: `namespaces/mask` with `userns_create` is
        `namespaces/userns_create`.
        """
        root = self.apparmor / "features"
        found: set[str] = set()
        for file in (path for path in root.rglob("*") if path.is_file()):
            name = file.relative_to(root)
            words = _read(file).split()
            if name.name == "mask":
                found |= {f"{name.parent}/{word}" for word in words if len(words) <= _SHORT_MASK}
            elif words != ["no"]:
                found.add(str(name))
            found |= {str(folder) for folder in name.parents if folder.name}
        return sorted(found)

    def features_digest(self) -> str:
        """Return a digest of the kernel's AppArmor feature tree: equal digests compile to equal policy."""
        tree = hashlib.sha256()
        root = self.apparmor / "features"
        for file in sorted(path for path in root.rglob("*") if path.is_file()):
            tree.update(f"{file.relative_to(root)}={_read(file)}\n".encode())
        return tree.hexdigest()[:10]

    def kernel(self) -> dict[str, Loaded]:
        """Return what the kernel's current policy namespace holds now, by full name (`parent//child`).

        The kernel counts every change of its policy: as long as the count is that of the last reading, so is
        the answer. A reading during which it moved is returned and not kept.
        """
        count = self._policy_count()
        if count in self._last_kernel:
            return self._last_kernel[count]
        found = dict(self._walk())
        self._last_kernel.clear()
        if count and count == self._policy_count():
            self._last_kernel[count] = found
        return found

    def _walk(self) -> Iterator[tuple[str, Loaded]]:
        """Yield every profile by its full name, reading only what is new since the last time.

        A profile's raw_* files are links into a folder with a number of its own for what was loaded last:
        the same number means the same policy (apparmorfs.c, __aa_fs_create_rawdata; policy.c deduplicates
        only what is equal). Where a kernel keeps no raw policy there is no such link, and all is read.
        """
        seen: dict[str, tuple[str, Loaded]] = {}
        for full, folder in self._folders():
            try:
                version = os.readlink(f"{folder}/raw_abi")  # noqa: PTH115 - a Path costs more than the call
            except OSError:
                version = ""
            before, loaded = self._known.get(folder, ("", None))
            if loaded is None or not version or version != before:
                loaded = _loaded(folder)
            if loaded is not None:
                seen[folder] = version, loaded
                yield full, loaded
        self._known.clear()
        self._known.update(seen)

    def _folders(self) -> Iterator[tuple[str, str]]:
        """Yield each profile's full name and its folder, parents first.

        The folders' own names are mangled, and numbered so that none is used twice in a boot.
        """
        names: dict[str, str] = {}
        waiting = [("", f"{self.apparmor}/policy/profiles")]
        for parent, above in waiting:
            for folder in _subfolders(above):
                name = self._names.get(folder) or _name(folder)
                if name is None:  # removed while it was read: then the kernel no longer holds it
                    continue
                names[folder] = name
                full = f"{parent}//{name}" if parent else name
                waiting.append((full, f"{folder}/profiles"))
                yield full, folder
        self._names.clear()
        self._names.update(names)

    def _policy_count(self) -> str:
        """Return the kernel's count of policy changes in this boot, empty where it keeps none."""
        try:
            revision = os.open(self.apparmor / "revision", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return ""
        try:
            return os.read(revision, 64).decode().strip()
        except BlockingIOError:
            return ""
        finally:
            os.close(revision)

    def raw(self, name: str) -> bytes | None:
        """Return the policy that defined a profile, as it was loaded; None where the kernel has none.

        The whole of what was loaded at once: it may define other profiles too, and need not define children.
        """
        for full, folder in self._folders():
            if full == name:
                with contextlib.suppress(OSError):
                    return Path(folder, "raw_data").read_bytes()
        return None

    def replace(self, policy: bytes) -> None:
        """Load compiled policy into the kernel, in the place of what it holds under these names.

        The kernel takes what is written at once whole, or nothing of it (apparmorfs.c, policy_update).

        Raises:
            OSError: the kernel refuses it.
        """
        with (self.apparmor / ".replace").open("wb", buffering=0) as kernel:
            kernel.write(policy)

    def remove(self, name: str) -> bool:
        """Remove a profile and its children from the kernel; return whether it was there."""
        try:
            with (self.apparmor / ".remove").open("wb", buffering=0) as kernel:
                kernel.write(name.encode(errors="surrogateescape"))
        except FileNotFoundError:  # the kernel's ENOENT: no such profile
            return False
        return True

    def confined(self) -> Counter[str]:
        """Return how many tasks each profile confines now, by its full name.

        A task may be confined by a stack (`a//&b`): it counts for each. Tasks that end while they are
        looked at are no longer confined by anything.
        """
        tasks: Counter[str] = Counter()
        for folder in self._tasks():
            for file in ("attr/apparmor/current", "attr/current"):
                with contextlib.suppress(OSError):
                    label = (folder / file).read_bytes().rstrip(b"\0\n").decode(errors="surrogateescape")
                    tasks.update(_profiles_of(label))
                    break
        return tasks

    def domains(self) -> Counter[str]:
        """Return how many tasks each SELinux type has now."""
        tasks: Counter[str] = Counter()
        for folder in self._tasks():
            with contextlib.suppress(OSError):
                context = (folder / "attr/current").read_bytes().rstrip(b"\0\n").decode(errors="replace")
                tasks.update(context.split(":", 3)[2:3])
        return tasks

    def has_seccomp(self) -> bool:
        """Return whether the running kernel takes filters (CONFIG_SECCOMP_FILTER)."""
        return (self.proc / "sys/kernel/seccomp/actions_avail").exists()

    def kubelets_folder(self) -> str:
        """Return the `--root-dir` that the node's kubelet was started with; empty where that is not seen.

        Some distributions start the kubelet within a program of theirs: there it is not. What a pod starts
        may call itself as it likes.
        """
        for process in self.proc.iterdir():
            if not process.name.isdigit() or _read(process / "comm").strip() != "kubelet":
                continue
            if _NODES_OWN.search(_read(process / "status")):
                words = _read(process / "cmdline").split("\0")
                for word, following in zip(words, [*words[1:], ""], strict=True):
                    if word.startswith("--root-dir="):
                        return word.partition("=")[2]
                    if word == "--root-dir":
                        return following
        return ""

    def _tasks(self) -> Iterator[Path]:
        """Yield the folder of each task: threads too, for change_hat is a thread's own."""
        for process in self.proc.iterdir():
            if not process.name.isdigit():
                continue
            try:
                threads = list((process / "task").iterdir())
            except OSError:  # it has ended
                continue
            yield from threads

    @contextlib.contextmanager
    def changes(self, changed: asyncio.Event) -> Generator[None]:
        """Set `changed` whenever anyone loads, replaces or removes policy, for as long as the context lasts.

        The kernel's `revision` file answers poll() (security/apparmor/apparmorfs.c, ns_revision_poll).
        """
        loop = asyncio.get_running_loop()
        revision = os.open(self.apparmor / "revision", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)

        def wake() -> None:
            with contextlib.suppress(BlockingIOError):
                os.read(revision, 64)  # tells the kernel that this revision was seen
            changed.set()

        loop.add_reader(revision, wake)
        try:
            yield
        finally:
            loop.remove_reader(revision)
            os.close(revision)

    def write(self, folder: Path, name: str, content: bytes, *, durable: bool = True) -> None:
        """Write a file so that it is either wholly there or not at all, also after a power cut.

        One that is not durable does not wait for the disk: a power cut may tear it, or lose it.

        Raises:
            OSError: the disk did not take it; what was there before is untouched.
        """
        if not _SAFE_FILE.match(name):
            raise ValueError(f"{name!r} is not a file name of Hauberk's")
        folder.mkdir(parents=True, exist_ok=True)
        # A dot-file in the same folder: rename stays within the file system and the parser skips it.
        unfinished = folder / f".{name}{_UNFINISHED}"
        try:
            with unfinished.open("wb") as file:
                file.write(content)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            unfinished.replace(folder / name)
        except OSError:
            with contextlib.suppress(OSError):
                unfinished.unlink(missing_ok=True)
            raise
        if durable:
            sync_folder(folder)

    def set_aside(self, folder: Path, name: str) -> None:
        """Give a file the suffix `.torn`; on a disk that can't be written it stays, to be passed over."""
        with contextlib.suppress(OSError):
            (folder / name).replace((folder / name).with_suffix(".torn"))

    def read(self, folder: Path, name: str) -> bytes | None:
        """Return what a file holds; None where it can't be read."""
        try:
            return (folder / name).read_bytes()
        except OSError:
            return None

    def names(self, folder: Path, prefix: str) -> list[str]:
        """Return the names of a folder's files that have a prefix, in order, without unfinished ones."""
        try:
            found = [entry.name for entry in folder.iterdir()]
        except OSError:
            return []
        return sorted(name for name in found if name.startswith(prefix) and not name.startswith("."))

    def stamps(self, folder: Path, prefix: str) -> dict[str, Stamp]:
        """Return for each regular file with a prefix what changes when anyone writes it."""
        found: dict[str, Stamp] = {}
        for name in self.names(folder, prefix):
            with contextlib.suppress(OSError):
                stat = (folder / name).lstat()
                if S_ISREG(stat.st_mode):
                    found[name] = (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        return found

    def links(self, folder: Path, prefix: str) -> dict[str, str]:
        """Return where what has a prefix leads: a link as it is written, anything else to itself."""
        found: dict[str, str] = {}
        for name in self.names(folder, prefix):
            try:
                found[name] = str((folder / name).readlink())
            except OSError:
                found[name] = "."
        return found

    def sweep(self, folder: Path, prefix: str) -> None:
        """Delete the unfinished files that a kill in the middle of `write` or `link` left behind."""
        with contextlib.suppress(OSError):
            for entry in list(folder.iterdir()):
                if entry.name.startswith(f".{prefix}") and entry.name.endswith(_UNFINISHED):
                    entry.unlink(missing_ok=True)

    def policy_texts(self) -> Iterator[str]:
        """Yield the texts that the node's own boot loads, but for Hauberk's and those that can't be read."""
        for name in self.names(self.policies, ""):
            file = self.policies / name
            if name.startswith(_OURS) or not file.is_file():
                continue
            with contextlib.suppress(OSError):
                yield file.read_text(errors="surrogateescape")

    def abis(self) -> frozenset[str]:
        """Return the names of the policy abis that the node's own parser has files for."""
        folder = self.policies / "abi"
        return frozenset(file.name for file in folder.iterdir()) if folder.is_dir() else frozenset()

    def link(self, folder: Path, name: str, target: str) -> None:
        """Make a symbolic link, in place of whatever had that name."""
        if not _SAFE_FILE.match(name):
            raise ValueError(f"{name!r} is not a file name of Hauberk's")
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = folder / f".{name}{_UNFINISHED}"
        unfinished.unlink(missing_ok=True)
        unfinished.symlink_to(target)
        unfinished.replace(folder / name)

    def delete(self, folder: Path, name: str) -> None:
        """Delete a file of Hauberk's; one that is not there is as good."""
        if not _SAFE_FILE.match(name):
            raise ValueError(f"{name!r} is not a file name of Hauberk's")
        (folder / name).unlink(missing_ok=True)

    def discard(self, folder: Path, name: str) -> None:
        """Delete what a listing of a folder of Hauberk's named; what can't be deleted stays."""
        with contextlib.suppress(OSError):
            (folder / name).unlink()


@contextlib.contextmanager
def storing(consequence: str) -> Generator[None]:
    """Turn what a disk refuses into a fault that says what follows from it."""
    try:
        yield
    except OSError as error:
        raise NodeFault(Reason.STATE_UNWRITABLE, f"{consequence}: {error.strerror}") from error


def sync_folder(folder: Path) -> None:
    """Make a rename in a folder outlive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _subfolders(folder: str) -> list[str]:
    try:
        return [entry.path for entry in os.scandir(folder)]
    except OSError:
        return []


def _name(folder: str) -> str | None:
    try:
        return Path(folder, "name").read_bytes().removesuffix(b"\n").decode(errors="surrogateescape")
    except OSError:
        return None


def _loaded(folder: str) -> Loaded | None:
    try:
        mode = Path(folder, "mode").read_text().strip()
    except OSError:  # removed while it was read
        return None
    for file in _HASHES:
        with contextlib.suppress(OSError):
            return Loaded(mode, Path(folder, file).read_text().strip())
    return Loaded(mode)


def _profiles_of(label: str) -> list[str]:
    """Return the profiles in a task's label, such as `a//&b (enforce)`; none for `unconfined`."""
    if label == "unconfined" or not label:
        return []
    names = label.rsplit(" (", 1)[0]
    return [name for name in names.split("//&") if name != "unconfined"]
