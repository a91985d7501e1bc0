"""Decides whether a seccomp profile may go to nodes: the JSON that a container runtime reads.

Called by `check`. The form is `linux.seccomp` of the OCI runtime specification (config-linux.md, seccomp).
Runtimes pass over what they do not know, fields and names of system calls alike, and would then filter
something else than its author wrote: here whatever they would pass over is refused. So is what runc, crun and
libseccomp under them read otherwise (libcontainer/seccomp/seccomp_linux.go; src/libcrun/seccomp.c). A rule
with the default's action they leave out: that passes where no other rule is about the call.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import json
from typing import Annotated, Any, Literal

import msgspec

from ..crds.errors import InputFault, NodeFault
from ..crds.reasons import Reason
from .parser import plain

Action = Literal[
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_TRAP",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_LOG",
]
Architecture = Literal[
    "SCMP_ARCH_X86",
    "SCMP_ARCH_X86_64",
    "SCMP_ARCH_X32",
    "SCMP_ARCH_ARM",
    "SCMP_ARCH_AARCH64",
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_LOONGARCH64",
]
Flag = Literal[
    "SECCOMP_FILTER_FLAG_TSYNC",
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
]  # what runc 1.1 knows; it refuses others
Comparison = Literal[
    "SCMP_CMP_NE",
    "SCMP_CMP_LT",
    "SCMP_CMP_LE",
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_MASKED_EQ",
]
# SECCOMP_RET_DATA of linux/seccomp.h
Unsigned16 = Annotated[int, msgspec.Meta(ge=0, le=(1 << 16) - 1)]
Unsigned64 = Annotated[int, msgspec.Meta(ge=0)]  # msgspec's own bounds end at 2**63; see _object

# Of Linux 6.4 to 6.17: newer than the libseccomp of distributions that are in use (2.5.4, 2.6.0).
NEWER = frozenset(
    {
        "riscv_hwprobe",
        *("statmount", "listmount", "lsm_get_self_attr", "lsm_set_self_attr", "lsm_list_modules", "mseal"),
        *("uretprobe", "setxattrat", "getxattrat", "listxattrat", "removexattrat", "open_tree_attr"),
        *("file_getattr", "file_setattr"),
    }
)
_ANSWERS = ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")
# What runtimes answer with where no number is given: EPERM; and the kernel's MAX_ERRNO, which it puts in the
# place of more.
_ERRNO, _MAX_ERRNO = 1, 4095
_BIG_ENDIAN = frozenset(
    {
        *("SCMP_ARCH_MIPS", "SCMP_ARCH_MIPS64", "SCMP_ARCH_MIPS64N32", "SCMP_ARCH_PPC", "SCMP_ARCH_PPC64"),
        *("SCMP_ARCH_S390", "SCMP_ARCH_S390X"),
    }
)
# libseccomp's __NR_SCMP_ERROR; other negative numbers are calls that this machine's kind does not have.
_UNKNOWN = -1
_NAMED = 5


class Argument(msgspec.Struct, forbid_unknown_fields=True, rename="camel", frozen=True):
    """What an argument of a system call is compared with."""

    index: Annotated[int, msgspec.Meta(ge=0, le=5)]
    value: Unsigned64
    op: Comparison
    value_two: Unsigned64 = 0


class Rule(msgspec.Struct, forbid_unknown_fields=True, rename="camel", frozen=True):
    """What becomes of some system calls."""

    names: Annotated[list[str], msgspec.Meta(min_length=1)]
    action: Action
    errno_ret: Unsigned16 | None = None
    args: list[Argument] | None = None
    comment: str | None = None


class Filter(msgspec.Struct, forbid_unknown_fields=True, rename="camel", frozen=True):
    """A whole profile."""

    default_action: Action
    default_errno_ret: Unsigned16 | None = None
    architectures: list[Architecture] | None = None
    flags: list[Flag] | None = None
    syscalls: list[Rule] | None = None


def check_text(policy: str) -> Filter:
    """Return a profile as it will be read.

    Raises:
        InputFault: it is refused; the message says where.
        NodeFault: there is no libseccomp here.
    """
    read = _read(policy)
    rules = read.syscalls or []
    _refuse_answer("defaultErrnoRet", read.default_action, read.default_errno_ret)
    _refuse_architectures(read.architectures or [])
    for at, rule in enumerate(rules):
        _refuse_answer(f"syscalls[{at}].errnoRet", rule.action, rule.errno_ret)
        _refuse_arguments(f"syscalls[{at}].args", rule.args or [])
    _refuse_contradictions(read.default_action, read.default_errno_ret, rules)
    unknown = sorted({name for rule in rules for name in rule.names if not is_known(name)})
    if unknown:
        more = f" and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else ""
        raise _refused(
            f"there is no system call {', '.join(unknown[:_NAMED])}{more}; runtimes pass over "
            "names that they do not know"
        )
    if read.default_action == "SCMP_ACT_ALLOW" and all(one.action == "SCMP_ACT_ALLOW" for one in rules):
        raise InputFault(
            Reason.POLICY_EMPTY, "the policy filters nothing: its defaultAction and all its rules allow"
        )
    return read


def _refuse_answer(where: str, action: Action, errno: int | None) -> None:
    if errno is None:
        return
    if action not in _ANSWERS:
        raise _refused(f"{where} is for {' and '.join(_ANSWERS)}, not for {action}")
    if action == "SCMP_ACT_ERRNO" and errno > _MAX_ERRNO:
        raise _refused(f"{where} is {errno}; a kernel answers with {_MAX_ERRNO} at most")


def _refuse_architectures(architectures: list[Architecture]) -> None:
    big = [one for one in architectures if one in _BIG_ENDIAN]
    little = [one for one in architectures if one not in _BIG_ENDIAN]
    if big and little:
        raise _refused(
            f"{big[0]} and {little[0]} have other orders of bytes, and no filter holds both; write two "
            "profiles, each for its nodes"
        )


def _refuse_arguments(where: str, arguments: list[Argument]) -> None:
    seen: set[int] = set()
    for at, one in enumerate(arguments):
        if one.index in seen:
            raise _refused(
                f"{where} compares the argument {one.index} twice, and runtimes would take either for "
                "enough; write one rule for each if that is meant"
            )
        seen.add(one.index)
        if one.op != "SCMP_CMP_MASKED_EQ" and one.value_two:
            raise _refused(
                f"{where}[{at}].valueTwo is for SCMP_CMP_MASKED_EQ; {one.op} would be done without it"
            )
        if one.op == "SCMP_CMP_MASKED_EQ" and one.value_two & ~one.value:
            raise _refused(
                f"{where}[{at}].valueTwo has bits that value, its mask, has not; they would be passed over"
            )


def _refuse_contradictions(default: Action, default_errno: int | None, rules: list[Rule]) -> None:
    """Refuse calls under two actions where a runtime would go by one of them whatever the other says."""
    actions: dict[str, dict[tuple[str, int], set[tuple[Argument, ...]]]] = {}
    for rule in rules:
        done = _done(rule.action, rule.errno_ret)
        arguments = tuple(sorted(rule.args or [], key=lambda one: one.index))  # libseccomp's own order
        for name in rule.names:
            actions.setdefault(name, {}).setdefault(done, set()).add(arguments)
    usual = _done(default, default_errno)
    for name, of_name in actions.items():
        if len(of_name) > 1 and usual in of_name:
            raise _refused(
                f"{name} stands under two actions, and runtimes leave out the rule of the default's"
            )
        for one, other in itertools.permutations(of_name.values(), 2):
            # what begins as another rule does, and says no more, has no place in its branch of the filter
            if any(rule[:length] in one for rule in other for length in range(len(rule) + 1)):
                raise _refused(
                    f"{name} stands under two actions, and one of the rules has no args, or only the first "
                    "ones of the other; runtimes pass over one of the two, or refuse them"
                )


def _done(action: Action, errno: int | None) -> tuple[str, int]:
    """Return what a runtime makes of an action: two that are the same are one rule to it."""
    if action in _ANSWERS:
        return action, _ERRNO if errno is None else errno
    return action.replace("SCMP_ACT_KILL_THREAD", "SCMP_ACT_KILL"), 0


def _read(policy: str) -> Filter:
    if policy.startswith("\ufeff"):
        raise _refused("a byte order mark stands before it; save it without one")
    try:
        body = json.loads(policy, object_pairs_hook=_object, parse_constant=_constant, parse_int=_integer)
        json.dumps(body, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise _refused(f"no JSON: line {error.lineno}: {error.msg}") from error
    except UnicodeEncodeError as error:
        raise _refused("half of a character (a surrogate) stands in it") from error
    except ValueError as error:  # Python reads no number of more than 4300 digits
        raise _refused("a number in it has too many digits") from error
    except RecursionError as error:
        raise _refused("lists within lists, too deep") from error
    if isinstance(body, dict):
        _refuse_known_strangers(body)
    try:
        return msgspec.convert(body, Filter)
    except msgspec.ValidationError as error:
        raise _refused(str(error)) from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, value in pairs:
        if key in made:
            raise _refused(f"{key} stands twice in one object")
        if isinstance(value, int) and value >= 1 << 64:
            raise _refused(f"{key} is {value}, more than 64 bits hold")
        made[key] = value
    return made


def _integer(text: str) -> int:
    if text == "-0":
        raise _refused("-0 is no number to runtimes; write 0")
    return int(text)


def _constant(word: str) -> None:
    raise _refused(f"no JSON: {word}")


def _refuse_known_strangers(body: dict[str, Any]) -> None:
    """Refuse what is in use elsewhere in words that say what it is."""
    if "archMap" in body:
        raise _refused("archMap is of Docker's own format, and runtimes pass over it; write `architectures`")
    rules = body.get("syscalls")
    for at, rule in enumerate(rules if isinstance(rules, list) else []):
        for key in ("includes", "excludes"):
            if isinstance(rule, dict) and rule.get(key):
                raise _refused(
                    f"syscalls[{at}].{key} is of Docker's own format; runtimes pass over it, and the rule "
                    "would hold whatever its condition says"
                )
    for key in ("listenerPath", "listenerMetadata"):
        if body.get(key):
            raise _refused(f"{key} hands system calls to a program of the node; a profile may not name one")


def is_known(name: str) -> bool:
    """Return whether there is a system call of a name, on any kind of machine.

    Raises:
        NodeFault: there is no libseccomp here.
    """
    if not name.isascii() or "\0" in name:
        return False
    return name in NEWER or _library().seccomp_syscall_resolve_name(name.encode()) != _UNKNOWN


@functools.cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError as error:
        raise NodeFault(
            Reason.LOAD_FAILED, "libseccomp is not installed; install it with your distribution's tools"
        ) from error
    library.seccomp_syscall_resolve_name.argtypes = [ctypes.c_char_p]
    return library


def _refused(message: str) -> InputFault:
    return InputFault(Reason.POLICY_REFUSED, plain(f"the seccomp profile is refused: {message}"))
