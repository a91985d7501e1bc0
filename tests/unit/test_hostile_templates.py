"""Templates and values of someone who wants out, all memory, all time, or a rule more: each ends as a fault.

Beyond tests/unit/test_rendering.py: each goes through `check` as a profile would, and the same process of the
renderer's serves a good one right after. What ends it is said in the message, so no clock is looked at.
"""

from __future__ import annotations

import asyncio
import gc
import resource
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hauberk.crds.errors import InputFault
from hauberk.crds.facts import facts_key
from hauberk.crds.models import AppArmor, ProfileSpec, Template
from hauberk.crds.reasons import Reason
from hauberk.profiles.check import Accepted, Judge, check
from hauberk.profiles.kinds import COMMON
from hauberk.profiles.parser import Parser
from hauberk.profiles.rendering import Renderer

# What may come of a template: a reason, and a part of the message; one of several.
Outcomes = tuple[tuple[Reason, str], ...]

KIND = {facts_key(COMMON[0]): COMMON[0]}
RULE = 'a" r,\n  /etc/** rw,\n  "/b'
VALUES: dict[str, Any] = {
    "rule": RULE,
    "line": "a,\n  /etc/** rw,",
    "list": ["a", "b"],
    "map": {"k": 1},
    "big": "x" * 60_000,
    "path": "/a",
    "dunder": "__class__",
    "format": "{0.__class__}",
    "null": None,
}
SLOW = ((Reason.POLICY_TOO_SLOW, "over 2 seconds of processor time; look for a loop without end"),)
# Which limit comes first depends on the machine, so what meets another one may meet that of time instead.
MEMORY = ((Reason.POLICY_TOO_LARGE, "over 96 MiB of memory; look for what grows"), *SLOW)
LARGE = ((Reason.POLICY_TOO_LARGE, "makes more than the 131072 bytes"), *SLOW)
DEEP = ((Reason.TEMPLATE_REFUSED, "it calls itself without end, or nests too deeply"), *SLOW)
BUSY = (*MEMORY, *DEEP)
OUT = ((Reason.TEMPLATE_REFUSED, "can't reach out of the policy"),)
GATE = ((Reason.TEMPLATE_REFUSED, "has characters that could end a rule; write it with a filter"),)


def refused(words: str) -> Outcomes:
    return ((Reason.TEMPLATE_REFUSED, words),)


def no(what: str) -> Outcomes:
    return refused(f"No filter named '{what}'")


def opened(tag: str, times: int, end: str) -> str:
    return tag * times + end * times


