"""SELinux modules, with libsepol itself as the judge of what gets through.

Modules are compiled together with a small policy (policy.cil), as a node would, and what came out is read
back by checkpolicy: no type of that policy may have got or lost anything by a module that passed.
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import pytest
from hauberk.crds.errors import InputFault
from hauberk.profiles import cil, selinux
from hypothesis import event, given, settings
from hypothesis import strategies as st

BASE = Path(__file__).parent / "policy.cil"
PATHS = {"PATH": os.environ["PATH"] + ":/usr/sbin"}


@dataclass(frozen=True)
class Compiled:
    """What a policy gives: its types, and for each type what it may and which attributes it has."""

    types: frozenset[str]
    gives: frozenset[tuple[str, str]]


def installed(folder: Path, module: str = "") -> bool:
    """Return whether libsepol can put a module and the base together, as libsemanage has it do so."""
    (folder / "module.cil").write_text(module)
    words = ["secilc", "-m", "-M", "true", "-c", "33", "-f", "/dev/null", "-o", str(folder / "policy")]
    words += [str(BASE), str(folder / "module.cil")]
    return subprocess.run(words, env=PATHS, capture_output=True, check=False).returncode == 0


def compiled(folder: Path, module: str = "") -> Compiled | None:
    """Return the base with a module, None where libsepol can't put them together."""
    if not installed(folder, module):
        return None
    text = folder / "policy.conf"
    words = ["checkpolicy", "-b", "-M", "-F", "-o", str(text), str(folder / "policy")]
    subprocess.run(words, env=PATHS, check=True, capture_output=True)
    conf = text.read_text()
    return Compiled(frozenset(re.findall(r"^type (\S+);", conf, re.MULTILINE)), frozenset(_given(conf)))


def _given(conf: str) -> Iterator[tuple[str, str]]:
    """Yield who gets what, attributes put out into their types, permissions one by one."""
    members: dict[str, list[str]] = {}
    for name, attributes in re.findall(r"^typeattribute (\S+) ([^;]+);", conf, re.MULTILINE):
        for attribute in attributes.split(", "):
            members.setdefault(attribute, []).append(name)
            yield name, f"is {attribute}"
    for rule, source, target, rights in _RULE.findall(conf):
        for name in members.get(source, [source]):
            yield from ((name, f"{rule} {target} {right}") for right in rights.split())
    for rule, source, rest in _OTHER.findall(conf):
        yield from ((name, f"{rule} {rest}") for name in members.get(source, [source]))
    for role, names in re.findall(r"^role (\S+) types \{ ([^}]+) \};", conf, re.MULTILINE):
        yield from ((name, f"in {role}") for name in names.split())


_RULE = re.compile(
    r"^(allow|auditallow|dontaudit|allowxperm) (\S+) (\S+:\S+) (?:ioctl )?\{ ([^}]+) \};", re.MULTILINE
)
_OTHER = re.compile(
    r"^(type_transition|type_change|type_member|typebounds|permissive) ([^\s;]+) ?([^;]*);", re.MULTILINE
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compiled")


@functools.cache
def before(folder: Path) -> Compiled:
    found = compiled(folder)
    assert found
    return found


def gained(folder: Path, module: str) -> set[tuple[str, str]]:
    after = compiled(folder, module)
    assert after, module
    return {*after.gives - before(folder).gives}


def harm(folder: Path, module: str) -> set[tuple[str, str]]:
    """Return what a module gives to types that the node had before."""
    return {one for one in gained(folder, module) if one[0] in before(folder).types}


def passes(text: str) -> bool:
    try:
        selinux.judge(cil.read(text))
    except InputFault:
        return False
    return True


# --- attacks ---------------------------------------------------------------------------------------


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
        "(in extra (allow process shadow_t (file (read))))",
        "(block x (blockinherit extra) (allow .extra.process shadow_t (file (read))))",
        # names that a block from elsewhere has too
        "(block x (type l) (block i (blockinherit tmpl) (allow l shadow_t (file (read)))))",
        "(block x (type a) (block i (blockinherit tmpl) (allow a shadow_t (file (read)))))",
        "(block x (typeattribute a) (blockinherit tmpl) (allow a shadow_t (file (read))))",
        "(block y (type l)) (block x (blockinherit tmpl) (allow y.l shadow_t (file (read))))",
        # blocks that are the module's by another spelling
        "(block x (type t) (typepermissive init_t))",
    ],
)
def test_ways_around_the_names_are_real_and_refused(folder: Path, text: str):
    assert harm(folder, text)
    assert not passes(text)


