"""Templates in their own process: what they may say, and that hostile ones end as a sentence, in time."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hauberk.crds.errors import InputFault
from hauberk.crds.facts import facts_key, visible
from hauberk.crds.models import AppArmorFacts, Facts, OperatingSystem
from hauberk.crds.reasons import Reason
from hauberk.profiles import zygote
from hauberk.profiles.rendering import Renderer

MOST = 128 * 1024
BOOKWORM = Facts(
    os=OperatingSystem(id="debian", version="12", like=""),
    kernel="6.1.0-18-amd64",
    arch="x86_64",
    app_armor=AppArmorFacts(features=["caps", "file", "signal"], enabled=True, host_parser="3.0"),
)
TRIXIE = Facts(
    os=OperatingSystem(id="debian", version="13", like=""),
    kernel="6.12.3-amd64",
    arch="aarch64",
    app_armor=AppArmorFacts(features=["caps", "file", "io_uring"], enabled=True, host_parser="4.0"),
)


@pytest.fixture
async def renderer() -> AsyncIterator[Renderer]:
    async with Renderer() as one:
        yield one


def context(facts: Facts = BOOKWORM, **values: Any) -> dict[str, Any]:
    return {**visible(facts), "values": values}


async def one(renderer: Renderer, template: str, **values: Any) -> str:
    said = (await renderer.render(template, [context(**values)], MOST))[0]
    if isinstance(said, InputFault):
        raise said
    return said


@pytest.mark.parametrize(
    ("template", "values", "expected"),
    [
        ("profile x { }", {}, "profile x { }"),
        ("a\n", {}, "a\n"),
        ("{{ node.os.id }}{{ node.os.version }}", {}, "debian12"),
        ("{{ node.kernel.major }}.{{ node.kernel.minor }}/{{ node.arch }}", {}, "6.1/x86_64"),
        ("{% if 'io_uring' in apparmor.features %}io_uring,{% endif %}", {}, ""),
        ("{{ apparmor.hostParser }}", {}, "3.0"),
        ("[{{ selinux.policy }}{{ selinux.mode }}{{ selinux.mls }}]", {}, "[False]"),
        ("{{ values.dir | aa_path('/**') }} rw,", {"dir": "/var/log"}, '"/var/log/**" rw,'),
        ("{% for c in values.caps %}\ncapability {{ c }},\n{% endfor %}", {"caps": ["a", "b"]},
         "capability a,\ncapability b,\n"),
        ("capability {{ values.caps | join(' ') }},", {"caps": ["a", "b"]}, "capability a b,"),
        ("{% macro rule(p) %}\n{{ p | aa_path }} r,\n{% endmacro %}\n{{ rule('/a b') }}", {}, '"/a b" r,\n'),
        ("{{ values.items }}", {"items": "own"}, "own"),
        ("{{ values.a | default('none') }}", {}, "none"),
        ("{% raw %}/{{a,b}}/x r,{% endraw %}", {}, "/{{a,b}}/x r,"),
        ("{{ values.map | json }}", {"map": {"k": [1, 2]}}, '{"k": [1, 2]}'),
        ("{{ values.n + 1 }}", {"n": 1}, "2"),
    ],
)  # fmt: skip
async def test_what_a_template_makes(
    renderer: Renderer, template: str, values: dict[str, Any], expected: str
):
    assert await one(renderer, template, **values) == expected


async def test_one_text_for_each_kind_of_node(renderer: Renderer):
    template = "{{ node.os.version }}{% if 'io_uring' in apparmor.features %} io_uring,{% endif %}"
    said = await renderer.render(template, [context(BOOKWORM), context(TRIXIE)], MOST)
    assert said == ["12", "13 io_uring,"]


async def test_a_template_that_fails_for_one_kind_of_node_is_good_for_the_others(renderer: Renderer):
    template = "{{ {'12': 'bookworm'}[node.os.version] }}"
    good, bad = await renderer.render(template, [context(BOOKWORM), context(TRIXIE)], MOST)
    assert good == "bookworm"
    assert isinstance(bad, InputFault)
    assert "'13' is not there" in bad.message


HOSTILE: dict[str, tuple[str, Reason, str]] = {
    # time
    "an endless loop": (
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        Reason.POLICY_TOO_SLOW,
        "over 2 seconds",
    ),
    "a slow power": ("{{ (10**100000)**100000 }}", Reason.POLICY_TOO_SLOW, "over 2 seconds"),
    "a macro that calls itself twice": (
        "{% macro a(n) %}{% if n %}{{ a(n-1) }}{{ a(n-1) }}{% endif %}{% endmacro %}{{ a(60) }}",
        Reason.POLICY_TOO_SLOW,
        "over 2 seconds",
    ),
    "a huge range": ("{% for i in range(10**9) %}{% endfor %}", Reason.TEMPLATE_REFUSED, "Range too big"),
    "a macro without end": (
        "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", Reason.TEMPLATE_REFUSED, "calls itself",
    ),
    # memory and size
    "a huge text": ("{{ 'a' * 10**10 }}", Reason.POLICY_TOO_LARGE, "96 MiB"),
    "a huge list": ("{{ ([1] * 10**9) | length }}", Reason.POLICY_TOO_LARGE, "96 MiB"),
    "a text that doubles": (
        "{% set n = namespace(a='aaaaaaaa') %}{% for i in range(60) %}{% set n.a = n.a ~ n.a %}{% endfor %}",
        Reason.POLICY_TOO_LARGE,
        "96 MiB",
    ),
    "too much output": (
        "{% for i in range(99999) %}aaaaaaaaaaaaaaaa{% endfor %}", Reason.POLICY_TOO_LARGE, "131072 bytes",
    ),
    "padding": ("{{ '%1000000000d' % 1 }}", Reason.POLICY_TOO_LARGE, "96 MiB"),
    "padding by format": ("{{ '{:>1000000000}'.format('a') }}", Reason.POLICY_TOO_LARGE, "96 MiB"),
    "padding by a method": ("{{ 'a'.ljust(10**9) }}", Reason.POLICY_TOO_LARGE, "96 MiB"),
    # ways out
    "the class of a text": ("{{ ''.__class__ }}", Reason.TEMPLATE_REFUSED, "reach out"),
    "all classes": ("{{ ().__class__.__base__.__subclasses__() }}", Reason.TEMPLATE_REFUSED, "reach out"),
    "globals of a macro": (
        "{% macro a() %}{% endmacro %}{{ a.__init__.__globals__ }}", Reason.TEMPLATE_REFUSED, "reach out",
    ),
    "a class by the filter attr": ("{{ '' | attr('__class__') }}", Reason.TEMPLATE_REFUSED, "No filter"),
    "a class by map": (
        "{{ [''] | map(attribute='__class__') | list | first }}", Reason.TEMPLATE_REFUSED, "reach out",
    ),
    "a class by format": ("{{ '{0.__class__}'.format('') }}", Reason.TEMPLATE_REFUSED, "reach out"),
    "a class by format_map": (
        "{{ '{a.__class__}'.format_map({'a': 1}) }}", Reason.TEMPLATE_REFUSED, "reach out",
    ),
    "a class by a subscript": ("{{ ''['__class__'] }}", Reason.TEMPLATE_REFUSED, "reach out"),
    "jinja's own": ("{{ self.__init__ }}", Reason.TEMPLATE_REFUSED, "reach out"),
    "the context": ("{{ self._TemplateReference__context }}", Reason.TEMPLATE_REFUSED, "reach out"),
    "lipsum": ("{{ lipsum.__globals__ }}", Reason.TEMPLATE_REFUSED, "'lipsum' is not there"),
    "cycler": ("{{ cycler('a') }}", Reason.TEMPLATE_REFUSED, "'cycler' is not there"),
    "a generator's frame": (
        "{{ (values.l | map('upper')).gi_frame }}", Reason.TEMPLATE_REFUSED, "reach out",
    ),
    "a file": ("{% include '/etc/passwd' %}", Reason.TEMPLATE_REFUSED, "no fragment /etc/passwd"),
    "a file above": ("{% import '../../etc/passwd' as x %}", Reason.TEMPLATE_REFUSED, "no fragment"),
    "a parent": ("{% extends 'values' %}", Reason.TEMPLATE_REFUSED, "no fragment values"),
    "an extension": ("{% do values.clear() %}", Reason.TEMPLATE_REFUSED, "unknown tag 'do'"),
    "debug": ("{% debug %}", Reason.TEMPLATE_REFUSED, "unknown tag 'debug'"),
    "changing a value": ("{{ values.l.append(1) }}", Reason.TEMPLATE_REFUSED, "reach out"),
    "changing all values": ("{{ values.clear() }}", Reason.TEMPLATE_REFUSED, "reach out"),
    # rules out of values
    "a rule": ("{{ values.rule }}", Reason.TEMPLATE_REFUSED, "could end a rule"),
    "a rule in a line of its own": ("{{ values.line }}", Reason.TEMPLATE_REFUSED, "could end a rule"),
    "a rule put together": ("{{ values.l[0] ~ ', /etc/** rw,' }}", Reason.TEMPLATE_REFUSED, "could end"),
    "a rule marked safe": ("{{ values.rule | safe }}", Reason.TEMPLATE_REFUSED, "No filter named 'safe'"),
    "a rule by escape": ("{{ values.rule | e }}", Reason.TEMPLATE_REFUSED, "No filter named 'e'"),
    "a rule by replace": ("{{ 'a' | replace('a', values.rule) }}", Reason.TEMPLATE_REFUSED, "could end"),
    "a rule by join": ("{{ [values.rule] | join(',') }}", Reason.TEMPLATE_REFUSED, "could end a rule"),
    "a rule by a separator": ("{{ ['a', 'b'] | join(values.rule) }}", Reason.TEMPLATE_REFUSED, "separator"),
    "a rule by a block": (
        "{% set r %}{% raw %}a, /** rw,{% endraw %}{% endset %}{{ r }}", Reason.TEMPLATE_REFUSED, "could end",
    ),
    "a rule in a path": ("{{ values.line | aa_path }}", Reason.TEMPLATE_REFUSED, "no absolute path"),
    "a rule in a suffix": (
        "{{ '/a' | aa_path('\" rw, \"/etc/**') }}", Reason.TEMPLATE_REFUSED, "has quotes",
    ),
    "a rule by format": (
        "{{ ('/{0}' | aa_glob).format(values.quoted) }} r,", Reason.TEMPLATE_REFUSED, "could end a rule",
    ),
    "a rule by format_map": (
        "{{ ('/{a}' | aa_glob).format_map({'a': values.quoted}) }} r,",
        Reason.TEMPLATE_REFUSED,
        "could end a rule",
    ),
    "a rule after autoescape": (
        "{% autoescape true %}{{ values.rule }}{% endautoescape %}", Reason.TEMPLATE_REFUSED, "could end",
    ),
    "a name of CIL's": ("{{ values.cil | cil_name }}", Reason.TEMPLATE_REFUSED, "no CIL name"),
}  # fmt: skip
VALUES = {
    "rule": "a, /etc/** rw,",
    "line": "a,\n/etc/** rw,",
    "quoted": 'a" r,\n/etc/** rw,\n"/b',
    "l": ["x"],
    "cil": "a) (allow domain file_type (file (all))",
}


@pytest.mark.parametrize(("template", "reason", "words"), HOSTILE.values(), ids=HOSTILE.keys())
async def test_a_hostile_template_is_refused(renderer: Renderer, template: str, reason: Reason, words: str):
    began = time.monotonic()
    with pytest.raises(InputFault) as refused:
        await one(renderer, template, **VALUES)
    assert refused.value.reason == reason, refused.value.message
    assert words in refused.value.message
    assert "site-packages" not in refused.value.message
    # Not its speed: that the limit of a job ended it and not the patience with a zygote that hangs.
    assert time.monotonic() - began < zygote.SECONDS + 2.5
    assert await one(renderer, "{{ 1 }}") == "1"


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("\n{% from 'apparmor.j2' import userns %}\n\n{{ userns() }}", "line 4: 'apparmor' is not there"),
        ("{% if 1 %}" * 150 + "{% endif %}" * 150, "too many levels of indentation; look for what nests"),
        ("{{ " + "(" * 9000 + "1" + ")" * 9000 + " }}", "or nests too deeply"),
        ("{% macro a(b, b) %}{% endmacro %}", "a name that is given twice"),
    ],
)
async def test_a_fault_is_told_of_the_templates_own_lines(renderer: Renderer, template: str, words: str):
    with pytest.raises(InputFault) as refused:
        await one(renderer, template)
    assert words in refused.value.message


async def test_a_hostile_template_holds_up_nobody(renderer: Renderer):
    await one(renderer, "{{ 1 }}")  # its process is there
    slow = asyncio.create_task(one(renderer, HOSTILE["an endless loop"][0]))
    await asyncio.sleep(0.1)
    assert [await one(renderer, "{{ 1 }}") for _ in range(10)] == ["1"] * 10
    assert not slow.done()
    with pytest.raises(InputFault):
        await slow


def child_of(process: int) -> int:
    (child,) = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return int(child)


async def test_a_template_that_does_not_get_a_processor_is_not_called_endless():
    async with Renderer(seconds=1.0) as renderer:
        await one(renderer, "{{ 1 }}")  # its process is there
        waiting = asyncio.create_task(one(renderer, HOSTILE["an endless loop"][0]))
        await asyncio.sleep(0.2)
        os.kill(child_of(process_of(renderer)), signal.SIGSTOP)
        with pytest.raises(InputFault, match="over 1 seconds on a machine that is busy") as late:
            await waiting
    assert late.value.reason == Reason.POLICY_TOO_SLOW


async def test_who_kills_the_process_does_not_take_others_with_it(renderer: Renderer):
    await one(renderer, "{{ 1 }}")
    slow = asyncio.create_task(one(renderer, HOSTILE["an endless loop"][0]))
    await asyncio.sleep(0.1)
    os.killpg(process_of(renderer), signal.SIGKILL)
    with pytest.raises(InputFault, match="over 2 seconds"):  # judged again, by itself
        await slow
    assert await one(renderer, "{{ 1 }}") == "1"


async def test_no_process_is_left_behind():
    async with Renderer() as renderer:
        slow = asyncio.create_task(one(renderer, HOSTILE["an endless loop"][0]))
        await asyncio.sleep(0.3)
        group = process_of(renderer)
        slow.cancel()
    async with asyncio.timeout(5):  # what was killed is gone when the kernel has got to it
        while running(group):  # noqa: ASYNC110 - nobody tells of it
            await asyncio.sleep(0.01)


def process_of(renderer: Renderer) -> int:
    process = renderer._process  # pyright: ignore[reportPrivateUsage]
    assert process
    return process.pid


def running(group: int) -> list[str]:
    """Return the processes of a group; what has ended and nobody asked about does not count."""
    stats = [one.read_text().rpartition(")")[2].split() for one in Path("/proc").glob("[0-9]*/stat")]
    return [state for state, _, found, *_ in stats if int(found) == group and state not in "ZX"]


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        (BOOKWORM, BOOKWORM, True),
        (Facts(kernel="6.1.0-18-amd64"), Facts(kernel="6.1.0-21-amd64"), True),
        (Facts(kernel="6.1.0"), Facts(kernel="6.2.0"), False),
        (BOOKWORM, TRIXIE, False),
        (Facts(), Facts(lsms=["apparmor"]), True),
    ],
)
def test_nodes_that_look_alike_to_a_template_share_their_text(before: Facts, after: Facts, same: bool):
    assert (facts_key(before) == facts_key(after)) is same


def test_a_kernel_without_a_number_is_no_fault():
    assert visible(Facts(kernel="custom"))["node"]["kernel"] == {"major": 0, "minor": 0}
