"""Names and digests: they are what older agents and files on disks were called, so they may not change."""

from __future__ import annotations

import re

import pytest
from hauberk.crds import names
from hauberk.crds.errors import ClusterFault, Fault, InputFault, NodeFault
from hauberk.crds.reasons import NodeState, Reason
from hypothesis import given
from hypothesis import strategies as st

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@pytest.mark.parametrize(
    ("policy", "mode", "digest"),
    [
        ("profile a { }", "Enforce", "ca383745f1"),
        ("profile a { }", "Complain", "42619639f9"),
        ("profile ä { }", "Enforce", "677093accf"),
        ("", "Enforce", "26fb60fa86"),
    ],
)
def test_digests_do_not_change_between_versions(policy: str, mode: str, digest: str):
    """Another digest would publish every profile of a cluster anew."""
    assert names.digest("AppArmor", policy, mode) == digest


@given(first=st.tuples(text, text, text), second=st.tuples(text, text, text))
def test_other_sources_have_other_digests(first: tuple[str, str, str], second: tuple[str, str, str]):
    assert (names.digest(*first) == names.digest(*second)) == (first == second)


@given(profile_type=text, policy=text, mode=text)
def test_a_digest_fits_the_crd(profile_type: str, policy: str, mode: str):
    assert re.fullmatch(r"[0-9a-f]{10}", names.digest(profile_type, policy, mode))


@pytest.mark.parametrize(("policy", "mode", "digest"), [("profile a { }", "Enforce", "1f01f27d16")])
def test_the_right_to_attach_is_a_part_of_the_content(policy: str, mode: str, digest: str):
    assert names.digest("AppArmor", policy, mode, allow_attachment=True) == digest
    plain = names.digest("AppArmor", policy, mode)
    assert plain == names.digest("AppArmor", policy, mode, allow_attachment=False) != digest


@given(first=st.tuples(text, text, text), second=st.tuples(text, text, text))
def test_what_may_attach_is_never_what_may_not(first: tuple[str, str, str], second: tuple[str, str, str]):
    assert names.digest(*first) != names.digest(*second, allow_attachment=True)


def test_a_tombstones_name_is_a_kubernetes_name_and_says_whose_it_is():
    name = names.tombstone_name("p" * 63, "12345678-1234-1234-1234-123456789012")
    assert name == f"{'p' * 63}.gone-a3a8ee4379"
    assert len(name) <= 253
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", name)


@given(profiles=st.sampled_from(["p", "q"]), uids=st.tuples(text, text))
def test_a_tombstone_is_of_one_uid_and_no_revision(profiles: str, uids: tuple[str, str]):
    first, second = (names.tombstone_name(profiles, uid) for uid in uids)
    assert (first == second) == (uids[0] == uids[1])
    assert not re.fullmatch(r"[0-9a-f]{10}", first.removeprefix(f"{profiles}."))


def test_a_revisions_name_is_a_kubernetes_name_for_the_longest_profile():
    name = names.revision_name("p" * 63, names.digest("AppArmor", "", "Enforce"))
    assert len(name) <= 253
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", name)


def test_files_and_names_are_as_documented():
    assert names.host_file("p") == "hauberk.p"
    assert names.revision_name("p", "0123456789") == "p.0123456789"
    assert names.API_VERSION == "hauberk.dev/v1alpha1"


@pytest.mark.parametrize(
    "runtime", ["docker-default", "cri-containerd.apparmor.d", "crio-default", "runc", "crun"]
)
def test_the_profiles_of_container_runtimes_are_protected(runtime: str):
    assert runtime in names.PROTECTED


@pytest.mark.parametrize("reason", Reason)
def test_a_reason_is_a_word_that_conditions_take(reason: Reason):
    assert re.fullmatch(r"[A-Za-z][A-Za-z0-9]{1,63}", reason)


def test_states_are_ordered_worst_first():
    assert min([NodeState.READY, NodeState.FAILED, NodeState.UPDATING]) is NodeState.FAILED
    assert max(NodeState) is NodeState.UNSUPPORTED


@pytest.mark.parametrize("kind", [InputFault, NodeFault, ClusterFault])
def test_a_fault_keeps_its_reason_and_sentence(kind: type[Fault]):
    fault = kind(Reason.IN_USE, "a task is confined by it")
    assert (fault.reason, fault.message, str(fault)) == (
        Reason.IN_USE,
        "a task is confined by it",
        "InUse: a task is confined by it",
    )
