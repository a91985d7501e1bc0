"""Who may do what: the shipped roles and admission policies, tried with real tokens on a real API server.

Each person here is a ServiceAccount that is bound to a role of deploy/; the operator and the agents
are bound as they are shipped, and write through the code that they run. Nothing is asked as an administrator
of the cluster, whom nothing is refused, but to set a scene.
"""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import itertools
import json
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import tenacity
from hauberk.crds import models
from hauberk.crds.errors import ClusterFault
from hauberk.crds.names import (
    AGENT,
    AGENT_SELINUX,
    API_VERSION,
    APPARMOR,
    FINALIZER,
    FORCE_DELETE,
    GATED_FOR,
    GROUP,
    LABEL_AGENT,
    LABEL_GATED,
    LABEL_LSM,
    OPERATOR,
    PENDING_TAINT,
    POD_GATE,
    PROFILE_NODES,
    PROFILE_REVISIONS,
    SECURITY_PROFILES,
    SELINUX,
    VERSION,
)
from hauberk.daemonset.cluster import Cluster as AgentsCluster
from hauberk.operator.operators_cluster import OperatorsCluster
from hauberk.operator.writes import (
    AddFinalizer,
    LabelNode,
    OpenGate,
    PodOf,
    RemoveFinalizer,
    TellOfPod,
    Untaint,
)
from kubernetes import client
from kubernetes.client import ApiException, CustomObjectsApi
from lightkube import AsyncClient

from tests.kube.accounts import SYSTEM, Accounts, Object
from tests.kube.conftest import Kubectl

Change = Callable[[Object], Any]

PLAIN: Object = {"type": "AppArmor", "appArmor": {"policy": "profile demo {}"}}
OTHER_TEXT: Object = {"spec": {"appArmor": {"policy": "profile demo { file, }"}}}

PEOPLE = "default"  # the namespace of the people's accounts
MINE = "hauberk-test=guards"  # the label of what these tests store; deleted when they are over
FORBIDDEN = 403

numbers = itertools.count(1)


# -- objects ----------------------------------------------------------------------------------------


def new(kind: str, name: str = "", **more: Any) -> Object:
    """Return an object of this kind with a name that no other test has."""
    key, _, value = MINE.partition("=")
    metadata = {"name": name or f"guards-{next(numbers)}", "labels": {key: value}}
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, **more}


def profile(*flags: Flag, name: str = "", like: Flag | None = None) -> Object:
    """Return a SecurityProfile with these flags set, of a type that can have the first, or that of `like`."""
    first = next(iter(flags), like)
    made = new("SecurityProfile", name, spec=copy.deepcopy(first.spec if first else PLAIN))
    for flag in flags:
        merge(made, flag.change)
    return made


def merge(into: Object, change: Object) -> None:
    for key, value in change.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = value


@dataclass(frozen=True)
class Flag:
    """What lifts a guard: how it is set and taken away again, its verb, and what the refusal says of it.

    `spec` is that of an object that can have it, `other_text` a change of its policy.
    """

    verb: str
    change: Object
    away: Object
    said: str
    spec: Object = field(default_factory=lambda: PLAIN)
    other_text: Object = field(default_factory=lambda: OTHER_TEXT)

    def of(self, who: str) -> str:
        """Return the refusal to someone who would set it."""
        return self.said.format(who=who)

    def kept_from(self, who: str) -> str:
        """Return the refusal to someone who would change spec while it is set."""
        before, _, _ = self.of(who).rpartition("leave ")
        return before + AS_IT_IS


def refusal(what: str, verb: str, way_out: str) -> str:
    return (
        f'hauberk: {what} needs the verb "{verb}" on securityprofiles.hauberk.dev, which '
        f"system:serviceaccount:{PEOPLE}:{{who}} lacks: ask for the ClusterRole hauberk-admin, or {way_out}"
    )


IN_SPEC = "To set it, or to change spec while it is set (to take it away as well),"
AS_IT_IS = "leave spec as it is"  # the way out where a flag is set already
ADOPT = Flag(
    "adopt",
    {"spec": {"adopt": True}},
    {"spec": {"adopt": False}},
    refusal(
        f"spec.adopt takes over profiles of the host. {IN_SPEC}",
        "adopt",
        "leave spec.adopt out",
    ),
)
ATTACH = Flag(
    "allow-attachment",
    {"spec": {"appArmor": {"allowAttachment": True}}},
    {"spec": {"appArmor": {"allowAttachment": None}}},
    refusal(
        f"spec.appArmor.allowAttachment lets a text confine programs of the host. {IN_SPEC}",
        "allow-attachment",
        "leave spec.appArmor.allowAttachment out",
    ),
)
FORCE = Flag(
    "force-delete",
    {"metadata": {"annotations": {FORCE_DELETE: "true"}}},
    {"metadata": {"annotations": {FORCE_DELETE: None}}},
    refusal(
        f"the annotation {FORCE_DELETE} takes a profile away from processes that run under it. "
        'To set it to "true"',
        "force-delete",
        "leave it out and end those processes: the deletion then completes by itself",
    ),
)
HOST_TYPES = Flag(
    "allow-host-types",
    {"spec": {"selinux": {"allowHostTypes": True}}},
    {"spec": {"selinux": {"allowHostTypes": None}}},
    refusal(
        f"spec.selinux.allowHostTypes lets a module give rights to types of the host. {IN_SPEC}",
        "allow-host-types",
        "leave spec.selinux.allowHostTypes out",
    ),
    {"type": "SELinux", "selinux": {"policy": "(block demo (type process))"}},
    {"spec": {"selinux": {"policy": "(block demo (type process) (type data))"}}},
)
# all that one object can have, by its type
FLAGS = [ADOPT, ATTACH, FORCE]
FLAGS_OF_SELINUX = [HOST_TYPES, FORCE]
EVERY_FLAG = pytest.mark.parametrize("flags", [FLAGS, FLAGS_OF_SELINUX], ids=["AppArmor", "SELinux"])
EACH_FLAG = pytest.mark.parametrize(
    "flag", [*FLAGS, HOST_TYPES], ids=[flag.verb for flag in (*FLAGS, HOST_TYPES)]
)
_IN_SPEC = (ADOPT, ATTACH, HOST_TYPES)
EACH_FLAG_IN_SPEC = pytest.mark.parametrize("flag", _IN_SPEC, ids=[flag.verb for flag in _IN_SPEC])


