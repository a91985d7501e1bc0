"""Which pods wait for their profiles, on which nodes they may run, and when they go on."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest
from hauberk.crds.models import (
    AppArmorFacts,
    Condition,
    Facts,
    Metadata,
    NodeStatus,
    ProfileNode,
    ProfileRevision,
    SecurityProfile,
    Summary,
    decode,
)
from hauberk.crds.names import APPARMOR, GATED_FOR, LABEL_GATED, LABEL_LSM, POD_GATE, SECCOMP, SELINUX
from hauberk.crds.pods import PodObject
from hauberk.operator import gating
from hauberk.operator.gating import Known, narrowed, patch, requirements
from hauberk.operator.pod_review import PodAnswer, may_be_early, review_ephemeral, review_pod
from hypothesis import given
from hypothesis import strategies as st

NOBODYS: dict[tuple[str, str], str] = {}


def profile(
    name: str,
    kind: str = APPARMOR,
    *,
    available: bool | None = None,
    deleted: bool = False,
    policy: str = "",
    **spec: Any,
) -> SecurityProfile:
    """Return a SecurityProfile; `available`: what its condition says, None without one."""
    status: dict[str, Any] = {}
    if available is not None:
        condition = {"type": "Available", "status": str(available), "reason": "Verified", "message": ""}
        status["conditions"] = [{**condition, "observedGeneration": 1}]
    metadata: dict[str, Any] = {"name": name, "uid": f"uid-{name}", "generation": 1}
    if deleted:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    block = {APPARMOR: "appArmor", SELINUX: "selinux", SECCOMP: "seccomp"}[kind]
    spec = {"type": kind, block: {"policy": policy}, **spec}
    return decode(SecurityProfile, {"metadata": metadata, "spec": spec, "status": status})


def raw_pod(apparmor: str = "", selinux: str = "", seccomp: str = "", **spec: Any) -> dict[str, Any]:
    """Return a pod that names profiles."""
    context: dict[str, Any] = {}
    if apparmor:
        context["appArmorProfile"] = {"type": "Localhost", "localhostProfile": apparmor}
    if selinux:
        context["seLinuxOptions"] = {"type": selinux}
    if seccomp:
        context["seccompProfile"] = {"type": "Localhost", "localhostProfile": seccomp}
    return {
        "metadata": {"name": "web"},
        "spec": {"containers": [{"name": "c", "securityContext": context}], **spec},
    }


def answer(
    raw: Mapping[str, Any],
    *profiles: SecurityProfile,
    owners: Mapping[tuple[str, str], str] = NOBODYS,
    lacking: frozenset[str] = frozenset(),
    deny: bool = False,
) -> PodAnswer:
    known = Known({one.metadata.name: one for one in profiles}, owners, lacking)
    return review_pod(raw, decode(PodObject, raw), known, deny_unknown=deny)


def changed(raw: Mapping[str, Any], changes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return an object with a JSON patch of the one operation that is used."""
    made = copy.deepcopy(dict(raw))
    for one in changes:
        assert one["op"] == "add"
        *path, last = one["path"].split("/")[1:]
        at = made
        for part in path:
            at = at[part]
        at[last] = one["value"]
    return made


# --- who waits ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("named", "kind", "owners"),
    [
        ({"apparmor": "web"}, APPARMOR, {}),
        ({"apparmor": "other-name"}, APPARMOR, {(APPARMOR, "other-name"): "web"}),
        ({"selinux": "web.process"}, SELINUX, {}),
        ({"selinux": "web.other"}, SELINUX, {(SELINUX, "web.other"): "web"}),
        ({"seccomp": "hauberk/web.json"}, SECCOMP, {}),
    ],
)
@pytest.mark.parametrize("available", [None, False, True])
def test_a_pod_waits_until_its_profile_is_available(
    named: dict[str, str], kind: str, owners: dict[tuple[str, str], str], available: bool | None
):
    raw = raw_pod(**named)
    said = answer(raw, profile("web", kind, available=available), owners=owners)
    made = changed(raw, said.patch)
    if available:
        assert made == raw
        assert said == PodAnswer()
    else:
        assert made["spec"]["schedulingGates"] == [{"name": POD_GATE}]
        assert made["metadata"]["labels"] == {LABEL_GATED: "true"}
        assert made["metadata"]["annotations"] == {GATED_FOR: "web"}
        assert said.warnings == ("the pod is not scheduled before a node holds SecurityProfile web",)
        assert gating.is_gated(decode(PodObject, made))
        assert answer(made, profile("web", kind), owners=owners).patch == ()  # asked again, nothing changes


