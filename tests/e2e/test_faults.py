"""What happens to nodes, agents and the operator: status never says more than the kernels hold."""

from __future__ import annotations

from typing import Any

import pytest
from kubernetes import client, config

from tests.e2e.cluster import (
    APPARMOR_NODES,
    SYSTEM,
    agent_pod,
    agent_ready,
    apply,
    deny_write,
    eventually,
    get,
    kernel,
    kubectl,
    lab,
    ok,
    policy_revision,
    profile,
    ready,
    remove,
    restart_agent,
    wait_ready,
)


def test_an_agent_that_starts_again_loads_nothing_anew():
    apply(profile("kept", deny_write("kept")))
    wait_ready("kept")
    before = policy_revision("debian12")

    restart_agent("debian12")

    assert ready("kept")[0] == "True"
    assert policy_revision("debian12") == before


def test_a_node_that_reboots_is_not_ready_until_its_new_kernel_was_read():
    apply(profile("rebooted", deny_write("rebooted")))
    wait_ready("rebooted")
    before = get("profilenode", "debian13")["status"]["bootID"]

    ok(lab("reboot", "debian13"))

    def verified() -> bool:
        """The node's new boot was read and the profile counts again."""
        report, node = get("profilenode", "debian13"), get("node", "debian13")
        new = report["status"]["bootID"] not in ("", before)
        same = report["status"]["bootID"] == node["status"]["nodeInfo"]["bootID"]
        return new and same and get("secprof", "rebooted")["status"]["nodes"]["ready"] == 2

    eventually(verified, within=120)
    assert kernel("debian13")["rebooted"][0] == "enforce"
    assert kernel("debian13")["rebooted"] == kernel("debian12")["rebooted"]
    # The admission's replica of that node, which an apply would wait for as long as it is not there again.
    there = ("--all", f"--namespace={SYSTEM}", "--field-selector=spec.nodeName=debian13")
    ok(kubectl("wait", "pods", *there, "--for=condition=Ready", "--timeout=120s", timeout=150))


@pytest.mark.long
def test_a_node_that_is_cut_off_is_counted_and_holds_nobody_up():
    apply(profile("cut", deny_write("cut")))
    wait_ready("cut")
    ok(lab("cut", "debian13"))
    try:
        eventually(lambda: get("secprof", "cut")["status"]["nodes"]["unreachable"] == 1, within=90)
        assert ready("cut")[0] == "True"
        assert get("secprof", "cut")["status"]["summary"]["ready"] == "1/2"

        def update() -> bool:
            """The admission takes the update: its replica may be there, and the API server hold on to it."""
            apply(profile("cut", deny_write("cut", "/var")))
            return True

        eventually(update, within=120)
        wait_ready("cut")
    finally:
        ok(lab("mend", "debian13"))
    eventually(lambda: get("secprof", "cut")["status"]["nodes"]["ready"] == 2, within=120)
    assert kernel("debian13")["cut"] == kernel("debian12")["cut"]


def test_the_operator_comes_back_to_what_it_left():
    apply(profile("lasting", deny_write("lasting")))
    wait_ready("lasting")
    before = get("secprof", "lasting")["metadata"]["resourceVersion"]
    operator = ("pods", f"--namespace={SYSTEM}", "--selector=app.kubernetes.io/component=operator")

    remove(*operator, "--now")
    # made while nobody is there to see it
    apply(profile("meanwhile", deny_write("meanwhile")))
    wait_ready("meanwhile", timeout=120)

    assert get("secprof", "lasting")["metadata"]["resourceVersion"] == before


def test_the_agents_daemonset_is_kept_as_it_should_be():
    path = "{.spec.template.spec.containers[0].securityContext.capabilities.add}"
    namespace = f"--namespace={SYSTEM}"
    change: list[dict[str, Any]] = [
        {
            "op": "add",
            "path": "/spec/template/spec/containers/0/securityContext/capabilities/add/-",
            "value": "SYS_ADMIN",
        }
    ]
    ok(
        kubectl(
            "patch",
            "daemonset/hauberk-agent",
            namespace,
            "--type=json",
            f"--patch={change!r}".replace("'", '"'),
        )
    )
    eventually(
        lambda: (
            ok(kubectl("get", "daemonset/hauberk-agent", namespace, f"--output=jsonpath={path}"))
            == '["MAC_ADMIN"]'
        )
    )
    ok(kubectl("rollout", "status", "daemonset/hauberk-agent", namespace, "--timeout=120s"))


def agents_client(node: str) -> client.ApiClient:
    """Return a client with the token of a node's agent, as someone who took the node would have it."""
    here = config.new_client_from_config()
    settings = client.Configuration(host=here.configuration.host)
    settings.ssl_ca_cert = here.configuration.ssl_ca_cert
    eventually(lambda: agent_ready(node))
    token = ok(kubectl("exec", f"--namespace={SYSTEM}", agent_pod(node), "--", "cat", TOKEN))
    settings.api_key = {"authorization": f"Bearer {token}"}
    return client.ApiClient(settings)


def test_an_agent_writes_its_own_nodes_report_and_nothing_else():
    taken = agents_client("debian12")
    custom, core = client.CustomObjectsApi(taken), client.CoreV1Api(taken)
    group, version = "hauberk.dev", "v1alpha1"

    def write(node: str) -> None:
        body: dict[str, Any] = {"metadata": {"labels": {}}}
        custom.patch_cluster_custom_object(group, version, "profilenodes", node, body)

    write("debian12")
    refused = {
        "another node's report": lambda: write("debian13"),
        "SecurityProfiles": lambda: custom.list_cluster_custom_object(group, version, "securityprofiles"),
        "writing revisions": lambda: custom.delete_collection_cluster_custom_object(
            group, version, "profilerevisions"
        ),
        "secrets": core.list_secret_for_all_namespaces,
        "deleting pods": lambda: core.delete_namespaced_pod("any", "default"),
        "watching pods": lambda: core.list_pod_for_all_namespaces(watch=True),
        "its node": lambda: core.patch_node("debian12", {"metadata": {"labels": {"taken": "yes"}}}),
    }
    for what, attempt in refused.items():
        with pytest.raises(client.ApiException) as caught:
            attempt()
        assert caught.value.status in (403, 422), what
        if what == "another node's report":
            assert "may not write the ProfileNode of 'debian13'" in str(caught.value.body)


TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount/token"  # noqa: S105 - a path


@pytest.mark.long
def test_a_node_that_joins_gets_what_is_there():
    apply(profile("joining", deny_write("joining")))
    wait_ready("joining")
    name = ok(lab("add", "debian13")).strip().splitlines()[-1]
    try:
        # Until its agent has read its kernel the new node counts, and not as ready.
        eventually(lambda: get("secprof", "joining")["status"]["nodes"]["targeted"] == 3)
        ok(lab("load", "build/image.tar"))
        eventually(lambda: get("secprof", "joining")["status"]["nodes"]["ready"] == 3, within=120)
        assert kernel(name)["joining"] == kernel("debian12")["joining"]
    finally:
        ok(lab("remove", name))
    eventually(lambda: get("secprof", "joining")["status"]["nodes"]["targeted"] == 2)
    eventually(lambda: kubectl("get", f"profilenode/{name}").code != 0, within=120)
    for node in APPARMOR_NODES:
        assert "joining" in kernel(node)
