"""`python -m demo up|down`, which `make demo` and `make demo-down` call."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Literal

import typer

from .clusters import DemoError, Kind, Lab, Road
from .story import Story

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

Cluster = Annotated[Literal["lab", "kind"], typer.Option(help="Which kind of cluster.")]


def road(cluster: str) -> Road:
    """Return the road to a kind of cluster."""
    return Kind() if cluster == "kind" else Lab()


@app.command()
def up(cluster: Cluster = "lab") -> None:
    """Show a write that a real kernel denies; leave the cluster up. Exit 1: a step failed."""
    if cluster == "lab" and os.geteuid() != 0:
        raise DemoError("the lab needs root for its network namespace; use `sudo make demo`")
    Story(road(cluster)).tell()


@app.command()
def down(cluster: Cluster = "lab") -> None:
    """End the demo's cluster."""
    road(cluster).down()


if __name__ == "__main__":
    try:
        app()
    except DemoError as error:
        sys.stderr.write(f"demo: {error}\n")
        sys.exit(1)
