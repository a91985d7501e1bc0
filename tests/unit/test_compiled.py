"""The reader of compiled policy, against what the real parser makes, and against any other bytes."""

from __future__ import annotations

import asyncio
import hashlib
from functools import cache

import pytest
from hauberk.profiles import compiled
from hauberk.profiles.compiled import Defined
from hauberk.profiles.parser import Parser
from hypothesis import given, settings
from hypothesis import strategies as st

TEXT = 'profile a { ^hat { file, } profile c { file, } }\nprofile "b (x)" flags=(complain) { file, }\n'


@cache
def real(parser: Parser, text: str = TEXT, mode: str = "Enforce") -> bytes:
    return asyncio.run(parser.compile(text, mode))


@pytest.mark.parametrize(
    ("text", "mode", "defined"),
    [
        ("profile a { file, }", "Enforce", [Defined("a", "enforce")]),
        ("profile a { file, }", "Complain", [Defined("a", "complain")]),
        ("profile a flags=(complain) { file, }", "Enforce", [Defined("a", "complain")]),
        ("profile a flags=(kill) { file, }", "Enforce", [Defined("a", "kill")]),
        # the kernel looks at what --Complain sets first
        ("profile a flags=(kill) { file, }", "Complain", [Defined("a", "complain")]),
        (
            "profile a { ^h { file, } }",
            "Complain",
            [Defined("a", "complain"), Defined("a//h", "complain")],
        ),
        (
            "profile a { profile c flags=(complain) { file, } }",
            "Enforce",
            [Defined("a", "enforce"), Defined("a//c", "complain")],
        ),
        (
            "profile a { file, }\nprofile b { file, }",
            "Enforce",
            [Defined("a", "enforce"), Defined("b", "enforce")],
        ),
        ('profile "a (x) y" { file, }', "Enforce", [Defined("a (x) y", "enforce")]),
        ('profile "ä" { file, }', "Enforce", [Defined("ä", "enforce")]),
        ('profile "a\\377" { file, }', "Enforce", [Defined("a\udcff", "enforce")]),
        ("profile x /usr/bin/y { file, }", "Enforce", [Defined("x", "enforce", attaches=True)]),
        ("/usr/bin/y { file, }", "Enforce", [Defined("/usr/bin/y", "enforce", attaches=True)]),
        ("profile :n:x { file, }", "Enforce", [Defined("x", "enforce", namespace="n")]),
        (
            "profile :n:x { file, }\nprofile y { file, }",
            "Enforce",
            [Defined("x", "enforce", namespace="n"), Defined("y", "enforce")],
        ),
        ("# nothing\n", "Enforce", []),
    ],
)
def test_what_the_parser_made_is_read(parser: Parser, text: str, mode: str, defined: list[Defined]):
    assert sorted(compiled.read(real(parser, text, mode)), key=lambda one: one.name) == defined


def test_the_names_are_the_parsers_own(parser: Parser):
    own = asyncio.run(parser.names(TEXT))
    assert sorted(own) == sorted(one.name for one in compiled.read(real(parser)))


def test_the_digests_are_the_kernels_two():
    assert compiled.digests(b"x") == {
        "11f6ad8ec52a2984abaafd7c3b516503785c2072",
        hashlib.sha256(b"x").hexdigest(),
    }


def reads_or_refuses(data: bytes) -> None:
    try:
        found = compiled.read(data)
    except ValueError:
        return
    assert all(isinstance(one, Defined) for one in found)


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data: bytes):
    reads_or_refuses(data)


NAMED = st.sampled_from([b"profile", b"flags", b"namespace", b"version", b"attach", b"x"]).map(
    lambda name: b"\x04" + (len(name) + 1).to_bytes(2, "little") + name + b"\0"
)
PIECE = st.one_of(
    NAMED,
    st.sampled_from([b"\x07", b"\x08", b"\x09", b"\x0a", b"\x0c", b"\x0b\x02\x00", b"\x05\x02\x00a\x00"]),
    st.binary(min_size=4, max_size=4).map(lambda value: b"\x02" + value),
)


@settings(max_examples=400)
@given(st.lists(PIECE, max_size=24).map(b"".join))
def test_any_well_formed_elements_are_read_or_refused(data: bytes):
    reads_or_refuses(data)


@settings(max_examples=400)
@given(data=st.data())
def test_damaged_policy_is_read_or_refused(parser: Parser, data: st.DataObject):
    binary = bytearray(real(parser))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(binary) - 1))
        match data.draw(st.sampled_from(["set", "cut", "drop", "double"])):
            case "set":
                binary[at] = data.draw(st.integers(0, 255))
            case "cut":
                del binary[max(1, at) :]
            case "drop":
                del binary[at : min(at + 5, len(binary) - 1)]
            case _:
                binary[at:at] = binary[at : at + 40]
    reads_or_refuses(bytes(binary))


