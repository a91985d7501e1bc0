"""SecurityProfiles in files with what has to become of them: tests/golden/rejected and tests/golden/accepted.

Each file holds one, of the file's name, and says in the comments at its top what it is and what is expected:

    # by: schema|webhook      rejected: who refuses it, the API server by the CRD or Hauberk by `check`
    # expect: WORDS           rejected: a part of the sentence that its author reads
    # names: a, b//c          accepted: the kernel names that it defines, on any kind of node
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

GOLDEN = Path(__file__).parent / "golden"
_SAID = re.compile(r"^# (?P<key>by|expect|names): (?P<value>.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Case:
    """One file.

    Attributes:
        by: who refuses it, `schema` or `webhook`; empty where nobody does.
        expect: a part of the message of the refusal.
        names: the kernel names that an accepted one defines.
    """

    file: Path
    by: str
    expect: str
    names: tuple[str, ...]

    @property
    def name(self) -> str:
        """Return the file's name, which is that of its SecurityProfile too."""
        return self.file.stem

    @property
    def body(self) -> dict[str, Any]:
        """Return the SecurityProfile, as the API would get it."""
        return yaml.safe_load(self.file.read_text())


def rejected(by: Literal["schema", "webhook"] | None = None) -> list[Case]:
    """Return what has to be refused, by one of the two or by either."""
    return [one for one in _cases("rejected") if by in (None, one.by)]


def accepted() -> list[Case]:
    """Return what has to be taken, all at once: no kernel name is in two of them."""
    return _cases("accepted")


def _cases(folder: str) -> list[Case]:
    return [_case(file) for file in sorted((GOLDEN / folder).glob("*.yaml"))]


def _case(file: Path) -> Case:
    head = file.read_text().partition("\napiVersion:")[0]
    said = {found["key"]: found["value"] for found in _SAID.finditer(head)}
    names = tuple(one.strip() for one in said.get("names", "").split(",") if one.strip())
    return Case(file, said.get("by", ""), said.get("expect", ""), names)
