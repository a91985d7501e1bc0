"""Hauberk installed on the lab, and nothing left behind by a test; `__main__` brings the lab up."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.e2e.cluster import remove
from tests.e2e.prepared import install, save_store_before


@pytest.fixture(scope="session", autouse=True)
def installed() -> None:
    """Install Hauberk as its users do, and wait until every node has reported."""
    assert "LAB_NAME" in os.environ, "run these tests with `make e2e`"
    save_store_before()
    install(restart=True)


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    """Leave no pod and no profile of a test behind, but for those that a whole file uses."""
    yield
    remove("pods", "--selector=made-by=e2e", "--now")
    remove("secprof", "--selector=kept!=by-file")
