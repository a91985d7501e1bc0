"""What a template's judgements add up to, as kinds of nodes come to be known."""

from __future__ import annotations

import dataclasses

import pytest
from hauberk.crds.facts import facts_key
from hauberk.crds.models import (
    AppArmor,
    Facts,
    Metadata,
    NodeStatus,
    ProfileNode,
    ProfileSpec,
    ProfileStatus,
    Section,
    SecurityProfile,
    Template,
    Text,
    Unrendered,
)
from hauberk.crds.names import FINALIZER, text_id
from hauberk.crds.reasons import Reason
from hauberk.operator.desired import desired
from hauberk.operator.publish import (
    Judged,
    Judgement,
    Refusal,
    bounded,
    content_digest,
    judged_text,
    known,
    merged,
    unjudged_kinds,
    wanted_revision,
)
from hauberk.operator.snapshot import Store, parse_time
from hauberk.operator.writes import CreateRevision, Extend
from hauberk.profiles.check import Accepted
from hypothesis import given
from hypothesis import strategies as st

OLD, NEW = Facts(kernel="6.1"), Facts(kernel="6.12")
OLD_KEY, NEW_KEY = facts_key(OLD), facts_key(NEW)


def text(words: str, *kinds: str) -> Text:
    return Text(id=text_id(words), facts=sorted(kinds), text=words, names=["p"])


def not_for(*kinds: str, message: str = "no") -> Unrendered:
    return Unrendered(facts=list(kinds), reason="TemplateRefused", message=message)


PROFILE = SecurityProfile(
    metadata=Metadata(name="p", uid="uid-p", generation=1, finalizers=[FINALIZER]),
    spec=ProfileSpec(type="AppArmor", app_armor=AppArmor(policy="t"), template=Template(values={"a": 1})),
    status=ProfileStatus(observed_generation=1),
)


def cluster(judged: Judgement | None, *facts: Facts, published: Accepted | None = None) -> Judged:
    revision = wanted_revision(PROFILE, published, "here") if published else None
    reports = {
        f"n{number}": ProfileNode(
            metadata=Metadata(name=f"n{number}"), status=NodeStatus(facts=one, app_armor=Section())
        )
        for number, one in enumerate(facts)
    }
    return Judged(
        profiles={"p": PROFILE},
        revisions={revision.metadata.name: revision} if revision else {},
        reports=reports,
        nodes={},
        agents={},
        judgements={content_digest(PROFILE): judged} if judged else {},
        now=parse_time("2026-01-01T00:00:00Z"),
        store=Store("here"),
    )


@pytest.mark.parametrize(
    ("before", "more", "expected"),
    [
        (Accepted(), Accepted((text("x", "a"),)), Accepted((text("x", "a"),))),
        (Accepted((text("x", "a"),)), Accepted((text("x", "b"),)), Accepted((text("x", "a", "b"),))),
        (
            Accepted((text("x", "a"),)),
            Accepted((text("y", "b"),)),
            Accepted((text("x", "a"), text("y", "b"))),
        ),
        (
            Accepted((text("x", "a"),)),
            Accepted((), (not_for("b"),)),
            Accepted((text("x", "a"),), (not_for("b"),)),
        ),
        # a later version renders what an earlier one could not
        (
            Accepted((), (not_for("a", "b"),)),
            Accepted((text("x", "a"),)),
            Accepted((text("x", "a"),), (not_for("b"),)),
        ),
        # and the other way round what is published stays
        (Accepted((text("x", "a"),)), Accepted((), (not_for("a"),)), Accepted((text("x", "a"),))),
        (
            Accepted((), (not_for("a"),)),
            Accepted((), (not_for("a", message="still"),)),
            Accepted((), (not_for("a", message="still"),)),
        ),
    ],
)
def test_judgements_add_up(before: Accepted, more: Accepted, expected: Accepted):
    assert merged(before, more) == expected


KINDS = st.lists(st.sampled_from("abcd"), min_size=1, max_size=3, unique=True)
SAID = st.builds(
    Accepted,
    st.dictionaries(st.sampled_from("xyz"), KINDS, max_size=3).map(
        lambda found: tuple(text(words, *kinds) for words, kinds in found.items())
    ),
    KINDS.map(lambda kinds: (not_for(*kinds),)) | st.just(()),
)


@given(SAID, SAID)
def test_nothing_that_was_published_is_lost(before: Accepted, more: Accepted):
    both = merged(before, more)
    found = {one.id: set(one.facts) for one in both.texts}
    for one in (*before.texts, *more.texts):
        assert set(one.facts) <= found[one.id]
    assert both.kinds == before.kinds | more.kinds
    rendered = {kind for one in both.texts for kind in one.facts}
    assert not rendered & {kind for one in both.unrendered for kind in one.facts}
    assert merged(both, more) == both