@pytest.mark.parametrize("cut", [1, 2, 7, 30, 120])
def test_policy_that_ends_too_early_is_refused(parser: Parser, cut: int):
    with pytest.raises(ValueError, match="compiled policy"):
        compiled.read(real(parser)[:-cut])


# --- cutting one profile out ---------------------------------------------------------------------------

CHILDREN = st.lists(
    st.sampled_from(["^hat { file, }", "profile c { /c r, }", 'profile "c d" { }']), unique=True
)
FAMILIES = st.lists(
    st.tuples(st.sampled_from(["", " flags=(complain)", " flags=(kill)"]), CHILDREN), min_size=1, max_size=4
)


def families(defined: list[Defined]) -> dict[str, list[str]]:
    """Return the names of each top-level profile and its children."""
    found: dict[str, list[str]] = {}
    for one in defined:
        found.setdefault(one.name.split("//", 1)[0], []).append(one.name)
    return found


@settings(max_examples=25, deadline=None)
@given(profiles=FAMILIES, forced=st.booleans())
def test_what_is_cut_apart_is_all_there_was(
    parser: Parser, profiles: list[tuple[str, list[str]]], forced: bool
):
    text = "\n".join(
        f"profile p{number}{flags} {{ /x{number} r, {' '.join(children)} }}"
        for number, (flags, children) in enumerate(profiles)
    )
    whole = real(parser, text, "Complain" if forced else "Enforce")

    parts = {top: compiled.only(whole, names) for top, names in families(compiled.read(whole)).items()}

    assert len(parts) == len(profiles)
    assert b"".join(parts.values()) == whole  # the parser writes a profile's children behind it
    for top, part in parts.items():
        assert compiled.read(part) == [
            one for one in compiled.read(whole) if one.name == top or one.name.startswith(f"{top}//")
        ]


def test_a_part_is_what_the_parser_makes_of_that_profile_alone(parser: Parser):
    mine = "profile a { /a r, ^hat { /h r, } }\n"
    whole = real(parser, f"profile before {{ /b r, }}\n{mine}profile later {{ }}\n")
    assert compiled.only(whole, ["a", "a//hat"]) == real(parser, mine)


def test_children_come_only_where_they_are_named(parser: Parser):
    part = compiled.only(real(parser), {"a", "a//c"})
    assert [one.name for one in compiled.read(part)] == ["a", "a//c"]
    assert [one.name for one in compiled.read(compiled.only(real(parser), ["a//hat"]))] == ["a//hat"]
    assert compiled.only(real(parser), []) == b""


VERSION = 11 + 5  # its name with tag and length, a tag and four bytes


def test_a_profile_without_a_version_of_its_own_is_given_the_one_it_was_read_by(parser: Parser):
    """The kernel asks for it in the first header of a load only (policy_unpack.c, verify_header)."""
    first = real(parser, "profile a { }", "Complain")
    second = real(parser, "profile b { }", "Complain")
    assert second[3:10] == b"version"
    whole = first + second[VERSION:] + real(parser, "profile c { }")

    assert compiled.only(whole, ["b"]) == second
    assert compiled.only(whole, ["a"]) == first
    assert [one.mode for one in compiled.read(compiled.only(whole, ["a", "b"]))] == ["complain", "complain"]
    assert [one.mode for one in compiled.read(compiled.only(whole, ["c"]))] == ["enforce"]


@pytest.mark.parametrize(
    ("text", "names", "said"),
    [
        (TEXT, ["a", "x"], "defines 'x' 0 times"),
        (TEXT, ["a//nothing"], "0 times"),
        (TEXT, ["A"], "0 times"),
        ("# nothing\n", ["a"], "0 times"),
        ("profile :n:x { file, }", ["x"], "is of a policy namespace"),
        ("profile :n:x { file, }\nprofile y { file, }", ["y"], "is of a policy namespace"),
    ],
)
def test_what_is_not_there_is_not_cut_out(parser: Parser, text: str, names: list[str], said: str):
    with pytest.raises(ValueError, match=said):
        compiled.only(real(parser, text), names)


def test_a_name_that_is_there_twice_is_not_guessed_at(parser: Parser):
    with pytest.raises(ValueError, match="defines 'a' 2 times"):
        compiled.only(real(parser) + real(parser), ["a"])


@settings(max_examples=200)
@given(data=st.data())
def test_a_part_of_damaged_policy_is_policy_or_refused(parser: Parser, data: st.DataObject):
    binary = bytearray(real(parser))
    at = data.draw(st.integers(0, len(binary) - 1))
    binary[at] = data.draw(st.integers(0, 255))
    try:
        names = [one.name for one in compiled.read(bytes(binary))]
        part = compiled.only(bytes(binary), names[:1])
    except ValueError:
        return
    assert [one.name for one in compiled.read(part)] == names[:1]
