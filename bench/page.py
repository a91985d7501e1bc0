"""`python -m bench.page RESULT...`: writes docs/benchmarks.md and its plots from what was measured.

The page's words are here and in told.md, its numbers in the results: of `python -m bench`, and of
`python -m bench.lab`. They are kept beside the plots, so that later ones can be compared with them.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import matplotlib as mpl
import typer

from .figures import number

mpl.use("svg")  # before pyplot looks for a screen
from matplotlib import pyplot as plt

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
PLOTS = PAGE.parent / "benchmarks"
TOLD = Path(__file__).parent / "told.md"

HEAD = """\
# Benchmarks

What Hauberk costs a cluster, measured. `make bench` measures with simulated nodes against a real
kube-apiserver and etcd: each node is a Node as heavy as a kubelet's, the Ready pod of its agent, and the real
agent over a kernel in memory, with a token and connections of its own; operator and admission are the real
programs with their own rights. `make bench-lab` measures on real kernels. This page is written by
`python -m bench.page` from their results, which stand beside the plots
(`python -m bench.compare docs/benchmarks/bench.json build/bench.json` tells what changed since).

A *floor* is what was measured in the same run, on the same machine, of what no design could do without; a
ratio says how often the floor fits into the figure. Goals were set before anything was built. What missed its
goal is told with the reason below.
"""

NUMBERED = re.compile(r"^(?P<what>[a-z]+)-(?P<nodes>\d+)$")


def machine(document: dict[str, Any]) -> str:
    """Return a sentence on what a result was measured on."""
    one = document["machine"]
    return (
        f"{one['processors']} x {one['processor']}, {one['memoryMiB'] // 1024} GiB, "
        f"Linux {one['kernel']}, Python {one['python']}."
    )


def rows(figures: Iterable[dict[str, Any]]) -> list[str]:
    """Return a Markdown table of figures."""
    lines = ["| figure | value | floor | ratio | goal | |", "|---|--:|--:|--:|--:|---|"]
    for one in figures:
        floor, goal = one["floor"], one["goal"]
        lines.append(
            "| "
            + " | ".join(
                (
                    one["what"],
                    f"{number(one['value'])} {one['unit']}".strip(),
                    f"{number(floor['value'])} ({floor['what']})" if floor else "",
                    f"{one['ratio']:.2f}" if one["ratio"] is not None else "",
                    "" if goal is None else f"{number(goal)}{' x' if floor else ''}",
                    {True: "met", False: "**missed**", None: ""}[one["met"]],
                )
            )
            + " |"
        )
    return lines


def plot(name: str, title: str, unit: str, lines: dict[str, list[tuple[float, float]]]) -> str:
    """Draw values against the number of nodes, both axes logarithmic; return the Markdown that shows it."""
    plt.rcParams["svg.hashsalt"] = "hauberk"  # the same file for the same numbers
    figure, axes = plt.subplots(figsize=(6, 3.5))
    for label, points in lines.items():
        nodes, values = zip(*sorted(points), strict=True)
        axes.plot(nodes, values, marker="o", label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("nodes")
    axes.set_ylabel(unit)
    axes.set_title(title)
    axes.grid(visible=True, alpha=0.3)
    if len(lines) > 1:
        axes.legend()
    PLOTS.mkdir(exist_ok=True)
    figure.savefig(PLOTS / f"{name}.svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    return f"![{title}](benchmarks/{name}.svg)"


def by_nodes(figures: Iterable[dict[str, Any]], what: str) -> list[tuple[float, dict[str, Any]]]:
    """Return the figures of a kind that were measured at several numbers of nodes."""
    found = ((NUMBERED.match(one["key"]), one) for one in figures)
    return [(float(match["nodes"]), one) for match, one in found if match and match["what"] == what]


def plots(figures: Sequence[dict[str, Any]]) -> list[str]:
    """Draw what grows with nodes; return the Markdown."""
    ready, writes, sent = (by_nodes(figures, what) for what in ("ready", "writes", "bytes"))
    if not ready:
        return []
    floors = [(nodes, one["floor"]["value"]) for nodes, one in ready]
    return [
        plot(
            "ready",
            "Apply to Ready",
            "seconds",
            {"Hauberk": [(nodes, one["value"]) for nodes, one in ready], "floor": floors},
        ),
        plot(
            "writes",
            "API writes for one changed profile",
            "writes",
            {"Hauberk": [(nodes, one["value"]) for nodes, one in writes]},
        ),
        plot(
            "bytes",
            "Watch bytes a node for one changed profile",
            "bytes",
            {"Hauberk": [(nodes, one["value"]) for nodes, one in sent]},
        ),
    ]


def parts(notes: dict[str, float]) -> str:
    """Return what a figure is made of."""
    return ", ".join(f"{what}: {number(value)}" for what, value in notes.items())


def page(results: Sequence[dict[str, Any]], told: str) -> str:
    """Return the page; `told` is what people wrote about the results."""
    blocks = [HEAD]
    for one in results:
        figures: list[dict[str, Any]] = one["figures"]
        blocks += [f"## {one['title']}\n\n{machine(one)}\n", "\n".join(rows(figures)) + "\n"]
        blocks += [f"{line}\n" for line in plots(figures)]
        if made_of := [
            f"* {figure['what']}: {parts(figure['notes'])}" for figure in figures if figure["notes"]
        ]:
            blocks.append("What the counted figures are made of:\n\n" + "\n".join(made_of) + "\n")
    return "\n".join([*blocks, told.strip() + "\n"])


def main(
    results: Annotated[
        list[Path], typer.Argument(exists=True, dir_okay=False, help="Written by the benches.")
    ],
    told: Annotated[Path, typer.Option(exists=True, help="What people say of them.")] = TOLD,
) -> None:
    """Write docs/benchmarks.md and its plots."""
    PLOTS.mkdir(exist_ok=True)
    kept = [PLOTS / one.name for one in results]
    for one, there in zip(results, kept, strict=True):
        if one.resolve() != there.resolve():
            shutil.copyfile(one, there)
    PAGE.write_text(page([json.loads(one.read_text()) for one in kept], told.read_text()), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
