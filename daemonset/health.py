"""Answers the kubelet's probes: whether the loop is alive and the API holds this node's report.

Started by `main`. Loopback only: the pod is on the host's network. A web framework would cost the agent
more memory than all the rest of this folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator

import tenacity

from .agent import Agent

# The loops look at the node once a minute when nothing happens; semodule has five minutes for each run, and a
# module that it refuses takes more than one.
ALIVE_SECONDS = 900.0
# The other kind of agent, whose turn this node was, may have the port for a moment.
PORT_SECONDS = 15.0
_REQUEST_BYTES = 4096


@contextlib.asynccontextmanager
async def serve(agent: Agent, port: int) -> AsyncGenerator[None]:
    """Serve `/healthz` and `/readyz` for as long as the context lasts.

    Raises:
        OSError: the port is taken, and stays so.
    """

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(
            OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError
        ):
            async with asyncio.timeout(5):
                request = await reader.readuntil(b"\r\n\r\n")
                writer.write(_answer(agent, request))
                await writer.drain()
        writer.close()

    patiently = tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception_type(OSError),
        wait=tenacity.wait_fixed(0.5),
        stop=tenacity.stop_after_delay(PORT_SECONDS),
        reraise=True,
    )
    server = await patiently(asyncio.start_server, answer, "127.0.0.1", port, limit=_REQUEST_BYTES)
    async with server:
        yield


def _answer(agent: Agent, request: bytes) -> bytes:
    alive = time.monotonic() - agent.alive_at < ALIVE_SECONDS
    if request.startswith(b"GET /healthz "):
        good = alive
    elif request.startswith(b"GET /readyz "):
        good = alive and agent.reported
    else:
        return _response("404 Not Found", "only /healthz and /readyz\n")
    return _response("200 OK", "ok\n") if good else _response("503 Service Unavailable", "not yet\n")


def _response(status: str, body: str) -> bytes:
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n"
        f"Connection: close\r\n\r\n{body}"
    ).encode()
