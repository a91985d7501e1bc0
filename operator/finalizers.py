"""Decides when a SecurityProfile's object is kept, and when it may go: the operator's finalizer. Pure.

Called by `controller` after every change. Publishing waits for the finalizer (`desired`), and letting go
waits until everything published is withdrawn and no node that can be reached holds it.
"""

from __future__ import annotations

from ..crds.models import SecurityProfile
from ..crds.names import FINALIZER, FORCE_DELETE
from .rollout import Rollout
from .snapshot import Snapshot
from .writes import AddFinalizer, RemoveFinalizer, Write


def finalizers(profile: SecurityProfile, snapshot: Snapshot, rollout: Rollout) -> list[Write]:
    """Return the write that is left to do for a profile's finalizer; at most one.

    `rollout` is the profile's in that snapshot.
    """
    if is_new(profile):
        return [AddFinalizer(profile)]
    if not profile.metadata.deletion_timestamp or FINALIZER not in profile.metadata.finalizers:
        return []
    if snapshot.store.terminating:
        # Nobody deleted this profile: all of Hauberk's kinds go away. What the nodes hold they keep.
        return [RemoveFinalizer(profile)]
    if rollout.holding or not _withdrawn(profile, snapshot):
        return []
    return [RemoveFinalizer(profile, once_withdrawn=True)]


def is_new(profile: SecurityProfile) -> bool:
    """Return whether a profile lacks its finalizer: what a node loads must not outlive its object unseen."""
    return FINALIZER not in profile.metadata.finalizers and not profile.metadata.deletion_timestamp


def _withdrawn(profile: SecurityProfile, snapshot: Snapshot) -> bool:
    """Return whether every revision says that the profile is to go, and in the way that is asked for now."""
    force = profile.metadata.annotations.get(FORCE_DELETE) == "true"
    placements = [one.spec.placement for one in snapshot.revisions_of(profile)]
    return all(one.withdrawn and one.force == force for one in placements)
