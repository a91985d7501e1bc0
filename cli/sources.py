"""Finds what there is to check in files: SecurityProfiles in YAML, and raw profiles of each type.

Called by the commands that take files. Reads files and nothing else; what they hold is not judged here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import yaml

from ..crds.models import AppArmor, ProfileSpec, Seccomp, SecurityProfile, SELinux, decode
from ..crds.names import API_VERSION

_YAML = (".yaml", ".yml", ".json")
# Of a folder only what may be a profile: not hidden, not a backup.
_SKIPPED = (".", "#")
_BACKUPS = ("~", ".bak", ".orig", ".dpkg-new", ".dpkg-old", ".dpkg-dist", ".rpmnew", ".rpmsave")
_OBJECT = re.compile(r"^(?:apiVersion:|\s*\{?\s*\"apiVersion\":)", re.MULTILINE)
_BLOCKS = {"AppArmor": "appArmor", "SELinux": "selinux", "Seccomp": "seccomp"}


class UnreadableError(Exception):
    """A file that can't be read as what it should be; the message is a sentence without the file's name.

    Attributes:
        line: in the file, from 1.
    """

    def __init__(self, message: str, line: int = 1) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True)
class Source:
    """One profile in a file.

    Attributes:
        file: where it is; `-` for standard input.
        name: of the SecurityProfile; of a raw profile, the file's.
        spec: what to check.
        line: of the file, from 1, that the policy's first line stands in; 0 where lines don't correspond.
    """

    file: str
    name: str
    spec: ProfileSpec
    line: int


def files_of(path: Path) -> list[Path]:
    """Return the files to look at: the path itself, or all that a folder and its folders hold, sorted.

    Raises:
        FileNotFoundError: there is nothing of that name.
    """
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file() and not _skipped(file, path))
    if not path.exists():
        raise FileNotFoundError(path)
    return [path]


def _skipped(file: Path, folder: Path) -> bool:
    parts = file.relative_to(folder).parts
    return any(part.startswith(_SKIPPED) for part in parts) or file.name.endswith(_BACKUPS)


def sources(file: str, text: str) -> Iterator[Source]:
    """Yield the profiles of a file: each SecurityProfile of a YAML stream, or one raw profile.

    A raw profile is CIL where its file ends in .cil, seccomp's where it is JSON without an apiVersion, else
    AppArmor's.

    Other kinds of objects in a stream are passed over, as a folder of manifests has them.

    Raises:
        UnreadableError: it is no YAML, or a SecurityProfile without the shape of one.
    """
    if not is_manifest(file, text):
        yield Source(file, Path(file).name, _raw(file, text), 1)
        return
    try:
        nodes = list(yaml.compose_all(text, Loader=yaml.CSafeLoader))
        bodies = list(yaml.load_all(text, Loader=yaml.CSafeLoader))
    except yaml.YAMLError as error:
        raise no_yaml(error) from error
    for node, body in zip(nodes, bodies, strict=False):
        if isinstance(body, dict) and body.get("kind") == "SecurityProfile":
            yield _profile(file, node, body)


def no_yaml(error: yaml.YAMLError) -> UnreadableError:
    """Return what to say of a text that YAML's reader refuses."""
    if isinstance(error, yaml.MarkedYAMLError):
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        return UnreadableError(f"no YAML: {error.problem or error.context}", line)
    return UnreadableError(f"no YAML: {str(error).partition(chr(10))[0]}")  # of a character


def looks_like_objects(text: str) -> bool:
    """Return whether a text is objects of Kubernetes in YAML or JSON, whatever its file is called."""
    return _OBJECT.search(text) is not None


def is_manifest(file: str, text: str) -> bool:
    """Return whether a file is objects of Kubernetes, by its name or its look; else it is a raw profile."""
    return looks_like_objects(text) or (file.endswith(_YAML) and not _looks_like_seccomp(file, text))


def _looks_like_seccomp(file: str, text: str) -> bool:
    return file.endswith(".json") and '"defaultAction"' in text


def _raw(file: str, text: str) -> ProfileSpec:
    if file.endswith(".cil"):
        return ProfileSpec(type="SELinux", selinux=SELinux(policy=text))
    if _looks_like_seccomp(file, text):
        return ProfileSpec(type="Seccomp", seccomp=Seccomp(policy=text))
    return ProfileSpec(type="AppArmor", app_armor=AppArmor(policy=text))


def _profile(file: str, node: Any, body: dict[str, Any]) -> Source:
    start = node.start_mark.line + 1
    if body.get("apiVersion") != API_VERSION:
        raise UnreadableError(f"apiVersion is {body.get('apiVersion')}, and this is for {API_VERSION}", start)
    try:
        profile = decode(SecurityProfile, body)
    except msgspec.ValidationError as error:
        raise UnreadableError(f"no SecurityProfile: {error}", start) from error
    return Source(file, profile.metadata.name, profile.spec, _policy_line(node, profile.spec.type))


def _policy_line(node: Any, kind: str) -> int:
    """Return the line of the file that a block scalar's first line stands in; 0 for another style."""
    for key in ("spec", _BLOCKS.get(kind, ""), "policy"):
        if not isinstance(node, yaml.MappingNode):
            return 0
        found = [value for name, value in node.value if name.value == key]
        if not found:
            return 0
        node = found[0]
    return node.start_mark.line + 2 if getattr(node, "style", None) == "|" else 0
