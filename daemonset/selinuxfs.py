"""What the running kernel's SELinux says: its mode, the types that it knows, when its policy changed.

Used by `selinux` (read back, drift) and by `agent` (facts). Formats: security/selinux/selinuxfs.c,
include/uapi/linux/selinux_netlink.h.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
from collections.abc import Generator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import structlog

from ..crds.models import SELinuxFacts

log = structlog.get_logger()

_NETLINK_SELINUX, _GROUP_AVC = 7, 1
# selinuxfs.c, sel_write_access: the last word of the answer.
_PERMISSIVE_DOMAIN = 1
_STATUS_BYTES = 20
# Where the kernel's notices can't be heard its count of policy changes is looked at this often.
POLL_SECONDS = 5.0
_POLICY_NAME = re.compile(r"^\s*SELINUXTYPE\s*=\s*([A-Za-z0-9_.-]+)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class SELinuxFS:
    """The kernel's interface and the node's setting, below the node's root directory.

    Attributes:
        root: where the node's root directory is; without SELinux, or not seen whole, nothing is there.
    """

    root: Path = Path("/host")

    @cached_property
    def folder(self) -> Path:
        """Return where selinuxfs is mounted."""
        return self.root / "sys/fs/selinux"

    def enabled(self) -> bool:
        """Return whether SELinux runs and its interface is here."""
        return (self.folder / "context").exists()

    def policy_name(self) -> str:
        """Return the name of the node's policy, such as `targeted`; empty where it is not set."""
        found = _POLICY_NAME.search(_read(self.root / "etc/selinux/config"))
        return found[1][:64] if found else ""

    def facts(self) -> SELinuxFacts:
        """Return what SELinux is on the node; empty facts without it."""
        enforce = _read(self.folder / "enforce").strip()
        if not enforce:
            return SELinuxFacts()
        return SELinuxFacts(
            policy=self.policy_name(),
            mls=_read(self.folder / "mls").strip() == "1",
            mode="enforcing" if enforce == "1" else "permissive",
        )

    def count(self) -> bytes:
        """Return what differs after every change of the kernel's policy or mode: its status page."""
        try:
            page = os.open(self.folder / "status", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return b""
        try:
            return os.read(page, _STATUS_BYTES)
        finally:
            os.close(page)

    def mode(self, name: str) -> str:
        """Return `enforcing` or `permissive` for a type that the kernel's policy has; empty for another."""
        context = self._context(name)
        if self._ask("context", context) is None:
            return ""
        number = _read(self.folder / "class/process/index").strip()
        answer = self._ask("access", f"{context} {context} {number}")
        if answer is None:
            return ""
        flags = answer.split()[-1]
        return "permissive" if int(flags, 16) & _PERMISSIVE_DOMAIN else "enforcing"

    def _context(self, name: str) -> str:
        """Return a context with a type in it: as any object may have it, whatever the policy's roles are."""
        kernel = _read(self.folder / "initial_contexts/kernel").rstrip("\0\n").split(":", 3)
        level = [kernel[3].partition("-")[0]] if len(kernel) > 3 else []
        return ":".join([kernel[0], "object_r", name, *level])

    def _ask(self, file: str, question: str) -> str | None:
        """Return the kernel's answer to what is written to a file; None where it refuses the question."""
        try:
            handle = os.open(self.folder / file, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            os.write(handle, question.encode(errors="surrogateescape"))
            return os.read(handle, 4096).decode(errors="replace").rstrip("\0\n")
        except OSError:
            return None
        finally:
            os.close(handle)

    @contextlib.contextmanager
    def changes(self, changed: asyncio.Event) -> Generator[None]:
        """Set `changed` after every load of a policy and change of the mode, while the context lasts."""
        loop = asyncio.get_running_loop()
        try:
            notices = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SELINUX
            )
            notices.bind((0, 1 << (_GROUP_AVC - 1)))
        except OSError as error:  # not on the host's network, or not allowed
            log.warning("the kernel's notices can't be heard", error=error.strerror)
            poll = loop.create_task(self._poll(changed))
            try:
                yield
            finally:
                poll.cancel()
            return
        notices.setblocking(False)

        def heard() -> None:
            with contextlib.suppress(OSError):  # also where notices were lost (ENOBUFS)
                while notices.recv(4096):
                    pass
            changed.set()

        loop.add_reader(notices, heard)
        try:
            yield
        finally:
            loop.remove_reader(notices)
            notices.close()

    async def _poll(self, changed: asyncio.Event) -> None:
        before = self.count()
        while True:
            await asyncio.sleep(POLL_SECONDS)
            if (now := self.count()) != before:
                before = now
                changed.set()


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
