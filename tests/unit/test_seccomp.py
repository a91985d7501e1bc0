"""Seccomp profiles: what runtimes would pass over is refused, with libseccomp's own list of system calls."""

from __future__ import annotations

import ctypes
import json
from sys import byteorder
from tempfile import TemporaryFile
from typing import Any, get_args

import pytest
import yaml
from hauberk.cli.new import new
from hauberk.crds.errors import InputFault
from hauberk.crds.reasons import Reason
from hauberk.profiles.seccomp import NEWER, Architecture, check_text, is_known

DENY: dict[str, Any] = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}],
}


def changed(**fields: Any) -> str:
    return json.dumps({**DENY, **fields})


def ruled(**fields: Any) -> str:
    return changed(syscalls=[{**DENY["syscalls"][0], **fields}])


def compared(index: int, how: str, value: int, **fields: int) -> dict[str, Any]:
    return {"index": index, "op": f"SCMP_CMP_{how}", "value": value, **fields}


def two(*rules: dict[str, Any]) -> str:
    """Return a profile with rules for one call, which fail with EPERM where they do not say otherwise."""
    return changed(syscalls=[{"names": ["read"], "action": "SCMP_ACT_ERRNO", **one} for one in rules])


@pytest.mark.parametrize(
    "text",
    [
        changed(),
        changed(defaultAction="SCMP_ACT_ERRNO", defaultErrnoRet=1, syscalls=None),
        changed(architectures=["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"], flags=["SECCOMP_FILTER_FLAG_LOG"]),
        ruled(args=[{"index": 5, "value": 2**64 - 1, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]),
        ruled(args=[{"index": 5, "value": 0xF0, "valueTwo": 0x30, "op": "SCMP_CMP_MASKED_EQ"}]),
        ruled(args=[compared(0, "GE", 5), compared(1, "LE", 9)]),
        # what runtimes leave out, and what it says holds all the same
        changed(syscalls=[*DENY["syscalls"], {"names": ["read"], "action": "SCMP_ACT_ALLOW"}]),
        # either of two rules is enough
        two({}, {"args": [compared(0, "EQ", 5)]}),
        two({"args": [compared(0, "EQ", 5)]}, {"action": "SCMP_ACT_KILL", "args": [compared(0, "EQ", 6)]}),
        two({"action": "SCMP_ACT_KILL"}, {"action": "SCMP_ACT_KILL_THREAD"}),
        two({}, {"errnoRet": 1}),
        changed(architectures=["SCMP_ARCH_S390X", "SCMP_ARCH_S390", "SCMP_ARCH_PPC64"]),
        ruled(action="SCMP_ACT_TRACE", errnoRet=65535),
        ruled(comment="why", args=[]),
        # of another machine, and newer than some libraries
        ruled(names=["socketcall", "arm_fadvise64_64", "mseal", "riscv_hwprobe"]),
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
        (ruled(errnoRet=4096), "syscalls[0].errnoRet is 4096; a kernel answers with 4095 at most"),
        (changed(flags=["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]), "`$.flags[0]`"),
        # what a runtime would read otherwise
        (
            ruled(args=[compared(0, "GE", 5), compared(0, "LE", 9)]),
            "syscalls[0].args compares the argument 0 twice",
        ),
        (
            ruled(args=[compared(0, "EQ", 5, valueTwo=3)]),
            "syscalls[0].args[0].valueTwo is for SCMP_CMP_MASKED_EQ",
        ),
        (ruled(args=[compared(0, "MASKED_EQ", 0xF0, valueTwo=0x0F)]), "args[0].valueTwo has bits that value"),
        (
            two({}, {"action": "SCMP_ACT_KILL"}),
            "read stands under two actions, and one of the rules has no args",
        ),
        (
            two({}, {"action": "SCMP_ACT_KILL", "args": [compared(0, "EQ", 5)]}),
            "read stands under two actions, and one of the rules has no args",
        ),
        (
            two(
                {"args": [compared(0, "EQ", 5)]},
                {"action": "SCMP_ACT_KILL", "args": [compared(1, "EQ", 5), compared(0, "EQ", 5)]},
            ),
            "or only the first ones of the other; runtimes pass over one",
        ),
        (two({}, {"errnoRet": 2}), "read stands under two actions, and one of the rules has no args"),
        (
            two(
                {"args": [compared(0, "EQ", 5)]}, {"action": "SCMP_ACT_ALLOW", "args": [compared(1, "EQ", 5)]}
            ),
            "read stands under two actions, and runtimes leave out the rule of the default's",
        ),
        (
            changed(architectures=["SCMP_ARCH_X86_64", "SCMP_ARCH_S390X"]),
            "SCMP_ARCH_S390X and SCMP_ARCH_X86_64 have other orders of bytes",
        ),
        (ruled(errnoRet=0).replace('"errnoRet": 0', '"errnoRet": -0'), "-0 is no number to runtimes"),
        (ruled(comment="\ud800"), "half of a character"),
        ('\ufeff{"defaultAction": "SCMP_ACT_ERRNO"}', "a byte order mark stands before it"),
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
        (ruled(names=["\ud800"]), "half of a character"),
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


# --- libseccomp's word ------------------------------------------------------------------------------

ALLOW, ERRNO, KILL = 0x7FFF0000, 0x00050001, 0x80000000
GE, EQ, MASKED_EQ, LE = 5, 4, 7, 3
EINVAL, EDOM, EEXIST = 22, 33, 17


class Comparison(ctypes.Structure):
    """libseccomp's struct scmp_arg_cmp."""

    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    )


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    found = ctypes.CDLL("libseccomp.so.2")
    found.seccomp_init.restype = ctypes.c_void_p
    found.seccomp_init.argtypes = [ctypes.c_uint32]
    found.seccomp_arch_add.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
    found.seccomp_arch_resolve_name.restype = ctypes.c_uint32
    found.seccomp_export_pfc.argtypes = [ctypes.c_void_p, ctypes.c_int]
    found.seccomp_rule_add_array.argtypes = [
        *(ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint),
        ctypes.POINTER(Comparison),
    ]
    return found


def added(library: ctypes.CDLL, *rules: tuple[int, list[tuple[int, int, int, int]]]) -> tuple[list[int], str]:
    """Return how libseccomp takes rules for `read`, one after the other, and what it makes of all of them."""
    context = library.seccomp_init(KILL)
    call = library.seccomp_syscall_resolve_name(b"read")
    codes: list[int] = []
    for action, comparisons in rules:
        array = (Comparison * max(1, len(comparisons)))(*(Comparison(*one) for one in comparisons))
        codes.append(library.seccomp_rule_add_array(context, action, call, len(comparisons), array))
    with TemporaryFile() as file:
        library.seccomp_export_pfc(context, file.fileno())
        file.seek(0)
        return codes, file.read().decode()


def test_one_argument_twice_is_no_rule_to_libseccomp(library: ctypes.CDLL):
    """Why runtimes make two rules of it, either of which is enough."""
    assert added(library, (ALLOW, [(0, GE, 5, 0), (0, LE, 9, 0)]))[0] == [-EINVAL]


def test_libseccomp_takes_no_second_action_for_the_same_arguments(library: ctypes.CDLL):
    assert added(library, (ALLOW, [(0, EQ, 5, 0)]), (ERRNO, [(0, EQ, 5, 0)]))[0] == [0, -EEXIST]


def test_libseccomp_passes_over_what_is_outside_of_a_mask(library: ctypes.CDLL):
    codes, made = added(library, (ALLOW, [(0, MASKED_EQ, 0xF0, 0x0F)]))
    assert codes == [0]
    assert "$a0.lo32 & 0x000000f0 == 0)" in made


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("wide", [[], [(0, EQ, 5, 0)]])
def test_a_rule_with_fewer_arguments_takes_the_place_of_another_or_has_none(
    library: ctypes.CDLL, wide: list[tuple[int, int, int, int]], turned: bool
):
    rules = [(ALLOW, wide), (ERRNO, [*wide, (1, EQ, 38, 0)])]
    made = added(library, *(reversed(rules) if turned else rules))[1]
    assert ("ALLOW" in made) is not ("ERRNO" in made)


def test_libseccomp_has_one_order_of_bytes_in_a_filter(library: ctypes.CDLL):
    """For each kind of machine that it knows: together with another or not, as the judge has it."""
    tokens = {
        one: library.seccomp_arch_resolve_name(one.removeprefix("SCMP_ARCH_").lower().encode())
        for one in get_args(Architecture)
    }
    known = {one: token for one, token in tokens.items() if token}
    assert len(known) > 10
    context = library.seccomp_init(KILL)  # of this machine's order
    for one, token in known.items():
        code = library.seccomp_arch_add(context, token)
        together = changed(
            architectures=[one, "SCMP_ARCH_X86_64" if byteorder == "little" else "SCMP_ARCH_S390X"]
        )
        if code == -EDOM:
            with pytest.raises(InputFault, match="have other orders of bytes"):
                check_text(together)
        else:
            assert code in (0, -EEXIST)
            assert check_text(together)