ENDLESS: dict[str, tuple[str, Outcomes]] = {
    "loops in loops": (opened("{% for i in range(100) %}", 9, "{% endfor %}"), SLOW),
    "an integer's power": ("{{ 2 ** (10 ** 9) }}", BUSY),
    "padding by percent": ("{{ '%99999999d' % 1 }}", BUSY),
    "slices without end": ("{{ [1] | slice(10**9) | list | length }}", BUSY),
    "a list summed up": ("{{ ([[1] * 1000] * 50000) | sum(start=[]) | length }}", BUSY),
    "a title of megabytes": ("{{ ('a ' * 10**7) | title | length }}", BUSY),
    "lists in lists": (
        ("{% set n = namespace(a=[]) %}{% for i in range(100000) %}{% set n.a = [n.a] %}{% endfor %}"
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}{{ n.a | json }}"),
        BUSY,
    ),
    "a fragment again and again": (
        ("{% for i in range(100000) %}{% for j in range(100) %}{% include 'apparmor.j2' %}{% endfor %}"
        "{% endfor %}"),
        SLOW,
    ),
    "a sum of thirty thousand": ("{{ 1" + "+1" * 30_000 + " }}", BUSY),
    "a huge range": ("{% for i in range(10**10) %}{% endfor %}", refused("Range too big")),
}  # fmt: skip
GROWING: dict[str, tuple[str, Outcomes]] = {
    "a batch of a billion": ("{{ [1] | batch(10**9, 0) | list | length }}", MEMORY),
    "replace of each by all": ("{{ values.big | replace('x', values.big) | length }}", MEMORY),
    "replace of nothing": (
        (
            "{% set n = namespace(a='ab') %}{% for i in range(60) %}{% set n.a = n.a | replace('', n.a) %}"
            "{% endfor %}"
        ),
        MEMORY,
    ),
    "the method replace": ("{{ values.big.replace('x', values.big) | length }}", MEMORY),
    "join by itself": ("{{ values.big.join(values.big) | length }}", MEMORY),
    "translate": ("{{ ('a' * 10**5).translate({97: 'b' * 10**5}) | length }}", MEMORY),
    "center": ("{{ 'a'.center(10**10) }}", MEMORY),
    "zfill": ("{{ 'a'.zfill(10**10) }}", MEMORY),
    "tabs": ("{{ '\\t'.expandtabs(2**30) }}", MEMORY),
    "a method by another name": ("{% set f = 'a'.ljust %}{{ f(10**10) }}", MEMORY),
    "a star in a format": ("{{ '%*d' % (10**9, 1) }}", MEMORY),
    "digits behind the point": ("{{ '{:.1000000000f}'.format(1.5) }}", MEMORY),
    "a list that doubles": (
        "{% set n = namespace(a=[1]) %}{% for i in range(60) %}{% set n.a = n.a + n.a %}{% endfor %}",
        MEMORY,
    ),
    "a split of megabytes": ("{{ ('a,' * 10**7).split(',') | length }}", MEMORY),
    "bytes of a number": ("{{ (1).to_bytes(10**10, 'big') }}", MEMORY),
    "a number's digits": ("{{ 10 ** 5000 }}", refused("Exceeds the limit (4300 digits)")),
    "a number of digits": ("{{ " + "9" * 100_000 + " }}", refused("Exceeds the limit (4300 digits)")),
    "a number of hex digits": ("{{ ('f' * 10**7) | int(base=16) }}", refused("Exceeds the limit")),
    "a flood of lines": ("{% for i in range(100000) %}deny /{{ i }} r,\n{% endfor %}", LARGE),
    "a flood of JSON": ("{{ range(100000) | list | json }}", LARGE),
    "a flood by join": ("{{ range(100000) | join(', ') }}", LARGE),
    "a flood of one piece": ("{{ 'a' * 200000 }}", LARGE),
}
NESTED: dict[str, tuple[str, Outcomes]] = {
    "conditions": (opened("{% if 1 %}", 5000, "{% endif %}"), DEEP),
    "conditions, fewer": (opened("{% if 1 %}", 150, "{% endif %}"), refused("look for what nests deeply")),
    "loops": (opened("{% for i in [1] %}", 25, "{% endfor %}"), refused("look for what nests deeply")),
    "parentheses": ("{{ " + "(" * 20_000 + "1" + ")" * 20_000 + " }}", DEEP),
    "brackets": ("{{ " + "[" * 3000 + "]" * 3000 + " }}", DEEP),
    "macros": (
        "".join(f"{{% macro m{n}() %}}" for n in range(2000)) + "{% endmacro %}" * 2000, DEEP,
    ),
    "negations": ("{{ " + "not " * 20_000 + "1 }}", DEEP),
    "signs": ("{{ " + "-" * 30_000 + "1 }}", DEEP),
    "filters": ("{{ 'a'" + "|upper" * 4000 + " }}", DEEP),
    "a macro in itself": ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", DEEP),
    "a block in itself": ("{% block a %}{{ self.a() }}{% endblock %}", DEEP),
    "a loop in itself": ("{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}", DEEP),
    "callers": (
        ("{% macro a() %}{{ caller() }}{% endmacro %}{% macro b() %}{% call a() %}{{ b() }}{% endcall %}"
        "{% endmacro %}{{ b() }}"),
        DEEP,
    ),
}  # fmt: skip
ESCAPES: dict[str, tuple[str, Outcomes]] = {
    "a class by a value": ("{{ ''[values.dunder] }}", OUT),
    "a class put together": ("{{ ''['__cl' ~ 'ass__'] }}", OUT),
    "a class by escapes": ("{{ ''['\\x5f\\x5fclass\\x5f\\x5f'] }}", OUT),
    "a class of a wide alphabet": ("{{ ''.\uff3f\uff3fclass\uff3f\uff3f }}", refused("Invalid character")),
    "a class by groupby": ("{{ values.list | groupby('__class__') | list }}", OUT),
    "a class by sort": ("{{ values.list | sort(attribute='__class__') | list }}", OUT),
    "a class by max": ("{{ values.list | max(attribute='__class__') }}", OUT),
    "a class by sum": ("{{ values.list | sum(attribute='__class__') }}", OUT),
    "a class by selectattr": ("{{ values.list | selectattr('__class__') | list }}", OUT),
    "a class by unique": ("{{ values.list | unique(attribute='__class__') | list }}", OUT),
    "a class by map": ("{{ values.list | map(attribute='__class__') | map('string') | join }}", OUT),
    "a class by map and attr": ("{{ values.list | map('attr', '__class__') | list }}", no("attr")),
    "a filter attribute": ("{{ values.list | map('attribute', '__class__') | list }}", no("attribute")),
    "format of a value": ("{{ values.format.format('') }}", OUT),
    "format by another name": ("{% set f = '{0.__class__.__mro__}'.format %}{{ f(1) }}", OUT),
    "format in a format": ("{{ '{0:{1.__class__}}'.format(1, '') }}", OUT),
    "format by an index": ("{{ '{0[__class__]}'.format({}) }}", OUT),
    "format of a macro": ("{% macro a() %}{0.__class__}{% endmacro %}{{ a().format(1) }}", OUT),
    "format of a filter": ("{{ ('/{0.__class__}' | aa_glob).format(1) }}", OUT),
    "format_map by another name": ("{% set f = '{a.__class__}'.format_map %}{{ f({'a': 1}) }}", OUT),
    "format as a filter": ("{{ '%s' | format(1) }}", no("format")),
    "a namespace's class": ("{% set n = namespace() %}{{ n.__class__ }}", OUT),
    "a namespace's insides": ("{% set n = namespace() %}{{ n._Namespace__attrs }}", OUT),
    "a loop's class": ("{% for i in values.list %}{{ loop.__class__ }}{% endfor %}", OUT),
    "a loop's frame": ("{% for i in values.list %}{{ loop._iterator.gi_frame }}{% endfor %}", OUT),
    "the base of dict": ("{{ dict.__base__ }}", OUT),
    "the order of dict's bases": ("{{ dict.mro() }}", OUT),
    "a macro's function": ("{% macro a() %}{% endmacro %}{{ a._func.__globals__ }}", OUT),
    "a macro's environment": ("{% macro a() %}{% endmacro %}{{ a._environment }}", OUT),
    "a caller's class": (
        "{% macro a() %}{{ caller.__class__ }}{% endmacro %}{% call a() %}{% endcall %}", OUT,
    ),
    "a fragment's class": ("{% import 'apparmor.j2' as f %}{{ f.__class__ }}", OUT),
    "a fragment's insides": ("{% import 'apparmor.j2' as f %}{{ f._body_stream }}", OUT),
    "a fragment's context": (
        "{% import 'apparmor.j2' as f with context %}{{ f.values.rule }}", refused("'values' is not there"),
    ),
    "a hidden name of a fragment": (
        "{% from 'apparmor.j2' import __class__ %}", refused("can not be imported"),
    ),
    "a fragment by a value": ("{% import values.path as f %}", refused("there is no fragment /a")),
    "nothing's class": ("{{ none.__class__ }}", OUT),
    "what is missing's class": ("{{ nope.__class__ }}", OUT),
    "a method's text": ("{{ 'a'.upper.__self__ }}", OUT),
    "a generator's code": ("{{ (values.list | map('upper')).gi_code }}", OUT),
    "a codec's module": ("{{ 'a'.encode('idna') }}", OUT),
    "changing by another name": ("{% set c = values.map.clear %}{{ c() }}", OUT),
    "changing by pop": ("{{ values.map.pop('k') }}", OUT),
    "an attribute of a namespace": (
        "{% set n = namespace() %}{% set n.__class__ = dict %}{{ n }}", refused("the value is no text"),
    ),
}  # fmt: skip
INJECTED: dict[str, tuple[str, Outcomes]] = {
    "through an argument": ("{% macro a(x) %}{{ x }}{% endmacro %}{{ a(values.line) }}", GATE),
    "through a default of a macro's": ("{% macro a(x=values.line) %}{{ x }}{% endmacro %}{{ a() }}", GATE),
    "through more arguments": ("{% macro a() %}{{ varargs[0] }}{% endmacro %}{{ a(values.line) }}", GATE),
    "through a caller": (
        "{% macro a() %}{{ caller(values.line) }}{% endmacro %}{% call(x) a() %}{{ x }}{% endcall %}", GATE,
    ),
    "through with": ("{% with a = values.line %}{{ a }}{% endwith %}", GATE),
    "through a block": ("{% block a scoped %}{{ values.line }}{% endblock %}", GATE),
    "through a set block": ("{% set a %}{{ values.line }}{% endset %}{{ a }}", GATE),
    "through default": ("{{ nope | default(values.line) }}", GATE),
    "through max": ("{{ [('/a' | aa_path), values.line] | max }}", GATE),
    "behind a filter's text": ("{{ ('/a' | aa_path) ~ values.line }}", GATE),
    "by adding": ("{{ ('/a' | aa_path) + values.line }}", GATE),
    "by percent": ("{{ ('/%s' | aa_glob) % values.rule }}", GATE),
    "by format": ("{{ ('/{0}' | aa_glob).format(values.rule) }} r,", GATE),
    "by format_map": ("{{ ('/{a}' | aa_glob).format_map({'a': values.rule}) }} r,", GATE),
    "by format of JSON": ("{{ (['{0}'] | json).format(values.rule) }}", GATE),
    "by format of a macro's text": ("{% macro a() %}{0}{% endmacro %}{{ a().format(values.rule) }}", GATE),
    "by replace": ("{{ ('/a' | aa_path) | replace('a', values.rule) }}", GATE),
    "by translate": ("{{ 'a'.translate({97: values.line}) }}", GATE),
    "by taking quotes away": ("{{ ('/a, /etc/** rw, b' | aa_path) | trim('\"') }}", GATE),
    "by a slice": ("{{ ('/a, /etc/** rw, b' | aa_path)[1:] }}", GATE),
    "by reverse": ("{{ ('/a' | aa_path) | reverse }}", GATE),
    "letter by letter": ("{% for c in values.line %}{{ c }}{% endfor %}", GATE),
    "by join's method": ("{{ ('/a' | aa_path).join(['x', values.line]) }}", GATE),
    "by markup": (
        "{% autoescape true %}{% set b %}x{% endset %}{{ b ~ values.line }}{% endautoescape %}", GATE,
    ),
    "as bytes": ("{{ values.line.encode() }}", refused("the value is no text")),
    "as a generator": ("{{ values.list | map('upper') }}", refused("the value is no text")),
    "as a null": ("{{ values.null }}", refused("a null can't be written")),
    "as a suffix": ("{{ '/a' | aa_path(suffix=values.rule) }}", refused("has quotes")),
    "as a glob": ("{{ ('/' ~ values.rule) | aa_glob }}", refused("has quotes")),
    "as a path": ("{{ ('/' ~ values.line) | aa_path }}", refused("has control characters")),
    "as a name": ("{{ values.line | aa_name }}", refused("must be printable")),
    "as CIL": ("{{ ('/' ~ values.rule) | cil_path }}", refused("has control characters")),
    "as CIL's name": ("{{ values.line | cil_name }}", refused("no CIL name")),
    "as a separator": ("{{ values.list | join(values.rule) }}", refused("is no separator")),
    "as an item": ("{{ [values.line] | join(', ') }}", GATE),
    "by a backslash": ("{{ '/a\\\\' | aa_path }} w, {{ ' w, /etc/** rw, #' | json }}", refused("backslash")),
}  # fmt: skip
HOSTILE = {
    f"{group}: {name}": case
    for group, cases in (
        ("endless", ENDLESS), ("growing", GROWING), ("nested", NESTED), ("out", ESCAPES), ("rule", INJECTED),
    )
    for name, case in cases.items()
}  # fmt: skip


