"""How long an object is left alone of which the API takes nothing."""

from __future__ import annotations

from hauberk.operator.backoffs import AGAIN_SECONDS, FORGOTTEN_SECONDS, Backoffs


def test_it_is_left_alone_for_ever_longer_up_to_a_bound():
    backoffs = Backoffs[str]()
    now, waits = 10.0, list[float]()
    for _ in range(9):
        until = backoffs.refused("a", now)
        assert backoffs.left_until("a") == until
        assert backoffs.left_until("b") == 0.0
        waits.append(until - now)
        now = until
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]
    backoffs.taken("a")
    assert backoffs.left_until("a") == 0.0
    assert backoffs.refused("a", now) == now + AGAIN_SECONDS[0]


def test_what_nobody_tries_any_more_is_forgotten():
    """Pods come and go, and anybody's may be refused."""
    backoffs = Backoffs[str]()
    for at in range(1000):
        backoffs.refused(str(at), 0.0)
    backoffs.refused("new", FORGOTTEN_SECONDS + AGAIN_SECONDS[0] + 1.0)
    assert len(backoffs) == 1001  # not looked for at each refusal
    for at in range(1000, 2000):
        backoffs.refused(str(at), FORGOTTEN_SECONDS + AGAIN_SECONDS[0] + 1.0)
    assert len(backoffs) <= 1001
