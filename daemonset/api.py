"""Kubernetes' API over HTTP, as typed objects: list, watch, get and apply. Decides nothing.

Called by `following` and `cluster`; where the API server is comes from `way`. lightkube's client is not used:
it decodes every object whole, it asks for no bookmarks, and a watch of it that the server ended begins again
without its caller knowing. Here bytes become the few fields that a model names, and no more is kept. What
sends requests is httpcore2, the part of httpx2 that has connections: the rest, of which an agent would need
no cookie and no redirect, is two megabytes of its memory and a third of what a request costs it.
"""

from __future__ import annotations

import contextlib
import math
import ssl
import zlib
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Generator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Generic, NamedTuple, Protocol, TypeVar
from urllib.parse import urlencode

import h2.exceptions
import httpcore2
import msgspec
import structlog
import tenacity

from ..crds.errors import ClusterFault
from ..crds.metrics import API_WRITES, Counts, Uncounted, result_of
from ..crds.models import Metadata, Model
from ..crds.reasons import Reason
from .way import Way

log = structlog.get_logger()

# How old a list may be: as old as what the API server has in memory, which costs etcd nothing; or not at all.
CACHED, FRESH = "0", ""
TIMEOUT_SECONDS = 10.0
KEEP_SECONDS = 30.0
# A watch that was silent for longer than the server keeps one open has lost its server without being told.
MARGIN_SECONDS = 20.0
NOT_FOUND, GONE, GATEWAY_TIMEOUT = 404, 410, 504
_MESSAGE_LENGTH = 500
_SUCCESSES = range(200, 300)
_APPLIES = (("Content-Type", "application/apply-patch+yaml"),)
# A list of many texts is a tenth of its size then.
_COMPRESSED = (("Accept-Encoding", "gzip"),)
# zlib's word for "of gzip's format" (zlib.decompress)
_GZIP = 16 + zlib.MAX_WBITS
# What there is where no answer, or no whole one, came. h2's comes where the server ended the connection in
# the middle of a watch, and had more to say in the same breath.
_UNANSWERED = (
    httpcore2.NetworkError,
    httpcore2.TimeoutException,
    httpcore2.ProtocolError,
    httpcore2.ConnectionNotAvailable,
    h2.exceptions.H2Error,
    OSError,
)


class ApiFault(ClusterFault):
    """The API server refused a request, or did not answer it.

    Attributes:
        code: the HTTP status; 0 where there was no answer.
        retry_after: for how many seconds it asks to be left alone; 0 where it does not say.
    """

    def __init__(self, message: str, code: int = 0, retry_after: float = 0.0) -> None:
        super().__init__(Reason.UPDATING, message[:_MESSAGE_LENGTH])
        self.code = code
        self.retry_after = retry_after

    def about(self, what: str) -> ApiFault:
        """Return the same fault with what could not be done before its message."""
        return ApiFault(f"{what}: {self.message}", self.code, self.retry_after)


class ExpiredFault(ApiFault):
    """A watch can't be gone on with from where it was; what there is has to be listed anew."""


class Object(Protocol):
    """What the API has: anything with metadata."""

    @property
    def metadata(self) -> Metadata:
        """Return its name and version, at least."""
        ...


T = TypeVar("T", bound=Object)


@dataclass(frozen=True)
class Resource(Generic[T]):
    """What is asked for.

    Attributes:
        path: of the collection on the API server.
        model: what of each object is read; the rest is never decoded.
        fields: a field selector; empty for all.
    """

    path: str
    model: type[T]
    fields: str = ""

    @property
    def kind(self) -> str:
        """Return Kubernetes' name of the kind."""
        return self.model.__name__.removesuffix("Object")

    @cached_property
    def decoder(self) -> msgspec.json.Decoder[T]:
        """Return what turns an object's JSON into its model."""
        return msgspec.json.Decoder(self.model)


@dataclass(frozen=True)
class Listed(Generic[T]):
    """A list: its objects, the version to watch from, and the names of those that this agent can't read."""

    objects: list[T]
    version: str
    unreadable: list[str]


