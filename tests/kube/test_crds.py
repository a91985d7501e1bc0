"""The API server's own verdict on Hauberk's CRDs: each rule, each limit, and what the user reads."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hauberk.crds import models
from hauberk.crds.names import (
    API_VERSION,
    FIELD_MANAGER,
    GROUP,
    PROFILE_NODES,
    PROFILE_REVISIONS,
    SECURITY_PROFILES,
    VERSION,
    text_id,
)
from kubernetes.client import ApiException, CustomObjectsApi

from tests.kube.conftest import Kubectl
from tests.unit.kstatus import kstatus

Object = dict[str, Any]

MINE = "hauberk-test=crds"  # the label of what these tests store; deleted when they are over
LIMIT = 131072
LIBRARY = Path(__file__).parents[2] / "profiles" / "library"
TYPES = {"AppArmor": "appArmor", "SELinux": "selinux", "Seccomp": "seccomp"}

PLURALS = {
    "SecurityProfile": SECURITY_PROFILES,
    "ProfileRevision": PROFILE_REVISIONS,
    "ProfileNode": PROFILE_NODES,
}

numbers = itertools.count(1)


def new(kind: str, spec: Object | None = None, name: str = "", **more: Any) -> Object:
    """Return an object of this kind with a name that no other test has."""
    key, _, value = MINE.partition("=")
    metadata = {"name": name or f"crds-{next(numbers)}", "labels": {key: value}}
    content = {} if spec is None else {"spec": spec}
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, **content, **more}


def profile(name: str = "", **spec: Any) -> Object:
    """Return a SecurityProfile that is accepted as it is; `spec` overrides."""
    return new("SecurityProfile", {"type": "AppArmor", "appArmor": {"policy": policy_of(300)}, **spec}, name)


def policy_of(size: int) -> str:
    """Return a policy of just this many bytes, as a person might write it."""
    head, tail = "#include <tunables/global>\nprofile demo flags=(attach_disconnected) {\n", "}\n"
    rule = '  owner "/srv/app {:06}/data/**" rwk, # one of many\n'
    count, rest = divmod(size - len(head + tail), len(rule.format(0)))
    rules = "".join(map(rule.format, range(count)))
    return head + rules + "#" * max(rest - 1, 0) + "\n" * min(rest, 1) + tail


def revision(**spec: Any) -> Object:
    """Return a ProfileRevision that is accepted as it is; `spec` overrides."""
    return new(
        "ProfileRevision",
        {
            "profile": "demo",
            "profileUID": "4b0f6e9a-6d39-4a1e-8f0e-4a8f3c4d5e6f",
            "type": "AppArmor",
            "contract": 1,
            "content": content(texts=[text("any"), text("7c9d1f2a")]),
            "placement": {"sequence": 1},
            **spec,
        },
    )


def tombstone(**placement: Any) -> Object:
    """Return a revision without content, which is accepted as it is; `placement` overrides."""
    made = revision(placement={"sequence": 1, "withdrawn": True, **placement})
    del made["spec"]["content"]
    return made


def content(**override: Any) -> Object:
    return {"digest": "7c9d1f2ab3", "mode": "Enforce", "texts": [text("any")], **override}


def text(facts: str, said: str = "profile demo {}\n", names: list[str] | None = None) -> Object:
    return {"id": text_id(facts + said), "facts": [facts], "text": said, "names": names or ["demo"]}


def node(**status: Any) -> Object:
    return new("ProfileNode", status=status)


def stored(kubectl: Kubectl, made: Object) -> str:
    """Create an object and return its name."""
    kubectl.ok("create", "-f", "-", given=made)
    return made["metadata"]["name"]


def tried(api: CustomObjectsApi, made: Object) -> None:
    """Have an object judged as kubectl would, and not stored."""
    api.create_cluster_custom_object(
        GROUP, VERSION, PLURALS[made["kind"]], made, dry_run="All", field_validation="Strict"
    )


@pytest.fixture(scope="module", autouse=True)
def _swept(api: CustomObjectsApi) -> Iterator[None]:
    yield
    for plural in PLURALS.values():
        api.delete_collection_cluster_custom_object(GROUP, VERSION, plural, label_selector=MINE)


# -- what is refused, and in which words ------------------------------------------------------------

FIRST = "spec.nodeSelector.matchExpressions[0]"
BLOCK = "spec: Invalid value: type is {}, so set spec.{} and no other block; set now:{}"
TOO_LONG = "Too long: may not be more than {} bytes"
BYTES = "Invalid value: {} has more than 131072 bytes (128 KiB), which is the most that is taken"
POLICY = {"policy": "profile demo {}"}


def selecting(*expressions: Object) -> Object:
    return profile(nodeSelector={"matchExpressions": list(expressions)})


def selinux(**block: Any) -> Object:
    return new("SecurityProfile", {"type": "SELinux", "selinux": {"policy": "(block demo)", **block}})


def other_type(kind: str, *blocks: str) -> Object:
    return new("SecurityProfile", {"type": kind, **dict.fromkeys(blocks, POLICY)})


REFUSED_PROFILES: dict[str, tuple[Object, str]] = {
    "no spec": (new("SecurityProfile"), "spec: Required value"),
    "no type": (new("SecurityProfile", {"appArmor": POLICY}), "spec.type: Required value"),
    "a type that is none": (
        profile(type="Apparmor"),
        'spec.type: Unsupported value: "Apparmor": supported values: "AppArmor", "SELinux", "Seccomp"',
    ),
    "AppArmor with no block": (other_type("AppArmor"), BLOCK.format("AppArmor", "appArmor", " none")),
    "SELinux with no block": (other_type("SELinux"), BLOCK.format("SELinux", "selinux", " none")),
    "Seccomp with no block": (other_type("Seccomp"), BLOCK.format("Seccomp", "seccomp", " none")),
    "AppArmor with another's block": (
        other_type("AppArmor", "selinux"),
        BLOCK.format("AppArmor", "appArmor", " spec.selinux"),
    ),
    "SELinux with another's block": (
        other_type("SELinux", "seccomp"),
        BLOCK.format("SELinux", "selinux", " spec.seccomp"),
    ),
    "Seccomp with another's block": (
        other_type("Seccomp", "appArmor"),
        BLOCK.format("Seccomp", "seccomp", " spec.appArmor"),
    ),
    "two blocks": (
        other_type("AppArmor", "appArmor", "seccomp"),
        BLOCK.format("AppArmor", "appArmor", " spec.appArmor spec.seccomp"),
    ),
    "three blocks": (
        other_type("Seccomp", "appArmor", "selinux", "seccomp"),
        BLOCK.format("Seccomp", "seccomp", " spec.appArmor spec.selinux spec.seccomp"),
    ),
    "a mode that is none": (
        profile(appArmor={**POLICY, "mode": "complain"}),
        'spec.appArmor.mode: Unsupported value: "complain": supported values: "Enforce", "Complain"',
    ),
    "a selector with no operator": (
        selecting({"key": "zone"}),
        "spec.nodeSelector.matchExpressions[0].operator: Required value",
    ),
    "an operator that is none": (
        selecting({"key": "zone", "operator": "Gt", "values": ["3"]}),
        (
            'spec.nodeSelector.matchExpressions[0].operator: Unsupported value: "Gt": '
            'supported values: "In", "NotIn", "Exists", "DoesNotExist"'
        ),
    ),
    "In with no values": (
        selecting({"key": "zone", "operator": "In"}),
        f"{FIRST}: Invalid value: the operator In needs at least one of values",
    ),
    "NotIn with an empty list": (
        selecting({"key": "zone", "operator": "NotIn", "values": []}),
        f"{FIRST}: Invalid value: the operator NotIn needs at least one of values",
    ),
    "Exists with values": (
        selecting({"key": "zone", "operator": "Exists", "values": ["a"]}),
        f"{FIRST}: Invalid value: the operator Exists takes no values",
    ),
    "an expression's key": (
        selecting({"key": "two words", "operator": "Exists"}),
        (
            'spec.nodeSelector.matchExpressions[0].key: Invalid value: "two words": '
            "not the key of a label, such as kubernetes.io/arch"
        ),
    ),
    "an expression's value": (
        selecting({"key": "zone", "operator": "In", "values": ["-a"]}),
        (
            'spec.nodeSelector.matchExpressions[0].values[0]: Invalid value: "-a": '
            "spec.nodeSelector.matchExpressions[0].values[0] in body should match"
        ),
    ),
    "an expression's long value": (
        selecting({"key": "zone", "operator": "In", "values": ["a" * 64]}),
        f"spec.nodeSelector.matchExpressions[0].values[0]: {TOO_LONG.format(63)}",
    ),
    "an expression's many values": (
        selecting({"key": "zone", "operator": "In", "values": [f"v{n}" for n in range(65)]}),
        "spec.nodeSelector.matchExpressions[0].values: Too many: 65: must have at most 64 items",
    ),
    "many expressions": (
        selecting(*[{"key": "zone", "operator": "Exists"}] * 33),
        "spec.nodeSelector.matchExpressions: Too many: 33: must have at most 32 items",
    ),
    "a label's key": (
        profile(nodeSelector={"matchLabels": {"a/b/c": "d"}}),
        (
            "spec.nodeSelector.matchLabels: Invalid value: "
            "a key here is not the key of a label, such as kubernetes.io/arch"
        ),
    ),
    "a label's value": (
        profile(nodeSelector={"matchLabels": {"zone": "two words"}}),
        'spec.nodeSelector.matchLabels.zone: Invalid value: "two words"',
    ),
    "many labels": (
        profile(nodeSelector={"matchLabels": {f"l{n}": "" for n in range(33)}}),
        "spec.nodeSelector.matchLabels: Too many: 33: must have at most 32 items",
    ),
    "suspend that is no boolean": (profile(suspend="yes"), 'spec.suspend: Invalid value: "string"'),
    "adopt that is no boolean": (profile(adopt="true"), 'spec.adopt: Invalid value: "string"'),
    "a flag of AppArmor's elsewhere": (
        new("SecurityProfile", {"type": "Seccomp", "seccomp": {**POLICY, "allowAttachment": True}}),
        'unknown field "spec.seccomp.allowAttachment"',
    ),
    "a mode of AppArmor's for SELinux": (
        selinux(mode="Complain"),
        'spec.selinux.mode: Unsupported value: "Complain": supported values: "Enforce", "Permissive"',
    ),
    "a mode for seccomp": (
        new("SecurityProfile", {"type": "Seccomp", "seccomp": {**POLICY, "mode": "Enforce"}}),
        'unknown field "spec.seccomp.mode"',
    ),
    "one required twice": (
        selinux(requires=["base", "base"]),
        'spec.selinux.requires[1]: Duplicate value: "base"',
    ),
    "many required": (
        selinux(requires=[f"r{n}" for n in range(17)]),
        "spec.selinux.requires: Too many: 17: must have at most 16 items",
    ),
    "nothing that is required": (selinux(requires=[""]), "spec.selinux.requires[0]: Invalid value"),
    "a long name that is required": (
        selinux(requires=["r" * 64]),
        f"spec.selinux.requires[0]: {TOO_LONG.format(63)}",
    ),
    "AppArmor that requires another": (
        profile(appArmor={**POLICY, "requires": ["base"]}),
        'unknown field "spec.appArmor.requires"',
    ),
    "a flag of SELinux's elsewhere": (
        profile(appArmor={**POLICY, "allowHostTypes": True}),
        'unknown field "spec.appArmor.allowHostTypes"',
    ),
    "host types that are no boolean": (
        selinux(allowHostTypes="yes"),
        'spec.selinux.allowHostTypes: Invalid value: "string"',
    ),
    **{
        f"{kind} that takes over": (
            new("SecurityProfile", {"type": kind, TYPES[kind]: POLICY, "adopt": True}),
            "spec.adopt: Invalid value: only AppArmor profiles of the host can be taken over; leave adopt",
        )
        for kind in ("SELinux", "Seccomp")
    },
    "a name of 64 characters": (
        profile("n" * 64),
        (
            "Invalid value: the name of a SecurityProfile may have at most 63 characters, "
            "because it is also the value of a label"
        ),
    ),
    "a field of a later version": (
        profile(rollout={}),
        'strict decoding error: unknown field "spec.rollout"',
    ),
    "values that are no mapping": (
        profile(template={"values": ["a"]}),
        "spec.template.values: Invalid value",
    ),
    "a field that a template has not": (
        profile(template={"engine": "jinja2"}),
        'strict decoding error: unknown field "spec.template.engine"',
    ),
}
for kind, block in TYPES.items():
    for title, value, sentence in (
        ("no policy", {}, f"spec.{block}.policy: Required value"),
        (
            "an empty policy",
            {"policy": ""},
            f'spec.{block}.policy: Invalid value: "": policy is empty: write',
        ),
        ("a blank policy", {"policy": " \n\t"}, ": policy is empty: write the text of the profile here"),
        ("a byte too many", {"policy": "x" * 131073}, f"spec.{block}.policy: {TOO_LONG.format(131072)}"),
        # 65537 characters are few enough; what counts is their 131074 bytes
        ("two-byte characters", {"policy": "é" * 65537}, f"spec.{block}.policy: {BYTES.format('policy')}"),
    ):
        REFUSED_PROFILES[f"{kind}: {title}"] = (
            new("SecurityProfile", {"type": kind, block: value}),
            sentence,
        )

PROBLEM = {"revision": "7c9d1f2ab3", "reason": "LoadFailed", "message": "line 3: syntax error"}
ORPHAN = {"uid": "4b0f6e9a-6d39-4a1e-8f0e-4a8f3c4d5e6f"}
REPAIRS = {"count": 1, "message": "it was removed"}
REMARK = {"reason": "StateTorn", "message": "a record was unreadable and was set aside"}

UNRENDERED = {"facts": ["a1"], "reason": "TemplateRefused", "message": "line 1: 'x' is not there"}

REFUSED_REVISIONS: dict[str, tuple[Object, str]] = {
    **{
        f"no {field}": (
            new("ProfileRevision", {key: value for key, value in revision()["spec"].items() if key != field}),
            f"spec.{field}: Required value",
        )
        for field in revision()["spec"]
    },
    **{
        f"no content.{field}": (
            revision(content={key: value for key, value in content().items() if key != field}),
            f"spec.content.{field}: Required value",
        )
        for field in content()
    },
    "no sequence": (revision(placement={}), "spec.placement.sequence: Required value"),
    "a negative sequence": (
        revision(placement={"sequence": -1}),
        "spec.placement.sequence: Invalid value: -1",
    ),
    "contract 0": (revision(contract=0), "spec.contract: Invalid value: 0"),
    "a long profile": (revision(profile="p" * 64), f"spec.profile: {TOO_LONG.format(63)}"),
    "a long UID": (revision(profileUID="u" * 65), f"spec.profileUID: {TOO_LONG.format(64)}"),
    "an empty installation": (revision(installation=""), "spec.installation: Invalid value"),
    "a long installation": (revision(installation="i" * 65), f"spec.installation: {TOO_LONG.format(64)}"),
    "no content, and not withdrawn": (
        tombstone(withdrawn=False),
        "spec.content: Required value: only a tombstone, whose placement is withdrawn, is without content",
    ),
    "an empty content": (
        revision(content={}, placement={"sequence": 1, "withdrawn": True}),
        "spec.content.digest: Required value",
    ),
    "a type that is none": (revision(type="Landlock"), 'spec.type: Unsupported value: "Landlock"'),
    "a mode that is none": (revision(content=content(mode="kill")), "spec.content.mode: Unsupported value"),
    "a digest that is none": (revision(content=content(digest="HEAD")), "spec.content.digest: Invalid value"),
    "one text twice": (
        revision(content=content(texts=[text("any"), text("any")])),
        f'spec.content.texts[1]: Duplicate value: {{"id":"{text("any")["id"]}"}}',
    ),
    "an id that is none": (
        revision(content=content(texts=[{**text("any"), "id": "none"}])),
        "spec.content.texts[0].id: Invalid value",
    ),
    "a text for no kind": (
        revision(content=content(texts=[{**text("any"), "facts": []}])),
        "spec.content.texts[0].facts: Invalid value",
    ),
    "one kind twice": (
        revision(content=content(texts=[{**text("any"), "facts": ["a", "a"]}])),
        'spec.content.texts[0].facts[1]: Duplicate value: "a"',
    ),
    "a kind that is none": (
        revision(content=content(texts=[text("Not facts")])),
        "spec.content.texts[0].facts[0]: Invalid value",
    ),
    "a long kind": (
        revision(content=content(texts=[text("f" * 17)])),
        f"spec.content.texts[0].facts[0]: {TOO_LONG.format(16)}",
    ),
    "many kinds": (
        revision(content=content(texts=[{**text("any"), "facts": [f"f{n}" for n in range(257)]}])),
        "spec.content.texts[0].facts: Too many: 257: must have at most 256 items",
    ),
    "half of why a kind has no text": (
        revision(unrendered=[{"facts": ["a"], "reason": "TemplateRefused"}]),
        "spec.unrendered[0].message: Required value",
    ),
    "many kinds without a text": (
        revision(unrendered=[UNRENDERED] * 65),
        "spec.unrendered: Too many: 65: must have at most 64 items",
    ),
    "many texts": (
        revision(content=content(texts=[text(f"f{n}") for n in range(65)])),
        "spec.content.texts: Too many: 65: must have at most 64 items",
    ),
    "a text of a byte too many": (
        revision(content=content(texts=[text("any", "x" * 131073)])),
        f"spec.content.texts[0].text: {TOO_LONG.format(131072)}",
    ),
    "a text of two-byte characters": (
        revision(content=content(texts=[text("any", "é" * 65537)])),
        f"spec.content.texts[0].text: {BYTES.format('the text')}",
    ),
    "texts of a byte too many": (
        revision(content=content(texts=[*(text(f"f{n}", "x" * LIMIT) for n in range(8)), text("any", "x")])),
        "spec.content.texts: Invalid value: the texts have more than 1048576 bytes (1 MiB) together",
    ),
    "an empty name": (
        revision(content=content(texts=[{**text("any"), "names": [""]}])),
        "spec.content.texts[0].names[0]: Invalid value",
    ),
    "many required": (
        revision(content=content(requires=[f"r{n}" for n in range(17)])),
        "spec.content.requires: Too many: 17: must have at most 16 items",
    ),
    "a long name that is required": (
        revision(content=content(requires=["r" * 64])),
        f"spec.content.requires[0]: {TOO_LONG.format(63)}",
    ),
    "many names": (
        revision(content=content(texts=[text("any", names=[f"n{n}" for n in range(257)])])),
        "spec.content.texts[0].names: Too many: 257: must have at most 256 items",
    ),
    "a long name": (
        revision(content=content(texts=[text("any", names=["n" * 513])])),
        f"spec.content.texts[0].names[0]: {TOO_LONG.format(512)}",
    ),
}

REFUSED_NODES: dict[str, tuple[Object, str]] = {
    "a long entry": (
        node(appArmor={"profiles": {"demo": "x" * 129}}),
        f"status.appArmor.profiles.demo: {TOO_LONG.format(128)}",
    ),
    "a long key": (
        node(appArmor={"profiles": {"n" * 64: "x"}}),
        (
            "status.appArmor.profiles: Invalid value: "
            "a key is the name of a SecurityProfile, which has at most 63 characters"
        ),
    ),
    "many entries": (
        node(appArmor={"profiles": {f"n{n}": "x" for n in range(4097)}}),
        "status.appArmor.profiles: Too many: 4097: must have at most 4096 items",
    ),
    "an entry that is no string": (
        node(appArmor={"profiles": {"demo": {}}}),
        "status.appArmor.profiles.demo: Invalid value",
    ),
    "half a problem": (
        node(appArmor={"problems": {"demo": {"revision": "7c9d1f2ab3", "reason": "LoadFailed"}}}),
        "status.appArmor.problems.demo.message: Required value",
    ),
    "a long problem": (
        node(appArmor={"problems": {"demo": {**PROBLEM, "message": "m" * 1025}}}),
        f"status.appArmor.problems.demo.message: {TOO_LONG.format(1024)}",
    ),
    "a problem's long key": (
        node(appArmor={"problems": {"n" * 64: PROBLEM}}),
        "status.appArmor.problems: Invalid value: a key is the name of a SecurityProfile",
    ),
    "many problems": (
        node(appArmor={"problems": {f"n{n}": PROBLEM for n in range(513)}}),
        "status.appArmor.problems: Too many: 513: must have at most 512 items",
    ),
    **{
        f"{title} {field}": (node(appArmor={field: entries}), f"status.appArmor.{field}{sentence}")
        for field, entry in (("orphans", ORPHAN), ("repairs", REPAIRS))
        for title, entries, sentence in (
            ("a long key in", {"n" * 64: entry}, ": Invalid value: a key is the name of a SecurityProfile"),
            ("many", {f"n{n}": entry for n in range(513)}, ": Too many: 513: must have at most 512 items"),
        )
    },
    "an orphan of nobody": (
        node(appArmor={"orphans": {"demo": {"installation": "i"}}}),
        "status.appArmor.orphans.demo.uid: Required value",
    ),
    "an orphan's long UID": (
        node(appArmor={"orphans": {"demo": {"uid": "u" * 65}}}),
        f"status.appArmor.orphans.demo.uid: {TOO_LONG.format(64)}",
    ),
    "an orphan's long installation": (
        node(appArmor={"orphans": {"demo": {"uid": "u", "installation": "i" * 65}}}),
        f"status.appArmor.orphans.demo.installation: {TOO_LONG.format(64)}",
    ),
    "repairs without a count": (
        node(appArmor={"repairs": {"demo": {"message": "m"}}}),
        "status.appArmor.repairs.demo.count: Required value",
    ),
    "fewer repairs than none": (
        node(appArmor={"repairs": {"demo": {"count": -1, "message": "m"}}}),
        "status.appArmor.repairs.demo.count: Invalid value: -1",
    ),
    "a long word on repairs": (
        node(appArmor={"repairs": {"demo": {"count": 1, "message": "m" * 1025}}}),
        f"status.appArmor.repairs.demo.message: {TOO_LONG.format(1024)}",
    ),
    "many remarks": (
        node(appArmor={"remarks": [REMARK] * 17}),
        "status.appArmor.remarks: Too many: 17: must have at most 16 items",
    ),
    "a long remark": (
        node(appArmor={"remarks": [{**REMARK, "message": "m" * 1025}]}),
        f"status.appArmor.remarks[0].message: {TOO_LONG.format(1024)}",
    ),
    "half a remark": (
        node(appArmor={"remarks": [{"message": "m"}]}),
        "status.appArmor.remarks[0].reason: Required value",
    ),
    "a long summary": (node(summary="s" * 65), f"status.summary: {TOO_LONG.format(64)}"),
    "many LSMs": (
        node(facts={"lsms": ["x"] * 33}),
        "status.facts.lsms: Too many: 33: must have at most 32 items",
    ),
    **{
        f"a long entry for {section}": (
            node(**{section: {"profiles": {"demo": "x" * 129}}}),
            f"status.{section}.profiles.demo: {TOO_LONG.format(128)}",
        )
        for section in ("selinux", "seccomp")
    },
    **{
        f"many problems for {section}": (
            node(**{section: {"problems": {f"n{n}": PROBLEM for n in range(513)}}}),
            f"status.{section}.problems: Too many: 513: must have at most 512 items",
        )
        for section in ("selinux", "seccomp")
    },
    "a section of another module": (node(landlock={}), 'unknown field "status.landlock"'),
    "seccomp that is no boolean": (
        node(facts={"seccomp": "yes"}),
        'status.facts.seccomp: Invalid value: "string"',
    ),
    "a long name of a policy": (
        node(facts={"selinux": {"policy": "p" * 65}}),
        f"status.facts.selinux.policy: {TOO_LONG.format(64)}",
    ),
    "a fact that nobody knows": (node(facts={"cpus": 4}), 'unknown field "status.facts.cpus"'),
}


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        pytest.param(*case, id=f"{kind}-{title}".replace(" ", "-"))
        for kind, cases in (
            ("secprof", REFUSED_PROFILES),
            ("profrev", REFUSED_REVISIONS),
            ("profnode", REFUSED_NODES),
        )
        for title, case in cases.items()
    ],
)
def test_refused_in_these_words(api: CustomObjectsApi, made: Object, sentence: str) -> None:
    """The client asks for what kubectl asks for, and its message is what kubectl prints."""
    with pytest.raises(ApiException) as refused:
        tried(api, made)
    message = json.loads(refused.value.body or "")["message"]
    assert sentence in message
    assert len(message) < 1000, "a sentence, not the user's own text back"


def test_kubectl_prints_these_words(kubectl: Kubectl) -> None:
    made, sentence = REFUSED_PROFILES["two blocks"]
    said = kubectl("apply", "-f", "-", given=made)
    assert said.code == 1
    assert said.stderr == f'The SecurityProfile "{made["metadata"]["name"]}" is invalid: {sentence}\n'


def test_a_type_never_changes(kubectl: Kubectl) -> None:
    name = stored(kubectl, profile())
    change = {"spec": {"type": "Seccomp", "appArmor": None, "seccomp": POLICY}}
    said = kubectl("patch", "secprof", name, "--type=merge", "-p", json.dumps(change))
    sentence = "type can't change from AppArmor to Seccomp: delete this SecurityProfile and create another"
    assert said.code == 1
    assert f"spec.type: Forbidden: {sentence}" in said.stderr


# -- what is accepted -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "made",
    [
        profile("n" * 63),
        profile(appArmor={"policy": "é" * 65536}),
        profile(nodeSelector={}),
        profile(nodeSelector={"matchLabels": {"kubernetes.io/os": "linux", "empty": ""}}),
        selecting(
            {"key": "example.com/zone", "operator": "In", "values": ["a", "b"]},
            {"key": "z", "operator": "NotIn", "values": [""]},
            {"key": "z", "operator": "Exists"},
            {"key": "z", "operator": "DoesNotExist", "values": []},
        ),
        *(other_type(kind, block) for kind, block in TYPES.items()),
        node(),
        node(appArmor={"profiles": {f"n{n}": "x" for n in range(4096)}}),
        node(
            appArmor={
                "orphans": {"n" * 63: ORPHAN, **{f"n{n}": ORPHAN for n in range(511)}},
                "repairs": {f"n{n}": REPAIRS for n in range(512)},
                "remarks": [{**REMARK, "message": "m" * 1024}] * 16,
            }
        ),
        tombstone(),
        tombstone(force=True),
        selinux(mode="Permissive", requires=[f"{n:063}" for n in range(16)], allowHostTypes=True),
        other_type("SELinux", "selinux") | {"metadata": {"name": "n" * 63}},
        revision(type="SELinux", content=content(mode="Permissive", requires=["base"], allowHostTypes=True)),
        revision(type="Seccomp", content=content(texts=[{**text("any"), "names": []}])),
        node(
            facts={"seccomp": True, "selinux": {"policy": "targeted", "mls": True, "mode": "enforcing"}},
            selinux={"profiles": {"demo": "7c9d1f2ab3/enforcing/0123456789"}, "problems": {"n": PROBLEM}},
            seccomp={"profiles": {"demo": "7c9d1f2ab3/enforce/0123456789"}, "orphans": {"n": ORPHAN}},
        ),
    ],
    ids=lambda made: made["metadata"]["name"],
)
def test_accepted(api: CustomObjectsApi, made: Object) -> None:
    tried(api, made)


def test_the_library_is_accepted(kubectl: Kubectl) -> None:
    files = list(LIBRARY.glob("*.yaml"))
    said = kubectl.ok("apply", "--dry-run=server", "-o", "name", "-f", str(LIBRARY))
    assert {line.partition("/")[2] for line in said.stdout.splitlines()} == {file.stem for file in files}


def test_the_largest_policy_fits_kubectl_apply(kubectl: Kubectl) -> None:
    """Its annotation holds the object once more, and may have 256 KiB."""
    made = profile(appArmor={"policy": policy_of(LIMIT)})
    assert len(made["spec"]["appArmor"]["policy"].encode()) == LIMIT
    assert "created" in kubectl.ok("apply", "-f", "-", given=made).stdout
    assert "unchanged" in kubectl.ok("apply", "-f", "-", given=made).stdout
    made["spec"]["appArmor"]["policy"] = made["spec"]["appArmor"]["policy"].replace(" rwk,", " rw, ")
    assert "configured" in kubectl.ok("apply", "-f", "-", given=made).stdout
    found = kubectl.ok("get", "secprof", made["metadata"]["name"], "-o", "json").object
    assert found["spec"]["appArmor"]["policy"] == made["spec"]["appArmor"]["policy"]
    assert "kubectl.kubernetes.io/last-applied-configuration" in found["metadata"]["annotations"]
    made["spec"]["appArmor"]["policy"] += "#"
    assert TOO_LONG.format(LIMIT) in kubectl("apply", "-f", "-", given=made).stderr


def test_the_largest_revision_can_be_stored(kubectl: Kubectl) -> None:
    texts = [text(f"f{number}", policy_of(LIMIT)) for number in range(8)]
    stored(kubectl, revision(content=content(texts=texts)))


NOWHERE_SET = dict.fromkeys(("suspend", "withdrawn", "force", "adopt"), False)


def test_defaults(kubectl: Kubectl) -> None:
    shown = kubectl.ok("create", "--dry-run=server", "-o", "yaml", "-f", "-", given=profile()).stdout
    assert "\n    mode: Enforce\n" in shown
    assert "\n    allowAttachment: false\n" in shown
    assert "\n  suspend: false\n" in shown
    assert "\n  adopt: false\n" in shown
    assert "nodeSelector" not in shown
    shown = kubectl.ok("create", "--dry-run=server", "-o", "yaml", "-f", "-", given=selinux()).stdout
    assert "\n    mode: Enforce\n" in shown
    assert "\n    allowHostTypes: false\n" in shown
    assert "requires" not in shown
    bare = revision()
    spec = kubectl.ok("create", "--dry-run=server", "-o", "json", "-f", "-", given=bare).object["spec"]
    assert spec["content"]["allowAttachment"] is False
    assert spec["content"]["allowHostTypes"] is False
    assert spec["content"]["requires"] == []
    assert "installation" not in spec
    assert spec["placement"] == {"sequence": 1, **NOWHERE_SET}


# -- revisions: content stays, placement moves ------------------------------------------------------


@pytest.fixture(scope="module")
def published(kubectl: Kubectl) -> str:
    return stored(kubectl, revision())


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("profile", "other"),
        ("profileUID", "another"),
        ("type", "Seccomp"),
        ("contract", 2),
        ("content.digest", "00000000000"),
        ("content.mode", "Complain"),
        ("content.allowAttachment", True),
        ("content.allowHostTypes", True),
        ("content.requires", ["base"]),
    ],
)
def test_a_revision_stays_what_it_is(kubectl: Kubectl, published: str, path: str, value: object) -> None:
    change = value
    for word in reversed(path.split(".")):
        change = {word: change}
    said = kubectl("patch", "profrev", published, "--type=merge", "-p", json.dumps({"spec": change}))
    assert f"spec.{path}: Forbidden: {path.rpartition('.')[2]} can't change once published" in said.stderr


@pytest.mark.parametrize(
    ("made", "change", "sentence"),
    [
        (revision(installation="a"), {"installation": "b"}, "installation can't change once published"),
        (revision(installation="a"), {"installation": None}, "can be neither added nor taken away"),
        (revision(), {"installation": "b"}, "can be neither added nor taken away"),
        (
            revision(),
            {"content": None, "placement": {"withdrawn": True}},
            "spec.content: Forbidden: content can be neither added nor taken away once published",
        ),
        (
            tombstone(),
            {"content": content(), "placement": {"withdrawn": False}},
            "spec.content: Forbidden: content can be neither added nor taken away once published",
        ),
        (tombstone(), {"placement": {"withdrawn": False}}, "spec.content: Required value: only a tombstone"),
        (
            revision(content=content(allowAttachment=True)),
            {"content": {"allowAttachment": None}},
            "spec.content.allowAttachment: Forbidden: allowAttachment can't change once published",
        ),
        (
            revision(type="SELinux", content=content(allowHostTypes=True)),
            {"content": {"allowHostTypes": None}},
            "spec.content.allowHostTypes: Forbidden: allowHostTypes can't change once published",
        ),
        (
            revision(type="SELinux", content=content(requires=["a", "b"])),
            {"content": {"requires": None}},
            "spec.content.requires: Forbidden: requires can't change once published",
        ),
        (
            revision(type="SELinux", content=content(requires=["a", "b"])),
            {"content": {"requires": ["a"]}},
            "spec.content.requires: Forbidden: requires can't change once published",
        ),
    ],
    ids=[
        "installation-changed",
        "installation-removed",
        "installation-added",
        "content-removed",
        "content-added",
        "tombstone-revived",
        "flag-removed",
        "host-types-removed",
        "all-required-removed",
        "one-required-removed",
    ],
)
def test_what_may_be_left_out_stays_as_it_was(
    kubectl: Kubectl, made: Object, change: Object, sentence: str
) -> None:
    name = stored(kubectl, made)
    said = kubectl("patch", "profrev", name, "--type=merge", "-p", json.dumps({"spec": change}))
    assert said.code == 1
    assert sentence in said.stderr


def test_a_tombstone_can_be_placed_anew(kubectl: Kubectl) -> None:
    name = stored(kubectl, tombstone())
    change = {"spec": {"placement": {"sequence": 2, "force": True}}}
    kubectl.ok("patch", "profrev", name, "--type=merge", "-p", json.dumps(change))
    (row,) = columns(kubectl.ok("get", "profrev", name).stdout)
    assert (row["MODE"], row["SEQUENCE"]) == ("", "2")


def _alter_text(texts: list[Object]) -> None:
    texts[0]["text"] += "#"


def _alter_names(texts: list[Object]) -> None:
    texts[0]["names"].append("more")


def _remove(texts: list[Object]) -> None:
    del texts[1]


def _swap(texts: list[Object]) -> None:
    texts[1]["id"] = "0123456789"


def _fewer_kinds(texts: list[Object]) -> None:
    texts[0]["facts"] = ["0000"]


CHANGED = f"spec.content.texts[0]: Forbidden: the text {text('any')['id']} can't change once published"
FEWER = "spec.content.texts[0].facts: Forbidden: kinds of nodes can only be added to a published text"
REMOVED = "spec.content.texts: Forbidden: a published text can't be taken away"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (_alter_text, CHANGED),
        (_alter_names, CHANGED),
        (_remove, REMOVED),
        (_swap, REMOVED),
        (_fewer_kinds, FEWER),
    ],
)
def test_published_texts_stay(
    kubectl: Kubectl, published: str, change: Callable[[list[Object]], None], sentence: str
) -> None:
    found = kubectl.ok("get", "profrev", published, "-o", "json").object
    change(found["spec"]["content"]["texts"])
    assert sentence in kubectl("replace", "-f", "-", given=found).stderr


def test_texts_are_added_and_placement_moves(kubectl: Kubectl) -> None:
    name = stored(kubectl, revision())
    found = kubectl.ok("get", "profrev", name, "-o", "json").object
    found["spec"]["content"]["texts"][0]["facts"].append("77aa")
    found["spec"]["content"]["texts"].insert(0, text("0a1b2c3d", "profile demo { file, }\n"))
    found["spec"]["unrendered"] = [UNRENDERED]
    found["spec"]["placement"] = {
        "sequence": 7,
        "nodeSelector": {"matchLabels": {"zone": "a"}},
        "suspend": True,
        "withdrawn": True,
        "force": True,
        "adopt": True,
    }
    kubectl.ok("replace", "-f", "-", given=found)
    assert kubectl.ok("get", "profrev", name, "-o", "json").object["spec"] == found["spec"]


# -- status -----------------------------------------------------------------------------------------

CONDITION = {
    "type": "Ready",
    "status": "True",
    "reason": "Ready",
    "message": "3 of 3 nodes hold it",
    "observedGeneration": 1,
    "lastTransitionTime": "2026-01-02T03:04:05Z",
}


def patch_status(kubectl: Kubectl, name: str, **status: Any) -> str:
    """Merge into a SecurityProfile's status; return what kubectl complains of."""
    change = json.dumps({"status": status})
    return kubectl("patch", "secprof", name, "--subresource=status", "--type=merge", "-p", change).stderr


