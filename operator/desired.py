"""Decides which writes bring the ProfileRevisions to what the SecurityProfiles ask for. Pure.

Called by `publisher` after every change; `cluster` carries the writes out. Deciding again after any of them
gives the rest, so a process that is killed between two writes goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from ..crds.models import Entry, Placement, ProfileRevision, RevisionSpec, SecurityProfile
from ..crds.names import FINALIZER, FORCE_DELETE, revision_name
from ..profiles.check import Accepted
from .publish import (
    NO_CONTENT,
    Judged,
    bounded,
    content_digest,
    judgement,
    placement,
    tombstone,
    wanted_revision,
)
from .snapshot import Snapshot
from .writes import Collect, CreateRevision, DeleteRevision, Entomb, Extend, Place, Write


def desired(profile: SecurityProfile, snapshot: Judged, owners: Mapping[tuple[str, str], str]) -> list[Write]:
    """Return the writes that are left to do for a profile, in an order that is safe to stop in anywhere.

    `owners` is what `publish.name_owners` gave for the same snapshot.
    """
    if not _is_taken_note_of(profile):
        return []
    if profile.metadata.deletion_timestamp:
        return list(_deleting(profile, snapshot))
    writes: list[Write] = []
    accepted = judgement(profile, snapshot, owners)
    if isinstance(accepted, Accepted):
        writes += _publishing(profile, bounded(accepted), snapshot)
    writes += _superseded(profile, snapshot)
    return writes


def publishes(profile: SecurityProfile, snapshot: Judged, owners: Mapping[tuple[str, str], str]) -> bool:
    """Return whether a profile has accepted content that is not published yet."""
    if profile.metadata.deletion_timestamp or profile.spec.suspend or not _is_taken_note_of(profile):
        return False
    if FINALIZER not in profile.metadata.finalizers:
        return False
    name = revision_name(profile.metadata.name, content_digest(profile))
    return name not in snapshot.revisions and isinstance(judgement(profile, snapshot, owners), Accepted)


def _is_taken_note_of(profile: SecurityProfile) -> bool:
    """Return whether the operator has taken back what it said of an earlier generation.

    Before that nothing of this one goes out, nor is anything withdrawn: with an operator that is away, a
    status would go on to call Ready what the nodes give up. Of a new profile nothing was said that could be
    taken back.
    """
    status = profile.status
    said = any(one.type == "Ready" for one in status.conditions)
    return not said or status.observed_generation == profile.metadata.generation


def _deleting(profile: SecurityProfile, snapshot: Snapshot) -> Iterator[Write]:
    if snapshot.store.terminating:
        return  # nobody deleted this profile: all of Hauberk's kinds go away
    for one in snapshot.revisions_of(profile):
        if FINALIZER not in profile.metadata.finalizers:
            # The operator let it go, and someone else did not yet: a tombstone tells whoever still holds it.
            if one.spec.content != NO_CONTENT:
                yield DeleteRevision(one.metadata.name)
        elif one.spec.placement != (to := _withdrawn(one.spec.placement, profile)):
            yield Place(one.metadata.name, to)


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
        return  # the operator's turn: what a node loads must not outlive its object unseen
    if profile.spec.suspend:
        if revisions and revisions[0].spec.placement != (to := _frozen(profile, revisions[0].spec)):
            yield Place(revisions[0].metadata.name, to)
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


def _frozen(profile: SecurityProfile, first: RevisionSpec) -> Placement:
    """Return where content goes that is frozen; its sequence tells that other content is held back."""
    to = placement(profile)
    if first.content.digest == content_digest(profile):
        return to
    return msgspec.structs.replace(to, sequence=first.placement.sequence)


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
    owned = {  # what else there is is collected, or deleted as the operator let it go
        profile.metadata.uid
        for profile in snapshot.profiles.values()
        if not profile.metadata.deletion_timestamp or FINALIZER in profile.metadata.finalizers
    }
    published = [
        one.spec
        for one in snapshot.revisions.values()
        if one.spec.content != NO_CONTENT and one.spec.profile_uid in owned
    ]
    speaking = {spec.profile_uid for spec in published}
    alive = {
        profile.metadata.uid
        for profile in snapshot.profiles.values()
        if not profile.metadata.deletion_timestamp or profile.metadata.uid in speaking
    }
    needed: dict[str, ProfileRevision] = {}
    for profile_type, section in snapshot.sections:
        for profile, orphan in section.orphans.items():
            if orphan.installation and orphan.installation == snapshot.store.installation:
                stone = tombstone(profile, profile_type, orphan)
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
        and _held_unpublished(spec, contents, snapshot)
    }
    writes: list[Write] = [Entomb(stone) for name, stone in sorted(needed.items()) if name not in there]
    return writes + [DeleteRevision(name) for name in sorted(there.keys() - needed.keys() - waited)]


def _held_unpublished(stone: RevisionSpec, contents: set[tuple[str, str]], snapshot: Snapshot) -> bool:
    """Return whether a node holds content of a tombstone's profile that no revision carries any more."""
    profile = stone.profile
    held = (section.profiles.get(profile) for kind, section in snapshot.sections if kind == stone.type)
    return any(entry is not None and (profile, Entry.read(entry).revision) not in contents for entry in held)


def collected(snapshot: Snapshot) -> list[Write]:
    """Return the writes that take back what is left of SecurityProfiles whose objects are gone."""
    there = {profile.metadata.uid for profile in snapshot.profiles.values()}
    return [
        Collect(one)
        for _, one in sorted(snapshot.revisions.items())
        if one.spec.content != NO_CONTENT and one.spec.profile_uid not in there
    ]


def _superseded(profile: SecurityProfile, snapshot: Snapshot) -> Iterator[Write]:
    """Delete what no node needs any more.

    Until the operator found the wanted revision on every node that can be reached, the newest one before it
    stays (a node that refuses the wanted one falls back to it), and so does any that a node still holds.
    """
    revisions = snapshot.revisions_of(profile)
    if len(revisions) < 2:
        return
    wanted, *older = revisions
    needed = {content_digest(profile)}  # going back to it: it is about to be the wanted one
    if not _settled(profile, wanted.spec):
        needed |= _held(profile.metadata.name, snapshot) | {older[0].spec.content.digest}
    for one in older:
        if one.spec.content.digest not in needed and one.metadata.deletion_timestamp is None:
            yield DeleteRevision(one.metadata.name)


def _settled(profile: SecurityProfile, wanted: RevisionSpec) -> bool:
    """Return whether the status says that each node has a revision, or can't be reached, or needs none."""
    status, generation = profile.status, profile.metadata.generation
    done = any(
        one.type == "Reconciling" and one.status == "False" and one.observed_generation == generation
        for one in status.conditions
    )
    return (
        done
        and status.observed_generation == wanted.placement.sequence == generation
        and status.revision == wanted.content.digest
        and not (status.nodes.updating or status.nodes.failed or status.nodes.agent_down)
    )


def _held(profile: str, snapshot: Snapshot) -> set[str]:
    """Return the digest of what each node holds of a profile."""
    entries = {section.profiles.get(profile, "") for _, section in snapshot.sections}
    return {Entry.read(entry).revision for entry in entries}
