"""The real parser, for the tests that need its judgement."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hauberk.profiles.parser import Parser

PINNED = Path("/usr/share/apparmor-features/features")


@pytest.fixture(scope="session")
def parser() -> Parser:
    """Return this machine's parser, compiling for the features that Debian pins."""
    if shutil.which("apparmor_parser", path="/usr/sbin:/sbin:/usr/bin") is None:
        pytest.fail("no apparmor_parser: install the package apparmor")
    return Parser(features=PINNED if PINNED.exists() else None)