def test_a_pod_waits_for_all_of_its_profiles():
    raw = raw_pod("a", "b.process", "hauberk/c.json")
    profiles = [profile("a", available=True), profile("b", SELINUX), profile("c", SECCOMP)]
    assert answer(raw, *profiles).warnings == (
        "the pod is not scheduled before a node holds SecurityProfiles b, c",
    )


def test_gates_and_labels_of_others_stay():
    raw = raw_pod("web", schedulingGates=[{"name": "example.com/quota"}])
    raw["metadata"] |= {"labels": {"app": "web"}, "annotations": {"note": "x"}}
    made = changed(raw, answer(raw, profile("web")).patch)
    assert made["spec"]["schedulingGates"] == [{"name": "example.com/quota"}, {"name": POD_GATE}]
    assert made["metadata"]["labels"] == {"app": "web", LABEL_GATED: "true"}
    assert made["metadata"]["annotations"] == {"note": "x", GATED_FOR: "web"}


@pytest.mark.parametrize(
    "raw",
    [
        raw_pod("web", nodeName="n1"),
        {**raw_pod("web"), "metadata": {"annotations": {"kubernetes.io/config.mirror": "x"}}},
        raw_pod(),
        raw_pod("cri-containerd.apparmor.d"),
        raw_pod(selinux="container_t"),
        raw_pod(seccomp="profiles/own.json"),
    ],
    ids=["on its node", "mirror", "names none", "the runtime's", "the distribution's", "another's file"],
)
@pytest.mark.parametrize("deny", [True, False])
def test_pods_that_are_no_matter_of_ours_go_on(raw: dict[str, Any], deny: bool):
    assert answer(raw, profile("web"), deny=deny) == PodAnswer()


@pytest.mark.parametrize("kind", [SELINUX, SECCOMP])
def test_a_profile_of_another_type_is_another_one(kind: str):
    assert answer(raw_pod("web"), profile("web", kind)) == PodAnswer()


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (
            raw_pod(seccomp="hauberk/x.json"),
            "seccompProfile.localhostProfile: no SecurityProfile defines the seccomp profile hauberk/x.json",
        ),
        (
            raw_pod(selinux="webb.process"),
            "seLinuxOptions.type: no SecurityProfile defines the SELinux type webb.process",
        ),
    ],
)
def test_what_looks_like_ours_and_is_unknown_is_warned_of_or_refused(raw: dict[str, Any], said: str):
    whole = (
        f"spec.containers[0].securityContext.{said}, so no node will have it; create it, or correct the name"
    )
    assert answer(raw) == PodAnswer(warnings=(whole,))
    assert answer(raw, deny=True) == PodAnswer(refused=whole)


@pytest.mark.parametrize(
    ("raw", "kind"), [(raw_pod(seccomp="hauberk/web.json"), SECCOMP), (raw_pod("web"), APPARMOR)]
)
def test_a_profile_that_is_being_deleted_is_none(raw: dict[str, Any], kind: str):
    assert answer(raw, profile("web", kind, available=True, deleted=True), deny=True).refused
    assert "no SecurityProfile defines" in answer(raw, profile("web", kind, deleted=True)).warnings[0]


def published(name: str, kind: str, policy: str, *names: str, reference: str = "") -> SecurityProfile:
    """Return a SecurityProfile of whose text all is published."""
    one = profile(name, kind, available=True, policy=policy)
    status = msgspec.structs.replace(
        one.status,
        profiles=list(names),
        revision=one.spec.content_digest,
        summary=Summary(reference=reference),
    )
    return msgspec.structs.replace(one, status=status)


