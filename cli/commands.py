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
from rich.progress import Progress

from ..profiles.parser import Parser, pinned_features
from . import findings, lint
from .findings import Finding
from .sources import Source, UnreadableError, sources
from .terminal import EXIT_CODES, stderr, texts
from .writing import writing

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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
    """Check profiles as the cluster would, without one.

    Takes SecurityProfiles in YAML, among other objects or not, and raw profiles: AppArmor's, CIL modules
    (.cil) and seccomp's JSON. What is an error here is refused by the cluster as well; a warning is advice.
    Templates are rendered for common distributions.

    \b
    Examples:
      hauberk lint profiles/
      hauberk lint -o sarif profiles/ > hauberk.sarif
      kustomize build . | hauberk lint -
    """  # noqa: D301 - \b is click's own: it keeps the lines below
    wrong: list[Finding] = []
    found: list[Source] = []
    for file, text in texts(paths):
        try:
            found += sources(file, text)
        except UnreadableError as error:
            wrong.append(findings.unreadable(file, error.line, str(error)))
    with Progress(console=stderr, transient=True, disable=not stderr.is_terminal) as progress:
        task = progress.add_task("checking", total=len(found))
        real = Parser(program=parser, base=base, features=pinned_features())
        wrong += asyncio.run(lint.lint(found, real, lambda: progress.advance(task)))
    _write(wrong, output)
    errors = [one for one in wrong if strict or one.level == "error"]
    if output is Output.TEXT:
        stderr.print(_summary(len(found), wrong), highlight=False)
    raise typer.Exit(1 if errors else 0)


app.add_typer(writing)


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
