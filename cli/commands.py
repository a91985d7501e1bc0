"""The commands and their options; each is a thin rim over the module of its name.

Called by `__main__`.
"""

from __future__ import annotations

import asyncio
import sys
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from ..crds.facts import facts_key
from ..profiles.kinds import COMMON
from ..profiles.parser import Parser, pinned_features
from . import findings, lint
from .findings import Finding
from .sources import Source, UnreadableError, files_of, sources

EXIT_CODES = "Exit codes: 0 fine, 1 something is wrong, 2 wrong use, 3 this machine lacks what it takes."

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# Progress and everything that is no result.
stderr = Console(stderr=True)


class Output(StrEnum):
    """How findings are written."""

    TEXT = "text"
    JSON = "json"
    SARIF = "sarif"


@app.callback(epilog=EXIT_CODES)
def main() -> None:
    """Write, check and follow the security profiles of a Kubernetes cluster.

    Example: hauberk lint profiles/ && kubectl apply -f profiles/
    """


@app.command("lint", epilog=EXIT_CODES)
def lint_command(
    paths: Annotated[
        list[str], typer.Argument(metavar="FILE|DIR...", help="Files or folders; `-` is standard input.")
    ],
    output: Annotated[Output, typer.Option("--output", "-o", help="text, json or sarif.")] = Output.TEXT,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings count as errors.")] = False,
    parser: Annotated[str, typer.Option(metavar="PROGRAM", help="The parser.")] = "apparmor_parser",
    base: Annotated[
        Path, typer.Option(metavar="DIR", help="Abstractions and tunables that includes may name.")
    ] = Path("/etc/apparmor.d"),
) -> None:
    r"""Check profiles as the cluster would, without one.

    Takes SecurityProfiles in YAML, among other objects or not, and raw AppArmor profiles. What is an error
    here is refused by the cluster as well; a warning is advice. Templates are rendered for common
    distributions.

    \b
    Examples:
      hauberk lint profiles/
      hauberk lint -o sarif profiles/ > hauberk.sarif
      kustomize build . | hauberk lint -
    """
    wrong: list[Finding] = []
    found: list[Source] = []
    for file, text in texts(paths):
        try:
            found += sources(file, text)
        except UnreadableError as error:
            wrong.append(findings.unreadable(file, error.line, str(error)))
    kinds = {facts_key(one): one for one in COMMON}
    with Progress(console=stderr, transient=True, disable=not stderr.is_terminal) as progress:
        task = progress.add_task("checking", total=len(found))
        real = Parser(program=parser, base=base, features=pinned_features())
        wrong += asyncio.run(lint.lint(found, real, kinds, lambda: progress.advance(task)))
    _write(wrong, output)
    errors = [one for one in wrong if strict or one.level == "error"]
    if output is Output.TEXT:
        stderr.print(_summary(len(found), wrong), highlight=False)
    raise typer.Exit(1 if errors else 0)


def texts(paths: list[str]) -> list[tuple[str, str]]:
    """Return each file's name and text; ends with 2 where one is not there or no text."""
    read: list[tuple[str, str]] = []
    for path in paths:
        if path == "-":
            read.append(("-", sys.stdin.read()))
            continue
        try:
            read += [(str(file), file.read_text()) for file in files_of(Path(path))]
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) and error.strerror else "not there, or no text"
            stderr.print(f"error: {path}: {why}", highlight=False)
            raise typer.Exit(2) from error
    return read


def _write(wrong: list[Finding], output: Output) -> None:
    match output:
        case Output.TEXT:
            written = findings.as_text(wrong)
        case Output.JSON:
            written = findings.as_json(wrong)
        case Output.SARIF:
            written = findings.as_sarif(wrong, version("hauberk"))
    sys.stdout.write(written)


def _summary(checked: int, wrong: list[Finding]) -> str:
    errors = sum(one.level == "error" for one in wrong)
    profiles = f"{checked} profile{'' if checked == 1 else 's'}"
    if not wrong:
        return f"{profiles}: nothing to say"
    warned = len(wrong) - errors
    said = f"{errors} error{'' if errors == 1 else 's'}, {warned} warning{'' if warned == 1 else 's'}"
    return f"{profiles}: {said}"
