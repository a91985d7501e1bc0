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