# -- people, and what they may do at all ------------------------------------------------------------


@dataclass(frozen=True)
class Person:
    """Someone who is known by a name and writes SecurityProfiles, or tries to."""

    name: str
    api: CustomObjectsApi

    def create(self, made: Object, *, dry_run: bool = False) -> str:
        """Create an object and return its name."""
        more: Object = {"dry_run": "All"} if dry_run else {}
        self.api.create_cluster_custom_object(GROUP, VERSION, SECURITY_PROFILES, made, **more)
        return made["metadata"]["name"]

    def patch(self, name: str, change: Object) -> None:
        """Merge a change into an object."""
        self.api.patch_cluster_custom_object(GROUP, VERSION, SECURITY_PROFILES, name, change)

    def delete(self, name: str) -> None:
        self.api.delete_cluster_custom_object(GROUP, VERSION, SECURITY_PROFILES, name)


def message(error: ApiException) -> str:
    return json.loads(error.body or "{}")["message"]


def refused(what: Callable[[], Any]) -> str:
    """Return the words in which the API server forbids something."""
    with pytest.raises(ApiException) as caught:
        what()
    assert caught.value.status == FORBIDDEN, caught.value
    return message(caught.value)


def eventually(what: Callable[[], Any]) -> None:
    """Return when a function does not fail any more: a role or a policy counts soon after it is made."""
    for attempt in tenacity.Retrying(
        # what pytest.raises fails with when nothing was refused yet is no Exception
        retry=tenacity.retry_if_exception_type((Exception, pytest.fail.Exception)),
        stop=tenacity.stop_after_delay(30),
        wait=tenacity.wait_fixed(0.1),
        reraise=True,
    ):
        with attempt:
            what()


# Everyone's name and the role that they are bound to.
BOUND = {
    "viewer": "hauberk-viewer",
    "author": "hauberk-author",
    "admin": "hauberk-admin",
    "wildcard": "cluster-admin",
    "adopter": "guards-adopt",
}
# The last one, which is made here, may adopt in the object of this name alone.
ADOPTED = "guards-adopted"
ROLES: list[Object] = [
    {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "guards-adopt"},
        "rules": [
            {"apiGroups": [GROUP], "resources": [SECURITY_PROFILES], "verbs": ["create", "patch"]},
            {
                "apiGroups": [GROUP],
                "resources": [SECURITY_PROFILES],
                "resourceNames": [ADOPTED],
                "verbs": ["adopt"],
            },
        ],
    }
]


def binding(account: str, role: str) -> Object:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": f"guards-{account}"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": PEOPLE}],
    }


def account(name: str) -> Object:
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": PEOPLE}}


def swept(api: CustomObjectsApi) -> None:
    """Delete what these tests stored, whatever finalizers it has."""
    listed: Any = api.list_cluster_custom_object(GROUP, VERSION, SECURITY_PROFILES, label_selector=MINE)
    for one in listed["items"]:
        name = one["metadata"]["name"]
        change = {"metadata": {"finalizers": None}}
        api.patch_cluster_custom_object(GROUP, VERSION, SECURITY_PROFILES, name, change)
    for plural in (SECURITY_PROFILES, PROFILE_REVISIONS, PROFILE_NODES):
        api.delete_collection_cluster_custom_object(GROUP, VERSION, plural, label_selector=MINE)


@pytest.fixture(scope="module")
def accounts(accounts: Accounts, kubectl: Kubectl, api: CustomObjectsApi) -> Iterator[Accounts]:
    """Put people onto an API server that has all of deploy/."""
    people = [*map(account, BOUND), *itertools.starmap(binding, BOUND.items())]
    made = {"apiVersion": "v1", "kind": "List", "items": ROLES + people}
    kubectl.ok("apply", "-f", "-", given=made)
    yield accounts
    swept(api)


@pytest.fixture(scope="module")
def people(accounts: Accounts) -> dict[str, Person]:
    """Return everyone by name, once roles and policies are in force."""

    def person(name: str) -> Person:
        return Person(name, CustomObjectsApi(accounts.connect(accounts.token(name, PEOPLE))))

    found = {name: person(name) for name in BOUND}
    eventually(lambda: found["viewer"].api.list_cluster_custom_object(GROUP, VERSION, SECURITY_PROFILES))
    for name in BOUND.keys() - {"viewer"}:
        eventually(lambda name=name: found[name].create(profile(), dry_run=True))

    def in_force() -> None:
        assert "hauberk-guarded-flags" in refused(
            lambda: found["author"].create(profile(ADOPT), dry_run=True)
        )

    eventually(in_force)
    return found


@pytest.fixture
def author(people: dict[str, Person]) -> Person:
    return people["author"]


@pytest.fixture
def admin(people: dict[str, Person]) -> Person:
    return people["admin"]


def stored(api: CustomObjectsApi, name: str) -> Object:
    found: Any = api.get_cluster_custom_object(GROUP, VERSION, SECURITY_PROFILES, name)
    return found


# -- flags that lift a guard ------------------------------------------------------------------------


@EACH_FLAG
def test_an_author_may_not_set_it(api: CustomObjectsApi, author: Person, flag: Flag) -> None:
    said = flag.of("author")
    assert refused(lambda: author.create(profile(flag))).endswith(said)

    name = author.create(profile(like=flag))
    before = stored(api, name)
    assert refused(lambda: author.patch(name, flag.change)).endswith(said)
    assert stored(api, name) == before