@pytest.mark.parametrize(
    ("conditions", "sentence"),
    [
        ([CONDITION, CONDITION], 'status.conditions[1]: Duplicate value: {"type":"Ready"}'),
        ([{**CONDITION, "status": "Maybe"}], 'status.conditions[0].status: Unsupported value: "Maybe"'),
        ([{**CONDITION, "reason": ""}], "status.conditions[0].reason: Invalid value"),
        ([{**CONDITION, "reason": "two words"}], "status.conditions[0].reason: Invalid value"),
        (
            [{**CONDITION, "lastTransitionTime": "today"}],
            "status.conditions[0].lastTransitionTime: Invalid value",
        ),
        *(
            (
                [{key: value for key, value in CONDITION.items() if key != field}],
                f"status.conditions[0].{field}: Required value",
            )
            for field in ("type", "status", "reason", "message", "lastTransitionTime")
        ),
    ],
)
def test_conditions_are_whole(kubectl: Kubectl, conditions: list[Object], sentence: str) -> None:
    name = stored(kubectl, profile())
    assert sentence in patch_status(kubectl, name, conditions=conditions)


def test_at_most_ten_failures(kubectl: Kubectl) -> None:
    failure = {"node": "n", "reason": "LoadFailed", "message": "m"}
    refused = patch_status(kubectl, stored(kubectl, profile()), failures=[failure] * 11)
    assert "status.failures: Too many: 11: must have at most 10 items" in refused


