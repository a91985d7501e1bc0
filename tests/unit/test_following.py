"""Following on an API server that does as it is told: ends watches, refuses, talks nonsense, goes away.

Nothing waits for a time that passes: sleeping moves a clock. What a real API server does is in tests/kube.
"""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import contextlib
import gzip
import itertools
import json
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from hauberk.crds.exporter import Metrics
from hauberk.crds.metrics import AGENT, API_WRITES, WATCH_RESTARTS
from hauberk.crds.models import Metadata, Model
from hauberk.daemonset import api as apis
from hauberk.daemonset import following
from hauberk.daemonset.api import ApiFault, ExpiredFault, Resource
from hypothesis import given
from hypothesis import strategies as st

from tests.answering import connected
from tests.scraped import value

GO = asyncio.sleep


class Thing(Model, frozen=True):
    """What is followed here."""

    metadata: Metadata
    spec: str = ""


THINGS = Resource("/things", Thing)
Json = dict[str, Any]


def thing(name: str, version: int, spec: Any = "") -> Json:
    return {"metadata": {"name": name, "resourceVersion": str(version)}, "spec": spec}


def event(word: str, given: Json) -> bytes:
    return json.dumps({"type": word, "object": given}, ensure_ascii=False).encode() + b"\n"


def status(code: int, **details: Any) -> Json:
    return {"kind": "Status", "code": code, "reason": "No", "message": "no", "details": details}


def bookmark(version: int) -> bytes:
    return event("BOOKMARK", {"kind": "Thing", "metadata": {"resourceVersion": str(version)}, "spec": {}})


def listing(version: int, *things: Json, **more: str) -> httpx2.Response:
    return httpx2.Response(200, json={"metadata": {"resourceVersion": str(version), **more}, "items": things})


