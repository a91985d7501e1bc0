"""Each SecurityProfile of tests/golden/accepted is taken for all common kinds of nodes, with its names."""

from __future__ import annotations

from collections import Counter

import pytest
from hauberk.crds.facts import facts_key
from hauberk.crds.models import SecurityProfile, decode
from hauberk.profiles.check import Judge, check
from hauberk.profiles.kinds import COMMON
from hauberk.profiles.parser import Parser
from hauberk.profiles.rendering import Renderer

from tests.golden_files import Case, accepted

KINDS = {facts_key(one): one for one in COMMON}


@pytest.mark.parametrize("case", accepted(), ids=lambda case: case.name)
async def test_it_is_taken(parser: Parser, case: Case):
    assert case.body["metadata"]["name"] == case.name
    profile = decode(SecurityProfile, case.body)
    async with Renderer() as renderer:
        found = await check(profile.spec, Judge(parser, renderer), KINDS)
    assert sorted(found.names) == sorted(case.names)
    assert found.unrendered == ()
    for text in found.texts:  # whatever kind a node is of, it gets all of them
        assert sorted(text.names) == sorted(case.names)


def test_all_of_them_fit_into_one_kernel():
    names = Counter(name for case in accepted() for name in case.names)
    assert [name for name, count in names.items() if count > 1] == []
    assert len(accepted()) >= 40