@pytest.mark.parametrize(
    ("judged", "published", "left"),
    [
        (None, None, {OLD_KEY, NEW_KEY}),
        (Accepted((text("x", OLD_KEY),)), None, {NEW_KEY}),
        (Accepted((text("x", OLD_KEY),), (not_for(NEW_KEY),)), None, set()),
        (None, Accepted((text("x", OLD_KEY, NEW_KEY),)), set()),
        (Accepted((text("y", NEW_KEY),)), Accepted((text("x", OLD_KEY),)), set()),
        (Refusal(Reason.TEMPLATE_REFUSED, "no", frozenset({OLD_KEY, NEW_KEY})), None, set()),
        # refused for the kinds that were there: for one that came later it may be good
        (Refusal(Reason.TEMPLATE_REFUSED, "no", frozenset({OLD_KEY})), None, {OLD_KEY, NEW_KEY}),
    ],
)
def test_each_kind_of_node_is_judged_once(
    judged: Judgement | None, published: Accepted | None, left: set[str]
):
    assert unjudged_kinds(PROFILE, cluster(judged, OLD, NEW, published=published)) == left


def test_nodes_without_apparmor_get_no_text():
    bare = ProfileNode(metadata=Metadata(name="n"), status=NodeStatus(facts=OLD))
    snapshot = cluster(None, NEW)
    assert snapshot.kinds == {"AppArmor": {NEW_KEY: NEW}, "SELinux": {}, "Seccomp": {}}
    assert not any(dataclasses.replace(snapshot, reports={"n": bare}).kinds.values())


def test_a_new_kind_extends_what_is_published():
    published = Accepted((text("x", OLD_KEY),))
    snapshot = cluster(Accepted((text("y", NEW_KEY),), (not_for("z"),)), OLD, NEW, published=published)
    (write,) = desired(PROFILE, snapshot, {})
    assert isinstance(write, Extend)
    assert write.texts == (text("x", OLD_KEY), text("y", NEW_KEY))
    assert write.unrendered == (not_for("z"),)


def test_what_is_published_is_not_written_again():
    published = Accepted((text("x", OLD_KEY),), (not_for(NEW_KEY),))
    snapshot = cluster(published, OLD, NEW, published=published)
    assert desired(PROFILE, snapshot, {}) == []
    assert judged_text(PROFILE, cluster(None, OLD, NEW, published=published)) == published


def test_a_template_without_nodes_is_published_without_a_text():
    (write,) = desired(PROFILE, cluster(Accepted()), {})
    assert isinstance(write, CreateRevision)
    assert write.revision.spec.content.texts == []


def test_values_are_part_of_what_names_the_content():
    other = SecurityProfile(
        metadata=PROFILE.metadata,
        spec=ProfileSpec(type="AppArmor", app_armor=AppArmor(policy="t"), template=Template(values={"a": 2})),
    )
    bare = SecurityProfile(
        metadata=PROFILE.metadata, spec=ProfileSpec(type="AppArmor", app_armor=AppArmor(policy="t"))
    )
    assert len({content_digest(one) for one in (PROFILE, other, bare)}) == 3


@given(st.lists(st.tuples(st.integers(1, 400), st.integers(1, 5)), max_size=90))
def test_a_revision_never_gets_more_than_it_may_hold(sizes: list[tuple[int, int]]):
    texts = tuple(
        Text(
            id=f"{number:010}",
            facts=[f"k{number}x{n}" for n in range(kinds)],
            text="x" * size * 1024,
            names=["p"],
        )
        for number, (size, kinds) in enumerate(sizes)
    )
    found = bounded(Accepted(texts))
    assert len(found.texts) <= 64
    assert sum(len(one.text) for one in found.texts) <= 1 << 20
    assert found.kinds == Accepted(texts).kinds or len(found.kinds) >= 256
    assert all(one in texts for one in found.texts)
    assert bounded(found) == found


def test_very_many_kinds_make_no_write_that_is_refused():
    kinds = [f"k{number}" for number in range(300)]
    found = bounded(Accepted((text("x", *kinds),), tuple(not_for(*kinds) for _ in range(70))))
    assert [len(one.facts) for one in found.texts] == [256]
    assert [len(one.facts) for one in found.unrendered] == [256] * 64


def test_kinds_that_are_gone_are_forgotten():
    judged = Accepted((text("x", "a", "b"), text("y", "c"), text("z", "any")), (not_for("a"), not_for("c")))
    assert known(judged, {"a"}) == Accepted((text("x", "a"), text("z", "any")), (not_for("a"),))
    refusal = Refusal(Reason.TEMPLATE_REFUSED, "no", frozenset({"c"}))
    assert known(refusal, {"a"}) == refusal