def test_status_and_spec_are_written_apart(kubectl: Kubectl) -> None:
    made = profile() | {"status": {"revision": "0123456789"}}
    name = stored(kubectl, made)
    assert kubectl.ok("get", "secprof", name, "-o", "json").object["status"] == {"observedGeneration": 0}
    change = json.dumps({"spec": {"suspend": True}, "status": {"revision": "0123456789"}})
    kubectl.ok("patch", "secprof", name, "--subresource=status", "--type=merge", "-p", change)
    found = kubectl.ok("get", "secprof", name, "-o", "json").object
    assert found["status"] == {"observedGeneration": 0, "revision": "0123456789"}
    assert found["spec"]["suspend"] is False
    assert found["metadata"]["generation"] == 1


def test_nobody_who_judges_by_kstatus_takes_it_for_good_too_early(kubectl: Kubectl) -> None:
    """As the API has it: just made, with the admission's word alone, Ready, and changed since."""

    def judged() -> str:
        return kstatus(kubectl.ok("get", "secprof", name, "-o", "json").object)

    name = stored(kubectl, profile())
    assert judged() == "InProgress"
    accepted = {**CONDITION, "type": "Accepted"}
    assert patch_status(kubectl, name, conditions=[accepted]) == ""
    assert judged() == "InProgress"
    assert patch_status(kubectl, name, observedGeneration=1, conditions=[accepted, CONDITION]) == ""
    assert judged() == "Current"
    kubectl.ok("patch", "secprof", name, "--type=merge", "-p", json.dumps({"spec": {"suspend": True}}))
    assert judged() == "InProgress"


