"""What `hauberk import` prints is taken by a cluster, but for what it says that the cluster will refuse."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.kube.conftest import Kubectl
from tests.kube.operating import Cluster, eventually

CASES = Path(__file__).parents[1] / "golden-import"
# More files, for whoever has some: `HAUBERK_CORPUS=folder pytest tests/kube/test_import.py`.
CORPUS = os.environ.get("HAUBERK_CORPUS", "")
FOLDERS = [
    *(one for one in sorted(CASES.iterdir()) if (one / "out.yaml").stat().st_size),
    *([Path(CORPUS)] if CORPUS else []),
]
_REFUSED = re.compile(r"^.*: warning: (\S+): .*the cluster will refuse it", re.MULTILINE)
# Two of one kernel name.
_CLASH = re.compile(r"^.*: warning: (\S+): .*the cluster takes the first", re.MULTILINE)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda one: one.name)
def test_the_result_applies(webhook: Cluster, kubectl: Kubectl, folder: Path):
    assert webhook.port
    files = sorted(
        str(one) for one in folder.rglob("*") if one.is_file() and one.name not in ("out.yaml", "said.txt")
    )
    made = subprocess.run(
        [sys.executable, "-m", "hauberk.cli", "import", *files], capture_output=True, text=True, check=False
    )
    foretold = set(_REFUSED.findall(made.stderr))
    refused: set[str] = set()
    bodies = list(yaml.safe_load_all(made.stdout))
    for body in bodies:
        said = kubectl("apply", "-f", "-", given=body)
        if said.code:
            refused.add(body["metadata"]["name"])
            assert "denied the request" in said.stderr
    assert refused == foretold | set(_CLASH.findall(made.stderr)), made.stderr
    for body in bodies:  # of each type
        if (name := body["metadata"]["name"]) not in refused and not body["spec"].get("suspend"):
            (revision,) = eventually(lambda name=name: webhook.revisions(name))
            assert revision["spec"]["type"] == body["spec"]["type"]
            assert webhook.ready(name)[1] in ("", "Updating", "NoNodes")
