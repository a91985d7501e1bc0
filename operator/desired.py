"""Decides which writes bring the API from what it holds to what the SecurityProfiles ask for. Pure.

Called by `controller` after every change; `cluster` carries the writes out. Deciding again after any of them
gives the rest, so an operator that is killed between two writes goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ..crds.models import Backend, Placement, ProfileRevision, SecurityProfile, Text, Unrendered
from ..crds.names import FINALIZER, FORCE_DELETE, revision_name
from ..crds.reasons import NodeState
from ..profiles.check import Accepted
from .publish import (
    NO_CONTENT,
    bounded,
    content_digest,
    judgement,
    placement,
    tombstone,
    wanted_revision,
)
from .rollout import nodes_still_holding, on_nodes
from .snapshot import Snapshot


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
class Extend:
    """Add texts for further kinds of nodes to a revision: as it was read, or not at all."""

    revision: ProfileRevision
    texts: tuple[Text, ...]
    unrendered: tuple[Unrendered, ...]


@dataclass(frozen=True)
class DeleteRevision:
    """Take back content that no node needs."""

    revision: str


@dataclass(frozen=True)
class Entomb:
    """Tell the agents that still hold a profile that its object was deleted, once that is sure."""

    tombstone: ProfileRevision


Write = AddFinalizer | RemoveFinalizer | CreateRevision | Extend | Place | DeleteRevision | Entomb


def desired(profile: SecurityProfile, snapshot: Snapshot, owners: Mapping[str, str]) -> list[Write]:
    """Return the writes that are left to do for a profile, in an order that is safe to stop in anywhere.

    `owners` is what `publish.name_owners` gave for the same snapshot.
    """
    if profile.metadata.deletion_timestamp:
        return list(_deleting(profile, snapshot))
    writes: list[Write] = []
    accepted = judgement(profile, snapshot, owners)
    if isinstance(accepted, Accepted):
        writes += _publishing(profile, bounded(accepted), snapshot)
    writes += _superseded(profile, snapshot)
    return writes


def publishes(profile: SecurityProfile, snapshot: Snapshot, owners: Mapping[str, str]) -> bool:
    """Return whether a profile has accepted content that is not published yet."""
    if profile.metadata.deletion_timestamp or profile.spec.suspend:
        return False
    name = revision_name(profile.metadata.name, content_digest(profile))
    return name not in snapshot.revisions and isinstance(judgement(profile, snapshot, owners), Accepted)


def _deleting(profile: SecurityProfile, snapshot: Snapshot) -> Iterator[Write]:
    if FINALIZER not in profile.metadata.finalizers:
        return
    if snapshot.store.terminating:
        # Nobody deleted this profile: all of Hauberk's kinds go away. What the nodes hold they keep.
        yield RemoveFinalizer(profile)
        return
    revisions = snapshot.revisions_of(profile)
    withdrawn = [(one, _withdrawn(one.spec.placement, profile)) for one in revisions]
    waiting = [Place(one.metadata.name, to) for one, to in withdrawn if one.spec.placement != to]
    yield from waiting
    if waiting or nodes_still_holding(profile.metadata.name, snapshot):
        return
    # First, so that a node that comes back before the object is gone still finds out what became of it.
    yield RemoveFinalizer(profile)
    for one in revisions:
        yield DeleteRevision(one.metadata.name)


def _withdrawn(before: Placement, profile: SecurityProfile) -> Placement:
    return Placement(
        sequence=before.sequence,
        node_selector=before.node_selector,
        suspend=before.suspend,
        withdrawn=True,
        force=profile.metadata.annotations.get(FORCE_DELETE) == "true",
    )


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
    wanted = wanted_revision(profile, accepted, snapshot.store.installation)
    there = snapshot.revisions.get(wanted.metadata.name)
    if there is None:
        yield CreateRevision(wanted)
    elif there.spec.profile_uid != profile.metadata.uid:
        yield DeleteRevision(wanted.metadata.name)  # of an earlier object of that name
    else:
        if there.spec.placement != wanted.spec.placement:
            yield Place(wanted.metadata.name, wanted.spec.placement)
        if _says_more(accepted, there):
            yield Extend(there, accepted.texts, accepted.unrendered)


def _says_more(accepted: Accepted, there: ProfileRevision) -> bool:
    return (list(accepted.texts), list(accepted.unrendered)) != (
        there.spec.content.texts,
        there.spec.unrendered,
    )


def tombstones(snapshot: Snapshot) -> list[Write]:
    """Return the writes that tell agents of profiles whose deletion they missed, and that end such telling.

    An agent that finds no revision for what it holds unloads nothing: absence is not deletion. It reports
    an orphan. Only one of this very store, which has no object of that UID any more, was deleted; one whose
    object is being deleted and lost its revisions is as well.
    """
    published = [one.spec for one in snapshot.revisions.values() if one.spec.content != NO_CONTENT]
    speaking = {spec.profile_uid for spec in published}
    alive = {
        profile.metadata.uid
        for profile in snapshot.profiles.values()
        if not profile.metadata.deletion_timestamp or profile.metadata.uid in speaking
    }
    needed: dict[str, ProfileRevision] = {}
    for section in _sections(snapshot):
        for profile, orphan in section.orphans.items():
            if orphan.installation and orphan.installation == snapshot.store.installation:
                stone = tombstone(profile, orphan)
                if orphan.uid not in alive:
                    needed[stone.metadata.name] = stone
    there = {name: one.spec for name, one in snapshot.revisions.items() if one.spec.content == NO_CONTENT}
    contents = {(spec.profile, spec.content.digest) for spec in published}
    # An agent that was told reports no orphan any more, but it may have to wait for a task to end.
    waited = {
        name
        for name, spec in there.items()
        if spec.profile_uid not in alive
        and spec.installation == snapshot.store.installation
        and _held_unpublished(spec.profile, contents, snapshot)
    }
    writes: list[Write] = [Entomb(stone) for name, stone in sorted(needed.items()) if name not in there]
    return writes + [DeleteRevision(name) for name in sorted(there.keys() - needed.keys() - waited)]


def _held_unpublished(profile: str, contents: set[tuple[str, str]], snapshot: Snapshot) -> bool:
    """Return whether a node holds content of a profile that no revision carries any more."""
    held = (section.profiles.get(profile) for section in _sections(snapshot))
    return any(entry is not None and (profile, entry.partition("/")[0]) not in contents for entry in held)


def _sections(snapshot: Snapshot) -> list[Backend]:
    return [one.status.app_armor for one in snapshot.reports.values() if one.status.app_armor]


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
