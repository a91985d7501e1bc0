"""Finds what agents repaired since it was last looked at: each repair becomes one Event. Pure.

Called by `controller` after every change. Agents may write no Events: they count in their report.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .snapshot import Snapshot

# How many repairs of a profile each node has told of, by node and profile.
Counts = Mapping[tuple[str, str], int]


@dataclass(frozen=True)
class Repaired:
    """What a node's agent mended, and how often by now."""

    node: str
    profile: str
    count: int
    message: str


def counts(snapshot: Snapshot) -> dict[tuple[str, str], int]:
    """Return how many repairs each node's report tells of now."""
    return {
        (node, profile): repairs.count
        for node, report in snapshot.reports.items()
        if report.status.app_armor
        for profile, repairs in report.status.app_armor.repairs.items()
    }


def news(before: Counts, snapshot: Snapshot) -> list[Repaired]:
    """Return what was repaired since `before`; an agent that started again counts from one."""
    found: list[Repaired] = []
    for (node, profile), count in sorted(counts(snapshot).items()):
        section = snapshot.reports[node].status.app_armor
        if section is None or count == before.get((node, profile), 0):
            continue
        times = f"{count} time{'' if count == 1 else 's'}"
        found.append(
            Repaired(
                node,
                profile,
                count,
                f"{node}: {section.repairs[profile].message}; it is loaded again "
                f"({times} since that node's agent started)",
            )
        )
    return found
