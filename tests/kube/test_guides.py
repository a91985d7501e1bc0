"""What the guides show is taken by a real API server, and their commands leave there what they say."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab.controlplane import ControlPlane
from tests.kube.conftest import Kubectl

ROOT = Path(__file__).parents[2]
PAGES = sorted([*(ROOT / "docs/tutorial").glob("*.md"), *(ROOT / "docs/how-to").glob("*.md")])
LUA = ROOT / "deploy/argocd/health.lua"
# What this API server knows; the other kinds are other projects'.
OURS = {"v1", "apps/v1", "hauberk.dev/v1alpha1"}
_YAML = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"^(kubectl create configmap argocd-cm (?:.*\\\n)+.*\n)", re.MULTILINE)


def objects() -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{page.stem}-{one['kind']}-{one['metadata']['name']}", one)
        for page in PAGES
        for text in _YAML.findall(page.read_text())
        for one in yaml.safe_load_all(text)
        # a list there is the other operator's
        if one["apiVersion"] in OURS and one["kind"] != "List"
    ]


@pytest.fixture(scope="module")
def with_account(kubectl: Kubectl) -> Kubectl:
    """Return kubectl for a server on which pods can be made: no controller makes their account."""
    if kubectl("get", "serviceaccount", "default").code:
        kubectl.ok("create", "serviceaccount", "default")
    return kubectl


@pytest.mark.parametrize("one", [pytest.param(one, id=name) for name, one in objects()])
def test_an_object_is_taken(with_account: Kubectl, one: dict[str, Any]):
    with_account.ok("create", "--dry-run=server", "--validate=strict", "-f", "-", given=one)


def test_argo_cds_health_check_is_added_and_the_rest_stays(kubectl: Kubectl, control_plane: ControlPlane):
    """A server-side apply would take the rest away: kubectl hands it what a client-side one owned."""
    (command,) = _COMMAND.findall((ROOT / "docs/how-to/gitops.md").read_text())
    kubectl.ok("create", "namespace", "argocd")
    there = {
        "kind": "ConfigMap",
        "apiVersion": "v1",
        "metadata": {"name": "argocd-cm", "namespace": "argocd"},
    }
    kubectl.ok("apply", "-f", "-", given={**there, "data": {"url": "https://argocd.example.org"}})
    path = f"{Path(kubectl.program).parent}:{os.environ['PATH']}"
    for _ in range(2):  # the second time nothing changes
        subprocess.run(
            ["bash", "-ec", f"set -o pipefail\n{command}"],
            cwd=ROOT,
            env={**os.environ, "PATH": path, "KUBECONFIG": str(control_plane.kubeconfig)},
            check=True,
            timeout=60,
        )
    found = kubectl.ok("get", "configmap", "argocd-cm", "--namespace=argocd", "-o", "json").object
    assert found["data"] == {
        "url": "https://argocd.example.org",
        "resource.customizations.health.hauberk.dev_SecurityProfile": LUA.read_text(),
    }
