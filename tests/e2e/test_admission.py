"""`kubectl apply` against the admission's pods: both answer, one publishes, either may be lost."""

from __future__ import annotations

from typing import Any

from tests.e2e.cluster import (
    ADMISSION,
    APPARMOR_NODES,
    SYSTEM,
    Said,
    apply,
    condition,
    deny_write,
    eventually,
    exec_on,
    get,
    kernel,
    kubectl,
    ok,
    profile,
    remove,
    wait_ready,
    webhook_answers,
)
from tests.golden_files import accepted

PODS = ("pods", f"--namespace={SYSTEM}", "--selector=app.kubernetes.io/component=admission")


def leader() -> dict[str, Any]:
    """Return the pod that publishes."""
    name = get("lease", ADMISSION, f"--namespace={SYSTEM}")["spec"]["holderIdentity"]
    return get("pod", name, f"--namespace={SYSTEM}")


def whole() -> bool:
    """Both pods of the admission are ready, and none is going away."""
    found = get(*PODS)["items"]
    ready = [one for one in found if condition(one, "Ready").get("status") == "True"]
    return len(found) == len(ready) == 2


def named(prefix: str, count: int) -> list[dict[str, Any]]:
    return [profile(f"{prefix}-{number}", deny_write(f"{prefix}-{number}")) for number in range(count)]


def asked(document: dict[str, Any]) -> Said:
    return kubectl("apply", "--filename=-", given=document)


def test_a_pod_that_ends_in_order_costs_no_apply():
    eventually(whole, within=120)
    documents = named("orderly", 10)
    going = leader()["metadata"]["name"]
    apply(documents[0])
    ok(kubectl("delete", "pod", going, f"--namespace={SYSTEM}", "--wait=false"))
    for document in documents[1:]:
        apply(document)
    for document in documents:
        wait_ready(document["metadata"]["name"], timeout=90)
    eventually(whole, within=120)


def test_a_pod_that_is_killed_loses_nothing_that_was_taken():
    eventually(whole, within=120)
    pod = leader()
    taken: list[str] = []
    for at, document in enumerate(named("killed", 12)):
        if at == 2:
            exec_on(pod["spec"]["nodeName"], "pkill", "-9", "-f", "hauberk[.]operator[.]admission")
        said = asked(document)
        name = document["metadata"]["name"]
        if said.code == 0:
            taken.append(name)
        else:  # nobody there to ask: closed, and said so
            assert "failed calling webhook" in said.stderr
            assert kubectl("get", f"secprof/{name}").code != 0
    assert taken
    for name in taken:
        wait_ready(name, timeout=120)
    eventually(whole, within=120)


def test_a_configuration_that_someone_applies_again_is_trusted_again():
    remove(f"validatingwebhookconfiguration/{ADMISSION}")
    ok(kubectl("apply", "--kustomize", "deploy/operator"))
    eventually(webhook_answers)


def test_what_is_accepted_is_loaded():
    cases = accepted()
    apply({"apiVersion": "v1", "kind": "List", "items": [case.body for case in cases]})
    for case in cases:
        wait_ready(case.name, timeout=240)
    for node in APPARMOR_NODES:
        held = kernel(node)
        assert {case.name: set(case.names) - held.keys() for case in cases} == {
            case.name: set() for case in cases
        }
