"""SELinux modules: what is refused, with libsepol itself as the judge of what gets through.

Modules are compiled together with a small policy (policy.cil), and what came out is read back by checkpolicy:
no type of that policy may have got a rule or an attribute by a module that passed.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hauberk.crds.errors import InputFault, NodeFault
from hauberk.crds.reasons import Reason
from hauberk.profiles import cil, selinux
from hauberk.profiles.sandbox import Limits
from hauberk.profiles.secilc import Secilc, words
from hypothesis import event, given, settings
from hypothesis import strategies as st

BASE = Path(__file__).parent / "policy.cil"


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
        ("(block net_container (optional o (typeattributeset domain (process))))", (), ()),
        # a block of its own that others inherit
        ("(block a (blockabstract a) (type t)) (block b (blockinherit a))", ("b.t",), ()),
        ("(block a (type t)) (block b (blockinherit a) (allow t a.t (file (read))))", ("a.t", "b.t"), ()),
        ("(block a (block i (type t))) (block b (blockinherit a))", ("a.i.t", "b.i.t"), ()),
        # attributes, aliases and permissions of its own
        (
            (
                "(block x (type t) (typeattribute a) (typeattributeset a (t)) (typealias l)"
                " (typealiasactual l t) (allow a l (file (read))) (expandtypeattribute (a) true))"
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
        ("(block x (type t) (typepermissive t))", ("x.t",), ()),
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
        ("(block x (typepermissive init_t))", f"typepermissive {OF_THE_NODE}"),
        ("(block x (expandtypeattribute (domain) true))", "expandtypeattribute is about domain"),
        ("(block x (type a.b))", "type declares a.b"),
        ("(block x (typeattribute all))", "typeattribute declares all"),
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
        # permissions
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
            "this module's own a within an optional",
        ),
        ("(block a (blockabstract b)) (block b)", "blockabstract is about b, and stands in a"),
        # forms
        ("(block x (allow process))", "allow lacks a part"),
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
    """Each block twice in the next: 2**40 statements in two thousand characters."""
    doubled = "".join(f"(block b{i} (blockinherit b{i - 1}) (blockinherit b{i - 1}))" for i in range(1, 41))
    assert refused(f"(block b0 (type t)){doubled}").startswith("PolicyTooLarge: with what its blocks inherit")
    long = "".join(f"(block b{i} (blockinherit b{i - 1}))" for i in range(3000, 0, -1))
    assert refused(f"{long}(block b0 (type t))").startswith("PolicyTooLarge: over 32 blocks inherit")
    members = "(type t) (typeattribute a) (typeattributeset a (" + "t " * 30_000 + "))"
    many = "".join(f"(block b{i} (blockinherit b))" for i in range(1000))
    assert refused(f"(block b {members}){many}").startswith("PolicyTooLarge: with what its blocks inherit")


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
        await selinux.check_text(text, Secilc())
    assert caught.value.message.startswith("secilc refuses the policy: ")
    assert expected in caught.value.message
    assert "/dev/fd" not in caught.value.message


async def test_secilc_has_limits_and_must_be_there():
    with pytest.raises(NodeFault, match=r"nope can't be started"):
        await Secilc(program="nope").read("(block x)")
    with pytest.raises(InputFault, match="gave up: the policy took over 16 MiB") as caught:
        await Secilc(limits=Limits(memory=16 << 20)).read("".join(f"(block x{i})" for i in range(10_000)))
    assert caught.value.reason is Reason.POLICY_TOO_SLOW


def test_words_are_one_line_without_the_file():
    said = "Open parenthesis without matching close at line 3 of /dev/fd/7\nFailure adding /dev/fd/7\n"
    assert words(said, "/dev/fd/7") == "line 3: Open parenthesis without matching close"


# --- libsepol's word -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Compiled:
    """What a policy gives: its types, and for each type what it may and which attributes it has."""

    types: frozenset[str]
    gives: frozenset[tuple[str, str]]


def compiled(folder: Path, module: str = "") -> Compiled | None:
    """Return the base with a module, None where libsepol can't put them together."""
    (folder / "module.cil").write_text(module)
    files = [str(BASE), *([str(folder / "module.cil")] if module else [])]
    binary, text = folder / "policy", folder / "policy.conf"
    paths = {"PATH": os.environ["PATH"] + ":/usr/sbin"}
    words = ["secilc", "-M", "true", "-c", "33", "-f", "/dev/null", "-o", str(binary), *files]
    done = subprocess.run(words, env=paths, capture_output=True, text=True, check=False)
    if done.returncode:
        return None
    words = ["checkpolicy", "-b", "-M", "-F", "-o", str(text), str(binary)]
    subprocess.run(words, env=paths, check=True, capture_output=True)
    conf = text.read_text()
    types = frozenset(re.findall(r"^type (\S+);", conf, re.MULTILINE))
    return Compiled(types, frozenset(_given(conf)))


