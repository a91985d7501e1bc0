"""An agent's connections as they are, at whose end bytes come that a server may send."""

from __future__ import annotations

import ssl

import httpcore2
import hyperframe.frame as frames
import pytest
from hauberk.crds.models import Metadata, Model
from hauberk.daemonset.api import Api, ApiFault, Change, Resource
from hauberk.daemonset.way import Way
from hpack import Encoder

EVENT = b'{"type":"MODIFIED","object":{"metadata":{"name":"a","resourceVersion":"7"}}}\n'


class Thing(Model, frozen=True):
    metadata: Metadata


THINGS = Resource("/things", Thing)


def at_the_end(chunks: list[bytes], *, http2: bool = False) -> Api:
    """Return an API server that sends these bytes, whatever it is asked."""
    way = Way("https://[fd00::1]:443", ssl.create_default_context(), lambda: "token", "ns")
    api = Api.open(way)
    pool = api.watcher if http2 else api.client
    backend = httpcore2.AsyncMockBackend(chunks, http2=http2)
    vars(pool)["_network_backend"] = backend
    return api


def begun() -> bytes:
    headers = frames.HeadersFrame(1, Encoder().encode([(":status", "200")]), flags=["END_HEADERS"])
    return frames.SettingsFrame().serialize() + headers.serialize()


def told(content: bytes = EVENT, *flags: str) -> bytes:
    return frames.DataFrame(1, content, flags=list(flags)).serialize()


def going_away(last: int) -> bytes:
    return frames.GoAwayFrame(last_stream_id=last, error_code=0).serialize()


async def hear(api: Api, heard: list[Change[Thing]]) -> None:
    """Put into a list what a watch tells, also where it fails then."""
    async for change in api.watch(THINGS, "1", 5):
        heard.append(change)  # noqa: PERF401 - one by one


@pytest.mark.parametrize(
    "end",
    [
        [going_away(1) + told(b"", "END_STREAM")],
        [going_away(1) + told()],
        [going_away(1), told(b"", "END_STREAM")],
        [going_away(0)],
        [going_away(0) + told()],
        [frames.RstStreamFrame(1, error_code=2).serialize()],
        [frames.RstStreamFrame(1, error_code=2).serialize() + told()],
        [told()[:20]],
        [b"HTTP/1.1 400 Bad Request\r\n\r\n"],
        [],
    ],
    ids=lambda end: f"{len(b''.join(end))} bytes",
)
async def test_however_a_server_ends_a_connection_it_is_a_fault_of_the_watch(end: list[bytes]):
    api = at_the_end([begun(), told(), *end], http2=True)
    heard: list[Change[Thing]] = []
    with pytest.raises(ApiFault) as caught:
        await hear(api, heard)
    assert caught.value.code == 0
    assert [change.version for change in heard][:2] == ["1", "7"]
    await api.close()


async def test_connections_that_broke_keep_no_watch_out():
    api = at_the_end([begun()], http2=True)
    for _ in range(12):
        with pytest.raises(ApiFault, match="RemoteProtocolError"):
            await hear(api, [])
    await api.close()


@pytest.mark.parametrize(
    "answer", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}"]
)
async def test_an_answer_that_is_none_is_a_fault(answer: bytes):
    api = at_the_end([answer] if answer else [])
    with pytest.raises(ApiFault) as caught:
        await api.get(THINGS, "a")
    assert caught.value.code == 0
    await api.close()


async def test_an_answer_is_read():
    body = b'{"metadata":{"name":"a"}}'
    api = at_the_end([b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)])
    assert await api.get(THINGS, "a") == Thing(metadata=Metadata(name="a"))
    await api.close()
