"""The command line of the lab: `python -m lab COMMAND`.

Called by __main__. Each command is a thin rim over cluster.py, deps.py and build.py.
"""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from lab import binaries, cache, deps, tools
from lab.build import Build, Builder
from lab.cluster import DEFAULT_KINDS, LOGS, Lab
from lab.controlplane import CONTROL_PLANE
from lab.errors import NotUpError, UnmetError, UsageError
from lab.node import MEMORY_MIB, Joining, parse_label, parse_taint
from lab.process import become
from lab.progress import Progress

EXIT_CODES = """
Exit codes: 0 done, 1 or 2 wrong use, 3 the machine lacks something, 4 the lab or node is not up,
5 a program of the lab failed. `run` and `exec` end with the exit code of their command.
"""


app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
store = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(store, name="store", help="Save what the API server stores, or put it back to what was saved.")
# everything after the command's own words belongs to the command that is run
PASSED_ON = {"ignore_unknown_options": True, "allow_interspersed_args": False}

Name = Annotated[str, typer.Argument(metavar="NODE", help="A node, as `status` lists them.")]
Words = Annotated[list[str], typer.Argument(metavar="-- CMD...", help="The command and its arguments.")]


class _Chosen:
    """The lab that --name chose."""

    name = "default"


@app.callback(epilog=EXIT_CODES)
def main(
    name: Annotated[
        str, typer.Option("--name", "-n", envvar="LAB_NAME", help="Which lab; several can be up at once.")
    ] = "default",
) -> None:
    """Run a throwaway Kubernetes whose nodes are real kernels with AppArmor or SELinux.

    Example: python -m lab up && python -m lab run -- kubectl get nodes && python -m lab down
    """
    _Chosen.name = name


def _must_be_root() -> None:
    if os.geteuid() != 0:
        raise UnmetError("The lab needs root for its namespaces and disks: run it with sudo.")


def _lab() -> Lab:
    _must_be_root()
    return Lab(_Chosen.name, Progress())


@app.command()
def up(
    nodes: Annotated[
        str, typer.Option(metavar="KIND,...", help="Kinds of nodes: debian12, debian13, selinux.")
    ] = ",".join(DEFAULT_KINDS),
    given: Annotated[
        Path | None, typer.Option("--bin", help="Folder with Kubernetes' programs, else they are built.")
    ] = None,
    memory: Annotated[int, typer.Option(help="Most memory of a node, in MiB.", min=700)] = MEMORY_MIB,
) -> None:
    """Bring the lab up; what runs already is left as it is.

    Example: python -m lab up --nodes debian12,debian13
    """
    _lab().up([kind for kind in nodes.split(",") if kind], given, memory)


@app.command()
def down() -> None:
    """Stop everything and remove it, also after a crash or Ctrl-C; the cache stays."""
    _lab().down()


@app.command()
def status(
    output: Annotated[str, typer.Option("--output", "-o", metavar="json", help="`json` for machines.")] = "",
) -> None:
    """Show the nodes, whether they are Ready, and what memory they hold.

    Example: python -m lab status -o json
    """
    found = _lab().status()
    if output == "json":
        typer.echo(json.dumps(found, indent=1))
    elif output:
        raise UsageError(f"{output} is no output format: take json, or leave it out.")
    else:
        show(found)


@app.command()
def kubeconfig() -> None:
    """Print the path of the administrator's kubeconfig; the API answers inside the lab's namespace only."""
    lab = _lab()
    lab.must_be_up()
    typer.echo(lab.kubeconfig)


@app.command(context_settings=PASSED_ON)
def run(command: Words) -> None:
    """Run a command inside the lab's network namespace, with KUBECONFIG set and kubectl in PATH.

    Example: python -m lab run -- kubectl get pods -A
    """
    _lab().run(command)


