"""Decides which ProfileRevisions a SecurityProfile should have, and who holds which kernel name. Pure.

Called by `desired` and `review`, in the admission alone. It never looks into a text: the judgement on it
comes with the snapshot.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field

import msgspec

from ..crds import names
from ..crds.models import (
    Content,
    Metadata,
    Orphan,
    OwnerReference,
    Placement,
    ProfileRevision,
    RevisionSpec,
    SecurityProfile,
    Text,
    Unrendered,
)
from ..crds.reasons import Reason
from ..profiles.check import TEXTS, TEXTS_BYTES, Accepted, clashing
from .snapshot import Snapshot

# Kinds of nodes that one text may be for; the schema of ProfileRevisions says the same.
KINDS = 256
# What a tombstone has.
NO_CONTENT = Content()


@dataclass(frozen=True)
class Refusal:
    """Why a profile is not published; a template: for which kinds of nodes that was found."""

    reason: Reason
    message: str
    kinds: frozenset[str] = frozenset()


Judgement = Accepted | Refusal


@dataclass(frozen=True)
class Judged(Snapshot):
    """A snapshot with the judgements on texts, by content digest."""

    judgements: Mapping[str, Judgement] = field(default_factory=dict[str, Judgement])


def content_digest(profile: SecurityProfile) -> str:
    """Return the digest that names the content which the user asks for now."""
    return profile.spec.content_digest


def judgement(
    profile: SecurityProfile, snapshot: Judged, owners: Mapping[tuple[str, str], str]
) -> Judgement | None:
    """Return whether the profile may be published; None while its text is not judged yet.

    `owners` is what `name_owners` gave for the same snapshot.
    """
    judged = judged_text(profile, snapshot)
    if not isinstance(judged, Accepted):
        return judged
    for name in judged.names:
        owner = owners.get((profile.spec.type, name), profile.metadata.name)
        if owner != profile.metadata.name:
            return Refusal(Reason.NAME_CLASH, clashing(owner, name, profile.spec.type))
    return judged


def judged_text(profile: SecurityProfile, snapshot: Judged) -> Judgement | None:
    """Return the judgement on a profile's text alone; what was published once was accepted.

    A template's judgement comes with what was said of each kind of node so far.
    """
    digest = content_digest(profile)
    judged = snapshot.judgements.get(digest)
    for revision in snapshot.revisions_of(profile):
        if revision.spec.content.digest == digest:
            published = Accepted(tuple(revision.spec.content.texts), tuple(revision.spec.unrendered))
            return merged(published, judged) if isinstance(judged, Accepted) else published
    return judged


def unjudged_kinds(profile: SecurityProfile, snapshot: Judged) -> set[str]:
    """Return the kinds of nodes that a template is still to be rendered for; none without a template."""
    if profile.spec.template is None:
        return set()
    judged = judged_text(profile, snapshot)
    kinds = snapshot.kinds[profile.spec.type].keys()
    if isinstance(judged, Refusal):  # for all kinds that were there: another one may do
        return set() if kinds <= judged.kinds else set(kinds)
    return set(kinds) - (judged.kinds if judged else frozenset())


def merged(before: Accepted, more: Accepted) -> Accepted:
    """Return a judgement with what a later one adds.

    Texts only grow, and what could not be rendered may be by now.
    """
    texts = {one.id: one for one in before.texts}
    for one in more.texts:
        there = texts.get(one.id, one)
        texts[one.id] = msgspec.structs.replace(one, facts=sorted({*there.facts, *one.facts}))
    rendered = {key for one in texts.values() for key in one.facts}
    told = {key for one in more.unrendered for key in one.facts}
    kept = [_without(one, rendered | told) for one in before.unrendered]
    kept += [_without(one, rendered) for one in more.unrendered]
    advice = tuple(dict.fromkeys((*before.advice, *more.advice)))
    return Accepted(tuple(texts.values()), tuple(one for one in kept if one.facts), advice)


def bounded(accepted: Accepted) -> Accepted:
    """Return as much of a judgement as a ProfileRevision may hold; what is beyond is told as not rendered.

    A node that is in the wrong hands can claim to be of ever new kinds: that must not make a write fail, on
    which other profiles would wait.
    """
    kept: list[Text] = []
    beyond: list[str] = []
    left = TEXTS_BYTES
    for one in accepted.texts:
        size = len(one.text.encode())
        if len(kept) < TEXTS and size <= left:
            left -= size
            kept.append(msgspec.structs.replace(one, facts=one.facts[:KINDS]))
        else:
            beyond += one.facts
    told = [msgspec.structs.replace(one, facts=one.facts[:KINDS]) for one in accepted.unrendered]
    if beyond:
        message = (
            f"the template makes more than {TEXTS} texts, or than {TEXTS_BYTES} bytes, for all kinds of nodes"
        )
        told.insert(0, Unrendered(facts=beyond[:KINDS], reason=Reason.POLICY_TOO_LARGE, message=message))
    return Accepted(tuple(kept), tuple(told[:TEXTS]))


def known(judged: Judgement, kinds: Container[str]) -> Judgement:
    """Return a judgement without what it says of kinds of nodes that are not there any more."""
    if isinstance(judged, Refusal):
        return judged

    def there(key: str) -> bool:
        return key == names.ANY_FACTS or key in kinds

    texts = [msgspec.structs.replace(one, facts=[*filter(there, one.facts)]) for one in judged.texts]
    told = [msgspec.structs.replace(one, facts=[*filter(there, one.facts)]) for one in judged.unrendered]
    there_are = tuple(one for one in texts if one.facts), tuple(one for one in told if one.facts)
    return Accepted(*there_are, judged.advice)


def _without(one: Unrendered, kinds: set[str]) -> Unrendered:
    return msgspec.structs.replace(one, facts=[key for key in one.facts if key not in kinds])


def name_owners(snapshot: Judged) -> dict[tuple[str, str], str]:
    """Return the SecurityProfile that owns each kernel name, by the type of its profiles and the name.

    Who holds a name (a revision of its defines it) keeps it; ties go to the older, then to the smaller UID.
    """
    best: dict[tuple[str, str], tuple[bool, str, str, str]] = {}
    for profile in snapshot.profiles.values():
        judged = judged_text(profile, snapshot)
        asked = set(judged.names) if isinstance(judged, Accepted) else set[str]()
        held = _held(profile, snapshot)
        metadata = profile.metadata
        for name in asked | held:
            rank = (name not in held, metadata.creation_timestamp, metadata.uid, metadata.name)
            key = profile.spec.type, name
            best[key] = min(rank, best.get(key, rank))
    return {name: rank[3] for name, rank in best.items()}


def _held(profile: SecurityProfile, snapshot: Snapshot) -> set[str]:
    return {
        name
        for revision in snapshot.revisions_of(profile)
        for text in revision.spec.content.texts
        for name in text.names
    }


def wanted_revision(profile: SecurityProfile, accepted: Accepted, installation: str) -> ProfileRevision:
    """Return the revision that carries what the user asks for now."""
    digest = content_digest(profile)
    owner = OwnerReference(
        api_version=names.API_VERSION,
        kind="SecurityProfile",
        name=profile.metadata.name,
        uid=profile.metadata.uid,
    )
    return ProfileRevision(
        metadata=Metadata(
            name=names.revision_name(profile.metadata.name, digest),
            labels={names.LABEL_PROFILE: profile.metadata.name},
            owner_references=[owner],
        ),
        spec=RevisionSpec(
            profile=profile.metadata.name,
            profile_uid=profile.metadata.uid,
            type=profile.spec.type,
            contract=names.CONTRACT,
            installation=installation,
            content=Content(
                digest=digest,
                mode=profile.spec.mode,
                texts=list(accepted.texts),
                allow_attachment=profile.spec.allow_attachment,
                allow_host_types=profile.spec.allow_host_types,
                requires=profile.spec.requires,
            ),
            unrendered=list(accepted.unrendered),
            placement=placement(profile),
        ),
    )


def tombstone(profile: str, profile_type: str, orphan: Orphan) -> ProfileRevision:
    """Return the revision that tells agents of the end of a SecurityProfile."""
    return ProfileRevision(
        metadata=Metadata(
            name=names.tombstone_name(profile, orphan.uid), labels={names.LABEL_PROFILE: profile}
        ),
        spec=RevisionSpec(
            profile=profile,
            profile_uid=orphan.uid,
            type=profile_type,
            contract=names.CONTRACT,
            installation=orphan.installation,
            placement=Placement(sequence=0, withdrawn=True),
        ),
    )


def placement(profile: SecurityProfile) -> Placement:
    """Return where the profile goes now."""
    spec = profile.spec
    return Placement(
        sequence=profile.metadata.generation,
        node_selector=spec.node_selector,
        suspend=spec.suspend,
        adopt=spec.adopt,
    )
