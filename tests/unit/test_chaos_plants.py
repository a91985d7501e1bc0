"""The faults that chaos plants into the product: each piece that they change is in the source, just once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.faults import FAULTS
from tests.chaos.plants import PLANTS, Plant

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("plant", PLANTS.values(), ids=PLANTS.keys())
def test_what_is_planted_fits_the_product(plant: Plant):
    for edit in plant.edits:
        text = (ROOT / edit.file).read_text()
        assert text.count(edit.old) == 1, edit
        compile(text.replace(edit.old, edit.new), edit.file, "exec")
    assert {blow.fault for blow in plant.blows} <= FAULTS.keys()
