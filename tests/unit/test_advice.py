"""Advice: what it is given on, and that the library needs none."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hauberk.profiles import compiled
from hauberk.profiles.advice import Looked, advice
from hauberk.profiles.check import described
from hauberk.profiles.includes import with_included
from hauberk.profiles.kinds import COMMON
from hauberk.profiles.parser import Parser

KINDS = {described(one): one for one in COMMON}
GOOD = "signal (receive) peer=runc,"
LIBRARY = {
    file.stem: spec["appArmor"]
    for file in sorted((Path(__file__).parents[2] / "profiles" / "library").glob("*.yaml"))
    if (spec := yaml.safe_load(file.read_text())["spec"])["type"] == "AppArmor"
}


async def given_on(parser: Parser, policy: str, mode: str = "Enforce") -> list[str]:
    defined = compiled.read(await parser.compile(policy, mode))
    return advice(Looked(policy, with_included(policy, parser.base), defined, mode), KINDS)


@pytest.mark.parametrize(
    "rule",
    [
        GOOD,
        "signal,",
        "signal receive,",
        "signal (send, receive) peer=runc,",
        "signal (receive) set=(term, kill) peer=runc,",
        "signal peer=*,",
        "audit signal (receive) peer={runc,crun},",
        "file, signal (receive) peer=runc,",
    ],
)
async def test_a_runtime_that_may_stop_pods(parser: Parser, rule: str):
    assert await given_on(parser, f"profile a flags=(attach_disconnected) {{ {rule} }}") == []


@pytest.mark.parametrize(
    "rule",
    [
        "file,",
        "signal (send) peer=runc,",
        "signal (receive) peer=unconfined,",
        "deny signal (receive) peer=runc,",
        "signal (receive) set=(exists, hup) peer=runc,",
        "# signal (receive) peer=runc,\n",
        "include <abstractions/base>",
        "/signal/x r,",
    ],
)
async def test_a_runtime_that_may_not(parser: Parser, rule: str):
    policy = f"include <tunables/global>\nprofile a flags=(attach_disconnected) {{\n{rule}\n}}\n"
    (said,) = await given_on(parser, policy)
    assert "stop a pod" in said


async def test_files_from_outside(parser: Parser):
    said = await given_on(parser, f"profile a {{ {GOOD} profile c {{ file, }} }} profile b {{ file, }}")
    assert [one.partition(" lacks")[0] for one in said] == ["profile a", "profile b"]


async def test_complain_is_named(parser: Parser):
    (said,) = await given_on(parser, f"profile a flags=(attach_disconnected) {{ {GOOD} }}", "Complain")
    assert "only logs" in said


async def test_rules_that_some_kernels_do_not_know(parser: Parser):
    (said,) = await given_on(parser, f"profile a flags=(attach_disconnected) {{ {GOOD}\n deny dbus,\n }}")
    assert said.startswith(
        "rules on dbus mean nothing to the kernel of debian 12 (kernel 6.1, x86_64), debian 13"
    )
    assert "ubuntu" not in said


@pytest.mark.parametrize("rule", ["unix,", "dbus,", "allow unix,", "include <abstractions/base>"])
async def test_what_such_a_kernel_allows_anyway_needs_no_advice(parser: Parser, rule: str):
    policy = f"include <tunables/global>\nprofile a flags=(attach_disconnected) {{ {GOOD}\n {rule}\n }}"
    assert await given_on(parser, policy) == []


@pytest.mark.parametrize("name", LIBRARY)
async def test_the_library_lets_pods_be_stopped(parser: Parser, name: str):
    spec = LIBRARY[name]
    said = await given_on(parser, spec["policy"], spec.get("mode", "Enforce"))
    assert not [one for one in said if "stop a pod" in one or "attach_disconnected" in one]


HOSTILE = {
    "lines with nothing": "\n" * 60_000,
    "lines with comments": "#\n" * 60_000,
    "words that may stand before a rule": "\naudit" * 20_000,
    "brackets without end": "\nunix (" * 18_000,
    "a rule that never ends": "signal" + " (send)" * 18_000,
    "sets without end": "signal set" + " " * 100_000 + "set" * 9_000,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.timeout(30)  # the first two took minutes
def test_a_hostile_text_is_looked_at_in_little_time(text: str):
    policy = f"profile x {{\n{text}\n}}\n"
    assert advice(Looked(policy, policy, [], "Complain"), KINDS)
