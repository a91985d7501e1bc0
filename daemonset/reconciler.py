"""The loop of one backend: whenever something changed, plan, do, read back and tell what there is.

Started by `agent`, one for each security module that the node has. Three things wake it: a ProfileRevision or
the own Node's labels (told by `agent`), what is loaded (told by the backend), and the time to try a failed
step again. It works from memory and disk while the API is away.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec
import structlog

from ..crds.errors import Fault, InputFault
from ..crds.metrics import (
    AGENT_FAILURES,
    AGENT_LOAD_DURATION,
    AGENT_LOADS,
    AGENT_REPAIRS,
    AGENT_ROUND_DURATION,
    Counts,
    Uncounted,
)
from ..crds.models import Problem, ProfileRevision, Remark, Section
from ..crds.names import ANY_FACTS
from ..crds.reasons import Reason
from ..profiles.parser import fault_message
from . import drift, report
from .backend import Backend, Prepared
from .compiling import Compiling
from .drift import Drift
from .holdings import Holding
from .host import Host
from .news import News
from .plan import Key, Load, Persist, Plan, Prune, Release, Remove, Snapshot, Step, mismatch, text_for
from .resting import Planner
from .revisions import Revisions

log = structlog.get_logger()

# A step that is done and due again this often within one round is being undone by something else.
ROUNDS = 4
IN_USE_SECONDS = (2.0, 15.0)
RETRY_SECONDS = (1.0, 60.0)
# Where each try costs the node as much as a run of semodule.
DEAR_RETRY_SECONDS = (10.0, 900.0)
# Without any event what is loaded is looked at this often all the same: in case nobody tells.
LOOK_SECONDS = 60.0
# What keeps growing is not waited for longer than this, as a multiple of the backend's `quiet_seconds`.
LONGEST_QUIET = 6
# The first report waits this long for the slowest backend: two writes would delay what the second tells.
FIRST_SECONDS = 2.0
# What is loaded is recorded when nothing else is about to be loaded, and so much later at the latest: a
# record costs about as much as a load does, and pods wait for loads.
RECORD_SECONDS = 30.0


class Look(NamedTuple):
    """What there was at one moment, and what is to be done about it."""

    snapshot: Snapshot
    plan: Plan


@dataclass
class Refused:
    """A step that failed: what it met, and when it may be tried again (monotonic seconds)."""

    problem: Problem
    until: float
    failures: int = 1


@dataclass
class Reconciler:
    """What one backend should hold, what it holds, and what it met.

    Attributes:
        host: the node.
        backend: what carries out steps.
        told: is called whenever `section` may have changed.
        labels: of the node; None before they are known.
        kind: of the node, by `facts_key`.
        section: what there is to report; None before anything was read.
        counts: is told what is done.
        left: how many steps the last round left to be done.
        record_by: until when records wait for loads at most (monotonic seconds).
        records_at: until when they do by the last look.
    """

    host: Host
    backend: Backend
    told: Callable[[], None] = lambda: None
    labels: Mapping[str, str] | None = None
    kind: str = ANY_FACTS
    section: Section | None = None
    counts: Counts = field(default_factory=Uncounted)
    left: int = 0
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    revisions: Revisions = field(init=False)
    planner: Planner = field(default_factory=Planner)
    news: News = field(default_factory=News)
    unread: list[tuple[str, ProfileRevision | None]] = field(default_factory=list[Any])
    holdings: dict[str, Holding] = field(default_factory=dict[str, Holding])
    unrecorded: set[str] = field(default_factory=set[str])
    refused: dict[Key, Refused] = field(default_factory=dict[Key, Refused])
    drifts: dict[str, Drift] = field(default_factory=dict[str, Drift])
    remarks: list[Remark] = field(default_factory=list[Remark])
    untidy: bool = True
    alive_at: float = field(default_factory=time.monotonic)
    looked_at: float = 0.0
    # what is due, since when it is just that, and since when anything is
    pending: frozenset[Key] = frozenset()
    grown_at: float = 0.0
    pending_at: float = 0.0
    record_by: float = 0.0
    records_at: float = 0.0

    def __post_init__(self) -> None:
        """Know of no revision yet."""
        self.revisions = Revisions(self.backend.type)

    async def run(self) -> None:
        """Run until cancelled; a failure ends it."""
        self._remember()
        compiling = Compiling(self.backend.prepare, self._failed, self.wake)
        with self.backend.changes(self.wake), contextlib.closing(compiling):
            while True:
                began = time.monotonic()
                look = await self.reconcile(compiling)
                self.counts.observe(AGENT_ROUND_DURATION, time.monotonic() - began, self.backend.type)
                self._tell(look)
                self.alive_at = time.monotonic()
                await self._wait(self._next(compiling))

    def _remember(self) -> None:
        records = self.backend.records
        self.holdings, torn = records.read()
        torn += self.backend.set_aside()
        for fault in torn:
            log.error("state", reason=fault.reason, message=fault.message)
        self.remarks = [Remark(reason=fault.reason, message=fault_message(fault)) for fault in torn]
        announced = {one.profile: one for one in records.announced()}
        loaded, boot_id = self.backend.loaded(self.holdings | announced), self.host.boot_id()
        for holding in announced.values():
            if not mismatch(holding, loaded, ""):  # it was loaded just before the end
                self._hold(holding)
            elif not mismatch(holding, loaded, boot_id):  # perhaps: no hash tells, so it is loaded once more
                before = self.holdings.get(holding.profile, holding)
                former = {*before.former, *holding.former, *holding.modes} - before.modes.keys()
                self._hold(msgspec.structs.replace(before, boot_id="", former=sorted(former)))

    def node_seen(self, labels: Mapping[str, str] | None, kind: str) -> None:
        """Take note of the node's labels and of its kind."""
        self.labels, self.kind = labels, kind
        self.wake.set()

    def expects_more(self) -> bool:
        """Return whether what there is to report is likely to change soon."""
        return bool(self.unread) or self.news.is_burst(time.monotonic())

    def revisions_listed(self, revisions: Mapping[str, ProfileRevision]) -> None:
        """Take note of all ProfileRevisions by name; those of other types are left out."""
        self.unread.clear()
        self._take_up(self.revisions.listed(revisions))
        self.wake.set()

    def revision_seen(self, name: str, revision: ProfileRevision | None) -> None:
        """Take note of what one ProfileRevision is now, None where it is gone: now or soon, with others."""
        self.unread.append((name, revision))
        now = time.monotonic()
        due = self.news.due(now)
        if due <= now:
            self._read_news(due)
        elif len(self.unread) == 1:
            asyncio.get_running_loop().call_later(due - now, self._read_news, due)

    def _read_news(self, due: float) -> None:
        """Take note of what was told since the last time, and go round where that changes anything."""
        words = [self.revisions.seen(*one) for one in self.unread]
        self.unread.clear()
        if any(word.changed for word in words):
            self.news.looked(time.monotonic(), due)
            self._take_up(frozenset().union(*(word.new for word in words)))
            self.wake.set()

    def _take_up(self, new: frozenset[str]) -> None:
        """Forget what stood in the way of an old word: it need not stand in the way of the new one."""
        if new:
            self.refused = {
                key: one
                for key, one in self.refused.items()
                if key.profile not in new or one.until == float("inf")
            }

    async def _wait(self, due: float) -> None:
        """Wait for something to change or for the next time to try; clears the wake-up."""
        now = time.monotonic()
        # What was due before the last round was tried in it, or no longer matters.
        times = [one.until for one in self.refused.values() if one.until > self.looked_at]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(
                max(0.05, min(due - now, *(time - now for time in times), LOOK_SECONDS))
            ):
                await self.wake.wait()
        self.wake.clear()

    # --- the loop -----------------------------------------------------------------------------------------

    async def reconcile(self, compiling: Compiling) -> Look:
        """Plan and do until nothing is left to do now; what still compiles wakes the loop again.

        Returns what there was at the last look, and what is left to do.
        """
        done: Counter[Key] = Counter()
        look = self._look()
        while True:
            decided = look.plan
            self.refused = {
                key: one
                for key, one in self.refused.items()
                # what is not recorded is planned for nothing else yet
                if key.profile in self.unrecorded or _still_matters(key, decided, self.revisions.by_name)
            }
            compiling.want([step for step in decided.steps if isinstance(step, Load)])
            away = [step for step in decided.steps if not isinstance(step, Load | Persist)]
            keys = {step.key for step in away} | compiling.ready.keys()
            acted: list[Step] = []
            if self._is_quiet(frozenset(keys)):
                acted = await self._carry_out(away, compiling.take())
            self.records_at = self._records_wait_until(compiling)
            loads_first = time.monotonic() < self.records_at
            recorded = [] if acted else await self._persist(decided, released_only=loads_first)
            self.alive_at = time.monotonic()
            self._stop_repeating([*acted, *recorded], done)
            self.untidy = self.untidy or bool(acted or recorded)
            if not acted and (not recorded or self._is_all(decided, recorded)):
                self.left = len(decided.steps) - len(recorded)
                break
            look = self._look()
            if acted:
                self._tell(look)  # what is loaded does not wait for the disk
        self._tidy(compiling)
        return look

    def _records_wait_until(self, compiling: Compiling) -> float:
        """Return until when what is loaded is not recorded yet, because more is about to be loaded.

        A text that took too long before is not waited for: it may do so again.
        """
        if not compiling.slow.issuperset(compiling.tasks):
            return self.record_by
        return min(self.record_by, self.news.burst_until())

    def _is_all(self, decided: Plan, recorded: Collection[Persist]) -> bool:
        """Return whether what was recorded is all that there was to do, and nothing else came up.

        What was released is taken away once that is recorded.
        """
        return (
            len(recorded) == len(decided.steps)
            and not self.wake.is_set()
            and not any(step.key in self.refused or step.holding.released for step in recorded)
        )

    def _look(self) -> Look:
        """Read what is loaded, and plan; what comes up after that wakes the loop again."""
        self.wake.clear()
        self.looked_at = time.monotonic()
        return self._planned()

    def _planned(self) -> Look:
        snapshot = self._snapshot()
        return Look(snapshot, self.planner.plan(snapshot))

    def _is_quiet(self, due: frozenset[Key]) -> bool:
        """Return whether what is due has been just that for long enough to be done now."""
        now = time.monotonic()
        if due != self.pending:
            self.grown_at = now
            self.pending_at = self.pending_at if self.pending else now
            self.pending = due
        return now >= self._quiet_at()

    def _quiet_at(self) -> float:
        quiet = self.backend.quiet_seconds
        return min(self.grown_at + quiet, self.pending_at + quiet * LONGEST_QUIET)

    def _next(self, compiling: Compiling) -> float:
        """Return when there is something to do though nothing happens (monotonic seconds)."""
        # A time that is over came after the last round looked at it.
        record = self.records_at if self.left and self.records_at > self.looked_at else math.inf
        if not self.pending:
            return min(compiling.due(), record)
        return min(max(compiling.due() if compiling.ready else 0.0, self._quiet_at()), record)

    async def _carry_out(
        self, away: Sequence[Prune | Remove | Release], ready: Sequence[Prepared]
    ) -> list[Step]:
        """Take away and load what is due; return what was done."""
        acted: list[Step] = [*away, *(one.step for one in ready)]
        if not acted:
            return []
        began = time.monotonic()
        with self._told_in_time():
            try:
                outcome = await self.backend.carry_out(away, ready, self.holdings)
            except Exception as error:  # noqa: BLE001 - told apart by _failed
                outcome = {step.key: error for step in acted}
        if ready:
            self.counts.observe(AGENT_LOAD_DURATION, time.monotonic() - began, self.backend.type)
        for step in acted:
            became = outcome[step.key]
            if isinstance(became, Exception):
                self._failed(step.key, became)
                continue
            if became is None:
                self._forget(step.key.profile)
            else:
                self._hold(became)
            self._done(step.key)
            if isinstance(step, Load):
                self.counts.count(AGENT_LOADS, self.backend.type)
                if step.drift:
                    self._repaired(step)
        return acted

    @contextlib.contextmanager
    def _told_in_time(self) -> Generator[None]:
        """Tell what is held before a first step that takes long: who starts again must not take it back."""
        late = asyncio.get_running_loop().call_later(FIRST_SECONDS, lambda: self._tell(self._planned()))
        if self.section is not None:
            late.cancel()
        try:
            yield
        finally:
            late.cancel()

    async def _persist(self, decided: Plan, *, released_only: bool) -> list[Persist]:
        """Record what was loaded, until something more urgent comes up; return what was done.

        What was released does not wait: by the record before, whoever starts again would confine its tasks.
        """
        done: list[Persist] = []
        for step in decided.steps:
            if not isinstance(step, Persist) or (released_only and not step.holding.released):
                continue
            try:
                await self.backend.persist(step)
            except Exception as error:  # noqa: BLE001 - told apart by _failed
                self._failed(step.key, error)
            else:
                self.unrecorded.discard(step.holding.profile)
                self._done(step.key)
            self.alive_at = time.monotonic()  # a slow disk has its time for each of many
            done.append(step)
            if self.wake.is_set():
                break
        return done

    def _stop_repeating(self, acted: Sequence[Step], done: Counter[Key]) -> None:
        done.update(step.key for step in acted)
        for step in acted:
            if done[step.key] > ROUNDS and step.key not in self.refused:
                self._refuse(step.key, Reason.CONTESTED, "what this agent does is undone at once")

    def _tidy(self, compiling: Compiling) -> None:
        if not self.revisions.known:
            return
        self.revisions.forget(self.holdings)
        if self.untidy and not self.unrecorded and not compiling.tasks:
            revisions = self.revisions.by_name.values()
            found = [(text_for(one, self.kind), one.spec.content.mode) for one in revisions]
            texts = [(text.text, mode) for text, mode in found if text]
            self.backend.settle(self.holdings.values(), texts)
            self.untidy = False

    def _snapshot(self) -> Snapshot:
        now = time.monotonic()
        # Until both are known nothing may be loaded anew or unloaded: what is recorded is kept as it is.
        known = self.revisions.known and self.labels is not None
        return Snapshot(
            revisions=tuple(self.revisions.by_name.values()) if known else (),
            labels=self.labels or {},
            holdings=self.holdings,
            kernel=self.backend.loaded(self.holdings),
            boot_id=self.host.boot_id(),
            boot_files=self.backend.boot_files(),
            unrecorded=frozenset(self.unrecorded),
            refused={key: one.problem for key, one in self.refused.items() if one.until > now},
            kind=self.kind,
        )

    # --- what became of a step ----------------------------------------------------------------------------

    def _done(self, key: Key) -> None:
        self.refused.pop(key, None)
        log.info("done", step=key.kind, profile=key.profile, revision=key.revision)

    def _hold(self, holding: Holding) -> None:
        if not self.unrecorded:
            self.record_by = time.monotonic() + RECORD_SECONDS
        self.holdings[holding.profile] = holding
        self.unrecorded.add(holding.profile)

    def _forget(self, profile: str) -> None:
        self.holdings.pop(profile, None)
        self.unrecorded.discard(profile)
        self.drifts.pop(profile, None)

    def _repaired(self, step: Load) -> None:
        """Count what someone else did, and leave the profile alone for a while where it is a fight."""
        history, pause = drift.repaired(self.drifts.get(step.profile, Drift()), step.drift, time.monotonic())
        self.drifts[step.profile] = history
        self.counts.count(AGENT_REPAIRS, self.backend.type)
        log.warning("repaired", profile=step.profile, what=step.drift, count=history.count)
        if pause:
            message = (
                f"something else on the node keeps changing it: {step.drift}; repaired {history.count} "
                f"times, the next time in {pause:.0f} s at the earliest"
            )
            self._refuse(step.key, Reason.CONTESTED, message, wait=pause)

    def _failed(self, key: Key, error: Exception) -> None:
        """Note that a step failed; a bug in one profile must not stop the others."""
        if isinstance(error, Fault):
            wait = float("inf") if _is_permanent(error) else None
            self._refuse(key, error.reason, fault_message(error), wait=wait)
        else:
            log.error("bug", step=key, exc_info=error)
            self._refuse(key, Reason.BUG, "the agent met a bug; its log has the trace")

    def _refuse(self, key: Key, reason: Reason, message: str, *, wait: float | None = None) -> None:
        """Leave a step alone for a while: for `wait` seconds, else longer with each failure."""
        self.counts.count(AGENT_FAILURES, self.backend.type, reason)
        before = self.refused.get(key)
        failures = before.failures + 1 if before else 1
        if wait is None:
            dear = DEAR_RETRY_SECONDS if self.backend.quiet_seconds else RETRY_SECONDS
            low, high = IN_USE_SECONDS if reason is Reason.IN_USE else dear
            # Past some doublings it is the highest anyway, and past a thousand no number at all.
            wait = random.uniform(low, min(high, low * 2 ** min(failures, 16)))  # noqa: S311
        problem = Problem(revision=key.revision, reason=reason, message=message)
        if before is None or before.problem != problem:
            log.warning("refused", step=key.kind, profile=key.profile, reason=reason, message=message)
        self.refused[key] = Refused(problem, time.monotonic() + wait, failures)

    # --- the report ---------------------------------------------------------------------------------------

    def _tell(self, look: Look) -> None:
        if not self.revisions.known:
            return  # what it should hold is not known yet
        snapshot, decided = look
        # A step whose time to try again has come is not yet mended: its problem stays told.
        problems = {
            step.key.profile: self.refused[step.key].problem
            for step in decided.steps
            if step.key in self.refused
        }
        told = report.Told(
            problems=problems | dict(decided.problems),
            orphans=decided.orphans,
            of_other_kind=decided.of_other_kind,
            sequences=report.sequences(self.holdings, snapshot.revisions),
            drifts=self.drifts,
            remarks=self.remarks,
        )
        self.section = report.section(self.holdings, snapshot.kernel, told, snapshot.boot_id)
        self.told()


def _is_permanent(fault: Fault) -> bool:
    # How long a text takes depends on the node's load too.
    return isinstance(fault, InputFault) and fault.reason is not Reason.POLICY_TOO_SLOW


def _still_matters(key: Key, decided: Plan, revisions: Mapping[str, ProfileRevision]) -> bool:
    """Return whether a failed step can still come up: its problem is told, or its revision is still there."""
    if key.profile in decided.problems or any(step.key == key for step in decided.steps):
        return True
    return key.kind == "load" and any(
        (one.spec.profile, one.spec.content.digest) == (key.profile, key.revision)
        for one in revisions.values()
    )
