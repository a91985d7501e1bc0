"""The chart as tests use it: helm is run, and what it and kustomize render is read as objects."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab import binaries, tools

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "chart"
KEEP = "helm.sh/resource-policy"
# What `helm uninstall` leaves: what `kubectl delete -k deploy/operator` leaves too.
KEPT = {
    "Namespace/hauberk-system",
    "ServiceAccount/hauberk-operator",
    "ClusterRole/hauberk-let-go",
    "ClusterRoleBinding/hauberk-let-go",
    "ValidatingAdmissionPolicy/hauberk-own-gate-only",
    "ValidatingAdmissionPolicyBinding/hauberk-own-gate-only",
}
KEPT_WITH_CRDS = {
    "CustomResourceDefinition/securityprofiles.hauberk.dev",
    "CustomResourceDefinition/profilerevisions.hauberk.dev",
    "CustomResourceDefinition/profilenodes.hauberk.dev",
    "ValidatingAdmissionPolicy/hauberk-guarded-flags",
    "ValidatingAdmissionPolicyBinding/hauberk-guarded-flags",
}

Object = dict[str, Any]
# apiVersion, kind, namespace and name
Key = tuple[str, str, str, str]


def tool(name: str) -> str:
    """Return the path of helm or kubeconform, as it is pinned."""
    found = tools.find(name)
    if found is None:
        pytest.fail(f"no {name}: run `python -m lab tools`")
    return str(found)


def kubectl() -> str:
    """Return the path of kubectl: that beside kube-apiserver, else the machine's own."""
    found = binaries.find()
    own = found / "kubectl" if found else None
    program = str(own) if own and own.exists() else shutil.which("kubectl")
    if program is None:
        pytest.fail("no kubectl: run `python -m lab binaries`")
    return program


def helm(
    *words: str, values: Mapping[str, Any] | None = None, kubeconfig: Path = Path("/dev/null")
) -> subprocess.CompletedProcess[str]:
    """Run `helm WORDS` with these values, and nothing that this machine's user has set."""
    given = [] if values is None else ["--values=-"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HELM_")}
    cluster = {"KUBECONFIG": str(kubeconfig), "KUBECACHEDIR": str(kubeconfig.parent / "helms-cache")}
    return subprocess.run(
        [tool("helm"), *words, *given],
        input="" if values is None else json.dumps(values),
        env={**clean, **cluster},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def ok(done: subprocess.CompletedProcess[str]) -> str:
    """Return what a command printed where a failure is a failure of the test."""
    assert done.returncode == 0, done.stderr
    return done.stdout


def helm_text(values: Mapping[str, Any] | None = None, chart: Path = CHART) -> str:
    """Return what helm renders."""
    return ok(helm("template", "hauberk", str(chart), values=values))


def kustomize_text() -> str:
    """Return what kustomize builds of deploy/."""
    command = [kubectl(), "kustomize", str(DEPLOY)]
    return ok(subprocess.run(command, capture_output=True, text=True, check=False, timeout=60))


def key(one: Object) -> Key:
    """Return what tells an object from all others."""
    metadata = one["metadata"]
    return one["apiVersion"], one["kind"], metadata.get("namespace", ""), metadata["name"]


def objects(text: str) -> dict[Key, Object]:
    """Return the objects of a stream of YAML; each is there once."""
    made = [one for one in yaml.safe_load_all(text) if one]
    keyed = {key(one): one for one in made}
    assert len(keyed) == len(made)
    return keyed


def without_keep(one: Object) -> Object:
    """Return an object without the annotation by which `helm uninstall` leaves it."""
    metadata = dict(one["metadata"])
    annotations = {name: value for name, value in metadata.pop("annotations", {}).items() if name != KEEP}
    return {**one, "metadata": {**metadata, **({"annotations": annotations} if annotations else {})}}


def names(made: Iterable[Key]) -> set[str]:
    """Return objects as `kubectl` names them: kind/name."""
    return {f"{kind}/{name}" for _, kind, _, name in made}
