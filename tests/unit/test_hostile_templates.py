"""Hostile templates and values, all at once beside good ones: those are refused, and nobody else notices.

Each of them alone, with the words of its refusal, is in tests/golden/rejected.
"""

from __future__ import annotations

import asyncio
import resource
from pathlib import Path

import pytest
from hauberk.crds.errors import InputFault
from hauberk.crds.facts import facts_key
from hauberk.crds.models import AppArmor, ProfileSpec, Template
from hauberk.profiles.check import Accepted, Judge, check
from hauberk.profiles.kinds import COMMON
from hauberk.profiles.parser import Parser
from hauberk.profiles.rendering import Renderer

from tests.golden_files import cases

KINDS = {facts_key(one): one for one in COMMON}
# Also what no file shows well: each wants more time, memory, depth or output than it may have.
GREEDY = {
    "doubling a list": "{% set ns = namespace(a=[1]) %}"
    "{% for _ in range(99) %}{% set ns.a = ns.a + ns.a %}{% endfor %}",
    "doubling a text": "{% set ns = namespace(a='aaaaaaaa') %}"
    "{% for _ in range(99) %}{% set ns.a = ns.a ~ ns.a %}{% endfor %}",
    "a number of a million digits": "{{ ('9' * 1000000) | int }}",
    "a number to text": "{{ 10 ** 9999999 }}",
    "a width": "{{ '%999999999d' % 1 }}",
    "batches": "{{ range(9) | batch(99999999, 'x') | list | length }}",
    "slices": "{{ range(9) | slice(99999999) | list | length }}",
    "replacing": "{% set ns = namespace(a='aa') %}"
    "{% for _ in range(64) %}{% set ns.a = ns.a | replace('a', 'aaaa') %}{% endfor %}",
    "deep blocks": "{% if true %}" * 3000 + "{% endif %}" * 3000,
    "deep brackets": "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    "a long chain": "{{ 'a'" + " | upper" * 5000 + " }}",
    "macros that call one another": "{% macro a() %}{{ b() }}{% endmacro %}"
    "{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}",
    "a product of ranges": "{% for a in range(9999) %}"
    "{% for b in range(9999) %}{{ a * b }}{% endfor %}{% endfor %}",
    "sorting": "{{ range(99999) | list | sort(reverse=true) | map('string') | sort | list | length }}"
    "{% for a in range(99999) %}{% set _ = range(99999) | sum %}{% endfor %}",
}
GOOD = "profile good-NUMBER {\n  deny {{ values.dir | aa_path('/**') }} w,\n}\n"


def spec(policy: str, **values: object) -> ProfileSpec:
    return ProfileSpec(
        type="AppArmor", app_armor=AppArmor(policy=policy), template=Template(values=dict(values))
    )


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


HOSTILE = [
    *(case.profile.spec for case in cases("rejected", by="webhook") if case.profile.spec.template),
    *(spec(f"profile greedy {{ file, }}\n{text}\n") for text in GREEDY.values()),
]


@pytest.mark.parametrize("what", GREEDY)
async def test_what_wants_too_much_is_refused(what: str, parser: Parser):
    async with Renderer() as renderer:
        with pytest.raises(InputFault):
            await check(spec(f"profile greedy {{ file, }}\n{GREEDY[what]}\n"), Judge(parser, renderer), KINDS)


@pytest.mark.timeout(180)
async def test_good_templates_do_not_notice_the_hostile_ones(parser: Parser):
    assert len(HOSTILE) >= 45
    async with Renderer() as renderer:
        judge = Judge(parser, renderer)
        slots = asyncio.Semaphore(4)

        async def judged(one: ProfileSpec) -> Accepted | InputFault:
            async with slots:
                try:
                    return await check(one, judge, KINDS)
                except InputFault as fault:
                    return fault

        asked = [spec(GOOD.replace("NUMBER", "first"), dir="/srv/a b")]
        for number, hostile in enumerate(HOSTILE):
            asked += [hostile, spec(GOOD.replace("NUMBER", str(number)), dir=f"/srv/{number} b")]
        await judged(asked[0])
        before = resident()
        answers = await asyncio.gather(*(judged(one) for one in asked))
        grown = resident() - before
    for one, answer in zip(asked, answers, strict=True):
        assert one.app_armor
        assert one.template
        if one.app_armor.policy.startswith("profile good-"):
            assert isinstance(answer, Accepted), answer
            (text,) = answer.texts
            assert text.text.count("deny") == 1
            assert f'deny "{one.template.values["dir"]}/**" w,' in text.text
        else:
            assert isinstance(answer, InputFault), one
    assert grown < 24 << 20  # of what one of the hostile ones asked for, less than a tenth