@EACH_FLAG
@pytest.mark.parametrize("who", ["admin", "wildcard"])
def test_who_has_the_verb_may_set_it(people: dict[str, Person], flag: Flag, who: str) -> None:
    people[who].create(profile(flag))
    people[who].patch(people["author"].create(profile(like=flag)), flag.change)


def test_one_verb_is_for_one_flag_and_for_one_object_if_its_role_says_so(
    people: dict[str, Person], admin: Person
) -> None:
    adopter = people["adopter"]
    adopter.create(profile(ADOPT, name=ADOPTED))
    adopter.patch(ADOPTED, OTHER_TEXT)
    assert refused(lambda: adopter.create(profile(ADOPT))).endswith(ADOPT.of("adopter"))
    for flag in (ATTACH, FORCE):
        assert refused(lambda flag=flag: adopter.patch(ADOPTED, flag.change)).endswith(flag.of("adopter"))
    admin.patch(ADOPTED, ATTACH.change)
    assert refused(lambda: adopter.patch(ADOPTED, ADOPT.away)).endswith(ATTACH.kept_from("adopter"))


@EACH_FLAG_IN_SPEC
@pytest.mark.parametrize(
    "change",
    [None, {"spec": {"nodeSelector": {}}}, {"spec": {"suspend": True}}],
    ids=["text", "selector", "suspend"],
)
def test_an_author_may_not_change_what_stands_under_a_flag(
    author: Person, admin: Person, flag: Flag, change: Object | None
) -> None:
    name = admin.create(profile(flag))
    change = change or flag.other_text
    assert refused(lambda: author.patch(name, change)).endswith(flag.kept_from("author"))
    admin.patch(name, change)


@EACH_FLAG_IN_SPEC
@pytest.mark.parametrize("with_a_text", [False, True], ids=["alone", "with-a-text"])
def test_an_author_may_not_take_a_flag_away(
    api: CustomObjectsApi, author: Person, admin: Person, flag: Flag, *, with_a_text: bool
) -> None:
    """What it let in confines the host's programs still: the text stays that of who was trusted."""
    name = admin.create(profile(flag))
    before = stored(api, name)
    change = copy.deepcopy(flag.away)
    if with_a_text:
        merge(change, flag.other_text)
    assert refused(lambda: author.patch(name, change)).endswith(flag.kept_from("author"))
    assert stored(api, name) == before
    admin.patch(name, change)
    author.patch(name, {"spec": {"suspend": True}})  # theirs again: an admin let go of it


def test_an_author_may_not_replace_the_whole_spec_of_what_has_a_flag(
    api: CustomObjectsApi, author: Person, admin: Person
) -> None:
    name = admin.create(profile(ADOPT))
    made = profile(name=name)
    made["metadata"]["resourceVersion"] = stored(api, name)["metadata"]["resourceVersion"]
    at = (GROUP, VERSION, SECURITY_PROFILES, name)
    said = refused(lambda: author.api.replace_cluster_custom_object(*at, made))
    assert said.endswith(ADOPT.kept_from("author"))


def test_an_author_may_not_swap_one_flag_for_another(author: Person, admin: Person) -> None:
    name = admin.create(profile(ADOPT))
    change = {"spec": {"adopt": False, "appArmor": {"allowAttachment": True}}}
    assert refused(lambda: author.patch(name, change)).endswith(ADOPT.kept_from("author"))


@pytest.mark.parametrize(
    "change",
    [
        {"metadata": {"labels": {"team": "web"}}},
        {"metadata": {"annotations": {"example.com/ticket": "1"}}},
        {"spec": {"suspend": False}},  # as it is: nothing changes
    ],
    ids=["labels", "annotations", "nothing"],
)
@EVERY_FLAG
def test_an_author_may_change_what_is_beside_the_spec(
    author: Person, admin: Person, flags: list[Flag], change: Object
) -> None:
    author.patch(admin.create(profile(*flags)), change)


def test_an_author_may_take_the_annotation_away_and_not_put_it_back(author: Person, admin: Person) -> None:
    name = admin.create(profile(FORCE))
    author.patch(name, OTHER_TEXT)
    author.patch(name, FORCE.away)
    assert refused(lambda: author.patch(name, FORCE.change)).endswith(FORCE.of("author"))


@EVERY_FLAG
def test_an_author_may_delete_what_has_every_flag(
    api: CustomObjectsApi, author: Person, admin: Person, flags: list[Flag]
) -> None:
    name = admin.create(profile(*flags))
    author.delete(name)
    with pytest.raises(ApiException, match="404"):
        stored(api, name)


@pytest.mark.parametrize("value", ["false", "", "yes", "True"])
def test_no_other_value_of_the_annotation_is_looked_at(author: Person, value: str) -> None:
    """None of them does anything."""
    made = profile()
    made["metadata"]["annotations"] = {FORCE_DELETE: value}
    name = author.create(made)
    author.patch(name, {"metadata": {"annotations": {FORCE_DELETE: "false"}}})
    assert refused(lambda: author.patch(name, FORCE.change)).endswith(FORCE.of("author"))


def test_a_name_that_the_server_makes_up_is_asked_about_as_well(author: Person, admin: Person) -> None:
    made = profile(ADOPT)
    del made["metadata"]["name"]
    made["metadata"]["generateName"] = "guards-"
    assert refused(lambda: author.api.create_cluster_custom_object(GROUP, VERSION, SECURITY_PROFILES, made))
    admin.api.create_cluster_custom_object(GROUP, VERSION, SECURITY_PROFILES, made)