OUT = "allow init_t:process transition"


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("(block x (type t) (allow t init_t (.process (transition))))", OUT),
        ("(block process (type t) (allow t init_t (process. (transition))))", OUT),
        ("(block x (type t) (allow t init_t (map (out))))", OUT),
        ("(block x (type t) (classpermission c) (classpermissionset c (map (out))) (allow t init_t c))", OUT),
        ("(block x (type t) (permissionx p (ioctl file (1))) (allow t init_t p))", OUT),
        (
            (
                "(block x (type t) (classpermission q) (classpermissionset q (file (read)))"
                " (block i (blockinherit tmpl) (allow t init_t q)))"
            ),
            OUT,
        ),
        ("(block x (type t) (allow t self (system (module_load))))", "allow self:system module_load"),
        ("(block x (type t) (allow t t (capability2 (mac_admin))))", "allow self:capability2 mac_admin"),
        ("(block x (type t) (allow t self (capability (all))))", "allow self:capability sys_module"),
    ],
)
def test_ways_out_are_real_and_refused(folder: Path, text: str, right: str):
    assert right in {what for _, what in gained(folder, text)}
    assert not passes(text)


def test_a_policy_with_an_empty_file_name_can_not_be_read(folder: Path):
    text = '(block x (type t) (typetransition t t file "" t))'
    assert installed(folder, text)
    with pytest.raises(subprocess.CalledProcessError):
        compiled(folder, text)
    assert not passes(text)


def test_types_beyond_16_bits_are_taken_for_others(folder: Path):
    """The rule is for zz.k525, and of 66,000 types another one gets it."""
    types = "".join(f"(type k{i})" for i in range(1000))
    copies = "".join(f"(block c{i} (blockinherit a))" for i in range(64))
    text = f"(block a {types}) {copies} (block zz (blockinherit a) (allow k525 shadow_t (file (write))))"
    assert not passes(text)
    assert installed(folder, text)
    words = ["checkpolicy", "-b", "-M", "-F", "-o", str(folder / "conf"), str(folder / "policy")]
    done = subprocess.run(words, env=PATHS, check=False, capture_output=True)
    given = re.findall(r"^allow (\S+) shadow_t:file", (folder / "conf").read_text(), re.MULTILINE)
    assert done.returncode or given != ["trusted", "zz.k525"]


# --- what a mode and a flag make of a module -------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "(block demo (blockinherit container) (allow process etc_t (file (read))))",
        "(block demo (type process)) ; a comment at its end",
        "(block a (blockabstract a) (type t)) (block b (blockinherit a) (block i (type u)))",
        "(block x (blockinherit net_container))",
    ],
)
def test_a_permissive_module_is_so_for_its_own_types(folder: Path, text: str):
    module = selinux.judge(cil.read(text))
    made = gained(folder, selinux.permissive(text, module.types))
    assert {name for name, what in made if what == "permissive "} == set(module.types)
    assert made - gained(folder, text) == {(name, "permissive ") for name in module.types}


def test_with_host_types_a_module_gives_what_it_says(folder: Path):
    text = "(block x (type t) (allow init_t shadow_t (file (read))) (allow t self (system (module_load))))"
    assert not passes(text)
    assert selinux.judge(cil.read(text), allow_host_types=True).types == ("x.t",)
    assert gained(folder, text) == {
        ("init_t", "allow shadow_t:file read"),
        ("x.t", "allow self:system module_load"),
    }


# --- whatever passes -------------------------------------------------------------------------------

Texts: TypeAlias = "st.SearchStrategy[str]"


def mostly(usual: str | Texts, *others: str) -> Texts:
    """Return what is seldom one of the others: with each of them a module is likely to be refused."""
    usual = st.just(usual) if isinstance(usual, str) else usual
    return st.one_of(*[usual] * 15, st.sampled_from(others)) if others else usual


