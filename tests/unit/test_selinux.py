"""SELinux modules: what passes, and what is refused in which words. test_selinux_compiled.py has attacks."""

from __future__ import annotations

import contextlib
import re
import time

import pytest
from hauberk.crds.errors import InputFault, NodeFault
from hauberk.crds.reasons import Reason
from hauberk.profiles import cil, selinux
from hauberk.profiles.blocks import NAMES
from hauberk.profiles.sandbox import Limits
from hauberk.profiles.secilc import Secilc, words


def refused(text: str) -> str:
    with pytest.raises(InputFault) as caught:
        selinux.judge(cil.read(text))
    return f"{caught.value.reason}: {caught.value.message}"


# --- what passes -----------------------------------------------------------------------------------

UDICA = """
(block web
  (blockinherit container)
  (blockinherit net_container)
  (allow process etc_t (file (read)))
  (optional logs (allow process shadow_t (dir (search)))))
"""


@pytest.mark.parametrize(
    ("text", "types", "inherits"),
    [
        (UDICA, ("web.process",), ("container", "net_container")),
        ("(block x (type process) (type data))", ("x.process", "x.data"), ()),
        ("(block x (type t) (block y (type u) (allow u t (file (read)))))", ("x.t", "x.y.u"), ()),
        # what a block from elsewhere gives, where that is known
        (
            "(block x (type t) (blockinherit net_container) (allow t etc_t (file (read))))",
            ("x.t",),
            ("net_container",),
        ),
        (
            "(block x (type process) (type d) (blockinherit container) (allow process d (file (read))))",
            ("x.process", "x.d"),
            ("container",),
        ),
        ("(block x (blockinherit base) (allow process socket (file (read))))", ("x.process",), ("base",)),
        (
            "(block x (blockinherit container) (optional o (blockinherit tty_container)))",
            ("x.process",),
            ("container", "tty_container"),
        ),
        (
            (
                "(block x (type t)) (block y (blockinherit container) (allow process x.t (file (read)))"
                " (allow .x.t process (file (read))))"
            ),
            ("x.t", "y.process"),
            ("container",),
        ),
        # a block of its own that others inherit
        ("(block a (blockabstract a) (type t)) (block b (blockinherit a))", ("b.t",), ()),
        ("(block a (type t)) (block b (blockinherit a) (allow t a.t (file (read))))", ("a.t", "b.t"), ()),
        ("(block a (block i (type t))) (block b (blockinherit a))", ("a.i.t", "b.i.t"), ()),
        # attributes, aliases and permissions of its own
        (
            (
                "(block x (type t) (typeattribute a) (typeattributeset a (t)) (typealias l)"
                " (typealiasactual l t) (allow a l (file (read))) (expandtypeattribute (a) false))"
            ),
            ("x.t",),
            (),
        ),
        (
            "(block x (type t) (classpermission p) (classpermissionset p (file (read))) (allow t etc_t p))",
            ("x.t",),
            (),
        ),
        ("(block x (type t) (allowx t etc_t (ioctl file ((range 1 2)))))", ("x.t",), ()),
        ("(block x (type t) (allow t self (process (transition ptrace))))", ("x.t",), ()),
        ("(block x (type t) (typetransition t etc_t file shadow_t))", ("x.t",), ()),
        ("(block x (type t) (permissionx p (ioctl file (range 1 0x2))) (allowx t etc_t p))", ("x.t",), ()),
        # a dot before a name: from outside of all blocks
        ("(block x (type t) (allow .x.t .etc_t (file (read))))", ("x.t",), ()),
        # what only says what is logged
        (
            (
                "(block x (type t) (dontaudit t domain (process (ptrace)))"
                " (auditallow t self (system (module_load))))"
            ),
            ("x.t",),
            (),
        ),
        ("(block x (type t) (roletype system_r t) (dontaudit t shadow_t (file (not (read)))))", ("x.t",), ()),
        ("(block x\r\n ; with the other ends of lines\r\n (type t))\r\n", ("x.t",), ()),
        ('; a ) in a comment\n(block x (type t) (typetransition t etc_t file "a (" shadow_t))', ("x.t",), ()),
    ],
)
async def test_what_passes(text: str, types: tuple[str, ...], inherits: tuple[str, ...]):
    module = await selinux.check_text(text, Secilc())
    assert (module.types, module.inherits) == (types, inherits)