@pytest.mark.parametrize(
    ("named", "known"),
    [
        (
            {"apparmor": "web"},
            published("web", APPARMOR, "profile web-main { }", "web-main", reference="web-main"),
        ),
        (
            {"selinux": "web.process"},
            published("web", SELINUX, "(block foo)", "foo.process", reference="foo.process"),
        ),
    ],
    ids=["AppArmor", "SELinux"],
)
def test_an_objects_name_is_none_of_a_profile_that_it_does_not_define(
    named: dict[str, str], known: SecurityProfile
):
    (warning,) = answer(raw_pod(**named), known).warnings
    assert warning.endswith(f"; SecurityProfile web is named in pods as {known.status.summary.reference}")
    assert answer(raw_pod(**named), known, deny=True).refused == warning
    early = Known({"web": known}, NOBODYS)
    assert "apparmor" not in named or not may_be_early(decode(PodObject, raw_pod(**named)), early)


def test_a_new_text_may_define_what_the_one_before_did_not():
    one = published("shop", APPARMOR, "profile shop { }", "shop")
    spec = profile("shop", policy="profile shop { }\nprofile shop-jobs { }").spec
    changed = msgspec.structs.replace(one, spec=spec)
    raw = raw_pod("shop-jobs")
    assert gating.find(decode(PodObject, raw), Known({"shop": one}, NOBODYS)).managed == {}
    assert gating.find(decode(PodObject, raw), Known({"shop": changed}, NOBODYS)).managed == {"shop": changed}


@pytest.mark.parametrize(
    "policy",
    [
        "# instead of profile-of-node\nprofile other { }",
        "profile other { ptrace peer=nodes-own, }",
        "profile other { /bin/x px -> nodes-own, }",
        'profile other { /etc/nodes-own r, change_profile -> "nodes-own", }',
    ],
)
def test_to_speak_of_a_profile_is_not_to_define_it(policy: str):
    raw = raw_pod("nodes-own")
    assert (
        answer(raw, profile("other", policy=policy, nodeSelector={"matchLabels": {"a": "b"}})) == PodAnswer()
    )


@pytest.mark.parametrize(
    ("named", "kind", "policy"),
    [
        ({"apparmor": "shop-web"}, APPARMOR, "profile shop-web flags=(attach_disconnected) { file, }"),
        ({"apparmor": "shop-web//cgi"}, APPARMOR, "profile shop-web { profile cgi { file, } }"),
        ({"selinux": "shop_web.process"}, SELINUX, "(block shop_web (type process))"),
    ],
)
def test_what_is_not_judged_yet_is_known_by_its_text(named: dict[str, str], kind: str, policy: str):
    """Applied in one file with the pod: the names are read out of it a moment later."""
    raw = raw_pod(**named)
    fresh = profile("fresh", kind, policy=policy)
    assert changed(raw, answer(raw, fresh).patch)["metadata"]["annotations"] == {GATED_FOR: "fresh"}
    other = profile("fresh", kind, policy=policy.replace("shop", "my-shop"))
    assert answer(raw, other).patch == ()


def test_the_runtimes_own_profile_is_nobodys():
    raw = raw_pod("cri-containerd.apparmor.d")
    said = profile("web", policy="profile web { signal peer=cri-containerd.apparmor.d, }")
    assert answer(raw, said) == PodAnswer()


# --- ephemeral containers -----------------------------------------------------------------------------------


def debugged(*seccomp: str) -> PodObject:
    """Return a pod on a node, with ephemeral containers that name these profiles."""
    context = [{"seccompProfile": {"type": "Localhost", "localhostProfile": one}} for one in seccomp]
    containers = [{"name": f"e{at}", "securityContext": one} for at, one in enumerate(context)]
    return decode(
        PodObject, raw_pod(seccomp="hauberk/old.json", nodeName="n1", ephemeralContainers=containers)
    )


