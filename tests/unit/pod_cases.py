"""Pods in clusters in short, for the tests of `hauberk why`: tests/golden-why/<case>/in.yaml.

* `profiles`: SecurityProfiles. `defines` are names in the kernel (the usual one, else), `published` is
  `current`, `older` (nodes are to hold an earlier content) or `nothing`, `refused` is the verdict on the
  present content.
* `nodes`: `holds` maps a profile to a mode, with `older` before it for an earlier content; `problems`,
  `orphans` and `modules` (apparmor and seccomp, else) are as reported; `agent: down`, `ready: false`,
  `restarted: true` and `silent: true` (it never reported) are what else may be.
* `pod` and `events` are Kubernetes' own; `nodes_may_be_listed: false` is a user without that right.

The status of each SecurityProfile is made by the operator's own code, so that no case is one that can't be.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from hauberk.cli.causes import Snapshot
from hauberk.cli.pods import Event, Pod
from hauberk.cli.states import NodeView, Seen, Taint
from hauberk.crds.models import (
    AppArmor,
    AppArmorFacts,
    Content,
    Facts,
    Metadata,
    NodeSelector,
    NodeStatus,
    Orphan,
    Placement,
    Problem,
    ProfileNode,
    ProfileRevision,
    ProfileSpec,
    RevisionSpec,
    Seccomp,
    Section,
    SecurityProfile,
    SELinux,
    SELinuxFacts,
    Text,
    decode,
)
from hauberk.crds.names import APPARMOR, SECCOMP, SELINUX, seccomp_reference
from hauberk.crds.reasons import Reason
from hauberk.operator import snapshot as operators
from hauberk.operator.acceptance import acceptance
from hauberk.operator.aggregate import aggregate
from hauberk.operator.publish import Refusal
from hauberk.operator.rollout import rollout
from hauberk.profiles.check import Accepted

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
LONG_AGO = NOW - timedelta(hours=1)
OLDER, HASH = "0000000000", "a1b2c3d4e5"
GENERATION = 2
Short = dict[str, Any]


def snapshot(short: Short) -> Snapshot:
    """Return what `hauberk why` would read of a cluster in short."""
    specs = {name: _spec(name, one or {}) for name, one in short.get("profiles", {}).items()}
    revisions = {
        name: revision
        for name, one in short.get("profiles", {}).items()
        if (revision := _revision(name, specs[name], one or {}))
    }
    reports = {
        name: report
        for name, one in short.get("nodes", {}).items()
        if (report := _report(name, one or {}, specs))
    }
    nodes = {name: _node(name, one or {}) for name, one in short.get("nodes", {}).items()}
    known = _known_to_the_operator(short, nodes, revisions, reports)
    profiles = {
        name: _profile(name, specs[name], one or {}, known) for name, one in short.get("profiles", {}).items()
    }
    seen = Seen(nodes if short.get("nodes_may_be_listed", True) else None, reports)
    events = [decode(Event, one) for one in short.get("events", [])]
    return Snapshot(decode(Pod, short["pod"]), profiles, revisions, seen, events)


def _usual(name: str, kind: str) -> str:
    return {SELINUX: f"{name.replace('-', '_')}.process", SECCOMP: seccomp_reference(name)}.get(kind, name)


def _spec(name: str, short: Short) -> ProfileSpec:
    kind = short.get("type", APPARMOR)
    block = f"(block {name.replace('-', '_')} (type process))"
    usual = {SELINUX: block, SECCOMP: '{"defaultAction": "SCMP_ACT_ALLOW"}'}
    policy = short.get("policy", usual.get(kind, f"profile {name} {{ file, }}"))
    mode = short.get("mode", "Enforce")
    return ProfileSpec(
        type=kind,
        app_armor=AppArmor(policy=policy, mode=mode) if kind == APPARMOR else None,
        selinux=SELinux(policy=policy, mode=mode) if kind == SELINUX else None,
        seccomp=Seccomp(policy=policy) if kind == SECCOMP else None,
        node_selector=decode(NodeSelector, short.get("selector", {})),
        suspend=short.get("suspend", False),
    )


def _revision(name: str, spec: ProfileSpec, short: Short) -> RevisionSpec | None:
    published = short.get("published", "current")
    if published == "nothing":
        return None
    names = short.get("defines", [_usual(name, spec.type)])
    current = published == "current"
    return RevisionSpec(
        profile=name,
        profile_uid=f"uid-{name}",
        type=spec.type,
        contract=1,
        content=Content(
            digest=spec.content_digest if current else OLDER,
            mode=spec.mode,
            texts=[Text(id="t", text="", names=names)],
        ),
        placement=Placement(
            sequence=GENERATION if current else GENERATION - 1,
            node_selector=spec.node_selector,
            suspend=spec.suspend,
            withdrawn=short.get("deleted", False),
        ),
    )


def _node(name: str, short: Short) -> NodeView:
    return NodeView(
        name,
        {"kubernetes.io/os": "linux", **short.get("labels", {})},
        short.get("ready", True),
        f"boot-{name}",
        tuple(decode(Taint, one) for one in short.get("taints", [])),
    )


def _report(name: str, short: Short, specs: dict[str, ProfileSpec]) -> ProfileNode | None:
    if short.get("silent"):
        return None
    modules: list[str] = short.get("modules", ["apparmor", "seccomp"])
    there = [kind for kind in (APPARMOR, SELINUX, SECCOMP) if kind.lower() in modules]
    gone: dict[str, str] = short.get("gone", {})  # what it holds of SecurityProfiles that are not there
    kinds = gone | {profile: spec.type for profile, spec in specs.items()}

    def section(kind: str) -> Section | None:
        if kind not in there:
            return None

        def those(field: str) -> dict[str, Any]:
            return {key: one for key, one in short.get(field, {}).items() if kinds[key] == kind}

        return Section(
            profiles={key: _entry(str(one), specs.get(key)) for key, one in those("holds").items()},
            problems={
                key: Problem(revision=_digest(specs.get(key)), reason=one[0], message=one[1])
                for key, one in those("problems").items()
            },
            orphans={key: Orphan(uid=one) for key, one in those("orphans").items()},
        )

    facts = Facts(
        kernel="6.1.0",
        lsms=[one for one in modules if one != "seccomp"],
        app_armor=AppArmorFacts(enabled=APPARMOR in there),
        selinux=SELinuxFacts(mode=short.get("selinux", "enforcing") if SELINUX in there else ""),
        seccomp=SECCOMP in there,
    )
    status = NodeStatus(
        boot_id="before" if short.get("restarted") else f"boot-{name}",
        facts=facts,
        app_armor=section(APPARMOR),
        selinux=section(SELINUX),
        seccomp=section(SECCOMP),
    )
    return ProfileNode(metadata=Metadata(name=name), status=status)


def _digest(spec: ProfileSpec | None) -> str:
    return spec.content_digest if spec else OLDER


def _entry(held: str, spec: ProfileSpec | None) -> str:
    *older, mode = held.split()
    return f"{OLDER}/{mode}/{HASH}" if older else f"{_digest(spec)}/{mode}/{HASH}"


def _known_to_the_operator(
    short: Short,
    nodes: dict[str, NodeView],
    revisions: dict[str, RevisionSpec],
    reports: dict[str, ProfileNode],
) -> operators.Snapshot:
    return operators.Snapshot(
        profiles={},
        revisions={
            name: ProfileRevision(metadata=Metadata(name=name), spec=one) for name, one in revisions.items()
        },
        reports=reports,
        nodes={
            name: operators.NodeView(name, one.labels, one.ready, LONG_AGO, one.boot_id)
            for name, one in nodes.items()
        },
        agents={
            name: operators.AgentView(name, (one or {}).get("agent") != "down", LONG_AGO)
            for name, one in short.get("nodes", {}).items()
        },
        now=NOW,
    )


def _profile(name: str, spec: ProfileSpec, short: Short, known: operators.Snapshot) -> SecurityProfile:
    """Return a SecurityProfile with the status that admission and operator give it."""
    metadata = Metadata(
        name=name,
        uid=f"uid-{name}",
        generation=GENERATION,
        deletion_timestamp="2026-01-01T11:59:00Z" if short.get("deleted") else None,
    )
    profile = SecurityProfile(metadata=metadata, spec=spec)
    if short.get("unseen"):
        return profile
    names = short.get("defines", [_usual(name, spec.type)])
    verdict = (
        Refusal(Reason(short["refused"][0]), short["refused"][1])
        if "refused" in short
        else Accepted((Text(id="t", text="", names=names),))
    )
    said = acceptance(profile, verdict, NOW)
    told = msgspec.structs.replace(profile.status, conditions=[said])
    judged = msgspec.structs.replace(profile, status=told)
    status = aggregate(judged, rollout(judged, replace(known, profiles={name: judged})), NOW)
    status = msgspec.structs.replace(status, conditions=[said, *status.conditions])
    return msgspec.structs.replace(profile, status=status)
