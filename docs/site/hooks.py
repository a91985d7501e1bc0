"""mkdocs' hook: the root's pages are pages of the site too, and files that pages link to come with them.

Pages link to one another and to files of the repository by relative paths, as they have to for a code host.
mkdocs knows what is in docs/ alone, so here README, ARCHITECTURE and the like get a place in the site, every
other file that is linked to is copied to `files/`, and the links follow. Named in mkdocs.yml, whose `nav`
says where a page stands.
The functions' names are mkdocs': https://www.mkdocs.org/dev-guide/plugins/#events
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
# Pages of the root, and what they are in the site.
PAGES = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "explanation/architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
_LINK = re.compile(r"\]\((?!\w+:)([^)#\s]+)(#[^)\s]+)?\)")
_FENCE = re.compile(r"(^```.*?^```[ ]*$)", re.MULTILINE | re.DOTALL)


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Return the site's files, with the root's pages and with what any page links to outside of docs/."""
    for name, uri in PAGES.items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / name)))
    for page in list(files.documentation_pages()):
        for linked in _linked(page.content_string, _source(page.src_uri)):
            if files.get_file_from_path(site_uri(linked)) is None:
                files.append(_copied(linked, config))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001 - mkdocs' names
    """Return a page's text, with its links as they are in the site."""
    uri = page.file.src_uri
    return follow(markdown, _source(uri), uri)


def follow(markdown: str, source: str, uri: str) -> str:
    """Return a page's text with its links as they are in the site.

    `source` is the page's path from the root of the repository, `uri` its path in the site.
    """

    def there(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), found[1]))
        if not (ROOT / target).exists():  # mkdocs says so, with the page's name
            return found[0]
        return f"]({posixpath.relpath(site_uri(target), posixpath.dirname(uri))}{found[2] or ''})"

    pieces = _FENCE.split(markdown)
    return "".join(piece if piece.startswith("```") else _LINK.sub(there, piece) for piece in pieces)


def site_uri(path: str) -> str:
    """Return where a file of the repository is in the site."""
    if path in PAGES:
        return PAGES[path]
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"files/{path}/index.md" if (ROOT / path).is_dir() else f"files/{path}"


def _source(uri: str) -> str:
    """Return the path from the root of the file that a page is made of."""
    return next((name for name, page in PAGES.items() if page == uri), f"docs/{uri}")


def _linked(markdown: str, source: str) -> Iterator[str]:
    """Yield the paths of the files and folders outside of docs/ that a page links to."""
    for link, _ in _LINK.findall("".join(_FENCE.split(markdown)[::2])):
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
        if not target.startswith(("docs/", "..")) and (ROOT / target).exists():
            yield target


def _copied(path: str, config: MkDocsConfig) -> File:
    """Return a file of the repository as one of the site; a folder is a page that lists what is in it."""
    uri, there = site_uri(path), ROOT / path
    if there.is_file():
        return File.generated(config, uri, abs_src_path=str(there))
    names = sorted(one.name for one in there.iterdir() if not one.name.startswith((".", "_")))
    listed = "\n".join(f"    {name}" for name in names)
    return File.generated(
        config, uri, content=f"# {path}\n\nThis folder of the repository has:\n\n{listed}\n"
    )
