"""The judge of the chaos loop: pairs of what was seen and what is wrong about it, and what holds of all."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.chaos.verdict import (
    Asked,
    Claim,
    Content,
    Duty,
    Harm,
    Limits,
    Reading,
    Seen,
    Span,
    Strike,
    judge,
    uncovered,
)

OLD, NEW, BAD = ("uid", 1), ("uid", 2), ("uid", 3)
OLD_HELD, NEW_HELD = {"p": ("enforce", "old")}, {"p": ("enforce", "new")}
EXPECTED: Mapping[Asked, Mapping[str, Content] | None] = {
    OLD: {"n1": OLD_HELD, "n2": OLD_HELD},
    NEW: {"n1": NEW_HELD, "n2": NEW_HELD},
    BAD: None,
}
LIMITS = Limits(drift=2.0, away=26.0, agentless=100.0, tolerance=0.3)
BOTH = frozenset({"n1", "n2"})
WHOLE = Span(0.0, 100.0)


def ready(at: float, asked: Asked, *nodes: str) -> Claim:
    return Claim(at, "p", asked, frozenset(nodes or BOTH))


def not_ready(at: float, asked: Asked) -> Claim:
    return Claim(at, "p", asked)


def held(at: float, content: Content | None, *nodes: str) -> list[Reading]:
    return [Reading(at, node, content) for node in nodes or sorted(BOTH)]


def wrong(seen: Seen, during: Span = WHOLE) -> list[tuple[str, float, float, float]]:
    """Return node, start, end and uncovered seconds of each window of a wrong Ready."""
    return [
        (one.node, one.span.start, one.span.end, one.uncovered)
        for one in judge(seen, during, LIMITS).wrong_ready
    ]


CASES: dict[str, tuple[Seen, list[tuple[str, float, float, float]]]] = {
    "as claimed": (Seen([ready(1, OLD)], held(0, OLD_HELD), EXPECTED), []),
    "another profile's content is not looked at": (
        Seen([ready(1, OLD)], held(0, {**OLD_HELD, "other": ("complain", "x")}), EXPECTED),
        [],
    ),
    "an update that is read back first": (
        Seen(
            [ready(1, OLD), not_ready(10, NEW), ready(20, NEW)],
            held(0, OLD_HELD) + held(12, NEW_HELD),
            EXPECTED,
        ),
        [],
    ),
    "Ready before one kernel had it": (
        Seen(
            [ready(1, OLD), not_ready(10, NEW), ready(11, NEW)],
            [*held(0, OLD_HELD), *held(10.5, NEW_HELD, "n1"), *held(13, NEW_HELD, "n2")],
            EXPECTED,
        ),
        [("n2", 11, 13, 2)],
    ),
    "Ready of the old generation while the new text is loaded": (
        Seen([ready(1, OLD), not_ready(10, NEW)], held(0, OLD_HELD) + held(8, NEW_HELD, "n1"), EXPECTED),
        [("n1", 8, 10, 2)],
    ),
    "the right text in another mode": (
        Seen([ready(1, OLD)], held(0, {"p": ("complain", "old")}, "n1") + held(0, OLD_HELD, "n2"), EXPECTED),
        [("n1", 1, 100, 99)],
    ),
    "Ready of a text that is refused": (
        Seen([ready(1, BAD), not_ready(2, BAD)], held(0, OLD_HELD), EXPECTED),
        [("n1", 1, 2, 1), ("n2", 1, 2, 1)],
    ),
    "a generation that nobody knows is not judged": (
        Seen([ready(1, ("other", 1))], held(0, {}), EXPECTED),
        [],
    ),
    "a node that the status does not claim": (
        Seen([ready(1, OLD, "n1")], held(0, OLD_HELD, "n1") + held(0, {}, "n2"), EXPECTED),
        [],
    ),
    "what is not known proves nothing": (
        Seen([ready(1, OLD)], held(0, OLD_HELD) + held(5, None) + held(9, OLD_HELD), EXPECTED),
        [],
    ),
    "drift that is repaired in time": (
        Seen(
            [ready(1, OLD)],
            held(0, OLD_HELD) + held(10, {}, "n1") + held(11, OLD_HELD, "n1"),
            EXPECTED,
            [Strike(Harm.DRIFT, "n1", 9.5, 10.1)],
        ),
        [("n1", 10, 11, 0)],
    ),
    "drift that is repaired too late": (
        Seen(
            [ready(1, OLD)],
            held(0, OLD_HELD) + held(10, {}, "n1") + held(15, OLD_HELD, "n1"),
            EXPECTED,
            [Strike(Harm.DRIFT, "n1", 9.5, 10.1)],
        ),
        [("n1", 10, 15, 3)],
    ),
    "drift that ends readiness": (
        Seen(
            [ready(1, OLD), not_ready(11.5, OLD)],
            held(0, OLD_HELD) + held(10, {}, "n1"),
            EXPECTED,
            [Strike(Harm.DRIFT, "n1", 9.5, 10.1)],
        ),
        [("n1", 10, 11.5, 0)],
    ),
    "drift on another node excuses nothing": (
        Seen(
            [ready(1, OLD), not_ready(11.5, OLD)],
            held(0, OLD_HELD) + held(10, {}, "n1"),
            EXPECTED,
            [Strike(Harm.DRIFT, "n2", 9.5, 10.1)],
        ),
        [("n1", 10, 11.5, 1.5)],
    ),
    "a later loss is not the drift's doing": (
        Seen(
            [ready(1, OLD)],
            [*held(0, OLD_HELD), *held(20, {}, "n1"), *held(21, OLD_HELD, "n1")],
            EXPECTED,
            [Strike(Harm.DRIFT, "n1", 9.5, 10.1)],
        ),
        [("n1", 20, 21, 1)],
    ),
    "drift that the killed agent could not see": (
        Seen(
            [ready(1, OLD)],
            held(0, OLD_HELD) + held(10, {}, "n1") + held(31, OLD_HELD, "n1"),
            EXPECTED,
            [Strike(Harm.DRIFT, "n1", 9.5, 10.1), Strike(Harm.AGENTLESS, "n1", 9, 30)],
        ),
        [("n1", 10, 31, 0)],
    ),
    "drift that an agent does not see when it is back": (
        Seen(
            [ready(1, OLD)],
            held(0, OLD_HELD) + held(10, {}, "n1") + held(40, OLD_HELD, "n1"),
            EXPECTED,
            [Strike(Harm.DRIFT, "n1", 9.5, 10.1), Strike(Harm.AGENTLESS, "n1", 9, 30)],
        ),
        [("n1", 10, 40, 8)],
    ),
    "a killed agent alone excuses nothing": (
        Seen(
            [ready(1, OLD), not_ready(12, OLD)],
            held(0, OLD_HELD) + held(10, {}, "n1"),
            EXPECTED,
            [Strike(Harm.AGENTLESS, "n1", 9, 30)],
        ),
        [("n1", 10, 12, 2)],
    ),
    "a power cut until the node is given up": (
        Seen(
            [ready(1, OLD), ready(27, OLD, "n2")],
            held(0, OLD_HELD) + held(10, {}, "n1"),
            EXPECTED,
            [Strike(Harm.AWAY, "n1", 10)],
        ),
        [("n1", 10, 27, 0)],
    ),
    "a power cut that nobody notices": (
        Seen(
            [ready(1, OLD), ready(40, OLD, "n2")],
            held(0, OLD_HELD) + held(10, {}, "n1"),
            EXPECTED,
            [Strike(Harm.AWAY, "n1", 10)],
        ),
        [("n1", 10, 40, 4)],
    ),
    "a report of an earlier boot that counts although the API knows the new one": (
        Seen(
            [ready(1, OLD)],
            held(0, OLD_HELD)
            + held(10, {}, "n1")
            + held(15, {"p": ("enforce", "of the boot")}, "n1")
            + held(25, OLD_HELD, "n1"),
            EXPECTED,
            [Strike(Harm.AWAY, "n1", 10, 17)],
        ),
        [("n1", 10, 25, 6)],
    ),
    "a report of an earlier boot, while the operator's own node is away": (
        Seen(
            [ready(1, OLD)],
            held(0, OLD_HELD)
            + held(10, {}, "n1")
            + held(15, {"p": ("enforce", "of the boot")}, "n1")
            + held(40, OLD_HELD, "n1"),
            EXPECTED,
            [Strike(Harm.AWAY, "n1", 10, 17, reader="n2"), Strike(Harm.AWAY, "n2", 12, reader="n2")],
        ),
        [("n1", 10, 40, 4)],
    ),
    "the nodes of all operators away": (
        Seen(
            [ready(1, OLD)],
            held(0, OLD_HELD) + held(10, {}, "n1") + held(70, OLD_HELD, "n1"),
            EXPECTED,
            [
                Strike(Harm.AWAY, "n1", 10, 17, "n2", frozenset({"n1", "n2"})),
                Strike(Harm.AWAY, "n2", 12, math.inf, "n2", frozenset({"n1", "n2"})),
            ],
        ),
        [("n1", 10, 70, 4)],
    ),
    "the node of one of two operators away": (
        Seen(
            [ready(1, OLD)],
            held(0, OLD_HELD) + held(10, {}, "n1") + held(40, OLD_HELD, "n1"),
            EXPECTED,
            [Strike(Harm.AWAY, "n1", 10, math.inf, "n1", frozenset({"n1", "n3"}))],
        ),
        [("n1", 10, 40, 4)],
    ),
}


@pytest.mark.parametrize(("seen", "expected"), CASES.values(), ids=CASES.keys())
def test_windows_of_a_wrong_ready(seen: Seen, expected: list[tuple[str, float, float, float]]):
    assert wrong(seen) == [(node, start, end, pytest.approx(left)) for node, start, end, left in expected]


def test_a_window_is_judged_in_the_round_that_it_reaches_into():
    seen = Seen([ready(1, OLD)], held(0, OLD_HELD) + held(10, {}, "n1") + held(20, OLD_HELD, "n1"), EXPECTED)
    assert wrong(seen, Span(0, 9)) == []
    assert wrong(seen, Span(0, 12)) == [("n1", 10, 12, 2)]
    assert wrong(seen, Span(12, 30)) == [("n1", 10, 20, 10)]
    assert wrong(seen, Span(20, 30)) == []


def test_less_than_the_tolerance_is_not_red():
    def seen(until: float) -> Seen:
        return Seen([ready(1, OLD)], held(0, {}) + held(until, OLD_HELD), EXPECTED)

    assert judge(seen(1.25), WHOLE, LIMITS).red == ()
    assert len(judge(seen(1.35), WHOLE, LIMITS).red) == 2
    assert judge(seen(1.35), WHOLE, LIMITS).largest == pytest.approx(0.35)


@pytest.mark.parametrize(
    ("readings", "strikes", "lost"),
    [
        (held(0, OLD_HELD), [], []),
        (held(0, OLD_HELD) + held(30, NEW_HELD), [], []),
        (held(0, OLD_HELD) + held(30, {}, "n1"), [], [20.0]),
        (held(0, OLD_HELD) + held(30, {"p": ("enforce", "third")}, "n1"), [], [20.0]),
        (held(0, OLD_HELD) + held(60, {}, "n1"), [], []),
        (
            held(0, OLD_HELD) + held(30, {}, "n1") + held(31, OLD_HELD, "n1"),
            [Strike(Harm.DRIFT, "n1", 29, 30)],
            [0.0],
        ),
    ],
)
def test_what_a_kernel_must_hold(readings: list[Reading], strikes: list[Strike], lost: list[float]):
    accepted = frozenset({("enforce", "old"), ("enforce", "new")})
    duties = [Duty("n1", "p", Span(10, 50), accepted)]
    found = judge(Seen([], readings, EXPECTED, strikes, duties), WHOLE, LIMITS)
    assert [one.uncovered for one in found.lost] == [pytest.approx(seconds) for seconds in lost]
    assert len(found.red_lost) == len([seconds for seconds in lost if seconds > LIMITS.tolerance])


# --- what holds of every history --------------------------------------------------------------------------

moments = st.floats(min_value=0, max_value=100, allow_nan=False)
contents = st.sampled_from([None, {}, OLD_HELD, NEW_HELD, {"p": ("complain", "old")}])
node_sets = st.sets(st.sampled_from(["n1", "n2"])).map(frozenset)
claim_lists = st.lists(
    st.builds(Claim, moments, st.just("p"), st.sampled_from([OLD, NEW, BAD]), node_sets), max_size=12
).map(lambda claims: sorted(claims, key=lambda one: one.at))
reading_lists = st.lists(
    st.builds(Reading, moments, st.sampled_from(["n1", "n2"]), contents), max_size=12
).map(lambda readings: sorted(readings, key=lambda one: one.at))
strike_lists = st.lists(
    st.builds(Strike, st.sampled_from(list(Harm)), st.sampled_from(["n1", "n2"]), moments), max_size=4
)


def wrong_at(moment: float, claims: list[Claim], readings: list[Reading]) -> set[str]:
    """Return the nodes that are wrong at a moment, from the definition alone."""
    said = [one for one in claims if one.at <= moment]
    if not said:
        return set()
    expected = EXPECTED[said[-1].asked]
    found: set[str] = set()
    for node in said[-1].nodes:
        there = [one for one in readings if one.node == node and one.at <= moment]
        if there and there[-1].held is not None and (expected is None or there[-1].held != expected[node]):
            found.add(node)
    return found


@given(claim_lists, reading_lists, moments)
def test_a_moment_is_in_a_window_exactly_when_it_is_wrong(
    claims: list[Claim], readings: list[Reading], moment: float
):
    found = judge(Seen(claims, readings, EXPECTED), Span(-1, math.inf), LIMITS)
    inside = {one.node for one in found.wrong_ready if one.span.start <= moment < one.span.end}
    assert inside == wrong_at(moment, claims, readings)


@given(claim_lists, reading_lists, strike_lists)
def test_faults_only_ever_excuse(claims: list[Claim], readings: list[Reading], strikes: list[Strike]):
    without = judge(Seen(claims, readings, EXPECTED), WHOLE, LIMITS).wrong_ready
    excused = judge(Seen(claims, readings, EXPECTED, strikes), WHOLE, LIMITS).wrong_ready
    assert [(one.node, one.span) for one in without] == [(one.node, one.span) for one in excused]
    for before, after in zip(without, excused, strict=True):
        assert before.uncovered == pytest.approx(before.span.seconds)
        assert -1e-9 <= after.uncovered <= before.uncovered + 1e-9


@given(
    moments,
    moments,
    st.lists(st.tuples(moments, moments).map(lambda pair: Span(min(pair), max(pair))), max_size=5),
)
def test_uncovered_is_what_sampling_says(start: float, length: float, allowed: list[Span]):
    window = Span(start, start + length)
    edges = sorted({window.start, window.end, *(edge for one in allowed for edge in (one.start, one.end))})
    pieces = itertools.pairwise(edges)
    left = sum(
        end - begin
        for begin, end in pieces
        if window.start <= begin
        and end <= window.end
        and not any(one.start <= begin and end <= one.end for one in allowed)
    )
    assert uncovered(window, allowed) == pytest.approx(left)
