"""The parts of a status: reference, counts, conditions and their times. Whole ones are in tests/golden."""

from __future__ import annotations

from datetime import UTC, datetime

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
from hauberk.crds.reasons import NodeState, Reason
from hauberk.operator.aggregate import aggregate, count, reference_name
from hauberk.operator.publish import content_digest, name_owners
from hauberk.operator.rollout import OnNode
from hauberk.operator.snapshot import Refusal, Snapshot
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
    assert reference_name("p", names) == reference


@given(st.lists(st.sampled_from(NodeState)))
def test_counts_add_up(states: list[NodeState]):
    counts = count([OnNode(f"n{number}", state) for number, state in enumerate(states)])
    parts = counts.ready + counts.updating + counts.failed + counts.agent_down + counts.unreachable
    assert counts.targeted == parts
    assert counts.targeted + counts.unsupported == len(states)


def a_profile(*conditions: Condition, generation: int = 2, observed: int = 1) -> SecurityProfile:
    return SecurityProfile(
        metadata=Metadata(name="p", uid="u", generation=generation),
        spec=ProfileSpec(type="AppArmor", app_armor=AppArmor(policy="broken")),
        status=ProfileStatus(observed_generation=observed, conditions=list(conditions), revision="old"),
    )


def judged(profile: SecurityProfile, *, judgement: bool = True, hour: int = 12) -> ProfileStatus:
    refusal = Refusal(Reason.POLICY_REFUSED, "line 3: no")
    snapshot = Snapshot(
        profiles={"p": profile},
        revisions={},
        reports={},
        nodes={},
        agents={},
        judgements={content_digest(profile): refusal} if judgement else {},
        now=datetime(2026, 1, 1, hour, tzinfo=UTC),
    )
    return aggregate(profile, snapshot, name_owners(snapshot))


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
    returned = decode(
        SecurityProfile, {"metadata": {"name": "p"}, "spec": {"type": "AppArmor"}, "status": encode(first)}
    )
    again = SecurityProfile(metadata=profile.metadata, spec=profile.spec, status=returned.status)
    assert judged(again, hour=13) == returned.status == first


def test_after_a_restart_a_status_stands_until_the_text_is_judged():
    profile = a_profile(before("False"), generation=1, observed=1)
    assert judged(profile, judgement=False) == profile.status


def test_a_new_generation_is_not_answered_with_an_old_status():
    status = judged(a_profile(before("True")), judgement=False)
    by = {one.type: one for one in status.conditions}
    assert status.observed_generation == 2
    assert (by["Ready"].status, by["Accepted"].status) == ("False", "Unknown")
