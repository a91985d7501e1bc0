"""The ProfileNode: only what the kernel holds counts as loaded, and no problem is lost or told twice."""

from __future__ import annotations

import pytest
from hauberk.crds.models import AppArmorFacts, Backend, Facts, Problem, ProfileNode, decode, encode
from hauberk.crds.reasons import Reason
from hauberk.daemonset import report
from hauberk.daemonset.holdings import Holding
from hauberk.daemonset.host import Loaded

SHA = "0123456789abcdef" * 4


def holding(profile: str, *names: str, mode: str = "enforce") -> Holding:
    return Holding(
        profile,
        "uid",
        "d1",
        "Enforce",
        "text",
        dict.fromkeys(names or (profile,), mode),
        [SHA],
        "boot",
        boots=True,
    )


def told(
    *held: Holding, kernel: dict[str, Loaded], problems: dict[str, Problem] | None = None, boot: str = "boot"
) -> Backend:
    return report.backend({one.profile: one for one in held}, kernel, problems or {}, boot)


def problem(reason: str = "PolicyRefused", message: str = "no") -> Problem:
    return Problem(revision="d2", reason=reason, message=message)


@pytest.mark.parametrize(
    ("kernel", "boot", "entry", "reason"),
    [
        ({"p": Loaded("enforce", SHA)}, "boot", "d1/enforce/0123456789", None),
        ({"p": Loaded("enforce")}, "boot", "d1/enforce/-", None),
        ({"p": Loaded("enforce")}, "later", None, Reason.NOT_IN_KERNEL),
        ({"p": Loaded("enforce", SHA)}, "later", "d1/enforce/0123456789", None),
        ({}, "boot", None, Reason.NOT_IN_KERNEL),
        ({"p": Loaded("complain", SHA)}, "boot", None, Reason.NOT_IN_KERNEL),
        ({"p": Loaded("enforce", "other")}, "boot", None, Reason.NOT_IN_KERNEL),
    ],
)
def test_only_what_the_kernel_holds_is_loaded(
    kernel: dict[str, Loaded], boot: str, entry: str | None, reason: Reason | None
):
    section = told(holding("p"), kernel=kernel, boot=boot)
    assert section.profiles == ({"p": entry} if entry else {})
    assert [one.reason for one in section.problems.values()] == ([reason] if reason else [])


def test_a_profile_with_a_part_missing_is_not_loaded():
    section = told(holding("p", "p", "p//c"), kernel={"p": Loaded("enforce", SHA)})
    assert section.profiles == {}
    assert section.problems["p"].message == "the kernel does not hold p//c"


def test_a_problem_that_is_known_comes_before_what_follows_from_it():
    section = told(holding("p"), kernel={}, problems={"p": problem()})
    assert section.problems["p"].reason == "PolicyRefused"


def test_a_refused_update_is_told_beside_what_is_held():
    section = told(holding("p"), kernel={"p": Loaded("enforce", SHA)}, problems={"p": problem()})
    assert section.profiles == {"p": "d1/enforce/0123456789"}
    assert section.problems["p"].revision == "d2"


def test_messages_are_fit_to_be_shown():
    section = told(kernel={}, problems={"p": problem(message="a\x1b[0m\n" + "x" * 5000)})
    assert section.problems["p"].message.isprintable()
    assert len(section.problems["p"].message.encode()) <= 1024


def test_a_report_is_never_more_than_the_api_takes():
    section = told(kernel={}, problems={f"p{number:04}": problem() for number in range(600)})
    assert len(section.problems) == 512


def test_the_order_of_things_changes_nothing():
    kernel = {name: Loaded("enforce", SHA) for name in "ab"}
    problems = {name: problem() for name in "xy"}
    one = told(holding("a"), holding("b"), kernel=kernel, problems=problems)
    other = told(
        holding("b"),
        holding("a"),
        kernel=dict(reversed(kernel.items())),
        problems=dict(reversed(problems.items())),
    )
    assert list(encode(one)["profiles"]) == list(encode(other)["profiles"])
    assert list(encode(one)["problems"]) == list(encode(other)["problems"])


@pytest.mark.parametrize(
    ("section", "summary"),
    [
        (None, "unsupported"),
        (Backend(), "0/0"),
        (Backend(profiles={"a": "", "b": ""}), "2/2"),
        (Backend(profiles={"a": ""}, problems={"b": problem()}), "1/2, 1 failed"),
        (Backend(profiles={"a": ""}, problems={"a": problem()}), "1/1, 1 failed"),
    ],
)
def test_the_summary_counts(section: Backend | None, summary: str):
    assert report.summary(section) == summary


@pytest.mark.parametrize(
    "section", [None, Backend(), Backend(profiles={"p": "d1/enforce/-"}, problems={"p": problem()})]
)
def test_a_profile_node_is_owned_by_its_node_and_survives_the_api(section: Backend | None):
    facts = Facts(kernel="6.1", lsms=["apparmor"], app_armor=AppArmorFacts(features="f", enabled=True))
    made = report.profile_node("n1", "uid-1", "boot", facts, section)
    body = encode(made)
    assert body["metadata"]["ownerReferences"] == [
        {"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "uid-1"}
    ]
    assert (body["apiVersion"], body["kind"]) == ("hauberk.dev/v1alpha1", "ProfileNode")
    assert decode(ProfileNode, body) == made
    assert ("appArmor" in body["status"]) == (section is not None)
