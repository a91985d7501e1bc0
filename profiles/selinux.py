"""Decides whether an SELinux module may go to nodes: which statements it has, and about whose types.

Called by `check`. A module in CIL can change anything of a node's policy, so what it may say is listed, and
the rest is refused: the types that a rule is for must be those that the module declares itself. Names are
looked up as libsepol does (cil/src/cil_resolve_ast.c): in the block, in the blocks around it, in the policy;
blocks that the module itself has are put in where it inherits them, and are judged there once more.

What a block inherits from elsewhere (`container`, from the node's policy) is not known here; udica's and
container-selinux' blocks speak of a type `process` and a type `socket`, so these two are a block's own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from ..crds.errors import InputFault
from ..crds.reasons import Reason
from . import cil
from .cil import Item, Statement
from .secilc import Secilc

Path = tuple[str, ...]

# What container-selinux' blocks declare for whoever inherits them. No policy has types of these names.
PRESUMED = frozenset({"process", "socket"})
# Attributes of the node's policy that a container's types need; each only takes from what they may do, or
# gives what every container has.
HOST_ATTRIBUTES = frozenset(
    {
        *("domain", "container_domain", "container_net_domain", "container_user_domain"),
        *("svirt_sandbox_domain", "sandbox_net_domain", "mcs_constrained_type"),
        *("file_type", "container_file_type", "svirt_file_type"),
    }
)
HOST_ROLES = frozenset({"system_r", "object_r"})
# What would let a container out, or change the node's policy: never of a type that is not the module's.
GUARDED: dict[str, frozenset[str]] = {
    "security": frozenset({"load_policy", "setenforce", "setbool", "setsecparam", "setcheckreqprot"}),
    "system": frozenset({"module_load"}),
    "process": frozenset({"transition", "dyntransition", "ptrace"}),
    "process2": frozenset({"nnp_transition", "nosuid_transition"}),
}
# Of the statements as they are judged, each where it is put in. It does not bound what deep blocks or names
# of many parts take (docs/security.md).
WORDS = 150_000
# Blocks that inherit one another in a row.
ROW = 32

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
    "src_info": "is for what compilers write",
    "<src_info>": "is for what compilers write",
}
# What declares a name that rules are about, and one that permissions go by.
_TYPES = ("type", "typealias", "typeattribute")
_PERMISSIONS = ("classpermission", "permissionx")
# In an optional that libsepol leaves out they would be gone, and their names would be the node's.
_DECLARING = frozenset({*_TYPES, *_PERMISSIONS, "block", "blockabstract"})
# Narrower than libsepol's names, and none of its operators: `all` in a list would be every type of a node.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_RESERVED = frozenset(
    {*("all", "and", "or", "not", "xor", "range", "self", "notself", "other", "true", "false")}
    | {*("eq", "neq", "dom", "domby", "incomp", "t1", "t2", "u1", "u2", "r1", "r2", "l1", "l2", "h1", "h2")}
)


@dataclass(frozen=True)
class Module:
    """What a module is about.

    Attributes:
        types: the types that it declares, as the kernel calls them (`demo.process`), in its order; of a block
            that has its types from elsewhere the one that pods run as.
        inherits: blocks from elsewhere that its blocks inherit, each once.
    """

    types: tuple[str, ...]
    inherits: tuple[str, ...]


@dataclass
class _Block:
    """A block's own statements, with those of the module's blocks that it inherits put in."""

    statements: list[Statement] = field(default_factory=list[Statement])
    declared: set[str] = field(default_factory=set[str])
    permissions: set[str] = field(default_factory=set[str])
    inherits: bool = False  # from elsewhere

    def add(self, one: Statement) -> None:
        """Put a statement in, with what it declares."""
        self.statements.append(one)
        if one.keyword in _TYPES:
            self.declared.add(_new(one))
        elif one.keyword in _PERMISSIONS:
            self.permissions.add(_new(one))


async def check_text(policy: str, secilc: Secilc) -> Module:
    """Return what a module declares.

    Raises:
        InputFault: it is refused, with the line.
        NodeFault: secilc can't be run.
    """
    if "\0" in policy:
        raise InputFault(Reason.POLICY_REFUSED, "the policy holds a NUL character; remove it")
    statements = cil.read(policy)  # first: it bounds the depth to which anyone recurses
    await secilc.read(policy)
    return judge(statements)


def judge(statements: tuple[Statement, ...]) -> Module:
    """Return what a module declares if each of its statements is one that a profile may have.

    Raises:
        InputFault: the first that is not, with its line.
    """
    return _Judging(statements).judged()


class _Judging:
    """One module's judgement: first what it declares, then each statement."""

    def __init__(self, statements: tuple[Statement, ...]) -> None:
        self.roots = statements
        self.bodies: dict[Path, tuple[Statement, ...]] = {}
        self.blocks: dict[Path, _Block] = {}
        # Blocks that exist only where they are inherited.
        self.abstract: set[Path] = set()
        self.inherits: dict[str, None] = {}
        self.words = 0
        self.rules: dict[str, Callable[[Statement, Path], None]] = {
            **dict.fromkeys((*_TYPES, "classpermission"), self._declaration),
            **dict.fromkeys(("allow", "auditallow", "dontaudit"), self._access),
            **dict.fromkeys(("allowx", "auditallowx", "dontauditx"), self._extended),
            **dict.fromkeys(("typetransition", "typechange", "typemember"), self._transition),
            "permissionx": self._declaration,
            "classpermissionset": self._permission_set,
            "typealiasactual": self._pair,
            "typeattributeset": self._attribute_set,
            "typebounds": self._pair,
            "roletype": self._role,
            "typepermissive": self._about,
            "expandtypeattribute": self._about,
        }

    def judged(self) -> Module:
        for one in self.roots:
            _refuse_quoted(one)
            if one.keyword != "block":
                raise _unlisted(one, "stands outside of all blocks; write it within `(block NAME ...)`")
            self._collect(one, ())
        if not self.bodies:
            raise InputFault(Reason.POLICY_EMPTY, "the policy has no block; it needs one `(block NAME ...)`")
        for path in self.bodies:
            self._fill(path, path, ())
        for path, block in self.blocks.items():
            for one in block.statements:
                self._judge(one, path, optional=False)
        return Module(tuple(self._types()), tuple(self.inherits))

    def _types(self) -> Iterator[str]:
        for path, block in self.blocks.items():
            if self._is_elsewhere(path, ()):
                continue
            for one in block.statements:
                if one.keyword == "type":
                    yield ".".join((*path, _word(one, 1)))
            if block.inherits and "process" not in block.declared and len(path) == 1:
                yield f"{path[0]}.process"

    # --- what it declares ---------------------------------------------------------------------------------

    def _collect(self, block: Statement, around: Path) -> None:
        name = _new(block)
        if around and name == around[-1]:
            raise _refused(block, f"has the name of the block around it, {name}")
        path = (*around, name)
        if path in self.bodies:
            raise _refused(block, f"is the second one of the name {'.'.join(path)}")
        inner = _lists(block, 2)
        self.bodies[path] = inner
        for one in inner:
            if one.keyword == "block":
                self._collect(one, path)

    def _fill(self, path: Path, source: Path, inheriting: tuple[Path, ...]) -> None:
        """Put the statements of the block at `source` into the one at `path`."""
        if source in inheriting:
            raise InputFault(Reason.POLICY_REFUSED, f"block {'.'.join(source)} inherits itself")
        if len(inheriting) > ROW:
            raise InputFault(Reason.POLICY_TOO_LARGE, f"over {ROW} blocks inherit one another in a row")
        into = self.blocks.setdefault(path, _Block())
        for one in self.bodies[source]:
            self.words += sum(1 for _ in cil.symbols(one))
            if self.words > WORDS:
                raise InputFault(
                    Reason.POLICY_TOO_LARGE, f"with what its blocks inherit the policy has over {WORDS} words"
                )
            if one.keyword == "block":
                inner = _word(one, 1)
                if path != source:  # a block within one that is inherited is inherited with it
                    self._fill((*path, inner), (*source, inner), (*inheriting, source))
            elif one.keyword == "blockinherit":
                self._inherit(one, path, source, (*inheriting, source))
            elif one.keyword == "blockabstract":
                self._abstract(one, path, source)
            else:
                into.add(one)

    def _abstract(self, one: Statement, path: Path, source: Path) -> None:
        if (name := _word(one, 1)) != source[-1]:
            raise _refused(one, f"is about {name}, and stands in {source[-1]}")
        if path == source:  # who inherits it is not abstract
            self.abstract.add(path)

    def _inherit(self, one: Statement, path: Path, source: Path, inheriting: tuple[Path, ...]) -> None:
        name = _word(one, 1)
        if found := self._own_block(name, source):
            self._fill(path, found, inheriting)
        else:
            self.inherits.setdefault(name)
            self.blocks[path].inherits = True

    def _own_block(self, name: str, path: Path) -> Path | None:
        """Return which of the module's blocks a name in a block is; None for one from elsewhere."""
        parts = tuple(name.split("."))
        around = ((*path[:depth], *parts) for depth in range(len(path), -1, -1))
        return next((found for found in around if found in self.bodies), None)

    # --- each statement -----------------------------------------------------------------------------------

    def _judge(self, one: Statement, path: Path, *, optional: bool) -> None:
        keyword = one.keyword
        if keyword == "optional":
            for inner in _lists(one, 2):
                self._judge(inner, path, optional=True)
            return
        if optional and keyword in _DECLARING:
            raise _refused(one, "declares a name within an optional; declare it outside of that")
        if optional and keyword == "blockinherit":
            self._outside(one, path)
            return
        rule = self.rules.get(keyword)
        if rule is None:
            raise _unlisted(one, "is not among the statements that a profile may have")
        rule(one, path)

    def _outside(self, one: Statement, path: Path) -> None:
        name = _word(one, 1)
        if self._own_block(name, path):
            raise _refused(one, f"inherits this module's own {name} within an optional; do so outside of it")
        self.inherits.setdefault(name)

    def _declaration(self, one: Statement, path: Path) -> None:
        """Take what was looked at when all names were collected."""

    def _about(self, one: Statement, path: Path) -> None:
        for name in cil.symbols(_at(one, 1)):
            self._refuse_foreign(one, name, path)

    def _access(self, one: Statement, path: Path) -> None:
        self._own(one, 1, path)
        self._permissions(one, _at(one, 3), path, host=not self._is_own_target(one, path))

    def _extended(self, one: Statement, path: Path) -> None:
        self._own(one, 1, path)
        if isinstance(permissions := _at(one, 3), str):
            self._named_permissions(one, permissions, path)

    def _transition(self, one: Statement, path: Path) -> None:
        self._own(one, 1, path)
        if _at(one, 3) == "process":
            self._own(one, len(one.items) - 1, path)

    def _permission_set(self, one: Statement, path: Path) -> None:
        if not self._knows(name := _word(one, 1), path):
            raise _refused(one, f"fills {name}, which the module does not declare")
        self._own_permissions(one, _at(one, 2), host=True)

    def _pair(self, one: Statement, path: Path) -> None:
        self._own(one, 1, path)
        self._own(one, 2, path)

    def _attribute_set(self, one: Statement, path: Path) -> None:
        name = _word(one, 1)
        if not self._owns(name, path) and name not in HOST_ATTRIBUTES:
            raise _refused(
                one,
                f"gives its types the attribute {name} of the node's policy; those that it may give are "
                f"{', '.join(sorted(HOST_ATTRIBUTES))}",
            )
        for member in cil.symbols(_at(one, 2)):
            if not self._owns(member, path):
                raise _refused(
                    one,
                    f"puts {member} into {name}; it may put in the types that the module declares, by name",
                )

    def _role(self, one: Statement, path: Path) -> None:
        if (role := _word(one, 1)) not in HOST_ROLES:
            raise _refused(one, f"is for the role {role}; containers run in system_r")
        self._own(one, 2, path)

    # --- names --------------------------------------------------------------------------------------------

    def _own(self, one: Statement, at: int, path: Path) -> None:
        self._refuse_foreign(one, _word(one, at), path)

    def _refuse_foreign(self, one: Statement, name: str, path: Path) -> None:
        if not self._owns(name, path):
            raise _refused(
                one, f"is about {name}, which the module does not declare; it may say what its own types do"
            )

    def _owns(self, name: str, path: Path) -> bool:
        if name in PRESUMED:
            return True
        *inner, last = name.split(".")
        for depth in range(len(path), -1, -1):
            there = (*path[:depth], *inner)
            block = self.blocks.get(there)
            if block is None or self._is_elsewhere(there, path):
                continue
            if last in block.declared or (inner and block.inherits and last in PRESUMED):
                return True
        return False

    def _is_elsewhere(self, there: Path, path: Path) -> bool:
        """Return whether a block is abstract, or within one that is, and a path is not."""
        return any(
            there[:depth] in self.abstract and there[:depth] != path[:depth]
            for depth in range(1, len(there) + 1)
        )

    def _is_own_target(self, one: Statement, path: Path) -> bool:
        target = _at(one, 2)
        return isinstance(target, str) and (target == "self" or self._owns(target, path))

    def _knows(self, permissions: str, path: Path) -> bool:
        return any(permissions in self.blocks[path[:depth]].permissions for depth in range(len(path), 0, -1))

    def _permissions(self, one: Statement, permissions: Item, path: Path, *, host: bool) -> None:
        if isinstance(permissions, str):
            self._named_permissions(one, permissions, path)
        else:
            self._own_permissions(one, permissions, host=host)

    def _named_permissions(self, one: Statement, name: str, path: Path) -> None:
        if not self._knows(name, path):
            raise _refused(one, f"names permissions that the module does not declare, {name}")

    def _own_permissions(self, one: Statement, permissions: Item, *, host: bool) -> None:
        if not isinstance(permissions, Statement):
            raise _refused(one, "has no list of permissions, `(CLASS (PERMISSION ...))`")
        kind = permissions.keyword
        guarded = GUARDED.get(kind)
        if not guarded or not host:
            return
        named = [name for part in permissions.items[1:] for name in cil.symbols(part)]
        taken = [name for name in named if name in guarded or name in ("all", "not", "xor", "and", "or")]
        if taken:
            raise _refused(
                one,
                f"gives {kind} {taken[0]} over what is not the module's; with that a container gets out",
            )


