"""What stands in for the API server at the end of an agent's connections: answers of a function's.

The function is given and returns what httpx2 has for it, as with its MockTransport.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable

import httpcore2
import httpx2
from hauberk.crds.metrics import Counts, Uncounted
from hauberk.daemonset.api import Api
from hauberk.daemonset.way import Way

Answer = Callable[[httpx2.Request], httpx2.Response]


class Answering(httpcore2.AsyncConnectionPool):
    """Connections on which a function answers."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self.answer = answer

    async def handle_async_request(self, request: httpcore2.Request) -> httpcore2.Response:
        """Return the function's answer; what it raises of httpx2's is raised as httpcore2 does."""
        target = request.url.target.decode("ascii")
        try:
            response = self.answer(
                httpx2.Request(
                    request.method.decode("ascii"),
                    f"https://api{target}",
                    headers=request.headers,
                    extensions=request.extensions,
                )
            )
        except httpx2.TransportError as error:
            raise _as_below(error) from error
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        return httpcore2.Response(
            response.status_code,
            headers=response.headers.raw,
            content=_told(response.stream),
            extensions={"reason_phrase": response.reason_phrase.encode("ascii")},
        )


async def _told(stream: httpx2.AsyncByteStream) -> AsyncIterator[bytes]:
    try:
        async for chunk in stream:
            yield chunk
    except httpx2.TransportError as error:
        raise _as_below(error) from error


def _as_below(error: httpx2.TransportError) -> Exception:
    return getattr(httpcore2, type(error).__name__)(str(error))


def connected(answer: Answer, counts: Counts | None = None) -> Api:
    """Return an API server that gives these answers."""
    way = Way("https://api", ssl.create_default_context(), lambda: "token", "hauberk-system")
    pool = Answering(answer)
    return Api(way, pool, pool, counts or Uncounted())
