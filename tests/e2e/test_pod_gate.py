"""The gate on pods: those that come before their profiles wait for them, and Hauberk away holds up none.

The order within a file is the one of Helm and kustomize: Deployments first, kinds of others after them.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.cluster import (
    SYSTEM,
    apply,
    assert_confined,
    condition,
    deny_write,
    deployment,
    eventually,
    failures,
    get,
    kubectl,
    lab,
    namespace,
    ok,
    pods_of,
    profile,
    ready,
    wait_rolled_out,
    watched,
    webhook_answers,
)

ENABLED = {"hauberk.dev/pod-gate": "enabled"}
GATE = {"name": "hauberk.dev/profiles-pending"}
TAINT = f"{GATE['name']}:NoSchedule"
REPLICAS = 3
# Nobody keeps a pod without the gate off a node that can't hold its profile, and whose kubelet turns it down.
HOLDERS = {"hauberk.dev/lsm-apparmor": "true"}


def apply_together(folder: Path, made: dict[str, Any], **spec: Any) -> None:
    """Apply a Deployment and then the SecurityProfile of its pods, by one `kubectl apply` of one file."""
    name = made["metadata"]["name"]
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump_all([made, profile(name, deny_write(name), **spec)]))
    ok(kubectl("apply", f"--filename={file}"))


def names(states: list[dict[str, Any]]) -> set[str]:
    return {one["metadata"]["name"] for one in states}


def first(states: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """Return a pod as it was when it was made."""
    return next(one for one in states if one["metadata"]["name"] == name)


def assert_gated(body: dict[str, Any], profile: str) -> None:
    """Assert that a pod has the gate, says so, and names what it waits for."""
    assert GATE in body["spec"].get("schedulingGates", [])
    assert condition(body, "PodScheduled")["reason"] == "SchedulingGated"
    assert body["metadata"]["labels"]["hauberk.dev/gated"] == "true"
    assert body["metadata"]["annotations"]["hauberk.dev/gated-for"] == profile


@contextmanager
def scaled_to_zero(*deployments: str) -> Generator[None]:
    """Have none of these Deployments' pods while the context lasts."""
    chosen = [f"deployment/hauberk-{one}" for one in deployments]
    ok(kubectl("scale", *chosen, f"--namespace={SYSTEM}", "--replicas=0"))
    try:
        pods = f"--selector=app.kubernetes.io/component in ({', '.join(deployments)})"
        ok(kubectl("wait", "--for=delete", "pods", f"--namespace={SYSTEM}", pods, "--timeout=60s"))
        yield
    finally:
        ok(kubectl("scale", *chosen, f"--namespace={SYSTEM}", "--replicas=2"))
        for one in chosen:
            ok(kubectl("rollout", "status", one, f"--namespace={SYSTEM}", "--timeout=120s"))


def test_a_deployment_and_its_profile_in_one_file(tmp_path: Path):
    with namespace("gate-together", **ENABLED) as space, watched(pods_of(space)) as states:
        apply_together(tmp_path, deployment(space, "together", "together", REPLICAS))
        pods = wait_rolled_out(space, "together")

        assert len(pods) == REPLICAS
        assert names(states) == names(pods)  # none was made in another's place
        for one in pods:
            assert_gated(first(states, one["metadata"]["name"]), "together")
            assert "schedulingGates" not in one["spec"]
            assert_confined(one, "together")
        assert failures(space, states) == []


