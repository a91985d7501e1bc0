"""`python -m docs.site`: writes the pages of docs/reference that are made from the CRDs."""

from __future__ import annotations

import sys
from pathlib import Path

import yaml

from .schemas import page

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"


def pages() -> dict[Path, str]:
    """Return each page that is made, by its file."""
    made: dict[Path, str] = {}
    for file in sorted((ROOT / "crds").glob("*.yaml")):
        definition = yaml.safe_load(file.read_text())
        if definition["kind"] == "CustomResourceDefinition":
            name = definition["spec"]["names"]["singular"]
            made[REFERENCE / f"{name}.md"] = page(definition, file.relative_to(ROOT).as_posix())
    return made


def main() -> None:
    """Write those that are not as they should be, and name them."""
    for file, text in pages().items():
        if not file.exists() or file.read_text() != text:
            file.write_text(text)
            sys.stdout.write(f"{file.relative_to(ROOT)}\n")


if __name__ == "__main__":
    main()
