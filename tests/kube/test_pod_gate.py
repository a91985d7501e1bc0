"""The gate on pods, with a real API server that asks the admission: who waits, how long, who does not.

No scheduler runs here, and no agent: the tests write the nodes' reports. What they look at are the gates.
"""

from __future__ import annotations

import base64
import itertools
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import yaml
from hauberk.crds.names import (
    APPARMOR,
    GATED_FOR,
    LABEL_GATED,
    LABEL_LSM,
    LABEL_POD_GATE,
    LABEL_UNKNOWN_PROFILE,
    POD_GATE,
    POD_GATE_WEBHOOK,
)
from kubernetes import client

from tests.kube.conftest import DEPLOY, Kubectl, Said, authority
from tests.kube.operating import Cluster, eventually, publish
from tests.kube.test_metrics import told

numbers = itertools.count(1)

ENABLED = {LABEL_POD_GATE: "enabled"}
DENIED = {**ENABLED, LABEL_UNKNOWN_PROFILE: "deny"}
CONFIGURATION = f"mutatingwebhookconfiguration/{POD_GATE_WEBHOOK}"
FILTER = '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]}'


class Scene:
    """The cluster, whose API server asks the admission about pods, and namespaces in it."""

    def __init__(self, cluster: Cluster, kubectl: Kubectl) -> None:
        self.cluster, self.kubectl, self.core = cluster, kubectl, cluster.core
        self.namespaces: list[str] = []

    def namespace(self, labels: dict[str, str]) -> str:
        name = f"gate-{next(numbers)}"
        self.core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=name, labels=labels)))
        # what the controller manager would make
        account = client.V1ServiceAccount(metadata=client.V1ObjectMeta(name="default"))
        self.core.create_namespaced_service_account(name, account)
        self.namespaces.append(name)
        return name

    def create(self, namespace: str, name: str, context: dict[str, Any] | None = None, **more: Any) -> Said:
        """Create a pod as people do; `context` is its container's."""
        return self.kubectl("create", "-f", "-", given=pod(namespace, name, context, **more))

    def read(self, namespace: str, name: str) -> Any:
        return self.core.read_namespaced_pod(name, namespace)

    def gates(self, namespace: str, name: str) -> list[str]:
        return [one.name for one in self.read(namespace, name).spec.scheduling_gates or []]

    def events(self, namespace: str, name: str) -> list[Any]:
        listed: Any = self.core.list_namespaced_event(namespace, field_selector=f"involvedObject.name={name}")
        return listed.items

    def clear(self) -> None:
        for namespace in self.namespaces:
            self.core.delete_collection_namespaced_pod(namespace, grace_period_seconds=0)
            self.core.delete_namespace(namespace)


def pod(namespace: str, name: str, context: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace, **more.pop("metadata", {})}
    container = {"name": "c", "image": "none", "securityContext": context or {}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"automountServiceAccountToken": False, "containers": [container], **more},
    }


def apparmor(name: str) -> dict[str, Any]:
    return {"appArmorProfile": {"type": "Localhost", "localhostProfile": name}}


def seccomp(name: str) -> dict[str, Any]:
    return {"seccompProfile": {"type": "Localhost", "localhostProfile": f"hauberk/{name}.json"}}


@pytest.fixture
def gate(cluster: Cluster, kubectl: Kubectl) -> Iterator[Scene]:
    """The API server asks the admission about pods, at an address of this machine's loopback."""
    (shipped,) = yaml.safe_load_all((DEPLOY / "operator" / "pod-gate.yaml").read_text())
    for one in shipped["webhooks"]:
        path = one["clientConfig"]["service"]["path"]
        one["clientConfig"] = {"url": f"https://localhost:{cluster.port}{path}"}
    kubectl.ok("apply", "-f", "-", given=shipped)
    made = Scene(cluster, kubectl)
    probed = made.namespace(DENIED)
    # until the operator has set the bundle, and the API server has seen the configuration
    eventually(lambda: "no SecurityProfile" in made.create(probed, "probe", seccomp("none")).stderr)
    yield made
    kubectl.ok("delete", CONFIGURATION)
    made.clear()