class Change(NamedTuple, Generic[T]):
    """What a watch tells: what an object is now (None: gone, or unreadable), and the version to go on from.

    A bookmark has no name and no object: it tells that nothing else happened up to its version.
    """

    name: str
    object: T | None
    version: str


class _ListMetadata(Model, frozen=True, kw_only=True):
    resource_version: str = msgspec.field(default="", name="resourceVersion")
    continues: str = msgspec.field(default="", name="continue")


class _List(Model, frozen=True, kw_only=True):
    metadata: _ListMetadata
    items: list[msgspec.Raw] | None = None


class _Event(Model, frozen=True, kw_only=True):
    type: str
    object: msgspec.Raw


class _Any(Model, frozen=True, kw_only=True):
    metadata: Metadata


class _Version(Model, frozen=True, kw_only=True):
    metadata: _ListMetadata


class _Details(Model, frozen=True, kw_only=True):
    retry_after_seconds: float = msgspec.field(default=0.0, name="retryAfterSeconds")


class _Status(Model, frozen=True, kw_only=True):
    """What the API server says instead of an object: a metav1.Status."""

    code: int = 0
    reason: str = ""
    message: str = ""
    details: _Details | None = None


def _pool(tls: ssl.SSLContext, *, http2: bool = False) -> httpcore2.AsyncConnectionPool:
    return httpcore2.AsyncConnectionPool(
        tls,
        # Reports of one burst go over one connection; between bursts none is kept.
        keepalive_expiry=KEEP_SECONDS,
        # One that broke keeps its place until then: with a limit, some of them would keep a watch out.
        max_connections=None,
        http2=http2,
    )


