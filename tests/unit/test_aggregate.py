"""The parts of a status: reference, counts, conditions and their times. Whole ones are in tests/golden."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest
from hauberk.crds.models import (
    AppArmor,
    Condition,
    Metadata,
    ProfileSpec,
    ProfileStatus,
    SecurityProfile,
    decode,
    encode,
)
from hauberk.crds.reasons import NodeState
from hauberk.operator.aggregate import aggregate, count, own, reference_name
from hauberk.operator.rollout import OnNode, rollout
from hauberk.operator.snapshot import Snapshot
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("names", "reference"),
    [
        ([], ""),
        (["p"], "p"),
        (["a", "p"], "p"),
        (["a", "b"], "a"),
        (["p//c", "b"], "b"),
        (["p//c"], ""),
        (["a b", "a b//c"], "a b"),
    ],
)
def test_the_reference_is_the_profile_named_like_the_object(names: list[str], reference: str):
    profile = SecurityProfile(metadata=Metadata(name="p"), spec=ProfileSpec(type="AppArmor"))
    assert reference_name(profile, names) == reference


@pytest.mark.parametrize(
    ("names", "reference"),
    [
        ([], ""),
        (["p.file", "p.process"], "p.process"),
        (["a.process", "p.process"], "p.process"),
        (["a.file", "a.process", "b.process"], "a.process"),
        (["a.domain", "a.file"], "a.domain"),
        (["p"], ""),
        (["a", "p"], ""),
    ],
)
def test_the_reference_of_a_module_is_the_type_that_runs_processes(names: list[str], reference: str):
    profile = SecurityProfile(metadata=Metadata(name="p"), spec=ProfileSpec(type="SELinux"))
    assert reference_name(profile, names) == reference


@given(st.lists(st.sampled_from(NodeState)))
def test_counts_add_up(states: list[NodeState]):
    counts = count([OnNode(f"n{number}", state) for number, state in enumerate(states)])
    parts = counts.ready + counts.updating + counts.failed + counts.agent_down + counts.unreachable
    assert counts.targeted == parts
    assert counts.targeted + counts.unsupported == len(states)


def a_profile(*conditions: Condition, generation: int = 2, said: int = 2) -> SecurityProfile:
    """Return a profile that the admission refused; `said`: of which generation."""
    refused = before("False", "Accepted")
    refused = msgspec.structs.replace(
        refused, reason="PolicyRefused", message="line 3: no", observed_generation=said
    )
    return SecurityProfile(
        metadata=Metadata(name="p", uid="u", generation=generation),
        spec=ProfileSpec(type="AppArmor", app_armor=AppArmor(policy="broken")),
        status=ProfileStatus(conditions=[refused, *conditions], revision="old"),
    )


def judged(profile: SecurityProfile, *, hour: int = 12) -> ProfileStatus:
    snapshot = Snapshot(
        profiles={"p": profile},
        revisions={},
        reports={},
        nodes={},
        agents={},
        now=datetime(2026, 1, 1, hour, tzinfo=UTC),
    )
    return aggregate(profile, rollout(profile, snapshot), snapshot.now)


def before(status: str, kind: str = "Ready") -> Condition:
    return Condition(
        type=kind,
        status=status,
        reason="Other",
        message="other",
        observed_generation=1,
        last_transition_time="2025-01-01T00:00:00Z",
    )


@pytest.mark.parametrize(
    ("was", "since"),
    [
        ("False", "2025-01-01T00:00:00Z"),
        ("True", "2026-01-01T12:00:00Z"),
        ("Unknown", "2026-01-01T12:00:00Z"),
    ],
)
def test_a_condition_has_the_time_of_its_last_change(was: str, since: str):
    (ready,) = [one for one in judged(a_profile(before(was))).conditions if one.type == "Ready"]
    assert (ready.status, ready.reason, ready.observed_generation) == ("False", "PolicyRefused", 2)
    assert ready.last_transition_time == since


def test_a_status_that_was_written_is_not_written_again():
    """What comes back from the API must be what was decided: else it is written again for ever."""
    profile = a_profile()
    first = judged(profile)
    # the API server merges what two wrote, in no order that anyone promises
    accepted = [one for one in profile.status.conditions if one.type == "Accepted"]
    whole = msgspec.structs.replace(first, conditions=[*reversed(first.conditions), *accepted])
    returned = decode(
        SecurityProfile, {"metadata": {"name": "p"}, "spec": {"type": "AppArmor"}, "status": encode(whole)}
    )
    again = SecurityProfile(metadata=profile.metadata, spec=profile.spec, status=returned.status)
    assert judged(again, hour=13) == own(returned.status) == first


def test_a_new_generation_is_not_answered_with_what_was_said_of_an_old_one():
    status = judged(a_profile(before("True"), said=1))
    by = {one.type: one for one in status.conditions}
    assert status.observed_generation == 2
    assert (by["Ready"].status, by["Ready"].message) == ("False", "the policy is being checked")
    assert "Accepted" not in by