def verified(cluster: Cluster, name: str) -> None:
    """Report a profile as loaded from one node of two."""
    digest = eventually(lambda: cluster.revisions(name))[0]["spec"]["content"]["digest"]
    cluster.report("one", **{name.replace("-", "_"): digest})


def test_the_operator_has_the_api_server_trust_the_gate(gate: Scene):
    found: Any = client.AdmissionregistrationV1Api(gate.core.api_client)
    webhooks = found.read_mutating_webhook_configuration(POD_GATE_WEBHOOK).webhooks
    bundles = {base64.b64decode(one.client_config.ca_bundle).decode() for one in webhooks}
    assert bundles == {authority(gate.cluster)}
    assert len(webhooks) == 2


def test_what_becomes_of_pods_is_counted(gate: Scene):
    cluster = gate.cluster

    def answers(verdict: str) -> float:
        return told(cluster, "admission", "webhook_answers_total", kind="Pod", verdict=verdict)

    def seen(name: str, **labels: str) -> float:
        return told(cluster, "main", name, **labels)

    space = gate.namespace(ENABLED)
    cluster.apply("counted")
    eventually(lambda: cluster.revisions("counted"))
    changed, warned = answers("changed"), answers("warned")
    opened, waiting = seen("gates_opened_total"), seen("gated_pods")
    assert gate.create(space, "web", apparmor("counted")).code == 0
    assert gate.create(space, "other", seccomp("nobody")).code == 0
    assert (answers("changed"), answers("warned")) == (changed + 1, warned + 1)
    assert told(cluster, "admission", "webhook_duration_seconds_count", kind="Pod") >= 2
    eventually(lambda: seen("gated_pods") == waiting + 1)
    verified(cluster, "counted")
    eventually(lambda: seen("gates_opened_total") == opened + 1)
    assert seen("gated_pods") == waiting
    of_writes = {"component": "operator", "result": "done"}
    assert seen("api_writes_total", kind="Pod", **of_writes) >= 1
    assert seen("api_writes_total", kind="MutatingWebhookConfiguration", **of_writes) >= 1


def test_pod_and_profile_in_one_file(gate: Scene, kubectl: Kubectl):
    """The gate is there from the first moment, and goes once one node holds the profile."""
    space = gate.namespace(ENABLED)
    profile = {
        "apiVersion": "hauberk.dev/v1alpha1",
        "kind": "SecurityProfile",
        "metadata": {"name": "together"},
        "spec": {"type": "AppArmor", "appArmor": {"policy": "profile together-web { file, }"}},
    }
    both = [profile, pod(space, "web", apparmor("together-web"), metadata={"labels": {"app": "web"}})]
    said = kubectl.ok("apply", "-f", "-", given=yaml.safe_dump_all(both))
    assert "Warning: the pod is not scheduled before a node holds SecurityProfile together" in said.stderr
    made = gate.read(space, "web")
    assert [one.name for one in made.spec.scheduling_gates] == [POD_GATE]
    assert made.metadata.labels == {"app": "web", LABEL_GATED: "true"}
    assert made.metadata.annotations[GATED_FOR] == "together"
    condition = made.status.conditions[0]
    assert (condition.type, condition.reason) == ("PodScheduled", "SchedulingGated")

    # it waits, and says so
    (event,) = eventually(lambda: gate.events(space, "web"))
    assert (event.reason, event.type) == ("Gated", "Normal")
    assert event.message.startswith("waits for together: together: Updating: ")
    assert gate.gates(space, "web") == [POD_GATE]

    verified(gate.cluster, "together")
    eventually(lambda: gate.gates(space, "web") == [])
    opened = gate.read(space, "web")
    assert opened.metadata.labels == {"app": "web"}
    assert gate.cluster.ready("together") == ("False", "Updating")  # one node is enough
    assert len(gate.events(space, "web")) == 1
    # and whoever comes later does not wait
    assert gate.create(space, "later", apparmor("together-web")).stderr == ""
    assert gate.gates(space, "later") == []


