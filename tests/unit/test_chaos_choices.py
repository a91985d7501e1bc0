"""What a seed chooses in the chaos loop, and what counts as left over on a disk."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.chaos.choices import JITTER_SECONDS, Field, rounds
from tests.chaos.faults import FAULTS, together
from tests.chaos.scene import VARIANTS, left_files

FIELD = Field(tuple(FAULTS), together, ("n1", "n2"), ("a", "b"), grace=16.0)
SEEDS = st.integers(min_value=0, max_value=1 << 31)


@given(SEEDS, st.integers(min_value=0, max_value=40))
def test_a_seed_repeats_its_rounds_and_a_longer_run_begins_with_those_of_a_shorter(seed: int, count: int):
    assert list(rounds(seed, count, FIELD)) == list(rounds(seed, 40, FIELD))[:count]


@given(SEEDS)
def test_faults_of_a_round_go_together_and_happen_soon(seed: int):
    for one in rounds(seed, 40, FIELD):
        assert len(one.blows) in (1, 2)
        if len(one.blows) == 2:
            assert together(*(blow.fault for blow in one.blows))
        assert all(0 <= blow.delay <= JITTER_SECONDS for blow in one.blows)


@given(SEEDS)
def test_every_fault_has_its_turn_before_any_comes_twice_alone(seed: int):
    alone = [one.label for one in rounds(seed, 60, FIELD) if len(one.blows) == 1]
    counts = Counter(alone)
    assert max(counts.values()) - min(counts.get(fault, 0) for fault in FAULTS) <= 1


def test_only_what_was_named_happens():
    field = Field(("update", "bad-update"), together, ("n1",), ("a",), grace=16.0)
    assert {one.label for one in rounds(1, 20, field)} == {"update", "bad-update"}


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("cut", "delete", True),
        ("agent", "update", True),
        ("agent", "drift", True),
        ("absence", "agent", True),
        ("update", "delete", False),
        ("reboot", "crash", False),
        ("reboot", "apiserver", False),
        ("delete-in-use", "cut", False),
        ("absence", "operator", False),
    ],
)
def test_what_goes_together(one: str, other: str, expected: bool):
    assert together(one, other) is expected
    assert together(other, one) is expected


@pytest.mark.parametrize(
    ("path", "left"),
    [
        ("/etc/apparmor.d/hauberk.chaos-a", False),
        ("/etc/apparmor.d/hauberk.chaos-gone", True),
        ("/etc/apparmor.d/.hauberk.chaos-a.new", True),
        ("/etc/apparmor.d/force-complain/hauberk.chaos-a", True),
        ("/etc/apparmor.d/force-complain/hauberk.chaos-c", False),
        ("/var/lib/hauberk/apparmor/chaos-a.json", False),
        ("/var/lib/hauberk/apparmor/chaos-gone.json", True),
        ("/var/lib/hauberk/apparmor/.chaos-a.json.new", True),
        ("/var/lib/hauberk/apparmor/chaos-a.torn", True),
        ("/var/lib/hauberk/loading/apparmor.json", True),
        ("/var/lib/hauberk/adopted/chaos-gone.json", True),
        ("/var/lib/hauberk/something-of-later", False),
    ],
)
def test_what_is_left_over(path: str, left: bool):
    enforce, _, complain = VARIANTS
    wanted = {"chaos-a": enforce, "chaos-c": complain}
    assert left_files([path], wanted) == ([path] if left else [])