def test_kubectl_wait_never_takes_an_old_generation(kubectl: Kubectl) -> None:
    name = stored(kubectl, profile())
    waiting = ("wait", "--for=condition=Ready", "--timeout=0", f"secprof/{name}")
    assert patch_status(kubectl, name, observedGeneration=1, conditions=[CONDITION]) == ""
    kubectl.ok(*waiting)
    kubectl.ok("patch", "secprof", name, "--type=merge", "-p", json.dumps({"spec": {"suspend": True}}))
    assert kubectl(*waiting).code == 1
    assert patch_status(kubectl, name, conditions=[{**CONDITION, "observedGeneration": 2}]) == ""
    kubectl.ok(*waiting)


# -- what people see --------------------------------------------------------------------------------


def columns(shown: str, width: int = 80) -> list[dict[str, str]]:
    """Return the rows of a table by its headings, each cell cut out where its heading stands."""
    head, *lines = shown.splitlines()
    assert all(len(line.rstrip()) <= width for line in [head, *lines]), shown
    names = head.split()
    starts = [*(head.index(name) for name in names), None]
    return [
        {name: line[slice(*cut)].strip() for name, cut in zip(names, itertools.pairwise(starts), strict=True)}
        for line in lines
    ]


def test_columns_of_secprof(kubectl: Kubectl) -> None:
    for name, ready, status in (("web-frontend", "3/3", "Ready"), ("batch", "11/12", "NodesFailed")):
        stored(kubectl, profile(name))
        summary = {"ready": ready, "mode": "Enforce", "status": status, "reference": name}
        assert patch_status(kubectl, name, summary=summary, revision="7c9d1f2ab3") == ""
    asked = ("get", "secprof", "web-frontend", "batch")
    first, second = columns(kubectl.ok(*asked).stdout)
    assert first.pop("AGE").endswith("s")
    assert first == {
        "NAME": "web-frontend",
        "TYPE": "AppArmor",
        "MODE": "Enforce",
        "READY": "3/3",
        "STATUS": "Ready",
        "REFERENCE": "web-frontend",
    }
    assert second["STATUS"] == "NodesFailed"
    assert columns(kubectl.ok(*asked, "-o", "wide").stdout, 120)[0]["REVISION"] == "7c9d1f2ab3"


