"""docs/reference/cli.md: it has every command, and its examples do what it shows."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main
import yaml
from hauberk.cli.live import app
from typer.testing import CliRunner

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reference" / "cli.md").read_text()
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMANDS = sorted(getattr(typer.main.get_command(app), "commands"))  # noqa: B009 - a group's, and so typed by nobody


def blocks(*languages: str) -> list[str]:
    return [text for language, text in _BLOCK.findall(PAGE) if language in languages]


def files() -> Iterator[tuple[str, str]]:
    """Yield the page's files: the blocks that begin with a name in a comment."""
    for text in blocks("", "yaml"):
        if named := re.match(r"# (\S+)\n", text):
            yield named[1], text


def examples() -> Iterator[tuple[str, str]]:
    """Yield the page's commands with what they print."""
    for text in blocks("console"):
        for piece in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            command, _, shown = piece.partition("\n")
            yield command, shown


def run(command: str, last: int) -> tuple[str, int]:
    """Run a command of the page as a shell would, and return what a terminal shows, and its exit code."""
    if command == "echo $?":
        return f"{last}\n", 0
    program, *words = shlex.split(command)
    assert program == "hauberk"
    *words, target = words if words[-2:-1] == [">"] else [*words, ""]
    said = CliRunner().invoke(app, words[:-1] if target else words)
    if not target:
        return said.stdout + said.stderr, said.exit_code
    Path(target).write_text(said.stdout)
    return said.stderr, said.exit_code


def test_the_page_has_every_command():
    assert sorted(re.findall(r"^#+ hauberk (\S+)$", PAGE, re.MULTILINE)) == COMMANDS


def test_the_examples_do_what_the_page_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name, text in files():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)
    code, seen = 0, 0
    for command, shown in examples():
        output, code = run(command, code)
        # dots stand for what differs from parser to parser
        assert re.fullmatch(
            re.escape(shown).replace(r"syntax\ error\.\.\.", r"syntax\ error[^\[]*"), output
        ), command
        seen += 1
    assert seen >= len(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples_and_exit_codes(command: str):
    said = CliRunner().invoke(app, [command, "--help"]).stdout
    assert "\n  Examples:\n    " in said
    assert f"hauberk {command} " in said.partition("Examples:")[2].partition("Options:")[0]
    assert re.search(r"Exit codes: 0 .*, 1 .*, 2 wrong use, 3 ", said)
    assert "\\b" not in said
    assert max(len(line) for line in said.splitlines()) <= 80


def test_the_hook_runs_what_is_there():
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    program, command = hook["entry"].split()
    assert (program, hook["id"], hook["language"]) == ("hauberk", "hauberk-lint", "python")
    assert command in COMMANDS
    assert f"- id: {hook['id']}\n" in PAGE
