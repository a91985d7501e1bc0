"""The real parser, for the tests that need its judgement; and a node to load into."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hauberk.profiles.parser import Parser

from tests.unit.node import Loader, Tree

PINNED = Path("/usr/share/apparmor-features/features")


@pytest.fixture(scope="session")
def parser() -> Parser:
    """Return this machine's parser, compiling for the features that Debian pins."""
    if shutil.which("apparmor_parser", path="/usr/sbin:/sbin:/usr/bin") is None:
        pytest.fail("no apparmor_parser: install the package apparmor")
    return Parser(features=PINNED if PINNED.exists() else None)


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    """Return a node without policy."""
    made = Tree(tmp_path)
    yield made
    made.close()


@pytest.fixture
def loader(parser: Parser) -> Loader:
    """Return the machine's parser, which loads into the node."""
    return Loader(features=parser.features)