@pytest.mark.parametrize("deny", [True, False])
def test_of_ephemeral_containers_the_new_ones_are_looked_at(deny: bool):
    known = Known({"web": profile("web", SECCOMP)}, NOBODYS)

    def said(before: PodObject, after: PodObject) -> PodAnswer:
        return review_ephemeral(before, after, known, deny_unknown=deny)

    waits = PodAnswer(
        warnings=("the container fails to start until the pod's node holds SecurityProfile web",)
    )
    assert said(debugged(), debugged("hauberk/web.json")) == waits  # no gate: it runs
    bad = said(debugged("hauberk/x.json"), debugged("hauberk/x.json", "hauberk/y.json"))
    message = (
        "spec.ephemeralContainers[1].securityContext.seccompProfile.localhostProfile: no SecurityProfile "
        "defines the seccomp profile hauberk/y.json, so no node will have it; create it, or correct the name"
    )
    assert bad == (PodAnswer(refused=message) if deny else PodAnswer(warnings=(message,)))
    assert said(debugged("hauberk/x.json"), debugged("hauberk/x.json", "hauberk/web.json")) == waits
    known = Known({"web": profile("web", SECCOMP, available=True)}, NOBODYS)
    assert said(debugged("hauberk/x.json"), debugged("hauberk/x.json", "hauberk/web.json")) == PodAnswer()


# --- where it may run ---------------------------------------------------------------------------------------

ZONE = {"matchLabels": {"zone": "a"}, "matchExpressions": [{"key": "gpu", "operator": "Exists"}]}
OF_ZONE = [
    {"key": "zone", "operator": "In", "values": ["a"]},
    {"key": "gpu", "operator": "Exists"},
]


def test_a_pod_is_kept_to_the_nodes_that_its_profile_is_for():
    raw = raw_pod("web")
    made = changed(raw, answer(raw, profile("web", available=True, nodeSelector=ZONE)).patch)
    terms = made["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert terms == {"nodeSelectorTerms": [{"matchExpressions": OF_ZONE}]}
    assert "schedulingGates" not in made["spec"]


def reported(*modules: str, seccomp: bool = True) -> ProfileNode:
    facts = Facts(
        lsms=["capability", *modules],
        app_armor=AppArmorFacts(enabled="apparmor" in modules),
        seccomp=seccomp,
    )
    return ProfileNode(metadata=Metadata(name="n"), status=NodeStatus(facts=facts))


@pytest.mark.parametrize(
    ("reports", "kinds"),
    [
        ([], set[str]()),
        ([ProfileNode(metadata=Metadata(name="n"))], set[str]()),  # its agent has seen nothing yet
        ([reported("apparmor", "selinux", seccomp=False)], set[str]()),
        ([reported("apparmor"), reported("apparmor")], {SELINUX}),
        ([reported("apparmor"), reported("selinux")], {APPARMOR, SELINUX}),
    ],
)
def test_only_where_nodes_lack_the_module_it_is_asked_for(reports: list[ProfileNode], kinds: set[str]):
    """A node group of size zero is seen by an autoscaler without any label of ours."""
    lacking = gating.lacking(reports)
    assert lacking == kinds
    raw = raw_pod("a", "b.process", "hauberk/c.json")
    profiles = (profile("a"), profile("b", SELINUX), profile("c", SECCOMP))
    made = changed(raw, answer(raw, *profiles, lacking=lacking).patch)
    terms = [{"key": LABEL_LSM[one], "operator": "NotIn", "values": ["false"]} for one in sorted(kinds)]
    affinity = {"nodeSelectorTerms": [{"matchExpressions": terms}]}
    wanted = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": affinity}}
    assert made["spec"].get("affinity") == (wanted if kinds else None)


def test_what_two_profiles_ask_for_is_asked_for_once():
    several = [profile("a", nodeSelector=ZONE), profile("b", nodeSelector=ZONE)]
    assert requirements(several, frozenset()) == OF_ZONE


def test_every_alternative_has_to_be_met_as_well():
    own = {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}
    by_name = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}
    key = "requiredDuringSchedulingIgnoredDuringExecution"
    before = {
        "podAntiAffinity": {"x": 1},
        "nodeAffinity": {"preferred": [1], key: {"nodeSelectorTerms": [own, by_name, {}]}},
    }
    after = narrowed(before, OF_ZONE)
    assert after["podAntiAffinity"] == {"x": 1}
    assert after["nodeAffinity"]["preferred"] == [1]
    assert after["nodeAffinity"][key]["nodeSelectorTerms"] == [
        {"matchExpressions": [*own["matchExpressions"], *OF_ZONE]},
        {**by_name, "matchExpressions": OF_ZONE},
        {},
    ]
    assert narrowed(after, OF_ZONE) == after


