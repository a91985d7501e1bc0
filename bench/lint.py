"""`python -m bench.lint`: how much longer `hauberk lint` takes than the parser alone, on the same files.

The parser's verdict is what lint can't do without. The floor is `apparmor_parser -Q -K -T` run file by file,
with as many at once as lint runs; one run for all files is measured as well, which no lint could be that
tells apart what is wrong with each of them, and keeps each within limits of its own.

By the clock a machine that is busy with something else is no judge, so the processors' time counts as well.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from hauberk.profiles.parser import pinned_features
from rich.console import Console
from rich.table import Table

from .profiles import profiles

GOAL = 1.2
SEED = 20_250_101


class Output(StrEnum):
    """How the measurements are written."""

    TEXT = "text"
    JSON = "json"


@dataclass(frozen=True)
class Took:
    """What a run took: seconds by the clock, and of the processors, all that it started included."""

    wall: float
    cpu: float


def main(
    count: Annotated[int, typer.Option(min=1, help="How many profiles.")] = 1000,
    rounds: Annotated[int, typer.Option(min=1, help="The best of so many counts.")] = 1,
    seed: Annotated[int, typer.Option(help="Makes the same profiles again.")] = SEED,
    output: Annotated[Output, typer.Option("--output", "-o", help="text or json.")] = Output.TEXT,
) -> None:
    """Measure lint against the parser.

    Exit 0: at most 1.2 times the floor, by the clock and in processor time; 1: more; 3: no parser here.
    """
    with tempfile.TemporaryDirectory(prefix="bench-lint-") as folder:
        files = [_put(Path(folder), name, text) for name, text in profiles(count, seed)]
        jobs = os.cpu_count() or 1
        runs = {
            "floor": _by_file(Path(folder), jobs),
            "parser, one run": ["apparmor_parser", *_options(), f"--jobs={jobs}", *map(str, files)],
            "hauberk lint": [sys.executable, "-m", "hauberk.cli", "lint", folder],
        }
        # in turns, so that what else the machine does is everybody's
        tries = [{name: _took(words) for name, words in runs.items()} for _ in range(rounds)]
        took = {name: min((one[name] for one in tries), key=lambda one: one.wall) for name in runs}
    floor, lint = took["floor"], took["hauberk lint"]
    ratio = Took(round(lint.wall / floor.wall, 3), round(lint.cpu / floor.cpu, 3))
    if output is Output.JSON:
        result = {"count": count, "jobs": jobs, "ratio": asdict(ratio), "goal": GOAL}
        sys.stdout.write(
            json.dumps({**result, **{name: asdict(one) for name, one in took.items()}}, indent=2) + "\n"
        )
    else:
        _show(took, count, jobs)
    raise typer.Exit(0 if max(ratio.wall, ratio.cpu) <= GOAL else 1)


def _put(folder: Path, name: str, text: str) -> Path:
    file = folder / name
    file.write_text(text)
    return file


def _options() -> list[str]:
    features = pinned_features()  # what lint compiles for, too
    return ["-Q", "-K", "-T", *([f"--kernel-features={features}"] if features else [])]


def _by_file(folder: Path, jobs: int) -> list[str]:
    """Return the parser's run for each file of a folder; xargs, which is as thin as can be, starts them."""
    parser = " ".join(("apparmor_parser", *_options()))
    return ["sh", "-c", f"find {folder} -type f -print0 | xargs -0 -P {jobs} -n 1 {parser}"]


def _took(words: list[str]) -> Took:
    """Return what a run took; ends with 3 where it can't be run, or finds something wrong."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    # read once, Python's own files are compiled for good: as on any machine but a strange one
    environment = {**os.environ, "PATH": path, "LC_ALL": "C"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    before, start = _cpu(), time.monotonic()
    run = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    wall = time.monotonic() - start
    if run.returncode:
        sys.stderr.write(f"error: {words[0]} ended with {run.returncode}: {run.stderr[-500:]}\n")
        raise typer.Exit(3)
    return Took(round(wall, 3), round(_cpu() - before, 3))


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _show(took: dict[str, Took], count: int, jobs: int) -> None:
    floor = took["floor"]
    table = Table(title=f"{count} profiles, {jobs} at once")
    for heading in ("", "seconds", "a second", "x floor", "CPU seconds", "x floor's"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, one in took.items():
        table.add_row(
            name,
            f"{one.wall:.2f}",
            f"{count / one.wall:.0f}",
            f"{one.wall / floor.wall:.2f}",
            f"{one.cpu:.2f}",
            f"{one.cpu / floor.cpu:.2f}",
        )
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
