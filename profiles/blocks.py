"""The blocks of an SELinux module with what each inherits, and what a name in one of them stands for. Pure.

Called by `selinux`, which judges what the blocks say. Blocks of the module itself are put in where they are
inherited. Names are looked up as libsepol does (cil/src/cil_resolve_ast.c): in the block, in the blocks
around it, in the policy; the first part of a dotted name decides.

What a block inherits from elsewhere (`container`, from the node's policy) is not known here, and its names
could stand in the way of the module's. So such a block stands by itself, without blocks around or within it,
declares nothing but types (libsepol takes a type of the same name for the same, and so an attribute, whose
members it then shares), and a plain name in it is the module's only if the block itself declares it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from ..crds.errors import InputFault
from ..crds.reasons import Reason
from .cil import Statement, lists, refused, word

Path = tuple[str, ...]

# What container-selinux' and udica's blocks declare for whoever inherits them. No policy has types of these
# names outside of blocks.
PRESUMED = frozenset({"process", "socket"})
# Which of them do, of those that udica brings (its folder templates); of others the types above are presumed.
BASES: Mapping[str, Collection[str]] = MappingProxyType(
    {
        "container": PRESUMED,
        **{
            f"{name}_container": ()
            for name in (
                *("net", "restricted_net", "tty", "virt", "x", "tmp", "tmp_rw"),
                *("home", "home_rw", "home_manage", "log", "log_rw", "log_manage"),
                *("config", "config_rw", "config_manage"),
            )
        },
    }
)
# Of types, aliases and attributes after inheritance. A kernel numbers a node's in 16 bits, and a policy has
# some 5,000 of its own: that leaves room for some 900 modules of this many. The sum is not bounded here, as a
# judge sees one module: who puts the modules of a node together has to count.
NAMES = 64
# Of statements, and of characters, each where it is put in; so much takes well under a second to judge.
STATEMENTS, SIZE = 10_000, 512 * 1024
# Blocks that inherit one another in a row, and blocks within blocks.
ROW, DEEP = 32, 8
NAME_BYTES = 256

# What declares a name that rules are about, and one that permissions go by.
TYPES = ("type", "typealias", "typeattribute")
SETS = ("classpermission", "permissionx")
# Narrower than libsepol's names, and none of its operators: `all` in a list would be every type of a node.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_PATH = re.compile(rf"{_NAME.pattern}(\.{_NAME.pattern})*")
RESERVED = frozenset(
    {*("all", "and", "or", "not", "xor", "range", "self", "notself", "other", "true", "false")}
    | {*("eq", "neq", "dom", "domby", "incomp", "cil_gen_require")}
    | {*("t1", "t2", "t3", "u1", "u2", "u3", "r1", "r2", "r3", "l1", "l2", "h1", "h2")}
)


def is_name(name: str) -> bool:
    """Return whether a word can name something: `web`, `web.process`, `.web.process`."""
    return bool(_PATH.fullmatch(name.removeprefix("."))) and name not in RESERVED


def declared(one: Statement) -> str:
    """Return the name that a statement declares; InputFault where it is none."""
    name = word(one, 1)
    if not _NAME.fullmatch(name):
        raise refused(one, f"declares {name}; a name is a letter, then letters, digits, _ and -")
    if name in RESERVED:
        raise refused(one, f"declares {name}, which is a word of the language; choose another name")
    return name


@dataclass
class Block:
    """A block's own statements, with those of the module's blocks that it inherits put in.

    Attributes:
        types: what it declares that rules are about, by name: with which statement.
        sets: what it declares that permissions go by: statement and name.
        outside: blocks from elsewhere that it inherits, by name.
        sources: the module's blocks that are put in.
    """

    statements: list[Statement] = field(default_factory=list[Statement])
    types: dict[str, str] = field(default_factory=dict[str, str])
    sets: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    outside: dict[str, Statement] = field(default_factory=dict[str, Statement])
    sources: set[Path] = field(default_factory=set[Path])


class Blocks:
    """A module's blocks.

    Attributes:
        filled: each block with all that it says.
        tops: the names of those that stand in no other.
        names: the last names of all blocks as they are written.
    """

    def __init__(self, roots: tuple[Statement, ...], bases: Mapping[str, Collection[str]] = BASES) -> None:
        """Put the module's blocks together; `bases`: what blocks from elsewhere declare, as BASES.

        Raises:
            InputFault: with the line of what can't be put together.
        """
        self.filled: dict[Path, Block] = {}
        self._bases = bases
        self._bodies: dict[Path, tuple[Statement, ...]] = {}
        # Blocks that exist only where they are inherited.
        self._abstract: set[Path] = set()
        self._found: dict[tuple[str, Path], Path | None] = {}
        self._statements = self._size = self._declared = 0
        for one in roots:
            self._collect(one, ())
        self.names = {path[-1] for path in self._bodies}
        self.tops = tuple(path[0] for path in self._bodies if len(path) == 1)
        for path in self._bodies:
            self._fill(path, path, ())
        self._refuse_entangled()

    @property
    def inherits(self) -> tuple[str, ...]:
        """Return the blocks from elsewhere that are inherited, each once."""
        return tuple(dict.fromkeys(name for block in self.filled.values() for name in block.outside))

    def types(self) -> Iterator[str]:
        """Yield the types that the module makes, as the kernel calls them.

        Of a block that has its types from elsewhere: the one that pods run as.
        """
        for path, block in self.filled.items():
            if self._is_elsewhere(path, ()):
                continue
            for name, keyword in block.types.items():
                if keyword == "type":
                    yield ".".join((*path, name))
            if "process" in self._presumed(block):
                yield ".".join((*path, "process"))

    # --- names --------------------------------------------------------------------------------------------

    def find(self, name: str, path: Path) -> Path | None:
        """Return what a name in a block stands for, whole, if the module declares it; None otherwise."""
        key = (name, path)
        if key not in self._found:
            self._found[key] = self._looked_up(name, path)
        return self._found[key]

    def keyword(self, found: Path) -> str:
        """Return with which statement something that was found is declared."""
        return self.filled[found[:-1]].types.get(found[-1], "type")

    def has_set(self, keyword: str, name: str, path: Path) -> bool:
        """Return whether a name in a block stands for permissions that the module declares with a keyword."""
        for block in self._around(path):
            if (keyword, name) in block.sets:
                return True
            if block.outside:
                return False
        return False

    def _looked_up(self, name: str, path: Path) -> Path | None:
        *before, last = name.split(".")
        if not before:
            for depth in range(len(path), 0, -1):
                block = self.filled[path[:depth]]
                if last in block.types or last in self._presumed(block):
                    return (*path[:depth], last)
                if block.outside:
                    return None
            return None
        there = tuple(before[1:]) if not before[0] else self._begun(before[0], path, tuple(before[1:]))
        block = self.filled.get(there) if there else None
        if there is None or block is None or self._is_elsewhere(there, path):
            return None
        return (*there, last) if last in block.types or last in self._presumed(block) else None

    def _begun(self, first: str, path: Path, rest: Path) -> Path | None:
        """Return the block that a dotted name in a block leads to; its first part is the nearest block."""
        if any(block.outside for block in self._around(path)):
            return None  # what is inherited may have a block of that name
        around = ((*path[:depth], first) for depth in range(len(path), -1, -1))
        return next(((*found, *rest) for found in around if found in self.filled), None)

    def _around(self, path: Path) -> Iterator[Block]:
        return (self.filled[path[:depth]] for depth in range(len(path), 0, -1))

    def _presumed(self, block: Block) -> set[str]:
        return {name for one in block.outside for name in self._given(one)} - set(block.types)

    def _given(self, outside: str) -> Collection[str]:
        return self._bases.get(outside, PRESUMED)

    def _is_elsewhere(self, there: Path, path: Path) -> bool:
        """Return whether a block is abstract, or within one that is, and a path is not."""
        return any(
            there[:depth] in self._abstract and there[:depth] != path[:depth]
            for depth in range(1, len(there) + 1)
        )

    # --- how they are put together ------------------------------------------------------------------------

    def _collect(self, block: Statement, around: Path) -> None:
        name = declared(block)
        if around and name == around[-1]:
            raise refused(block, f"has the name of the block around it, {name}")
        path = (*around, name)
        if path in self._bodies:
            raise refused(block, f"is the second one of the name {'.'.join(path)}")
        if len(path) > DEEP:
            raise refused(block, f"stands in blocks within blocks, deeper than {DEEP}")
        self._bodies[path] = inner = lists(block, 2)
        for one in inner:
            if one.keyword == "block":
                self._collect(one, path)

    def _fill(self, path: Path, source: Path, row: tuple[Path, ...]) -> None:
        """Put the statements of the block at `source` into the one at `path`; `row`: what inherits it."""
        if source in row:
            raise InputFault(Reason.POLICY_REFUSED, f"block {'.'.join(source)} inherits itself")
        if len(row) > ROW or len(path) > DEEP:
            raise InputFault(
                Reason.POLICY_TOO_LARGE,
                f"over {ROW} blocks inherit one another in a row, or over {DEEP} stand in one another",
            )
        into = self.filled.setdefault(path, Block())
        into.sources.add(source)
        row = (*row, source)
        for one in self._bodies[source]:
            self._count(one)
            if one.keyword == "block":
                if path != source:  # a block within one that is inherited is inherited with it
                    self._fill_inner(one, path, source, row)
            elif one.keyword == "blockinherit":
                self._inherit(one, path, source, row)
            elif one.keyword == "blockabstract":
                self._make_abstract(one, path, source)
            else:
                self._add(one, path, into)
                if one.keyword == "optional":
                    for inner in _inheriting(one):
                        self._inherit(inner, path, source, row, optional=True)

    def _fill_inner(self, one: Statement, path: Path, source: Path, row: tuple[Path, ...]) -> None:
        name = word(one, 1)
        if name == path[-1]:  # blockabstract would be about the inner one
            raise refused(one, f"is inherited into a block of its own name, {name}")
        self._fill((*path, name), (*source, name), row)

    def _count(self, one: Statement) -> None:
        self._statements += 1
        self._size += one.size
        if self._statements > STATEMENTS or self._size > SIZE:
            raise InputFault(
                Reason.POLICY_TOO_LARGE,
                f"with what its blocks inherit the policy has over {STATEMENTS} statements or "
                f"{SIZE >> 10} KiB; inherit less",
            )

    def _add(self, one: Statement, path: Path, into: Block) -> None:
        """Put a statement in, with what it declares."""
        into.statements.append(one)
        if one.keyword in SETS:
            key = (one.keyword, declared(one))
            if key in into.sets:
                raise refused(one, f"declares {key[1]} in {'.'.join(path)} for the second time")
            into.sets.add(key)
        if one.keyword not in TYPES:
            return
        name = declared(one)
        if (
            one.keyword != "type" and name in PRESUMED
        ):  # whoever inherits the block takes it for one of its own
            raise refused(one, f"declares {name}, which is the name of a type of containers; choose another")
        if name in into.types:
            raise refused(one, f"declares {name} in {'.'.join(path)} for the second time")
        if len(".".join((*path, name))) > NAME_BYTES:
            raise refused(one, f"declares a name that has over {NAME_BYTES} characters with its blocks'")
        into.types[name] = one.keyword
        self._declared += 1
        if self._declared > NAMES:
            raise InputFault(
                Reason.POLICY_TOO_LARGE,
                f"with what its blocks inherit the policy has over {NAMES} types, aliases and attributes",
            )

    def _make_abstract(self, one: Statement, path: Path, source: Path) -> None:
        if (name := word(one, 1)) != source[-1]:
            raise refused(one, f"is about {name}, and stands in {source[-1]}")
        if path == source:  # who inherits it is not abstract
            self._abstract.add(path)

    def _inherit(
        self, one: Statement, path: Path, source: Path, row: tuple[Path, ...], *, optional: bool = False
    ) -> None:
        name = word(one, 1)
        if not is_name(name) or name.startswith("."):
            raise refused(one, f"is of {name}; a block's name is written without a dot before or after it")
        found, block = self._own(one, name, source), self.filled[path]
        if name in block.outside or (found in block.sources and found not in row):
            raise refused(one, f"is of {name} for the second time; what it says is there already")
        if optional and (found or self._given(name)):
            raise refused(
                one,
                f"is of {name} within an optional, and its types could be left out; do so outside of it",
            )
        if found:
            self._fill(path, found, row)
        else:
            block.outside[name] = one

    def _own(self, one: Statement, name: str, path: Path) -> Path | None:
        """Return which of the module's blocks a name in a block is; None for one from elsewhere."""
        first, *rest = name.split(".")
        around = ((*path[:depth], first) for depth in range(len(path), -1, -1))
        begun = next((found for found in around if found in self._bodies), None)
        if begun is None:
            return None
        if (found := (*begun, *rest)) not in self._bodies:
            raise refused(one, f"is of {name}, and {'.'.join(begun)} has no such block")
        return found

    def _refuse_entangled(self) -> None:
        """Refuse blocks with something from elsewhere in which names could mean what that brings."""
        holding = {path[:-1] for path in self.filled}
        for path, block in self.filled.items():
            for name, one in block.outside.items():
                if len(path) > 1 or path in holding:
                    raise refused(
                        one,
                        f"is of {name}, which is not the module's, where blocks stand in one another; "
                        "do so in a block by itself",
                    )
                other = next(
                    (kind for kind in (*block.types.values(), *dict(block.sets)) if kind != "type"), ""
                )
                if other:
                    raise refused(
                        one,
                        f"is of {name}, which is not the module's, in a block with a {other}; "
                        "write that in another block",
                    )


def _inheriting(optional: Statement) -> Iterator[Statement]:
    for one in lists(optional, 2):
        if one.keyword == "blockinherit":
            yield one
        elif one.keyword == "optional":
            yield from _inheriting(one)
