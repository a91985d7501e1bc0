"""The SecurityProfiles in tests/golden/rejected and tests/golden/accepted, with what their comments say.

Rejected: `# by: schema` (the API server alone) or `# by: webhook` (the policy is what is wrong), and behind
`# expect:` a part of the sentence that the author reads. Accepted: behind `# names:` what it defines.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hauberk.crds.models import SecurityProfile, decode

GOLDEN = Path(__file__).parent / "golden"


@dataclass(frozen=True)
class Case:
    """One file.

    Attributes:
        name: of the file and of the object in it, but where that is what is wrong.
        said: what its comments say, by their first word.
        path: of the file.
    """

    name: str
    said: dict[str, str]
    path: Path

    @property
    def document(self) -> dict[str, Any]:
        """Return the object in it."""
        return yaml.safe_load(self.path.read_text())

    @property
    def profile(self) -> SecurityProfile:
        """Return the object in it, where it has the shape of one."""
        return decode(SecurityProfile, self.document)

    @property
    def names(self) -> list[str]:
        """Return the kernel names that an accepted one defines."""
        return self.said["names"].split(", ")


def cases(folder: str, by: str = "") -> list[Case]:
    """Return the cases of a folder, of `rejected` only those by whom they are refused."""
    found = [
        Case(path.stem, dict(re.findall(r"^# (\w+): (.*)$", path.read_text(), re.MULTILINE)), path)
        for path in sorted((GOLDEN / folder).glob("*.yaml"))
    ]
    return [case for case in found if not by or case.said["by"] == by]
