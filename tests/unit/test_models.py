"""The models: selectors by apimachinery's rules, what decodes, and that nothing is lost on the way."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hauberk.crds import models
from hauberk.crds.models import (
    Content,
    Metadata,
    NodeSelector,
    Orphan,
    Placement,
    Problem,
    ProfileNode,
    ProfileRevision,
    Remark,
    Repairs,
    Requirement,
    RevisionSpec,
    Section,
    SecurityProfile,
    Text,
    decode,
    encode,
)
from hauberk.crds.names import CONTRACT
from hypothesis import given
from hypothesis import strategies as st

LABELS = {"os": "linux", "pool": "a", "empty": ""}


def requirement(key: str, operator: str, *values: str) -> Requirement:
    return Requirement(key=key, operator=operator, values=list(values))


# By apimachinery: labels.Requirement.Matches, and metav1.LabelSelectorAsSelector.
@pytest.mark.parametrize(
    ("one", "matches"),
    [
        (requirement("pool", "In", "a", "b"), True),
        (requirement("pool", "In", "b"), False),
        (requirement("none", "In", "a"), False),
        (requirement("none", "In", ""), False),
        (requirement("empty", "In", ""), True),
        (requirement("pool", "NotIn", "a"), False),
        (requirement("pool", "NotIn", "b"), True),
        (requirement("none", "NotIn", "a"), True),
        (requirement("empty", "NotIn", ""), False),
        (requirement("pool", "Exists"), True),
        (requirement("empty", "Exists"), True),
        (requirement("none", "Exists"), False),
        (requirement("pool", "DoesNotExist"), False),
        (requirement("none", "DoesNotExist"), True),
        (requirement("pool", "Gt", "a"), False),
    ],
)
def test_an_expression_matches_as_in_kubernetes(one: Requirement, matches: bool):
    assert NodeSelector(match_expressions=[one]).matches(LABELS) is matches


@pytest.mark.parametrize(
    ("selector", "matches"),
    [
        ({}, True),
        ({"matchLabels": {}}, True),
        ({"matchLabels": {"os": "linux"}}, True),
        ({"matchLabels": {"os": "linux", "pool": "b"}}, False),
        ({"matchLabels": {"none": ""}}, False),
        ({"matchLabels": {"empty": ""}}, True),
        ({"matchLabels": {"os": "linux"}, "matchExpressions": [{"key": "pool", "operator": "Exists"}]}, True),
        ({"matchLabels": {"os": "x"}, "matchExpressions": [{"key": "pool", "operator": "Exists"}]}, False),
        (
            {
                "matchExpressions": [
                    {"key": "os", "operator": "Exists"},
                    {"key": "none", "operator": "Exists"},
                ]
            },
            False,
        ),
    ],
)
def test_all_parts_of_a_selector_must_match(selector: dict[str, Any], matches: bool):
    assert decode(NodeSelector, selector).matches(LABELS) is matches


SPEC = {"type": "AppArmor", "appArmor": {"policy": "x"}}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "metadata"),
        ({"metadata": {}}, "name"),
        ({"metadata": {"name": "p"}}, "spec"),
        ({"metadata": {"name": "p"}, "spec": {}}, "type"),
        ({"metadata": {"name": "p"}, "spec": SPEC | {"suspend": "yes"}}, "spec.suspend"),
        (
            {"metadata": {"name": "p"}, "spec": {"type": "AppArmor", "appArmor": {"policy": 1}}},
            "spec.appArmor.policy",
        ),
        ({"metadata": {"name": "p", "generation": "1"}, "spec": SPEC}, "metadata.generation"),
        ([], "expected `object`|Expected `object`"),
    ],
)
def test_a_body_of_another_shape_names_its_field(body: Any, said: str):
    with pytest.raises(msgspec.ValidationError, match=said):
        decode(SecurityProfile, body)


def test_fields_that_are_not_known_are_ignored_and_left_out_ones_have_defaults():
    body = {
        "metadata": {"name": "p", "managedFields": [1]},
        "spec": SPEC | {"template": {"values": {}}},
        "more": 1,
    }
    one = decode(SecurityProfile, body)
    assert one.spec.app_armor
    assert (one.spec.app_armor.mode, one.spec.suspend, one.spec.node_selector) == (
        "Enforce",
        False,
        NodeSelector(),
    )
    assert one.status.conditions == []


def test_a_revision_of_a_later_contract_can_be_told_from_a_broken_one():
    """DESIGN: an agent leaves such a revision alone and says so; its shape is what may have changed."""
    body = {
        "metadata": {"name": "p.d1"},
        "spec": {
            "profile": "p",
            "profileUID": "u",
            "type": "AppArmor",
            "contract": CONTRACT + 1,
            "content": {"digest": "d1", "bundle": "elsewhere"},
            "placement": {"sequence": 1, "share": 50},
        },
    }
    assert decode(ProfileRevision, body).spec.contract == CONTRACT + 1


words = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
selectors = st.builds(
    NodeSelector,
    match_labels=st.dictionaries(words, words, max_size=2),
    match_expressions=st.lists(
        st.builds(Requirement, key=words, operator=words, values=st.lists(words, max_size=2)), max_size=2
    ),
)
revisions = st.builds(
    ProfileRevision,
    metadata=st.builds(Metadata, name=words, uid=words, labels=st.dictionaries(words, words, max_size=2)),
    spec=st.builds(
        RevisionSpec,
        profile=words,
        profile_uid=words,
        type=words,
        contract=st.integers(1, 9),
        installation=words,
        content=st.builds(
            Content,
            digest=words,
            mode=words,
            texts=st.lists(
                st.builds(Text, id=words, facts=st.lists(words), text=words, names=st.lists(words)),
                max_size=2,
            ),
            allow_attachment=st.booleans(),
        ),
        placement=st.builds(
            Placement,
            sequence=st.integers(0, 1 << 40),
            node_selector=selectors,
            suspend=st.booleans(),
            withdrawn=st.booleans(),
            force=st.booleans(),
            adopt=st.booleans(),
        ),
    ),
)
problems = st.builds(Problem, revision=words, reason=words, message=words)
backends = st.builds(
    Section,
    profiles=st.dictionaries(words, words, max_size=3),
    problems=st.dictionaries(words, problems, max_size=2),
    orphans=st.dictionaries(words, st.builds(Orphan, uid=words, installation=words), max_size=2),
    repairs=st.dictionaries(words, st.builds(Repairs, count=st.integers(0, 99), message=words), max_size=2),
    remarks=st.lists(st.builds(Remark, reason=words, message=words), max_size=2),
)


@given(revisions)
def test_a_revision_survives_the_api(revision: ProfileRevision):
    assert decode(ProfileRevision, encode(revision)) == revision


def test_a_tombstone_is_written_without_content():
    """An empty content is no tombstone to the API server: it has no digest."""
    spec = RevisionSpec(
        profile="p",
        profile_uid="u",
        type="AppArmor",
        contract=CONTRACT,
        placement=Placement(sequence=1, withdrawn=True),
    )
    assert "content" not in encode(spec)
    assert "content" not in encode(decode(RevisionSpec, encode(spec)))


@given(backends, words, st.booleans())
def test_a_profile_node_survives_the_api(backend: Section, boot: str, supported: bool):
    status = models.NodeStatus(boot_id=boot, app_armor=backend if supported else None)
    node = ProfileNode(metadata=Metadata(name="n"), status=status)
    assert decode(ProfileNode, encode(node)) == node


@given(selectors, st.dictionaries(words, words, max_size=3))
def test_a_selector_means_the_same_after_the_api(selector: NodeSelector, labels: dict[str, str]):
    assert decode(NodeSelector, encode(selector)).matches(labels) is selector.matches(labels)


@pytest.mark.parametrize(
    ("kind", "field", "name"),
    [
        (Metadata, "resource_version", "resourceVersion"),
        (Metadata, "owner_references", "ownerReferences"),
        (RevisionSpec, "profile_uid", "profileUID"),
        (models.NodeStatus, "boot_id", "bootID"),
        (models.ProfileSpec, "app_armor", "appArmor"),
        (models.AppArmor, "allow_attachment", "allowAttachment"),
        (Content, "allow_attachment", "allowAttachment"),
        (Placement, "node_selector", "nodeSelector"),
    ],
)
def test_fields_are_called_as_in_the_crds(kind: type[msgspec.Struct], field: str, name: str):
    assert {one.name: one.encode_name for one in msgspec.structs.fields(kind)}[field] == name


def test_models_can_be_compared_and_not_changed():
    """Decisions rest on comparing what is with what should be, and on nobody changing a snapshot."""
    one = Metadata(name="p")
    assert one == Metadata(name="p")
    with pytest.raises(AttributeError, match="immutable"):
        one.name = "q"  # pyright: ignore[reportAttributeAccessIssue]