# --- what does not ---------------------------------------------------------------------------------

OF_THE_NODE = "is about init_t, which the module does not declare"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # statements
        ('(block x (filecon "/x" any (u r t ((s0) (s0)))))', "filecon labels what belongs to the node"),
        ("(block x (call m (t)))", "call is not followed"),
        ("(in container (type t))", "in is not followed"),
        ("(block x (macro m () (allow init_t etc_t (file (read)))))", "macro is not followed"),
        ("(block x (boolean b true))", "boolean is a switch of the whole node"),
        ("(block x (type t) (deny t etc_t (file (read))))", "deny takes from other modules"),
        ("(block x (neverallow domain etc_t (file (read))))", "neverallow can break other modules"),
        ("(block x (user u))", "user changes the node's policy for everyone"),
        ("(block x (class c (p)))", "class is not among the statements"),
        ("(block x (optional o (sid s)))", "sid is not among the statements"),
        ("(type t)", "type stands outside of all blocks"),
        ("(block x (()))", "a list is not among the statements"),
        ("(block x t)", "block has t where statements belong"),
        # names
        ("(block x (type t) (allow init_t etc_t (file (read))))", f"line 1: allow {OF_THE_NODE}"),
        ("(block x (type t) (allow .init_t etc_t (file (read))))", "allow is about .init_t"),
        ("(block x (type t) (allow other.process etc_t (file (read))))", "allow is about other.process"),
        ("(block x (typealias a) (typealiasactual a init_t))", f"typealiasactual {OF_THE_NODE}"),
        ("(block x (type t) (typebounds init_t t))", f"typebounds {OF_THE_NODE}"),
        ("(block x (typetransition init_t etc_t process t))", f"typetransition {OF_THE_NODE}"),
        ("(block x (type t) (typetransition t etc_t process init_t))", f"typetransition {OF_THE_NODE}"),
        ("(block x (roletype system_r init_t))", f"roletype {OF_THE_NODE}"),
        ("(block x (type t) (roletype sysadm_r t))", "roletype is for the role sysadm_r"),
        ("(block x (typepermissive init_t))", "typepermissive makes a domain that confines nothing"),
        ("(block x (type t) (typepermissive t))", "typepermissive makes a domain that confines nothing"),
        (
            "(block x (allow process etc_t (file (read))))",
            "allow is about process, which the module does not",
        ),
        (
            "(block x (blockinherit net_container) (allow process etc_t (file (read))))",
            "allow is about process, which the module does not declare",
        ),
        ("(block x (expandtypeattribute (domain) true))", "expandtypeattribute is about domain"),
        ("(block x (type a.b))", "type declares a.b; a name is a letter, then"),
        *(
            (f"(block x (type {name}))", f"type declares {name}, which is a word of the language")
            for name in ("all", "self", "other", "notself", "t1", "h1")
        ),
        ("(block x (type t) (allow all etc_t (file (read))))", "has all where the name of a type belongs"),
        (
            "(block x (type t) (allow t notself (file (read))))",
            "has notself where the name of a type belongs",
        ),
        ("(block x (type t) (allow x..t etc_t (file (read))))", "has x..t where the name of a type belongs"),
        ("(block x (type t) (allow t etc_t. (file (read))))", "has etc_t. where the name of a type belongs"),
        ("(block x (type t) (type t))", "type declares t in x for the second time"),
        ("(block x (type t) (typealias t))", "typealias declares t in x for the second time"),
        ("(block x (classpermission p) (classpermission p))", "declares p in x for the second time"),
        ("(block x (typealias process))", "declares process, which is the name of a type of containers"),
        ("(block x (typealias l))", "the alias x.l stands for nothing"),
        (
            "(block x (type t) (typealias l) (typealiasactual l t) (typealiasactual l t))",
            "gives l a second type",
        ),
        ("(block x (typealias l) (optional o (typealiasactual l t)))", "declares a name within an optional"),
        ("(block x (type t) (typealiasactual t t))", "t, which the module does not declare as a typealias"),
        (
            "(block x (type t) (typeattributeset t (t)))",
            "t, which the module does not declare as a typeattribute",
        ),
        ("(block x (type t) (optional x (allow t t (file (read)))))", "optional has the name of a block, x"),
        ("(block b1 " * 9 + ")" * 9, "has the name of the block around it"),
        ("".join(f"(block b{i} " for i in range(9)) + ")" * 9, "blocks within blocks, deeper than 8"),
        (f"(block x (type {'t' * 255}))", "declares a name that has over 256 characters with its blocks'"),
        # circles
        ("(block x (type t) (typebounds t t))", "x.t leads in a circle by typebounds"),
        ("(block x (type t) (type u) (typebounds t u) (typebounds u t))", "leads in a circle by typebounds"),
        ("(block x (typeattribute a) (typeattributeset a (a)))", "x.a leads in a circle by typeattributeset"),
        ("(block x (typealias l) (typealiasactual l l))", "x.l leads in a circle by typealiasactual"),
        (
            "(block x (typealias l) (typealias m) (typealiasactual l m) (typealiasactual m l))",
            "leads in a circle by typealiasactual",
        ),
        ("(block x.y)", "block declares x.y"),
        ("(block x) (block x)", "block is the second one of the name x"),
        ("(block x (block x))", "block has the name of the block around it, x"),
        # of a block that is not there itself
        (
            "(block x (allow y.t etc_t (file (read))) (block y (blockabstract y) (type t)))",
            "allow is about y.t, which the module does not declare",
        ),
        (
            "(block y (blockabstract y) (block z (type t))) (block x (allow y.z.t etc_t (file (read))))",
            "allow is about y.z.t, which the module does not declare",
        ),
        # attributes
        ("(block x (type t) (typeattributeset trusted (t)))", "the attribute trusted of the node's policy"),
        ("(block x (typeattributeset domain (init_t)))", "puts init_t into domain"),
        ("(block x (type t) (typeattributeset domain (not (t))))", "puts not into domain"),
        ("(block x (typeattribute a) (typeattributeset a (all)))", "puts all into a"),
        # quotes, which libsepol takes off
        ('(block x (type t) (allow t init_t ("process" ("transition"))))', 'has "process" in quotes'),
        ('(block x (type t) (typetransition t etc_t "process" init_t))', 'has "process" in quotes'),
        ('(block x (type t) (blockinherit "container"))', 'blockinherit has "container" in quotes'),
        ('("block" x)', 'has "block" in quotes'),
        # what would be written out on the node
        (
            "(block x (type t) (typeattribute a) (typetransition a etc_t file t))",
            "typetransition is about a, which is or may be an attribute",
        ),
        ("(block x (type t) (typemember t domain dir t))", "typemember is about domain, which is or may be"),
        ("(block x (typeattribute a) (expandtypeattribute a true))", "leave that to the node"),
        (
            "(block x (type t) " + "(typetransition t etc_t file t)" * 257 + ")",
            "typetransition makes it over 256 typetransitions",
        ),
        ("(block x (type t) (type u) " + "(typebounds t u)" * 17 + ")", "makes it over 16 typebounds"),
        (
            "(block x (type t) (allowx t t (ioctl file (range 0 0xffff))))",
            "allowx makes it over 16384 numbers",
        ),
        (
            "(block x (type t) (allowx t t (ioctl file (not (1)))))",
            "has not where a number of 16 bits belongs",
        ),
        # files
        *(
            (
                f"(block x (type t) (typetransition t t file {name} t))",
                f"typetransition has {name} for a file's name",
            )
            for name in ('""', '"a/b"', '"\x7f"', '"ä"', '"' + "a" * 256 + '"')
        ),
        # classes
        *(
            (f"(block x (type t) ({rule}))", "which is none of the kernel's")
            for rule in (
                *("allow t init_t (.process (transition))", "allow t init_t (process. (transition))"),
                *("allow t init_t (map (out))", "allow t init_t ((process (transition)))"),
                *("classpermission p) (classpermissionset p (.process (ptrace))",),
                *("permissionx p (ioctl .file (1))", "allowx t etc_t (ioctl .file (1))"),
                *(
                    "typetransition t etc_t .process init_t",
                    "typechange t etc_t map t",
                    "typemember t t Dir t",
                ),
            )
        ),
        # permissions
        (
            "(block x (type t) (allow t self (system (module_load))))",
            "with that a container changes the node's",
        ),
        (
            "(block x (type t) (allow t t (capability2 (mac_admin))))",
            "gives capability2 mac_admin; with that",
        ),
        (
            "(block x (type t) (allow t self (cap_userns (sys_module))))",
            "gives cap_userns sys_module; with that",
        ),
        ("(block x (type t) (allow t self (capability (all))))", "gives capability all; with that"),
        ("(block x (type t) (allow t etc_t (file (*))))", "gives file *, which can be no permission"),
        (
            "(block x (type t) (permissionx p (ioctl file (1))) (allow t init_t p))",
            "names permissions that the module does not declare, p",
        ),
        ("(block x (type t) (allow t etc_t p))", "names permissions that the module does not declare, p"),
        ("(block x (type t) (allowx t etc_t p))", "names permissions that the module does not declare, p"),
        ("(block x (classpermissionset p (file (read))))", "fills p, which the module does not declare"),
        ("(block x (type t) (allow t init_t (process (transition))))", "gives process transition over"),
        ("(block x (type t) (allow t domain (process (all))))", "gives process all over"),
        ("(block x (type t) (allow t kernel_t (security (not (load_policy)))))", "gives security not over"),
        (
            "(block x (type t) (classpermission p) (classpermissionset p (process (ptrace))))",
            "gives process ptrace over",
        ),
        ("(block x (optional o (block y (type t))))", "block declares a name within an optional"),
        # inheritance
        ("(block a (blockinherit a))", "block a inherits itself"),
        ("(block a (blockinherit b)) (block b (blockinherit a))", "inherits itself"),
        (
            "(block a (type t)) (block b (optional o (blockinherit a)))",
            "is of a within an optional, and its types could be left out",
        ),
        ("(block x (optional o (blockinherit container)))", "is of container within an optional"),
        ("(block x (optional o (optional p (blockinherit base))))", "is of base within an optional"),
        ("(block a (type t)) (block b (blockinherit .a))", "written without a dot before or after it"),
        ("(block a (type t)) (block b (blockinherit a.))", "written without a dot before or after it"),
        ("(block o (block a)) (block b (blockinherit o..a))", "written without a dot before or after it"),
        ("(block a (type t)) (block b (blockinherit a.i))", "is of a.i, and a has no such block"),
        ("(block a) (block b (blockinherit a) (blockinherit a))", "is of a for the second time"),
        (
            "(block a) (block b (blockinherit a)) (block c (blockinherit a) (blockinherit b))",
            "for the second time",
        ),
        (
            "(block b (blockinherit container) (blockinherit container))",
            "is of container for the second time",
        ),
        ("(block a (type t)) (block b (blockinherit a) (type t))", "declares t in b for the second time"),
        ("(block x (block y)) (block y (blockinherit x))", "is inherited into a block of its own name, y"),
        # from elsewhere: its names could be taken for the module's
        (
            "(block x (block i (blockinherit tmpl)))",
            "is of tmpl, which is not the module's, where blocks stand in",
        ),
        (
            "(block x (blockinherit tmpl) (block i))",
            "is of tmpl, which is not the module's, where blocks stand in",
        ),
        (
            "(block a (blockinherit tmpl)) (block x (block i (blockinherit a)))",
            "where blocks stand in one another",
        ),
        (
            "(block x (blockinherit tmpl) (typeattribute a))",
            "not the module's, in a block with a typeattribute",
        ),
        (
            "(block x (blockinherit tmpl) (classpermission q))",
            "not the module's, in a block with a classpermission",
        ),
        (
            "(block y (type t)) (block x (blockinherit tmpl) (allow y.t shadow_t (file (read))))",
            "is about y.t, which what is inherited could have too; write .y.t for the module's",
        ),
        ("(block a (blockabstract b)) (block b)", "blockabstract is about b, and stands in a"),
        # forms
        ("(block x (allow process))", "allow lacks a part"),
        ("(block x (type t) (allow t etc_t (file (read)) (file (write))))", "allow has a part too many"),
        ("(block x (type t) (allow (t) etc_t (file (read))))", "allow has a list where a name belongs"),
        ("(block)", "block lacks a part"),
    ],
)
def test_what_is_refused(text: str, expected: str):
    said = refused(text)
    assert said.startswith(("StatementRefused: line ", "PolicyRefused: ")), said
    assert expected in said


