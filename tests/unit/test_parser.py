"""The parser's runner: verdicts and words of the real one; limits, with programs that break them."""

from __future__ import annotations

import asyncio
import os
import select
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hauberk.crds.errors import Fault, InputFault, NodeFault
from hauberk.crds.reasons import Reason
from hauberk.profiles.parser import Parser, fault_message, plain, words
from hauberk.profiles.sandbox import Limits
from hypothesis import given
from hypothesis import strategies as st


def program(folder: Path, body: str) -> str:
    """Return an executable shell script that stands for a parser which met a hostile text."""
    file = folder / "parser"
    file.write_text(f"#!/bin/sh\n{body}\n")
    file.chmod(0o755)
    return str(file)


@pytest.fixture
def lives(tmp_path: Path) -> Iterator[int]:
    """A pipe that every process of a run holds open by SPAWN: it ends when the last of them is gone."""
    os.mkfifo(tmp_path / "lives")
    end = os.open(tmp_path / "lives", os.O_RDONLY | os.O_NONBLOCK)
    yield end
    os.close(end)


def all_gone(lives: int) -> bool:
    """Return whether each process that holds the pipe ends (SIGKILL takes a moment); one held it."""
    held = os.read(lives, 100)
    readable, _, _ = select.select([lives], [], [], 10)
    return held == b"held\n" and bool(readable) and os.read(lives, 100) == b""


# --- the real one -------------------------------------------------------------------------------------------


async def test_it_tells_its_version(parser: Parser):
    major, minor, *_ = (await parser.version()).split(".")
    assert (int(major), int(minor)) >= (3, 0)


async def test_it_names_what_a_text_defines(parser: Parser):
    assert sorted(await parser.names('profile "a b" { ^h { } }\nprofile c { }\n')) == ["a b", "a b//h", "c"]


async def test_a_text_compiles_to_the_same_bytes_each_time(parser: Parser):
    text = "include <tunables/global>\nprofile a { include <abstractions/base>\n file, }"
    assert await parser.compile(text, "Enforce") == await parser.compile(text, "Enforce")


async def test_a_flattened_text_needs_no_includes_and_means_the_same(parser: Parser, tmp_path: Path):
    text = "include <tunables/global>\nprofile a { include <abstractions/base>\n deny @{PROC}/kcore r, }\n"
    flat = await parser.flatten(text)
    # what stays is the name of the ABI that the abstractions were written for
    (tmp_path / "abi").symlink_to(parser.base / "abi")
    bare = Parser(base=tmp_path, features=parser.features)
    assert await bare.compile(flat, "Enforce") == await parser.compile(text, "Enforce")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("profile a {\n\n capability flying,\n}\n", "line 3: Invalid capability flying."),
        ("profile a {\n file\n}\n", "line 3: syntax error, unexpected TOK_CLOSE"),
        ("profile a {\n @{NOPE}/x r,\n}\n", "Found reference to variable NOPE, but is never declared"),
        ("profile a {\n /x ix,\n /x px,\n}\n", "profile a: has merged rule /x with conflicting x modifiers"),
        ("profile a {\n include <abstractions/none>\n}\n", "line 2: Could not open 'abstractions/none'"),
        ("profile a {\n /x[ r,\n}\n", "Unclosed grouping or character class"),
        (
            "profile a {\n /usr/bin/id ix,\n /usr/bin/id px,\n}\n",
            "has merged rule /usr/bin/id with conflicting",
        ),
        ("profile a {\n capability \x1b[31mred,\n}\n", "line 2: Lexer found unexpected character: '?'"),
    ],
)
async def test_a_refusal_has_the_parsers_words(parser: Parser, text: str, said: str):
    with pytest.raises(InputFault) as caught:
        await parser.compile(text, "Enforce")
    assert caught.value.reason is Reason.POLICY_REFUSED
    message = fault_message(caught.value)
    assert said in message
    assert message.isprintable()
    assert "/etc/apparmor" not in message
    assert "stdin" not in message


async def test_a_refusal_of_much_is_told_in_one_kibibyte(parser: Parser):
    text = "profile a {\n" + "".join(f" /{'x' * 60}{n} ix,\n /{'x' * 60}{n} px,\n" for n in range(40)) + "}\n"
    with pytest.raises(InputFault) as caught:
        await parser.compile(text, "Enforce")
    assert len(caught.value.message.encode()) <= 1024