def test_columns_of_profrev(kubectl: Kubectl, published: str) -> None:
    (row,) = columns(kubectl.ok("get", "profrev", published).stdout)
    assert row.pop("AGE").endswith("s")
    assert row == {
        "NAME": published,
        "PROFILE": "demo",
        "TYPE": "AppArmor",
        "MODE": "Enforce",
        "SEQUENCE": "1",
    }


@pytest.mark.parametrize("enabled", [True, False])
def test_columns_of_profnode(kubectl: Kubectl, *, enabled: bool) -> None:
    facts: Object = {"os": {"id": "debian", "version": "12"}, "kernel": "6.1.0-18-amd64", "arch": "x86_64"}
    if enabled:  # the agent leaves out what is off
        facts["appArmor"] = {"enabled": True, "features": ["caps", "namespaces/profile"]}
        facts["runtime"] = {"name": "containerd", "version": "1.7.24"}
    name = stored(kubectl, node(facts=facts, summary="11/12, 1 failed"))
    head, line = kubectl.ok("get", "profnode", name).stdout.splitlines()
    assert head.split() == ["NAME", "KERNEL", "OS", "APPARMOR", "PROFILES", "AGE"]
    assert max(len(head.rstrip()), len(line.rstrip())) <= 80
    shown = f"{name} 6.1.0-18-amd64 debian {str(enabled).lower()} 11/12, 1 failed"
    assert line.split()[:-1] == shown.split()


