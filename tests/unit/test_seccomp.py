"""Seccomp profiles: what runtimes would pass over is refused, with libseccomp's own list of system calls."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hauberk.cli.new import new
from hauberk.crds.errors import InputFault
from hauberk.crds.reasons import Reason
from hauberk.profiles.seccomp import NEWER, check_text, is_known

DENY: dict[str, Any] = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}],
}


def changed(**fields: Any) -> str:
    return json.dumps({**DENY, **fields})


def ruled(**fields: Any) -> str:
    return changed(syscalls=[{**DENY["syscalls"][0], **fields}])


@pytest.mark.parametrize(
    "text",
    [
        changed(),
        changed(defaultAction="SCMP_ACT_ERRNO", defaultErrnoRet=1, syscalls=None),
        changed(architectures=["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"], flags=["SECCOMP_FILTER_FLAG_LOG"]),
        ruled(args=[{"index": 5, "value": 2**64 - 1, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]),
        ruled(comment="why", args=[]),
        # of another machine, and newer than some libraries
        ruled(names=["socketcall", "arm_fadvise64_64", "mseal"]),
        yaml.safe_load(new("Seccomp", "x"))["spec"]["seccomp"]["policy"],
    ],
)
def test_what_passes(text: str):
    assert check_text(text).default_action


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # what a runtime would pass over
        (ruled(names=["mkdri"]), "there is no system call mkdri; runtimes pass over names"),
        (ruled(names=[f"x{i}" for i in range(7)]), "no system call x0, x1, x2, x3, x4 and 2 more"),
        (ruled(names=["mkdir\0"]), "there is no system call mkdir?"),
        (ruled(names=["mkdír"]), "there is no system call mkdír"),
        (ruled(names=[""]), "there is no system call "),
        (ruled(includes={"caps": ["CAP_SYS_ADMIN"]}), "syscalls[0].includes is of Docker's own format"),
        (ruled(excludes={"arches": ["s390"]}), "syscalls[0].excludes is of Docker's own format"),
        (changed(archMap=[]), "archMap is of Docker's own format"),
        (ruled(errno=1), "unknown field `errno` - at `$.syscalls[0]`"),
        (changed(DefaultAction="SCMP_ACT_ALLOW"), "unknown field `DefaultAction`"),
        (
            '{"defaultAction": "SCMP_ACT_ALLOW", "defaultAction": "SCMP_ACT_ERRNO"}',
            "stands twice in one object",
        ),
        # what has no meaning
        (changed(defaultAction="SCMP_ACT_NOTIFY"), "'SCMP_ACT_NOTIFY' - at `$.defaultAction`"),
        (changed(defaultAction=None), "`$.defaultAction`"),
        (json.dumps({"syscalls": []}), "missing required field `defaultAction`"),
        (changed(architectures=["x86_64"]), "'x86_64' - at `$.architectures[0]`"),
        (changed(flags=["X"]), "`$.flags[0]`"),
        (changed(syscalls=5), "`$.syscalls`"),
        (changed(syscalls=[5]), "`$.syscalls[0]`"),
        (ruled(errnoRet=1 << 16), "`$.syscalls[0].errnoRet`"),
        (ruled(args=[{"index": 1.0, "value": 0, "op": "SCMP_CMP_EQ"}]), "`$.syscalls[0].args[0].index`"),
        (ruled(names=[]), "`$.syscalls[0].names`"),
        (ruled(action="ALLOW"), "`$.syscalls[0].action`"),
        (ruled(args=[{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]), "`$.syscalls[0].args[0].index`"),
        (ruled(args=[{"index": 0, "value": 2**64, "op": "SCMP_CMP_EQ"}]), "more than 64 bits hold"),
        (ruled(args=[{"index": 0, "value": -1, "op": "SCMP_CMP_EQ"}]), "`$.syscalls[0].args[0].value`"),
        (ruled(args=[{"index": 0, "value": 0.5, "op": "SCMP_CMP_EQ"}]), "`$.syscalls[0].args[0].value`"),
        (
            ruled(action="SCMP_ACT_KILL", errnoRet=1),
            "syscalls[0].errnoRet is for SCMP_ACT_ERRNO and SCMP_ACT_TRACE",
        ),
        (changed(defaultErrnoRet=1), "defaultErrnoRet is for SCMP_ACT_ERRNO"),
        # what reaches out to the node
        (changed(listenerPath="/run/x.sock"), "listenerPath hands system calls to a program of the node"),
        # no profile
        ("[]", "Expected `object`, got `array`"),
        ("profile x {\n}\n", "no JSON: line 1: "),
        ('{\n"defaultAction": }', "no JSON: line 2: "),
        ('{"defaultAction": NaN}', "no JSON: NaN"),
        ('{"defaultAction": ' + "1" * 5000 + "}", "a number in it has too many digits"),
        (changed(defaultAction=float("inf")), "no JSON: Infinity"),
        ('{"defaultAction": 1e999}', "`$.defaultAction`"),
        ('{"defaultAction": "\\ud800"}', "half of a character"),
        (ruled(names=["\ud800"]), "there is no system call ?"),
        ("[" * 100_000, "lists within lists, too deep"),
        ("", "no JSON: line 1: "),
    ],
)
def test_what_is_refused(text: str, expected: str):
    with pytest.raises(InputFault) as caught:
        check_text(text)
    assert caught.value.reason is Reason.POLICY_REFUSED
    assert caught.value.message.startswith("the seccomp profile is refused: ")
    assert expected in caught.value.message
    assert caught.value.message.isprintable()


def test_what_filters_nothing_is_refused():
    for text in ('{"defaultAction": "SCMP_ACT_ALLOW"}', ruled(action="SCMP_ACT_ALLOW", errnoRet=None)):
        with pytest.raises(InputFault) as caught:
            check_text(text)
        assert caught.value.reason is Reason.POLICY_EMPTY


def test_newer_system_calls_are_known_whatever_the_library_is():
    assert all(is_known(name) for name in NEWER)
    assert is_known("openat2")
    assert not is_known("openat3")