def _given(conf: str) -> Iterator[tuple[str, str]]:
    """Yield who gets what, attributes put out into their types, permissions one by one."""
    members: dict[str, list[str]] = {}
    for name, attributes in re.findall(r"^typeattribute (\S+) ([^;]+);", conf, re.MULTILINE):
        for attribute in attributes.split(", "):
            members.setdefault(attribute, []).append(name)
            yield name, f"is {attribute}"
    for source, target, rights in re.findall(r"^allow (\S+) (\S+:\S+) \{ ([^}]+) \};", conf, re.MULTILINE):
        for name in members.get(source, [source]):
            for right in rights.split():
                yield name, f"may {target} {right}"
    for source, rest in re.findall(r"^type_transition (\S+) ([^;]+);", conf, re.MULTILINE):
        for name in members.get(source, [source]):
            yield name, f"becomes {rest}"
    for role, names in re.findall(r"^role (\S+) types \{ ([^}]+) \};", conf, re.MULTILINE):
        for name in names.split():
            yield name, f"in {role}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compiled")


def harm(folder: Path, module: str) -> set[tuple[str, str]]:
    """Return what a module gives to types that the node had before."""
    before, after = compiled(folder), compiled(folder, module)
    assert before
    assert after, module
    return {one for one in after.gives - before.gives if one[0] in before.types}


@pytest.mark.parametrize(
    "text",
    [
        # a type that is gone with its optional, and whose name is then the node's
        (
            "(block x (type p) (optional o (type init_t) (allow p bogus (file (read))))"
            " (allow init_t shadow_t (file (read))))"
        ),
        "(block x (typealias a) (typealiasactual a init_t) (allow a shadow_t (file (read))))",
        # what looks like a comment, or like no class
        "(block x ; a\r(allow init_t shadow_t (file (read)))\n)",
        '(block x (type init_t2) ; "\r(type init_t) "\n (allow init_t shadow_t (file (read))))',
        '(block x (typetransition init_t etc_t "process" shadow_t))',
        "(block x (typeattribute a) (typeattributeset a (all)) (allow a shadow_t (file (read))))",
        "(block x (type t) (typeattributeset trusted (not (t))))",
        "(block x (macro m ((type a)) (allow a shadow_t (file (read)))) (call m (init_t)))",
        "(in other (allow process shadow_t (file (read))))",
        "(block x (blockinherit other) (allow .other.process shadow_t (file (read))))",
    ],
)
def test_ways_around_the_names_are_real_and_refused(folder: Path, text: str):
    assert harm(folder, text)
    assert refused(text)


NAMES = ["t", "t", "t", "process", "u", "init_t", "a", "x.t", "y.t", "other.t", "other.process"]
BLOCKS = ["x", "y", "other", "container"]


def _statements(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    name, block = st.sampled_from(NAMES), st.sampled_from(BLOCKS)
    simple, attribute = st.sampled_from(["u", "init_t", "v"]), st.sampled_from(["a", "domain", "x.a"])
    return st.one_of(
        simple.map("(type {})".format),
        st.builds("(allow {} {} (file (read)))".format, name, st.sampled_from(["shadow_t", "self", "t"])),
        st.builds("(typeattributeset {} ({}))".format, attribute, name),
        block.map("(blockinherit {})".format),
        st.builds("(typealias l{0}) (typealiasactual l{0} {1})".format, st.integers(0, 9), name),
        st.builds("(optional o{} {})".format, st.integers(0, 3), inner),
        st.builds("(block {0} {1} {2})".format, block, inner, st.sampled_from(["", "", "(type t)"])),
        st.builds("(typetransition {} etc_t file shadow_t)".format, name),
        st.just("(allow t bogus (file (read)))"),
    )


ABSTRACT = st.sampled_from(["", "", "", "(blockabstract x)", "(blockabstract y)"])
BODIES = st.recursive(
    st.just(""),
    lambda inner: st.lists(_statements(inner), min_size=1, max_size=6).map(" ".join),
    max_leaves=12,
)
MODULES = st.lists(
    st.builds("(block {} {})".format, st.sampled_from(BLOCKS[:2]), BODIES), min_size=1, max_size=3
)


@settings(max_examples=1500, deadline=None)
@given(text=MODULES.map(" ".join))
def test_what_passes_gives_nothing_to_the_nodes_types(folder: Path, text: str):
    try:
        module = selinux.judge(cil.read(text))
    except InputFault:
        event("refused")
        return
    after, before = compiled(folder, text), compiled(folder)
    assert before
    if after is None:
        event("not compiled")
        return
    event("compiled")
    assert not {one for one in after.gives - before.gives if one[0] in before.types}, text
    assert set(module.types) <= after.types
    own = {one for one in after.types - before.types if one.rpartition(".")[2] not in selinux.PRESUMED}
    assert own <= set(module.types)