def _lists(one: Statement, start: int) -> tuple[Statement, ...]:
    inner = one.items[start:]
    for item in inner:
        if not isinstance(item, Statement):
            raise _refused(one, f"has {item} where statements belong")
    return tuple(item for item in inner if isinstance(item, Statement))


def _at(one: Statement, index: int) -> Item:
    if index >= len(one.items):
        raise _refused(one, "lacks a part")
    return one.items[index]


def _word(one: Statement, index: int) -> str:
    item = _at(one, index)
    if not isinstance(item, str):
        raise _refused(one, "has a list where a name belongs")
    return item


def _refuse_quoted(one: Statement) -> None:
    """Refuse quotes but for a file's name in a typetransition: libsepol takes them off, anywhere."""
    for at, item in enumerate(one.items):
        if isinstance(item, Statement):
            _refuse_quoted(item)
        elif item.startswith('"') and (one.keyword, at, len(one.items)) != ("typetransition", 4, 6):
            raise _unlisted(one, f"has {item} in quotes; write it without")


def _new(one: Statement) -> str:
    """Return the name that a statement declares."""
    name = _word(one, 1)
    if not _NAME.fullmatch(name) or name in _RESERVED:
        raise _refused(one, f"declares {name}; a name is a letter, then letters, digits, _ and -")
    return name


def _unlisted(one: Statement, why: str) -> InputFault:
    """Return the refusal of a statement, in words of its own where it is known to be none for a profile."""
    return _refused(one, _WHY.get(one.keyword, why))


def _refused(one: Statement, why: str) -> InputFault:
    return InputFault(Reason.STATEMENT_REFUSED, f"line {one.line}: {one.keyword or 'a list'} {why}")