def test_kubectl_get_hauberk_shows_all_three(kubectl: Kubectl) -> None:
    made = [profile(), revision(), node()]
    for one in made:
        stored(kubectl, one)
    listed = kubectl.ok("get", "hauberk", "-o", "name").stdout.splitlines()
    assert {f"{one['kind'].lower()}.hauberk.dev/{one['metadata']['name']}" for one in made} <= set(listed)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("spec", ["appArmor", "nodeSelector", "suspend", "enum: AppArmor, SELinux, Seccomp"]),
        (
            "spec.appArmor",
            ["mode", "enum: Enforce, Complain", "Enforce is the default", "-required-", "128 KiB"],
        ),
        ("spec.appArmor.policy", ["profile my-profile flags=(attach_disconnected,mediate_deleted) {\n"]),
        ("spec.nodeSelector", ["every Linux node", "matchExpressions", "{kubernetes.io/arch: amd64}"]),
        ("spec.appArmor.allowAttachment", ["refuses such a text", "`allow-attachment`", "hauberk-admin"]),
        (
            "spec.selinux",
            ["hauberk_", "enum: Enforce, Permissive", "refuses a text with `typepermissive`", "requires"],
        ),
        ("spec.selinux.allowHostTypes", ["refuses such a text", "`allow-host-types`", "hauberk-admin"]),
        ("spec.selinux.requires", ["waits until they are loaded", "they stay for as long as it is"]),
        ("spec.seccomp.policy", ["localhostProfile: `hauberk/`", "start later"]),
        ("spec.suspend", ["The default is false"]),
        ("spec.adopt", ["given back when this SecurityProfile is deleted", "HostOwned", "verb `adopt`"]),
        ("", ['The annotation `hauberk.dev/force-delete: "true"`', "verb `force-delete`"]),
        ("status", ["kubectl wait --for=condition=Ready secprof/NAME", "Reconciling"]),
        ("status.nodes", ["agentDown", "90 seconds", "unsupported"]),
    ],
)
def test_kubectl_explain(kubectl: Kubectl, path: str, words: list[str]) -> None:
    shown = kubectl.ok("explain", f"secprof.{path}".removesuffix(".")).stdout
    joined = " ".join(shown.split())
    for word in words:
        assert " ".join(word.split()) in joined


