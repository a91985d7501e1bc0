"""The commands that make text and need no cluster: render, new and import; each is a thin rim over a module.

Put among the others by `commands`.
"""

from __future__ import annotations

import asyncio
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ..crds.names import PROTECTED
from ..profiles.check import Judge
from ..profiles.parser import Parser, pinned_features
from ..profiles.rendering import Renderer
from . import render
from .convert import Imported, imported
from .kinds import UnknownKindError, common, kinds_of
from .manifest import name_fault
from .new import new
from .sources import Source, UnreadableError, sources
from .terminal import EXIT_CODES, texts, told, wrong_use

writing = typer.Typer(rich_markup_mode=None)

_Program = Annotated[str, typer.Option("--parser", metavar="PROGRAM", help="The parser.")]
_Base = Annotated[
    Path, typer.Option("--base", metavar="DIR", help="Abstractions and tunables that includes may name.")
]
_BASE = Path("/etc/apparmor.d")


class Output(StrEnum):
    """How rendered texts are written."""

    TEXT = "text"
    YAML = "yaml"
    JSON = "json"


class Kind(StrEnum):
    """What a new SecurityProfile may be of."""

    APPARMOR = "apparmor"
    SELINUX = "selinux"
    SECCOMP = "seccomp"


_TYPES = {Kind.APPARMOR: "AppArmor", Kind.SELINUX: "SELinux", Kind.SECCOMP: "Seccomp"}


@writing.command("render", epilog=EXIT_CODES)
def render_command(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A file; `-` is standard input.")],
    facts: Annotated[
        list[str] | None,
        typer.Option(
            "--facts",
            metavar="FILE|KIND",
            help="A kind of node: a common one, or a file with ProfileNodes. Several are possible; "
            "without any, all common ones that hold the profile's type.",
            autocompletion=lambda: list(common()),
        ),
    ] = None,
    output: Annotated[Output, typer.Option("--output", "-o", help="text, yaml or json.")] = Output.TEXT,
    parser: _Program = "apparmor_parser",
    base: _Base = _BASE,
) -> None:
    """Show what a policy becomes for kinds of nodes.

    Prints each distinct text with the kinds that it is for, after the check that the cluster would make.
    Common kinds are debian-12, debian-13, ubuntu-22.04 and ubuntu-24.04 with AppArmor, and fedora-43,
    rhel-9.6, rhel-10.0 and debian-13-selinux with SELinux; all hold seccomp profiles.

    \b
    Examples:
      hauberk render app.yaml
      hauberk render app.yaml --facts debian-12 --facts ubuntu-24.04 -o json
      kubectl get profilenodes -o yaml > nodes.yaml
      hauberk render app.yaml --facts nodes.yaml
    """  # noqa: D301 - \b is click's own: it keeps the lines below
    try:
        kinds = kinds_of(facts or ())
        found = [one for name, text in texts([file]) for one in sources(name, text)]
    except UnknownKindError as error:
        wrong_use(str(error))
    except UnreadableError as error:
        told(f"{file}:{error.line}: error: {error}")
        raise typer.Exit(1) from error
    if not found:
        told(f"{file}: error: no SecurityProfile in it")
        raise typer.Exit(1)
    real = Parser(program=parser, base=base, features=pinned_features())

    async def rendered(found: list[Source]) -> list[render.Rendering]:
        async with Renderer() as renderer:
            return await render.render(found, Judge(real, renderer), kinds)

    renderings = asyncio.run(rendered(found))
    match output:
        case Output.TEXT:
            sys.stdout.write(render.as_text(renderings))
        case Output.YAML:
            sys.stdout.write(render.as_stream(renderings))
        case Output.JSON:
            sys.stdout.write(render.as_json(renderings))
    wrong = render.faults(renderings)
    for sentence in wrong:
        told(sentence)
    raise typer.Exit(1 if wrong else 0)


@writing.command("new", epilog=EXIT_CODES)
def new_command(
    kind: Annotated[Kind, typer.Argument(metavar="apparmor|selinux|seccomp", help="What it is for.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the SecurityProfile, and of its policy.")],
    policy: Annotated[
        str, typer.Option(metavar="FILE", help="A policy to take instead of one to start from.")
    ] = "",
) -> None:
    """Print a SecurityProfile to start from.

    It works as it is, and its comments say what to change.

    \b
    Examples:
      hauberk new apparmor my-app > my-app.yaml
      hauberk lint --strict my-app.yaml
      hauberk new seccomp my-app --policy my-app.json
    """  # noqa: D301 - \b is click's own: it keeps the lines below
    if fault := name_fault(name):
        wrong_use(fault)
    if kind is Kind.APPARMOR and not policy and name in PROTECTED:
        wrong_use(f"{name} is the name of a container runtime's own profile; choose another")
    given = texts([policy]) if policy else [("", "")]
    if policy and (len(given) != 1 or not given[0][1].strip()):
        wrong_use(f"{policy} is not one file with a policy in it")
    sys.stdout.write(new(_TYPES[kind], name, given[0][1]))


@writing.command("import", epilog=EXIT_CODES)
def import_command(
    paths: Annotated[
        list[str], typer.Argument(metavar="FILE|DIR...", help="Files or folders; `-` is standard input.")
    ],
    parser: _Program = "apparmor_parser",
    base: _Base = _BASE,
) -> None:
    """Print what you have already as SecurityProfiles.

    Takes raw AppArmor profiles, CIL modules (.cil), seccomp's JSON, and objects of the
    security-profiles-operator. What the cluster will refuse is imported as well, where that is possible,
    and told.

    \b
    Examples:
      hauberk import /etc/apparmor.d/my-app > my-app.yaml
      hauberk import apparmor/ selinux/ seccomp/ > profiles.yaml
      kubectl get apparmorprofiles,seccompprofiles -A -o yaml | hauberk import -
    """  # noqa: D301 - \b is click's own: it keeps the lines below
    read = texts(paths)
    real = Parser(program=parser, base=base, features=pinned_features())

    async def made() -> Imported:
        async with Renderer() as renderer:
            return await imported(read, Judge(real, renderer))

    result = asyncio.run(made())
    sys.stdout.write("---\n".join(result.manifests))
    for sentence in (*result.warnings, *result.errors):
        told(sentence)
    count = len(result.manifests)
    told(f"{count} profile{'' if count == 1 else 's'} imported, {len(result.errors)} could not be")
    raise typer.Exit(1 if result.errors else 0)
