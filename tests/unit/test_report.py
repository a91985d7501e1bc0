"""The ProfileNode: only what the kernel holds counts as loaded, and no problem is lost or told twice."""

from __future__ import annotations

import pytest
from hauberk.crds.models import (
    AppArmorFacts,
    Content,
    Entry,
    Facts,
    Metadata,
    Orphan,
    Placement,
    Problem,
    ProfileNode,
    ProfileRevision,
    Remark,
    Repairs,
    RevisionSpec,
    Section,
    SELinuxFacts,
    decode,
    encode,
)
from hauberk.crds.reasons import Reason
from hauberk.daemonset import report
from hauberk.daemonset.drift import Drift
from hauberk.daemonset.holdings import Holding
from hauberk.daemonset.host import Loaded
from hauberk.daemonset.report import Told
from msgspec.structs import replace

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
    *held: Holding,
    kernel: dict[str, Loaded],
    problems: dict[str, Problem] | None = None,
    boot: str = "boot",
    orphans: frozenset[str] = frozenset(),
    drifts: dict[str, Drift] | None = None,
    remarks: list[Remark] | None = None,
) -> Section:
    besides = Told(problems or {}, orphans, frozenset(), drifts or {}, remarks or [])
    return report.section({one.profile: one for one in held}, kernel, besides, boot)


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


@pytest.mark.parametrize("kernel", [{"p": Loaded("enforce", SHA)}, {}, {"p": Loaded("enforce", "other")}])
def test_what_was_released_is_not_loaded_and_lacks_nothing(kernel: dict[str, Loaded]):
    """What is in the kernel under its names is no revision of it, and its object may go."""
    section = told(replace(holding("p"), released=True), kernel=kernel)
    assert section == Section()


def test_what_was_released_and_can_not_go_is_told():
    section = told(
        replace(holding("p"), released=True),
        kernel={"p": Loaded("enforce", SHA)},
        problems={"p": problem("InUse", "1 task is confined by p")},
    )
    assert (section.profiles, [one.reason for one in section.problems.values()]) == ({}, ["InUse"])


def test_an_orphan_is_told_with_whose_it_was():
    one = replace(holding("p"), uid="uid-p", installation="here")
    section = told(
        one,
        holding("q"),
        kernel={"p": Loaded("enforce", SHA), "q": Loaded("enforce", SHA)},
        orphans=frozenset("p"),
    )
    assert section.orphans == {"p": Orphan(uid="uid-p", installation="here")}
    assert set(section.profiles) == {"p", "q"}  # it is loaded all the same
    assert section.problems == {}


def test_repairs_are_told_with_the_last_one():
    section = told(
        holding("p"),
        kernel={"p": Loaded("enforce", SHA)},
        drifts={"p": Drift(3, "the kernel did not hold p\x1b", (1.0, 2.0), 1)},
    )
    assert section.repairs == {"p": Repairs(count=3, message="the kernel did not hold p?")}
    assert (set(section.profiles), section.problems) == ({"p"}, {})


def test_remarks_are_the_nodes_own():
    remarks = [Remark(reason="StateTorn", message=f"record {number}\n") for number in range(40)]
    section = told(kernel={}, remarks=remarks)
    assert section.remarks == [
        Remark(reason="StateTorn", message=f"record {n}; ") for n in range(report.REMARKS)
    ]
    assert section.problems == {}


def test_no_map_has_more_than_the_api_takes():
    names = [f"p{number:04}" for number in range(700)]
    section = told(
        *(holding(name) for name in names),
        kernel={name: Loaded("enforce", SHA) for name in names},
        problems={name: problem() for name in names},
        orphans=frozenset(names),
        drifts=dict.fromkeys(names, Drift(1, "x")),
    )
    for some in (section.problems, section.orphans, section.repairs):
        assert list(some) == names[: report.PROBLEMS]
    assert len(section.profiles) == 700


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