OWN = ("process", "l", "a", "u", "y.t", "i.t", "x.t", "y.l", ".y.t", "x.i.t")
HOST = ("init_t", ".init_t", "tmpl.l", "tmpl.process", "extra.process", "domain")
SOURCES = mostly(mostly("t", *OWN), *OWN, *HOST)
TARGETS = mostly(
    st.sampled_from(["shadow_t", "etc_t", "self", ".kernel_t", ".x.t", "t", *OWN[:4]]), *OWN, *HOST
)
RIGHTS = mostly(
    st.sampled_from(["(file (read))", "(dir (search))", "(file (all))", "(process (signal))"]),
    *("(process (transition))", "(.process (transition))", "(process. (ptrace))", "(map (out))", "p", "q"),
    *("(system (module_load))", "((process (transition)))", "(file (and (read) (not (write))))"),
)
RULES = st.one_of(
    st.builds("(allow {} {} {})".format, SOURCES, TARGETS, RIGHTS),
    st.builds("(allow {} {} (file (read)))".format, SOURCES, TARGETS),
    st.builds("(dontaudit {} {} {})".format, SOURCES, TARGETS, RIGHTS),
    st.builds("(allowx {} {} (ioctl file ((range 1 {}))))".format, SOURCES, TARGETS, st.integers(1, 300)),
    st.builds("(typeattributeset {} ({}))".format, mostly(mostly("domain", "a", "x.a"), "trusted"), SOURCES),
    st.builds(
        "(typetransition {} {} {} {})".format,
        SOURCES,
        mostly("etc_t", *OWN, *HOST),
        mostly(st.sampled_from(["file", 'file "name"', "dir"]), "process", "map"),
        mostly("shadow_t", "t", "init_t"),
    ),
    st.builds("(roletype system_r {})".format, SOURCES),
    st.builds("(typebounds t {})".format, mostly(SOURCES, "u")),
)
# Each statement in a line of its own, so that `repaired` can leave it out.
# What can be left out in a node's policy, and with it whatever stands in it.
OPTIONALS = st.builds("(optional o\n{}\n{}\n)".format, RULES, mostly("", "(allow t bogus (file (read)))"))
SAYINGS = st.lists(st.one_of(RULES, RULES, OPTIONALS), max_size=4).map("\n".join)
DECLARED = st.lists(
    st.one_of(
        st.sampled_from(["(type u)", "(type init_t)", "(typeattribute a)\n(typeattributeset a (t))"]),
        SOURCES.map("(typealias l)\n(typealiasactual l {})".format),
        RIGHTS.map("(classpermission p)\n(classpermissionset p {})".format),
    ),
    max_size=3,
).map("\n".join)
ELSEWHERE = st.sampled_from(["container", "net_container", "extra", "tmpl"]).map("(blockinherit {})".format)
BEFORE = st.just("(blockinherit BEFORE)")
INNER = st.one_of(
    st.just(""),
    st.builds("(block i\n(type t)\n{}\n{}\n)".format, DECLARED, SAYINGS),
    st.builds("(block y\n(type t)\n{}\n)".format, SAYINGS),
    st.builds("(block i\n{}\n{}\n)".format, st.one_of(BEFORE, ELSEWHERE), SAYINGS),
)
OUTSIDE = st.builds("(optional o\n{}\n)".format, ELSEWHERE)
MANY = "\n".join(f"(type k{i})" for i in range(30))
LINES = st.sampled_from(["(type t)", "(type t)", "(type l)", "(blockabstract NAME)", MANY])
HEADS = st.lists(st.one_of(LINES, LINES, DECLARED, ELSEWHERE, BEFORE, OUTSIDE, INNER), min_size=1, max_size=4)


def modules() -> Texts:
    """Return modules of up to three blocks, x, y and z, that may inherit the one before."""
    bodies = st.lists(st.tuples(HEADS.map("\n".join), SAYINGS), min_size=1, max_size=3)
    return bodies.map(
        lambda found: "\n".join(_block(*one) for one in zip("xyz", ("w", "x", "y"), found, strict=False))
    )


def _block(name: str, before: str, body: tuple[str, str]) -> str:
    text = "\n".join(body).replace("NAME", name).replace("BEFORE", before)
    # a block may not have the name of the one around it
    return f"(block {name}\n{text.replace(f'(block {name}', '(block j')}\n)"


def repaired(text: str) -> str:
    """Return a module without the statements for which it is refused; '' where it is for another reason."""
    lines = text.split("\n")
    while True:
        try:
            selinux.judge(cil.read("\n".join(lines)))
        except InputFault as fault:
            at = re.match(r"line (\d+): ", fault.message)
            if not at or lines[int(at[1]) - 1].startswith(("(block ", "(optional")):
                return ""
            lines[int(at[1]) - 1] = ""
        else:
            return "\n".join(lines)


@settings(max_examples=1000, deadline=None)
@given(text=modules().map(repaired))
def test_what_passes_gives_nothing_to_the_nodes_types(folder: Path, text: str):
    if not text:
        event("refused")
        return
    module = selinux.judge(cil.read(text))
    after = compiled(folder, text)
    if after is None:
        event("not compiled")
        return
    event("compiled")
    here = before(folder)
    # that init_t is in the attribute of whoever inherits tmpl is that block's doing; nothing comes of it
    harmed = {one for one in after.gives - here.gives if one[0] in here.types}
    assert not {one for one in harmed if not re.fullmatch(r"is [xyz]\.a", one[1])}, text
    assert here.gives <= after.gives
    own = set(after.types - here.types)
    for name, what in after.gives - here.gives:
        led = re.match(r"allow (\S+):(process|system) (transition|ptrace|module_load)$", what)
        assert not led or (led[1] in {"self", *own} and led[2] == "process"), (name, what)
    assert set(module.types) <= after.types
    if (
        "(blockabstract y)" in text and "(blockinherit tmpl)" in text
    ):  # that is about tmpl's own block y, where that is inherited
        own = {one for one in own if not one.startswith("y.")}
    # of blocks from elsewhere: what pods do not run as
    assert {one for one in own if not re.fullmatch(r"[xyz]\.(socket|u|y\.t)", one)} <= set(module.types)
