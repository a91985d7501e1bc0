"""How many writes are sent, and what becomes of those for which the API server has no time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, cast

import httpx2
import pytest
from hauberk.crds.errors import BusyFault, ClusterFault, RefusedFault
from hauberk.crds.exporter import of_loop
from hauberk.crds.metrics import API_WRITES, RESULTS, Metric, Uncounted
from hauberk.crds.models import ProfileStatus, SecurityProfile, decode
from hauberk.crds.names import PENDING_TAINT, SECURITY_PROFILES
from hauberk.operator.budget import Budget
from hauberk.operator.cluster import BUSY_SECONDS, PAGE, Held
from hauberk.operator.loop import Loop
from hauberk.operator.operators_cluster import WRITES, OperatorsCluster
from hauberk.operator.writes import (
    AddFinalizer,
    LabelNode,
    OpenGate,
    PodOf,
    RemoveFinalizer,
    TellOfPod,
    Untaint,
    Write,
)
from lightkube import AsyncClient
from lightkube.config.kubeconfig import KubeConfig

from tests.unit.loops import body


@dataclass
class Clock:
    """Time that passes by sleeping alone."""

    now: float = 1000.0
    slept: list[float] = field(default_factory=list[float])

    def budget(self, rate: float = 50.0, burst: int = 100) -> Budget:
        return Budget(rate=rate, burst=burst, now=lambda: self.now, sleep=self.sleep)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.mark.parametrize(
    ("writes", "seconds"), [(1, 0.0), (100, 0.0), (101, 0.02), (150, 1.0), (600, 10.0), (10_100, 200.0)]
)
async def test_a_burst_is_free_and_more_takes_its_time(writes: int, seconds: float):
    clock = Clock()
    budget, began = clock.budget(), clock.now
    for _ in range(writes):
        await budget.spend()
    assert clock.now - began == pytest.approx(seconds)


async def test_a_quiet_time_gives_no_more_than_a_burst():
    clock = Clock()
    budget = clock.budget()
    clock.now += 3600
    for _ in range(100):
        await budget.spend()
    assert clock.slept == []
    await budget.spend()
    assert clock.slept == [pytest.approx(0.02)]


async def test_several_that_ask_at_once_share_the_rate():
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    budget = Budget(rate=10.0, burst=1, now=lambda: 0.0, sleep=sleep)
    await asyncio.gather(*(budget.spend() for _ in range(4)))
    assert waits == [pytest.approx(0.1), pytest.approx(0.2), pytest.approx(0.3)]


# --- an API server that is busy ---

Answer = Callable[[httpx2.Request], httpx2.Response]


def status(code: int, reason: str, **details: Any) -> dict[str, Any]:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "code": code,
        "reason": reason,
        "message": reason,
        "details": details,
    }


def busy(seconds: str = "1", *, plain: bool = False) -> httpx2.Response:
    """Return a 429: API priority and fairness say it in plain text, others with a Status."""
    headers = {"Retry-After": seconds} if seconds else {}
    if plain:
        return httpx2.Response(429, headers=headers, text="Too many requests, please try again later.")
    return httpx2.Response(429, headers=headers, json=status(429, "TooManyRequests", retryAfterSeconds=1))


def cluster_of(answer: Answer, clock: Clock) -> OperatorsCluster:
    config = KubeConfig.from_dict(
        {
            "clusters": [{"name": "c", "cluster": {"server": "http://api"}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "users": [{"name": "u", "user": {}}],
            "current-context": "c",
        }
    )
    client = AsyncClient(config=config.get(), transport=httpx2.MockTransport(answer))
    return OperatorsCluster(client, "hauberk-system", budget=clock.budget())


def in_turn(*answers: httpx2.Response) -> Answer:
    left = iter(answers)
    return lambda _: next(left)


@pytest.mark.parametrize("plain", [True, False])
async def test_a_write_waits_as_long_as_it_is_asked_to_and_is_sent_again(plain: bool):
    clock = Clock()
    done = httpx2.Response(200, json=body("a"))
    cluster = cluster_of(in_turn(busy(plain=plain), busy(plain=plain), done), clock)
    await cluster.write_status("a", ProfileStatus())
    assert len(clock.slept) == 2
    assert all(1.0 <= one <= 1.5 for one in clock.slept)


@pytest.mark.parametrize(("told", "seconds"), [("60", 60.0), ("", 1.0), ("0", 1.0), ("soon", 1.0)])
async def test_what_would_wait_for_too_long_is_told_with_the_time_that_is_asked_for(
    told: str, seconds: float
):
    """Another one may lead by then: it is decided anew."""
    clock = Clock()
    cluster = cluster_of(lambda _: busy(told), clock)
    with pytest.raises(BusyFault) as caught:
        await cluster.write_status("a", ProfileStatus())
    assert caught.value.seconds == seconds
    assert sum(clock.slept) <= BUSY_SECONDS


async def test_a_list_for_which_there_is_no_time_is_told_so():
    cluster = cluster_of(lambda _: busy("7", plain=True), Clock())
    with pytest.raises(BusyFault) as caught:
        _ = [one async for one in cluster.listing(SECURITY_PROFILES)]
    assert caught.value.seconds == 7.0


async def test_a_refusal_is_no_matter_of_time():
    clock = Clock()
    refused = httpx2.Response(403, json=status(403, "Forbidden"))
    with pytest.raises(ClusterFault) as caught:
        await cluster_of(lambda _: refused, clock).write_status("a", ProfileStatus())
    assert not isinstance(caught.value, BusyFault)
    assert clock.slept == []


@pytest.mark.parametrize(
    ("code", "message", "of_the_object"),
    [
        (422, "Invalid", True),
        (400, "BadRequest", True),
        (403, "Forbidden", True),
        (413, "RequestEntityTooLarge", True),
        (500, 'Internal error occurred: failed calling webhook "theirs.example": no route to host', True),
        (500, "etcdserver: request timed out", False),
        (503, "ServiceUnavailable", False),
        (401, "Unauthorized", False),
    ],
)
async def test_what_is_refused_of_one_object_is_told_from_what_is_wrong_with_the_api(
    code: int, message: str, of_the_object: bool
):
    refused = httpx2.Response(code, json={**status(code, "Failed"), "message": message})
    with pytest.raises(ClusterFault) as caught:
        await cluster_of(lambda _: refused, Clock()).carry_out(LabelNode("n", {}))
    assert isinstance(caught.value, RefusedFault) == of_the_object
    assert message in caught.value.message


def broken(request: httpx2.Request) -> httpx2.Response:
    raise httpx2.ConnectError("no way", request=request)


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        (httpx2.Response(200, json=body("a")), "done"),
        (httpx2.Response(404, json=status(404, "NotFound")), "gone"),
        (httpx2.Response(409, json=status(409, "Conflict")), "conflict"),
        (httpx2.Response(403, json=status(403, "Forbidden")), "refused"),
        (httpx2.Response(500, text="of a proxy between"), "refused"),
        (busy("60", plain=True), "busy"),
        (None, "unanswered"),
    ],
)
async def test_each_write_is_counted_by_what_became_of_it(answer: httpx2.Response | None, result: str):
    def answered(request: httpx2.Request) -> httpx2.Response:
        return broken(request) if answer is None else answer

    counts = of_loop("operator", (), WRITES)
    cluster = replace(cluster_of(answered, Clock()), counts=counts)
    with contextlib.suppress(ClusterFault):
        await cluster.write_status("a", ProfileStatus())
    with contextlib.suppress(ClusterFault):
        await cluster.take_lease(Held("", 12, 0, "1"), "me", 12)

    def told(kind: str) -> dict[str, float | None]:
        labels = {"component": "operator", "kind": kind}
        read = counts.registry.get_sample_value
        return {one: read("hauberk_api_writes_total", {**labels, "result": one}) for one in RESULTS}

    assert told("SecurityProfileStatus") == told("Lease") == {one: float(one == result) for one in RESULTS}


class Kinds(Uncounted):
    """Keeps of which kinds writes were counted."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def count(self, metric: Metric, *labels: str, by: float = 1.0) -> None:
        assert (metric, by) == (API_WRITES, 1.0)
        self.seen.add(labels[0])


