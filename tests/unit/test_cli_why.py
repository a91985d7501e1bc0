"""`hauberk why`: what it says of pods, as golden files, and what holds for any pod.

A case is tests/golden-why/<case>/in.yaml, a pod in a cluster in short (`pod_cases`), and out.txt, what a
terminal of 80 columns shows. `HAUBERK_GOLDEN=write pytest tests/unit/test_cli_why.py` writes out.txt anew:
read the difference then.
"""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hauberk.cli import tables
from hauberk.cli.why import Why, why
from rich.console import Console

from tests.unit.pod_cases import snapshot

GOLDEN = Path(__file__).parents[1] / "golden-why"
CASES = sorted(folder.name for folder in GOLDEN.iterdir())


def asked(case: str) -> Why:
    return why(snapshot(yaml.safe_load((GOLDEN / case / "in.yaml").read_text())))


def shown(one: Why) -> str:
    return tables.written(Console(file=io.StringIO(), width=80), tables.explanation(one))


@pytest.mark.parametrize("case", CASES)
def test_golden(case: str):
    text = shown(asked(case))
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "\x1b" not in text
    expected = GOLDEN / case / "out.txt"
    if os.environ.get("HAUBERK_GOLDEN") == "write":
        expected.write_text(text)
    assert text == expected.read_text()


@pytest.mark.parametrize("case", CASES)
def test_every_cause_says_what_to_do(case: str):
    told = asked(case)
    assert told.fine == (not told.causes)
    for cause in told.causes:
        assert cause.message
        assert cause.fix
    plain: dict[str, Any] = msgspec.to_builtins(told)
    assert yaml.safe_load(yaml.safe_dump(plain)) == json.loads(json.dumps(plain))
