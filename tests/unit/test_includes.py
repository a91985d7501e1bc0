"""Includes behind symbolic links: what leads out of the parser's base is refused, and all else is not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from hauberk.crds.errors import InputFault
from hauberk.crds.models import AppArmor, ProfileSpec
from hauberk.crds.reasons import Reason
from hauberk.profiles.check import Judge, check
from hauberk.profiles.includes import refuse_includes
from hauberk.profiles.parser import Parser, fault_message
from hauberk.profiles.rendering import Renderer

OUTSIDE = "capability sys_admin,\n"

Lay = Callable[[Path, Path], None]


def link(name: str, to: str) -> Lay:
    """Return what puts a link into the base; `OUT` and `BASE` in its target are the two folders."""

    def lay(base: Path, out: Path) -> None:
        where = base / name
        where.parent.mkdir(parents=True, exist_ok=True)
        where.symlink_to(to.replace("OUT", str(out)).replace("BASE", str(base)))

    return lay


def file(name: str, text: str = "capability chown,\n") -> Lay:
    def lay(base: Path, _: Path) -> None:
        where = base / name
        where.parent.mkdir(parents=True, exist_ok=True)
        where.write_text(text)

    return lay


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Return the parser's folder, with another beside it that holds what nobody may read."""
    (tmp_path / "out" / "deep").mkdir(parents=True)
    for secret in ("secret", "deep/secret", "deep/last"):
        (tmp_path / "out" / secret).write_text(OUTSIDE)
    (tmp_path / "base" / "abstractions").mkdir(parents=True)
    return tmp_path / "base"


OUT: dict[str, tuple[str, list[Lay], str]] = {
    "file": ("include <abstractions/x>", [link("abstractions/x", "OUT/secret")], "abstractions/x is"),
    "relative-link": ("include <x>", [link("x", "../out/secret")], "x is"),
    "old-form": ("#include <abstractions/x>", [link("abstractions/x", "OUT/secret")], "abstractions/x is"),
    "bare-word": ("include x", [link("x", "OUT/secret")], "x is"),
    "quoted": ('include "x"', [link("x", "OUT/secret")], "x is"),
    "if-exists": ("include if exists <x>", [link("x", "OUT/secret")], "x is"),
    "dangling": ("include if exists <x>", [link("x", "OUT/not-there")], "x is"),
    "behind-a-folder": ("include <local/secret>", [link("local", "OUT/deep")], "local/secret is"),
    "folder": ("include <local>", [link("local", "OUT/deep")], "local is"),
    "in-a-folder": (
        "include <local>",
        [file("local/a"), link("local/b", "OUT/secret"), file("local/c")],
        "local/b is",
    ),
    "link-to-a-link": ("include <a>", [link("a", "b"), link("b", "c"), link("c", "OUT/secret")], "a is"),
    "link-in-the-middle": ("include <a/secret>", [link("a", "b/deep"), link("b", "OUT")], "a/secret is"),
    "nested": (
        "include <abstractions/base>",
        [file("abstractions/base", "include if exists <local/x>\n"), link("local/x", "OUT/secret")],
        "local/x is",
    ),
    "nested-twice-in-a-folder": (
        "include <a>",
        [file("a", "include <d>\n"), file("d/b", "#include <c>\n"), link("c", "OUT/secret")],
        "c is",
    ),
    "second-line": ("include <good>\ninclude <x>", [file("good"), link("x", "OUT/secret")], "line 2: "),
    "beside-the-base": ("include <x>", [link("x", "BASE-of-someone/secret")], "x is"),
}

IN: dict[str, tuple[str, list[Lay]]] = {
    "file": ("include <abstractions/x>", [file("abstractions/x")]),
    "link-beside-it": ("include <a>", [link("a", "b"), file("b")]),
    "link-up-and-down": ("include <abstractions/a>", [link("abstractions/a", "../b"), file("b")]),
    "absolute-link": ("include <a>", [link("a", "BASE/b"), file("b")]),
    "folder": ("include <d>", [file("d/a"), link("d/b", "a")]),
    "link-to-a-folder": ("include <l>", [link("l", "d"), file("d/a")]),
    "not-named": ("include <a>", [file("a"), link("b", "OUT/secret")]),
    "in-a-folder-of-a-folder": ("include <d>", [file("d/a"), link("d/e/x", "OUT/secret")]),
    "link-to-a-folder-in-a-folder": ("include <d>", [file("d/a"), link("d/e", "OUT/deep")]),
    "not-there": ("include if exists <local/x>", []),
    "dangling-within": ("include if exists <a>", [link("a", "b")]),
    "loop-of-files": ("include if exists <b>", [file("a", "include if exists <b>\n")]),
    "prose": (
        "include <a>",
        [file("a", "# include /etc/passwd, include ../x, include\0\n# include\n"), file("b")],
    ),
}


