"""Runs one program over hostile text, within limits. The only module that starts parsers.

Called by `parser` (apparmor_parser) and `secilc`. A text comes from a user: a program may never stop reading
it, allocate without end or print without end, so each run gets a session of its own, limits, and dies as a
whole group.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import re
import resource
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..crds.errors import NodeFault
from ..crds.reasons import Reason

_NO_MEMORY = re.compile(r"bad_alloc|[Oo]ut of (dynamic )?memory|Memory allocation")
_LIBC = ctypes.CDLL(None, use_errno=True)
_CRASHES = {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL}


@dataclass(frozen=True)
class Limits:
    """What one run may use: wall and CPU seconds, bytes of memory and bytes of output.

    The policies of the library compile within 24 MiB. The pods' own memory limits have room for as many runs
    as are made at once: what the kernel kills for the pod's sake has no verdict.
    """

    seconds: float = 20.0
    cpu_seconds: int = 15
    memory: int = 160 << 20
    output: int = 16 << 20


@dataclass(frozen=True)
class Run:
    """How a run ended: exit code, or the limit it met."""

    code: int
    stdout: bytes
    stderr: str
    exceeded: str = ""

    @property
    def crash(self) -> str:
        """Return the name of the signal that the program died of by itself; '' if it did not."""
        return signal.Signals(-self.code).name if -self.code in _CRASHES else ""


async def run(
    program: str,
    *options: str,
    limits: Limits,
    stdin: bytes = b"",
    cwd: Path = Path("/"),
    pass_fds: Sequence[int] = (),
) -> Run:
    """Run a program, found by PATH or in the folders of the system's own, to its end or to the first limit.

    Raises:
        NodeFault: it can't be started.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            program,
            *options,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            cwd=cwd,
            pass_fds=pass_fds,
            env={"PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin", "LC_ALL": "C"},
        )
    except OSError as error:
        raise NodeFault(Reason.LOAD_FAILED, f"{program} can't be started: {error.strerror}") from error
    return await _within(process, limits, stdin)


async def _within(process: asyncio.subprocess.Process, limits: Limits, stdin: bytes) -> Run:
    """Feed a started process and read it to its end or to the first limit; leaves no process behind."""
    with contextlib.suppress(ProcessLookupError):  # it may have ended already
        # At the soft limit the kernel says why (SIGXCPU), at the hard one it only kills.
        _limit(process.pid, resource.RLIMIT_CPU, limits.cpu_seconds, limits.cpu_seconds + 1)
        _limit(process.pid, resource.RLIMIT_AS, limits.memory, limits.memory)
        _limit(process.pid, resource.RLIMIT_CORE, 0, 0)
    exceeded = ""
    stdout = stderr = b""
    try:
        async with asyncio.timeout(limits.seconds):
            async with asyncio.TaskGroup() as tasks:  # where one fails the others end too
                tasks.create_task(_feed(process, stdin))
                out = tasks.create_task(_read(process.stdout, limits.output))
                err = tasks.create_task(_read(process.stderr, limits.output))
            stdout, stderr = out.result(), err.result()
            await process.wait()
    except* TimeoutError:
        exceeded = f"the policy took over {limits.seconds:g} seconds to compile"
    except* _TooMuchError:
        exceeded = f"the policy made over {limits.output >> 20} MiB of output"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        # Before Python 3.13 wait() waits for the pipes' ends too, which a full buffer would hide for ever.
        for stream in (process.stdout, process.stderr):
            while stream and await stream.read(65536):
                pass
        code = await process.wait()
    if not exceeded and code == -signal.SIGXCPU:
        exceeded = f"the policy took over {limits.cpu_seconds} CPU seconds to compile"
    text = stderr.decode(errors="replace")
    if not exceeded and code and _NO_MEMORY.search(text):
        exceeded = f"the policy took over {limits.memory >> 20} MiB to compile"
    return Run(code, stdout, text, exceeded)


def _limit(pid: int, what: int, soft: int, hard: int) -> None:
    """Set a limit of another process without asking for the one before.

    `resource.prlimit` asks for it, which SELinux has a right of its own for (getrlimit) that a container need
    not have; where it has not, the call fails.

    Raises:
        OSError: the kernel does not set it.
    """
    if _LIBC.prlimit(pid, what, ctypes.byref((ctypes.c_uint64 * 2)(soft, hard)), None):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class _TooMuchError(Exception):
    """More output than the limit allows."""


async def _feed(process: asyncio.subprocess.Process, stdin: bytes) -> None:
    assert process.stdin  # noqa: S101 - asked for above
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it ended early: its exit code says why
        process.stdin.write(stdin)
        await process.stdin.drain()
        process.stdin.close()
        await process.stdin.wait_closed()


async def _read(stream: asyncio.StreamReader | None, limit: int) -> bytes:
    assert stream  # noqa: S101 - asked for above
    pieces: list[bytes] = []
    size = 0
    while piece := await stream.read(65536):
        size += len(piece)
        if size > limit:
            raise _TooMuchError
        pieces.append(piece)
    return b"".join(pieces)