async def test_whatever_the_operator_writes_is_of_a_kind_that_is_counted_from_the_start():
    """Each of its writes once, to an API server that takes everything."""

    # what is asked for of all the kinds together
    webhook = {"name": "w", "admissionReviewVersions": [], "sideEffects": "None", "clientConfig": {}}
    there = {
        "metadata": {"name": "a", "resourceVersion": "1"},
        "spec": {"taints": [{"key": PENDING_TAINT, "effect": "NoSchedule"}], "selector": {}, "template": {}},
        "webhooks": [webhook],
        "involvedObject": {},
    }

    def taken(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, json=there)

    kinds = Kinds()
    cluster = replace(cluster_of(taken, Clock()), counts=kinds)
    profile, pod = decode(SecurityProfile, body("a")), PodOf("n", "p", "u")
    writes: list[Write] = [AddFinalizer(profile), RemoveFinalizer(profile), LabelNode("n", {}), Untaint("n")]
    for write in (*writes, OpenGate(pod), TellOfPod(pod, "Gated", "m")):
        before, kinds.seen = kinds.seen, set()
        assert await cluster.carry_out(write)
        assert kinds.seen, write
        kinds.seen |= before
    await cluster.write_status("a", ProfileStatus())
    await cluster.tell(profile, "Ready", "m", warning=False)
    await cluster.apply_daemonset("d", {})
    assert await cluster.trust(b"authority")
    await cluster.take_lease(None, "me", 12)
    assert kinds.seen == set(WRITES)


