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
        for section in report.status.sections.values()
        for profile, repairs in section.repairs.items()
    }


def news(before: Counts, snapshot: Snapshot) -> list[Repaired]:
    """Return what was repaired since `before`; an agent that started again counts from one."""
    found: list[Repaired] = []
    for (node, profile), count in sorted(counts(snapshot).items()):
        if count == before.get((node, profile), 0):
            continue
        sections = snapshot.reports[node].status.sections.values()
        message = next(one.repairs[profile].message for one in sections if profile in one.repairs)
        times = f"{count} time{'' if count == 1 else 's'}"
        found.append(
            Repaired(
                node,
                profile,
                count,
                f"{node}: {message}; it is loaded again ({times} since that node's agent started)",
            )
        )
    return found
