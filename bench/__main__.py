"""`python -m bench`: what Hauberk costs a cluster of many nodes, against a real API server."""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from hauberk.crds.errors import NodeFault
from rich.console import Console

from lab.errors import LabError

from . import compiling, figures
from .figures import Figure
from .scale.run import SHORT, Sizes, scale

HELP = """Measure what Hauberk costs a cluster, and print each figure beside its floor and its goal.

A real kube-apiserver and etcd run on this machine's loopback, with Hauberk's own programs. Nodes are
simulated: each is a Node, the Ready pod of its agent, and the real agent over a kernel in memory, with a
token and connections of its own. All of it takes half an hour on two processors, --short about three minutes.

\b
Examples:
  python -m bench
  python -m bench --short --result build/short.json

Exit code: 0 if the figures that decide met their goals, 1 if one did not, 2 for wrong use, 3 where
kube-apiserver or apparmor_parser is missing, 4 where something did not come about at all, 143 after SIGTERM.
"""


async def _measure(sizes: Sizes, result: Path) -> list[Figure]:
    found: list[Figure] = []
    began = time.monotonic()
    if task := asyncio.current_task():  # a control plane must not outlive who started it
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)

    def progress(what: str) -> None:
        sys.stderr.write(f"[{time.monotonic() - began:5.0f} s] {what}\n")

    def tell(some: list[Figure]) -> None:
        found.extend(some)
        for one in some:
            progress(f"  {one.what}: {figures.number(one.value)} {one.unit}")
        figures.write(result, "Simulated nodes", found)  # what was measured stays, whatever comes

    progress("many policies are compiled")
    tell(await compiling.measure())
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        async for some in scale(sizes, Path(folder), progress):
            tell(some)
    return found


def main(
    short: Annotated[bool, typer.Option("--short", help="Up to 100 nodes, without churn.")] = False,
    result: Annotated[Path, typer.Option(help="Where the figures go, as JSON.")] = Path("build/bench.json"),
) -> None:
    """Measure and judge."""
    try:
        found = asyncio.run(_measure(SHORT if short else Sizes(), result))
    except asyncio.CancelledError as error:
        raise typer.Exit(128 + signal.SIGTERM) from error
    except (LabError, NodeFault) as error:
        sys.stderr.write(f"{error}\n")
        raise typer.Exit(3) from error
    except TimeoutError as error:
        sys.stderr.write(f"{error}\n")
        raise typer.Exit(4) from error
    raise typer.Exit(figures.show(found, Console(highlight=False)))


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command(help=HELP, context_settings={"help_option_names": ["-h", "--help"]})(main)
    app(prog_name="python -m bench")