def test_a_pod_that_comes_a_moment_before_its_profile_is_gated_all_the_same(gate: Scene):
    """Helm and kustomize apply Deployments before kinds that they don't know."""
    space = gate.namespace(DENIED)

    def gated_though_early(name: str) -> bool:
        with ThreadPoolExecutor() as pool:
            making = pool.submit(gate.create, space, name, apparmor(name))
            gate.cluster.apply(name)
            assert making.result().code == 0
        # let through: on a busy machine the profile may come later than a pod is waited for
        if gate.gates(space, name) != [POD_GATE]:
            return False
        assert gate.read(space, name).metadata.annotations[GATED_FOR] == name
        verified(gate.cluster, name)
        eventually(lambda: gate.gates(space, name) == [])
        return True

    assert any(gated_though_early(f"early{attempt}") for attempt in range(5))


def test_other_namespaces_and_other_pods_are_left_alone(gate: Scene):
    gate.cluster.apply("waits")
    off, on = gate.namespace({}), gate.namespace(ENABLED)
    eventually(lambda: gate.cluster.revisions("waits"))
    pods = {
        "elsewhere": pod(off, "elsewhere", apparmor("waits")),
        "unknown": pod(off, "unknown", seccomp("nobodys")),
        "names-none": pod(on, "names-none"),
        "runtimes": pod(on, "runtimes", {"appArmorProfile": {"type": "RuntimeDefault"}}),
        "distributions": pod(on, "distributions", {"seLinuxOptions": {"type": "container_t"}}),
        "on-its-node": pod(on, "on-its-node", apparmor("waits"), nodeName="one"),
        "nodes": pod(on, "nodes", apparmor("a-profile-of-the-nodes-own")),
    }
    for name, made in pods.items():
        assert gate.kubectl.ok("create", "-f", "-", given=made).stderr == ""
        space = made["metadata"]["namespace"]
        assert gate.gates(space, name) == []
        assert LABEL_GATED not in (gate.read(space, name).metadata.labels or {})
    # and what can't be ours is not even asked about: most pods cost nothing
    log = gate.cluster.admission_log.read_text()
    assert {name for name in pods if f'"name": "{name}"' in log} == {"nodes"}


@pytest.mark.parametrize("where", ["field", "pod", "init", "annotation", "seccomp"])
def test_wherever_a_profile_is_named_the_pod_waits(gate: Scene, where: str):
    space = gate.namespace(ENABLED)
    if where == "seccomp":
        filtered: Any = {"type": "Seccomp", "seccomp": {"policy": FILTER}}
        gate.cluster.apply("filter", **filtered, appArmor=None)
    else:
        gate.cluster.apply("named")
    pods = {
        "field": pod(space, "web", apparmor("named")),
        "pod": pod(space, "web", securityContext=apparmor("named")),
        "init": pod(
            space,
            "web",
            initContainers=[{"name": "i", "image": "none", "securityContext": apparmor("named")}],
        ),
        "annotation": pod(
            space,
            "web",
            metadata={"annotations": {"container.apparmor.security.beta.kubernetes.io/c": "localhost/named"}},
        ),
        "seccomp": pod(space, "web", seccomp("filter")),
    }
    # another replica might have seen the profile a moment later; here it is waited for
    eventually(lambda: gate.cluster.revisions("filter" if where == "seccomp" else "named"))
    gate.kubectl.ok("create", "-f", "-", given=pods[where])
    if where == "seccomp":  # no node takes filters here, so none is targeted: pods must not wait for one
        eventually(lambda: gate.gates(space, "web") == [])
        return
    assert gate.gates(space, "web") == [POD_GATE]
    verified(gate.cluster, "named")
    eventually(lambda: gate.gates(space, "web") == [])


