"""The pages for people: what they link to is there, and the SecurityProfiles that they show are good ones."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from hauberk.cli.commands import app
from hauberk.crds.names import TYPES
from hauberk.crds.reasons import Reason
from typer.testing import CliRunner

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
OF_TYPE = {kind: ROOT / "docs" / "how-to" / f"{kind.lower()}.md" for kind in TYPES}
SHOWING = [*OF_TYPE.values(), ROOT / "docs" / "reference" / "templates.md", ROOT / "README.md"]
_LINK = re.compile(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]+))?\)")
_BLOCK = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"^\$ hauberk (.+)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
_CODE = re.compile(r"^```.*?^```$|`[^`\n]+`", re.MULTILINE | re.DOTALL)
_YAML = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Return the names that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}


def profiles(page: Path) -> list[str]:
    """Return the SecurityProfiles that a page shows."""
    shown = [yaml.safe_load(text) for text in _YAML.findall(page.read_text())]
    return [yaml.safe_dump(one) for one in shown if one.get("kind") == "SecurityProfile"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path):
    for file, anchor in _LINK.findall(_CODE.sub("", page.read_text())):
        there = page.parent / file if file else page
        assert there.exists(), file
        assert not anchor or anchor in anchors(there), f"{file}#{anchor}"


@pytest.mark.parametrize("page", SHOWING, ids=lambda page: page.stem)
def test_the_profiles_that_it_shows_are_good_ones(page: Path):
    for text in profiles(page):
        said = CliRunner().invoke(app, ["lint", "-"], input=text)
        assert said.exit_code == 0, said.stdout


def test_there_are_some_to_look_at():
    assert sum(len(profiles(page)) for page in SHOWING) >= 4


@pytest.mark.parametrize("kind", OF_TYPE)
def test_the_examples_of_a_type_do_what_its_page_shows(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Those with the command line: its own files are in `old/`, the library is where it is."""
    (tmp_path / "profiles").symlink_to(ROOT / "profiles")
    (tmp_path / "old").mkdir()
    monkeypatch.chdir(tmp_path)
    blocks = _BLOCK.findall(OF_TYPE[kind].read_text())
    seen = 0
    for before, block in zip(["", *blocks], blocks, strict=False):
        for command, shown in _COMMAND.findall(block):
            *words, last = command.split()
            if last.startswith("old/"):
                Path(last).write_text(before)
            said = CliRunner().invoke(app, [*words, last])
            assert said.stdout + said.stderr == shown
            seen += 1
    assert seen == 2


@pytest.mark.parametrize("kind", OF_TYPE)
def test_a_page_of_a_type_names_reasons_that_there_are(kind: str):
    named = set(re.findall(r"`([A-Z][a-z]+(?:[A-Z][a-z]+)+)`", OF_TYPE[kind].read_text()))
    others = {"CreateContainerError", "RunContainerError"}
    assert named - others <= {one.value for one in Reason}
    assert named & {one.value for one in Reason}
