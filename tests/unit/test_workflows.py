"""The workflows that test a change and make a release: plain files with few rights."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart import kubectl, tool

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".github" / "workflows"
FILES = sorted(FOLDER.glob("*"))
# What a step may use: a commit by its whole name, with the version that it is for people.
PINNED = re.compile(r"^\s*(?:- )?uses: (?:[\w.-]+/)+[\w.-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$")
LOCAL = re.compile(r"^\s*uses: \./\.github/workflows/[\w-]+\.yml$")
# A write that each of these needs; nobody else has one.
WRITES = {"release.yml": {"release": {"contents", "packages", "id-token"}}}


def read(file: Path) -> dict[str, Any]:
    found = yaml.safe_load(file.read_text())
    # YAML 1.1 takes the word `on` for a truth value
    return {"on" if key is True else key: value for key, value in found.items()}


def steps(file: Path) -> Iterator[dict[str, Any]]:
    for job in read(file)["jobs"].values():
        yield from job.get("steps", [])


def scripts(file: Path) -> list[str]:
    return [step["run"] for step in steps(file) if "run" in step]


def test_these_are_all():
    assert [one.name for one in FILES] == ["release.yml", "test.yml"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_nobody_has_more_rights_than_it_takes(file: Path):
    workflow = read(file)
    assert workflow["permissions"] == {"contents": "read"}
    granted = {
        name: {right for right, how in job["permissions"].items() if how == "write"}
        for name, job in workflow["jobs"].items()
        if "permissions" in job
    }
    assert granted == WRITES.get(file.name, {})


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_no_stranger_is_given_rights_or_a_shell(file: Path):
    """Both ways are known: a fork's code run with this repository's token, and text put into a script."""
    triggers = set(read(file)["on"])
    assert triggers <= {"pull_request", "push", "workflow_call"}
    for script in scripts(file):
        assert "${{" not in script, "hand it on by env"
    assert "github.event" not in file.read_text()
    assert "github.head_ref" not in file.read_text()
    for step in steps(file):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_what_others_wrote_is_named_by_its_commit(file: Path):
    used = [line for line in file.read_text().splitlines() if re.match(r"\s*(- )?uses:", line)]
    assert used
    assert [line for line in used if not PINNED.match(line) and not LOCAL.match(line)] == []
    for line in used:
        if LOCAL.match(line):
            assert (ROOT / line.split()[1]).is_file()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_what_they_make_is_there_to_be_made(file: Path):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    made = {target for script in scripts(file) for target in re.findall(r"\bmake ([\w-]+)", script)}
    assert made
    assert made <= targets


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_job_ends(file: Path):
    jobs = read(file)["jobs"].values()
    assert all("timeout-minutes" in job for job in jobs if "uses" not in job)


def test_a_release_is_of_what_was_tested_and_only_of_a_tag():
    workflow = read(FOLDER / "release.yml")
    assert workflow["on"] == {"push": {"tags": ["v*"]}}
    assert workflow["jobs"]["release"]["needs"] == "test"
    whole = "\n".join(scripts(FOLDER / "release.yml"))
    for done in (
        "cosign sign --yes --recursive",
        "cosign attest",
        "helm push",
        "sha256sum",
        "make chart",
        "install.yaml",
    ):
        assert done in whole
    (image,) = [step["with"] for step in steps(FOLDER / "release.yml") if step.get("id") == "image"]
    assert image["platforms"] == "linux/amd64,linux/arm64"
    assert image["sbom"] is True


def test_what_a_release_installs_is_the_image_that_it_pushed(tmp_path: Path):
    (script,) = [one for one in scripts(FOLDER / "release.yml") if "make chart" in one]
    shutil.copytree(ROOT / "deploy", tmp_path / "deploy")
    shutil.copytree(ROOT / "crds", tmp_path / "crds")
    (tmp_path / "build").mkdir()
    # in the place of the Makefile, whose `chart` needs all of the project
    make = tmp_path / "bin" / "make"
    make.parent.mkdir()
    make.write_text("#!/bin/sh\nexec helm package deploy/chart --destination build\n")
    make.chmod(0o755)
    folders = [str(make.parent), str(Path(tool("helm")).parent), str(Path(kubectl()).parent)]
    version = re.findall(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[0]
    digest = f"sha256:{'5e' * 32}"
    done = subprocess.run(
        ["bash", "-eo", "pipefail", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={
            "PATH": ":".join([*folders, os.environ["PATH"]]),
            "IMAGE": "ghcr.io/somebody/hauberk",
            "VERSION": version,
            "IMAGE_DIGEST": digest,
        },
    )
    assert (done.returncode, done.stderr) == (0, "")
    for file in ("install.yaml", "of-chart.yaml"):
        made = list(yaml.safe_load_all((tmp_path / "build" / file).read_text()))
        images = [
            container["image"]
            for one in made
            if one and one["kind"] == "Deployment"
            for container in one["spec"]["template"]["spec"]["containers"]
        ]
        assert images == [f"ghcr.io/somebody/hauberk:{version}@{digest}"] * 2