def test_the_order_of_what_is_told_besides_changes_nothing():
    held = [holding(name) for name in "abc"]
    kernel = {name: Loaded("enforce", SHA) for name in "abc"}
    drifts = {name: Drift(1, name) for name in "abc"}
    one = told(*held, kernel=kernel, orphans=frozenset("abc"), drifts=drifts)
    other = told(
        *reversed(held), kernel=kernel, orphans=frozenset("cba"), drifts=dict(reversed(drifts.items()))
    )
    for field in ("orphans", "repairs"):
        assert list(encode(one)[field]) == list(encode(other)[field]) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("section", "summary"),
    [
        (None, "unsupported"),
        (Section(), "0/0"),
        (Section(profiles={"a": "", "b": ""}), "2/2"),
        (Section(profiles={"a": ""}, problems={"b": problem()}), "1/2, 1 failed"),
        (Section(profiles={"a": ""}, problems={"a": problem()}), "1/1, 1 failed"),
        (Section(profiles={"a": ""}, orphans={"a": Orphan(uid="u")}), "1/1, 1 orphaned"),
        (Section(profiles={"a": ""}, repairs={"a": Repairs(count=3, message="x")}), "1/1"),
        (Section(remarks=[Remark(reason="StateTorn", message="x")]), "0/0, 1 remark"),
        (Section(remarks=[Remark(reason="StateTorn", message="x")] * 2), "0/0, 2 remarks"),
        (
            Section(
                profiles={"a": "", "b": ""},
                problems={"b": problem(), "c": problem()},
                orphans={"a": Orphan(uid="u"), "b": Orphan(uid="u")},
                remarks=[Remark(reason="StateTorn", message="x")],
            ),
            "2/3, 2 failed, 2 orphaned, 1 remark",
        ),
    ],
)
def test_the_summary_counts(section: Section | None, summary: str):
    assert report.summary({"AppArmor": section}) == summary