def test_the_line_is_that_of_the_statement():
    assert "line 4: filecon" in refused('(block x\n  ; one\n  (type t)\n  (filecon\n"/x" any ()))')


def test_a_module_without_a_block_is_refused():
    assert refused("; nothing\n").startswith("PolicyEmpty")


def test_what_inheritance_multiplies_is_bounded():
    long = "".join(f"(block b{i} (blockinherit b{i - 1}))" for i in range(3000, 0, -1))
    assert refused(f"{long}(block b0 (type t))").startswith("PolicyTooLarge: over 32 blocks inherit")
    members = "(typeattributeset domain (" + "t " * 30_000 + "))"
    many = "".join(f"(block b{i} (type t) (blockinherit b))" for i in range(30))
    assert refused(f"(block b (blockabstract b) {members}){many}").startswith(
        "PolicyTooLarge: with what its blocks inherit the policy has over 10000 statements or 512 KiB"
    )
    deep = "".join(f"(block b{i} (block i{i} (blockinherit b{i - 1})))" for i in range(1, 12))
    assert refused(f"(block b0) {deep}").startswith("PolicyTooLarge: over 32 blocks inherit")


def test_types_are_counted_after_inheritance():
    """libsepol counts them in 16 bits, and a node's policy has to have room for many modules."""
    types = "".join(f"(type k{i})" for i in range(NAMES // 4))
    copies = "".join(f"(block c{i} (blockinherit a))" for i in range(4))
    assert refused(f"(block a {types}){copies}").startswith(
        f"PolicyTooLarge: with what its blocks inherit the policy has over {NAMES} types"
    )
    assert (
        len(selinux.judge(cil.read(f"(block a {types}){copies[: copies.index('(block c3')]}")).types) == NAMES
    )


@pytest.mark.parametrize(
    "text",
    [
        "(block x " + "()" * 60_000 + ")",
        "".join(f"(block b{i} " for i in range(8)) + "(type t)" + "(allow t t(file(read)))" * 5500 + ")" * 8,
        "(block x(type t)" + ("(allow t " + "a." * 8 + "a(file(read)))") * 3000 + ")",
        "(block x(type t)" + ("(allow t " + "a" * 2040 + "(file(read)))") * 60 + ")",
        "(block x(type t)(typeattribute a)(typeattributeset a(" + "t " * 60_000 + ")))",
        "(block a " + "()" * 5000 + ")" + "".join(f"(block d{i}(blockinherit a))" for i in range(4000)),
        "(block a " + "(block i)" * 1 + ")" + "".join(f"(block d{i}(blockinherit a))" for i in range(4000)),
        "".join(f"(block d{i})" for i in range(4000))
        + "(block z"
        + "".join(f"(blockinherit d{i})" for i in range(3500))
        + ")",
        "(block z(type t)" + ("(optional o" * 60 + "(allow t t(file(read)))" + ")" * 60) * 160 + ")",
    ],
)
def test_judging_takes_little_whatever_the_text(text: str):
    assert len(text) <= 128 * 1024
    begun = time.process_time()
    with contextlib.suppress(InputFault):
        selinux.judge(cil.read(text))
    assert time.process_time() - begun < 2


# --- with the node's types -------------------------------------------------------------------------

NET = "(block net_container (optional o (typeattributeset sandbox_net_domain (process))))"
DESKTOP = "(block x_container (optional o (allow xserver_t process (shm (read)))))"
RUNTIME = (
    "(block container (type process) (type socket) (typeattributeset domain (process))"
    " (allow container_runtime_t process (key (create))))"
)


@pytest.mark.parametrize(
    ("text", "types", "expected"),
    [
        # what udica's templates say
        (NET, (), "puts process into sandbox_net_domain"),
        (DESKTOP, (), "is about xserver_t, which the module does not declare"),
        (RUNTIME, ("container.process", "container.socket"), "is about container_runtime_t"),
        (
            "(block container (type process) (allow process shadow_t (file (read))))",
            ("container.process",),
            "block has the name of a block that others inherit, container",
        ),
        ("(block a (type t) (allow init_t domain (process (transition))))", ("a.t",), "is about init_t"),
        (
            "(block a (type t) (allow t spc_t (process (transition))))",
            ("a.t",),
            "gives process transition over",
        ),
        ("(block a (type t) (allow t self (system (module_load))))", ("a.t",), "gives system module_load"),
        ("(block a (type t) (typeattributeset trusted (init_t)))", ("a.t",), "the attribute trusted"),
        ("(block a (type t) (typetransition init_t etc_t process t))", ("a.t",), "is about init_t"),
        ("(block a (typealias l) (typealiasactual l init_t))", (), "is about init_t"),
    ],
)
async def test_host_types_may_be_allowed(text: str, types: tuple[str, ...], expected: str):
    assert expected in refused(text)
    module = await selinux.check_text(text, Secilc(), allow_host_types=True)
    assert module.types == types


@pytest.mark.parametrize(
    "text",
    [
        *('(block x (filecon "/x" any (u r t ((s0) (s0)))))', "(block x (user u))", "(type t)"),
        *(
            "(block x (boolean b true))",
            "(block x (class c (p)))",
            "(block x (sid s))",
            "(in container (type t))",
        ),
        *(
            "(block x (typepermissive init_t))",
            "(block x (deny init_t etc_t (file (read))))",
            "(handleunknown allow)",
        ),
        *(
            "(block x (macro m () (type t)))",
            "(block x (call m ()))",
            "(block x (neverallow a b (file (read))))",
        ),
        *("(block x (policycap open_perms))", "(block x (mls true))", "(block x (roletype sysadm_r init_t))"),
        *("(block x (allow all etc_t (file (read))))", "(block x (allow init_t etc_t (map (out))))"),
        *(
            "(block x (typeattributeset domain (not (init_t))))",
            "(block x (constrain (file (read)) (eq t1 t2)))",
        ),
        *(
            "(block x (expandtypeattribute domain false))",
            "(block x (type t) (typetransition t domain file t))",
        ),
    ],
)
def test_what_changes_the_frame_stays_refused(text: str):
    with pytest.raises(InputFault) as caught:
        selinux.judge(cil.read(text), allow_host_types=True)
    assert caught.value.reason is Reason.STATEMENT_REFUSED


def test_what_other_modules_blocks_declare_can_be_told():
    text = "(block x (blockinherit base) (type t) (allow t etc_t (file (read))))"
    assert selinux.judge(cil.read(text)).types == ("x.t", "x.process")
    assert selinux.judge(cil.read(text), bases={"base": ()}).types == ("x.t",)
    assert selinux.judge(cil.read(f"(block a (block b)) {text}")).blocks == ("a", "x")
    with pytest.raises(InputFault, match="the name of a block that others inherit, x"):
        selinux.judge(cil.read(text), bases={"base": (), "x": ()})


# --- its form --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(block x", "line 1: a parenthesis that nothing closes"),
        ("(block x\n(type t)))", "line 2: a closing parenthesis that nothing opened"),
        ('(block x "a\n)', "line 1: a quoted text that does not end in its line"),
        ("block x", "line 1: block stands outside of all parentheses"),
        ("(" * 100 + ")" * 100, "lists within lists, deeper than"),
        ("(" * 100_000, "lists within lists, deeper than"),
        ("\ufeff(block x)", "line 1: a byte order mark stands before the text; save it without one"),
        ("(block x\n\x0b)", "line 2: the character '\\x0b' stands outside of quotes and comments"),
        ("(block x (type t\u00e9))", "line 1: the character '\\xe9' stands outside"),
        (f"(block x (type {'t' * 2049}))", "line 1: a word of 2049 characters; at most 2048"),
        ("(block x (blockinherit " + "a." * 9 + "a))", "line 1: a name with over 8 dots"),
        ("\n;;* lms 1 other.cil\n(block x)", "line 2: marks of lines"),
        # what one of the two readers would take for a comment, and the other would not
        ("(block x\n; a\r(allow init_t etc_t (file (read)))\n)", "line 2: a carriage return without"),
        ('(block x\n; "\r(type init_t) "\n)', "line 2: a carriage return without"),
        ("(block x\r)", "line 1: a carriage return without"),
        ("(block x ;\r", "line 1: a carriage return without"),
    ],
)
async def test_what_is_no_cil(text: str, expected: str):
    with pytest.raises(InputFault, match=re.escape(expected)) as caught:
        await selinux.check_text(text, Secilc())
    assert caught.value.reason is Reason.POLICY_REFUSED
    assert caught.value.message.startswith("the policy is no CIL: ")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(block x\n (type t)\n (allow t (file (read))))", "Invalid syntax; line 3: Bad allow rule"),
        ("(block x (bogus t))", "Error: Unknown keyword bogus"),
        ("(block x (type))", "line 1: Bad type declaration"),
    ],
)
async def test_secilc_has_its_say(text: str, expected: str):
    with pytest.raises(InputFault) as caught:
        await Secilc().read(text)
    assert caught.value.message.startswith("secilc refuses the policy: ")
    assert expected in caught.value.message
    assert "/dev/fd" not in caught.value.message


async def test_secilc_judges_what_passes():
    with pytest.raises(InputFault, match=r"secilc refuses the policy: .*line 1: Bad allow rule"):
        await selinux.check_text("(block x (type t) (allow t t (file (and (read)))))", Secilc())


async def test_secilc_has_limits_and_must_be_there():
    with pytest.raises(NodeFault, match=r"nope can't be started"):
        await Secilc(program="nope").read("(block x)")
    with pytest.raises(InputFault, match="gave up: the policy took over 16 MiB") as caught:
        await Secilc(limits=Limits(memory=16 << 20)).read("".join(f"(block x{i})" for i in range(10_000)))
    assert caught.value.reason is Reason.POLICY_TOO_SLOW


def test_words_are_one_line_without_the_file():
    said = "Open parenthesis without matching close at line 3 of /dev/fd/7\nFailure adding /dev/fd/7\n"
    assert words(said, "/dev/fd/7") == "line 3: Open parenthesis without matching close"
