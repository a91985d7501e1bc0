"""Follows what the API has of one kind: a list, then a watch that is gone on with from wherever it ended.

Called by `cluster`. All is listed once; after that the API server tells what changed, and bookmarks keep the
version young from which a watch can be gone on with. So no watch that ends costs a list, be it that its
time was over or that its connection broke. A list is due when the server no longer knows what came after that
version (410), and now and then all the same, so that whatever was missed heals.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import NoReturn

import structlog
import tenacity

from ..crds.metrics import WATCH_RESTARTS
from .api import CACHED, FRESH, GATEWAY_TIMEOUT, GONE, Api, ApiFault, ExpiredFault, Resource, T, backoff

log = structlog.get_logger()

# How long the server keeps a watch open; at random around it, so that those of many agents don't end at once.
WATCH_SECONDS = 240.0
# By its contract a watch misses nothing, so this is for what nobody thought of: rare, for it is all of it.
RELIST_SECONDS = (1800.0, 3600.0)
# A connection that broke may have been that of an API server whose store was put back to an earlier day. That
# takes a watch from a version that it has not reached yet, and tells nothing of what comes before that.
RELIST_AFTER_BREAK_SECONDS = (20.0, 90.0)
# When a cluster comes up, or its API server comes back, all agents ask for the same thing.
FIRST_LIST_SPREAD_SECONDS = 0.5
RESUME_SPREAD_SECONDS = 1.0
RETRY_SECONDS = (0.5, 15.0)
# A watch that is over sooner is a failure, however it ended: else the next would follow at once, and so on.
SHORT_SECONDS = 5.0


@dataclass
class _Place:
    """How far a watch has come, when to list anew (monotonic seconds), and whether its connection broke."""

    version: str
    due: float
    broken: bool = False


async def follow(
    api: Api,
    what: Resource[T],
    listed: Callable[[Mapping[str, T]], None],
    changed: Callable[[str, T | None], None],
) -> NoReturn:
    """Call `listed` with all objects by name, then `changed` with the name of each that is another or gone.

    Never returns; `listed` is called again after each new list, which may lack what was there before. What
    this agent can't read is as if it were not there.
    """
    at, in_vain = CACHED, 0
    while True:
        spread = min(RETRY_SECONDS[1], FIRST_LIST_SPREAD_SECONDS * 2 ** min(in_vain, 10))
        await asyncio.sleep(random.uniform(0, spread))  # noqa: S311
        version = await _list(api, what, at, listed)
        began = time.monotonic()
        at = await _watch(api, what, version, changed)
        in_vain = in_vain + 1 if time.monotonic() - began < SHORT_SECONDS else 0


async def _list(api: Api, what: Resource[T], at: str, listed: Callable[[Mapping[str, T]], None]) -> str:
    """Hand on all that there is, and return its version. Nothing of it is kept here."""

    async def once() -> str:
        try:
            found = await api.list(what, at)
        except ApiFault as fault:
            if at in (CACHED, FRESH) or fault.code not in (GONE, GATEWAY_TIMEOUT):
                raise
            found = await api.list(what)  # the store has not come that far: it was put back to an earlier day
        listed({one.metadata.name: one for one in found.objects})
        return found.version

    return await _patiently(what, "list")(once)


async def _watch(api: Api, what: Resource[T], version: str, changed: Callable[[str, T | None], None]) -> str:
    """Hand on what changes until a list is due; return the version that it may be of at the earliest."""
    place = _Place(version, time.monotonic() + random.uniform(*RELIST_SECONDS))  # noqa: S311
    while time.monotonic() < place.due:
        try:
            await _patiently(what, "watch")(_watch_once, api, what, place, changed)
        except ExpiredFault as fault:
            log.info("listing anew", kind=what.model.__name__, why=fault.message)
            api.counts.count(WATCH_RESTARTS, what.kind, "expired")
            # What the API server has in memory may be older than what was seen; going back in time would take
            # up what was withdrawn. Where not even the list could be watched from, only etcd's word counts.
            return place.version if fault.code == GONE and place.version != version else FRESH
    return place.version


async def _watch_once(
    api: Api, what: Resource[T], place: _Place, changed: Callable[[str, T | None], None]
) -> None:
    """Hand on what changes until the watch ends.

    Raises:
        ApiFault: it was refused, or over too soon: to be tried again after a while.
    """
    began = time.monotonic()
    # counted from when the API server is back, however long it was away
    soon = began + random.uniform(*RELIST_AFTER_BREAK_SECONDS)  # noqa: S311
    due = min(place.due, soon) if place.broken else place.due
    seconds = max(1.0, min(WATCH_SECONDS * random.uniform(0.8, 1.2), due - began))  # noqa: S311
    taken: float | None = None
    failed: ApiFault | None = None
    try:
        async with aclosing(api.watch(what, place.version, seconds)) as changes:
            async for change in changes:
                taken = taken or time.monotonic()
                if change.name:
                    changed(change.name, change.object)
                place.version = change.version or place.version
    except ExpiredFault:
        raise
    except ApiFault as fault:
        failed = fault
    cut_off = failed is not None and failed.code == 0
    cause = "ended" if failed is None else "broken" if cut_off else "refused"
    api.counts.count(WATCH_RESTARTS, what.kind, cause)
    if taken is None or time.monotonic() - taken < min(SHORT_SECONDS, seconds / 2):
        place.broken = place.broken or cut_off
        raise failed or ApiFault("the API server ended the watch at once")
    place.due, place.broken = due, cut_off
    if failed:
        log.warning("watch interrupted", kind=what.model.__name__, error=failed.message)
        await asyncio.sleep(failed.retry_after + random.uniform(0, RESUME_SPREAD_SECONDS))  # noqa: S311


def _patiently(what: Resource[T], word: str) -> tenacity.AsyncRetrying:
    """Return what tries again for ever, with longer and longer waits."""

    def told(state: tenacity.RetryCallState) -> None:
        fault = state.outcome.exception() if state.outcome else None
        message = fault.message if isinstance(fault, ApiFault) else ""
        name = what.model.__name__
        log.warning("to be tried again", what=word, kind=name, error=message, failures=state.attempt_number)

    return tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception(
            lambda error: isinstance(error, ApiFault) and not isinstance(error, ExpiredFault)
        ),
        wait=backoff(RETRY_SECONDS),
        before_sleep=told,
    )
