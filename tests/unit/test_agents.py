"""The agents' DaemonSet: exactly the privileges that it needs, whatever the operator's own pod looks like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hauberk.crds.names import AGENT, AGENT_SELINUX, LABEL_AGENT, OPERATOR
from hauberk.daemonset.compiling import AT_ONCE
from hauberk.daemonset.semodule import LIMITS
from hauberk.operator import judging
from hauberk.operator.agent_settings import OnNodes
from hauberk.operator.agents import Settings, manifests, settings_from
from hauberk.profiles.sandbox import Limits
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).parents[2]
PLAIN = Settings(namespace="hauberk-system", image="registry.example/hauberk:1", owner_uid="uid-1")


def manifest(given: Settings, name: str = AGENT) -> dict[str, Any]:
    return manifests(given)[name]


@pytest.fixture
def pod() -> dict[str, Any]:
    return manifest(PLAIN)["spec"]["template"]["spec"]


@pytest.fixture
def privileged() -> dict[str, Any]:
    """Return the pod of the agent for nodes with SELinux."""
    return manifest(PLAIN, AGENT_SELINUX)["spec"]["template"]["spec"]


def test_its_only_privilege_is_mac_admin(pod: dict[str, Any]):
    (container,) = pod["containers"]
    assert "initContainers" not in pod
    assert container["securityContext"] == {
        "runAsUser": 0,
        "runAsGroup": 0,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"], "add": ["MAC_ADMIN"]},
    }
    assert pod["securityContext"] == {
        "seccompProfile": {"type": "RuntimeDefault"},
        "appArmorProfile": {"type": "Unconfined"},
    }
    assert "hostIPC" not in pod


def test_it_sees_five_paths_of_the_host(pod: dict[str, Any]):
    paths = {volume["hostPath"]["path"]: volume["name"] for volume in pod["volumes"]}
    assert set(paths) == {
        "/sys/kernel/security",
        "/etc/apparmor.d",
        "/var/lib/hauberk",
        "/var/lib/kubelet/seccomp",
        "/etc/os-release",
    }
    mounts = {mount["name"]: mount for mount in pod["containers"][0]["volumeMounts"]}
    assert set(mounts) == set(paths.values())
    assert mounts[paths["/etc/os-release"]]["readOnly"] is True
    assert all("mountPropagation" not in mount for mount in mounts.values())


def test_that_of_selinux_runs_the_nodes_own_semodule_in_the_nodes_own_root(privileged: dict[str, Any]):
    (container,) = privileged["containers"]
    assert container["securityContext"] == {
        "runAsUser": 0,
        "runAsGroup": 0,
        "privileged": True,
        "readOnlyRootFilesystem": True,
    }
    paths = {volume["hostPath"]["path"]: volume["name"] for volume in privileged["volumes"]}
    assert set(paths) == {"/"}
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    assert mounts[paths["/"]] == {
        "name": paths["/"],
        "mountPath": "/host",
        "mountPropagation": "HostToContainer",
    }
    assert {"name": "WHOLE_HOST", "value": "true"} in container["env"]
    assert privileged["terminationGracePeriodSeconds"] > LIMITS.seconds


def test_a_node_has_one_of_the_two(pod: dict[str, Any], privileged: dict[str, Any]):
    terms = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    expression = {"key": LABEL_AGENT, "operator": "NotIn", "values": ["selinux"]}
    assert terms == {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}
    assert privileged["nodeSelector"] == {"kubernetes.io/os": "linux", LABEL_AGENT: "selinux"}
    selectors = [made["spec"]["selector"]["matchLabels"] for made in manifests(PLAIN).values()]
    assert selectors[0] != selectors[1]


@pytest.mark.parametrize("name", [AGENT, AGENT_SELINUX])
def test_what_an_administrator_sets_reaches_the_agents(name: str):
    given = Settings("n", "i", "u", on_nodes=OnNodes(kubelet="/data/kubelet", priority=300))
    pod = manifest(given, name)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert {"name": "KUBELET_DIR", "value": "/data/kubelet"} in container["env"]
    if name == AGENT:
        assert "/data/kubelet/seccomp" in [volume["hostPath"]["path"] for volume in pod["volumes"]]
    else:
        assert {"name": "SELINUX_PRIORITY", "value": "300"} in container["env"]


def test_it_comes_before_everything_else(pod: dict[str, Any]):
    assert pod["priorityClassName"] == "system-node-critical"
    assert pod["tolerations"] == [{"operator": "Exists"}]
    assert pod["nodeSelector"] == {"kubernetes.io/os": "linux"}
    assert pod["hostNetwork"] is True
    assert pod["hostPID"] is True
    assert pod["serviceAccountName"] == AGENT


def test_it_is_small(pod: dict[str, Any]):
    resources = pod["containers"][0]["resources"]
    assert resources["limits"].keys() == {"memory"}
    assert resources["requests"].keys() == {"cpu", "memory"}
    assert mebibytes(resources["limits"]["memory"]) >= AT_ONCE * (Limits().memory >> 20) + 100


def mebibytes(quantity: str) -> int:
    assert quantity.endswith("Mi")
    return int(quantity.removesuffix("Mi"))


def test_the_admission_has_room_for_the_parsers_that_it_runs():
    deployment = next(yaml.safe_load_all((ROOT / "deploy/operator/admission.yaml").read_text()))
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    limit = mebibytes(container["resources"]["limits"]["memory"])
    assert limit >= judging.AT_ONCE * (Limits().memory >> 20) + 150


def test_it_goes_with_the_operator():
    for name, made in manifests(PLAIN).items():
        metadata = made["metadata"]
        assert (metadata["name"], metadata["namespace"]) == (name, "hauberk-system")
        _owned(metadata)


def _owned(metadata: dict[str, Any]) -> None:
    assert metadata["ownerReferences"] == [
        {"apiVersion": "apps/v1", "kind": "Deployment", "name": OPERATOR, "uid": "uid-1"}
    ]


def test_its_selector_matches_its_pods():
    for made in manifests(PLAIN).values():
        spec = made["spec"]
        assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()


def test_its_probes_ask_the_port_that_it_serves():
    container = manifest(Settings("n", "i", "u", on_nodes=OnNodes(1234)))["spec"]["template"]["spec"][
        "containers"
    ][0]
    assert {"name": "HEALTH_PORT", "value": "1234"} in container["env"]
    for probe, path in (("readinessProbe", "/readyz"), ("livenessProbe", "/healthz")):
        assert container[probe]["httpGet"] == {"host": "127.0.0.1", "port": 1234, "path": path}


@pytest.mark.parametrize("name", [AGENT, AGENT_SELINUX])
def test_prometheus_asks_the_port_that_it_serves(name: str):
    made = manifest(Settings("n", "i", "u", on_nodes=OnNodes(metrics_port=1234)), name)
    (container,) = made["spec"]["template"]["spec"]["containers"]
    assert container["ports"] == [{"name": "metrics", "containerPort": 1234}]
    environment = {one["name"]: one for one in container["env"]}
    assert environment["METRICS_PORT"]["value"] == "1234"
    # the node's address, as the pod is on its network: not loopback, and no address that nobody asked for
    assert environment["POD_IP"]["valueFrom"] == {"fieldRef": {"fieldPath": "status.podIP"}}


@pytest.mark.parametrize("name", [AGENT, AGENT_SELINUX])
def test_where_nobody_is_to_ask_nothing_listens(name: str):
    made = manifest(Settings("n", "i", "u", on_nodes=OnNodes(metrics_port=0)), name)
    (container,) = made["spec"]["template"]["spec"]["containers"]
    assert "ports" not in container
    assert "METRICS_PORT" not in {one["name"] for one in container["env"]}


@pytest.mark.parametrize(("asked", "told"), [("text", ["text"]), ("json", ["json"]), ("", [])])
def test_the_agents_write_their_log_as_the_operator_does(asked: str, told: list[str]):
    for name in (AGENT, AGENT_SELINUX):
        made = manifest(Settings("n", "i", "u", on_nodes=OnNodes(log_format=asked)), name)
        (container,) = made["spec"]["template"]["spec"]["containers"]
        assert [one["value"] for one in container["env"] if one["name"] == "LOG_FORMAT"] == told


@pytest.mark.parametrize("name", [AGENT, AGENT_SELINUX])
def test_a_tenth_of_the_agents_is_replaced_at_a_time(name: str):
    made = manifest(Settings("n", "i", "u"), name)
    assert made["spec"]["updateStrategy"] == {"rollingUpdate": {"maxUnavailable": "10%"}}


@pytest.mark.parametrize("names", [[], ["a"], ["a", "b"]])
def test_pull_secrets_are_handed_on(names: list[str]):
    made = manifest(Settings("n", "i", "u", pull_secrets=names))
    assert made["spec"]["template"]["spec"]["imagePullSecrets"] == [{"name": name} for name in names]


anything = st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"]), max_size=40)
hostile = st.one_of(
    anything,
    st.sampled_from(
        ['"', "x\n      hostIPC: true", '"\nspec: {}', "{{ 1 }}", "{% raw %}", "*labels", "!!python/x", "'"]
    ),
)


@settings(max_examples=60, deadline=None)
@given(namespace=hostile, image=hostile, uid=hostile, policy=hostile, secrets=st.lists(hostile, max_size=2))
def test_no_value_breaks_out_of_its_field(
    namespace: str, image: str, uid: str, policy: str, secrets: list[str]
):
    plain = manifest(Settings("N", "I", "U", pull_policy="P", pull_secrets=["S"] * len(secrets)))
    made = manifest(Settings(namespace, image, uid, pull_policy=policy, pull_secrets=secrets))
    assert made["metadata"].pop("namespace") == namespace
    assert made["metadata"]["ownerReferences"][0].pop("uid") == uid
    pod = made["spec"]["template"]["spec"]
    assert pod["containers"][0].pop("image") == image
    assert pod["containers"][0].pop("imagePullPolicy") == policy
    assert pod.pop("imagePullSecrets") == [{"name": name} for name in secrets]
    del plain["metadata"]["namespace"], plain["metadata"]["ownerReferences"][0]["uid"]
    pod = plain["spec"]["template"]["spec"]
    del pod["containers"][0]["image"], pod["containers"][0]["imagePullPolicy"], pod["imagePullSecrets"]
    assert made == plain


def own_pod(*containers: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {"metadata": {"namespace": "ns"}, "spec": {"containers": list(containers), **spec}}


def test_the_operators_pod_implies_the_settings():
    pod = own_pod(
        {"name": "operator", "image": "i:1", "imagePullPolicy": "Never"}, imagePullSecrets=[{"name": "s"}]
    )
    on_nodes = OnNodes(99)
    assert settings_from(pod, "uid", on_nodes) == Settings("ns", "i:1", "uid", "Never", ["s"], on_nodes)
    assert settings_from(
        own_pod({"name": "operator", "image": "i"}, imagePullSecrets=None), "u", OnNodes()
    ) == Settings("ns", "i", "u")


def test_a_sidecar_that_was_put_in_front_is_not_taken_for_the_operator():
    pod = own_pod({"name": "proxy", "image": "mesh"}, {"name": "operator", "image": "i:1"})
    assert settings_from(pod, "uid", OnNodes()).image == "i:1"
