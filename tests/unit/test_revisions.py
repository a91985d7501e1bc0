"""What is known of revisions: told one by one, it is what telling all of them after each event would give."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import pytest
from hauberk.crds.models import Metadata, Placement, ProfileRevision, RevisionSpec
from hauberk.crds.names import APPARMOR, CONTRACT, SELINUX
from hauberk.daemonset.revisions import Revisions
from hypothesis import given, settings
from hypothesis import strategies as st


def revision(
    name: str, kind: str = APPARMOR, sequence: int = 1, *, withdrawn: bool = False, profile: str = ""
) -> ProfileRevision:
    profile = profile or name.partition(".")[0]
    return ProfileRevision(
        metadata=Metadata(name=name),
        spec=RevisionSpec(
            profile=profile,
            profile_uid=f"uid-{profile}",
            type=kind,
            contract=CONTRACT,
            placement=Placement(sequence=sequence, withdrawn=withdrawn),
        ),
    )


@dataclass
class Whole:
    """The same by its definition: all revisions are told after each event, and all is looked at."""

    revisions: dict[str, ProfileRevision] = field(default_factory=dict[str, ProfileRevision])
    present: frozenset[str] = frozenset()

    def seen(self, revisions: Mapping[str, ProfileRevision]) -> set[str]:
        before = self.revisions
        kept = {name: one for name, one in before.items() if one.spec.placement.withdrawn}
        own = {name: one for name, one in revisions.items() if one.spec.type == APPARMOR}
        present = {one.spec.profile for one in own.values()}
        self.revisions = {name: one for name, one in kept.items() if one.spec.profile not in present} | own
        self.present = frozenset(own)
        return {
            one.spec.profile
            for name, one in self.revisions.items()
            if name not in before or before[name].spec != one.spec
        }

    def forget(self, held: set[str]) -> None:
        self.revisions = {
            name: one
            for name, one in self.revisions.items()
            if name in self.present or one.spec.profile in held
        }


NAMES = ("a.1", "a.2", "a.3", "b.1", "b.2", "c.1")
# a name's profile is its first letter in a cluster; here now and then it is not
REVISIONS = st.builds(
    revision,
    st.sampled_from(NAMES),
    st.sampled_from([APPARMOR, APPARMOR, SELINUX]),
    st.integers(1, 2),
    withdrawn=st.booleans(),
    profile=st.sampled_from(["", "", "", "a", "b"]),
)
EVENTS = st.one_of(
    REVISIONS,
    st.sampled_from(NAMES),  # is gone
    st.lists(REVISIONS, max_size=4).map(tuple),  # all that there is, by a list
    st.sets(st.sampled_from("abc")).map(frozenset[str]),  # a round ends: these profiles are held
)


@settings(max_examples=400)
@given(st.lists(EVENTS, max_size=25))
def test_told_one_by_one_it_is_what_telling_all_of_them_gives(
    events: list[ProfileRevision | str | tuple[ProfileRevision, ...] | frozenset[str]],
):
    whole, one_by_one = Whole(), Revisions(APPARMOR)
    there: dict[str, ProfileRevision] = {}
    one_by_one.listed(there)
    for event in events:
        before = dict(one_by_one.by_name)
        match event:
            case frozenset():
                whole.forget(set(event))
                one_by_one.forget(event)
            case tuple():
                there = {one.metadata.name: one for one in event}
                assert one_by_one.listed(there) == whole.seen(there)
            case str():
                there.pop(event, None)
                word = one_by_one.seen(event, None)
                assert word.new == whole.seen(there)
                assert word.changed or one_by_one.by_name == before
            case ProfileRevision():
                there[event.metadata.name] = event
                word = one_by_one.seen(event.metadata.name, event)
                assert word.new == whole.seen(there)
                assert word.changed or {name: one.spec for name, one in one_by_one.by_name.items()} == {
                    name: one.spec for name, one in before.items()
                }
        assert one_by_one.by_name == whole.revisions
        assert one_by_one.present == whole.present


def test_nothing_is_known_before_the_first_list():
    assert not Revisions(APPARMOR).known
    made = Revisions(APPARMOR)
    made.listed({})
    assert made.known


@pytest.mark.parametrize("told", ["by an event", "by a list"])
def test_a_withdrawn_revision_that_is_gone_was_withdrawn_all_the_same(told: str):
    made = Revisions(APPARMOR)
    gone = revision("a.1", withdrawn=True)
    made.listed({"a.1": gone, "b.1": revision("b.1")})
    if told == "by an event":
        made.seen("a.1", None)
    else:
        made.listed({"b.1": revision("b.1")})
    assert made.by_name == {"a.1": gone, "b.1": revision("b.1")}
    made.forget({"a"})
    assert made.by_name.keys() == {"a.1", "b.1"}
    made.forget(set())
    assert made.by_name.keys() == {"b.1"}


def test_what_says_nothing_new_changes_nothing():
    made = Revisions(APPARMOR)
    made.listed({"a.1": revision("a.1")})
    assert not made.seen("a.1", revision("a.1")).changed
    assert not made.seen("b.1", revision("b.1", SELINUX)).changed
    assert not made.seen("b.1", None).changed


class Counting(dict[str, ProfileRevision]):
    """Counts how often all that it has is gone through."""

    passes = 0

    def __iter__(self) -> Iterator[str]:
        type(self).passes += 1
        return super().__iter__()

    def items(self):
        type(self).passes += 1
        return super().items()

    def values(self):
        type(self).passes += 1
        return super().values()


def test_an_event_does_not_look_at_all_that_there_is():
    made = Revisions(APPARMOR)
    made.listed({f"p{number}.1": revision(f"p{number}.1") for number in range(10)})
    made.by_name = Counting(made.by_name)
    for number in range(20):
        made.seen(f"p{number}.2", revision(f"p{number}.2", sequence=2))
        made.seen(f"p{number}.1", None)
    made.forget(set())
    assert Counting.passes == 0