def test_what_kubectl_prints(
    accounts: Accounts, people: dict[str, Person], kubectl: Kubectl, tmp_path: Path
) -> None:
    """With kubectl's own ways of writing: apply, and server-side apply."""
    token = accounts.token(people["author"].name, PEOPLE)
    kubeconfig = tmp_path / "author.kubeconfig"
    kubeconfig.write_text(json.dumps(accounts.kubeconfig(token)))
    authors = Kubectl(kubectl.program, kubeconfig, tmp_path / "cache")
    name = authors.ok("create", "-o", "name", "-f", "-", given=profile()).stdout.strip().partition("/")[2]
    for how in ((), ("--server-side", "--force-conflicts")):
        said = authors("apply", *how, "-f", "-", given=profile(FORCE, name=name))
        assert said.code == 1
        assert "(Forbidden)" in said.stderr
        assert said.stderr.rstrip().endswith(FORCE.of("author"))
        authors.ok("apply", *how, "-f", "-", given=profile(name=name))


# -- the operator needs none of the verbs -----------------------------------------------------------


@pytest.fixture
async def operator(accounts: Accounts, people: dict[str, Person]) -> AsyncIterator[OperatorsCluster]:
    """The operator's side of the API, with its ServiceAccount's token."""
    del people  # they are asked for because then the policies are in force
    connection = AsyncClient(config=accounts.config(accounts.token(OPERATOR, SYSTEM)))
    yield OperatorsCluster(connection, SYSTEM)
    await connection.close()


def read(api: CustomObjectsApi, name: str) -> models.SecurityProfile:
    return models.decode(models.SecurityProfile, stored(api, name))


@EVERY_FLAG
async def test_the_operator_does_its_work_on_what_has_every_flag(
    api: CustomObjectsApi, admin: Person, operator: OperatorsCluster, flags: list[Flag]
) -> None:
    name = admin.create(profile(*flags))
    await operator.carry_out(AddFinalizer(read(api, name)))
    assert read(api, name).metadata.finalizers == [FINALIZER]
    await operator.write_status(name, models.ProfileStatus(revision="7c9d1f2ab3"))
    assert read(api, name).status.revision == "7c9d1f2ab3"

    admin.delete(name)
    assert read(api, name).metadata.deletion_timestamp
    await operator.carry_out(RemoveFinalizer(read(api, name)))
    with pytest.raises(ApiException, match="404"):
        read(api, name)


async def test_a_deletion_is_forced_by_who_has_the_verb(
    api: CustomObjectsApi, author: Person, admin: Person, operator: OperatorsCluster
) -> None:
    name = author.create(profile())
    await operator.carry_out(AddFinalizer(read(api, name)))
    author.delete(name)
    assert refused(lambda: author.patch(name, FORCE.change)).endswith(FORCE.of("author"))
    admin.patch(name, FORCE.change)
    assert read(api, name).metadata.annotations[FORCE_DELETE] == "true"
    await operator.carry_out(RemoveFinalizer(read(api, name)))


def test_no_flag_comes_in_with_a_status(accounts: Accounts, api: CustomObjectsApi, author: Person) -> None:
    """The policy does not see writes of the status: the API server takes nothing else from them."""
    name = author.create(profile())
    operators = CustomObjectsApi(accounts.connect(accounts.token(OPERATOR, SYSTEM)))
    change: Object = {"status": {"revision": "7c9d1f2ab3"}}
    for flag in FLAGS:
        merge(change, flag.change)
    operators.patch_cluster_custom_object_status(GROUP, VERSION, SECURITY_PROFILES, name, change)
    found = read(api, name)
    assert found.status.revision == "7c9d1f2ab3"
    assert found.metadata.annotations == {}
    assert found.spec.adopt is False
    assert found.spec.app_armor
    assert found.spec.app_armor.allow_attachment is False


# -- the operator writes its own labels on nodes, and nothing else of them ---------------------------

LABELLED = "guards-labelled"
OWN = {LABEL_LSM[SELINUX]: "true", LABEL_AGENT: "selinux"}
ONLY_LABELS = (
    "hauberk: the operator may write labels of hauberk.dev on a Node, and take its startup taint off, and "
    "nothing else"
)


@pytest.fixture
def labelled(accounts: Accounts) -> Iterator[client.CoreV1Api]:
    """Return the API with the operator's token, and have a node that is labelled; the policy is in force."""
    metadata = client.V1ObjectMeta(
        name=LABELLED,
        labels={"pool": "a", LABEL_LSM[APPARMOR]: "true"},
        annotations={"note": "yes"},
        finalizers=["guards.example.com/kept"],
    )
    accounts.core.create_node(client.V1Node(metadata=metadata))
    # the API server gives new nodes one of its own
    taints = {"taints": [taint(key) for key in ("guards", PENDING_TAINT, "more")]}
    accounts.core.patch_node(LABELLED, merging({"spec": taints}))
    operators = client.CoreV1Api(accounts.connect(accounts.token(OPERATOR, SYSTEM)))

    def in_force() -> None:
        change = {"metadata": {"labels": {"pool": "b"}}}
        assert "hauberk-own-labels-only" in invalid(
            lambda: operators.patch_node(LABELLED, change, dry_run="All")
        )

    eventually(in_force)
    yield operators
    accounts.core.delete_node(LABELLED)
    accounts.core.patch_node(LABELLED, {"metadata": {"finalizers": None}})


def invalid(what: Callable[[], Any]) -> str:
    """Return the words in which an admission policy refuses something."""
    with pytest.raises(ApiException) as caught:
        what()
    assert caught.value.status in (FORBIDDEN, 422), caught.value
    return message(caught.value)


async def test_the_operator_sets_its_own_labels_and_takes_them_away(
    labelled: client.CoreV1Api, operator: OperatorsCluster
) -> None:
    assert await operator.carry_out(LabelNode(LABELLED, {**OWN, LABEL_LSM[APPARMOR]: None}))
    found: Any = labelled.read_node(LABELLED)
    assert found.metadata.labels == {"pool": "a", **OWN}
    assert await operator.carry_out(LabelNode(LABELLED, dict.fromkeys(OWN)))
    found = labelled.read_node(LABELLED)
    assert found.metadata.labels == {"pool": "a"}
    assert found.metadata.annotations == {"note": "yes"}


