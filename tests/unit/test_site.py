"""The site: pages made from the CRDs are current, links lead on, and both renderers see the same page."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import markdown
import pytest
import yaml
from markdown_it import MarkdownIt
from mkdocs.config import load_config

from docs.site.__main__ import pages
from docs.site.hooks import PAGES, follow, site_uri
from docs.site.schemas import page

ROOT = Path(__file__).parents[2]
CRDS = sorted(file for file in (ROOT / "crds").glob("*.yaml") if file.name != "kustomization.yaml")
TEXTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def relative(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


# --- the pages on the kinds ---


@pytest.mark.parametrize(("file", "text"), pages().items(), ids=lambda one: getattr(one, "stem", ""))
def test_a_page_that_is_made_is_current(file: Path, text: str):
    """`make reference` writes it anew."""
    assert file.read_text() == text


def test_every_kind_has_its_page():
    kinds = [yaml.safe_load(file.read_text())["spec"]["names"]["singular"] for file in CRDS]
    assert sorted(kinds) == sorted(file.stem for file in pages())


def said_of(schema: dict[str, Any]) -> Iterator[str]:
    """Yield what a page has to say of a schema: texts of fields and rules, and every limit."""
    for key in ("maxLength", "maxItems", "maxProperties", "pattern", "default"):
        if key in schema and not isinstance(schema[key], dict):
            yield str(schema[key]).lower() if isinstance(schema[key], bool) else str(schema[key])
    yield from (str(one) for one in schema.get("enum", []))
    for rule in schema.get("x-kubernetes-validations", []):
        yield from (rule["message"], " ".join(rule["rule"].split()))
    for name, field in schema.get("properties", {}).items():
        yield name
        yield from said_of(field)
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from said_of(schema[key])


@pytest.mark.parametrize("file", CRDS, ids=relative)
def test_a_page_says_all_that_its_schema_says(file: Path):
    definition = yaml.safe_load(file.read_text())
    made = page(definition, relative(file))
    (version,) = definition["spec"]["versions"]
    missing = [one for one in said_of(version["schema"]["openAPIV3Schema"]) if one not in made]
    assert missing == []


def test_a_field_without_a_description_is_an_error():
    definition = copy.deepcopy(yaml.safe_load((ROOT / "crds/securityprofiles.yaml").read_text()))
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    del schema["properties"]["spec"]["properties"]["suspend"]["description"]
    with pytest.raises(ValueError, match=r"spec\.suspend has no description"):
        page(definition, "x.yaml")


# --- links ---


@pytest.mark.parametrize(
    ("source", "link", "there"),
    [
        ("docs/how-to/apparmor.md", "../reference/reasons.md#a", "../reference/reasons.md#a"),
        ("docs/how-to/apparmor.md", "../../ARCHITECTURE.md", "../explanation/architecture.md"),
        ("docs/how-to/apparmor.md", "../../crds/models.py", "../files/crds/models.py"),
        ("docs/how-to/apparmor.md", "../../crds", "../files/crds/index.md"),
        ("README.md", "docs/reference/cli.md", "reference/cli.md"),
        ("ARCHITECTURE.md", "docs/reference/cli.md", "../reference/cli.md"),
        ("README.md", "docs/nowhere.md", "docs/nowhere.md"),
        ("README.md", "https://example.org/x.md", "https://example.org/x.md"),
    ],
)
def test_a_link_leads_to_the_same_place_in_the_site(source: str, link: str, there: str):
    assert follow(f"see [it]({link}).", source, site_uri(source)) == f"see [it]({there})."


def test_code_is_left_as_it_is():
    text = "```\n[a](crds/models.py)\n```\n"
    assert follow(text, "README.md", "index.md") == text


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """Return a copy of the pages, among the rest of the repository."""
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    for file in ROOT.iterdir():
        if not file.name.startswith(".") and file.name not in ("docs", "build"):
            (tmp_path / file.name).symlink_to(file)
    return tmp_path


def built(root: Path) -> subprocess.CompletedProcess[str]:
    """Make the site of the pages in a folder as `make docs` does, in the environment that there is.

    Whatever pinned libraries there are by now: make would build it anew, under this very test.
    """
    environment = ROOT / ".venv"
    command = ["make", "--silent", f"--old-file={environment / '.done'}", "docs"]
    command += [f"PY={sys.executable}", f"VENV={environment}"]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize(
    ("page", "text", "said"),
    [
        ("how-to/gitops.md", "[a](nowhere.md)", "'nowhere.md', but the target"),
        ("how-to/gitops.md", "[a](apparmor.md#nowhere)", "does not contain an anchor '#nowhere'"),
        ("how-to/gitops.md", "[a](../../nowhere.py)", "'../../nowhere.py', but the target"),
        ("how-to/lost.md", "# Lost\n", 'not included in the "nav"'),
    ],
    ids=["no page", "no heading", "no file", "not in the contents"],
)
def test_what_leads_nowhere_ends_the_build(copied: Path, page: str, text: str, said: str):
    with (copied / "docs" / page).open("a") as file:
        file.write(f"\n{text}\n")
    done = built(copied)
    assert done.returncode
    assert said in done.stderr + done.stdout


def test_every_page_of_the_root_is_in_the_site():
    assert set(PAGES) == {file.name for file in ROOT.glob("*.md")}


@pytest.mark.parametrize("file", TEXTS, ids=relative)
def test_a_page_that_is_named_is_there(file: Path):
    """Pages are named in code blocks and in sentences too, where no link says that they moved."""
    named = set(re.findall(r"\bdocs/[\w/-]+\.md", file.read_text()))
    old = set[str]() if file.name != "CHANGELOG.md" else named
    assert [name for name in named - old if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("folder", ["crds", "profiles", "operator", "daemonset", "cli", "deploy", "tests"])
def test_a_page_that_a_file_names_is_there(folder: str):
    suffixes = {".py", ".yaml", ".j2", ".txt"}
    named = {
        (relative(file), name)
        for file in (ROOT / folder).rglob("*")
        if file.suffix in suffixes and file != Path(__file__)
        for name in re.findall(r"\bdocs/[\w/-]+\.md", file.read_text())
    }
    assert [one for one in named if not (ROOT / one[1]).exists()] == []


def test_the_image_has_nothing_of_it():
    image = re.findall(r"^([\w-]+)==", (ROOT / "requirements/image.txt").read_text(), re.MULTILINE)
    assert {"aiohttp", "pyyaml"} <= set(image)
    assert [name for name in image if name.startswith(("mkdocs", "markdown", "pymdown", "lupa", "cel"))] == []
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    assert not {"!docs", "!mkdocs.yml"} & set(ignored)


# --- two renderers: a code host's, which is close to CommonMark with tables, and the site's ---

TAGS = {*("h1", "h2", "h3", "h4", "li", "ul", "ol", "pre", "code", "table", "tr", "td", "th", "a"), "strong"}


class Counted(HTMLParser):
    """Counts the elements of a page, those within code blocks left out."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen = Counter[str]()
        self.in_block = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in TAGS and not self.in_block and ("class", "headerlink") not in attrs:
            self.seen[tag] += 1
        self.in_block = self.in_block or tag == "pre"

    def handle_endtag(self, tag: str) -> None:
        self.in_block = self.in_block and tag != "pre"


@pytest.fixture(scope="module")
def site() -> markdown.Markdown:
    config = load_config(str(ROOT / "mkdocs.yml"))
    return markdown.Markdown(extensions=config.markdown_extensions, extension_configs=config.mdx_configs)


@pytest.mark.parametrize("file", TEXTS, ids=relative)
def test_a_page_is_the_same_on_a_code_host(file: Path, site: markdown.Markdown):
    """A list that lacks an empty line, or is not indented by four, would be a paragraph in the site."""
    text = file.read_text()
    host = Counted(MarkdownIt("commonmark").enable("table").render(text)).seen
    assert Counted(site.reset().convert(text)).seen == host


def test_a_difference_is_seen(site: markdown.Markdown):
    text = "1. one\n   * nested\n"
    host = Counted(MarkdownIt("commonmark").render(text)).seen
    assert Counted(site.reset().convert(text)).seen != host
