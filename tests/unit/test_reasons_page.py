"""docs/reference/reasons.md explains every reason that Hauberk gives, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from hauberk.crds.reasons import Reason

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "reasons.md"


def test_the_page_and_the_enum_hold_the_same_reasons():
    explained = re.findall(r"^\| `(\w+)` \|", PAGE.read_text(), re.MULTILINE)
    assert len(explained) == len(set(explained))
    assert set(explained) == {reason.value for reason in Reason}


def test_of_each_reason_it_says_what_to_do():
    rows = re.findall(r"^\| `(\w+)` \|(.*)\|$", PAGE.read_text(), re.MULTILINE)
    cells = {name: [cell.strip() for cell in re.split(r"(?<!\\)\|", rest)] for name, rest in rows}
    assert [name for name, told in cells.items() if len(told) != 2 or not all(told)] == []
