"""Decides which ProfileRevisions a SecurityProfile should have, and who holds which kernel name. Pure.

Called by `desired`. It never looks into a text: the judgement on it comes with the snapshot.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..crds import names
from ..crds.models import (
    Content,
    Metadata,
    Orphan,
    OwnerReference,
    Placement,
    ProfileRevision,
    ProfileSpec,
    RevisionSpec,
    SecurityProfile,
    Text,
)
from ..crds.reasons import Reason
from .snapshot import Accepted, Judgement, Refusal, Snapshot

# What a tombstone has.
NO_CONTENT = Content()


def policy_of(spec: ProfileSpec) -> tuple[str, str]:
    """Return the policy and the mode of whichever block is set."""
    if spec.app_armor:
        return spec.app_armor.policy, spec.app_armor.mode
    block = spec.selinux or spec.seccomp
    return (block.policy if block else ""), "Enforce"


def content_digest(profile: SecurityProfile) -> str:
    """Return the digest that names the content which the user asks for now."""
    policy, mode = policy_of(profile.spec)
    return names.digest(profile.spec.type, policy, mode, allow_attachment=_attaches(profile.spec))


def _attaches(spec: ProfileSpec) -> bool:
    return spec.app_armor is not None and spec.app_armor.allow_attachment


def judgement(profile: SecurityProfile, snapshot: Snapshot, owners: Mapping[str, str]) -> Judgement | None:
    """Return whether the profile may be published; None while its text is not judged yet.

    `owners` is what `name_owners` gave for the same snapshot.
    """
    judged = judged_text(profile, snapshot)
    if not isinstance(judged, Accepted):
        return judged
    for name in judged.names:
        owner = owners.get(name, profile.metadata.name)
        if owner != profile.metadata.name:
            return Refusal(
                Reason.NAME_CLASH,
                f"SecurityProfile {owner} already holds the kernel name {name}, and a kernel has one profile "
                "of a name; rename the profile in this policy, or delete the other",
            )
    return judged


def judged_text(profile: SecurityProfile, snapshot: Snapshot) -> Judgement | None:
    """Return the judgement on a profile's text alone; what was published once was accepted."""
    digest = content_digest(profile)
    for revision in snapshot.revisions_of(profile):
        if revision.spec.content.digest == digest:
            return Accepted(tuple(revision.spec.content.texts[0].names))
    return snapshot.judgements.get(digest)


def name_owners(snapshot: Snapshot) -> dict[str, str]:
    """Return the SecurityProfile that owns each kernel name.

    Who holds a name (a revision of its defines it) keeps it; ties go to the older, then to the smaller UID.
    """
    best: dict[str, tuple[bool, str, str, str]] = {}
    for profile in snapshot.profiles.values():
        judged = judged_text(profile, snapshot)
        asked = set(judged.names) if isinstance(judged, Accepted) else set[str]()
        held = _held(profile, snapshot)
        metadata = profile.metadata
        for name in asked | held:
            rank = (name not in held, metadata.creation_timestamp, metadata.uid, metadata.name)
            best[name] = min(rank, best.get(name, rank))
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
    policy, mode = policy_of(profile.spec)
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
                mode=mode,
                texts=[Text(text=policy, names=list(accepted.names))],
                allow_attachment=_attaches(profile.spec),
            ),
            placement=placement(profile),
        ),
    )


def tombstone(profile: str, orphan: Orphan) -> ProfileRevision:
    """Return the revision that tells agents of the end of a SecurityProfile."""
    return ProfileRevision(
        metadata=Metadata(
            name=names.tombstone_name(profile, orphan.uid), labels={names.LABEL_PROFILE: profile}
        ),
        spec=RevisionSpec(
            profile=profile,
            profile_uid=orphan.uid,
            type="AppArmor",
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