def test_every_field_is_explained(kubectl: Kubectl) -> None:
    described = kubectl.ok("get", "--raw", "/openapi/v3/apis/hauberk.dev/v1alpha1").object
    ours = ("SecurityProfile", "ProfileRevision", "ProfileNode")
    for name, schema in described["components"]["schemas"].items():
        if name.endswith(ours):
            missing = list(undescribed(schema, name.rpartition(".")[2]))
            assert missing == []


def undescribed(schema: Object, path: str) -> Iterator[str]:
    """Yield the paths of the properties below `schema` that have no description."""
    for name, field in schema.get("properties", {}).items():
        if name == "metadata":
            continue
        if not field.get("description"):
            yield f"{path}.{name}"
        yield from undescribed(field, f"{path}.{name}")
        yield from undescribed(field.get("items", {}), f"{path}.{name}")


# -- one agent, one write ---------------------------------------------------------------------------


def test_an_agent_creates_and_updates_with_the_same_write(kubectl: Kubectl) -> None:
    write = ("apply", "--server-side", f"--field-manager={FIELD_MANAGER}", "-f", "-")
    made = node(
        bootID="b", appArmor={"profiles": {"one": "a/enforce/-", "two": "a/enforce/-"}, "problems": {}}
    )
    kubectl.ok(*write, given=made)
    made["status"]["appArmor"]["profiles"] = {"two": "b/enforce/-"}
    kubectl.ok(*write, given=made)
    found = kubectl.ok(
        "get", "profnode", made["metadata"]["name"], "-o", "json", "--show-managed-fields"
    ).object
    assert found["status"]["appArmor"]["profiles"] == {"two": "b/enforce/-"}
    # atomic: its bookkeeping doesn't grow with the number of profiles
    (entry,) = found["metadata"]["managedFields"]
    assert entry["fieldsV1"]["f:status"] == {}


# -- models.py and the schemas agree ----------------------------------------------------------------

