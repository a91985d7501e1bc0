"""Whole templates for the common kinds of nodes, against what they should become: tests/golden/rendered.

NAME.yaml is a SecurityProfile; NAME.txt has the text for each kind, or why there is none.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hauberk.crds.facts import facts_key, visible
from hauberk.crds.models import Facts, SecurityProfile, decode
from hauberk.profiles.check import Judge, check, described
from hauberk.profiles.kinds import COMMON
from hauberk.profiles.parser import Parser
from hauberk.profiles.rendering import Renderer

FOLDER = Path(__file__).parents[1] / "golden" / "rendered"
CASES = sorted(file.stem for file in FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("case", CASES)
async def test_what_each_kind_of_node_gets(parser: Parser, case: str):
    profile = decode(SecurityProfile, yaml.safe_load((FOLDER / f"{case}.yaml").read_text()))
    kinds = {facts_key(one): one for one in COMMON}
    async with Renderer() as renderer:
        found = await check(profile.spec, Judge(parser, renderer), kinds)
    made = {facts: one.text for one in found.texts for facts in one.facts}
    told = {facts: f"{one.reason}: {one.message}\n" for one in found.unrendered for facts in one.facts}
    both = made | told
    shown = "".join(f"=== {described(facts)}\n{both[key]}" for key, facts in kinds.items())
    assert shown == (FOLDER / f"{case}.txt").read_text()


def test_there_are_cases():
    assert len(CASES) >= 2


USES = "{% from 'apparmor.j2' import runtime, protect_kernel, userns with context %}\n"


@pytest.mark.parametrize("facts", COMMON, ids=described)
async def test_each_fragment_fits_each_kind(facts: Facts):
    source = USES + "profile x {\n{{ runtime() }}{{ protect_kernel() }}{{ userns() }}}\n"
    async with Renderer() as renderer:
        (made,) = await renderer.render(source, [{**visible(facts), "values": {}}], 1 << 17)
    assert isinstance(made, str), made
    assert ("userns," in made) == ("namespaces/userns_create" in facts.app_armor.features)
    assert "signal (receive) peer=runc," in made
    # as the library has them, which tests on real kernels have tried
    library = (FOLDER.parents[2] / "profiles" / "library" / "container-default.yaml").read_text()
    shared = [line.strip() for line in library.splitlines() if line.strip().startswith("deny ")]
    assert [line.strip() for line in made.splitlines() if line.strip().startswith("deny ")] == shared