@pytest.mark.parametrize(
    "section",
    [
        None,
        Section(),
        Section(profiles={"p": "d1/enforce/-"}, problems={"p": problem()}),
        Section(
            orphans={"p": Orphan(uid="u", installation="i")},
            repairs={"p": Repairs(count=1, message="x")},
            remarks=[Remark(reason="StateTorn", message="x")],
        ),
    ],
)
def test_a_profile_node_is_owned_by_its_node_and_survives_the_api(section: Section | None):
    facts = Facts(kernel="6.1", lsms=["apparmor"], app_armor=AppArmorFacts(features=["f"], enabled=True))
    made = report.profile_node("n1", "uid-1", "boot", facts, {"AppArmor": section})
    body = encode(made)
    assert body["metadata"]["ownerReferences"] == [
        {"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "uid-1"}
    ]
    assert (body["apiVersion"], body["kind"]) == ("hauberk.dev/v1alpha1", "ProfileNode")
    assert decode(ProfileNode, body) == made
    assert ("appArmor" in body["status"]) == (section is not None)


def test_the_summary_counts_all_backends():
    sections = {
        "AppArmor": None,
        "SELinux": Section(profiles={"a": ""}),
        "Seccomp": Section(profiles={"b": ""}),
    }
    assert report.summary(sections) == "2/2"


def test_each_backend_has_its_own_section():
    held = {kind: Section(profiles={kind.lower(): "d1/x/-"}) for kind in ("AppArmor", "SELinux", "Seccomp")}
    made = report.profile_node("n1", "uid-1", "boot", Facts(), {**held})
    assert made.status.sections == held
    assert encode(made)["status"].keys() >= {"appArmor", "selinux", "seccomp"}


def test_facts_that_are_empty_are_written_all_the_same():
    """A node goes from one agent to the other, and the API server makes null of `{}` where fields were."""
    body = encode(report.profile_node("n1", "uid-1", "boot", Facts(selinux=SELinuxFacts()), {}))
    assert body["status"]["facts"]["selinux"] == {"policy": "", "mls": False, "mode": ""}


# --- bad news ----------------------------------------------------------------------------------------------


def node(boot: str = "boot", facts: Facts | None = None, **sections: Section | None) -> ProfileNode:
    there = {"AppArmor": None, "SELinux": None, "Seccomp": None} | sections
    return report.profile_node("n1", "uid-1", boot, facts or Facts(kernel="6.1"), there)


def held(*entries: str, **problems: Problem) -> Section:
    return Section(profiles=dict(one.split("=") for one in entries), problems=problems)


HELD = node(AppArmor=held("p=d1/enforce/0", q=problem()))


@pytest.mark.parametrize(
    ("before", "after", "bad"),
    [
        (None, node(), True),
        (HELD, HELD, False),
        # better, or no worse
        (HELD, node(AppArmor=held("p=d2/enforce/1", q=problem())), False),
        (HELD, node(AppArmor=held("p=d1~/enforce/0", q=problem())), False),
        (HELD, node(AppArmor=held("p=d1/enforce/0", "r=d1/enforce/0", q=problem())), False),
        (HELD, node(AppArmor=held("p=d1/enforce/0", "q=d1/enforce/0")), False),
        (HELD, node(AppArmor=held("p=d1/enforce/0", q=problem()), SELinux=held("s=d1/enforcing/0")), False),
        (
            node(AppArmor=Section()),
            node(
                AppArmor=Section(
                    orphans={"p": Orphan(uid="u")},
                    repairs={"p": Repairs(count=1, message="x")},
                    remarks=[Remark(reason="StateTorn", message="x")],
                )
            ),
            False,
        ),
        # problems
        (HELD, node(AppArmor=held("p=d1/enforce/0", q=problem(), r=problem())), True),
        (HELD, node(AppArmor=held("p=d1/enforce/0", q=problem(message="another"))), True),
        (HELD, node(AppArmor=held("p=d1/enforce/0", q=problem("InUse"))), True),
        (HELD, node(AppArmor=held("p=d1/enforce/0", q=problem()), Seccomp=held(r=problem())), True),
        # what is no longer held as it was
        (HELD, node(AppArmor=held(q=problem())), True),
        (HELD, node(AppArmor=held("p=d1/complain/0", q=problem())), True),
        (HELD, node(AppArmor=held("p=d2/complain/0", q=problem())), True),
        (HELD, node(), True),
        # another node
        (HELD, node("later", AppArmor=HELD.status.app_armor), True),
        (HELD, node(facts=Facts(kernel="6.6"), AppArmor=HELD.status.app_armor), True),
    ],
)
def test_what_does_not_wait_for_its_turn(before: ProfileNode | None, after: ProfileNode, bad: bool):
    assert report.is_bad_news(before, after) == bad


def revision(profile: str, digest: str, uid: str, sequence: int) -> ProfileRevision:
    return ProfileRevision(
        metadata=Metadata(name=f"{profile}.{digest}"),
        spec=RevisionSpec(
            profile=profile,
            profile_uid=uid,
            type="AppArmor",
            contract=1,
            content=Content(digest=digest),
            placement=Placement(sequence=sequence),
        ),
    )


def test_what_is_held_is_told_with_the_generation_that_asks_for_it():
    holdings = {"p": holding("p"), "q": holding("q"), "r": holding("r")}
    revisions = [
        revision("p", "d2", "uid", 5),  # wanted, not held yet
        revision("p", "d1", "uid", 4),
        revision("q", "d1", "another", 3),  # of a SecurityProfile that was made anew
    ]
    assert report.sequences(holdings, revisions) == {"p": 4}
    kernel = {name: Loaded("enforce", SHA) for name in holdings}
    section = report.section(holdings, kernel, Told(sequences={"p": 4}), "boot")
    assert section.profiles["p"] == "d1/enforce/0123456789/4"
    assert section.profiles["q"] == "d1/enforce/0123456789"
    assert Entry.read(section.profiles["p"]) == ("d1", "enforce", "0123456789", 4)
    assert Entry.read("") == ("", "", "", None)
