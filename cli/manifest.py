"""Writes SecurityProfiles as YAML that people like to read, and makes names that they may have. Pure.

Called by what prints objects: `render`, `new` and `convert`. A policy of several lines stands there as a
literal block, byte for byte; only one with characters that YAML does not take in a block is quoted.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import yaml

from ..crds.models import ProfileSpec, encode
from ..crds.names import API_VERSION

# RFC 1123, subdomain; and the rule of crds/securityprofiles.yaml.
_LABEL = r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
NAME_LENGTH = 63


class _Dumper(yaml.SafeDumper):
    """SafeDumper, with literal blocks for whatever has lines."""

    def analyze_scalar(self, scalar: str) -> Any:
        """Let blocks have tabs, and blanks at ends of lines: YAML takes them, PyYAML asks for quotes."""
        analysis = super().analyze_scalar(scalar)
        analysis.allow_block = "\n" in scalar and _is_plain(scalar)
        return analysis

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - PyYAML's signature
        """Write what occurs twice twice."""
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    style = None
    # quoted are escapes, other ends of lines, and a tab before YAML knows how deep a block stands
    if not _is_plain(text) or text.lstrip("\n").startswith("\t"):
        style = '"'
    elif "\n" in text:
        style = "|"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def _is_plain(text: str) -> bool:
    return all(one in "\n\t" or one.isprintable() for one in text)


def as_yaml(document: Any) -> str:
    """Return a document as YAML, its keys in their order."""
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def manifest(name: str, spec: ProfileSpec) -> str:
    """Return a SecurityProfile as `kubectl apply` takes it."""
    body = {
        "apiVersion": API_VERSION,
        "kind": "SecurityProfile",
        "metadata": {"name": name},
        "spec": _written(spec),
    }
    return as_yaml(body)


def _written(spec: ProfileSpec) -> Mapping[str, Any]:
    """Return a spec as API object, without the empty selector that `encode` may leave."""
    return {key: value for key, value in encode(spec).items() if key != "nodeSelector" or value}


def name_fault(name: str) -> str:
    """Return why a SecurityProfile can't have a name; empty where it can."""
    if len(name) > NAME_LENGTH:
        return f"a SecurityProfile's name may have at most {NAME_LENGTH} characters, this one has {len(name)}"
    if not _NAME.fullmatch(name):
        return (
            f"{name!a} can't be a SecurityProfile's name: lower case letters, digits, `-` and `.` make one, "
            f"with letters or digits at its ends; `{object_name(name)}` would do"
        )
    return ""


def object_name(said: str) -> str:
    """Return a name for a SecurityProfile, near to what is said: `/usr/bin/Foo` makes `usr.bin.foo`."""
    labels = [re.sub(r"[^a-z0-9]+", "-", one).strip("-") for one in re.split(r"[./]+", said.lower())]
    return _cut(".".join(one for one in labels if one), NAME_LENGTH) or "profile"


def _cut(name: str, length: int) -> str:
    return name[:length].rstrip("-.")


def distinct(name: str, taken: Collection[str]) -> str:
    """Return a name that is not taken: itself, or with the first number from 2 on that makes it so."""
    return next(one for one in _numbered(name) if one not in taken)


def _numbered(name: str) -> Iterable[str]:
    yield name
    number = 2
    while True:
        yield f"{_cut(name, NAME_LENGTH - len(str(number)) - 1)}-{number}"
        number += 1
