"""Decides whether an SELinux module may go to nodes: which statements it has, and about whose types.

Called by `check`. A module in CIL can change anything of a node's policy, so what it may say is listed, and
the rest is refused: the types that a rule is for must be those that the module declares itself. `blocks` puts
the module together and says what its names stand for; here each statement is judged, wherever it is put in.

A whole module that passes gives no right and no attribute to a type that is not its own, changes nothing for
other modules, and is small: after inheritance it has no more types, statements and characters than `blocks`
allows, and nothing of it is multiplied by the node's types but what `TRANSITIONS` bounds.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from ..crds.errors import InputFault
from ..crds.reasons import Reason
from . import cil
from .blocks import BASES, SETS, TYPES, Blocks, Path, is_name
from .cil import Item, Statement, lists, part, refused, word
from .classes import CHANGES_THE_KERNEL, LEADS_OUT
from .secilc import Secilc
from .statements import class_permissions, ioctl_numbers, refuse_class, refuse_file, refuse_form, unlisted

# Attributes of the node's policy that a container's types need; each only takes from what they may do, or
# gives what every container has.
HOST_ATTRIBUTES = frozenset(
    {
        *("domain", "container_domain", "container_net_domain", "container_user_domain"),
        *("container_system_domain",),
        *("svirt_sandbox_domain", "sandbox_net_domain", "mcs_constrained_type"),
        *("file_type", "container_file_type", "svirt_file_type"),
    }
)
HOST_ROLES = frozenset({"system_r", "object_r"})
# Of typetransition and its like: unlike other rules they are written out for each type of an attribute.
TRANSITIONS = 256
# Of rules for ioctl, and of the numbers that they and their sets list: libsepol goes through these one by
# one, at some 2 us each, and through a set's once more in each rule that names it.
EXTENDED, NUMBERS = 64, 1 << 14
# A kernel compares a child with its parent over all rules of a policy.
BOUNDS = 16
# The way out of what only the types of the node are guarded by.
_LIFTED = "(spec.selinux.allowHostTypes lifts this, for who has the right to set it)"

# In an optional that libsepol leaves out they would be gone, and their names would be the node's.
_DECLARING = frozenset({*TYPES, *SETS, "typealiasactual", "block", "blockabstract"})
_OPERATORS = frozenset({"all", "not", "xor", "and", "or"})
# The names of types of a node's policy, and those of types within blocks.
_TYPE = re.compile(r"_t$|(^|\.)(process|socket)$")


@dataclass(frozen=True)
class Module:
    """What a module is about.

    Attributes:
        types: the types that it declares, as the kernel calls them (`demo.process`), in its order; of a block
            that has its types from elsewhere the one that pods run as.
        inherits: blocks from elsewhere that its blocks inherit, each once.
        blocks: its blocks that stand in no other. A node's policy can have each name once, and other modules
            may inherit them.
    """

    types: tuple[str, ...]
    inherits: tuple[str, ...]
    blocks: tuple[str, ...] = ()


async def check_text(
    policy: str,
    secilc: Secilc,
    *,
    allow_host_types: bool = False,
    bases: Mapping[str, Collection[str]] = BASES,
) -> Module:
    """Return what a module declares; the options are those of `judge`.

    Raises:
        InputFault: it is refused, with the line.
        NodeFault: secilc can't be run.
    """
    if "\0" in policy:
        raise InputFault(Reason.POLICY_REFUSED, "the policy holds a NUL character; remove it")
    statements = cil.read(policy)  # first: it bounds the depth to which anyone recurses
    # before secilc, which would put in whatever is inherited, however often, up to its limits
    module = judge(statements, allow_host_types=allow_host_types, bases=bases)
    await secilc.read(policy)
    return module


def judge(
    statements: tuple[Statement, ...],
    *,
    allow_host_types: bool = False,
    bases: Mapping[str, Collection[str]] = BASES,
) -> Module:
    """Return what a module declares if each of its statements is one that a profile may have.

    With `allow_host_types` rules may be about any type and attribute of the node, and give any right;
    which statements there are, and where, stays as it is. `bases`: which types blocks from elsewhere
    declare for whoever inherits them, by the blocks' names; of others `process` and `socket` are
    presumed. Blocks of these names can be declared with `allow_host_types` alone.

    Raises:
        InputFault: the first that is not, with its line.
    """
    return _Judging(statements, bases, allow_host_types=allow_host_types).judged()


def permissive(text: str, types: Iterable[str]) -> str:
    """Return a module that was judged with its types made permissive: what they may not is only logged.

    Takes the types as `Module` has them, whole, so that they are found from outside of all blocks.
    """
    return text + "".join(f"\n(typepermissive {one})" for one in types) + "\n"


class _Judging:
    """One module's judgement: first what it declares, then each statement."""

    def __init__(
        self,
        statements: tuple[Statement, ...],
        bases: Mapping[str, Collection[str]],
        *,
        allow_host_types: bool,
    ) -> None:
        self.any = allow_host_types
        for one in statements:
            refuse_form(one)
        if not statements:
            raise InputFault(Reason.POLICY_EMPTY, "the policy has no block; it needs one `(block NAME ...)`")
        self.roots, self.bases = statements, bases
        self.blocks = Blocks(statements, bases)
        # What stands for what: aliases for their types, children for their parents, members for attributes.
        self.edges: dict[str, dict[Path, list[Path]]] = {
            "typealiasactual": {},
            "typebounds": {},
            "typeattributeset": {},
        }
        self.counts: Counter[str] = Counter()
        self.rules: dict[str, Callable[[Statement, Path], None]] = {
            **dict.fromkeys((*TYPES, "classpermission"), self._declaration),
            **dict.fromkeys(("allow", "auditallow", "dontaudit"), self._access),
            **dict.fromkeys(("allowx", "auditallowx", "dontauditx"), self._extended),
            **dict.fromkeys(("typetransition", "typechange", "typemember"), self._transition),
            "permissionx": self._permission_range,
            "classpermissionset": self._permission_set,
            "typealiasactual": self._actual,
            "typeattributeset": self._attribute_set,
            "typebounds": self._bounds,
            "roletype": self._role,
            "expandtypeattribute": self._expansion,
        }

    def judged(self) -> Module:
        for path, block in self.blocks.filled.items():
            for one in block.statements:
                self._judge(one, path, optional=False)
        self._refuse_unbound()
        self._refuse_circles()
        self._refuse_others_names()
        return Module(tuple(self.blocks.types()), self.blocks.inherits, self.blocks.tops)

    # --- each statement -----------------------------------------------------------------------------------

    def _judge(self, one: Statement, path: Path, *, optional: bool) -> None:
        keyword = one.keyword
        if keyword == "optional":
            if (name := word(one, 1)) in self.blocks.names:
                raise refused(one, f"has the name of a block, {name}; choose another one")
            for inner in lists(one, 2):
                self._judge(inner, path, optional=True)
            return
        if optional and keyword in _DECLARING:
            raise refused(one, "declares a name within an optional; declare it outside of that")
        if optional and keyword == "blockinherit":  # judged when the blocks were put together
            return
        rule = self.rules.get(keyword)
        if rule is None:
            raise unlisted(one, "is not among the statements that a profile may have")
        rule(one, path)

    def _declaration(self, one: Statement, path: Path) -> None:
        """Take what was looked at when all names were collected."""

    def _access(self, one: Statement, path: Path) -> None:
        self._own(one, 1, path)
        own = self._target(one, path)
        guarded = CHANGES_THE_KERNEL if own else LEADS_OUT
        if isinstance(permissions := part(one, 3), str):
            self._named(one, "classpermission", permissions, path)
        else:
            self._permissions(one, permissions, guarded if one.keyword == "allow" else {})

    def _extended(self, one: Statement, path: Path) -> None:
        self._count(one, "allowx", EXTENDED)
        self._own(one, 1, path)
        self._target(one, path)
        if isinstance(permissions := part(one, 3), str):
            self._named(one, "permissionx", permissions, path)
        else:
            self._ranges(one, permissions)

    def _transition(self, one: Statement, path: Path) -> None:
        self._count(one, "typetransition", TRANSITIONS)
        self._own(one, 1, path)
        self._refuse_many(one, 1, path)
        self._name(one, 2)
        self._refuse_many(one, 2, path)
        kind = word(one, 3)
        refuse_class(one, kind)
        if len(one.items) == 6:
            refuse_file(one, word(one, 4))
        new = len(one.items) - 1
        self._name(one, new)
        if kind == "process":
            self._own(one, new, path)

    def _permission_set(self, one: Statement, path: Path) -> None:
        if not self.blocks.has_set("classpermission", name := word(one, 1), path):
            raise refused(one, f"fills {name}, which the module does not declare")
        self._permissions(one, part(one, 2), LEADS_OUT)  # whoever names it, over whatever

    def _permission_range(self, one: Statement, path: Path) -> None:
        del path
        self._ranges(one, part(one, 2))

    def _actual(self, one: Statement, path: Path) -> None:
        alias = self._found(one, 1, path, "typealias")
        self._own(one, 2, path)
        self._refuse_many(one, 2, path)
        actuals = self.edges["typealiasactual"].setdefault(alias, [])
        if actuals:
            raise refused(one, f"gives {word(one, 1)} a second type")
        # one of the node leads nowhere from here
        actuals.append(self.blocks.find(word(one, 2), path) or ())

    def _attribute_set(self, one: Statement, path: Path) -> None:
        name = self._name(one, 1)
        found = self.blocks.find(name, path)
        if found:
            self._found(one, 1, path, "typeattribute")
        elif not self.any and name.removeprefix(".") not in HOST_ATTRIBUTES:
            raise refused(
                one,
                f"gives its types the attribute {name} of the node's policy; those that it may give are "
                f"{', '.join(sorted(HOST_ATTRIBUTES))} {_LIFTED}",
            )
        for member in cil.symbols(part(one, 2)):
            owned = self.blocks.find(member, path)
            if not is_name(member) or not (owned or self.any):
                raise refused(
                    one,
                    f"puts {member} into {name}; it may put in the types that the module declares, by name"
                    f"{f' {_LIFTED}' if is_name(member) else ''}",
                )
            if found and owned:
                self.edges["typeattributeset"].setdefault(found, []).append(owned)

    def _bounds(self, one: Statement, path: Path) -> None:
        self._count(one, "typebounds", BOUNDS)
        self._own(one, 1, path)
        self._own(one, 2, path)
        parent, child = (self.blocks.find(word(one, at), path) for at in (1, 2))
        if parent and child:
            self.edges["typebounds"].setdefault(child, []).append(parent)

    def _role(self, one: Statement, path: Path) -> None:
        if (role := word(one, 1)) not in HOST_ROLES:
            raise refused(one, f"is for the role {role}; containers run in system_r")
        self._own(one, 2, path)

    def _expansion(self, one: Statement, path: Path) -> None:
        for name in cil.symbols(part(one, 1)):
            if not self.blocks.find(name, path):
                raise refused(
                    one, f"is about {name}, which the module does not declare; leave that to the node"
                )
        if word(one, 2) != "false":
            raise refused(one, "has rules written out for each type of an attribute; leave that to the node")

    def _ranges(self, one: Statement, permissions: Item) -> None:
        self._count(one, "number", NUMBERS, ioctl_numbers(one, permissions))

    def _count(self, one: Statement, kind: str, limit: int, count: int = 1) -> None:
        self.counts[kind] += count
        if self.counts[kind] > limit:
            raise refused(one, f"makes it over {limit} {kind}s, with what the policy's blocks inherit")

    # --- names --------------------------------------------------------------------------------------------

    def _name(self, one: Statement, at: int) -> str:
        name = word(one, at)
        if not is_name(name):
            raise refused(one, f"has {name} where the name of a type belongs")
        return name

    def _own(self, one: Statement, at: int, path: Path) -> None:
        name = self._name(one, at)
        if not self.any and not self.blocks.find(name, path):
            raise self._foreign(one, name, path)

    def _foreign(self, one: Statement, name: str, path: Path) -> InputFault:
        if not name.startswith(".") and self.blocks.find(f".{name}", path):
            return refused(
                one,
                f"is about {name}, which what is inherited could have too; write .{name} for the module's",
            )
        return refused(
            one,
            f"is about {name}, which the module does not declare; it may say what its own types do {_LIFTED}",
        )

    def _found(self, one: Statement, at: int, path: Path, keyword: str) -> Path:
        """Return what of the module's own a name stands for, if it was declared with the keyword."""
        found = self.blocks.find(self._name(one, at), path)
        if not found or self.blocks.keyword(found) != keyword:
            raise refused(one, f"is about {word(one, at)}, which the module does not declare as a {keyword}")
        return found

    def _target(self, one: Statement, path: Path) -> bool:
        """Return whether a rule's target is the module's own."""
        if part(one, 2) == "self":
            return True
        return bool(self.blocks.find(self._name(one, 2), path))

    def _refuse_many(self, one: Statement, at: int, path: Path) -> None:
        """Refuse an attribute, as far as names tell: types of a node's policy end in _t, or are in blocks."""
        name = word(one, at)
        found = self.blocks.find(name, path)
        if self.blocks.keyword(found) == "typeattribute" if found else not _TYPE.search(name):
            raise refused(one, f"is about {name}, which is or may be an attribute; name a type")

    def _named(self, one: Statement, keyword: str, name: str, path: Path) -> None:
        if not self.blocks.has_set(keyword, name, path):
            raise refused(one, f"names permissions that the module does not declare, {name}")

    def _permissions(self, one: Statement, permissions: Item, guarded: Mapping[str, Collection[str]]) -> None:
        kind, named = class_permissions(one, permissions)
        if self.any or kind not in guarded:
            return
        taken = next((name for name in named if name in guarded[kind] or name in _OPERATORS), "")
        if taken and (guarded is CHANGES_THE_KERNEL or kind in CHANGES_THE_KERNEL):
            raise refused(
                one, f"gives {kind} {taken}; with that a container changes the node's kernel {_LIFTED}"
            )
        if taken:
            raise refused(
                one,
                f"gives {kind} {taken} over what is not the module's; with that a container gets out "
                f"{_LIFTED}",
            )

    # --- once all statements are known --------------------------------------------------------------------

    def _refuse_others_names(self) -> None:
        """Refuse blocks that other modules would inherit where they mean the node's."""
        for one in self.roots:
            if not self.any and (name := word(one, 1)) in self.bases:
                raise refused(
                    one, f"has the name of a block that others inherit, {name}; choose another one {_LIFTED}"
                )

    def _refuse_unbound(self) -> None:
        for path, block in self.blocks.filled.items():
            for name, keyword in block.types.items():
                if keyword == "typealias" and (*path, name) not in self.edges["typealiasactual"]:
                    whole = ".".join((*path, name))
                    raise InputFault(
                        Reason.POLICY_REFUSED,
                        f"the alias {whole} stands for nothing; say what with typealiasactual",
                    )

    def _refuse_circles(self) -> None:
        for kind, edges in self.edges.items():
            # attributes and bounds may go by aliases
            circle = _circle({**self.edges["typealiasactual"], **edges})
            if circle:
                raise InputFault(Reason.POLICY_REFUSED, f"{'.'.join(circle)} leads in a circle by {kind}")


def _circle(edges: Mapping[Path, list[Path]]) -> Path:
    """Return one that leads back to itself, or to one that does; () where all lead to an end."""
    left = {one: set(following) for one, following in edges.items()}
    while left:
        ends = {one for one, following in left.items() if following.isdisjoint(left)}
        if not ends:
            return next(iter(left))
        left = {one: following for one, following in left.items() if one not in ends}
    return ()
