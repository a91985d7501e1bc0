"""Decides which writes bring the API from what it holds to what the SecurityProfiles ask for. Pure.

Called by `controller` after every change; `cluster` carries the writes out. Deciding again after any of them
gives the rest, so an operator that is killed between two writes goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ..crds.models import Placement, ProfileRevision, SecurityProfile
from ..crds.names import FINALIZER
from ..crds.reasons import NodeState
from .publish import content_digest, judgement, placement, wanted_revision
from .rollout import nodes_still_holding, on_nodes
from .snapshot import Accepted, Snapshot


@dataclass(frozen=True)
class AddFinalizer:
    """Keep a profile's object until no kernel holds it."""

    profile: SecurityProfile


@dataclass(frozen=True)
class RemoveFinalizer:
    """Let a profile's object go."""

    profile: SecurityProfile


@dataclass(frozen=True)
class CreateRevision:
    """Publish content."""

    revision: ProfileRevision


@dataclass(frozen=True)
class Place:
    """Change where a revision goes, or make it the wanted one."""

    revision: str
    placement: Placement


@dataclass(frozen=True)
class DeleteRevision:
    """Take back content that no node needs."""

    revision: str


Write = AddFinalizer | RemoveFinalizer | CreateRevision | Place | DeleteRevision


def desired(profile: SecurityProfile, snapshot: Snapshot, owners: Mapping[str, str]) -> list[Write]:
    """Return the writes that are left to do for a profile, in an order that is safe to stop in anywhere.

    `owners` is what `publish.name_owners` gave for the same snapshot.
    """
    if profile.metadata.deletion_timestamp:
        return list(_deleting(profile, snapshot))
    writes: list[Write] = []
    accepted = judgement(profile, snapshot, owners)
    if isinstance(accepted, Accepted):
        writes += _publishing(profile, accepted, snapshot)
    writes += _superseded(profile, snapshot)
    return writes


def _deleting(profile: SecurityProfile, snapshot: Snapshot) -> Iterator[Write]:
    if FINALIZER not in profile.metadata.finalizers:
        return
    revisions = snapshot.revisions_of(profile)
    waiting = [one for one in revisions if not one.spec.placement.withdrawn]
    for one in waiting:
        before = one.spec.placement
        yield Place(
            one.metadata.name,
            Placement(
                sequence=before.sequence,
                node_selector=before.node_selector,
                suspend=before.suspend,
                withdrawn=True,
            ),
        )
    if waiting or nodes_still_holding(profile.metadata.name, snapshot):
        return
    for one in revisions:
        yield DeleteRevision(one.metadata.name)
    yield RemoveFinalizer(profile)


def _publishing(profile: SecurityProfile, accepted: Accepted, snapshot: Snapshot) -> Iterator[Write]:
    revisions = snapshot.revisions_of(profile)
    if FINALIZER not in profile.metadata.finalizers:
        yield AddFinalizer(profile)
        return  # published in the next round: what a node loads must not outlive its object unseen
    if profile.spec.suspend:
        # Content is frozen; where it goes, and that it is frozen, is not.
        if revisions and revisions[0].spec.placement != placement(profile):
            yield Place(revisions[0].metadata.name, placement(profile))
        return
    wanted = wanted_revision(profile, accepted)
    there = snapshot.revisions.get(wanted.metadata.name)
    if there is None:
        yield CreateRevision(wanted)
    elif there.spec.profile_uid != profile.metadata.uid:
        yield DeleteRevision(wanted.metadata.name)  # of an earlier object of that name
    elif there.spec.placement != wanted.spec.placement:
        yield Place(wanted.metadata.name, wanted.spec.placement)


def _superseded(profile: SecurityProfile, snapshot: Snapshot) -> Iterator[Write]:
    """Delete what no node needs any more.

    While a reachable node has not verified the wanted revision, the newest one before it stays (a node that
    refuses the wanted one falls back to it), and so does any that a node still holds.
    """
    revisions = snapshot.revisions_of(profile)
    if len(revisions) < 2:
        return
    wanted, *older = revisions
    states = on_nodes(wanted.spec, snapshot)
    settled = {NodeState.READY, NodeState.UNREACHABLE, NodeState.UNSUPPORTED}
    done = all(state.state in settled for state in states)
    needed = set[str]() if done else {state.holds for state in states} | {older[0].spec.content.digest}
    needed.add(content_digest(profile))  # going back to it: it is about to be the wanted one
    for one in older:
        if one.spec.content.digest not in needed and one.metadata.deletion_timestamp is None:
            yield DeleteRevision(one.metadata.name)


def wants_new_content(profile: SecurityProfile, snapshot: Snapshot) -> bool:
    """Return whether the user asks for other content than the wanted revision carries."""
    revisions = snapshot.revisions_of(profile)
    return not revisions or revisions[0].spec.content.digest != content_digest(profile)