# --- and when it goes on ------------------------------------------------------------------------------------


def gated(raw: dict[str, Any], *profiles: str) -> PodObject:
    made = changed(raw, patch(raw, waits_for=profiles))
    return decode(PodObject, made)


def awaited(pod: PodObject, *profiles: SecurityProfile) -> list[str]:
    return gating.awaited(pod, Known({one.metadata.name: one for one in profiles}))


def test_a_gate_is_closed_until_all_profiles_are_available():
    pod = gated(raw_pod("b", seccomp="hauberk/a.json"), "a", "b")
    a, b = profile("a", SECCOMP), profile("b")
    assert awaited(pod, a, b, profile("c")) == ["a", "b"]
    assert awaited(pod, profile("a", SECCOMP, available=True), b) == ["b"]
    assert awaited(pod, profile("a", SECCOMP, available=True), profile("b", available=True)) == []


def test_a_pod_waits_for_what_it_was_gated_for_though_nobody_knows_the_names_yet():
    """The admission knew it by its text; the operator has none, and the revision is not out."""
    pod = gated(raw_pod("shop-web"), "fresh")
    assert awaited(pod, profile("fresh")) == ["fresh"]
    assert awaited(pod, profile("fresh", available=True)) == []


def test_a_pod_waits_on_for_a_profile_that_is_gone():
    pod = gated(raw_pod("web"), "web")
    assert awaited(pod) == ["web"]
    assert awaited(pod, profile("web", available=True, deleted=True)) == ["web"]


def test_a_gate_without_a_record_waits_for_what_the_pod_names():
    pod = decode(PodObject, raw_pod("web", schedulingGates=[{"name": POD_GATE}]))
    assert gating.is_gated(pod)
    assert awaited(pod, profile("web")) == ["web"]
    assert awaited(pod) == []


def revision(name: str, uid: str, *names: str, kind: str = APPARMOR, sequence: int = 1) -> ProfileRevision:
    """Return what is published of a SecurityProfile, for a generation of it."""
    texts = [{"id": "t", "text": "", "names": [*names]}]
    content = {"digest": f"d{sequence}", "mode": "Enforce", "texts": texts}
    spec = {"profile": name, "profileUID": uid, "type": kind, "contract": 1, "content": content}
    body = {"metadata": {"name": f"{name}.d"}, "spec": {**spec, "placement": {"sequence": sequence}}}
    return decode(ProfileRevision, body)


def test_names_are_held_by_what_is_published():
    revisions = {
        "web.d": revision("web", "uid-web", "web", "web//cgi"),
        "old.d": revision("old", "uid-of-an-earlier-one", "old"),
        "gone.d": revision("gone", "uid-gone", "gone"),
    }
    profiles = {"web": profile("web"), "old": profile("old")}
    known = Known(profiles, revisions=revisions)
    assert known.holders == {(APPARMOR, "web"): "web", (APPARMOR, "web//cgi"): "web"}


# --- a name that only a newer revision has ------------------------------------------------------------------


def going_out(reason: str = "Verified", *, generation: int = 2, policy: str = "") -> SecurityProfile:
    """Return `web`, Available, while a newer revision goes out."""
    made = profile("web", available=True, policy=policy)
    (said,) = made.status.conditions
    conditions = [msgspec.structs.replace(said, reason=reason)]
    status = msgspec.structs.replace(made.status, conditions=conditions, revision="d1", profiles=["web"])
    metadata = msgspec.structs.replace(made.metadata, generation=generation)
    return msgspec.structs.replace(made, metadata=metadata, status=status)