@app.command(name="exec", context_settings=PASSED_ON)
def execute(node: Name, command: Words) -> None:
    """Run a command on a node as its root; 255 also when the connection broke.

    Example: python -m lab exec debian12 -- aa-status
    """
    _lab().exec(node, command[1:] if command[0] == "--" else command)


@app.command()
def load(images: Annotated[list[Path], typer.Argument(metavar="IMAGE.tar...")]) -> None:
    """Put image archives (docker-archive or OCI) into every node.

    Example: python -m lab load agent.tar
    """
    _lab().load(images)


@app.command()
def reboot(node: Name) -> None:
    """Restart a node, running or not: kernel state is lost, its disk is kept. Returns when it is Ready."""
    _lab().reboot(node)


@app.command()
def crash(node: Name) -> None:
    """Cut a node's power. `reboot` starts it again."""
    _lab().crash(node)


@app.command()
def add(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="debian12, debian13 or selinux.")],
    labels: Annotated[
        list[str] | None,
        typer.Option("--label", metavar="KEY=VALUE", help="A label that it joins with; may be repeated."),
    ] = None,
    taints: Annotated[
        list[str] | None,
        typer.Option(
            "--taint", metavar="KEY[=VALUE]:EFFECT", help="A taint that it joins with; may be repeated."
        ),
    ] = None,
) -> None:
    """Join a new node to the running cluster and print its name.

    Example: python -m lab add debian13 --label pool=batch --taint example.org/starting:NoSchedule
    """
    joining = Joining(
        tuple(parse_label(word) for word in labels or ()), tuple(parse_taint(word) for word in taints or ())
    )
    typer.echo(_lab().add(kind, joining).name)


@app.command()
def remove(node: Name) -> None:
    """End a node at once, delete its Node object and its disk."""
    _lab().remove(node)


@app.command()
def cut(node: Name) -> None:
    """Take a node's network link down: it runs on, unreachable for the cluster. `exec` still works."""
    _lab().set_link(node, up=False)


@app.command()
def mend(node: Name) -> None:
    """Bring a node's network link up again."""
    _lab().set_link(node, up=True)


@app.command()
def logs(
    node: Name,
    part: Annotated[str, typer.Argument(metavar="PART", help=f"One of {', '.join(LOGS)}.")] = "kubelet",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as it grows.")] = False,
    lines: Annotated[int, typer.Option(help="How many of the last lines.", min=1)] = 200,
) -> None:
    """Show a log of a node; it is kept on this machine, so it is there when the node is not.

    Example: python -m lab logs debian12 containerd
    """
    if part not in LOGS:
        raise UsageError(f"{part} is no log of a node: take one of {', '.join(LOGS)}.")
    path = _lab().log(node, part)
    if not path.exists():
        raise NotUpError(f"{node} has written no {part} log yet.")
    become(["tail", f"--lines={lines}", *(["-F"] if follow else []), path], {})


@app.command(name="control-plane")
def control_plane(
    action: Annotated[str, typer.Argument(metavar="stop|start")],
    components: Annotated[
        list[str] | None, typer.Argument(metavar="COMPONENT...", help="Default: all four.")
    ] = None,
) -> None:
    """Stop or start etcd, apiserver, controller-manager or scheduler.

    Example: python -m lab control-plane stop apiserver
    """
    named = [component_name(word) for word in components or CONTROL_PLANE]
    if action == "stop":
        _lab().stop_components(named)
    elif action == "start":
        _lab().start_components(named)
    else:
        raise UsageError(f"{action} is neither stop nor start.")


Store = Annotated[str, typer.Argument(metavar="NAME", help="Letters, digits and dashes.")]


@store.command(name="save")
def save_store(name: Store) -> None:
    """Keep all objects of the API as they are now; they are gone with the lab.

    Example: python -m lab store save before
    """
    _lab().save_store(name)


@store.command(name="restore")
def restore_store(name: Store) -> None:
    """Put all objects of the API back to what was saved, as from a backup of etcd; the nodes run on.

    Example: python -m lab store restore before
    """
    _lab().restore_store(name)