SELECTOR = models.NodeSelector(
    match_labels={"zone": "a"},
    match_expressions=[
        models.Requirement(key="kubernetes.io/arch", operator="In", values=["amd64", "arm64"])
    ],
)
SPECS = [
    models.ProfileSpec(
        type="AppArmor",
        app_armor=models.AppArmor(policy="profile demo {}", mode="Complain", allow_attachment=True),
        template=models.Template(values={"folders": {"12": "/srv"}, "list": [1, "two", None, True]}),
        node_selector=SELECTOR,
        suspend=True,
        adopt=True,
    ),
    models.ProfileSpec(
        type="SELinux",
        selinux=models.SELinux(
            policy="(block demo)", mode="Permissive", requires=["base", "more"], allow_host_types=True
        ),
    ),
    models.ProfileSpec(type="Seccomp", seccomp=models.Seccomp(policy="{}")),
]
STATUS = models.ProfileStatus(
    observed_generation=1,
    revision="7c9d1f2ab3",
    reference={
        "appArmorProfile": {"type": "Localhost", "localhostProfile": "demo"},
        "seccompProfile": {"type": "Localhost", "localhostProfile": "hauberk/demo.json"},
        "seLinuxOptions": {"type": "demo.process"},
    },
    profiles=["demo", "demo//child", "A Name (with all)"],
    nodes=models.Counts(
        targeted=21, ready=1, updating=2, failed=3, agent_down=4, unreachable=5, unsupported=6
    ),
    summary=models.Summary(ready="1/21", mode="Enforce", status="NodesFailed", reference="demo"),
    failures=[models.Failure(node="n1", reason="LoadFailed", message="line 3: syntax error")],
    conditions=[
        models.Condition(
            type="Ready",
            status="False",
            reason="NodesFailed",
            message="3 nodes failed",
            observed_generation=1,
            last_transition_time="2026-01-02T03:04:05Z",
        )
    ],
)
REVISION = models.ProfileRevision(
    metadata=models.Metadata(name="crds-model.7c9d1f2ab3", labels={"hauberk-test": "crds"}),
    spec=models.RevisionSpec(
        profile="crds-model",
        profile_uid="4b0f6e9a",
        type="AppArmor",
        contract=3,
        installation="0f1e2d3c",
        content=models.Content(
            digest="7c9d1f2ab3",
            mode="Complain",
            texts=[
                models.Text(id=text_id("a"), text="profile demo {}", names=["demo"]),
                models.Text(
                    id=text_id("b"),
                    facts=["f1", "f2"],
                    text="profile demo { file, }",
                    names=["demo"],
                ),
            ],
            allow_attachment=True,
            allow_host_types=True,
            requires=["base", "more"],
        ),
        unrendered=[models.Unrendered(facts=["a1"], reason="TemplateRefused", message="line 1")],
        placement=models.Placement(
            sequence=2, node_selector=SELECTOR, suspend=True, withdrawn=True, force=True, adopt=True
        ),
    ),
)
TOMBSTONE = models.ProfileRevision(
    metadata=models.Metadata(name="crds-tombstone", labels={"hauberk-test": "crds"}),
    spec=models.RevisionSpec(
        profile="crds-tombstone",
        profile_uid="4b0f6e9a",
        type="AppArmor",
        contract=1,
        placement=models.Placement(sequence=2, withdrawn=True),
    ),
)


def section_of(mode: str) -> models.Section:
    return models.Section(
        profiles={"demo": f"7c9d1f2ab3/{mode}/0123456789"},
        problems={"other": models.Problem(revision="7c9d1f2ab3", reason="LoadFailed", message="line 3")},
        orphans={"lost": models.Orphan(uid="4b0f6e9a", installation="0f1e2d3c")},
        repairs={"demo": models.Repairs(count=2, message="it was removed")},
        remarks=[models.Remark(reason="StateTorn", message="a record was unreadable")],
    )


NODE = models.ProfileNode(
    metadata=models.Metadata(
        name="crds-model",
        labels={"hauberk-test": "crds"},
        owner_references=[models.OwnerReference(api_version="v1", kind="Node", name="crds-model", uid="u")],
    ),
    status=models.NodeStatus(
        boot_id="0f1e2d3c",
        facts=models.Facts(
            os=models.OperatingSystem(id="debian", version="12", like="rhel fedora"),
            kernel="6.1.0",
            arch="x86_64",
            lsms=["lockdown", "apparmor"],
            app_armor=models.AppArmorFacts(
                features=["caps", "namespaces/profile"],
                features_digest="abc",
                enabled=True,
                host_parser="3.0",
            ),
            selinux=models.SELinuxFacts(policy="targeted", mls=True, mode="enforcing"),
            seccomp=True,
            runtime=models.Runtime(name="containerd", version="1.7.24"),
        ),
        summary="1/2, 1 failed",
        app_armor=section_of("enforce"),
        selinux=section_of("enforcing"),
        seccomp=section_of("enforce"),
    ),
)


def left_out(model: object, path: str) -> Iterator[str]:
    """Yield the fields of `model`, and of the models in it, that have their default."""
    if isinstance(model, list | tuple):
        for one in model:
            yield from left_out(one, path)
    elif isinstance(model, dict):
        for one in model.values():
            yield from left_out(one, path)
    elif isinstance(model, msgspec.Struct) and not isinstance(model, models.Metadata | models.OwnerReference):
        for field in msgspec.structs.fields(model):
            value = getattr(model, field.name)
            default = field.default
            if field.default_factory is not msgspec.NODEFAULT:
                default = field.default_factory()
            here = f"{path}.{field.name}"
            if value == default:
                yield here
            else:
                yield from left_out(value, here)


def test_the_examples_below_leave_no_field_out() -> None:
    """So that a new field of a model is tried against the schema, or fails here."""
    blocks = {"spec.app_armor", "spec.selinux", "spec.seccomp"}  # one of them at a time
    common = {"spec.node_selector", "spec.suspend", "spec.adopt", "spec.template"}
    everywhere = {*left_out(SPECS[0], "spec")} & {*left_out(SPECS[1], "spec")} & {*left_out(SPECS[2], "spec")}
    assert everywhere == set()
    assert set(left_out(SPECS[0], "spec")) <= blocks
    assert set(left_out(SPECS[1], "spec")) <= blocks | common
    assert list(left_out(STATUS, "status")) == []
    # the kind, and the key that fits every node
    assert set(left_out(REVISION, "")) == {".api_version", ".kind", ".spec.content.texts.facts"}
    assert set(left_out(NODE, "")) == {".api_version", ".kind"}


@pytest.mark.parametrize("spec", SPECS, ids=[spec.type for spec in SPECS])
def test_a_profile_comes_back_as_it_was(kubectl: Kubectl, spec: models.ProfileSpec) -> None:
    name = stored(kubectl, new("SecurityProfile", models.encode(spec)))
    assert patch_status(kubectl, name, **models.encode(STATUS)) == ""
    found = kubectl.ok("get", "secprof", name, "-o", "json").object
    decoded = models.decode(models.SecurityProfile, found)
    assert decoded.spec == spec
    assert decoded.status == STATUS
    assert decoded.metadata.uid == found["metadata"]["uid"]


@pytest.mark.parametrize(
    "model", [REVISION, TOMBSTONE, NODE], ids=["ProfileRevision", "tombstone", "ProfileNode"]
)
def test_what_hauberk_writes_comes_back_as_it_was(
    kubectl: Kubectl, model: models.ProfileRevision | models.ProfileNode
) -> None:
    kubectl.ok(
        "create", "-f", "-", given={"apiVersion": API_VERSION, "kind": model.kind, **models.encode(model)}
    )
    found = kubectl.ok("get", model.kind.lower(), model.metadata.name, "-o", "json").object
    decoded = models.decode(type(model), found)
    own = msgspec.structs.replace(
        decoded.metadata, uid="", resource_version="", creation_timestamp="", generation=0
    )
    assert msgspec.structs.replace(decoded, metadata=own) == model