@dataclass(frozen=True)
class Api:
    """The API server; each call may raise an `ApiFault`.

    Attributes:
        way: where it is, and as whom.
        client: for what is answered at once.
        watcher: for watches.
        counts: is told of writes, and of watches that end.
    """

    way: Way
    client: httpcore2.AsyncConnectionPool
    watcher: httpcore2.AsyncConnectionPool
    counts: Counts = field(default_factory=Uncounted)

    @classmethod
    def open(cls, way: Way, counts: Counts | None = None) -> Api:
        """Return the API server at the end of a way; nothing is asked of it yet.

        There are two connections. Both watches share one (HTTP/2), where each would have one of its own. No
        third may be on it: of all that wait for a connection httpcore2 lets one read at a time, and who has
        an answer there already waits behind whoever is next and has none. Two take turns; a report beside
        two silent watches waited for the next bookmark, for up to a minute.
        """
        return cls(way, _pool(way.tls), _pool(way.tls, http2=True), counts or Uncounted())

    async def close(self) -> None:
        """Close every connection."""
        await self.client.aclose()
        await self.watcher.aclose()

    async def list(self, what: Resource[T], at: str = FRESH) -> Listed[T]:
        """Return all objects, as they are at `at` or later.

        What this agent can't read, of a later contract perhaps, is logged and left out.
        """
        params = {"resourceVersion": at} if at else {}
        if what.fields:
            params["fieldSelector"] = what.fields
        objects: list[T] = []
        unreadable: list[str] = []
        while True:
            body = await self._ask("GET", what.path, params)
            with _making_sense():
                page = msgspec.json.decode(body, type=_List)
                for raw in page.items or []:
                    name, one, _ = _read(what, raw)
                    if one is None:
                        unreadable.append(name)
                    else:
                        objects.append(one)
            if not page.metadata.continues:
                return Listed(objects, page.metadata.resource_version, unreadable)
            # a page names its version itself, and may not be asked for with another
            params = {key: value for key, value in params.items() if key != "resourceVersion"}
            params["continue"] = page.metadata.continues

    async def watch(self, what: Resource[T], version: str, seconds: float) -> AsyncGenerator[Change[T]]:
        """Yield what changes after `version`, until the server ends it, `seconds` later and up to one more.

        The first is like a bookmark of `version`, as soon as the server took the watch: it may be long until
        there is anything else to tell.

        Raises:
            ExpiredFault: the server no longer knows what came after `version`, or told what can't be read.
            ApiFault: it refused, the connection broke, or nothing was heard for too long.
        """
        params = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(max(1, math.ceil(seconds))),
        }
        if what.fields:
            params["fieldSelector"] = what.fields
        try:
            async with self.watcher.stream(
                "GET",
                self._url(what.path, params),
                headers=self._headers(),
                extensions=_timeouts(seconds + MARGIN_SECONDS),
            ) as response:
                if response.status not in _SUCCESSES:
                    await response.aread()
                    raise _watch_fault(_refusal(response), _REFUSED_FOR_NOW)
                yield Change("", None, version)
                async with aclosing(_lines(response.aiter_stream())) as lines:
                    async for line in lines:
                        yield _change(what, line)
        except _UNANSWERED as error:
            raise _no_answer(error) from error

    async def get(self, what: Resource[T], name: str) -> T | None:
        """Return an object as it is now; None where there is none, or none that this agent can read."""
        try:
            body = await self._ask("GET", f"{what.path}/{name}")
        except ApiFault as fault:
            if fault.code == NOT_FOUND:
                return None
            raise
        with _making_sense():
            return _read(what, body)[1]

    async def apply(self, what: Resource[T], name: str, body: Model, manager: str) -> None:
        """Create or update an object with the fields of `body`, for a field manager (server-side apply)."""
        params = {"fieldManager": manager, "force": "true"}
        try:
            await self._ask("PATCH", f"{what.path}/{name}", params, msgspec.json.encode(body))
        except ApiFault as fault:
            self.counts.count(API_WRITES, what.kind, result_of(fault.code or None))
            raise
        self.counts.count(API_WRITES, what.kind, "done")

    async def _ask(
        self, method: str, path: str, params: dict[str, str] | None = None, body: bytes | None = None
    ) -> bytes:
        try:
            response = await self.client.request(
                method,
                self._url(path, params or {}),
                headers=[*self._headers(), *(_APPLIES if body else _COMPRESSED)],
                content=body,
                extensions=_timeouts(TIMEOUT_SECONDS),
            )
        except _UNANSWERED as error:
            raise _no_answer(error) from error
        if response.status not in _SUCCESSES:
            raise _refusal(response)
        return _content(response)

    @cached_property
    def _server(self) -> httpcore2.URL:
        return httpcore2.URL(self.way.server)

    def _url(self, path: str, params: Mapping[str, str]) -> httpcore2.URL:
        to, query = self._server, urlencode(params)
        target = f"{path}?{query}" if query else path
        return httpcore2.URL(scheme=to.scheme, host=to.host, port=to.port, target=target)

    def _headers(self) -> list[tuple[str, str]]:
        """Return what each request has; the token is as it is now."""
        return [
            # Told here, for httpcore2 would write an IPv6 address without its brackets.
            ("Host", self.way.server.partition("://")[2]),
            ("User-Agent", "hauberk-agent"),
            ("Authorization", f"Bearer {self.way.token()}"),
        ]


def _timeouts(read: float) -> dict[str, dict[str, float]]:
    return {"timeout": {**dict.fromkeys(("connect", "write", "pool"), TIMEOUT_SECONDS), "read": read}}


def backoff(seconds: tuple[float, float]) -> Callable[[tenacity.RetryCallState], float]:
    """Return how long to wait after a fault: at random up to the first number, doubled up to the second.

    After an outage a thousand agents must not come back at once. What the API server asks for comes on top.
    """
    at_random = tenacity.wait_random_exponential(multiplier=seconds[0], max=seconds[1])

    def wait(state: tenacity.RetryCallState) -> float:
        fault = state.outcome.exception() if state.outcome else None
        return at_random(state) + (fault.retry_after if isinstance(fault, ApiFault) else 0.0)

    return wait


# --- what came back ----------------------------------------------------------------------------------------