async def test_the_operator_takes_the_startup_taint_off(
    labelled: client.CoreV1Api, operator: OperatorsCluster
) -> None:
    for _ in range(2):
        assert await operator.carry_out(Untaint(LABELLED))
        found: Any = labelled.read_node(LABELLED)
        assert [one.key for one in found.spec.taints] == ["guards", "more"]
    back = {"spec": {"taints": [taint("guards"), taint("more"), taint(PENDING_TAINT)]}}
    assert invalid(lambda: labelled.patch_node(LABELLED, merging(back))).endswith(ONLY_LABELS)
    assert await operator.carry_out(Untaint("guards-nowhere"))


def taint(key: str, effect: str = "NoSchedule") -> Object:
    return {"key": key, "effect": effect}


def merging(change: Object) -> list[Object]:
    """Return a change of a node's spec as a JSON patch, which replaces lists."""
    return [{"op": "add", "path": f"/spec/{key}", "value": value} for key, value in change["spec"].items()]


@pytest.mark.parametrize(
    "taints",
    [
        [],
        [taint("guards"), taint("more"), taint("yet-another")],
        [taint("guards"), taint(PENDING_TAINT)],
        [taint("guards")],
        [taint("guards", "NoExecute"), taint("more")],
        [taint("guards"), taint(PENDING_TAINT, "NoExecute"), taint("more")],
        [taint("guards"), taint(PENDING_TAINT), taint("more"), taint(PENDING_TAINT, "NoExecute")],
    ],
    ids=json.dumps,
)
def test_the_operator_touches_no_other_taint(
    labelled: client.CoreV1Api, accounts: Accounts, taints: list[Object]
) -> None:
    change = merging({"spec": {"taints": taints}})
    assert invalid(lambda: labelled.patch_node(LABELLED, change)).endswith(ONLY_LABELS)
    accounts.core.patch_node(LABELLED, change, dry_run="All")  # it is not that nobody may


async def test_a_node_that_is_gone_needs_no_label(operator: OperatorsCluster) -> None:
    assert await operator.carry_out(LabelNode("guards-nowhere", dict(OWN)))