def laid(base: Path, lays: list[Lay]) -> None:
    for lay in lays:
        lay(base, base.parent / "out")


def policy(include: str) -> str:
    return f"profile a {{\n{include}\n}}\n"


@pytest.mark.parametrize("case", OUT)
def test_a_link_that_leads_out_is_refused(base: Path, case: str):
    include, lays, said = OUT[case]
    laid(base, lays)
    with pytest.raises(InputFault) as caught:
        refuse_includes(include, base)
    message = fault_message(caught.value)
    assert caught.value.reason is Reason.INCLUDE_REFUSED
    assert said in message
    assert "symbolic link" in message
    assert str(base.parent) not in message


@pytest.mark.parametrize("case", IN)
async def test_what_stays_within_is_taken(parser: Parser, base: Path, case: str):
    include, lays = IN[case]
    laid(base, lays)
    here = dataclasses.replace(parser, base=base)
    spec = ProfileSpec(type="AppArmor", app_armor=AppArmor(policy=policy(include)))
    assert (await check(spec, Judge(here, Renderer()), {})).names == ("a",)


READABLE = sorted(set(OUT) - {"dangling", "beside-the-base"})


@pytest.mark.parametrize("case", READABLE)
async def test_the_parser_would_have_read_it(parser: Parser, base: Path, case: str):
    """Else the table above would test nothing."""
    include, lays, _ = OUT[case]
    laid(base, lays)
    here = dataclasses.replace(parser, base=base)
    privileged = await parser.compile("profile a { capability sys_admin, }", "Enforce")
    unprivileged = await parser.compile("profile a { }", "Enforce")
    assert privileged != unprivileged

    spec = ProfileSpec(type="AppArmor", app_armor=AppArmor(policy=policy(include)))
    with_secret = await here.compile(policy(include), "Enforce")
    for secret in ("secret", "deep/secret", "deep/last"):
        (base.parent / "out" / secret).write_text("")
    assert await here.compile(policy(include), "Enforce") != with_secret
    with pytest.raises(InputFault, match=r"^IncludeRefused"):
        await check(spec, Judge(here, Renderer()), {})


@pytest.mark.parametrize("case", ["in-a-folder-of-a-folder", "link-to-a-folder-in-a-folder"])
async def test_the_parser_reads_no_folder_in_a_folder(parser: Parser, base: Path, case: str):
    include, lays = IN[case]
    laid(base, lays)
    here = dataclasses.replace(parser, base=base)
    for secret in ("secret", "deep/secret", "deep/last"):
        (base.parent / "out" / secret).write_text("no policy at all {{{")
    assert await here.compile(policy(include), "Enforce")


def test_an_abi_rule_is_an_include_too(base: Path):
    laid(base, [link("abi/mine", "OUT/secret")])
    for text in ("abi <abi/mine>,\n", "abi <abi/mine>\n,\n"):
        with pytest.raises(InputFault, match="abi/mine is"):
            refuse_includes(text + policy(""), base)


def test_a_base_that_is_itself_behind_a_link_is_a_base(base: Path):
    laid(base, [file("a"), link("b", "a"), link("c", "BASE/a"), link("x", "OUT/secret")])
    other = base.parent / "other"
    other.symlink_to(base)
    refuse_includes("include <a>\ninclude <b>\ninclude <c>", other)
    with pytest.raises(InputFault):
        refuse_includes("include <x>", other)


def test_what_can_not_be_read_is_left_to_the_parser(base: Path):
    laid(base, [link("a", "a"), link("b", "c"), link("c", "b"), file("d/e")])
    refuse_includes("include <a>\ninclude <b>\ninclude <d/e/f>\ninclude <not/there>", base)
    refuse_includes("include <x>", base / "no-such-folder")


DEBIAN = Path("/etc/apparmor.d")


@pytest.mark.skipif(not (DEBIAN / "abstractions").is_dir(), reason="this machine has no abstractions")
def test_all_that_a_distribution_ships_is_taken():
    shipped = [
        str(one.relative_to(DEBIAN))
        for folder in ("abstractions", "tunables", "abi")
        for one in (DEBIAN / folder).rglob("*")
    ]
    assert len(shipped) > 50
    for name in shipped:
        refuse_includes(f"include <{name}>", DEBIAN)


def test_a_fault_names_no_more_than_the_line_and_the_file(base: Path):
    laid(base, [link("x" * 200, "OUT/secret")])
    with pytest.raises(InputFault) as caught:
        refuse_includes(f"\n\ninclude <{'x' * 200}>", base)
    assert fault_message(caught.value) == (
        f"line 3: include <{'x' * 79} leaves the abstractions that Hauberk ships: {'x' * 80} is, or lies "
        "behind, a symbolic link that leads out of them; paste the rules"
    )
