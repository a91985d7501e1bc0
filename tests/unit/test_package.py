"""The wheel holds what runs, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PRODUCT = ("crds", "profiles", "operator", "daemonset", "cli")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Return the files in a wheel that is built from a copy, so that nothing is left in the tree."""
    copy, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    for folder in PRODUCT:
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    command = [
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--quiet",
        "-w",
        str(out),
    ]
    subprocess.run([sys.executable, *command, str(copy)], check=True, capture_output=True, timeout=120)
    (built,) = out.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        return set(archive.namelist())


def wanted() -> set[str]:
    code = {
        f"hauberk/{file.relative_to(ROOT)}" for folder in PRODUCT for file in (ROOT / folder).glob("*.py")
    }
    crds = {f"hauberk/crds/{file.name}" for file in (ROOT / "crds").glob("*.yaml")}
    templates = {f"hauberk/{file.relative_to(ROOT)}" for file in (ROOT / "profiles").glob("templates/*.j2")}
    return code | crds | templates | {"hauberk/daemonset/daemonset.yaml.j2"}


def test_the_wheel_has_all_code_crds_and_the_template(wheel: set[str]):
    held = {name for name in wheel if ".dist-info/" not in name}
    assert held == wanted()


def test_the_wheel_has_its_license(wheel: set[str]):
    assert any(name.endswith("LICENSE") for name in wheel)


def test_every_folder_with_code_is_a_package_of_the_project():
    packages = PROJECT["tool"]["setuptools"]["package-dir"]
    assert packages == {f"hauberk.{folder}": folder for folder in PRODUCT}
    assert sorted(PROJECT["tool"]["setuptools"]["packages"]) == sorted(packages)


def test_operator_is_the_standard_librarys_where_people_run_python():
    said = subprocess.run(
        [sys.executable, "-c", "import operator; print(operator.__file__)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert Path(said.stdout.strip()).parent == Path(shutil.__file__).parent


def test_the_installed_version_is_the_projects():
    assert metadata.version("hauberk") == PROJECT["project"]["version"]


def test_the_image_is_built_from_nothing_that_is_kept_from_it():
    let_in = {
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copied = {
        source
        for line in (ROOT / "Dockerfile").read_text().splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for source in line.split()[1:-1]
    }
    assert copied == let_in
