"""Finds what agents repaired since it was last looked at: each repair becomes one Event. Pure.

Called by `controller` after every change. Agents may write no Events: they count in their report.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .snapshot import Snapshot

# How many repairs of a profile each node has told of, by node, type and profile.
Counts = Mapping[tuple[str, str, str], int]


@dataclass(frozen=True)
class Repaired:
    """What a node's agent mended, and how often by now."""

    node: str
    type: str
    profile: str
    count: int
    message: str


def counts(snapshot: Snapshot) -> dict[tuple[str, str, str], int]:
    """Return how many repairs each node's report tells of now."""
    return {
        (node, kind, profile): repairs.count
        for node, report in snapshot.reports.items()
        if report.status.has_repairs
        for kind, section in report.status.sections.items()
        for profile, repairs in section.repairs.items()
    }


def news(before: Counts, snapshot: Snapshot) -> list[Repaired]:
    """Return what was repaired since `before`; an agent that started again counts from one."""
    found: list[Repaired] = []
    for (node, kind, profile), count in sorted(counts(snapshot).items()):
        if count == before.get((node, kind, profile), 0):
            continue
        message = snapshot.reports[node].status.sections[kind].repairs[profile].message
        times = f"{count} time{'' if count == 1 else 's'}"
        found.append(
            Repaired(
                node,
                kind,
                profile,
                count,
                f"{node}: {message}; it is loaded again ({times} since that node's agent started)",
            )
        )
    return found
