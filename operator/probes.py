"""What is asked of the operator and the admission from outside: alive, ready, and the metrics. Plain HTTP.

Started by `main` and `admission` before anything else, so that a process that waits for the API is seen to
live. Not kopf's own endpoint: that answers 200 whatever its handlers say. Whether the API server gets
an answer from the admission, only `webhook` can tell, which is asked for that by itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable

import structlog
from aiohttp import web

log = structlog.get_logger()


@contextlib.asynccontextmanager
async def serve(
    port: int,
    *,
    is_alive: Callable[[], bool],
    is_ready: Callable[[], bool],
    metrics: Callable[[str], tuple[bytes, str]],
) -> AsyncGenerator[None]:
    """Serve `/livez`, `/readyz` and `/metrics` for as long as the context lasts; nothing where the port is 0.

    `metrics` is given the header `Accept`, and returns the values and their content type.

    Raises:
        OSError: the port is taken.
    """
    if not port:
        yield
        return

    async def asked_metrics(request: web.Request) -> web.Response:
        body, content_type = metrics(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    app = web.Application()
    app.add_routes(
        [
            web.get("/livez", _answer(is_alive, "stuck")),
            web.get("/readyz", _answer(is_ready, "not ready")),
            web.get("/metrics", asked_metrics),
        ]
    )
    runner = web.AppRunner(app, handle_signals=False, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, port=port).start()
        log.info("probes", port=port)
        yield
    finally:
        await runner.cleanup()


def _answer(good: Callable[[], bool], otherwise: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text="ok") if good() else web.Response(status=503, text=otherwise)

    return answer
