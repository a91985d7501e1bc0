"""Keeps up what profiles are on nodes, from one snapshot to the next: only what changed is looked at.

Called by `controller`. Level-triggered all the same: the snapshots are compared, no event is counted on, and
what comes out is what `rollout` makes of the last snapshot alone. No I/O and no clock; it remembers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..crds.models import RevisionSpec, SecurityProfile
from ..crds.names import TYPES
from .rollout import OnNode, Rollout, Seen, is_without_agent, on_node, seen, still_holding
from .snapshot import NodeView, Snapshot


@dataclass
class _Kept:
    """One profile on all nodes, as of the last look but for nodes that are `stale`."""

    wanted: RevisionSpec | None
    type: str
    leaving: bool
    stale: set[str]
    states: dict[str, OnNode] = field(default_factory=dict[str, OnNode])
    holding: dict[str, str] = field(default_factory=dict[str, str])
    rollout: Rollout | None = None


class Rollouts:
    """All profiles on all nodes."""

    def __init__(self) -> None:
        self._seen: dict[str, Seen] = {}
        self._sorted: list[str] = []
        self._shared: tuple[tuple[str, ...], ...] = ()
        self._kept: dict[str, _Kept] = {}

    def look(self, snapshot: Snapshot) -> Iterator[None]:
        """Take note of what a snapshot has otherwise than the one before.

        Each step is short, so that the caller can let others have their turn between any two. To stop early
        is no harm, as long as another look is taken before anything is asked.
        """
        self._shared = self._shared if self._shared == snapshot.shared_kernels else snapshot.shared_kernels
        for name in self._kept.keys() - snapshot.profiles.keys():
            del self._kept[name]
        for name in self._seen.keys() - snapshot.nodes.keys():
            del self._seen[name]
            self._is_stale(name, None)
        for name, node in snapshot.nodes.items():
            before = self._seen.get(name)
            if before is None or not _is_as_before(before, node, snapshot):
                now = self._seen[name] = seen(node, snapshot)
                self._is_stale(name, _touched(before, now) if before else None)
            yield
        if len(self._sorted) != len(self._seen) or self._seen.keys() != set(self._sorted):
            self._sorted = sorted(self._seen)

    def of(self, profile: SecurityProfile, snapshot: Snapshot) -> Rollout:
        """Return what a profile is on all nodes in the snapshot that was looked at last.

        The very same object comes back as long as nothing of it changed.
        """
        kept = self._kept_of(profile, snapshot)
        changed = [name for name in kept.stale if self._update(kept, profile.metadata.name, name)]
        kept.stale.clear()
        if changed or kept.rollout is None or kept.rollout.shared_kernels is not self._shared:
            kept.rollout = Rollout(
                kept.wanted,
                [kept.states[name] for name in self._sorted if name in kept.states],
                {name: kept.holding[name] for name in self._sorted if name in kept.holding},
                self._shared,
            )
        return kept.rollout

    def _kept_of(self, profile: SecurityProfile, snapshot: Snapshot) -> _Kept:
        name, leaving = profile.metadata.name, profile.metadata.deletion_timestamp is not None
        revisions = snapshot.revisions_of(profile)
        wanted = revisions[0].spec if revisions else None
        kept = self._kept.get(name)
        made_of = (wanted, profile.spec.type, leaving)
        # What a revision says of another profile than its owner's is not told by the owner's name.
        own = wanted is None or wanted.profile == name
        if kept is None or not own or (kept.wanted, kept.type, kept.leaving) != made_of:
            kept = self._kept[name] = _Kept(*made_of, stale=set(self._seen))
        kept.wanted = wanted  # which compares with itself at once, the next time
        return kept

    def _update(self, kept: _Kept, profile: str, name: str) -> bool:
        """Look at a profile on one node; return whether that changed."""
        now = self._seen.get(name)
        state = on_node(kept.wanted, now) if kept.wanted and now else None
        why = still_holding(profile, kept.type, now) if kept.leaving and now else None
        changed = _put(kept.states, name, state)
        return _put(kept.holding, name, why) or changed

    def _is_stale(self, node: str, profiles: set[str] | None) -> None:
        """Have a node looked at again for some profiles; None: for all of them."""
        names = self._kept if profiles is None else profiles & self._kept.keys()
        for name in names:
            self._kept[name].stale.add(node)


def _is_as_before(before: Seen, node: NodeView, snapshot: Snapshot) -> bool:
    """Return whether nothing was seen of a node: objects are replaced when they change, and only then."""
    return (
        before.node is node
        and before.report is snapshot.reports.get(node.name)
        and before.agent_down == is_without_agent(node, snapshot)
    )


def _touched(before: Seen, now: Seen) -> set[str] | None:
    """Return the profiles for which a node may be another now; None: all may be."""
    if before.node is not now.node or before.agent_down != now.agent_down:
        return None
    if before.report is None or now.report is None:
        return None
    old, new = before.report.status, now.report.status
    if old.boot_id != new.boot_id or old.facts != new.facts:
        return None
    names: set[str] = set()
    for profile_type in TYPES:
        one, other = old.section(profile_type), new.section(profile_type)
        if one is None or other is None:
            if one is not other:
                return None
            continue
        names |= _differing(one.profiles, other.profiles) | _differing(one.problems, other.problems)
    return names


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> set[str]:
    if one == other:
        return set()
    changed = {key for key, value in other.items() if one.get(key) != value}
    return changed | (one.keys() - other.keys())


def _put(there: dict[str, Any], key: str, value: Any) -> bool:
    """Put a value, or take it away where it is None; return whether it was another one."""
    if there.get(key) == value:
        return False
    if value is None:
        del there[key]
    else:
        there[key] = value
    return True
