"""The profiles that `bench` measures with are what it says they are."""

from __future__ import annotations

from pathlib import Path

from hauberk.cli.commands import app
from typer.testing import CliRunner

from bench.profiles import profiles


def test_a_seed_makes_the_same_profiles_again_and_no_two_alike():
    made = list(profiles(50, 7))
    assert made == list(profiles(50, 7))
    assert made != list(profiles(50, 8))
    bodies = {text.replace(name, "") for name, text in made}
    assert len(bodies) == 50


def test_lint_has_nothing_to_say_of_them(tmp_path: Path):
    for name, text in profiles(8, 7):
        (tmp_path / name).write_text(text)
    said = CliRunner().invoke(app, ["lint", "--strict", str(tmp_path)])
    assert (said.exit_code, said.stdout) == (0, "")
