"""What a benchmark found: figures beside their floors and goals, as a table and as JSON.

Used by every program of this folder that measures more than one thing. A floor is what was measured in the
same run and on the same machine of what no design could do without; the goal bounds the ratio to it, or where
there is no floor, the figure itself.
"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Floor:
    """What a figure is held against: what it is, the same unit's value, and where there are, all of them."""

    what: str
    value: float
    samples: Sequence[float] = ()


@dataclass(frozen=True)
class Figure:
    """One measurement: an identifier that stays, what it is, its value, its unit, and what it is judged by.

    `goal` is the most that the ratio to the floor may be, or without a floor, the value. `decides`: the
    program's exit code depends on it. `samples` are the single measurements, where there are several; `notes`
    say what the value is made of.
    """

    key: str
    what: str
    value: float
    unit: str
    goal: float | None = None
    floor: Floor | None = None
    decides: bool = False
    samples: Sequence[float] = ()
    notes: Mapping[str, float] = field(default_factory=dict[str, float])

    @property
    def ratio(self) -> float | None:
        """Return how often the floor fits into the value; None without a floor."""
        return self.value / self.floor.value if self.floor and self.floor.value else None

    @property
    def met(self) -> bool | None:
        """Return whether it meets its goal; None where it has none."""
        if self.goal is None:
            return None
        held = self.ratio if self.floor else self.value
        return held is not None and held <= self.goal  # which NaN never is

    def document(self) -> dict[str, Any]:
        """Return it as it is written to JSON."""
        told = {**asdict(self), "ratio": self.ratio, "met": self.met}
        return told | {"samples": list(self.samples), "notes": dict(self.notes)}


def percentile(samples: Iterable[float], share: float) -> float:
    """Return the sample that this share of them is not above (nearest rank); NaN of none."""
    ordered = sorted(samples)
    if not ordered:
        return math.nan
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def number(value: float) -> str:
    """Return a number as people read it: three digits that count, and whole ones in full."""
    if math.isnan(value):
        return "-"
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def table(figures: Iterable[Figure]) -> Table:
    """Return the figures as a table of at most 80 columns."""
    made = Table(box=None, pad_edge=False, header_style="bold", width=80)
    made.add_column("FIGURE", ratio=1)
    for title in ("VALUE", "FLOOR", "RATIO", "GOAL"):
        made.add_column(title, justify="right", no_wrap=True)
    made.add_column("", no_wrap=True)
    for one in figures:
        made.add_row(
            one.what,
            f"{number(one.value)} {one.unit}".strip(),
            number(one.floor.value) if one.floor else "",
            f"{one.ratio:.2f}" if one.ratio is not None else "",
            "" if one.goal is None else f"{number(one.goal)}{' x' if one.floor else ''}",
            {True: "met", False: "MISSED", None: ""}[one.met],
        )
    return made


def machine() -> dict[str, Any]:
    """Return what the figures were measured on: processor, how many, memory in MiB, kernel series, Python."""
    words = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    models = [line.partition(":")[2].strip() for line in words if line.startswith("model name")]
    total = Path("/proc/meminfo").read_text(encoding="utf-8").split()[1]
    return {
        "processor": models[0] if models else platform.machine(),
        "processors": len(models),
        "memoryMiB": int(total) // 1024,
        "kernel": ".".join(platform.release().split(".")[:2]),
        "python": platform.python_version(),
    }


def write(path: Path, title: str, figures: Iterable[Figure]) -> None:
    """Write figures and the machine as JSON."""
    document = {"title": title, "machine": machine(), "figures": [one.document() for one in figures]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def show(figures: Sequence[Figure], console: Console | None = None) -> int:
    """Print figures; return 1 if one that decides missed its goal, else 0."""
    (console or Console(highlight=False)).print(table(figures))
    return int(any(one.decides and one.met is False for one in figures))
