"""Judges what was seen of statuses and kernels: when was Ready=True wrong, when was a profile lost. Pure.

Called by `loop` after each round with the histories that `histories` kept. All times are seconds of one
monotonic clock.

A status with Ready=True claims that the kernels of the nodes it counts hold, at that moment, exactly what
the generation it speaks of asks for. A moment at which one does not is wrong; in a row they are a window.
What may be is listed in `Limits`; everything else is uncovered, and more than `tolerance` of that is red.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

# Mode and hash of each profile that a kernel holds, by name.
Content = Mapping[str, tuple[str, str]]
# UID and generation: what one text of one SecurityProfile is known by.
Asked = tuple[str, int]


@dataclass(frozen=True)
class Span:
    """From `start` until just before `end`."""

    start: float
    end: float

    @property
    def seconds(self) -> float:
        """Return how long it is, 0 for one that is empty."""
        return max(0.0, self.end - self.start)

    def clipped(self, to: Span) -> Span:
        """Return what both have in common, which may be empty."""
        return Span(max(self.start, to.start), min(self.end, to.end))


@dataclass(frozen=True)
class Claim:
    """What a SecurityProfile's status says from a moment on.

    Attributes:
        at: when it arrived.
        profile: the SecurityProfile's name.
        asked: what the Ready condition speaks of: its observedGeneration.
        nodes: whose kernels it claims; none where Ready is not True or nobody can read it.
    """

    at: float
    profile: str
    asked: Asked
    nodes: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Reading:
    """What a node's kernel holds from a moment on; None: not known. A kernel that ended holds nothing."""

    at: float
    node: str
    held: Content | None


class Harm(StrEnum):
    """What a fault does, as far as it excuses a wrong status."""

    DRIFT = "drift"  # someone else changed the kernel's policy
    AWAY = "away"  # the node lost its power or its link
    AGENTLESS = "agentless"  # the node's agent was killed


@dataclass(frozen=True)
class Strike:
    """A fault as it happened on a node.

    Attributes:
        harm: what it does.
        node: where.
        start: when it began.
        end: DRIFT: when it was done; AWAY: when the API knew that the node is back, with an operator there to
            read it; AGENTLESS: when the agent was Ready again.
        reader: AWAY: where that operator is.
        operators: AWAY: where all operators are, that one and those that wait.
        leaderless: AWAY: all of those nodes went away, so nobody could follow.
    """

    harm: Harm
    node: str
    start: float
    end: float = math.inf
    reader: str = ""
    operators: frozenset[str] = frozenset()
    leaderless: bool = False


@dataclass(frozen=True)
class Duty:
    """What a kernel must hold all through a span: one of these modes and hashes under the name."""

    node: str
    name: str
    during: Span
    accepted: frozenset[tuple[str, str]]


@dataclass(frozen=True)
class Limits:
    """How long Ready may be wrong, in seconds.

    Attributes:
        drift: after a change by someone else on a reachable node, to the repair or to Ready=False; and after
            the API knew that a node is back.
        away: after a node lost its power or its link.
        leaderless: and so much more where every operator's node was among those: one has to start again,
            and to wait for the end of the Lease that it finds.
        agentless: after an agent was killed, for drift that it could not see: as long as the product trusts
            the last report of an agent that is down, and 10 s.
        tolerance: of the measuring.
    """

    drift: float = 2.0
    away: float = 60.0
    leaderless: float = 30.0
    agentless: float = 100.0
    tolerance: float = 0.3


@dataclass(frozen=True)
class Window:
    """A span in which a node's kernel was not as claimed, or not as it had to be.

    Attributes:
        profile: name of the SecurityProfile.
        node: whose kernel.
        span: from when to when.
        uncovered: seconds of it that no limit allows.
    """

    profile: str
    node: str
    span: Span
    uncovered: float


@dataclass(frozen=True)
class Seen:
    """Everything that was seen.

    Attributes:
        claims: in the order of their arrival.
        readings: in the order of their arrival.
        strikes: the faults.
        expected: what a kernel must hold for a generation to be Ready, by node; None: nothing that a kernel
            can hold (the text is refused). A generation that is not here is not judged.
        duties: what kernels must hold whatever the status says.
    """

    claims: Sequence[Claim]
    readings: Sequence[Reading]
    expected: Mapping[Asked, Mapping[str, Content] | None]
    strikes: Sequence[Strike] = ()
    duties: Sequence[Duty] = ()


@dataclass(frozen=True)
class Verdict:
    """Every window of a span, the allowed ones too, and those that are red."""

    wrong_ready: tuple[Window, ...] = ()
    lost: tuple[Window, ...] = ()
    limits: Limits = field(default_factory=Limits)

    @property
    def red(self) -> tuple[Window, ...]:
        """Return the wrong windows that no limit allows."""
        return tuple(one for one in self.wrong_ready if one.uncovered > self.limits.tolerance)

    @property
    def red_lost(self) -> tuple[Window, ...]:
        """Return the losses that no limit allows."""
        return tuple(one for one in self.lost if one.uncovered > self.limits.tolerance)

    @property
    def largest(self) -> float:
        """Return the length of the largest window of a wrong Ready, allowed or not; 0 without any."""
        return max((one.span.seconds for one in self.wrong_ready), default=0.0)


