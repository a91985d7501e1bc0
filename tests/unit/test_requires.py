"""What one profile requires of others, in plans: nothing comes before it, nothing of it goes before."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hauberk.crds.models import Content, Metadata, Placement, ProfileRevision, RevisionSpec, Text
from hauberk.crds.names import CONTRACT, SELINUX, text_id
from hauberk.crds.reasons import Reason
from hauberk.daemonset.holdings import Holding
from hauberk.daemonset.host import Loaded
from hauberk.daemonset.plan import Load, Persist, Plan, Remove, Snapshot, plan
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

BOOT = "boot-1"


def revision(profile: str, *requires: str, withdrawn: bool = False) -> ProfileRevision:
    content = Content(
        digest="d1",
        mode="Enforce",
        texts=[Text(id=text_id(profile), text=profile, names=[])],
        requires=list(requires),
    )
    return ProfileRevision(
        metadata=Metadata(name=f"{profile}.d1"),
        spec=RevisionSpec(
            profile=profile,
            profile_uid=f"uid-{profile}",
            type=SELINUX,
            contract=CONTRACT,
            content=content,
            placement=Placement(sequence=1, withdrawn=withdrawn),
        ),
    )


def held(profile: str, *requires: str) -> Holding:
    return Holding(
        profile=profile,
        uid=f"uid-{profile}",
        revision="d1",
        mode="Enforce",
        text=profile,
        modes={f"{profile}.t": "enforcing"},
        digests=["sha"],
        boot_id=BOOT,
        boots=False,
        type=SELINUX,
        requires=list(requires),
    )


def planned(revisions: list[ProfileRevision], holdings: list[Holding]) -> Plan:
    kernel = {name: Loaded(mode, "sha") for one in holdings for name, mode in one.modes.items()}
    return plan(Snapshot(tuple(revisions), {}, {one.profile: one for one in holdings}, kernel, BOOT))


def test_it_waits_and_says_for_whom():
    decided = planned([revision("web", "a", "b")], [held("a")])
    assert decided.steps == ()
    problem = decided.problems["web"]
    assert (problem.revision, problem.reason) == ("d1", Reason.AWAITING_REQUIRED)
    assert problem.message == "SecurityProfile b is not loaded here yet"


def test_once_all_are_there_it_is_loaded_and_knows_them():
    decided = planned([revision("web", "a", "b")], [held("a"), held("b")])
    (step,) = decided.steps
    assert isinstance(step, Load)
    assert (step.profile, step.requires) == ("web", ("a", "b"))
    assert decided.problems == {}


def test_one_that_was_released_is_not_there():
    decided = planned([revision("web", "a")], [replace(held("a"), released=True)])
    assert not [step for step in decided.steps if isinstance(step, Load)]
    assert decided.problems["web"].reason == Reason.AWAITING_REQUIRED


def test_what_is_held_already_stays_and_tells_what_is_missing():
    decided = planned([revision("web", "a")], [held("web", "a")])
    assert decided.steps == ()
    assert decided.problems["web"].reason == Reason.AWAITING_REQUIRED


@pytest.mark.parametrize("listed", [True, False])
def test_what_is_required_stays_also_for_one_that_nobody_speaks_of(listed: bool):
    """An orphan may be used by pods for as long as its module is there."""
    revisions = [revision("a", withdrawn=True), *([revision("web", "a")] if listed else [])]
    decided = planned(revisions, [held("a"), held("web", "a")])
    assert decided.steps == ()
    assert decided.problems["a"].reason == Reason.IN_USE
    assert decided.problems["a"].message == "SecurityProfile web requires it, and is loaded here"


NAMES = "abcd"
EDGES = st.dictionaries(st.sampled_from(NAMES), st.sets(st.sampled_from(NAMES)), max_size=4)


def after(requires: Mapping[str, set[str]], name: str) -> set[str]:
    """Return what a profile is made of, all the way down."""
    found: set[str] = set()
    waiting = list(requires.get(name, ()))
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting += requires.get(one, ())
    return found


@settings(max_examples=300, deadline=None)
@given(EDGES, st.sets(st.sampled_from(NAMES)))
def test_deletions_come_to_an_end_and_nothing_is_taken_from_under_another(
    requires: dict[str, set[str]], deleted: set[str]
):
    """Whatever requires whatever, in circles too."""
    holdings = {name: held(name, *sorted(requires.get(name, ()))) for name in NAMES}
    revisions = [revision(name, *sorted(requires.get(name, ())), withdrawn=name in deleted) for name in NAMES]
    for _ in NAMES:
        decided = planned(revisions, list(holdings.values()))
        going = {step.holding.profile for step in decided.steps if isinstance(step, Remove)}
        assert going <= deleted
        for name in going:
            left = {one.profile for one in holdings.values() if name in one.requires and one.profile != name}
            # none, but where it goes in a circle, and all of that is to go
            assert left <= deleted & after(requires, name)
        holdings = {name: one for name, one in holdings.items() if name not in going}
    kept = {name for name in NAMES if name not in deleted}
    assert holdings.keys() == kept.union(*(after(requires, name) for name in kept))


@given(EDGES)
def test_what_requires_no_circle_is_all_loaded_in_the_end(edges: dict[str, set[str]]):
    requires = {name: {one for one in of if one < name} for name, of in edges.items()}
    holdings: dict[str, Holding] = {}
    revisions = [revision(name, *sorted(requires.get(name, ()))) for name in NAMES]
    for _ in NAMES:
        for step in planned(revisions, list(holdings.values())).steps:
            assert not isinstance(step, Remove | Persist)
            if isinstance(step, Load):
                assert set(step.requires) <= holdings.keys()
                holdings[step.profile] = held(step.profile, *step.requires)
    assert holdings.keys() == set(NAMES)
