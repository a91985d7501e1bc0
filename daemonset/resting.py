"""Plans from one snapshot to the next, and looks only at profiles of which something changed.

Used by `reconciler`. A hundred new profiles are a hundred events on each node, and each would cost a look at
all that are there. What comes out is what `plan` makes of the last snapshot alone: no event is counted on,
the snapshots are compared. No I/O and no clock; it remembers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..crds.models import ProfileRevision
from .holdings import Holding
from .host import Loaded
from .plan import Plan, Snapshot, plan


class _Rest(NamedTuple):
    """All that a profile depends on of which nothing was to be done or told."""

    revisions: Sequence[ProfileRevision]
    holding: Holding | None
    loaded: tuple[Loaded | None, ...]
    boot_file: str | None


class Planner:
    """Remembers which profiles are at rest."""

    def __init__(self) -> None:
        self._node: tuple[Mapping[str, str], str, str] | None = None
        self._resting: dict[str, _Rest] = {}

    def plan(self, snapshot: Snapshot) -> Plan:
        """Return what `plan` returns."""
        node = (dict(snapshot.labels), snapshot.kind, snapshot.boot_id)
        if node != self._node:
            self._node, self._resting = node, {}
        moving = {key.profile for key in snapshot.refused} | snapshot.unrecorded
        self._resting = {
            name: rest
            for name, rest in self._resting.items()
            if name not in moving and _is_same(name, rest, snapshot)
        }
        decided = plan(snapshot, at_rest=self._resting.keys())
        moving |= decided.problems.keys() | decided.orphans | decided.of_other_kind
        moving |= {step.key.profile for step in decided.steps}
        for name in snapshot.profiles - moving - self._resting.keys():
            if rest := _rest(name, snapshot):
                self._resting[name] = rest
        return decided


def _is_same(name: str, rest: _Rest, snapshot: Snapshot) -> bool:
    """Return whether a profile is as it was: objects are replaced when they change, and only then."""
    if snapshot.holdings.get(name) is not rest.holding:
        return False
    revisions = snapshot.by_profile.get(name, ())
    if len(revisions) != len(rest.revisions):
        return False
    if any(one is not other for one, other in zip(revisions, rest.revisions, strict=True)):
        return False
    return _of_kernel(name, rest.holding, snapshot) == (rest.loaded, rest.boot_file)


def _of_kernel(
    name: str, holding: Holding | None, snapshot: Snapshot
) -> tuple[tuple[Loaded | None, ...], str | None] | None:
    """Return what is loaded of a profile and its boot file; None where other profiles have a say in it."""
    modes = holding.modes if holding else {}
    if not snapshot.children.keys().isdisjoint(modes):
        return None  # children that nobody claims are to go, and others may claim them
    return tuple(map(snapshot.kernel.get, modes)), snapshot.boot_files.get(name)


def _rest(name: str, snapshot: Snapshot) -> _Rest | None:
    """Return all that a profile depends on; None where it depends on other profiles too."""
    revisions, holding = snapshot.by_profile.get(name, ()), snapshot.holdings.get(name)
    if any(one.spec.content.requires for one in revisions):
        return None
    there = _of_kernel(name, holding, snapshot)
    return there and _Rest(revisions, holding, *there)