@app.command()
def build(
    context: Annotated[Path, typer.Argument(metavar="CONTEXT", help="The folder that COPY reads from.")],
    tag: Annotated[str, typer.Option(help="The image's name.")],
    output: Annotated[Path, typer.Option(help="The archive to write.")],
    file: Annotated[Path | None, typer.Option(help="Default: Dockerfile in CONTEXT.")] = None,
) -> None:
    """Build a Dockerfile without a registry; `FROM debian:trixie-slim` is made from Debian's packages.

    Example: python -m lab build --tag agent:1 --output agent.tar . && python -m lab load agent.tar
    """
    _must_be_root()
    progress = Progress()
    with progress.step(f"building {tag}"):
        builder = Builder(cache.root() / "buildah", progress.note)
        builder.build(Build(context, file or context / "Dockerfile", tag, output))


@app.command(name="deps")
def dependencies(
    install: Annotated[
        bool, typer.Option("--install", help="Install what is missing, with apt-get.")
    ] = False,
) -> None:
    """Tell what the lab needs that this machine lacks; exit code 3 if anything."""
    progress = Progress()
    if install and deps.missing():
        _must_be_root()
        with progress.step("installing packages"):
            deps.install(deps.missing(), cache.root() / "logs" / "deps.log", progress.note)
    for need in deps.missing():
        typer.echo(f"{need.package}: {need.what}, for {need.why}")
    deps.check()
    typer.echo("everything that the lab needs is here")


@app.command(name="binaries")
def programs(
    given: Annotated[Path | None, typer.Option("--bin", help="A folder to look in first.")] = None,
) -> None:
    """Print the folder of Kubernetes' programs, building them if need be (no root needed)."""
    progress = Progress()
    with progress.step("Kubernetes' programs"):
        folder = binaries.ensure(given, progress.note)
    typer.echo(folder)


@app.command(name="tools")
def go_tools() -> None:
    """Print the programs that tests of manifests run, building them if need be (no root needed)."""
    progress = Progress()
    for tool in tools.TOOLS:
        with progress.step(tool):
            program = tools.ensure(tool, progress.note)
        typer.echo(program)


def show(found: dict[str, Any]) -> None:
    """Print a lab's status as a table that fits 80 columns."""
    from rich.console import Console  # noqa: PLC0415 - `exec` and `run` are quicker without it
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("NODE", "KIND", "ADDRESS", "STATE"):
        table.add_column(title, no_wrap=True)
    table.add_column("PID", justify="right")
    table.add_column("MEMORY", justify="right")
    for one in found["nodes"]:
        state = node_state(one)
        colour = "green" if state == "Ready" else "red"
        words = (one["name"], one["kind"], one["address"], f"[{colour}]{state}[/]")
        table.add_row(*words, str(one["pid"] or "-"), f"{one['memory_mib']} MiB")
    for name, one in found["control_plane"].items():
        state = "[green]running[/]" if one["running"] else "[red]stopped[/]"
        table.add_row(name, "-", "-", state, str(one["pid"] or "-"), f"{one['memory_mib']} MiB")
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 80)
    console.print(table)
    console.print(f"lab {found['name']}, {found['memory_mib']} MiB in all")


def node_state(one: dict[str, Any]) -> str:
    """Return one word for a node of `status`: Off, Cut, Ready or NotReady."""
    if not one["running"]:
        return "Off"
    if one["cut"]:
        return "Cut"
    return "Ready" if one["ready"] else "NotReady"


def component_name(word: str) -> str:
    """Return a component's program by its name with or without kube-; raises UsageError."""
    for name in (word, f"kube-{word}"):
        if name in CONTROL_PLANE:
            return name
    raise UsageError(f"{word} is no part of the control plane: take one of {', '.join(CONTROL_PLANE)}.")
