"""Completion: of kubectl's plugin by kubectl's own protocol, and what is installed for shells."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hauberk.cli.commands import app
from hauberk.cli.completion import choices
from typer.testing import CliRunner


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_HAUBERK_COMPLETE", "_TYPER_COMPLETE_FISH_ACTION", "_TYPER_COMPLETE_ARGS", "COLUMNS"):
        monkeypatch.setenv(name, "")  # so that what `choices` sets is taken away again


def chosen(*words: str) -> tuple[list[str], str]:
    """Return the choices without what they are, and the directive."""
    *lines, directive = choices(list(words)).splitlines()
    return [line.split("\t")[0] for line in lines], directive


@pytest.mark.parametrize(
    ("words", "found", "directive"),
    [
        (["r"], ["render"], ":4"),
        (["render", "--facts", "deb"], ["debian-12", "debian-13", "debian-13-selinux"], ":4"),
        (["lint", "-o", ""], ["text", "json", "sarif"], ":4"),
        (["new", "s"], ["selinux", "seccomp"], ":4"),
        (["lint", ""], [], ":0"),  # the shell's own: files
        (["lint", "a b", "x'y", "--str"], ["--strict"], ":4"),
    ],
)
def test_kubectl_is_given_choices(words: list[str], found: list[str], directive: str):
    assert chosen(*words) == (found, directive)


def test_every_command_is_a_choice():
    assert {"lint", "render", "new", "import"} <= set(chosen("")[0])


def test_a_choice_is_one_line_with_what_it_is():
    lines = choices(["render", "--"]).splitlines()
    (facts,) = [line for line in lines if line.startswith("--facts\t")]
    assert facts.endswith("without any, all common ones that hold the profile's type.")


def test_it_runs_as_kubectl_runs_it():
    words = [sys.executable, "-m", "hauberk.cli.completion", "new", "app"]
    said = subprocess.run(words, capture_output=True, text=True, check=True)
    assert (said.stdout, said.stderr) == ("apparmor\n:4\n", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_can_be_given_completion(shell: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    said = CliRunner().invoke(app, ["--show-completion", shell], prog_name="hauberk")
    assert said.exit_code == 0
    assert "_HAUBERK_COMPLETE" in said.stdout
