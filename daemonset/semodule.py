"""The node's store of SELinux modules, changed by the node's own semodule. The only module that starts it.

Used by `selinux`. semodule(8) takes seconds and as much memory as the whole policy, whatever it changes: so
all that is due goes into one run, and the store is read without it. Its layout is libsemanage's
(src/semanage_store.c, src/modules.c): `active/modules/<priority>/<name>/{cil,hll,lang_ext}`, perhaps with
bzip2.
"""

from __future__ import annotations

import asyncio
import bz2
import contextlib
import hashlib
import re
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from ..crds.errors import NodeFault
from ..crds.names import selinux_module
from ..crds.reasons import Reason
from ..profiles import sandbox
from ..profiles.parser import plain
from ..profiles.sandbox import Limits, Run

log = structlog.get_logger()

# Of one run: it links the whole policy of the node anew.
LIMITS = Limits(seconds=300, cpu_seconds=240, memory=2 << 30)
PRIORITY = 400
# Who commits a change puts a new store in the place of the old one by two renames: in between there is none.
_READS, _READ_AGAIN_SECONDS = 5, 0.01
_STORE_ROOT = re.compile(r"^\s*store-root\s*=\s*(/\S+)\s*$", re.MULTILINE)
_MODULE = re.compile(r"/modules/\d+/([^/\s]+)/(?:cil|hll)(?::(\d+))?")
_OURS = selinux_module("")
_SUMMARY = re.compile(
    r"^(Failed to resolve AST|Failed to build|semodule:|libsemanage\S*:? Removing last"
    r"|libsemanage\.add_user:)"
)
_PROGRAM = "semodule"


@dataclass(frozen=True)
class Failed:
    """A run that changed nothing: the modules that semodule names as the cause, and its words."""

    blamed: frozenset[str]
    message: str


@dataclass(frozen=True)
class Store:
    """The store of one node.

    Attributes:
        root: where the node's root directory is.
        policy: the name of the node's policy, whose store it is.
        priority: under which Hauberk's modules stand.
    """

    root: Path
    policy: str
    priority: int = PRIORITY
    _last: dict[tuple[int, int, int], dict[str, dict[int, str]]] = field(
        default_factory=dict[tuple[int, int, int], dict[str, dict[int, str]]],
        init=False,
        compare=False,
        repr=False,
    )
    _took: list[float] = field(default_factory=lambda: [0.0], init=False, compare=False, repr=False)

    @property
    def last_seconds(self) -> float:
        """Return how long the last run of semodule took; 0 before the first."""
        return self._took[-1]

    @property
    def folder(self) -> Path:
        """Return where the store is, by the node's semanage.conf."""
        try:
            setting = (self.root / "etc/selinux/semanage.conf").read_text(errors="replace")
        except OSError:
            setting = ""
        found = _STORE_ROOT.search(setting)
        return self.root / (found[1] if found else "/var/lib/selinux").lstrip("/") / self.policy / "active"

    def modules(self) -> dict[str, dict[int, str]]:
        """Return the modules that have a name of Hauberk's: the checksum under each priority.

        The same as `semodule -lfull -m` lists, without its seconds: the SHA-256 of the source.

        Raises:
            NodeFault: there is no store to be read.
        """
        error: OSError | None = None
        for _ in range(_READS):
            try:
                stamp = self._stamp()
                if stamp in self._last:
                    return self._last[stamp]
                found = self._read()
                if stamp == self._stamp():
                    self._last.clear()
                    self._last[stamp] = found
                    return found
            except OSError as met:
                error = met
            time.sleep(_READ_AGAIN_SECONDS)
        why = error.strerror if error else "it changes all the time"
        raise NodeFault(
            Reason.LOAD_FAILED,
            f"the node's SELinux module store can't be read in {self.policy}/active: {why}; see "
            "store-root in its semanage.conf",
        ) from error

    def _read(self) -> dict[str, dict[int, str]]:
        found: dict[str, dict[int, str]] = {}
        for priority in (one for one in (self.folder / "modules").iterdir() if one.name.isdecimal()):
            for module in priority.iterdir():
                if module.name.startswith(_OURS):
                    found.setdefault(module.name, {})[int(priority.name)] = _checksum(module)
        return found

    def _stamp(self) -> tuple[int, int, int]:
        """Return what differs after every change of the store: semanage counts its commits in a file."""
        stat = (self.folder / "commit_num").stat()
        return stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns

    async def change(self, install: Collection[Path], remove: Collection[str]) -> Failed | None:
        """Install and remove in one transaction: all of it, and None, or nothing, and why.

        `install` are files below the root, each named `<module>.cil`. A run that was begun is not ended
        half-way, even where the agent is: it is waited for.

        Raises:
            NodeFault: semodule can't be run.
        """
        options: list[str] = ["-X", str(self.priority)]
        for file in install:
            options += ["-i", f"/{file.relative_to(self.root)}"]
        for module in remove:
            options += ["-r", module]
        began = time.monotonic()
        running = asyncio.ensure_future(self._run(*options))
        try:
            run = await asyncio.shield(running)
        except asyncio.CancelledError:
            with contextlib.suppress(Exception):
                await running
            raise
        took = self._took[-1] = time.monotonic() - began
        log.info(
            "semodule", installed=len(install), removed=len(remove), code=run.code, seconds=round(took, 1)
        )
        if run.exceeded:
            return Failed(frozenset(), f"semodule gave up: {run.exceeded}")
        if run.code == 127:
            raise NodeFault(Reason.LOAD_FAILED, f"the node's semodule can't be run: {plain(run.stderr)}")
        if run.code:
            return Failed(frozenset(one[0] for one in _MODULE.findall(run.stderr)), words(run.stderr))
        return None

    async def _run(self, *options: str) -> Run:
        return await sandbox.run("chroot", str(self.root), _PROGRAM, *options, limits=LIMITS)


def words(stderr: str) -> str:
    """Return why semodule failed, one line: `line 3: Failed to resolve allow statement`, at most 1 KiB."""
    said: list[str] = []
    for line in (one.strip() for one in stderr.splitlines()):
        if not line or _SUMMARY.match(line):
            continue
        place = _MODULE.search(line)
        if place:
            before = line[: place.start()].rpartition(" at ")[0] or line
            said.append(f"line {place[2]}: {before}" if place[2] else before)
        else:
            said.append(line)
    return plain("; ".join(dict.fromkeys(said))) or "semodule gave no reason"


def _checksum(module: Path) -> str:
    for name in ("hll", "cil"):
        try:
            content = (module / name).read_bytes()
        except OSError:
            continue
        if content.startswith(b"BZh"):
            with contextlib.suppress(OSError, ValueError):
                content = bz2.decompress(content)
        return hashlib.sha256(content).hexdigest()
    return ""