# --- what decides what a text compiles to -------------------------------------------------------------------


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Return a base folder with some files."""
    for name, text in (("abi/3.0", "query"), ("tunables/global", "@{X}=/x\n"), ("empty", "")):
        file = tmp_path / "base" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (tmp_path / "base/link").symlink_to("tunables/global")
    (tmp_path / "base/folder").mkdir()
    return tmp_path / "base"


async def test_a_fingerprint_does_not_change_by_itself(base: Path, tmp_path: Path):
    before = await Parser(base=base).fingerprint()
    assert await Parser(base=base).fingerprint() == before
    for folder, _, files in os.walk(base):
        for file in files:
            os.utime(f"{folder}/{file}", (0, 0))
    (base / "another folder").mkdir()
    copy = shutil.copytree(base, tmp_path / "elsewhere", symlinks=True)
    assert await Parser(base=base).fingerprint() == await Parser(base=copy).fingerprint() == before


@pytest.mark.parametrize(
    "change",
    [
        "echo >> tunables/global",
        ": > abi/3.0",
        "rm empty",
        "touch new",
        "touch folder/new",
        "mv empty renamed",
        "mv empty folder/empty",
        "rm link",
        "echo x > .hidden",
        "printf '\\377' > empty",
        "mv tunables/global x; mv empty tunables/global; mv x empty",
        r"printf 'query\0empty\0' > abi/3.0; rm empty",
    ],
)
async def test_a_fingerprint_changes_with_any_file_of_the_base(base: Path, change: str):
    before = await Parser(base=base).fingerprint()
    process = await asyncio.create_subprocess_shell(change, cwd=base)
    assert await process.wait() == 0
    assert await Parser(base=base).fingerprint() != before


async def test_a_fingerprint_changes_with_the_parser_and_its_features(base: Path, tmp_path: Path):
    features = tmp_path / "features"
    features.write_text("caps {mask {kill\n}\n}\n")
    found = [
        await Parser(base=base).fingerprint(),
        await Parser(base=base, features=features).fingerprint(),
        await Parser(base=base, program=program(tmp_path, "echo version 9.9")).fingerprint(),
    ]
    features.write_text("caps {mask {chown\n}\n}\n")
    found.append(await Parser(base=base, features=features).fingerprint())
    assert len(set(found)) == len(found)


async def test_a_parser_that_does_not_start_has_no_fingerprint(base: Path):
    with pytest.raises(NodeFault, match="can't be started"):
        await Parser(base=base, program="/nonexistent/parser").fingerprint()


# --- programs that are not as they should be ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["/nonexistent/parser", "/etc/hostname"])
async def test_a_program_that_does_not_start_is_the_nodes_fault(name: str):
    with pytest.raises(NodeFault, match="can't be started"):
        await Parser(program=name).compile("profile a { }", "Enforce")


@pytest.mark.parametrize("body", ["exit 0", "echo some other thing", "echo version 3.0; exit 1"])
async def test_a_program_without_a_version_is_no_parser(tmp_path: Path, body: str):
    with pytest.raises(NodeFault, match="does not tell its version"):
        await Parser(program=program(tmp_path, body)).version()


@pytest.mark.parametrize(
    ("body", "kind", "reason"),
    [
        ("exit 1", InputFault, Reason.POLICY_REFUSED),
        ("exit 2", NodeFault, Reason.LOAD_FAILED),  # no such file: the installation, not the text
        ("kill -KILL $$", NodeFault, Reason.LOAD_FAILED),  # the kernel's OOM killer
        ("echo 'std::bad_alloc' >&2; kill -ABRT $$", InputFault, Reason.POLICY_TOO_SLOW),
    ],
)
async def test_how_it_ended_says_who_is_at_fault(
    tmp_path: Path, body: str, kind: type[Fault], reason: Reason
):
    with pytest.raises(kind) as caught:
        await Parser(program=program(tmp_path, body)).compile("profile a { }", "Enforce")
    assert caught.value.reason is reason


async def test_a_program_that_does_not_read_its_input_is_no_trouble(tmp_path: Path):
    run = Parser(program=program(tmp_path, "exec 0<&-; echo done"))
    assert await run.compile("x" * 1_000_000, "Enforce") == b"done\n"


# --- limits -------------------------------------------------------------------------------------------------

SPAWN = "exec 9> {folder}/lives; echo held >&9; (sleep 1000 & sleep 1000) <&- >&- 2>&- & "


@pytest.mark.parametrize(
    ("body", "limits", "said"),
    [
        ("sleep 1000", Limits(seconds=0.3), "took over 0.3 seconds"),
        ("trap '' TERM INT HUP; while :; do sleep 1000; done", Limits(seconds=0.3), "took over 0.3 seconds"),
        ("yes", Limits(output=1 << 20), "over 1 MiB of output"),
        ("yes >&2", Limits(output=1 << 20), "over 1 MiB of output"),
        ("exec 1>&- 2>&-; sleep 1000", Limits(seconds=0.3), "took over 0.3 seconds"),
        ("while :; do :; done", Limits(seconds=10, cpu_seconds=1), "over 1 CPU seconds"),
    ],
    ids=["sleeps", "ignores signals", "prints", "complains", "closes its output", "spins"],
)
async def test_a_limit_ends_the_whole_group(tmp_path: Path, lives: int, body: str, limits: Limits, said: str):
    run = Parser(program=program(tmp_path, SPAWN.format(folder=tmp_path) + body), limits=limits)
    began = time.monotonic()
    with pytest.raises(InputFault) as caught:
        await run.compile("profile a { }", "Enforce")
    assert time.monotonic() - began < 8
    assert caught.value.reason is Reason.POLICY_TOO_SLOW
    assert said in caught.value.message
    assert all_gone(lives)


async def test_children_do_not_outlive_a_run_that_ended_well(tmp_path: Path, lives: int):
    body = SPAWN.format(folder=tmp_path) + "echo fine"
    assert await Parser(program=program(tmp_path, body)).compile("x", "Enforce") == b"fine\n"
    assert all_gone(lives)


async def test_a_run_that_is_cancelled_leaves_nothing(tmp_path: Path, lives: int):
    os.mkfifo(tmp_path / "started")
    body = SPAWN.format(folder=tmp_path) + f"read line; echo > {tmp_path / 'started'}; sleep 1000"
    task = asyncio.create_task(Parser(program=program(tmp_path, body)).compile("x\n", "Enforce"))
    await asyncio.to_thread((tmp_path / "started").read_text)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert all_gone(lives)


def test_a_survivor_would_be_noticed(tmp_path: Path, lives: int):
    with (tmp_path / "lives").open("w") as held:
        held.write("held\n")
        held.flush()
        assert os.read(lives, 100) == b"held\n"
        assert select.select([lives], [], [], 0) == ([], [], [])


# The deterministic automaton for "an a, twenty-five letters before the end" has 2 to the 25th states.
ENDLESS = "profile a {\n /**a" + "?" * 25 + " rw,\n}\n"


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (Limits(seconds=0.5, memory=1 << 30), "took over 0.5 seconds to compile"),
        (Limits(cpu_seconds=1, memory=1 << 30), "took over 1 CPU seconds to compile"),
        (Limits(memory=48 << 20), "took over 48 MiB to compile"),
    ],
    ids=["time", "CPU", "memory"],
)
async def test_a_text_that_never_stops_compiling_is_stopped(parser: Parser, limits: Limits, said: str):
    hurried = Parser(features=parser.features, limits=limits)
    with pytest.raises(InputFault) as caught:
        await hurried.compile(ENDLESS, "Enforce")
    assert caught.value.reason is Reason.POLICY_TOO_SLOW
    assert said in caught.value.message


async def test_no_core_is_dumped_and_limits_hold_in_children(tmp_path: Path):
    shown = await Parser(
        program=program(tmp_path, "sleep 0.1; sh -c 'ulimit -c; ulimit -t; ulimit -v'")
    ).compile("x", "Enforce")
    core, cpu, memory = shown.decode().split()
    assert (core, int(cpu), int(memory)) == ("0", 15, Limits().memory >> 10)


async def test_the_environment_is_not_handed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KUBERNETES_TOKEN", "secret")
    shown = await Parser(program=program(tmp_path, "env")).compile("x", "Enforce")
    assert b"secret" not in shown
    assert b"LC_ALL=C\n" in shown


# --- words --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stderr", "said"),
    [
        ("", ""),
        ("Cache read/write disabled: interface file missing.\n", ""),
        ("Warning from stdin (line 1): apparmor_parser: deprecated use of '#include'\n", ""),
        ("AppArmor parser error at line 4: syntax error\n", "line 4: syntax error"),
        ("AppArmor parser error for stdin in profile /etc/x at line 4: bad\n", "line 4: bad"),
        (
            "AppArmor parser error for stdin in abstractions/base at line 7: bad\n",
            "abstractions/base, line 7: bad",
        ),
        ("AppArmor parser error in profile x at line 2: a\nERROR b\n", "line 2: a; ERROR b"),
        ("Could not open '/var/run/secrets/token'\n", "Could not open 'token'"),
        ("a\x1b[31mb\x00c\u202ed\n", "a?[31mb?c?d"),
    ],
)
def test_words(stderr: str, said: str):
    assert words(stderr) == said


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=3000))
def test_a_message_is_always_fit_to_be_shown(text: str):
    message = plain(text)
    assert len(message.encode()) <= 1024
    assert not any(ord(one) < 32 or 0x7F <= ord(one) < 0xA0 or one in "\u2028\u2029\u202e" for one in message)
    assert words(text) == plain(words(text))


def test_a_message_of_bytes_that_are_no_text_is_fit_to_be_shown():
    assert plain("name \udcff") == "name ?"