def test_without_an_operator_pods_are_made_and_without_the_gate_they_fail(tmp_path: Path):
    """The profile is as late as can be: nobody publishes it before the operator is back.

    So what the gate spares is sure to be seen, with both applied in one file. With an operator there a
    profile may be on its node before the kubelet comes to the container.
    """
    with (
        namespace("gate-late", **ENABLED) as gated,
        namespace("no-gate-late") as free,
        watched(pods_of(gated)) as waiting,
        watched(pods_of(free)) as failing,
    ):
        with scaled_to_zero("operator"):
            for space, name in ((gated, "late"), (free, "late-free")):
                apply_together(tmp_path, deployment(space, name, name, REPLICAS, nodeSelector=HOLDERS))
            eventually(lambda: len(names(waiting)) == REPLICAS)

            def all_failed() -> bool:
                """Every pod without the gate could not start."""
                told = failures(free, failing)
                assert any("apparmor profile not found late-free" in one for one in told), told
                return len([one for one in told if one.endswith(": CreateContainerError")]) == REPLICAS

            eventually(all_failed)
            for one in names(waiting):
                assert_gated(first(waiting, one), "late")

        for space, name in ((gated, "late"), (free, "late-free")):
            for one in wait_rolled_out(space, name):
                assert_confined(one, name)
        assert failures(gated, waiting) == []


def test_what_nobody_gated_is_told_of_once_somebody_is_back():
    apply(profile("missed", deny_write("missed"), suspend=True))
    eventually(lambda: ready("missed")[1] == "Suspended")
    with (
        namespace("gate-missed", **ENABLED) as labelled,
        namespace("no-gate-missed") as free,
    ):
        with scaled_to_zero("operator", "admission"):
            for space in (labelled, free):
                apply(deployment(space, "missed", "missed", REPLICAS, nodeSelector=HOLDERS))
                eventually(lambda space=space: len(pods_in(space)) == REPLICAS)
            assert not [one for one in pods_in(labelled) if "schedulingGates" in one["spec"]]

        told = eventually(lambda: all_told(labelled))
        assert all(
            one.startswith("names missed, not Available yet, and has no scheduling gate: ") for one in told
        )
        assert missed(free) == {}
        eventually(webhook_answers)
        apply(profile("missed", deny_write("missed")))
        for space in (labelled, free):
            for one in wait_rolled_out(space, "missed"):
                assert_confined(one, "missed")


def pods_in(space: str) -> list[dict[str, Any]]:
    return get("pods", f"--namespace={space}")["items"]


def missed(space: str) -> dict[str, str]:
    """Return what was said of pods that nobody gated, by pod."""
    found = get("events", f"--namespace={space}", "--field-selector=reason=GateMissed,type=Warning")["items"]
    return {one["involvedObject"]["name"]: one["message"] for one in found}


def all_told(space: str) -> list[str]:
    """Every pod of a namespace has its Event."""
    found = missed(space)
    assert found.keys() == names(pods_in(space))
    return list(found.values())


@pytest.mark.long
def test_a_gated_pod_gets_a_node_of_an_empty_group():
    """Who adds the node is an autoscaler elsewhere; what it goes by is that the pod can't be placed.

    The profile is held back at first: with no node to load it, it is Available before most pods are made.
    """
    group = "pool=empty"
    held_back = profile(
        "zero", deny_write("zero"), suspend=True, nodeSelector={"matchLabels": {"pool": "empty"}}
    )
    apply(held_back)
    eventually(lambda: ready("zero")[1] == "Suspended")
    with namespace("gate-zero", **ENABLED) as space, watched(pods_of(space)) as states:
        apply(deployment(space, "zero", "zero", REPLICAS))
        eventually(lambda: len(names(states)) == REPLICAS)
        del held_back["spec"]["suspend"]
        apply(held_back)

        def unschedulable() -> bool:
            """The gates are gone, and nowhere is room."""
            latest = {one["metadata"]["name"]: one for one in states}.values()
            reasons = [condition(one, "PodScheduled").get("reason") for one in latest]
            return reasons == ["Unschedulable"] * REPLICAS

        eventually(unschedulable)
        for one in names(states):
            assert_gated(first(states, one), "zero")
        name = ok(lab("add", "debian13", "--label", group, "--taint", TAINT)).strip().splitlines()[-1]
        try:
            ok(lab("load", "build/image.tar"))
            pods = wait_rolled_out(space, "zero", timeout=180)
            assert {one["spec"]["nodeName"] for one in pods} == {name}
            for one in pods:
                assert_confined(one, "zero")
            assert failures(space, states) == []
        finally:
            ok(lab("remove", name))
