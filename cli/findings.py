"""What `hauberk lint` found, as text, JSON or SARIF. Pure.

SARIF is version 2.1.0 of the OASIS standard, which code hosts show beside the lines of a change.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from ..crds.reasons import Reason

_LINE = re.compile(r"\bline (\d+)\b")
_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or could be better.

    Attributes:
        file: where.
        line: of the file, from 1.
        level: error, which `kubectl apply` would refuse as well, or warning.
        reason: one word for it, as conditions have it.
        message: one sentence.
        profile: the SecurityProfile's name, or the raw profile's file name.
    """

    file: str
    line: int
    level: str
    reason: str
    message: str
    profile: str = ""


def line_of(message: str, first: int) -> int:
    """Return the line of the file for a message about a line of the policy, which begins at line `first`."""
    found = _LINE.search(message)
    return first + int(found[1]) - 1 if found and first else max(first, 1)


def as_text(findings: Sequence[Finding]) -> str:
    """Return a line for each finding, as compilers write them, so that editors find the place."""
    return "".join(f"{one.file}:{one.line}: {one.level}: {one.message} [{one.reason}]\n" for one in findings)


def as_json(findings: Sequence[Finding]) -> str:
    """Return the findings as a JSON list."""
    return json.dumps([asdict(one) for one in findings], indent=2) + "\n"


def as_sarif(findings: Sequence[Finding], version: str) -> str:
    """Return the findings as a SARIF log with one run; `version` of Hauberk."""
    rules = sorted({one.reason for one in findings})
    run = {
        "tool": {
            "driver": {
                "name": "hauberk",
                "version": version,
                "rules": [{"id": rule, "name": rule} for rule in rules],
            }
        },
        "results": [
            {
                "ruleId": one.reason,
                "level": one.level,
                "message": {"text": one.message},
                "locations": [
                    {
                        "physicalLocation": {
                            "artifactLocation": {"uri": one.file},
                            "region": {"startLine": one.line},
                        }
                    }
                ],
            }
            for one in findings
        ],
    }
    return json.dumps({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2) + "\n"


def unreadable(file: str, line: int, message: str) -> Finding:
    """Return the finding on a file that can't be read."""
    return Finding(file, line, "error", Reason.POLICY_REFUSED, message)
