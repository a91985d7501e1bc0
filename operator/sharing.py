"""Makes what a thousand nodes report alike the same objects in memory: names, revisions, facts. Pure.

Called by `loop` as it reads a report. Two objects that are one also compare at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from sys import intern

import msgspec

from ..crds.models import Facts, ProfileNode, Section


class Sharing:
    """The facts of nodes that are alike, once for all of them."""

    def __init__(self) -> None:
        self._facts: dict[bytes, Facts] = {}

    def __len__(self) -> int:
        """Return how many different facts are known."""
        return len(self._facts)

    def shared(self, report: ProfileNode) -> ProfileNode:
        """Return a report that is equal, and has as much as there is in common with others."""
        status = report.status
        facts = self._facts.setdefault(msgspec.json.encode(status.facts), status.facts)
        blocks = {
            block: _interned(there)
            for block in ("app_armor", "selinux", "seccomp")
            if (there := getattr(status, block))
        }
        return msgspec.structs.replace(report, status=msgspec.structs.replace(status, facts=facts, **blocks))

    def forget(self, reports: Iterable[ProfileNode]) -> None:
        """Forget the facts that none of these has: a node in wrong hands could claim ever new ones."""
        self._facts = {msgspec.json.encode(one.status.facts): one.status.facts for one in reports}


def _interned(section: Section) -> Section:
    return msgspec.structs.replace(section, profiles=interned(section.profiles))


def interned(entries: Mapping[str, str]) -> dict[str, str]:
    """Return a mapping whose strings are there once in this process, as long as anyone has them."""
    return {intern(key): intern(value) for key, value in entries.items()}
