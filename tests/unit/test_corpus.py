"""What `make corpus` calls agreement: the comparison of one text, and how texts are named and grouped."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.corpus.compare import (
    Kernel,
    OnNode,
    Outcome,
    Parsed,
    Told,
    Verdict,
    batches,
    compare,
    digests,
    object_names,
    texts,
)

YES = ("True", "Accepted", "")
READY = ("True", "Ready", "")
HELD = {"a": ("enforce", "d1"), "a//h": ("enforce", "d1")}
TAKES = Parsed(0, "", ("a//h", "a"), frozenset({"d1", "d256"}))
REFUSES = Parsed(1, "AppArmor parser error at line 4: syntax error, unexpected TOK_CLOSE\n")
LINE = "apparmor_parser refuses the policy: line 4: syntax error, unexpected TOK_CLOSE"
GOOD = OnNode(TAKES, "r1/enforce/d1", listed=frozenset({"a", "a//h", "other"}), held=HELD)
TOLD = Told(YES, READY, "r1", ("a", "a//h"))


def refused(reason: str, message: str) -> Told:
    return Told(("False", reason, message), ("False", reason, message))


def on_two(told: Told, one: OnNode, other: OnNode = GOOD) -> Outcome:
    return compare(told, {"one": one, "two": other})


def test_ready_with_the_parsers_names_and_hash_is_agreement():
    outcome = on_two(TOLD, GOOD)
    assert outcome == Outcome(Verdict.READY, "Ready", "", ("a", "a//h"), ())


def change(**fields: object) -> OnNode:
    return dataclasses.replace(GOOD, **fields)  # type: ignore[arg-type]


OTHER_HASH: Kernel = {"a": ("enforce", "d1"), "a//h": ("enforce", "d9")}


@pytest.mark.parametrize(
    ("told", "node", "said"),
    [
        (TOLD, change(parsed=REFUSES), "one: the parser's exit code is 1, and Hauberk tells of no trouble"),
        (TOLD, change(parsed=Parsed(124)), "exit code is 124"),
        (TOLD, change(report=""), "one: reports nothing, wanted is revision r1"),
        (TOLD, change(report="r0/enforce/d1"), "reports r0/enforce/d1"),
        (TOLD, change(fresh=False), "another boot"),
        (TOLD, change(listed=frozenset({"a"})), "the kernel's list lacks ['a//h']"),
        (TOLD, change(held={"a": ("enforce", "d1")}), "the kernel holds ['a']"),
        (TOLD, change(held=HELD | {"a//old": ("enforce", "d1")}), "the kernel holds ['a', 'a//h', 'a//old']"),
        (TOLD, change(held=OTHER_HASH), "the kernel's hash of a//h is d9"),
        (TOLD, change(held=HELD | {"a": ("enforce", "")}), "the kernel's hash of a is not there"),
        (dataclasses.replace(TOLD, names=("a",)), GOOD, "status.profiles is ['a']"),
        (dataclasses.replace(TOLD, names=()), GOOD, "status.profiles is []"),
        (dataclasses.replace(TOLD, revision=""), GOOD, "wanted is revision ?"),
        (
            dataclasses.replace(TOLD, ready=("False", "Updating", "")),
            GOOD,
            "the condition Ready is False (Updating)",
        ),
        (
            dataclasses.replace(TOLD, accepted=("", "NotSettled", "no verdict")),
            GOOD,
            "the parser accepts it, Hauberk says NotSettled",
        ),
        # refused without need, or by a reason that is neither the parser's nor a rule
        (refused("PolicyRefused", LINE), change(held={}), "one: the parser accepts it, Hauberk says PolicyR"),
        (refused("LoadFailed", "x"), change(held={}, parsed=REFUSES), "Hauberk says LoadFailed: x"),
        # refused, and loaded all the same
        (refused("PolicyRefused", LINE), change(parsed=REFUSES), "the kernel's profiles have changed"),
        (refused("NameProtected", ""), GOOD, "the kernel's profiles have changed"),
        (
            refused("PolicyRefused", "no"),
            change(parsed=REFUSES, held={}),
            "does not tell the parser's line 4",
        ),
        # one node's trouble
        (
            dataclasses.replace(TOLD, ready=("False", "NodesFailed", "")),
            change(problem=("LoadFailed", "the kernel does not like it"), held={}),
            "one: the parser accepts it, Hauberk says LoadFailed",
        ),
        (
            TOLD,
            change(problem=("PolicyRefused", LINE), parsed=REFUSES, held={}),
            "the condition Ready is True",
        ),
    ],
)
def test_disagreements_are_told(told: Told, node: OnNode, said: str):
    outcome = on_two(told, node)
    assert any(said in one for one in outcome.disagreements), outcome.disagreements


def test_a_refusal_of_the_parser_is_agreement_where_nothing_is_loaded():
    bad = OnNode(REFUSES)
    outcome = on_two(refused("PolicyRefused", LINE), bad, bad)
    assert (outcome.verdict, outcome.disagreements) == (Verdict.BY_PARSER, ())
    assert outcome.message == LINE


def test_a_crash_has_no_line_to_tell():
    outcome = on_two(refused("PolicyRefused", "it crashes"), OnNode(Parsed(139)), OnNode(Parsed(139)))
    assert (outcome.verdict, outcome.disagreements) == (Verdict.BY_PARSER, ())


def test_one_node_may_refuse_what_another_takes():
    told = dataclasses.replace(TOLD, ready=("False", "NodesFailed", "one node"))
    outcome = on_two(told, OnNode(REFUSES, problem=("PolicyRefused", LINE)))
    assert (outcome.verdict, outcome.message, outcome.disagreements) == (Verdict.BY_PARSER, LINE, ())


@pytest.mark.parametrize("reason", ["AttachmentRefused", "PolicyTooSlow", "Invalid"])
@pytest.mark.parametrize("parsed", [TAKES, REFUSES, Parsed(124)])
def test_a_rule_of_hauberks_own_is_listed(reason: str, parsed: Parsed):
    node = OnNode(parsed)
    outcome = on_two(refused(reason, "because"), node, node)
    assert (outcome.verdict, outcome.reason, outcome.message) == (Verdict.BY_POLICY, reason, "because")
    assert outcome.disagreements == ()


def test_what_the_host_has_stays_as_it_is():
    told = dataclasses.replace(TOLD, ready=("False", "NodesFailed", ""))
    mine: Kernel = {"a": ("complain", "d7")}
    outcome = on_two(told, OnNode(TAKES, problem=("HostOwned", "not yours"), before=mine, held=mine))
    assert (outcome.verdict, outcome.disagreements) == (Verdict.BY_POLICY, ())
    outcome = on_two(told, OnNode(TAKES, problem=("HostOwned", "not yours"), before=mine, held=HELD))
    assert outcome.disagreements == ("one: it is refused, and the kernel's profiles have changed",)


def test_the_parsers_word():
    assert [Parsed(code).word for code in (0, 1, 124, 139)] == ["accepts", "refuses", "too slow", "exit 139"]
    assert digests(b"x") >= {"11f6ad8ec52a2984abaafd7c3b516503785c2072"}


def test_the_texts_of_a_folder(tmp_path: Path):
    for name in ("README.md", "LICENSE", "usr.bin.man", ".hidden", "b", "Makefile", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "local").mkdir()
    assert [file.name for file in texts(tmp_path)] == ["b", "usr.bin.man"]
    (tmp_path / "apparmor").mkdir()
    for name in ("README", ".hidden", "x"):
        (tmp_path / "apparmor" / name).touch()
    assert [file.name for file in texts(tmp_path)] == ["README", "x"]


@given(st.lists(st.text(st.characters(categories=["L", "N", "P", "S", "Z"]), min_size=1), unique=True))
def test_every_text_has_a_legal_name_of_its_own(files: list[str]):
    names = object_names(files)
    assert list(names) == files
    assert len(set(names.values())) == len(files)
    for name in names.values():
        assert len(name) <= 63
        assert name.isascii()
        assert name.replace("-", "a").isalnum()
        assert name == name.lower()
        assert not name.endswith("-")


DEFINED = st.dictionaries(
    st.integers(0, 40).map(str), st.sets(st.sampled_from(["a", "b", "b//h", "b//g", "c", "d"]), max_size=3)
)


@given(DEFINED, st.integers(1, 5))
def test_a_group_defines_no_name_twice(defined: dict[str, set[str]], size: int):
    groups = batches(defined, size)
    assert sorted(text for group in groups for text in group) == sorted(defined)
    for group in groups:
        assert 1 <= len(group) <= size
        assert group == [text for text in defined if text in group]
        tops = [{name.split("//", 1)[0] for name in defined[text]} for text in group]
        assert sum(map(len, tops)) == len(set[str]().union(*tops))
        assert len({bool(names) for names in tops}) == 1
