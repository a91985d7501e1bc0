"""The tutorial and the how-to guides: their YAML is good, and their commands do what they show."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hauberk.cli.live import app
from typer.testing import CliRunner

from tests.unit.test_cli_page import run

ROOT = Path(__file__).parents[2]
PAGES = sorted([*(ROOT / "docs/tutorial").glob("*.md"), *(ROOT / "docs/how-to").glob("*.md")])
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Those of AppArmor, SELinux and seccomp are tried by test_pages, with the files that they speak of.
WITH_COMMANDS = {
    "first-profile": 2,
    "migrate-from-security-profiles-operator": 2,
    "mixed-distributions": 2,
    "write-a-profile": 3,
}


def blocks(page: Path, *languages: str) -> list[str]:
    return [text for language, text in _BLOCK.findall(page.read_text()) if language in languages]


def documents(page: Path) -> list[dict[str, Any]]:
    """Return the objects that a page shows."""
    return [one for text in blocks(page, "yaml") for one in yaml.safe_load_all(text)]


def by_name(page: Path) -> str:
    return page.stem


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_objects_are_objects(page: Path):
    for one in documents(page):
        assert isinstance(one, dict)
        assert re.fullmatch(r"(?:[a-z0-9.-]+/)?v\d\w*", one["apiVersion"])
        assert re.fullmatch(r"[A-Z]\w+", one["kind"])


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_profiles_are_good_ones(page: Path):
    for one in documents(page):
        if one["kind"] != "SecurityProfile" or one["spec"].get("appArmor", {}).get("mode") == "Complain":
            continue
        said = CliRunner().invoke(app, ["lint", "--strict", "-"], input=yaml.safe_dump(one))
        broken = "fil,\n" in str(one["spec"].get("appArmor", {}).get("policy"))
        assert (said.exit_code == 0) is not broken, said.stdout


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_commands_do_what_the_page_shows(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Files of the page are the blocks that begin with a name in a comment."""
    if page.stem not in WITH_COMMANDS:
        assert blocks(page, "console") == [] or page.stem in ("apparmor", "selinux", "seccomp", "lab")
        return
    monkeypatch.chdir(tmp_path)
    for text in blocks(page, "", "yaml"):
        if named := re.match(r"# (\S+)\n", text):
            Path(named[1]).parent.mkdir(parents=True, exist_ok=True)
            Path(named[1]).write_text(text)
    code, seen = 0, 0
    for text in blocks(page, "console"):
        for piece in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            command, _, shown = piece.partition("\n")
            output, code = run(command, code)
            # dots stand for what differs from parser to parser
            expected = re.escape(shown).replace(r"syntax\ error\.\.\.", r"syntax\ error[^\[]*")
            assert re.fullmatch(expected, output), f"{command}\n{output}"
            seen += 1
    assert seen == WITH_COMMANDS[page.stem]


def test_the_tutorial_shows_what_the_demo_does():
    """README shows it too; a person looks at the demo itself, here the two pages are held together."""
    shown = [text for text in blocks(ROOT / "README.md", "") if text.startswith("debian12 ")]
    assert len(shown) == 1
    assert shown[0] in blocks(ROOT / "docs/tutorial/first-profile.md", "")


def test_every_platform_sets_the_same_taint():
    text = (ROOT / "docs/how-to/autoscaling.md").read_text()
    named = set(re.findall(r"hauberk\.dev/profiles-[\w-]+", text))
    assert named == {"hauberk.dev/profiles-pending"}
    effects = {
        taint["effect"]
        for one in documents(ROOT / "docs/how-to/autoscaling.md")
        for taint in taints(one)
        if taint["key"] == "hauberk.dev/profiles-pending"
    }
    assert effects == {"NoSchedule"}


def taints(thing: Any) -> list[dict[str, str]]:
    """Return every taint and toleration in an object, wherever it stands."""
    if isinstance(thing, dict):
        own = [thing] if {"key", "effect"} <= thing.keys() else []
        return own + [one for value in thing.values() for one in taints(value)]
    return [one for value in thing for one in taints(value)] if isinstance(thing, list) else []
