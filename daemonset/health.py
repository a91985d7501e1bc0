"""Answers the kubelet, whether the loop is alive and the API holds this node's report; and Prometheus.

Started by `main`. The probes are answered on loopback only: the pod is on the host's network. The metrics are
on a port of their own at the node's address, where anyone may ask who reaches the node: they name no profile
and no user. A web framework would cost the agent more memory than all the rest of this folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncGenerator, Callable

import structlog
import tenacity

from ..crds.exporter import Metrics
from .agent import Agent

log = structlog.get_logger()

# The loops look at the node once a minute when nothing happens; semodule has five minutes for each run, and a
# module that it refuses takes more than one.
ALIVE_SECONDS = 900.0
# The other kind of agent, whose turn this node was, may have the port for a moment.
PORT_SECONDS = 15.0
# Where another program has it for longer: an agent does its work without being asked.
RETRY_SECONDS = 10.0
# Whoever reaches the node may ask for metrics; more than this at once is nobody's who means well. The kubelet
# must not be kept from its probes by others, so these have no limit.
AT_ONCE = 8
_REQUEST_BYTES = 4096

_Answer = Callable[[bytes], bytes]


@contextlib.asynccontextmanager
async def serve(agent: Agent, port: int) -> AsyncGenerator[None]:
    """Serve `/healthz` and `/readyz` for as long as the context lasts.

    Raises:
        OSError: the port is taken, and stays so.
    """
    patiently = tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception_type(OSError),
        wait=tenacity.wait_fixed(0.5),
        stop=tenacity.stop_after_delay(PORT_SECONDS),
        reraise=True,
    )

    def answer(request: bytes) -> bytes:
        return _probed(agent, request)

    server = await patiently(_listen, answer, "127.0.0.1", port)
    async with server:
        yield


@contextlib.asynccontextmanager
async def serve_metrics(metrics: Metrics, at: tuple[str, int] | None) -> AsyncGenerator[None]:
    """Serve `/metrics` at an address and port for as long as the context lasts; nowhere where there is none.

    As soon as the port is free: without it the agent works all the same.
    """
    if at is None:
        yield
        return

    async def listen() -> None:
        told = ""
        while True:
            try:
                server = await _listen(lambda request: _measured(metrics, request), *at, AT_ONCE)
                break
            except OSError as error:
                if str(error) != told:
                    log.warning("metrics can't be served", address=at[0], port=at[1], error=str(error))
                told = str(error)
                await asyncio.sleep(RETRY_SECONDS)
        async with server:
            await server.serve_forever()

    task = asyncio.create_task(listen())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _listen(answer: _Answer, address: str, port: int, at_once: float = math.inf) -> asyncio.Server:
    open_now = 0

    async def asked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal open_now
        open_now += 1
        try:
            if open_now <= at_once:
                with contextlib.suppress(
                    OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError
                ):
                    async with asyncio.timeout(5):
                        request = await reader.readuntil(b"\r\n\r\n")
                        writer.write(answer(request))
                        await writer.drain()
        finally:
            open_now -= 1
            writer.close()

    return await asyncio.start_server(asked, address, port, limit=_REQUEST_BYTES)


def _probed(agent: Agent, request: bytes) -> bytes:
    alive = time.monotonic() - agent.alive_at < ALIVE_SECONDS
    if request.startswith(b"GET /healthz "):
        good = alive
    elif request.startswith(b"GET /readyz "):
        good = alive and agent.is_ready()
    else:
        return _response("404 Not Found", b"only /healthz and /readyz\n")
    return _response("200 OK", b"ok\n") if good else _response("503 Service Unavailable", b"not yet\n")


def _measured(metrics: Metrics, request: bytes) -> bytes:
    if not request.startswith((b"GET /metrics ", b"GET /metrics?")):
        return _response("404 Not Found", b"only /metrics\n")
    return _response("200 OK", *metrics.text())


def _response(status: str, body: bytes, content_type: str = "text/plain") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Connection: close\r\n\r\n".encode() + body
