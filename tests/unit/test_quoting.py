"""Filters of templates: what a value may become, and that none becomes a rule, as the parser reads it."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Callable
from functools import partial

import pytest
from hauberk.profiles.quoting import (
    UnfitError,
    Written,
    aa_glob,
    aa_name,
    aa_path,
    as_json,
    cil_name,
    cil_path,
    joined,
    plain,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

PARSER = shutil.which("apparmor_parser", path="/usr/sbin:/sbin:/usr/bin:/bin") or "apparmor_parser"

NASTY = st.text(st.sampled_from(list("ab/ \t\n\"'\\,*?[]{}()^@$#!:=<>|&~.-é\x00\x07")), max_size=12)


def rules(text: str) -> list[str]:
    """Return the rules that the parser itself lists for a policy; it has to take it."""
    done = subprocess.run(
        [PARSER, "--skip-kernel-load", "--skip-cache", "--debug"],
        input=text,
        capture_output=True,
        check=True,
        text=True,
    )
    return [line for line in done.stdout.splitlines() if line.startswith(("Mode:\t", "signal", "Name:"))]


@given(NASTY)
@settings(max_examples=80, deadline=None)
def test_a_path_is_one_rule_whatever_it_says(value: str):
    try:
        written = aa_path("/" + value, "/**")
    except UnfitError:
        return
    found = rules(f"profile x {{\n {written} rw,\n}}\n")
    assert len(found) == 2, found
    assert found[0].split() == ["Name:", "x"]


@given(NASTY)
@settings(max_examples=60, deadline=None)
def test_a_name_is_one_peer_whatever_it_says(value: str):
    try:
        written = aa_name(value)
    except UnfitError:
        return
    found = rules(f"profile x {{\n signal peer={written},\n}}\n")
    assert len(found) == 2, found


# A quote that one of them left open would be closed by the next, whose text would be rules then.
WRITES: dict[str, Callable[[str], Written]] = {
    "{} rw,": lambda value: aa_path("/" + value),
    "{} r,": lambda value: aa_path("/" + value, "/**"),
    "deny {} w,": lambda value: aa_glob("/" + value),
    "signal peer={},": aa_name,
    "signal (send) peer={},": as_json,
}
AWAY = st.sampled_from([", /etc/** rw, /y", "x r, /etc/** rw, #", "a\\", " rw, /etc/** rw, #"])


@given(st.lists(st.tuples(st.sampled_from(sorted(WRITES)), NASTY | AWAY), max_size=4))
@example([("{} rw,", "a\\"), ("signal (send) peer={},", " rw, /etc/** rw, #")])
@example([("signal (send) peer={},", "a\\"), ("signal (send) peer={},", ", /etc/** rw, #")])
@example([("signal peer={},", "a\\"), ("signal (send) peer={},", ", /etc/** rw, #")])
@settings(max_examples=150, deadline=None)
def test_no_value_makes_a_rule_of_the_next_one(parts: list[tuple[str, str]]):
    written: list[str] = []
    for rule, value in parts:
        with contextlib.suppress(UnfitError):
            written.append(rule.format(WRITES[rule](value)))
    try:
        found = rules("profile x {\n" + "".join(f" {one}\n" for one in written) + "}\n")
    except subprocess.CalledProcessError:  # a glob that is none, or a rule that contradicts another
        return
    assert len(found) <= 1 + len(written), found  # two that say the same are one
    assert not [one for one in found if one.endswith("(/etc/**)")]


@given(NASTY)
@settings(max_examples=80, deadline=None)
def test_what_needs_no_filter_is_one_word(value: str):
    try:
        written = plain(value)
    except UnfitError:
        return
    assert "".join(written.split()) == written
    assert not set(written) & set(",\"'#{}()[]*?\\\n!^")


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        (aa_path("/var/log/app"), '"/var/log/app"'),
        (aa_path("/var/log/app", "/**"), '"/var/log/app/**"'),
        (aa_path("/with space"), '"/with space"'),
        (aa_path("/a*b{c,d}"), '"/a\\*b\\{c\\,d\\}"'),
        (aa_path("/@{HOME}"), '"/\\@\\{HOME\\}"'),
        (aa_path('/quo"te'), '"/quo\\"te"'),
        (aa_path("/back\\slash"), '"/back\\\\slash"'),
        (aa_glob("@{PROC}/*/stat"), '"@{PROC}/*/stat"'),
        (aa_name("my profile"), '"my profile"'),
        (aa_path("/back\\", "/**"), '"/back\\\\/**"'),
        (as_json("/back\\"), '"/back\\u005c"'),
        (cil_name("my_app.t"), "my_app.t"),
        (cil_path("/srv/my app"), '"/srv/my app"'),
        (as_json({"b": [1, "x"], "a": None}), '{"a": null, "b": [1, "x"]}'),
        (joined(["net_raw", "chown"], ", "), "net_raw, chown"),
        (joined([aa_path("/a"), "b"], "|"), '"/a"|b'),
        (plain("ok-1.2_3/4:5@6%7+8=9~"), "ok-1.2_3/4:5@6%7+8=9~"),
        (plain(12), 12),
        (plain(Written("any, thing")), "any, thing"),
    ],
)
def test_what_a_filter_writes(given_: object, expected: object):
    assert given_ == expected


@pytest.mark.parametrize(
    ("write", "value", "why"),
    [
        (aa_path, "relative", "no absolute path"),
        (aa_path, "", "no absolute path"),
        (aa_path, 5, "takes a text"),
        (aa_path, "/a\n/etc/** rw,", "control characters"),
        (aa_path, "/a\0", "control characters"),
        (partial(aa_path, "/a"), '" rw, /etc/** "', "quotes"),
        (aa_glob, "etc/*", "is no path"),
        (aa_glob, '/a" rw, "/b', "quotes"),
        (aa_glob, "/a\\", "backslash"),
        (aa_name, "", "no profile's name"),
        (aa_name, "a\nb", "no profile's name"),
        (aa_name, "/bin/sh", "is a path"),
        (aa_name, "a//b", "a child"),
        (aa_name, ":root:x", "in a namespace"),
        (aa_name, "&unconfined", "stacked"),
        (aa_name, "a\\", "a backslash at its end"),
        (aa_path, "/a\\", "a backslash at its end"),
        (cil_name, "a) (allow x y", "no CIL name"),
        (cil_name, "1a", "no CIL name"),
        (cil_name, "", "no CIL name"),
        (cil_path, '/a" any', "quotes"),
        (cil_path, "a", "no absolute path"),
        (as_json, float("nan"), "JSON"),
        (partial(joined, ["a"]), ", /etc/** rw, ", "no separator"),
        (joined, ["a, /etc/** rw"], "could end a rule"),
        (plain, "a b", "could end a rule"),
        (plain, "a,", "could end a rule"),
        (plain, "{a}", "could end a rule"),
        (plain, "a#", "could end a rule"),
        (plain, None, "null"),
        (plain, ["a"], "a list"),
        (plain, {"a": 1}, "a mapping"),
        (plain, object(), "no text"),
    ],
)
def test_what_a_filter_refuses(write: object, value: object, why: str):
    assert callable(write)
    with pytest.raises(UnfitError, match=why):
        write(value)
