"""What is refused, in the words that are promised, and what is taken: every file of rejected/ and accepted/.

By the code that the webhook answers with. What the API server refuses by the schema, and all of them through
`kubectl apply`, are in tests/kube/test_refusals.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from hauberk.crds.errors import InputFault
from hauberk.crds.facts import facts_key
from hauberk.profiles.check import Judge, check
from hauberk.profiles.kinds import COMMON
from hauberk.profiles.parser import Parser, fault_message
from hauberk.profiles.rendering import Renderer

from tests.golden_files import Case, cases

KINDS = {facts_key(one): one for one in COMMON}
REJECTED, ACCEPTED = cases("rejected"), cases("accepted")


@pytest.fixture
async def judge(parser: Parser) -> AsyncIterator[Judge]:
    async with Renderer() as renderer:
        yield Judge(parser, renderer)


@pytest.mark.parametrize("case", cases("rejected", by="webhook"), ids=lambda case: case.name)
async def test_a_bad_policy_is_refused_in_these_words(case: Case, judge: Judge):
    with pytest.raises(InputFault) as caught:
        await check(case.profile.spec, judge, KINDS)
    assert case.said["expect"] in fault_message(caught.value)


@pytest.mark.parametrize("case", ACCEPTED, ids=lambda case: case.name)
async def test_a_good_policy_is_taken(case: Case, judge: Judge):
    accepted = await check(case.profile.spec, judge, KINDS)
    assert accepted.unrendered == ()
    assert sorted(accepted.names) == sorted(case.names)


def test_there_are_enough_of_both_and_no_name_is_there_twice():
    assert len({case.said["expect"] for case in REJECTED}) >= 60
    assert {case.said["by"] for case in REJECTED} == {"schema", "webhook"}
    assert len(ACCEPTED) >= 25
    names = [name for case in ACCEPTED for name in case.names]
    assert len(set(names)) == len(names)  # all of them are loaded at once in tests/e2e