def test_gates_of_others_stay_when_ours_goes(gate: Scene):
    space = gate.namespace(ENABLED)
    gate.cluster.apply("shared")
    eventually(lambda: gate.cluster.revisions("shared"))
    gate.create(space, "web", apparmor("shared"), schedulingGates=[{"name": "example.com/quota"}])
    assert gate.gates(space, "web") == ["example.com/quota", POD_GATE]
    verified(gate.cluster, "shared")
    eventually(lambda: gate.gates(space, "web") == ["example.com/quota"])


def test_a_pod_is_kept_to_nodes_that_its_profile_is_for(gate: Scene):
    space = gate.namespace(ENABLED)
    facts = {"lsms": ["capability", "selinux"], "appArmor": {"enabled": False}}
    gate.cluster.tell("two", facts, selinux={"profiles": {}})
    gate.cluster.apply("placed", nodeSelector={"matchLabels": {"pool": "a"}})
    eventually(lambda: gate.cluster.revisions("placed"))

    def requirements() -> Any:
        gate.kubectl("delete", "pod", "web", "-n", space, "--ignore-not-found", "--force")
        gate.create(space, "web", apparmor("placed"))
        affinity = gate.read(space, "web").spec.affinity.node_affinity
        (term,) = affinity.required_during_scheduling_ignored_during_execution.node_selector_terms
        return [(one.key, one.operator, one.values) for one in term.match_expressions]

    wanted = [("pool", "In", ["a"]), (LABEL_LSM[APPARMOR], "NotIn", ["false"])]
    eventually(lambda: requirements() == wanted)  # once the admission has seen the report


def test_no_pod_waits_for_a_profile_that_no_node_is_targeted_by(gate: Scene):
    """Scale from zero: it takes a pod that can't be placed for an autoscaler to make a node."""
    space = gate.namespace(ENABLED)
    gate.cluster.apply("empty-pool", nodeSelector={"matchLabels": {"pool": "empty"}})
    eventually(lambda: gate.cluster.revisions("empty-pool"))
    gate.create(space, "web", apparmor("empty-pool"))
    eventually(lambda: gate.gates(space, "web") == [])


@pytest.mark.parametrize("labels", [ENABLED, DENIED], ids=["warn", "deny"])
def test_a_profile_of_ours_that_nobody_defines(gate: Scene, labels: dict[str, str]):
    space = gate.namespace(labels)
    sentence = "no SecurityProfile defines the seccomp profile hauberk/nobodys.json, so no node will have it"
    said = gate.create(space, "web", seccomp("nobodys"))
    assert sentence in said.stderr
    if labels is DENIED:
        assert said.code == 1
        assert 'admission webhook "deny.pods.hauberk.dev" denied the request' in said.stderr
        return
    assert said.code == 0
    assert said.stderr.startswith("Warning: ")
    assert gate.gates(space, "web") == []


@pytest.mark.parametrize("labels", [ENABLED, DENIED], ids=["warn", "deny"])
def test_an_ephemeral_container_is_looked_at(gate: Scene, labels: dict[str, str]):
    space = gate.namespace(labels)
    gate.create(space, "web", nodeName="one")

    def debugged(name: str) -> Said:
        containers = [{"name": "debug", "image": "none", "securityContext": seccomp(name)}]
        change = yaml.safe_dump({"spec": {"ephemeralContainers": containers}})
        return gate.kubectl(
            "patch", "pod", "web", "-n", space, "--subresource=ephemeralcontainers", "--patch", change
        )

    said = debugged("nobodys")
    assert "no SecurityProfile defines the seccomp profile hauberk/nobodys.json" in said.stderr
    assert said.code == (1 if labels is DENIED else 0)