def holding(*digests: str) -> dict[str, ProfileNode]:
    """Return the reports of nodes, of which each holds one revision of `web`; empty: none."""
    return {
        str(at): decode(
            ProfileNode,
            {
                "metadata": {"name": str(at)},
                "status": {"appArmor": {"profiles": {"web": f"{digest}/enforce/aa"} if digest else {}}},
            },
        )
        for at, digest in enumerate(digests)
    }


OLDER, NEWER = revision("web", "uid-web", "web"), revision("web", "uid-web", "web", "web-new", sequence=2)
OWNERS = {(APPARMOR, "web"): "web", (APPARMOR, "web-new"): "web"}
UID = "uid-web"[:8]


@pytest.mark.parametrize(
    ("named", "ours", "published", "held", "expected"),
    [
        ("web", going_out(), [OLDER, NEWER], ["d1"], ""),
        ("web-new", going_out(), [OLDER, NEWER], ["d1", "", "d1"], f"web:2:{UID}"),
        ("web-new", going_out(), [OLDER, NEWER], ["d1", "d2"], ""),
        ("web-new", going_out(), [NEWER], ["d2"], ""),
        ("web-new", going_out("NoNodes"), [OLDER, NEWER], ["d1"], ""),  # a node has to be made for it
        ("web-new", going_out(), [OLDER], ["d1"], f"web:2:{UID}"),  # it is not published yet
        # the one that defines it is on no node, and one after it is on its way
        (
            "web-new",
            going_out(generation=3),
            [OLDER, NEWER, revision("web", "uid-web", "web", "web-new", sequence=3)],
            ["d1"],
            f"web:2:{UID}",
        ),
        # and what is held still defines what a newer one does not, that nobody has
        ("web", going_out(), [OLDER, revision("web", "uid-web", "web-new", sequence=2)], ["d1"], ""),
    ],
)
def test_a_pod_waits_for_the_revision_that_defines_its_name(
    named: str,
    ours: SecurityProfile,
    published: list[ProfileRevision],
    held: list[str],
    expected: str,
):
    """The profile is Available by another one, which has no such name: the pod would fail to start."""
    revisions = {str(at): one for at, one in enumerate(published)}
    known = Known({"web": ours}, OWNERS, revisions=revisions, reports=holding(*held))
    raw = raw_pod(named)
    made = changed(raw, review_pod(raw, decode(PodObject, raw), known, deny_unknown=True).patch)
    assert made["metadata"].get("annotations") == ({GATED_FOR: expected} if expected else None)


def test_a_name_that_is_not_judged_yet_is_waited_for_though_the_profile_is_available():
    """An update of the profile and a pod that uses the new name, applied in one file."""
    ours = going_out(policy="profile web { file, } profile web-new { file, }")
    owners = {(APPARMOR, "web"): "web"}
    known = Known({"web": ours}, owners, revisions={"1": OLDER}, reports=holding("d1"))
    found = {name: gating.find(decode(PodObject, raw_pod(name)), known) for name in ("web", "web-new")}
    assert found["web"].gated_for == []
    assert found["web-new"].gated_for == [f"web:2:{UID}"]
    assert found["web-new"].waits_for == ["web"]


def test_the_gate_stays_closed_until_what_the_pod_was_gated_for_is_held():
    """The operator may not have seen yet that the profile is another: the annotation has its generation."""
    pod = gated(raw_pod("web-new"), f"web:2:{UID}")

    def awaited(ours: SecurityProfile, held: list[str], *published: ProfileRevision) -> list[str]:
        revisions = {str(at): one for at, one in enumerate(published)}
        known = Known({"web": ours}, revisions=revisions, reports=holding(*held))
        return gating.awaited(pod, known)

    assert awaited(going_out(generation=1), ["d1"], OLDER) == ["web"]
    assert awaited(going_out(), ["d1"], OLDER) == ["web"]
    assert awaited(going_out(), ["d1"], OLDER, NEWER) == ["web"]
    assert awaited(going_out(), ["d1", "d2"], OLDER, NEWER) == []
    # taken back meanwhile: nobody will ever define it, and the pod's own failure tells of it
    third = revision("web", "uid-web", "web", sequence=3)
    assert awaited(going_out(generation=3), ["d1"], OLDER, third) == []


