"""What a SecurityProfile says of others, as it is answered at `kubectl apply`: no circle is let in."""

from __future__ import annotations

import itertools

import pytest
from hauberk.crds.models import Metadata, ProfileSpec, SecurityProfile, SELinux
from hauberk.operator.review import required_in_circle
from hypothesis import given
from hypothesis import strategies as st


def made_of(name: str, *required: str) -> SecurityProfile:
    block = SELinux(policy="x", requires=list(required))
    return SecurityProfile(metadata=Metadata(name=name), spec=ProfileSpec(type="SELinux", selinux=block))


@pytest.mark.parametrize(
    ("asked", "there", "circle"),
    [
        ("a", {"a": ""}, ""),
        ("a", {"a": "a"}, "aa"),
        ("a", {"a": "b"}, ""),
        ("a", {"a": "b", "b": "a"}, "aba"),
        ("a", {"a": "bc", "b": "d", "c": "d", "d": ""}, ""),
        ("a", {"a": "b", "b": "c", "c": "a"}, "abca"),
        # one that goes round without the one asked for was there before it
        ("a", {"a": "b", "b": "c", "c": "b"}, ""),
    ],
)
def test_a_circle_is_found(asked: str, there: dict[str, str], circle: str):
    profiles = {name: made_of(name, *required) for name, required in there.items()}
    assert "".join(required_in_circle(profiles[asked], profiles)) == circle


@given(st.dictionaries(st.sampled_from("abcdef"), st.sets(st.sampled_from("abcdef"))))
def test_what_is_found_is_a_circle_and_what_is_let_in_has_none(required: dict[str, set[str]]):
    profiles = {"a": made_of("a")} | {name: made_of(name, *sorted(of)) for name, of in required.items()}
    way = required_in_circle(profiles["a"], profiles)
    reached = set(required.get("a", ()))
    for _ in "abcdef":
        reached |= {one for name in reached for one in required.get(name, ())}
    assert bool(way) == ("a" in reached)
    assert not way or way[0] == way[-1] == "a"
    assert all(other in required[name] for name, other in itertools.pairwise(way))
