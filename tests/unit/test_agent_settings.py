"""What an administrator may set for the agents: it reaches their pods, and what can't be meant is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from hauberk.crds.names import AGENT, AGENT_SELINUX, LABEL_AGENT
from hauberk.operator.agent_settings import OnNodes, SettingError, on_nodes
from hauberk.operator.agents import AGENTS, Settings, manifests

OTHERS = {"key": LABEL_AGENT, "operator": "NotIn", "values": ["selinux"]}
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


def read(said: dict[str, Any] | None = None, /, **given: str) -> OnNodes:
    return on_nodes({"AGENT_PODS": json.dumps(said), **given} if said else given)


def pods_of(**pods: Any) -> dict[str, dict[str, Any]]:
    """Return the specs of the pods of both agents by the DaemonSets' names."""
    made = manifests(Settings("hauberk-system", "image", "uid", on_nodes=read(pods)))
    return {name: one["spec"]["template"]["spec"] for name, one in made.items()}


def test_nothing_said_is_what_the_program_has_by_itself():
    assert read() == OnNodes()


def test_numbers_the_folder_and_the_format():
    ports = {"AGENT_HEALTH_PORT": "1", "AGENT_METRICS_PORT": "0"}
    said = read(**ports, KUBELET_DIR="/data", SELINUX_PRIORITY="300", LOG_FORMAT="text")
    assert said == OnNodes(1, "/data", 300, metrics_port=0, log_format="text")


def test_all_of_it_reaches_the_pods_of_both_agents():
    tolerations = [{"key": "gpu", "operator": "Equal", "value": "x", "effect": "NoSchedule"}]
    tolerations += [{"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 0}]
    affinity = {"podAntiAffinity": {PREFERRED: []}}
    said = pods_of(
        priorityClassName="mine",
        tolerations=tolerations,
        nodeSelector={"pool": "a"},
        affinity=affinity,
        resources={"requests": {"cpu": "5m"}, "limits": {"memory": "1.5Gi", "cpu": 2}},
        selinuxResources={"limits": {"memory": "2Gi"}},
    )
    plain = pods_of()
    for name in AGENTS:
        assert said[name].pop("priorityClassName") == "mine"
        assert said[name].pop("tolerations") == tolerations
        assert said[name]["affinity"].pop("podAntiAffinity") == affinity["podAntiAffinity"]
        assert said[name]["nodeSelector"].pop("pool") == "a"
        del plain[name]["priorityClassName"], plain[name]["tolerations"]
        del plain[name]["containers"][0]["resources"]
    (container,) = said[AGENT]["containers"]
    assert container.pop("resources") == {
        "requests": {"cpu": "5m"},
        "limits": {"memory": "1.5Gi", "cpu": 2},
    }
    (container,) = said[AGENT_SELINUX]["containers"]
    assert container.pop("resources") == {"limits": {"memory": "2Gi"}}
    assert said[AGENT_SELINUX].pop("affinity") == {}
    assert said == plain


def test_no_taint_may_be_tolerated_too():
    assert [pod["tolerations"] for pod in pods_of(tolerations=[]).values()] == [[], []]


def test_hauberks_own_condition_stands_in_each_alternative():
    one = {"matchExpressions": [{"key": "pool", "operator": "In", "values": ["a"]}]}
    two = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}
    given = {REQUIRED: {"nodeSelectorTerms": [one, two]}, PREFERRED: [{"weight": 1, "preference": one}]}
    said = pods_of(affinity={"nodeAffinity": given})
    (expression,) = one["matchExpressions"]
    assert said[AGENT]["affinity"] == {
        "nodeAffinity": {
            REQUIRED: {
                "nodeSelectorTerms": [
                    {"matchExpressions": [expression, OTHERS]},
                    {**two, "matchExpressions": [OTHERS]},
                ]
            },
            PREFERRED: given[PREFERRED],
        }
    }
    assert said[AGENT_SELINUX]["affinity"] == {"nodeAffinity": given}


@pytest.mark.parametrize(
    ("said", "given"),
    [
        ("AGENT_HEALTH_PORT: 'x' is no number from 1 to 65535", {"AGENT_HEALTH_PORT": "x"}),
        ("AGENT_HEALTH_PORT: '65536' is no number", {"AGENT_HEALTH_PORT": "65536"}),
        ("AGENT_HEALTH_PORT: '' is no number", {"AGENT_HEALTH_PORT": ""}),
        ("AGENT_METRICS_PORT: '-1' is no number from 0 to 65535", {"AGENT_METRICS_PORT": "-1"}),
        ("AGENT_METRICS_PORT: 'x' is no number", {"AGENT_METRICS_PORT": "x"}),
        ("SELINUX_PRIORITY: '0' is no number from 1 to 999", {"SELINUX_PRIORITY": "0"}),
        ("SELINUX_PRIORITY: '1000' is no number", {"SELINUX_PRIORITY": "1000"}),
        ("KUBELET_DIR: 'data/kubelet' is no absolute path", {"KUBELET_DIR": "data/kubelet"}),
        ('LOG_FORMAT is "xml"; it may be json or text', {"LOG_FORMAT": "xml"}),
        ("AGENT_PODS: ", {"AGENT_PODS": "{"}),
        ("AGENT_PODS: Expected `object`, got `array`", {"AGENT_PODS": "[]"}),
    ],
)
def test_what_is_no_setting_is_refused_by_its_name(said: str, given: dict[str, str]):
    with pytest.raises(SettingError, match=f"^{said}"):
        read(**given)


@pytest.mark.parametrize(
    ("said", "pods"),
    [
        ("unknown field `toleration`", {"toleration": []}),
        (r"unknown field `keys` - at `\$\.tolerations\[0\]`", {"tolerations": [{"keys": "a"}]}),
        ("Invalid enum value 'Is'", {"tolerations": [{"operator": "Is"}]}),
        ("Invalid enum value 'Never'", {"tolerations": [{"effect": "Never"}]}),
        (r"Expected `int . null`, got `str`", {"tolerations": [{"tolerationSeconds": "1"}]}),
        (r"\$\.nodeSelector\[\.\.\.\]", {"nodeSelector": {"a": True}}),
        ("unknown field `limit`", {"resources": {"limit": {}}}),
        (r"\$\.resources\.limits\[\.\.\.\]", {"resources": {"limits": {"memory": "64 Mi"}}}),
        (r"\$\.selinuxResources\.requests\[\.\.\.\]", {"selinuxResources": {"requests": {"cpu": "-1"}}}),
        ("unknown field `nodes`", {"affinity": {"nodes": {}}}),
        ("length >= 1", {"affinity": {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": []}}}}),
        ("an empty term", {"affinity": {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [{}]}}}}),
        (f"the label {LABEL_AGENT} in nodeSelector", {"nodeSelector": {LABEL_AGENT: "selinux"}}),
        ("kubernetes.io/os=windows", {"nodeSelector": {"kubernetes.io/os": "windows"}}),
    ],
)
def test_pods_that_can_not_be_meant_are_refused(said: str, pods: dict[str, Any]):
    with pytest.raises(SettingError, match=f"^AGENT_PODS: .*{said}"):
        read(pods)


def test_the_operator_says_what_is_wrong_and_ends():
    environment = {**os.environ, "AGENT_PODS": '{"tolerations": [{"keys": "a"}]}'}
    environment["KUBERNETES_SERVICE_HOST"] = ""
    done = subprocess.run(
        [sys.executable, "-m", "hauberk.operator.main"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr == "AGENT_PODS: Object contains unknown field `keys` - at `$.tolerations[0]`\n"
