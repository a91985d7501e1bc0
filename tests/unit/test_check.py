"""What may be published: each rule with texts that the real parser takes, and the ways around the rules."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hauberk.crds.errors import Fault, InputFault
from hauberk.crds.facts import facts_key
from hauberk.crds.models import AppArmor, Facts, OperatingSystem, ProfileSpec, Seccomp, SELinux, Template
from hauberk.crds.names import PROTECTED, text_id
from hauberk.crds.reasons import Reason
from hauberk.profiles.check import POLICY_BYTES, Accepted, Judge, check, refuse_defined, refuse_text
from hauberk.profiles.compiled import Defined
from hauberk.profiles.includes import includes
from hauberk.profiles.kinds import COMMON, COMMON_OF
from hauberk.profiles.parser import Parser, fault_message
from hauberk.profiles.rendering import Renderer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


def spec(policy: str, mode: str = "Enforce") -> ProfileSpec:
    return ProfileSpec(type="AppArmor", app_armor=AppArmor(policy=policy, mode=mode))


@pytest.mark.parametrize(
    ("policy", "names"),
    [
        ("profile a { file, }", {"a"}),
        ("# a comment\n\nprofile a { file, } # another\n", {"a"}),
        ("profile a { file, }\nprofile b { file, }", {"a", "b"}),
        ("profile a { ^h { file, } hat g { file, } }", {"a", "a//h", "a//g"}),
        ("profile a { profile c { file, } }", {"a", "a//c"}),
        # a child is reached from its parent only, so its path confines nothing by itself
        ("profile a { profile /usr/bin/c { file, } }", {"a", "a///usr/bin/c"}),
        ("profile a { profile c /usr/bin/c { file, } }", {"a", "a//c"}),
        ('profile "a b" { file, }', {"a b"}),
        ('profile "a (enforce)" { file, }', {"a (enforce)"}),
        ('profile "ä" { file, }', {"ä"}),
        (f"profile {'n' * 256} {{ file, }}", {"n" * 256}),
        ("profile a flags=(attach_disconnected,mediate_deleted) { file, }", {"a"}),
        ("profile a flags=(audit) { file, }", {"a"}),
        ("profile a flags=(kill) { file, }", {"a"}),
        ("abi <abi/3.0>,\ninclude <tunables/global>\nprofile a { include <abstractions/base>\n }", {"a"}),
        ("#include <tunables/global>\nprofile a { #include <abstractions/base>\n }", {"a"}),
        ("include <tunables/global>\nprofile a { include if exists <local/none>\n }", {"a"}),
        ("profile a { /usr/include/** r,\n /opt/abi/x r,\n}", {"a"}),
        ("# include the base abstractions (see below), includes are fine\nprofile a { file, }", {"a"}),
        ("# the abi: of the kernel\nprofile a { file, }", {"a"}),
        ("@{include}=/x\nprofile a { @{include} r, }", {"a"}),
        ("\n".join(f"profile p{n} {{ }}" for n in range(64)), {f"p{n}" for n in range(64)}),
    ],
)
async def test_taken(parser: Parser, policy: str, names: set[str]):
    assert set((await check(spec(policy), Judge(parser, Renderer()), {})).names) == names


@pytest.mark.parametrize(
    ("policy", "reason", "said"),
    [
        (
            "",
            Reason.POLICY_EMPTY,
            "the policy defines no profile; it needs one `profile NAME { ... }` at least",
        ),
        (" \n\t\n", Reason.POLICY_EMPTY, "the policy defines no profile"),
        ("# nothing\n", Reason.POLICY_EMPTY, "the policy defines no profile"),
        ("garbage", Reason.POLICY_REFUSED, "line 1: syntax error"),
        (
            "profile a {\n\n capability flying,\n}",
            Reason.POLICY_REFUSED,
            "line 3: Invalid capability flying.",
        ),
        ("profile a {\n file\n}", Reason.POLICY_REFUSED, "line 3: syntax error"),
        ("profile a {", Reason.POLICY_REFUSED, "unexpected end of file"),
        # which its scanner dies of, with the exit code for a missing file
        (f'profile a {{ "/{"x" * 17_000}" r, }}', Reason.POLICY_REFUSED, "in it is too long"),
        (f"profile a {{{' ' * 17_000}}}", Reason.POLICY_REFUSED, "a run of blanks in it is too long"),
        ("profile a { /** r,\0 }", Reason.POLICY_REFUSED, "the policy holds a NUL character; remove it"),
        ("\ufeffprofile a { }", Reason.POLICY_REFUSED, "line 1: Lexer found unexpected character"),
        ("profile a { }\nprofile a { }", Reason.POLICY_REFUSED, "Multiple definitions for profile a"),
        ("profile a {\n /x ix,\n /x px,\n}", Reason.POLICY_REFUSED, "profile a: has merged rule"),
        (
            "\n".join(f"profile p{n} {{ }}" for n in range(65)),
            Reason.POLICY_TOO_LARGE,
            "the policy defines 65 profiles, at most 64 are allowed",
        ),
        # attachments, in all spellings
        ("/usr/bin/x { file, }", Reason.ATTACHMENT_REFUSED, "write `profile NAME {` without a path"),
        ('"/usr/bin/x" { file, }', Reason.ATTACHMENT_REFUSED, "attaches to programs of the host"),
        ("profile /usr/bin/x { file, }", Reason.ATTACHMENT_REFUSED, "attaches to programs of the host"),
        ('profile "\\x2fusr/bin/x" { file, }', Reason.ATTACHMENT_REFUSED, "attaches to programs of the host"),
        ("profile x /usr/bin/x { file, }", Reason.ATTACHMENT_REFUSED, "profile x attaches"),
        ("profile x /** { file, }", Reason.ATTACHMENT_REFUSED, "profile x attaches"),
        (
            "profile {/bin,/usr/bin}/x { file, }",
            Reason.ATTACHMENT_REFUSED,
            "attaches to programs of the host",
        ),
        ("@{B}=/bin\nprofile x @{B}/y { }", Reason.ATTACHMENT_REFUSED, "profile x attaches"),
        ("@{B}=/bin /sbin\nprofile @{B}/y { }", Reason.ATTACHMENT_REFUSED, "attaches to programs"),
        ("alias /a -> /bin,\nprofile x /a/y { }", Reason.ATTACHMENT_REFUSED, "profile x attaches"),
        ('profile x /** xattrs=(user.a="b") { }', Reason.ATTACHMENT_REFUSED, "profile x attaches"),
        ("profile ok { }\nprofile x /bin/y { }", Reason.ATTACHMENT_REFUSED, "profile x attaches"),
        # names
        ("profile :n:x { }", Reason.NAME_UNUSABLE, "profile x asks for the policy namespace n"),
        ("profile :n://x { }", Reason.NAME_UNUSABLE, "profile x asks for the policy namespace n"),
        (":n:x { }", Reason.NAME_UNUSABLE, "define it without a namespace"),
        ('profile ":n://\\377" { }', Reason.NAME_UNUSABLE, "asks for the policy namespace n"),
        ('profile "a\\377" { }', Reason.NAME_UNUSABLE, "must be printable"),
        ('profile "a\nb" { }', Reason.NAME_UNUSABLE, "must be printable"),
        ('profile "a\tb" { }', Reason.NAME_UNUSABLE, "must be printable"),
        ('profile "a\u202eb" { }', Reason.NAME_UNUSABLE, "must be printable"),
        (f"profile {'n' * 257} {{ }}", Reason.NAME_UNUSABLE, "at most 256 bytes"),
        (f'profile "{"ä" * 129}" {{ }}', Reason.NAME_UNUSABLE, "at most 256 bytes"),
        ("profile docker-default//x { }", Reason.NAME_PROTECTED, "belongs to the container runtime"),
        (
            "profile a { }\nprofile runc { }",
            Reason.NAME_PROTECTED,
            "profile runc belongs to the container runtime",
        ),
        # modes
        (
            "profile a flags=(complain) { }",
            Reason.MODE_MISMATCH,
            "remove the flag, or set the mode to Complain",
        ),
    ],
)
async def test_refused(parser: Parser, policy: str, reason: Reason, said: str):
    with pytest.raises(InputFault) as caught:
        await check(spec(policy), Judge(parser, Renderer()), {})
    message = fault_message(caught.value)
    assert caught.value.reason is reason, message
    assert said in message
    assert message.isprintable()
    assert len(message.encode()) <= 1024


@pytest.mark.parametrize("name", sorted(PROTECTED))
async def test_the_runtimes_own_names_are_refused(parser: Parser, name: str):
    with pytest.raises(InputFault, match="belongs to the container runtime") as caught:
        await check(spec(f"profile {name} {{ profile c {{ }} }}"), Judge(parser, Renderer()), {})
    assert caught.value.reason is Reason.NAME_PROTECTED


@pytest.mark.parametrize("flags", ["", "flags=(complain)", "flags=(kill)"])
async def test_complain_takes_any_flags(parser: Parser, flags: str):
    assert (
        await check(spec(f"profile a {flags} {{ }}", "Complain"), Judge(parser, Renderer()), {})
    ).names == ("a",)


async def test_a_child_that_only_complains_is_refused(parser: Parser):
    """With `/** cx -> c` the whole of a container would be unconfined, and be called Enforce and Ready."""
    with pytest.raises(InputFault):
        await check(
            spec("profile a { /** cx -> c, profile c flags=(complain) { } }"), Judge(parser, Renderer()), {}
        )


async def test_a_profile_that_confines_nothing_is_refused(parser: Parser):
    with pytest.raises(InputFault):
        await check(spec("profile a flags=(unconfined) { }"), Judge(parser, Renderer()), {})


async def test_a_word_in_a_comment_does_not_make_it_confine(parser: Parser):
    policy = "# default_allow\nprofile a flags=(unconfined) { }"
    with pytest.raises(InputFault, match="would confine nothing"):
        await check(spec(policy), Judge(parser, Renderer()), {})


def test_a_mode_that_no_node_can_serve_is_refused():
    """A kernel shows it as `user`, so that the profile would never be called loaded."""
    with pytest.raises(InputFault, match=r"flags=\(prompt\), which asks a program") as told:
        refuse_defined([Defined("a", "prompt")], "Enforce")
    assert told.value.reason is Reason.MODE_MISMATCH


async def test_a_child_of_someone_elses_profile_is_refused(parser: Parser):
    with pytest.raises(InputFault):
        await check(spec("profile host//child { }"), Judge(parser, Renderer()), {})


MODULE = "(block x (type process) (roletype system_r process))"


async def test_a_module_has_its_types_as_names_and_a_seccomp_profile_none(parser: Parser):
    module = ProfileSpec(type="SELinux", selinux=SELinux(policy=MODULE))
    assert (await check(module, Judge(parser, Renderer()), {})).names == ("x.process",)
    filtered = ProfileSpec(type="Seccomp", seccomp=Seccomp(policy='{"defaultAction": "SCMP_ACT_ERRNO"}'))
    accepted = await check(filtered, Judge(parser, Renderer()), {})
    assert (accepted.names, len(accepted.texts)) == ((), 1)


async def test_what_others_inherit_has_its_blocks_as_names(parser: Parser):
    policy = "(block base (blockabstract base) (type process))"
    one = ProfileSpec(type="SELinux", selinux=SELinux(policy=policy, allow_host_types=True))
    assert (await check(one, Judge(parser, Renderer()), {})).names == ("base",)
    block = SELinux(policy=policy, allow_host_types=True, mode="Permissive")
    lenient = ProfileSpec(type="SELinux", selinux=block)
    with pytest.raises(InputFault, match="declares no type that could be permissive") as caught:
        await check(lenient, Judge(parser, Renderer()), {})
    assert caught.value.reason is Reason.MODE_MISMATCH


async def test_a_permissive_module_comes_with_a_warning(parser: Parser):
    one = ProfileSpec(type="SELinux", selinux=SELinux(policy=MODULE, mode="Permissive"))
    (sentence,) = (await check(one, Judge(parser, Renderer()), {})).advice
    assert "spec.selinux.mode is Permissive" in sentence


@pytest.mark.parametrize("kind", ["SELinux", "Seccomp"])
async def test_templates_of_every_type_are_tried_on_common_kinds_and_rendered_for_those_there(
    parser: Parser, kind: str
):
    if kind == "SELinux":
        block = SELinux(policy="{% if selinux.policy == 'targeted' %}" + MODULE + "{% endif %}")
        spec = ProfileSpec(type=kind, selinux=block, template=Template())
    else:
        text = '{"defaultAction": "{{ values.action }}"}'
        template = Template(values={"action": "SCMP_ACT_ERRNO"})
        spec = ProfileSpec(type=kind, seccomp=Seccomp(policy=text), template=template)
    async with Renderer() as renderer:
        judge = Judge(parser, renderer)
        assert (await check(spec, judge, {})).texts == ()
        kinds = {facts_key(one): one for one in COMMON_OF[kind]}
        accepted = await check(spec, judge, kinds)
    assert accepted.kinds == kinds.keys()
    assert accepted.names == (("x.process",) if kind == "SELinux" else ())


@pytest.mark.parametrize(("letter", "count"), [("x", POLICY_BYTES + 1), ("ä", POLICY_BYTES // 2 + 1)])
def test_size_counts_in_bytes(letter: str, count: int):
    refuse_text(letter * (POLICY_BYTES // len(letter.encode())))
    with pytest.raises(InputFault, match="at most 131072 are allowed; split it up") as caught:
        refuse_text(letter * count)
    assert caught.value.reason is Reason.POLICY_TOO_LARGE


# --- includes ----------------------------------------------------------------------------------------------

ESCAPES = [
    'profile a { include "FILE"\n }',
    "profile a { include FILE\n }",
    "profile a { #include FILE\n }",
    'profile a { #include "FILE"\n }',
    'profile a { #include"FILE"\n }',
    "profile a { #includeFILE\n }",
    "profile a { #include\tFILE\n }",
    'profile a { #include\n"FILE"\n }',
    'profile a { include\t\n\n "FILE"\n }',
    'profile a { include \r\n "FILE"\n }',
    'profile a { include if exists "FILE"\n }',
    "profile a { #include if exists FILE\n }",
    'profile a { include\tif \t exists\t\n"FILE"\n }',
    "profile a { include <abstractions/../../..FILE>\n }",
    "profile a { include <../..FILE>\n }",
    "profile a { include ../..FILE\n }",
    'profile a { include <"../..FILE">\n }',
    "profile a { include < ../..FILE >\n }",
    'profile a { include "\\x2fFILE"\n }',
    'profile a { "/x" r, # "\n include "FILE"\n }',
    'profile a { /x#y r, include "FILE"\n }',
    'profile a { "/x\n# " r, include "FILE"\n }',
    'profile a { "/x\n#" r,\ninclude "FILE"\n }',
    'profile a { change_profile ->\n# , include "FILE"\n }',
    'profile a { file,include "FILE"\n }',
    'profile a { include "FILE" # <abstractions/base>\n }',
    "include <tunables/global>\ninclude FILE\nprofile a { }",
    'abi "FILE",\nprofile a { }',
    'abi"FILE",\nprofile a { }',
    "abi FILE,\nprofile a { }",
    "abiFILE,\nprofile a { }",
    'abi\n"FILE",\nprofile a { }',
    'abi # x\n "FILE",\nprofile a { }',
    "abi <../..FILE> ,\nprofile a { }",
    'profile b { }\nabi "FILE",\nprofile a { }',
    'profile a { abi "FILE",\n }',
]


def opens(parser: Parser, policy: str, file: Path) -> bool:
    """Return whether the parser looks into `file`: whether it matters that nobody can tell what is in it."""
    outcomes: set[object] = set()
    for content in (None, "capability sys_admin,\n", "@{{{{,"):
        if content is None:
            file.unlink(missing_ok=True)
        else:
            file.write_text(content)
        try:
            outcomes.add(asyncio.run(parser.compile(policy, "Enforce")))
        except Fault as fault:
            outcomes.add(fault.message)
    return len(outcomes) > 1


@pytest.mark.parametrize("policy", ESCAPES)
def test_no_include_leaves_the_abstractions(policy: str):
    policy = policy.replace("FILE", "/tmp/x/secret")
    with pytest.raises(
        InputFault, match=r"^IncludeRefused: line \d+: include .* leaves the abstractions"
    ) as caught:
        refuse_text(policy)
    assert caught.value.reason is Reason.INCLUDE_REFUSED
    assert fault_message(caught.value).isprintable()


def test_the_ways_out_are_real(parser: Parser, tmp_path: Path):
    """Most of what is refused above would have been opened: else the table would test nothing."""
    file = tmp_path / "secret"
    led_out = [text for text in ESCAPES if opens(parser, text.replace("FILE", str(file)), file)]
    assert len(led_out) > len(ESCAPES) / 2


WORDS = st.sampled_from(
    [
        "include",
        "#include",
        "# ",
        "#",
        '"',
        "\n",
        " ",
        "\t",
        "\r\n",
        "FILE",
        "<",
        ">",
        "if exists",
        "abi",
        ",",
        "/x r,",
        "change_profile -> ",
        "x",
        "\\",
        "<abstractions/base>",
        "^h {",
        "}",
        "@{X}=",
        "set rlimit nproc <= ",
        "(",
        ")",
    ]
)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(WORDS, max_size=9))
def test_what_is_not_refused_opens_nothing_else(parser: Parser, tmp_path: Path, parts: list[str]):
    file = tmp_path / "secret"
    policy = "profile a {\n " + "".join(parts).replace("FILE", str(file)) + "\n}\n"
    try:
        refuse_text(policy)
    except InputFault:
        return
    if "abi" in policy or "include" in policy:
        assert not opens(parser, policy, file)


@pytest.mark.parametrize(
    ("policy", "found"),
    [
        ("", []),
        ("include <a>\n\n#include <b/c>\n", [(1, "<a>"), (3, "<b/c>")]),
        ("abi <abi/3.0>,\n", [(1, "<abi/3.0>,")]),
        ("include if exists <local/x>", [(1, "<local/x>")]),
        ("x\ninclude\n\n  /etc/passwd\n", [(4, "/etc/passwd")]),
        ("/usr/include /a r,", []),
        ("# included, includes", []),
    ],
)
def test_includes_are_found_with_their_lines(policy: str, found: list[tuple[int, str]]):
    assert includes(policy) == found


# --- templates ---

BOOKWORM = Facts(os=OperatingSystem(id="debian", version="12"), kernel="6.1.0", arch="x86_64")
TRIXIE = Facts(os=OperatingSystem(id="debian", version="13"), kernel="6.12.0", arch="x86_64")
SID = Facts(os=OperatingSystem(id="debian"), kernel="6.16.0", arch="aarch64")


def template(policy: str, **values: Any) -> ProfileSpec:
    block = AppArmor(policy=policy)
    return ProfileSpec(type="AppArmor", app_armor=block, template=Template(values=values))


async def accepted(parser: Parser, wanted: ProfileSpec, *facts: Facts) -> Accepted:
    async with Renderer() as renderer:
        return await check(wanted, Judge(parser, renderer), {facts_key(one): one for one in facts})


async def test_a_template_makes_one_text_for_all_that_get_the_same(parser: Parser):
    policy = "profile a { {% if node.os.version == '12' %}file, {% endif %}}"
    found = await accepted(parser, template(policy), BOOKWORM, TRIXIE, SID)
    assert [(one.text, one.facts, one.names) for one in found.texts] == [
        ("profile a { file, }", [facts_key(BOOKWORM)], ["a"]),
        ("profile a { }", [facts_key(TRIXIE), facts_key(SID)], ["a"]),
    ]
    assert found.unrendered == ()
    assert found.kinds == {facts_key(one) for one in (BOOKWORM, TRIXIE, SID)}
    assert [one.id for one in found.texts] == [text_id(one.text) for one in found.texts]


async def test_a_template_that_is_wrong_for_one_kind_is_good_for_the_others(parser: Parser):
    policy = "profile a {\n{% if node.os.version == '13' %} fil,{% endif %}\n}"
    found = await accepted(parser, template(policy), BOOKWORM, TRIXIE)
    assert [one.facts for one in found.texts] == [[facts_key(BOOKWORM)]]
    (wrong,) = found.unrendered
    assert wrong.facts == [facts_key(TRIXIE)]
    assert wrong.reason == Reason.POLICY_REFUSED
    assert wrong.message.startswith("apparmor_parser refuses the policy: line 2:")


async def test_kinds_with_the_same_fault_are_told_together(parser: Parser):
    policy = "profile a {\n{{ values.of[node.os.version] }}\n}"
    found = await accepted(parser, template(policy, of={"12": ""}), BOOKWORM, TRIXIE, SID)
    kinds = {"'13' is not there": [facts_key(TRIXIE)], "'' is not there": [facts_key(SID)]}
    assert {
        one.message.partition("line 2: ")[2].partition(";")[0]: one.facts for one in found.unrendered
    } == kinds


async def test_a_template_that_is_wrong_for_all_is_refused_and_says_for_which(parser: Parser):
    with pytest.raises(
        InputFault, match=r"for debian 12 .*: jinja2 refuses the template: line 1: 'nope'"
    ) as told:
        await accepted(parser, template("{{ nope }}"), BOOKWORM, TRIXIE)
    assert told.value.reason is Reason.TEMPLATE_REFUSED


@pytest.mark.parametrize(
    "policy", ["profile a { }", "profile a { {% if node.os.id == 'debian' %}file,{% endif %} }"]
)
async def test_without_nodes_a_template_passes_for_common_ones(parser: Parser, policy: str):
    assert await accepted(parser, template(policy)) == Accepted()


async def test_without_nodes_a_template_that_no_node_could_take_is_refused(parser: Parser):
    with pytest.raises(InputFault, match="for debian 12"):
        await accepted(parser, template("profile a { fil, }"))


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (template("profile {{ values.name }} { }", name="runc"), Reason.NAME_PROTECTED),
        (template("profile a {{ values.path | aa_path }} { }", path="/bin/sh"), Reason.ATTACHMENT_REFUSED),
        (
            template("include {{ values.path | aa_path }}\nprofile a { }", path="/etc/x"),
            Reason.INCLUDE_REFUSED,
        ),
        (template("profile a flags=({{ values.flag }}) { }", flag="unconfined"), Reason.MODE_MISMATCH),
        (template("{# nothing #}"), Reason.POLICY_EMPTY),
        (template("profile a { }", large="x" * 70_000), Reason.POLICY_TOO_LARGE),
    ],
)
async def test_what_is_refused_of_a_text_is_refused_of_a_rendered_one(
    parser: Parser, wanted: ProfileSpec, reason: Reason
):
    with pytest.raises(InputFault) as told:
        await accepted(parser, wanted, BOOKWORM)
    assert told.value.reason is reason, told.value.message


async def test_too_many_texts_are_refused(parser: Parser):
    kinds = [Facts(kernel=f"6.{number}") for number in range(65)]
    with pytest.raises(InputFault, match="makes 65 texts"):
        await accepted(parser, template("profile a { } # {{ node.kernel.minor }}\n"), *kinds)


async def test_common_kinds_differ():
    assert len({facts_key(one) for one in COMMON}) == len(COMMON)
