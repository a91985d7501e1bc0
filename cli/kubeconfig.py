"""Finds and merges kubeconfig files as kubectl does: a given one, those of KUBECONFIG, or ~/.kube/config.

Called by `cluster`, which connects with the result. Reads files and the environment, and nothing else.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ..crds.errors import ClusterFault
from ..crds.reasons import Reason

_SECTIONS = ("clusters", "contexts", "users")
# Files that are named relative to the kubeconfig that names them.
_FILES = ("certificate-authority", "client-certificate", "client-key", "tokenFile")
_EXEC = "client.authentication.k8s.io/"


def load(given: Path | None) -> dict[str, Any] | None:
    """Return the merged kubeconfig; None where there is no file at all.

    Raises:
        ClusterFault: the given file is not there, or one of them is no kubeconfig.
    """
    if given is not None:
        return merged([_read(given)])
    listed = [Path(one) for one in os.environ.get("KUBECONFIG", "").split(os.pathsep) if one]
    files = listed or [Path("~/.kube/config").expanduser()]
    there = [file for file in files if file.exists()]
    return merged([_read(file) for file in there]) if there else None


def _read(file: Path) -> tuple[Path, Any]:
    try:
        return file.parent.absolute(), yaml.load(file.read_text(), Loader=yaml.CSafeLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no YAML"
        raise ClusterFault(Reason.NOT_VERIFIED, f"the kubeconfig {file} can't be read: {why}") from error


def merged(read: Sequence[tuple[Path, Any]]) -> dict[str, Any]:
    """Return one kubeconfig of several, each with its folder; the first to set a name or the context wins.

    Raises:
        ClusterFault: one of them has not the shape of a kubeconfig.
    """
    found: dict[str, dict[str, Any]] = {section: {} for section in _SECTIONS}
    current = ""
    for folder, body in read:
        if body is None:
            continue  # an empty file is an empty kubeconfig
        try:
            for section in _SECTIONS:
                for one in body.get(section) or []:
                    inner = _adapted({**(one.get(section[:-1]) or {})}, folder)
                    found[section].setdefault(one["name"], {"name": one["name"], section[:-1]: inner})
            current = current or body.get("current-context") or ""
        except (AttributeError, KeyError, TypeError) as error:
            raise ClusterFault(
                Reason.NOT_VERIFIED, f"a kubeconfig in {folder} has not the shape of one: {error!r}"
            ) from error
    return {"current-context": current, **{section: list(by.values()) for section, by in found.items()}}


def _adapted(inner: dict[str, Any], folder: Path) -> dict[str, Any]:
    for key in _FILES:
        if inner.get(key):
            inner[key] = str(folder / inner[key])
    if isinstance(program := inner.get("exec"), dict):
        inner["exec"] = _login(program, folder)
    return inner


def _login(program: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return a login program as the client library runs it.

    It knows v1beta1 only, of which v1 is the same with other defaults, and does not tell the program, as
    kubectl does, for which version it asks.
    """
    version = str(program.get("apiVersion", ""))
    told = {"kind": "ExecCredential", "apiVersion": version, "spec": {"interactive": False}}
    environment = [*(program.get("env") or []), {"name": "KUBERNETES_EXEC_INFO", "value": json.dumps(told)}]
    command = str(program.get("command", ""))
    return {
        **program,
        "apiVersion": f"{_EXEC}v1beta1" if version == f"{_EXEC}v1" else version,
        "env": environment,
        "command": str(folder / command) if os.sep in command else command,
    }