@pytest.mark.parametrize(
    "change",
    [
        {"metadata": {"labels": {"pool": "b"}}},
        {"metadata": {"labels": {"pool": None}}},
        {"metadata": {"labels": {"more": ""}}},
        {"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}}},
        {"metadata": {"labels": {"hauberk.dev.example.com/x": "true"}}},
        {"metadata": {"labels": {"hauberk.dev": "true"}}},
        {"metadata": {"labels": {**OWN, "more": ""}}},
        {"metadata": {"annotations": {"note": "no"}}},
        {"metadata": {"annotations": {"note": None}}},
        {"metadata": {"annotations": {"hauberk.dev/note": "yes"}}},
        {"metadata": {"finalizers": None}},
        {"metadata": {"finalizers": ["hauberk.dev/profile", "guards.example.com/kept"]}},
        {"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "x", "uid": "u"}]}},
        {"spec": {"unschedulable": True}},
        {"spec": {"taints": None}},
        {"spec": {"taints": [{"key": "more", "effect": "NoExecute"}]}},
        {"spec": {"podCIDR": "10.0.0.0/24"}},
        {"spec": {"providerID": "x"}},
    ],
    ids=json.dumps,
)
def test_the_operator_changes_nothing_else_of_a_node(
    labelled: client.CoreV1Api, accounts: Accounts, change: Object
) -> None:
    before: Any = accounts.core.read_node(LABELLED)
    assert invalid(lambda: labelled.patch_node(LABELLED, change)).endswith(ONLY_LABELS)
    after: Any = accounts.core.read_node(LABELLED)
    assert after == before
    accounts.core.patch_node(LABELLED, change, dry_run="All")  # it is not that nobody may


def test_the_operator_has_no_other_way_to_a_node(accounts: Accounts, labelled: client.CoreV1Api) -> None:
    assert labelled.read_node(LABELLED)
    token = accounts.token(OPERATOR, SYSTEM)
    asked = [
        ("PATCH", f"/api/v1/nodes/{LABELLED}/status"),
        ("PUT", f"/api/v1/nodes/{LABELLED}"),
        ("DELETE", f"/api/v1/nodes/{LABELLED}"),
        ("POST", "/api/v1/nodes"),
        ("GET", f"/api/v1/nodes/{LABELLED}/proxy/"),
    ]
    assert {one: accounts.ask(token, *one) for one in asked} == dict.fromkeys(asked, FORBIDDEN)


# -- the operator opens its own gate, and changes nothing else of a pod -------------------------------

GATED = "guards-gated"
OTHERS_GATE = "example.com/quota"
ONLY_GATE = (
    "hauberk: the operator may take its own scheduling gate and label off a Pod and change nothing else of it"
)


# What the API server gives every pod; these can't be taken away by anyone.
TOLERATED = [
    {
        "key": f"node.kubernetes.io/{key}",
        "operator": "Exists",
        "effect": "NoExecute",
        "tolerationSeconds": 300,
    }
    for key in ("not-ready", "unreachable")
]


def without(gate: str) -> Object:
    return {"spec": {"schedulingGates": [{"$patch": "delete", "name": gate}]}}


@pytest.fixture
def gated(accounts: Accounts) -> Iterator[client.CoreV1Api]:
    """Return the API with the operator's token, and have a pod with its gate; the policy is in force."""
    accounts.core.create_namespaced_service_account(
        PEOPLE, client.V1ServiceAccount(metadata=client.V1ObjectMeta(name=GATED))
    )
    container = client.V1Container(name="c", image="good")
    pod = client.V1Pod(
        metadata=client.V1ObjectMeta(
            name=GATED,
            labels={"app": "web", LABEL_GATED: "true"},
            annotations={"note": "yes", GATED_FOR: "web"},
        ),
        spec=client.V1PodSpec(
            service_account_name=GATED,
            automount_service_account_token=False,
            containers=[container],
            init_containers=[client.V1Container(name="i", image="good")],
            scheduling_gates=[client.V1PodSchedulingGate(name=one) for one in (OTHERS_GATE, POD_GATE)],
        ),
    )
    accounts.core.create_namespaced_pod(PEOPLE, pod)
    operators = client.CoreV1Api(accounts.connect(accounts.token(OPERATOR, SYSTEM)))

    def in_force() -> None:
        change = {"metadata": {"labels": {"app": "other"}}}
        assert "hauberk-own-gate-only" in invalid(
            lambda: operators.patch_namespaced_pod(GATED, PEOPLE, change, dry_run="All")
        )

    eventually(in_force)
    yield operators
    accounts.core.patch_namespaced_pod(GATED, PEOPLE, {"metadata": {"finalizers": None}})
    accounts.core.delete_namespaced_pod(GATED, PEOPLE, grace_period_seconds=0)
    accounts.core.delete_namespaced_service_account(GATED, PEOPLE)


async def test_the_operator_opens_its_own_gate(
    gated: client.CoreV1Api, operator: OperatorsCluster, accounts: Accounts
) -> None:
    before: Any = accounts.core.read_namespaced_pod(GATED, PEOPLE)
    other = OpenGate(PodOf(PEOPLE, GATED, "00000000-0000-0000-0000-000000000000"))
    assert await operator.carry_out(other)  # the one that is meant is gone, and this one is another
    assert accounts.core.read_namespaced_pod(GATED, PEOPLE) == before
    assert await operator.carry_out(OpenGate(PodOf(PEOPLE, GATED, before.metadata.uid)))
    after: Any = accounts.core.read_namespaced_pod(GATED, PEOPLE)
    assert [one.name for one in after.spec.scheduling_gates] == [OTHERS_GATE]
    assert after.metadata.labels == {"app": "web"}
    assert after.metadata.annotations == before.metadata.annotations
    assert after.spec.containers == before.spec.containers
    again = {"spec": {"schedulingGates": [{"name": POD_GATE}]}}
    assert "schedulingGates" in invalid(lambda: gated.patch_namespaced_pod(GATED, PEOPLE, again))
    assert await operator.carry_out(OpenGate(PodOf(PEOPLE, GATED, before.metadata.uid)))  # it is open


async def test_a_pod_that_is_gone_needs_no_gate_opened(operator: OperatorsCluster) -> None:
    assert await operator.carry_out(OpenGate(PodOf(PEOPLE, "guards-nowhere", "u")))


async def test_an_event_on_a_pod_is_recorded_once(
    gated: client.CoreV1Api, operator: OperatorsCluster, accounts: Accounts
) -> None:
    """Also by an operator that does not know what another one told."""
    pod: Any = accounts.core.read_namespaced_pod(GATED, PEOPLE)
    assert gated
    told = TellOfPod(PodOf(PEOPLE, GATED, pod.metadata.uid), "Gated", "waits", ("web Updating",))
    for write in (told, told, dataclasses.replace(told, about=("web PolicyRefused",))):
        assert await operator.carry_out(write)
    about = f"involvedObject.uid={pod.metadata.uid}"
    events: Any = accounts.core.list_namespaced_event(PEOPLE, field_selector=about)
    assert [(one.reason, one.message) for one in events.items] == [("Gated", "waits")] * 2


@pytest.mark.parametrize(
    "change",
    [
        {"metadata": {"labels": {"app": "other"}}},
        {"metadata": {"labels": {"app": None}}},
        {"metadata": {"labels": {"more": ""}}},
        {"metadata": {"labels": {"hauberk.dev/more": ""}}},
        {"metadata": {"labels": {LABEL_GATED: "false"}}},
        {"metadata": {"annotations": {"note": "no"}}},
        {"metadata": {"annotations": {"note": None}}},
        {"metadata": {"annotations": {GATED_FOR: None}}},
        {"metadata": {"finalizers": ["hauberk.dev/profile"]}},
        {"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "x", "uid": "u"}]}},
        {"spec": {"containers": [{"name": "c", "image": "evil"}]}},
        {"spec": {"initContainers": [{"name": "i", "image": "evil"}]}},
        {"spec": {"tolerations": [*TOLERATED, {"key": "more", "operator": "Exists"}]}},
        {"spec": {"activeDeadlineSeconds": 1}},
        {"spec": {"nodeSelector": {"pool": "a"}}},
        {
            "spec": {
                "affinity": {
                    "nodeAffinity": {
                        "requiredDuringSchedulingIgnoredDuringExecution": {
                            "nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "Exists"}]}]
                        }
                    }
                }
            }
        },
        without(OTHERS_GATE),
        {"spec": {"schedulingGates": None}},
        {**without(POD_GATE), "metadata": {"labels": {LABEL_GATED: None, "app": "other"}}},
        {"spec": {**without(POD_GATE)["spec"], "containers": [{"name": "c", "image": "evil"}]}},
    ],
    ids=json.dumps,
)
def test_the_operator_changes_nothing_else_of_a_pod(
    gated: client.CoreV1Api, accounts: Accounts, change: Object
) -> None:
    before: Any = accounts.core.read_namespaced_pod(GATED, PEOPLE)
    assert invalid(lambda: gated.patch_namespaced_pod(GATED, PEOPLE, change)).endswith(ONLY_GATE)
    after: Any = accounts.core.read_namespaced_pod(GATED, PEOPLE)
    assert after == before
    accounts.core.patch_namespaced_pod(GATED, PEOPLE, change, dry_run="All")  # it is not that nobody may


def test_the_operator_has_no_other_way_to_a_pod(accounts: Accounts, gated: client.CoreV1Api) -> None:
    assert gated
    token = accounts.token(OPERATOR, SYSTEM)
    one = f"/api/v1/namespaces/{PEOPLE}/pods/{GATED}"
    asked = [
        *(("POST", f"{one}/{what}") for what in ("binding", "eviction", "exec", "attach")),
        *(("PATCH", f"{one}/{what}") for what in ("status", "ephemeralcontainers", "resize")),
        ("GET", f"{one}/log"),
        ("PUT", one),
        ("DELETE", one),
        ("POST", f"/api/v1/namespaces/{PEOPLE}/pods"),
        ("DELETE", f"/api/v1/namespaces/{PEOPLE}/pods"),
        ("POST", "/api/v1/namespaces"),
        ("PATCH", f"/api/v1/namespaces/{PEOPLE}"),
        ("DELETE", f"/api/v1/namespaces/{PEOPLE}/events"),
    ]
    assert {one: accounts.ask(token, *one) for one in asked} == dict.fromkeys(asked, FORBIDDEN)


# -- the other roles --------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["viewer", "author", "admin"])
@pytest.mark.parametrize("plural", [SECURITY_PROFILES, PROFILE_REVISIONS, PROFILE_NODES])
def test_people_read_everything_and_write_securityprofiles(
    people: dict[str, Person], who: str, plural: str
) -> None:
    custom, at = people[who].api, (GROUP, VERSION, plural)
    custom.list_cluster_custom_object(*at)
    if plural == SECURITY_PROFILES and who != "viewer":
        people[who].create(profile(name=f"guards-by-{who}"))
        people[who].patch(f"guards-by-{who}", OTHER_TEXT)
        people[who].delete(f"guards-by-{who}")
    else:
        refused(lambda: custom.create_cluster_custom_object(*at, {}))
        refused(lambda: custom.patch_cluster_custom_object(*at, "guards", {}))
        refused(lambda: custom.delete_cluster_custom_object(*at, "guards"))
    if plural == SECURITY_PROFILES:
        refused(lambda: custom.patch_cluster_custom_object_status(*at, "guards", {}))


# -- an agent writes its own node's report, and nothing else ----------------------------------------


@dataclass(frozen=True)
class Agent:
    """An agent of a node that somebody took: its token, and the code that it runs."""

    node: str
    token: str
    cluster: AgentsCluster

    async def report(self, node: str) -> None:
        """Write a node's report as the agent does."""
        key, _, value = MINE.partition("=")
        await self.cluster.write(
            models.ProfileNode(
                metadata=models.Metadata(name=node, labels={key: value}),
                status=models.NodeStatus(boot_id="b", app_armor=models.Section()),
            )
        )


NODES = ("guards-one", "guards-two")


def pod_name(node: str) -> str:
    return f"agent-of-{node or 'none'}"


@pytest.fixture(scope="module")
def pods(accounts: Accounts) -> Iterator[dict[str, client.V1Pod]]:
    """Return a pod of the agent's account by its node's name; the one of no node is not scheduled yet."""
    core, found = accounts.core, dict[str, client.V1Pod]()
    for node in NODES:
        core.create_node(client.V1Node(metadata=client.V1ObjectMeta(name=node)))
    for node in ("", *NODES):
        spec = client.V1PodSpec(
            node_name=node or None,
            service_account_name=AGENT,
            containers=[client.V1Container(name="agent", image="none")],
        )
        pod = client.V1Pod(metadata=client.V1ObjectMeta(name=pod_name(node)), spec=spec)
        made: Any = core.create_namespaced_pod(SYSTEM, pod)
        found[node] = made
    yield found
    for node in found:
        core.delete_namespaced_pod(pod_name(node), SYSTEM, grace_period_seconds=0)
    for node in NODES:
        core.delete_node(node)


@pytest.fixture
async def agent(accounts: Accounts, pods: dict[str, client.V1Pod]) -> AsyncIterator[Agent]:
    """The agent of the first node, once its role and the policy on it are in force."""
    node = NODES[0]
    token = accounts.token(AGENT, SYSTEM, pods[node])
    connection = accounts.agents_api(token)
    made = Agent(node, token, AgentsCluster(connection, node, SYSTEM))
    async for attempt in tenacity.AsyncRetrying(
        stop=tenacity.stop_after_delay(30), wait=tenacity.wait_fixed(0.1), reraise=True
    ):
        with attempt:
            with pytest.raises(ClusterFault, match="may not write the ProfileNode"):
                await made.report("guards-nowhere")
            await made.report(node)
    yield made
    await connection.close()


async def test_an_agent_writes_its_own_nodes_report(agent: Agent, accounts: Accounts) -> None:
    await agent.report(agent.node)
    custom = CustomObjectsApi(accounts.connect(agent.token))
    found: Any = custom.get_cluster_custom_object(GROUP, VERSION, PROFILE_NODES, agent.node)
    assert found["status"]["bootID"] == "b"


@pytest.mark.parametrize("there", [False, True], ids=["not-there-yet", "there"])
async def test_an_agent_does_not_write_another_nodes_report(
    agent: Agent, api: CustomObjectsApi, *, there: bool
) -> None:
    other = NODES[1]
    if there:
        made = new("ProfileNode", other, status={"bootID": "others"})
        api.create_cluster_custom_object(GROUP, VERSION, PROFILE_NODES, made)
    said = f"hauberk: the agent of node '{agent.node}' may not write the ProfileNode of '{other}'"
    with pytest.raises(ClusterFault, match=said):
        await agent.report(other)
    if there:
        found: Any = api.get_cluster_custom_object(GROUP, VERSION, PROFILE_NODES, other)
        assert found["status"]["bootID"] == "others"


@pytest.mark.parametrize("bound", [False, True], ids=["to-nothing", "to-a-pod-without-a-node"])
async def test_a_token_of_no_node_writes_no_report(
    accounts: Accounts, agent: Agent, pods: dict[str, client.V1Pod], *, bound: bool
) -> None:
    token = accounts.token(AGENT, SYSTEM, pods[""] if bound else None)
    custom = CustomObjectsApi(accounts.connect(token))
    made = new("ProfileNode", agent.node)
    with pytest.raises(ApiException) as caught:
        custom.patch_cluster_custom_object(GROUP, VERSION, PROFILE_NODES, agent.node, made)
    said = f"hauberk: the agent of node '' may not write the ProfileNode of '{agent.node}'"
    assert message(caught.value).endswith(said)


OURS = f"/apis/{GROUP}/{VERSION}"
# Everything that would be worth having to who took a node, as requests.
ASKED = [
    *(
        (method, f"{OURS}/{plural}{path}")
        for plural in (PROFILE_REVISIONS, SECURITY_PROFILES)
        for method, path in (
            ("POST", ""),
            ("DELETE", ""),
            ("GET", "/guards"),
            ("PUT", "/guards"),
            ("PATCH", "/guards"),
            ("DELETE", "/guards"),
        )
    ),
    ("GET", f"{OURS}/{SECURITY_PROFILES}"),
    ("PATCH", f"{OURS}/{SECURITY_PROFILES}/guards/status"),
    ("GET", f"{OURS}/{PROFILE_NODES}"),
    ("PUT", f"{OURS}/{PROFILE_NODES}/{NODES[0]}"),
    ("DELETE", f"{OURS}/{PROFILE_NODES}/{NODES[0]}"),
    ("DELETE", f"{OURS}/{PROFILE_NODES}/{NODES[1]}"),
    ("DELETE", f"{OURS}/{PROFILE_NODES}"),
    ("GET", "/api/v1/secrets"),
    ("GET", f"/api/v1/namespaces/{SYSTEM}/secrets"),
    ("GET", f"/api/v1/namespaces/{SYSTEM}/pods/any"),
    ("DELETE", f"/api/v1/namespaces/{SYSTEM}/pods/any"),
    ("POST", f"/api/v1/namespaces/{SYSTEM}/pods"),
    ("POST", f"/api/v1/namespaces/{SYSTEM}/serviceaccounts/{OPERATOR}/token"),
    ("POST", "/api/v1/namespaces/default/events"),
    ("GET", f"/api/v1/nodes/{NODES[0]}"),
    ("PATCH", f"/api/v1/nodes/{NODES[0]}"),
    ("DELETE", f"/api/v1/nodes/{NODES[0]}"),
    ("GET", f"/apis/apps/v1/namespaces/{SYSTEM}/daemonsets"),
    ("GET", f"/apis/apps/v1/namespaces/{SYSTEM}/daemonsets/any"),
    ("GET", f"/apis/apps/v1/namespaces/default/daemonsets/{AGENT}"),
    ("GET", f"/apis/apps/v1/namespaces/{SYSTEM}/deployments/{OPERATOR}"),
    ("PATCH", f"/apis/apps/v1/namespaces/{SYSTEM}/daemonsets/{AGENT}"),
    ("PATCH", f"/apis/apps/v1/namespaces/{SYSTEM}/daemonsets/{AGENT_SELINUX}"),
]


def test_an_agent_may_nothing_else(agent: Agent, accounts: Accounts) -> None:
    for path in (f"{OURS}/{PROFILE_REVISIONS}", f"{OURS}/{PROFILE_NODES}/{agent.node}", "/api/v1/nodes"):
        assert accounts.ask(agent.token, "GET", path) == 200  # the token is good for these
    answers = {request: accounts.ask(agent.token, *request) for request in ASKED}
    assert answers == dict.fromkeys(ASKED, FORBIDDEN)


async def test_a_report_waits_for_no_watch_that_is_silent(agent: Agent) -> None:
    """The three once shared a connection, on which a report's answer waited for the next bookmark."""
    heard: list[object] = []
    following = [
        asyncio.create_task(agent.cluster.follow_revisions(heard.append, lambda _name, _revision: None)),
        asyncio.create_task(agent.cluster.follow_node(heard.append)),
    ]
    try:
        async with asyncio.timeout(20):
            while len(heard) < len(following):  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)  # both watches are there
        for _ in range(100):
            async with asyncio.timeout(5):
                await agent.report(agent.node)
    finally:
        for task in following:
            task.cancel()
        await asyncio.gather(*following, return_exceptions=True)


async def test_an_agent_counts_the_nodes_that_have_one(agent: Agent, accounts: Accounts) -> None:
    apps = client.AppsV1Api(accounts.core.api_client)
    assert await agent.cluster.agents() == 0  # of DaemonSets that are not made yet
    try:
        for name, nodes in ((AGENT, 700), (AGENT_SELINUX, 300)):
            scheduled(apps, name, nodes)
        assert await agent.cluster.agents() == 1000
    finally:
        apps.delete_collection_namespaced_daemon_set(SYSTEM, label_selector=MINE)


def scheduled(apps: client.AppsV1Api, name: str, nodes: int) -> None:
    """Make a DaemonSet that should have a pod on so many nodes."""
    key, _, value = MINE.partition("=")
    pod = {"containers": [{"name": "agent", "image": "none"}]}
    template = {"metadata": {"labels": {key: value}}, "spec": pod}
    spec = {"selector": {"matchLabels": {key: value}}, "template": template}
    made: Any = {"metadata": {"name": name, "labels": {key: value}}, "spec": spec}
    apps.create_namespaced_daemon_set(SYSTEM, made)
    counts = {"currentNumberScheduled": 0, "numberMisscheduled": 0, "numberReady": 0}
    status = {"status": counts | {"desiredNumberScheduled": nodes}}
    apps.patch_namespaced_daemon_set_status(name, SYSTEM, status)
