"""The log: as it was asked for, one line for what happened, and none that someone else wrote."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hauberk.crds import logs
from hypothesis import given
from hypothesis import strategies as st

MODULES = ("hauberk.operator.main", "hauberk.operator.admission", "hauberk.daemonset.main")
SAYS = """
import logging, structlog
from hauberk.crds import logs
logs.configure({asked!r})
log = structlog.get_logger()
log.info("ready", profile="web", status="True", message="line 3: no\\nready profile=other")
logging.getLogger("kopf").warning("two\\nlines")
try:
    raise ValueError("a\\nb")
except ValueError:
    log.exception("bug", profile="web")
"""


def said(asked: str) -> list[str]:
    run = subprocess.run(
        [sys.executable, "-c", SAYS.format(asked=asked)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return run.stderr.splitlines()


@pytest.mark.parametrize("asked", ["json", ""])
def test_json_is_one_object_a_line(asked: str):
    first, second, third = (json.loads(line) for line in said(asked))
    assert (first["event"], first["level"], first["profile"]) == ("ready", "info", "web")
    assert first["message"] == "line 3: no\nready profile=other"
    assert (second["event"], second["level"]) == ("two\nlines", "warning")
    assert "ValueError" in third["exception"]


def test_text_is_one_line_for_each_but_for_traces():
    first, second, third, *trace = said("text")
    assert first.endswith(r'info    ready profile=web status=True message="line 3: no\nready profile=other"')
    assert second.endswith(r"warning two\nlines")
    assert third.endswith("error   bug profile=web")
    assert trace
    assert all(line.startswith("  | ") for line in trace)


@given(st.text(), st.text())
def test_no_text_begins_a_line_or_drives_a_terminal(event: str, value: str):
    line = logs.as_line(None, "", {"timestamp": "t", "level": "info", "event": event, "message": value})
    assert line.isprintable()
    assert len(line.splitlines()) == 1


@given(st.text())
def test_a_value_can_be_read_back(value: str):
    line = logs.as_line(None, "", {"timestamp": "t", "level": "info", "event": "e", "message": value})
    written = line.partition("message=")[2]
    assert (json.loads(written) if written.startswith('"') else written) == value


def started(module: str, name: str, value: str) -> subprocess.CompletedProcess[str]:
    """Return how a program ends, and what it says, with one variable in its environment."""
    return subprocess.run(
        [sys.executable, "-m", module],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={name: value, "NODE_NAME": "n", "PATH": "/usr/bin"},
    )


@pytest.mark.parametrize("module", MODULES)
def test_a_format_that_there_is_not_is_refused_before_anything_else(module: str):
    run = started(module, "LOG_FORMAT", "xml")
    assert (run.returncode, run.stderr) == (2, 'LOG_FORMAT is "xml"; it may be json or text\n')


@pytest.mark.parametrize(
    ("module", "name", "value"),
    [
        ("hauberk.operator.main", "PROBES_PORT", "http"),
        ("hauberk.operator.admission", "PROBES_PORT", "70000"),
        ("hauberk.operator.admission", "WEBHOOK_PORT", "0x1"),
        ("hauberk.daemonset.main", "METRICS_PORT", "-1"),
        ("hauberk.daemonset.main", "HEALTH_PORT", "9797/tcp"),
        ("hauberk.daemonset.main", "SELINUX_PRIORITY", "1000"),
    ],
)
def test_a_number_that_is_none_is_told_in_one_line(module: str, name: str, value: str):
    run = started(module, name, value)
    highest = 999 if name == "SELINUX_PRIORITY" else 65535
    assert (run.returncode, run.stderr) == (2, f"{name}: {value!r} is no number from 0 to {highest}\n")
