"""Each wrong SecurityProfile of tests/golden/rejected is refused in the words that it expects."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import pytest
from hauberk.crds.errors import InputFault
from hauberk.crds.facts import facts_key
from hauberk.crds.models import SecurityProfile, decode
from hauberk.profiles.check import Judge, check
from hauberk.profiles.kinds import COMMON
from hauberk.profiles.parser import MESSAGE_BYTES, Parser, fault_message
from hauberk.profiles.rendering import Renderer

from tests.golden_files import Case, rejected

KINDS = {facts_key(one): one for one in COMMON}
ALL = rejected()


@pytest.fixture
async def judge(parser: Parser) -> AsyncIterator[Judge]:
    async with Renderer() as renderer:
        yield Judge(parser, renderer)


@pytest.mark.parametrize("case", rejected("webhook"), ids=lambda case: case.name)
async def test_it_is_refused_in_words_that_help(judge: Judge, case: Case):
    profile = decode(SecurityProfile, case.body)
    with pytest.raises(InputFault) as refused:
        await check(profile.spec, judge, KINDS)
    message = fault_message(refused.value)
    assert case.expect in message
    assert message.isprintable()
    assert len(message.encode()) <= MESSAGE_BYTES
    assert not re.search(r"(?<!\w)/(?:usr|root|etc|tmp)/\S*(?:site-packages|apparmor\.d)", message)


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_its_file_says_what_is_expected(case: Case):
    assert case.by in ("schema", "webhook")
    assert len(case.expect) > 10
    assert case.body["metadata"]["name"] == case.name or case.by == "schema"


def test_there_is_one_for_many_kinds_of_wrong():
    assert len(rejected("schema")) >= 25
    assert len(rejected("webhook")) >= 100