async def _lines(chunks: AsyncIterable[bytes]) -> AsyncGenerator[bytes]:
    """Yield whole lines; the API server ends each event with a newline, and has none within one.

    Other characters that end lines elsewhere (U+0085) may be part of a policy's text.
    """
    begun: list[bytes] = []
    async for chunk in chunks:
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            line = b"".join((*begun, end))
            begun.clear()
            if line:
                yield line
        begun.append(rest)


def _change(what: Resource[T], line: bytes) -> Change[T]:
    try:
        event = msgspec.json.decode(line, type=_Event)
        if event.type == "ERROR":
            raise _watch_fault(_fault(msgspec.json.decode(event.object, type=_Status)), _ENDED_FOR_NOW)
        if event.type == "BOOKMARK":
            bookmark = msgspec.json.decode(event.object, type=_Version)
            return Change("", None, bookmark.metadata.resource_version)
        name, one, version = _read(what, event.object)
    except msgspec.DecodeError as error:
        raise ExpiredFault(f"an event can't be read: {error}") from error
    return Change(name, None if event.type == "DELETED" else one, version)


def _read(what: Resource[T], raw: bytes | msgspec.Raw) -> tuple[str, T | None, str]:
    """Return an object's name, its model (None where this agent can't read its shape) and its version.

    Raises:
        msgspec.DecodeError: it has no name even.
    """
    try:
        one = what.decoder.decode(raw)
    except msgspec.ValidationError as error:
        meta = msgspec.json.decode(raw, type=_Any).metadata
        # Of a later contract, perhaps. Not seeing it unloads nothing: absence is not deletion.
        log.error("unreadable object", kind=what.model.__name__, name=meta.name, error=str(error))
        return meta.name, None, meta.resource_version
    return one.metadata.name, one, one.metadata.resource_version


@contextmanager
def _making_sense() -> Generator[None]:
    try:
        yield
    except msgspec.DecodeError as error:
        raise ApiFault(f"the API server's answer makes no sense: {error}") from error


def _header(response: httpcore2.Response, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in response.headers if key.lower() == name), "")


def _content(response: httpcore2.Response) -> bytes:
    """Return what an answer has, as it was before it was compressed; as it is where that can't be read."""
    if _header(response, b"content-encoding") == "gzip":
        with contextlib.suppress(zlib.error):
            return zlib.decompress(response.content, _GZIP)
    return response.content


def _refusal(response: httpcore2.Response) -> ApiFault:
    """Return what an answer says that is no success."""
    content = _content(response)
    try:
        status = msgspec.json.decode(content, type=_Status)
    except msgspec.DecodeError:  # of a proxy between, perhaps
        phrase = response.extensions.get("reason_phrase", b"")
        status = _Status(reason=phrase.decode("latin-1"), message=content.decode(errors="replace"))
    asked = _header(response, b"retry-after")
    return _fault(
        msgspec.structs.replace(status, code=response.status), float(asked) if asked.isdecimal() else 0.0
    )


def _fault(status: _Status, retry_after: float = 0.0) -> ApiFault:
    wait = max(retry_after, status.details.retry_after_seconds if status.details else 0.0)
    return ApiFault(f"{status.code} {status.reason}: {status.message}", status.code, wait)


# The server is not up to it, or this agent may not: the same watch may be asked for again. Not so after 404,
# where the kind was taken away: when it is back it is another collection, and the version means nothing.
_REFUSED_FOR_NOW = frozenset({401, 403, 408, 429, 500, 502, 503, 504})
# In the middle of a watch any other fault may come of the next event, and would come again.
_ENDED_FOR_NOW = frozenset({429, 503, 504})


def _watch_fault(fault: ApiFault, for_now: frozenset[int]) -> ApiFault:
    """Return the end of a watch as what is to be done about it: ask again, or list anew."""
    if fault.code in for_now:
        return fault
    return ExpiredFault(fault.message, fault.code, fault.retry_after)


def _no_answer(error: Exception) -> ApiFault:
    return ApiFault(f"{type(error).__name__}: {error}")
