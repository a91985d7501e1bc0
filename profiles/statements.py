"""The form of an SELinux module's statements: their parts, classes, permissions and numbers. Pure.

Called by `selinux`, which judges what they are about.
"""

from __future__ import annotations

import re

from ..crds.errors import InputFault
from . import cil
from .blocks import TYPES
from .cil import Item, Statement, lists, refused, word
from .classes import CLASSES

_LABELS = "labels what belongs to the node; have the node's administrator do that"
_EXPAND = "is not followed, so nobody could say what it stands for; write the statements out"
_POLICY = "changes the node's policy for everyone"
_WHY = {
    **dict.fromkeys(
        (
            *("filecon", "fsuse", "genfscon", "portcon", "nodecon", "netifcon", "ibpkeycon", "ibendportcon"),
            *("iomemcon", "ioportcon", "pcidevicecon", "pirqcon", "devicetreecon", "context"),
        ),
        _LABELS,
    ),
    **dict.fromkeys(("call", "macro", "in"), _EXPAND),
    **dict.fromkeys(("tunable", "tunableif", "boolean", "booleanif"), "is a switch of the whole node"),
    **dict.fromkeys(("user", "userrole", "userlevel", "userrange", "role", "roleallow"), _POLICY),
    "deny": "takes from other modules what they allow",
    "neverallow": "can break other modules",
    "typepermissive": "makes a domain that confines nothing; for the types that the module declares, set "
    "spec.selinux.mode to Permissive instead",
    "src_info": "is for what compilers write",
    "<src_info>": "is for what compilers write",
}
# How many parts they have, with their keywords, as libsepol has it (cil/src/cil_build_ast.c).
_PARTS: dict[str, tuple[int, ...]] = {
    **dict.fromkeys((*TYPES, "classpermission", "blockinherit", "blockabstract"), (2,)),
    **dict.fromkeys(("typealiasactual", "typeattributeset", "typebounds", "roletype"), (3,)),
    **dict.fromkeys(("classpermissionset", "permissionx", "expandtypeattribute"), (3,)),
    **dict.fromkeys(("allow", "auditallow", "dontaudit", "allowx", "auditallowx", "dontauditx"), (4,)),
    **dict.fromkeys(("typechange", "typemember"), (5,)),
    "typetransition": (5, 6),
}
_PERMISSION = re.compile(r"[a-z][a-z0-9_]*")
_NUMBER = re.compile(r"0[xX][0-9a-fA-F]{1,4}|0|[1-9][0-9]{0,4}")
# What a directory can hold: the kernel compares it with the last part of a path.
_FILE = re.compile(r'"?[ -.0-~]{1,255}"?')


def unlisted(one: Statement, why: str) -> InputFault:
    """Return the refusal of a statement, in words of its own where it is known to be none for a profile."""
    return refused(one, _WHY.get(one.keyword, why))


def refuse_form(one: Statement) -> None:
    """Refuse what is no block, statements with too few or too many parts, and words in quotes.

    Raises:
        InputFault: with the line.
    """
    _refuse_quoted(one)
    if one.keyword != "block":
        raise unlisted(one, "stands outside of all blocks; write it within `(block NAME ...)`")
    _refuse_parts(one)


def refuse_class(one: Statement, kind: str) -> None:
    """Refuse the name of a class that is none of the kernel's; InputFault with the line."""
    if kind not in CLASSES:
        raise refused(one, f"is about the class {kind or '()'}, which is none of the kernel's")


def refuse_file(one: Statement, name: str) -> None:
    """Refuse what can't be a file's name, which may be in quotes; InputFault with the line."""
    if name == '""' or not _FILE.fullmatch(name):
        raise refused(
            one, f"has {name} for a file's name; that is 1 to 255 characters of ASCII without a slash"
        )


def class_permissions(one: Statement, permissions: Item) -> tuple[str, list[str]]:
    """Return the class of `(CLASS (PERMISSION ...))` and all words of its list, operators too.

    Raises:
        InputFault: it has another form, no class of the kernel's, or what can be no permission.
    """
    if not isinstance(permissions, Statement):
        raise refused(one, "has no list of permissions, `(CLASS (PERMISSION ...))`")
    kind = permissions.keyword
    refuse_class(one, kind)
    named = [name for item in permissions.items[1:] for name in cil.symbols(item)]
    for name in named:
        if not _PERMISSION.fullmatch(name):
            raise refused(one, f"gives {kind} {name}, which can be no permission")
    return kind, named


def ioctl_numbers(one: Statement, permissions: Item) -> int:
    """Return how many numbers `(ioctl CLASS (NUMBER ...))` lists, those of ranges one by one.

    Raises:
        InputFault: it has another form, no class of the kernel's, or operators.
    """
    if (
        not isinstance(permissions, Statement)
        or permissions.keyword != "ioctl"
        or len(permissions.items) != 3
    ):
        raise refused(one, "has no list of numbers, `(ioctl CLASS (NUMBER ...))`")
    refuse_class(one, word(permissions, 1))
    return _numbers(one, permissions.items[2])


def _numbers(one: Statement, item: Item) -> int:
    if isinstance(item, Statement):
        if item.keyword != "range":
            return sum(_numbers(one, inner) for inner in item.items)
        first, last = (_number(one, word(item, at)) for at in (1, 2))
        return max(last - first + 1, 1)
    _number(one, item)
    return 1


def _number(one: Statement, text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise refused(one, f"has {text} where a number of 16 bits belongs, or a range of them")
    return int(text, 0)


def _refuse_quoted(one: Statement) -> None:
    """Refuse quotes but for a file's name in a typetransition: libsepol takes them off, anywhere."""
    for at, item in enumerate(one.items):
        if isinstance(item, Statement):
            _refuse_quoted(item)
        elif item.startswith('"') and (one.keyword, at, len(one.items)) != ("typetransition", 4, 6):
            raise unlisted(one, f"has {item} in quotes; write it without")


def _refuse_parts(one: Statement) -> None:
    if one.keyword in ("block", "optional"):
        for inner in lists(one, 2):
            _refuse_parts(inner)
        return
    parts = _PARTS.get(one.keyword)
    if parts and len(one.items) < parts[0]:
        raise refused(one, "lacks a part")
    if parts and len(one.items) > parts[-1]:
        raise refused(one, "has a part too many")