def judge(seen: Seen, during: Span, limits: Limits) -> Verdict:
    """Return every window that overlaps a span, clipped to its end only: it may have begun before."""
    readings: dict[str, list[tuple[Span, Content | None]]] = {}
    for node in {one.node for one in seen.readings}:
        readings[node] = list(_kernel(seen.readings, node))
    wrong = _merged(
        Window(claim.profile, node, span, 0.0)
        for claim, claimed in _claimed(seen.claims)
        for node in sorted(claim.nodes)
        if claim.asked in seen.expected
        for span in _unlike(readings.get(node, []), claimed, _holds(seen.expected[claim.asked], node))
    )
    lost = _merged(
        Window(duty.name, duty.node, span, 0.0)
        for duty in seen.duties
        for span in _unlike(readings.get(duty.node, []), duty.during, _fulfils(duty))
    )
    strikes = tuple(_unread(seen.strikes))
    return Verdict(
        tuple(_weighed(wrong, during, strikes, limits)),
        tuple(_weighed(lost, during, strikes, limits)),
        limits,
    )


def _unread(strikes: Sequence[Strike]) -> Iterator[Strike]:
    """Yield the strikes; that a node is back counts for nothing where the operator's own node went away."""
    gone = {one.node for one in strikes if one.harm is Harm.AWAY}
    for one in strikes:
        if one.harm is Harm.AWAY and one.reader in gone:
            nobody = bool(one.operators) and one.operators <= gone
            yield replace(one, end=math.inf, leaderless=nobody)
        else:
            yield one


def _claimed(claims: Sequence[Claim]) -> Iterator[tuple[Claim, Span]]:
    """Yield each claim with its span: until the next one of the same profile."""
    last: dict[str, Claim] = {}
    for claim in claims:
        if before := last.get(claim.profile):
            yield before, Span(before.at, claim.at)
        last[claim.profile] = claim
    for claim in last.values():
        yield claim, Span(claim.at, math.inf)


def _kernel(readings: Sequence[Reading], node: str) -> Iterator[tuple[Span, Content | None]]:
    own = [one for one in readings if one.node == node]
    ends = [*(one.at for one in own[1:]), math.inf]
    for one, end in zip(own, ends, strict=True):
        yield Span(one.at, end), one.held


def _holds(expected: Mapping[str, Content] | None, node: str) -> Callable[[Content], bool]:
    wanted = (expected or {}).get(node)
    return lambda held: wanted is not None and all(held.get(name) == one for name, one in wanted.items())


def _fulfils(duty: Duty) -> Callable[[Content], bool]:
    return lambda held: held.get(duty.name) in duty.accepted


def _unlike(
    kernel: Sequence[tuple[Span, Content | None]], during: Span, good: Callable[[Content], bool]
) -> Iterator[Span]:
    """Yield the spans in which a kernel was seen to hold something else; what is not known is no proof."""
    for span, held in kernel:
        common = span.clipped(during)
        if held is not None and common.seconds > 0 and not good(held):
            yield common


def _merged(windows: Iterable[Window]) -> list[Window]:
    """Return windows of the same profile and node that touch as one."""
    merged: list[Window] = []
    for one in sorted(windows, key=lambda one: (one.profile, one.node, one.span.start)):
        last = merged[-1] if merged else None
        if last and (last.profile, last.node) == (one.profile, one.node) and one.span.start <= last.span.end:
            merged[-1] = Window(
                one.profile, one.node, Span(last.span.start, max(last.span.end, one.span.end)), 0.0
            )
        else:
            merged.append(one)
    return merged


def _weighed(
    windows: Iterable[Window], during: Span, strikes: Sequence[Strike], limits: Limits
) -> Iterator[Window]:
    for one in windows:
        span = Span(one.span.start, min(one.span.end, during.end))
        if span.clipped(during).seconds > 0:
            allowed = _allowed(span, [strike for strike in strikes if strike.node == one.node], limits)
            yield Window(one.profile, one.node, span, uncovered(span, allowed))


def _allowed(window: Span, strikes: Sequence[Strike], limits: Limits) -> Iterator[Span]:
    """Yield the spans in which a window on a node may be, by the faults that happened there."""
    for strike in strikes:
        match strike.harm:
            case Harm.AWAY:
                away = limits.away + (limits.leaderless if strike.leaderless else 0.0)
                yield Span(strike.start, min(strike.start + away, strike.end + limits.drift))
            case Harm.DRIFT:
                # What else changes a kernel later is not this drift's doing.
                if strike.start <= window.start <= strike.end + limits.tolerance:
                    yield Span(window.start, window.start + limits.drift)
                    yield from _unseen(window, strikes, limits)
            case Harm.AGENTLESS:
                continue  # a kernel keeps its policy when an agent ends: excuses nothing by itself


def _unseen(drift: Span, strikes: Sequence[Strike], limits: Limits) -> Iterator[Span]:
    """Yield how long a drift may last that no agent was there to see, or whose agent ended over it."""
    for strike in strikes:
        if (
            strike.harm is Harm.AGENTLESS
            and strike.start - limits.drift <= drift.start <= strike.end + limits.drift
        ):
            yield Span(drift.start, min(strike.start + limits.agentless, strike.end + limits.drift))


def uncovered(window: Span, allowed: Iterable[Span]) -> float:
    """Return how many seconds of a window lie in none of the allowed spans."""
    left, at = 0.0, window.start
    for one in sorted(allowed, key=lambda span: span.start):
        common = one.clipped(window)
        if common.seconds > 0:
            left += max(0.0, common.start - at)
            at = max(at, common.end)
    return left + max(0.0, window.end - at)
