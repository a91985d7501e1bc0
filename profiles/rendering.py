"""Renders templates in a process of their own. The one place that starts `zygote` and hears its answers.

Called by `check`. A template comes from a user and is hostile: it may loop, ask for all memory, or try to get
out of jinja2's sandbox. What comes back is text that is judged like any other policy.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Self

import msgspec

from ..crds.errors import InputFault, NodeFault
from ..crds.reasons import Reason
from . import zygote

# The zygote ends a job for its time; where it does not, something is wrong with the zygote itself.
_PATIENCE_SECONDS = 3.0
_ANSWER_BYTES = 32 << 20


class _Rendered(msgspec.Struct, frozen=True):
    """One context's part of an answer: exactly one of the three is set."""

    text: str | None = None
    refused: str = ""
    exceeded: str = ""


class Renderer:
    """Renders templates, each within `seconds`; its process is started by the first, again if need be.

    Use it as an asynchronous context manager, so that no process is left behind.
    """

    def __init__(self, seconds: float = zygote.SECONDS) -> None:
        self.seconds = seconds
        self._process: asyncio.subprocess.Process | None = None
        self._control: socket.socket | None = None
        self._starting = asyncio.Lock()

    async def __aenter__(self) -> Self:
        """Return itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """End the process."""
        await self.close()

    async def render(
        self, source: str, contexts: Sequence[Mapping[str, Any]], most: int
    ) -> list[str | InputFault]:
        """Return, for each context, the policy that a template makes of it, or why it makes none.

        Raises:
            InputFault: the template meets a limit of time or memory, for all contexts together.
            NodeFault: the process can't be started.
        """
        job = json.dumps({"source": source, "contexts": contexts, "most": most}).encode()
        said = await self._ask(job)
        if not said:  # the process ended: over this job, or over another one that it had at the same time
            async with Renderer(self.seconds) as alone:
                said = await alone._ask(job)
        body, _, ended = said.rstrip(b"\n").rpartition(b"\n")
        if ended != b"0":
            raise self._limit(ended.decode(errors="replace"))
        try:
            rendered = msgspec.json.decode(body, type=list[_Rendered])
        except msgspec.MsgspecError as error:  # who got out of the sandbox may write what he likes
            raise InputFault(
                Reason.TEMPLATE_REFUSED, "the template made no answer that makes sense"
            ) from error
        if len(rendered) != len(contexts):
            raise InputFault(Reason.TEMPLATE_REFUSED, "the template made no answer that makes sense")
        return [self._outcome(one, most) for one in rendered]

    async def _ask(self, job: bytes) -> bytes:
        mine, theirs = socket.socketpair()
        with theirs:
            await self._send(theirs)
        reader, writer = await asyncio.open_connection(sock=mine)
        try:
            async with asyncio.timeout(self.seconds + _PATIENCE_SECONDS):
                with contextlib.suppress(ConnectionError):  # it ended early: its end says why
                    writer.write(job)
                    writer.write_eof()
                return await _read(reader)
        except TimeoutError:
            await self.close()  # with all that it began
            raise self._limit(zygote.LATE) from None
        finally:
            writer.close()

    async def _send(self, job: socket.socket) -> None:
        """Hand a job's socket to the process, which is started if need be."""
        async with self._starting:
            for _ in range(2):
                control = self._control or await self._start()
                try:
                    socket.send_fds(control, [b"j"], [job.fileno()])
                except OSError:
                    await self.close()  # it ended: once more, with a new one
                else:
                    return
        raise NodeFault(Reason.BUG, "the process that renders templates ends at once")

    async def _start(self) -> socket.socket:
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        path = os.environ.get("PYTHONPATH")
        with theirs:
            try:
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    zygote.__name__,
                    str(self.seconds),
                    stdin=theirs.fileno(),
                    start_new_session=True,
                    env={"PYTHONPATH": path} if path else {},
                )
            except OSError as error:
                mine.close()
                raise NodeFault(Reason.BUG, f"no process can be started: {error.strerror}") from error
        self._control = mine
        return mine

    async def close(self) -> None:
        """End the process and all that it began."""
        control, process = self._control, self._process
        self._control = self._process = None
        if control:
            control.close()
        if process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()

    def _outcome(self, one: _Rendered, most: int) -> str | InputFault:
        if one.text is not None:
            return one.text
        if one.exceeded == "size":
            return InputFault(
                Reason.POLICY_TOO_LARGE,
                f"the template makes more than the {most} bytes that a policy may have",
            )
        if one.exceeded:
            return self._limit("memory")
        return InputFault(Reason.TEMPLATE_REFUSED, f"jinja2 refuses the template: {one.refused}")

    def _limit(self, ended: str) -> InputFault:
        """Return what to tell of a job that was ended; `ended`: by what, as the zygote says it."""
        if ended == zygote.LATE:
            return InputFault(
                Reason.POLICY_TOO_SLOW,
                f"rendering the template took over {self.seconds:g} seconds on a machine that is busy; apply "
                "it again later",
            )
        if ended in (str(-signal.SIGXCPU), str(-signal.SIGKILL)):
            return InputFault(
                Reason.POLICY_TOO_SLOW,
                f"rendering the template took over {zygote.CPU_SECONDS} seconds of processor time; look for "
                "a loop without end",
            )
        if ended == "memory":
            return InputFault(
                Reason.POLICY_TOO_LARGE,
                f"rendering the template took over {zygote.MEMORY >> 20} MiB of memory; look for what grows",
            )
        return InputFault(
            Reason.TEMPLATE_REFUSED, "the template broke the process that renders it; simplify it"
        )


async def _read(reader: asyncio.StreamReader) -> bytes:
    pieces: list[bytes] = []
    size = 0
    while piece := await reader.read(1 << 16):
        size += len(piece)
        if size > _ANSWER_BYTES:
            raise InputFault(Reason.POLICY_TOO_LARGE, "the template makes too much text")
        pieces.append(piece)
    return b"".join(pieces)