@dataclass
class Clock:
    """A time that moves when someone sleeps; `slept` is by how much."""

    now: float = 1000.0
    slept: list[float] = field(default_factory=list[float])

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await GO(0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(asyncio, "sleep", made.sleep)
    monkeypatch.setattr(following, "time", SimpleNamespace(monotonic=lambda: made.now))
    return made


Told = list[bytes | Exception]  # by one watch; it lasts for as long as it was asked for
Answer = httpx2.Response | Exception | tuple[float, Exception] | Told  # a fault may take seconds


@dataclass
class Server:
    """An API server that gives these answers to lists and to watches; after the last one it is silent.

    `lists` and `watches` are the parameters that it was asked with.
    """

    clock: Clock
    to_lists: Iterator[Answer]
    to_watches: Iterator[Answer]
    lists: list[Json] = field(default_factory=list[Json])
    watches: list[Json] = field(default_factory=list[Json])
    over: asyncio.Event = field(default_factory=asyncio.Event)
    counts: Metrics = field(default_factory=lambda: Metrics(AGENT))

    def answer(self, request: httpx2.Request) -> httpx2.Response:
        asked = dict(request.url.params)
        watching = "watch" in asked
        (self.watches if watching else self.lists).append(asked)
        match next(self.to_watches if watching else self.to_lists, None):
            case None:
                self.over.set()
                return httpx2.Response(200, content=self.never())
            case Exception() as error:
                raise error
            case list() as events:
                return httpx2.Response(200, content=self.told(events, float(asked["timeoutSeconds"])))
            case (seconds, error):
                self.clock.now += seconds
                raise error
            case answer:
                return answer

    async def never(self) -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    async def told(self, events: Told, seconds: float) -> AsyncIterator[bytes]:
        self.clock.now += seconds
        for one in events:
            if isinstance(one, Exception):
                raise one
            yield one


@dataclass
class Seen:
    """What a follower was told: what there is, and how often it was told all of it."""

    things: dict[str, str] = field(default_factory=dict[str, str])
    lists: int = 0

    def listed(self, things: Mapping[str, Thing]) -> None:
        self.lists += 1
        self.things = {name: one.spec for name, one in things.items()}

    def changed(self, name: str, one: Thing | None) -> None:
        if one is None:
            self.things.pop(name, None)
        else:
            self.things[name] = one.spec


async def followed(
    clock: Clock, watches: Iterable[Answer], lists: Iterable[Answer] = (listing(10),)
) -> tuple[Server, Seen]:
    """Follow until the server has no more answers."""
    server, seen = Server(clock, iter(lists), iter(watches)), Seen()
    api = connected(server.answer, server.counts)
    task = asyncio.create_task(following.follow(api, THINGS, seen.listed, seen.changed))
    ended = asyncio.create_task(server.over.wait())
    await asyncio.wait({task, ended}, timeout=10, return_when=asyncio.FIRST_COMPLETED)
    ended.cancel()
    if task.done():
        task.result()
    assert server.over.is_set()
    task.cancel()
    return server, seen


def versions(asked: list[Json]) -> list[str]:
    return [one.get("resourceVersion", "") for one in asked]


# --- lists and watches -------------------------------------------------------------------------------------


async def test_all_is_listed_once_and_then_what_changes_is_told(clock: Clock):
    events: Told = [
        event("ADDED", thing("c", 11, "new")),
        event("MODIFIED", thing("a", 12, "other")),
        event("DELETED", thing("b", 13)),
    ]
    server, seen = await followed(clock, [events], [listing(10, thing("a", 3, "a"), thing("b", 4, "b"))])
    assert (seen.things, seen.lists) == ({"a": "other", "c": "new"}, 1)
    assert server.lists == [{"resourceVersion": "0"}]  # from the API server's memory
    assert versions(server.watches) == ["10", "13"]
    assert {one["allowWatchBookmarks"] for one in server.watches} == {"true"}


async def test_watches_are_of_different_lengths(clock: Clock):
    server, _ = await followed(clock, [[] for _ in range(5)])
    lengths = {float(one["timeoutSeconds"]) for one in server.watches}
    assert len(lengths) > 1
    assert min(lengths) > 0.79 * following.WATCH_SECONDS
    assert max(lengths) < 1.21 * following.WATCH_SECONDS


async def test_a_bookmark_is_gone_on_from_and_tells_nothing(clock: Clock):
    server, seen = await followed(clock, [[bookmark(40)], [bookmark(50)]], [listing(10, thing("a", 3))])
    assert versions(server.watches) == ["10", "40", "50"]
    assert (seen.things, seen.lists) == ({"a": ""}, 1)


@pytest.mark.parametrize(
    "broken", [httpx2.ReadError("reset"), httpx2.RemoteProtocolError("cut"), httpx2.ReadTimeout("silent")]
)
async def test_a_connection_that_breaks_costs_no_list(clock: Clock, broken: Exception):
    refused = httpx2.ConnectError("refused")
    events: Told = [event("ADDED", thing("a", 11)), broken]
    server, seen = await followed(clock, [events, refused, refused, [event("ADDED", thing("b", 12))]])
    assert versions(server.watches)[:4] == ["10", "11", "11", "11"]
    assert seen.things.keys() == {"a", "b"}


async def test_watches_that_are_begun_again_are_counted_by_their_cause(clock: Clock):
    gone = httpx2.Response(410, json=status(410))
    ends: list[Answer] = [[], [], [httpx2.ReadError("reset")], httpx2.Response(403, json=status(403)), gone]
    server, _ = await followed(clock, ends, [listing(10), listing(30)])
    counted = {
        cause: value(server.counts.text()[0].decode(), WATCH_RESTARTS.name, **labels(cause))
        for cause in CAUSES
    }
    assert counted == {"ended": 2, "broken": 1, "refused": 1, "expired": 1}


CAUSES = ("ended", "broken", "refused", "expired")


def labels(cause: str) -> dict[str, str]:
    return {"component": "agent", "kind": "Thing", "cause": cause}


async def test_an_event_that_was_cut_off_is_told_by_the_next_watch(clock: Clock):
    whole = event("ADDED", thing("a", 11, "x" * 50))
    server, seen = await followed(clock, [[whole[:30], httpx2.ReadError("cut")], [whole]])
    assert versions(server.watches)[:2] == ["10", "10"]
    assert seen.things == {"a": "x" * 50}


async def test_after_a_connection_broke_all_is_listed_once_more_in_a_while(clock: Clock):
    """It may lead to a store that was put back, which tells nothing of what it has before that version."""
    lists = [listing(100), listing(107, thing("a", 3))]
    server, seen = await followed(clock, [[httpx2.ReadError("reset")], [], [], []], lists)
    assert (seen.things, seen.lists) == ({"a": ""}, 2)
    assert versions(server.lists) == ["0", "100"]
    low, high = following.RELIST_AFTER_BREAK_SECONDS
    assert low - 1 < float(server.watches[1]["timeoutSeconds"]) < high + 1
    assert float(server.watches[2]["timeoutSeconds"]) > high + 1


@pytest.mark.parametrize("slow", [0, 10], ids=["refused", "timed out"])
async def test_a_long_absence_of_the_api_is_not_followed_by_a_list_of_all_agents_at_once(
    clock: Clock, slow: float
):
    away = [(slow, httpx2.ConnectError("no"))] * 50
    server, seen = await followed(clock, [[httpx2.ReadError("reset")], *away, []], [listing(100)])
    low, _ = following.RELIST_AFTER_BREAK_SECONDS
    assert sum(clock.slept) > low
    assert min(float(one["timeoutSeconds"]) for one in server.watches) > low - 1
    assert seen.lists == 1


async def test_a_store_that_has_not_come_that_far_is_asked_for_what_it_has(clock: Clock):
    ahead = httpx2.Response(504, json=status(504))
    lists = [listing(100), ahead, listing(9, thing("a", 3))]
    server, seen = await followed(clock, [[httpx2.ReadError("reset")], [], []], lists)
    assert versions(server.lists) == ["0", "100", ""]
    assert seen.things == {"a": ""}


async def test_all_is_listed_now_and_then_though_nothing_was_missed(clock: Clock):
    began = clock.now
    lists = [listing(10), listing(21, thing("a", 21))]
    server, seen = await followed(clock, itertools.repeat([bookmark(20)]), lists)
    assert versions(server.lists) == ["0", "20", "20"]
    low, high = following.RELIST_SECONDS
    assert 2 * low < clock.now - began < 2 * high + 60
    assert seen.things == {"a": ""}


# --- what the API server refuses ---------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["as an answer", "as an event"])
async def test_a_version_that_is_too_old_is_listed_anew_once(clock: Clock, how: str):
    gone: Answer = (
        httpx2.Response(410, json=status(410)) if how == "as an answer" else [event("ERROR", status(410))]
    )
    lists = [listing(10), listing(30, thing("a", 25))]
    server, seen = await followed(clock, [[bookmark(20)], gone, []], lists)
    assert versions(server.lists) == ["0", "20"]  # not from before what was seen
    assert versions(server.watches) == ["10", "20", "30", "30"]
    assert (seen.things, seen.lists) == ({"a": ""}, 2)


async def test_what_is_too_old_as_soon_as_it_is_listed_is_asked_of_etcd(clock: Clock):
    gone = httpx2.Response(410, json=status(410))
    server, _ = await followed(clock, [gone, []], [listing(10), listing(30)])
    assert versions(server.lists) == ["0", ""]


@pytest.mark.parametrize(
    "nonsense",
    [
        b"{",
        b"[]",
        b"\xff",
        event("ADDED", {}),
        event("MODIFIED", {"metadata": {"name": 7}}),
        event("BOOKMARK", {}),
        event("ERROR", {"code": "x"}),
        event("ERROR", status(500)),
    ],
)
async def test_after_nonsense_all_is_listed_anew(clock: Clock, nonsense: bytes):
    server, seen = await followed(clock, [[nonsense + b"\n"], []], [listing(10), listing(30)])
    assert (seen.lists, versions(server.watches)) == (2, ["10", "30", "30"])


async def test_a_kind_that_was_taken_away_and_came_back_is_another_collection(clock: Clock):
    lists = [listing(10, thing("a", 3)), httpx2.Response(404, text="404 page not found"), listing(4)]
    server, seen = await followed(clock, [httpx2.Response(404, text="404 page not found"), []], lists)
    assert versions(server.lists) == ["0", "", ""]
    assert seen.things == {}


@pytest.mark.parametrize("code", [429, 503])
async def test_who_is_asked_to_wait_does(clock: Clock, code: int):
    busy = httpx2.Response(code, json=status(code), headers={"Retry-After": "17"})
    server, seen = await followed(clock, [busy, busy, []], [busy, listing(10)])
    assert len([one for one in clock.slept if 17 <= one < 17 + following.RETRY_SECONDS[1]]) == 3
    assert len(set(clock.slept)) == len(clock.slept)  # and no two of a thousand for the same time
    assert seen.lists == 1
    assert versions(server.watches) == ["10", "10", "10", "10"]


async def test_who_is_told_to_wait_in_the_middle_of_a_watch_does(clock: Clock):
    busy: Told = [event("ERROR", status(429, retryAfterSeconds=17))]
    server, seen = await followed(clock, [busy, []])
    assert seen.lists == 1
    assert versions(server.watches) == ["10", "10", "10"]
    assert len([one for one in clock.slept if one >= 17]) == 1


@pytest.mark.parametrize(
    "answer", [httpx2.Response(200, content=b""), httpx2.Response(410, json=status(410))], ids=["end", "410"]
)
async def test_what_is_over_at_once_again_and_again_is_asked_for_less_and_less(
    clock: Clock, answer: httpx2.Response
):
    server, _ = await followed(clock, [answer] * 60, itertools.repeat(listing(10)))
    assert len(server.watches) == 61
    assert sum(clock.slept) > 60


# --- objects -----------------------------------------------------------------------------------------------


async def test_what_this_agent_can_not_read_is_as_if_it_were_not_there(clock: Clock):
    later = {"of": "a later contract"}
    events: Told = [event("MODIFIED", thing("b", 11, later)), event("ADDED", thing("d", 12))]
    lists = [listing(10, thing("a", 3, later), thing("b", 4), thing("c", 5))]
    server, seen = await followed(clock, [events], lists)
    assert seen.things.keys() == {"c", "d"}
    assert versions(server.watches) == ["10", "12"]


async def test_pages_are_put_together(clock: Clock):
    del clock
    pages = iter([listing(10, thing("a", 3), **{"continue": "more"}), listing(10, thing("b", 4))])
    asked: list[Json] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(dict(request.url.params))
        return next(pages)

    listed = await connected(answer).list(Resource("/things", Thing, "metadata.name=x"), "0")
    assert [one.metadata.name for one in listed.objects] == ["a", "b"]
    fields = {"fieldSelector": "metadata.name=x"}
    assert asked == [{"resourceVersion": "0", **fields}, {"continue": "more", **fields}]


@pytest.mark.parametrize("items", [[], None])
async def test_a_list_of_nothing_is_empty(items: list[Json] | None):
    body = {"metadata": {"resourceVersion": "3"}, "items": items}
    listed = await connected(lambda _: httpx2.Response(200, json=body)).list(THINGS)
    assert (listed.objects, listed.version) == ([], "3")


TEXT = st.text(st.sampled_from('ab"\\\n\r\u0085\u2028\x0b\x1c\U0001f600'), max_size=20)


@given(st.lists(TEXT, max_size=5), st.lists(st.integers(0, 400), max_size=12))
def test_however_it_is_cut_up_a_line_is_a_line(texts: list[str], cuts: list[int]):
    """Also where a policy's text has what ends lines elsewhere: only the newline does here."""
    whole = b"".join(event("ADDED", thing("a", 1, text)) for text in texts)
    edges = [0, *sorted(min(one, len(whole)) for one in cuts), len(whole)]

    async def chunks() -> AsyncIterator[bytes]:
        for begin, end in itertools.pairwise(edges):
            yield whole[begin:end]

    async def read() -> list[str]:
        return [json.loads(line)["object"]["spec"] async for line in apis._lines(chunks())]

    assert asyncio.run(read()) == texts


# --- one request -------------------------------------------------------------------------------------------


async def test_a_refusal_says_what_the_api_server_says():
    body = {"code": 403, "reason": "Forbidden", "message": "not you"}
    api = connected(lambda _: httpx2.Response(403, json=body))
    with pytest.raises(ApiFault, match="403 Forbidden: not you") as caught:
        await api.get(THINGS, "a")
    assert (caught.value.code, caught.value.retry_after) == (403, 0)


@pytest.mark.parametrize("body", ["<html>busy</html>", "", "[]"])
async def test_a_refusal_of_a_proxy_between_is_one_too(body: str):
    api = connected(lambda _: httpx2.Response(502, text=body))
    with pytest.raises(ApiFault, match=r"502 Bad Gateway"):
        await api.list(THINGS)


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        (httpx2.Response(200, json=thing("a", 1)), "done"),
        (httpx2.Response(403, json=status(403)), "refused"),
        (httpx2.Response(409, json=status(409)), "conflict"),
        (httpx2.Response(429, text="busy"), "busy"),
        (httpx2.ConnectError("no way"), "unanswered"),
    ],
)
async def test_a_write_is_counted_by_what_became_of_it(answer: httpx2.Response | Exception, result: str):
    def answered(_: httpx2.Request) -> httpx2.Response:
        if isinstance(answer, Exception):
            raise answer
        return answer

    counts = Metrics(AGENT)
    with contextlib.suppress(ApiFault):
        await connected(answered, counts).apply(THINGS, "a", Thing(metadata=Metadata(name="a")), "me")
    told = {"component": "agent", "kind": "Thing", "result": result}
    assert value(counts.text()[0].decode(), API_WRITES.name, **told) == 1