def test_a_pod_that_comes_before_anything_is_verified_waits_for_its_own_name():
    """Available by the first revision, a moment later, is not what it waits for."""
    policy = "profile web { file, } profile web-new { file, }"
    first = msgspec.structs.replace(going_out(policy=policy), status=profile("web", available=False).status)
    raw = raw_pod("web-new")
    known = Known({"web": first}, {(APPARMOR, "web"): "web"}, revisions={"1": OLDER}, reports=holding(""))
    made = changed(raw, review_pod(raw, decode(PodObject, raw), known, deny_unknown=True).patch)
    assert made["metadata"]["annotations"] == {GATED_FOR: f"web:2:{UID}"}
    known = Known({"web": going_out()}, revisions={"1": OLDER}, reports=holding("d1"))
    assert gating.awaited(decode(PodObject, made), known) == ["web"]


def test_a_text_of_another_kind_of_nodes_is_held_all_the_same():
    known = Known({"web": going_out()}, OWNERS, revisions={"1": OLDER, "2": NEWER}, reports=holding("d2~"))
    assert gating.find(decode(PodObject, raw_pod("web-new")), known).gated_for == []


def test_who_made_the_profile_anew_counts_anew():
    """Generations of another object say nothing: the pod would wait for ever."""
    pod = gated(raw_pod("web-new"), f"web:7:{UID}")
    anew = profile("web", available=True)
    metadata = msgspec.structs.replace(anew.metadata, uid="another-uid")
    anew = msgspec.structs.replace(anew, metadata=metadata)
    first = revision("web", "another-uid", "web", "web-new")
    assert gating.awaited(pod, Known({"web": anew}, revisions={"1": first}, reports=holding("d1"))) == []
    assert gating.awaited(pod, Known({"web": going_out()}, revisions={"1": NEWER})) == ["web"]


@pytest.mark.parametrize("more", ["", "x", "7", "-1:u", "9999999999999999999:u", "²:u", "1:2:3"])
def test_a_generation_that_is_none_is_any(more: str):
    pod = gated(raw_pod("web"), f"web:{more}")
    assert gating.gated_for(pod) == {"web": (0, "")}
    assert gating.awaited(pod, Known({"web": going_out()}, revisions={"1": OLDER})) == []


def told(profile: SecurityProfile | None, *conditions: tuple[str, str, str]) -> tuple[str, str]:
    profiles: dict[str, SecurityProfile] = {}
    if profile:
        made = [
            Condition(type=kind, status="False", reason=reason, message=message, observed_generation=1)
            for kind, reason, message in conditions
        ]
        status = msgspec.structs.replace(profile.status, conditions=made)
        profiles = {"web": msgspec.structs.replace(profile, status=status)}
    return gating.cause("web", profiles)


def test_why_a_pod_waits_is_told():
    assert told(None) == ("Deleted", "web: there is no such SecurityProfile any more")
    assert told(profile("web", deleted=True)) == ("Terminating", "web: it is being deleted")
    assert told(profile("web")) == ("Updating", "web: nobody has looked at it yet")
    conditions = [("Available", "NotVerified", "none holds it"), ("Ready", "PolicyRefused", "line 3: no")]
    assert told(profile("web"), *conditions) == ("PolicyRefused", "web: PolicyRefused: line 3: no")


@given(
    others=st.lists(st.sampled_from(["a.example/x", "b.example/y"]), unique=True),
    labels=st.dictionaries(st.sampled_from(["app", "tier"]), st.just("x")),
)
def test_a_patch_is_made_once(others: list[str], labels: dict[str, str]):
    raw = raw_pod("web", schedulingGates=[{"name": one} for one in others])
    raw["metadata"]["labels"] = labels
    once = changed(raw, patch(raw, waits_for=["web"], wanted=OF_ZONE))
    assert patch(once, waits_for=["web"], wanted=OF_ZONE) == []
    assert [one["name"] for one in once["spec"]["schedulingGates"]] == [*others, POD_GATE]
    assert once["metadata"]["labels"] == {**labels, LABEL_GATED: "true"}
