"""How large the image is on a node's disk, unpacked. Used by `run`."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import IO

from bench.figures import Figure
from tests.e2e.prepared import ARCHIVE


def measure() -> list[Figure]:
    """Return the size of all files of the image that is on the lab's nodes."""
    return [Figure("image", "the image, unpacked", _unpacked(ARCHIVE) / (1 << 20), "MiB", goal=150)]


def _unpacked(archive: Path) -> int:
    """Return the bytes of all files in all layers of an image (docker-archive: manifest.json names them)."""
    with tarfile.open(archive) as image:
        (manifest,) = json.load(_member(image, "manifest.json"))
        return sum(_files(_member(image, name)) for name in manifest["Layers"])


def _files(layer: IO[bytes]) -> int:
    with tarfile.open(fileobj=layer) as files:
        return sum(one.size for one in files if one.isfile())


def _member(image: tarfile.TarFile, name: str) -> IO[bytes]:
    found = image.extractfile(name)
    if found is None:
        raise tarfile.ReadError(f"{ARCHIVE} has no {name}")
    return found
