"""`python -m bench.compare BEFORE AFTER`: tells two runs apart, and a difference from noise.

A figure has changed where its value moved by more than the noise: what the samples of either run differ
among themselves, and at least five percent. A ratio to a floor is compared as a ratio, so that a slower
machine is no regression.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from .figures import number

# No two runs of anything on a machine that does other things as well agree better.
LEAST_NOISE = 0.05


@dataclass(frozen=True)
class Difference:
    """One figure in two runs: its values (ratios where it has a floor), and by how much they may differ."""

    key: str
    before: float
    after: float
    noise: float

    @property
    def change(self) -> float:
        """Return by which share of the former value it moved; what came from nothing moved by all of it."""
        if self.before == self.after:
            return 0.0
        return (self.after - self.before) / self.before if self.before else 1.0

    @property
    def verdict(self) -> str:
        """Return `better`, `worse` or `same`: all figures are such that less is better."""
        if abs(self.change) <= self.noise:
            return "same"
        return "worse" if self.change > 0 else "better"


def spread(samples: Sequence[float]) -> float:
    """Return how far samples lie apart, as a share of their mean."""
    mean = sum(samples) / len(samples) if samples else 0.0
    return (max(samples) - min(samples)) / mean if mean else 0.0


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Difference]:
    """Return the figures that both runs have, in the order of the second."""
    former = {one["key"]: one for one in before["figures"]}
    found: list[Difference] = []
    for one in after["figures"]:
        if one["key"] not in former:
            continue
        other = former[one["key"]]
        by_ratio = one["ratio"] is not None and other["ratio"] is not None
        field = "ratio" if by_ratio else "value"
        noise = max(LEAST_NOISE, spread(one["samples"]), spread(other["samples"]))
        found.append(Difference(one["key"], other[field], one[field], noise))
    return found


def main(
    before: Annotated[Path, typer.Argument(exists=True, dir_okay=False)],
    after: Annotated[Path, typer.Argument(exists=True, dir_okay=False)],
) -> None:
    """Compare two results of `python -m bench`. Exit 0: nothing is worse, 1: something is."""
    found = differences(json.loads(before.read_text()), json.loads(after.read_text()))
    table = Table(box=None, pad_edge=False, header_style="bold", width=80)
    table.add_column("FIGURE", ratio=1)
    for title in ("BEFORE", "AFTER", "CHANGE", "NOISE"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for one in found:
        table.add_row(
            one.key,
            number(one.before),
            number(one.after),
            f"{one.change:+.0%}",
            f"{one.noise:.0%}",
            "" if one.verdict == "same" else one.verdict,
        )
    Console(highlight=False).print(table)
    raise typer.Exit(int(any(one.verdict == "worse" for one in found)))


if __name__ == "__main__":
    typer.run(main)