async def test_a_write_that_is_sent_again_is_counted_again():
    counts = of_loop("operator", (), WRITES)
    answers = in_turn(busy(), httpx2.Response(200, json=body("a")))
    await replace(cluster_of(answers, Clock()), counts=counts).write_status("a", ProfileStatus())
    for result in ("busy", "done"):
        labels = {"component": "operator", "kind": "SecurityProfileStatus", "result": result}
        assert counts.registry.get_sample_value("hauberk_api_writes_total", labels) == 1


async def test_a_lease_waits_for_no_write():
    clock = Clock()
    lease = {"metadata": {"name": "l", "resourceVersion": "2"}, "spec": {}}
    cluster = cluster_of(lambda _: httpx2.Response(200, json=lease), clock)
    for _ in range(100):
        await cluster.budget.spend()
    assert await cluster.take_lease(Held("", 12, 0, "1"), "me", 12)
    assert clock.slept == []


# --- lists in pages ---


def page(*names: str, more: str = "") -> httpx2.Response:
    metadata = {"resourceVersion": "1", "continue": more}
    return httpx2.Response(200, json={"metadata": metadata, "items": [body(name) for name in names]})


async def test_a_list_that_is_forgotten_in_the_middle_is_begun_again(monkeypatch: pytest.MonkeyPatch):
    """410: its first pages are of no use, as nobody can tell what went meanwhile."""
    monkeypatch.setattr("hauberk.operator.loop.RETRY_SECONDS", (0.001, 0.002))
    asked: list[str] = []
    gone = httpx2.Response(410, json=status(410, "Expired"))
    pages = iter([page("a", "went", more="x"), gone, page("a", "b", more="y"), page("c")])

    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.url.path.endswith("/securityprofiles"):
            asked.append(request.url.params.get("continue", ""))
            assert request.url.params["limit"] == str(PAGE)
            return next(pages)
        crd = {
            "metadata": {"name": "x", "uid": "u"},
            "spec": {"group": "g", "names": {"kind": "X", "plural": "x"}, "scope": "Cluster", "versions": []},
            "status": {"conditions": [{"type": "Established", "status": "True"}]},
        }
        return httpx2.Response(200, json=crd)

    loop = Loop(cluster_of(answer, Clock()), kinds=(SECURITY_PROFILES,))
    await loop.until_done("list", loop.relist)
    assert asked == ["", "x", "", "y"]
    assert sorted(loop.profiles) == ["a", "b", "c"]


# --- what loops make of it ---


async def test_who_is_asked_to_wait_does(monkeypatch: pytest.MonkeyPatch):
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr("asyncio.sleep", sleep)
    faults = iter([BusyFault(cast("Any", "Progressing"), "no time", 40.0)])

    async def work() -> None:
        if fault := next(faults, None):
            raise fault

    await Loop(cast("OperatorsCluster", None)).until_done("write", work)
    assert len(waits) == 1
    assert 40.0 <= waits[0] <= 60.0
