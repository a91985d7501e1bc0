"""Each profile of profiles/library keeps the promises of the folder, and the real parser takes it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from hauberk.crds import models
from hauberk.crds.names import API_VERSION, PROTECTED
from hauberk.profiles.check import Judge, check
from hauberk.profiles.parser import Parser
from hauberk.profiles.rendering import Renderer

FOLDER = Path(__file__).parents[2] / "profiles" / "library"
FILES = sorted(FOLDER.glob("*.yaml"))
PAGE = Path(__file__).parents[2] / "docs" / "library.md"


def names_of(policy: str) -> list[str]:
    """Return what the parser of this machine says that a text defines."""
    said = subprocess.run(
        [shutil.which("apparmor_parser", path="/usr/sbin:/sbin:/usr/bin") or "apparmor_parser", "--names"],
        input=policy,
        capture_output=True,
        text=True,
        check=True,
    )
    return said.stdout.splitlines()


@pytest.fixture(params=FILES, ids=lambda file: file.stem)
def file(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture
def body(file: Path) -> dict[str, Any]:
    return yaml.safe_load(file.read_text())


@pytest.fixture
def profile(body: dict[str, Any]) -> models.SecurityProfile:
    return models.decode(models.SecurityProfile, body)


@pytest.fixture
def policy(profile: models.SecurityProfile) -> str:
    assert profile.spec.app_armor
    return profile.spec.app_armor.policy


def test_there_are_seven_or_more() -> None:
    assert len(FILES) >= 7
    assert "k8s-apparmor-example-deny-write" in {file.stem for file in FILES}


def test_it_is_a_profile_of_its_files_name(
    file: Path, body: dict[str, Any], profile: models.SecurityProfile
) -> None:
    assert (body["apiVersion"], body["kind"]) == (API_VERSION, "SecurityProfile")
    assert profile.metadata.name == file.stem
    assert len(profile.metadata.name) <= 63
    assert profile.metadata.name not in PROTECTED
    assert profile.spec.type == "AppArmor"


def test_nothing_is_spelt_wrong(body: dict[str, Any], profile: models.SecurityProfile) -> None:
    """A model ignores what it doesn't know; the defaults apart it must give back the whole file."""
    known = models.encode(profile)["spec"]
    known["appArmor"].setdefault("mode", "Enforce")
    assert known == body["spec"]


def test_only_the_one_that_says_so_lets_things_pass(profile: models.SecurityProfile) -> None:
    assert profile.spec.app_armor
    wanted = "Complain" if profile.metadata.name == "audit-everything" else "Enforce"
    assert profile.spec.app_armor.mode == wanted


def test_a_pod_under_it_can_be_stopped(policy: str) -> None:
    for peer in ("unconfined", "runc", "crun"):
        assert f"signal (receive) peer={peer},\n" in policy
    assert "flags=(attach_disconnected,mediate_deleted)" in policy


def test_it_says_whom_it_is_for(file: Path) -> None:
    assert len(file.read_text().partition("apiVersion:")[0]) > 300
    assert f"| [{file.stem}]" in PAGE.read_text()


def test_the_parser_takes_it(profile: models.SecurityProfile, policy: str) -> None:
    assert profile.metadata.name in names_of(policy)


async def test_hauberk_takes_it(profile: models.SecurityProfile) -> None:
    verdict = await check(profile.spec, Judge(Parser(), Renderer()), {})
    assert verdict.names == (profile.metadata.name,)