def test_a_pod_waits_on_for_a_profile_that_is_deleted(gate: Scene):
    space = gate.namespace(ENABLED)
    gate.cluster.apply("deleted")
    eventually(lambda: gate.cluster.revisions("deleted"))
    gate.create(space, "web", apparmor("deleted"))
    gate.cluster.delete("securityprofiles", "deleted")
    eventually(lambda: gate.cluster.is_gone("securityprofiles", "deleted"))
    said = eventually(
        lambda: [
            one for one in gate.events(space, "web") if "there is no such SecurityProfile" in one.message
        ]
    )
    assert len(said) == 1
    assert gate.gates(space, "web") == [POD_GATE]
    publish(gate.cluster, "deleted")
    eventually(lambda: gate.gates(space, "web") == [])


def test_what_was_gated_is_opened_by_the_next_operator(gate: Scene):
    """The profile becomes Available while nobody leads: nothing is lost, and nothing told twice."""
    space = gate.namespace(ENABLED)
    gate.cluster.apply("later")
    digest = eventually(lambda: gate.cluster.revisions("later"))[0]["spec"]["content"]["digest"]
    gate.create(space, "web", apparmor("later"))
    eventually(lambda: gate.events(space, "web"))
    gate.cluster.stop_operator(signal.SIGKILL)
    gate.create(space, "more", apparmor("later"))
    assert gate.gates(space, "more") == [POD_GATE]
    gate.cluster.start()
    gate.cluster.report("one", later=digest)
    for name in ("web", "more"):
        eventually(lambda name=name: gate.gates(space, name) == [])
    assert len([one for one in gate.events(space, "web") if one.reason == "Gated"]) == 1


def test_a_dead_admission_holds_up_no_pod(gate: Scene):
    space = gate.namespace(DENIED)
    gate.cluster.apply("unseen")
    eventually(lambda: gate.cluster.revisions("unseen"))
    gate.cluster.stop_admission(signal.SIGKILL)
    said = gate.create(space, "web", apparmor("unseen"))
    assert (said.code, gate.gates(space, "web")) == (0, [])
    gate.create(space, "unknown", seccomp("nobodys"))
    gate.create(space, "other")
    # the operator notices, and tells when the admission is back
    eventually(lambda: "the admission is away" in gate.cluster.log.read_text())
    gate.create(space, "late", apparmor("unseen"))
    gate.cluster.start()
    eventually(lambda: gate.events(space, "late"))
    (event,) = eventually(lambda: gate.events(space, "web"))
    assert (event.reason, event.type) == ("GateMissed", "Warning")
    assert event.message.startswith("names unseen, not Available yet, and has no scheduling gate: ")
    (unknown,) = eventually(lambda: gate.events(space, "unknown"))
    assert (unknown.reason, unknown.type) == ("UnknownProfile", "Warning")
    assert unknown.message.startswith("names hauberk/nobodys.json, which no SecurityProfile defines")
    assert gate.events(space, "other") == []
    # what comes then is gated again, and the next operator tells nobody the same once more
    eventually(lambda: seen_again(gate, space))
    gate.cluster.stop_operator()
    gate.cluster.start()
    eventually(lambda: gate.gates(space, "web") == [] and looked(gate))
    assert len(gate.events(space, "web")) == len(gate.events(space, "late")) == 1


def seen_again(gate: Scene, space: str) -> bool:
    gate.kubectl("delete", "pod", "again", "-n", space, "--ignore-not-found", "--force")
    gate.create(space, "again", apparmor("unseen"))
    return gate.gates(space, "again") == [POD_GATE]


def looked(gate: Scene) -> bool:
    """Return whether an operator that was just started has looked for what was missed."""
    last = gate.cluster.log.read_text().rpartition('"event": "leads"')[2]
    return '"event": "looked for pods that nobody gated"' in last