@pytest.fixture
async def judge(parser: Parser) -> AsyncIterator[Judge]:
    async with Renderer() as renderer:
        yield Judge(parser, renderer)


def profile(template: str) -> ProfileSpec:
    block = AppArmor(policy=f"profile x {{\n  file,\n{template}\n}}\n")
    return ProfileSpec(type="AppArmor", app_armor=block, template=Template(values=VALUES))


async def good(judge: Judge, number: int = 0) -> None:
    """Have a good template made a text of, and look whether it is the right one."""
    wanted = profile(f"deny {{{{ values.path | aa_path('/{number}/**') }}}} w,")
    found: Accepted = await check(wanted, judge, KIND)
    assert [one.text for one in found.texts] == [f'profile x {{\n  file,\ndeny "/a/{number}/**" w,\n}}\n']


def process_of(judge: Judge) -> int:
    process = judge.renderer._process  # pyright: ignore[reportPrivateUsage]
    assert process
    return process.pid


@pytest.mark.parametrize(("template", "expected"), HOSTILE.values(), ids=HOSTILE.keys())
async def test_it_ends_as_a_fault_and_the_process_goes_on(judge: Judge, template: str, expected: Outcomes):
    await good(judge)
    before = process_of(judge)
    with pytest.raises(InputFault) as told:
        await check(profile(template), judge, KIND)
    message = told.value.message
    assert [words for reason, words in expected if told.value.reason is reason and words in message], message
    await good(judge, 1)
    assert process_of(judge) == before


