"""What `hauberk why` knows of pods, nodes and names before it looks for causes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hauberk.cli.live import app
from hauberk.cli.naming import definition, is_foreign, meant, profile_of_remains
from hauberk.cli.podfiles import pods_of
from hauberk.cli.pods import Pod, PodSpec, misfit
from hauberk.cli.sources import UnreadableError
from hauberk.cli.spelling import distance, nearest
from hauberk.cli.states import NodeView, Taint, node_view
from hauberk.cli.why import uses
from hauberk.crds.models import decode
from hauberk.crds.names import APPARMOR, SECCOMP, SELINUX
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from tests.unit.pod_cases import snapshot

NODE = NodeView(
    "one", {"zone": "a", "cores": "8"}, True, "boot", (Taint(key="gpu", value="x", effect="NoSchedule"),)
)
TOLERATES = {"tolerations": [{"key": "gpu", "operator": "Exists"}]}


def affinity(*terms: dict[str, Any]) -> dict[str, Any]:
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": list(terms)}}
    return {**TOLERATES, "affinity": {"nodeAffinity": required}}


def wants(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        (TOLERATES, ""),
        ({}, "the node's taint gpu=x:NoSchedule"),
        ({**TOLERATES, "nodeSelector": {"zone": "a"}}, ""),
        ({**TOLERATES, "nodeSelector": {"zone": "b"}}, "the pod's nodeSelector zone=b"),
        (affinity(wants("zone", "In", "a", "b")), ""),
        (affinity(wants("zone", "In", "b"), wants("zone", "Exists")), ""),
        (affinity(wants("zone", "In", "b")), "the pod's nodeAffinity"),
        (affinity({**wants("zone", "In", "a"), "matchFields": []}), ""),
        (affinity({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["one"]}]}), ""),
        (
            affinity({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["two"]}]}),
            "the pod's nodeAffinity",
        ),
        (affinity({}), "the pod's nodeAffinity"),
        (affinity(wants("cores", "Gt", "4")), ""),
        (affinity(wants("cores", "Lt", "4")), "the pod's nodeAffinity"),
        (affinity(wants("none", "Gt", "4")), "the pod's nodeAffinity"),
        ({"affinity": {"nodeAffinity": {}}, **TOLERATES}, ""),
    ],
)
def test_where_a_pod_may_run(spec: dict[str, Any], why: str):
    assert misfit(decode(PodSpec, spec), NODE) == why


@pytest.mark.parametrize(
    ("toleration", "covers"),
    [
        ({"operator": "Exists"}, True),
        ({"key": "gpu", "operator": "Exists"}, True),
        ({"key": "gpu", "value": "x"}, True),
        ({"key": "gpu", "value": "x", "effect": "NoSchedule"}, True),
        ({"key": "gpu", "value": "y"}, False),
        ({"key": "other", "operator": "Exists"}, False),
        ({"key": "gpu", "operator": "Exists", "effect": "NoExecute"}, False),
        ({}, False),
    ],
)
def test_what_a_toleration_covers(toleration: dict[str, str], covers: bool):
    assert (misfit(decode(PodSpec, {"tolerations": [toleration]}), NODE) == "") == covers


def test_what_keeps_no_pod_off():
    preferred = NodeView("one", {}, True, "boot", (Taint(key="x", effect="PreferNoSchedule"),))
    assert misfit(PodSpec(), preferred) == ""
    assert misfit(PodSpec(), NodeView("one", {}, False, "boot")) == "the node is not Ready"


def test_a_nodes_taints_are_read():
    taint = {"key": "gpu", "effect": "NoSchedule", "timeAdded": "2026-01-01T00:00:00Z"}
    view = node_view({"metadata": {"name": "one"}, "spec": {"taints": [taint]}})
    assert view.taints == (Taint(key="gpu", effect="NoSchedule"),)


def test_how_far_a_pod_is():
    pod = decode(
        Pod,
        {
            "status": {
                "initContainerStatuses": [{"name": "init", "state": {"terminated": {"reason": "Completed"}}}],
                "containerStatuses": [
                    {"name": "runs", "state": {"running": {"startedAt": "x"}}},
                    {
                        "name": "ran",
                        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                        "lastState": {"terminated": {}},
                    },
                    {"name": "never", "state": {"waiting": {"reason": "CreateContainerError"}}},
                    {"name": "soon", "state": {"waiting": {"reason": "ContainerCreating"}}},
                ],
            }
        },
    )
    assert pod.started == {"init", "runs", "ran"}
    assert set(pod.stuck) == {"ran", "never"}


@pytest.mark.parametrize(
    ("one", "other", "changes"),
    [
        ("web", "web", 0),
        ("web", "wbe", 1),
        ("web", "we", 1),
        ("web", "webs", 1),
        ("web", "wxb", 1),
        ("", "ab", 2),
    ],
)
def test_how_far_names_are_apart(one: str, other: str, changes: int):
    assert distance(one, other) == distance(other, one) == changes


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("wbe", "web"),
        ("webs", "web"),
        ("a", ""),
        ("database-writr", "database-writer"),
        ("databas-writr", "database-writer"),
        ("redis", ""),
        ("hauberk/no-muonts.json", "hauberk/no-mounts.json"),
    ],
)
def test_the_nearest_name(name: str, near: str):
    assert nearest(name, ["web", "db", "database-writer", "hauberk/no-mounts.json"]) == near


@given(st.text("abc", max_size=6), st.text("abc", max_size=6), st.text("abc", max_size=6))
def test_distance_is_zero_only_for_the_same_and_a_letter_costs_one_at_most(one: str, other: str, more: str):
    assert (distance(one, other) == 0) == (one == other)
    assert distance(one + more, one) == len(more)
    assert distance(one, other) <= max(len(one), len(other))


PROFILES = snapshot(
    {
        "profiles": {
            "web": {"defines": ["web", "web//sh", "other name"]},
            "draft": {
                "published": "nothing",
                "policy": '@{X}=/a\nprofile "new one" /bin/x flags=(complain) {\n}\n',
            },
            "held": {
                "suspend": True,
                "published": "older",
                "policy": "profile held { }\nprofile held-too { }",
            },
            "mod": {"type": "SELinux", "published": "nothing", "policy": "(block mod_a\n (type process))"},
            "calls": {"type": "Seccomp", "published": "nothing"},
            "app": {"type": "Seccomp", "defines": ["hauberk/app.json"]},
        },
        "pod": {},
    }
).profiles


@pytest.mark.parametrize(
    ("kind", "name", "profile", "published"),
    [
        (APPARMOR, "web", "web", True),
        (APPARMOR, "web//sh", "web", True),
        (APPARMOR, "other name", "web", True),
        (SECCOMP, "web", None, False),
        (APPARMOR, "new one", "draft", False),
        (APPARMOR, "new", None, False),
        (APPARMOR, "held", "held", True),
        (APPARMOR, "held-too", "held", False),
        (SELINUX, "mod_a.process", "mod", False),
        (SELINUX, "mod.process", None, False),
        (SECCOMP, "hauberk/calls.json", "calls", False),
        (SECCOMP, "hauberk/app.json", "app", True),
    ],
)
def test_who_defines_a_name(kind: str, name: str, profile: str | None, published: bool):
    found = definition(kind, name, PROFILES)
    assert (found and found.profile.metadata.name, bool(found and found.published)) == (profile, published)


@pytest.mark.parametrize(
    ("kind", "name", "guess"),
    [
        (SECCOMP, "app.json", ("hauberk/app.json", True)),
        (SECCOMP, "profiles/app", ("hauberk/app.json", True)),
        (SECCOMP, "hauberk/app", ("hauberk/app.json", True)),
        (SECCOMP, "hauberk/ap.json", ("hauberk/app.json", False)),
        (APPARMOR, "app", ("hauberk/app.json", True)),
        (APPARMOR, "wbe", ("web", False)),
        (SECCOMP, "web.json", None),
        (APPARMOR, "nothing-like-it", None),
    ],
)
def test_what_was_meant(kind: str, name: str, guess: tuple[str, bool] | None):
    found = meant(kind, name, PROFILES)
    assert (found and (found.name, found.sure)) == guess


@pytest.mark.parametrize(
    ("kind", "name", "foreign"),
    [
        (SELINUX, "container_t", True),
        (SELINUX, "web.process", False),
        (SECCOMP, "profiles/audit.json", True),
        (SECCOMP, "hauberk/audit.json", False),
        (APPARMOR, "docker-default", True),
        (APPARMOR, "web", False),
    ],
)
def test_names_that_are_none_of_hauberks(kind: str, name: str, foreign: bool):
    assert is_foreign(kind, name) == foreign


def test_what_a_node_still_holds_of_a_profile_that_is_gone():
    held = {"web": "x", "no-net.v2": "y"}
    assert profile_of_remains(APPARMOR, "web", held) == "web"
    assert profile_of_remains(SECCOMP, "hauberk/web.json", held) == "web"
    assert profile_of_remains(SELINUX, "no_net_v2.process", held) == "no-net.v2"
    assert profile_of_remains(SELINUX, "web", held) == ""
    assert profile_of_remains(APPARMOR, "db", held) == ""


# --- files ------------------------------------------------------------------------------------------------

SPEC = {
    "containers": [
        {
            "name": "app",
            "securityContext": {"appArmorProfile": {"type": "Localhost", "localhostProfile": "web"}},
        }
    ]
}
TEMPLATE = {"metadata": {"labels": {"a": "b"}, "creationTimestamp": None}, "spec": SPEC}


@pytest.mark.parametrize(
    ("body", "called"),
    [
        ({"kind": "Pod", "metadata": {"name": "web", "namespace": "shop"}, "spec": SPEC}, "web"),
        ({"kind": "Pod", "metadata": {"generateName": "web-"}, "spec": SPEC}, "web-"),
        (
            {"kind": "Deployment", "metadata": {"name": "web"}, "spec": {"template": TEMPLATE}},
            "Deployment web",
        ),
        (
            {
                "kind": "CronJob",
                "metadata": {"name": "web"},
                "spec": {"jobTemplate": {"spec": {"template": TEMPLATE}}},
            },
            "CronJob web",
        ),
        ({"kind": "List", "items": [{"kind": "Pod", "metadata": {"name": "x"}, "spec": SPEC}, None]}, "x"),
    ],
)
def test_pods_of_a_file(body: dict[str, Any], called: str):
    other = yaml.safe_dump({"kind": "Service", "metadata": {"name": "web"}})
    (pod,) = pods_of(f"{yaml.safe_dump(body)}---\n{other}---\n")
    assert pod.metadata.name == called
    assert [use.name for use in uses(pod)] == ["web"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "kind: Pod\nmetadata: {name: web}\nspec: {containers: none}\n",
            "Pod web has no pod that can be read",
        ),
        ("kind: Deployment\nmetadata: {name: web}\n", "Deployment web has no pod that can be read"),
        ("kind: [", "no YAML"),
    ],
)
def test_pods_that_can_not_be_read(text: str, message: str):
    with pytest.raises(UnreadableError, match=message):
        pods_of(text)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "name a pod, or files with -f"),
        (["web-0", "-f", "x.yaml"], "name a pod, or files with -f"),
        (["-f", "nowhere.yaml"], "nowhere.yaml: not there"),
        (["-f", "service.yaml"], "no pod, and nothing that makes pods, in service.yaml"),
        (["-f", "broken.yaml"], "broken.yaml:1: Pod web has no pod that can be read"),
    ],
)
def test_wrong_use(words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("service.yaml").write_text("apiVersion: v1\nkind: Service\n")
    Path("broken.yaml").write_text("apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: 3\n")
    done = CliRunner().invoke(app, ["why", *words])
    assert done.exit_code == 2
    assert said in done.stderr
