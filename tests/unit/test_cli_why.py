"""`hauberk why`: what it says of pods, as golden files, and what holds for any pod.

A case is tests/golden-why/<case>/in.yaml, a pod in a cluster in short (`pod_cases`), and out.txt, what a
terminal of 80 columns shows. `HAUBERK_GOLDEN=write pytest tests/unit/test_cli_why.py` writes out.txt anew:
read the difference then.
"""

from __future__ import annotations

import io
import json
import os
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hauberk.cli import tables
from hauberk.cli.why import Why, why
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from tests.unit.pod_cases import snapshot

GOLDEN = Path(__file__).parents[1] / "golden-why"
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"
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


def test_the_page_shows_what_the_command_says():
    shown = re.findall(r"^```\n\$ hauberk why .*\n((?:.*\n)*?)```$", PAGE.read_text(), re.MULTILINE)
    said = {(GOLDEN / case / "out.txt").read_text() for case in CASES}
    assert len(shown) >= 3
    assert set(shown) <= said


FINE = yaml.safe_load((GOLDEN / "fine" / "in.yaml").read_text())
CHANGES = {
    "holds": st.dictionaries(
        st.sampled_from(["web", "calls", "batch"]),
        st.sampled_from(["enforce", "enforcing", "complain", "permissive", "older enforce"]),
    ),
    "problems": st.dictionaries(
        st.sampled_from(["web", "calls", "batch"]),
        st.sampled_from([("LoadFailed", "no"), ("AwaitingRender", "not yet")]),
    ),
    "ready": st.booleans(),
    "restarted": st.booleans(),
    "agent": st.sampled_from(["up", "down"]),
    "silent": st.booleans(),
    "selinux": st.sampled_from(["enforcing", "permissive"]),
    "modules": st.sampled_from([["selinux", "apparmor", "seccomp"], ["apparmor"], ["selinux", "seccomp"]]),
}


@settings(deadline=None)
@given(
    st.fixed_dictionaries({}, optional=CHANGES),
    st.dictionaries(
        st.sampled_from(["web", "calls", "batch"]),
        st.fixed_dictionaries(
            {},
            optional={
                "deleted": st.booleans(),
                "suspend": st.booleans(),
                "published": st.sampled_from(["current", "older", "nothing"]),
                "unseen": st.booleans(),
                "selector": st.just({"matchLabels": {"a": "b"}}),
            },
        ),
    ),
    st.booleans(),
    st.booleans(),
)
def test_a_pod_is_fine_only_where_its_node_holds_everything(
    node: dict[str, Any], profiles: dict[str, Any], listed: bool, scheduled: bool
):
    """Whatever is changed about a pod that is fine: what is called fine is what the node's report shows."""
    both = FINE["nodes"]["both"]
    short = {
        **FINE,
        "nodes": {"both": {**both, **node}},
        "profiles": {
            name: {**(one or {}), **profiles.get(name, {})} for name, one in FINE["profiles"].items()
        },
        "nodes_may_be_listed": listed,
    }
    if not scheduled:
        spec = {key: one for key, one in FINE["pod"]["spec"].items() if key != "nodeName"}
        short["pod"] = {**FINE["pod"], "spec": spec, "status": {"phase": "Pending"}}
    told = why(snapshot(short))
    assert shown(told)
    if told.fine and scheduled:
        assert {one.state for one in told.confinement} <= {"ready", "reported", "updating", "unknown"}
        assert {one.mode for one in told.confinement} <= {"enforce", "enforcing"}
        assert all(one.digest for one in told.confinement)
    if not node and not profiles and listed:
        assert told.fine