def test_there_are_many():
    assert len(HOSTILE) >= 100


# Refused of what a template may well write: what the text becomes is judged like any other.
@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("include {{ '/etc/shadow' | aa_path }}", Reason.INCLUDE_REFUSED),
        ("include {{ '/etc/*' | aa_glob }}", Reason.INCLUDE_REFUSED),
        ("include {{ '/etc/shadow' | json }}", Reason.INCLUDE_REFUSED),
        ("{{ '/#include </etc/shadow>' | aa_path }} r,", Reason.INCLUDE_REFUSED),
        ("}\nprofile {{ 'docker-default' | aa_name }} {", Reason.NAME_PROTECTED),
        ("}\nprofile {{ 'crun' | json }} {", Reason.NAME_PROTECTED),
        ("}\nprofile y {{ '/bin/*' | aa_glob }} {", Reason.ATTACHMENT_REFUSED),
        ("}\nprofile y flags=({{ 'complain' }}) {", Reason.MODE_MISMATCH),
        ("{{ {'a': 'profile runc {'} | json }}", Reason.POLICY_REFUSED),
    ],
)
async def test_what_it_may_write_is_judged(judge: Judge, template: str, reason: Reason):
    with pytest.raises(InputFault) as told:
        await check(profile(template), judge, KIND)
    assert told.value.reason is reason, told.value.message


def memory() -> int:
    """Return the bytes of memory that this process has in use."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


async def test_many_at_once_hold_up_no_good_one_and_cost_this_process_nothing(judge: Judge):
    """What each of them may use is used in a child; here arrives a sentence, or at most a policy's text."""
    await good(judge)
    templates = list(ENDLESS.values())[:2]
    templates += [case for group in (GROWING, NESTED, ESCAPES, INJECTED) for case in group.values()]
    gc.collect()
    before = memory()
    pending = asyncio.Semaphore(8)

    async def hostile(template: str) -> None:
        async with pending:
            with pytest.raises(InputFault):
                await check(profile(template), judge, KIND)

    async def fine(number: int) -> None:
        async with pending:
            await good(judge, number)

    async with asyncio.TaskGroup() as tasks:
        for number, (template, _) in enumerate(templates):
            tasks.create_task(hostile(template))
            if number % 3 == 0:
                tasks.create_task(fine(number))
    gc.collect()
    assert memory() - before < 32 << 20