async def test_a_list_may_come_compressed():
    asked: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request.headers["Accept-Encoding"])
        content = gzip.compress(listing(3, thing("a", 1)).content)
        return httpx2.Response(200, content=content, headers={"Content-Encoding": "gzip"})

    listed = await connected(answer).list(THINGS)
    assert ([one.metadata.name for one in listed.objects], asked) == (["a"], ["gzip"])


@pytest.mark.parametrize(("code", "told"), [(200, 0), (502, 502), (429, 429)])
async def test_what_only_claims_to_be_compressed_is_a_fault(code: int, told: int):
    cut = gzip.compress(b"{}" * 100)[:-12]
    headers = {"Content-Encoding": "gzip", "Retry-After": "7"}
    answer = httpx2.Response(code, stream=httpx2.ByteStream(cut), headers=headers)
    with pytest.raises(ApiFault) as caught:
        await connected(lambda _: answer).list(THINGS)
    assert (caught.value.code, caught.value.retry_after) == (told, 7 if told else 0)


@pytest.mark.parametrize("asked", ["", "soon", "\u00b2", "-1"])
async def test_a_time_to_come_again_that_is_none_is_not_minded(asked: str):
    headers = [(b"Retry-After", asked.encode("latin-1"))]
    with pytest.raises(ApiFault) as caught:
        await connected(lambda _: httpx2.Response(429, headers=headers)).get(THINGS, "a")
    assert caught.value.retry_after == 0


async def test_a_success_that_makes_no_sense_is_a_fault():
    with pytest.raises(ApiFault, match="makes no sense"):
        await connected(lambda _: httpx2.Response(200, text="<html>")).list(THINGS)
    with pytest.raises(ApiFault, match="makes no sense"):
        await connected(lambda _: httpx2.Response(200, text="<html>")).get(THINGS, "a")


async def test_what_is_not_there_is_none():
    assert await connected(lambda _: httpx2.Response(404, json=status(404))).get(THINGS, "a") is None


async def test_an_expired_watch_is_a_fault_of_its_own():
    api = connected(lambda _: httpx2.Response(410, json=status(410)))
    with pytest.raises(ExpiredFault):
        await anext(api.watch(THINGS, "1", 1))


async def test_a_watch_that_hears_nothing_for_longer_than_it_is_open_is_given_up():
    asked: list[Any] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request.extensions["timeout"]["read"])
        return httpx2.Response(200, content=b"")

    assert [one async for one in connected(answer).watch(THINGS, "1", 100)] == [("", None, "1")]
    assert asked == [100 + apis.MARGIN_SECONDS]
