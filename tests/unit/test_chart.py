"""The Helm chart: it renders what kustomize builds, and values change what they say and nothing else."""

from __future__ import annotations

import json
import re
import shutil
import tarfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hauberk.operator.agent_settings import OnNodes, on_nodes

from tests.chart import (
    CHART,
    DEPLOY,
    KEEP,
    KEPT,
    KEPT_WITH_CRDS,
    ROOT,
    Key,
    Object,
    helm,
    helm_text,
    kustomize_text,
    names,
    objects,
    ok,
    without_keep,
)

VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
DIGEST = f"sha256:{'a' * 64}"


def rendered(**values: Any) -> dict[Key, Object]:
    return objects(helm_text(values))


@pytest.fixture(scope="module")
def default() -> dict[Key, Object]:
    return objects(helm_text())


def one(made: dict[Key, Object], kind: str, name: str) -> Object:
    (found,) = [each for each in made.values() if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


def pod(made: dict[Key, Object], name: str) -> dict[str, Any]:
    spec: dict[str, Any] = one(made, "Deployment", name)["spec"]["template"]["spec"]
    return spec


def environment(made: dict[Key, Object], name: str = "hauberk-operator") -> dict[str, str]:
    (container,) = pod(made, name)["containers"]
    return {each["name"]: each["value"] for each in container["env"] if "value" in each}


def kept(made: dict[Key, Object]) -> set[str]:
    return names(
        name for name, each in made.items() if each["metadata"].get("annotations", {}).get(KEEP) == "keep"
    )


def for_agents(made: dict[Key, Object]) -> OnNodes:
    """Return the settings as the operator reads them."""
    return on_nodes(environment(made))


# -- the same as kustomize ----------------------------------------------------------------------------------


def without_second_breaks(value: Any) -> Any:
    """Return a value with one line break where kustomize writes two: in folded text, before an indent."""
    if isinstance(value, dict):
        return {name: without_second_breaks(each) for name, each in value.items()}
    if isinstance(value, list):
        return [without_second_breaks(each) for each in value]
    return re.sub(r"\n+(?= )", "\n", value) if isinstance(value, str) else value


def test_it_renders_what_kustomize_builds(default: dict[Key, Object]):
    built = objects(kustomize_text())
    assert default.keys() == built.keys()
    for name, each in default.items():
        assert without_second_breaks(without_keep(each)) == without_second_breaks(built[name])
    # beside those breaks, all that differs
    assert kept(default) == KEPT | KEPT_WITH_CRDS


def test_what_an_uninstall_leaves_is_what_outlives_the_operator_in_kustomize():
    outliving: set[str] = set()
    for file in [*(DEPLOY / "namespace").glob("*.yaml"), *(DEPLOY / "crds").glob("*.yaml")]:
        made = [each for each in yaml.safe_load_all(file.read_text()) if each["kind"] != "Kustomization"]
        outliving |= {f"{each['kind']}/{each['metadata']['name']}" for each in made}
    crds = {name for name in KEPT_WITH_CRDS if name.startswith("CustomResourceDefinition/")}
    assert outliving == KEPT | KEPT_WITH_CRDS - crds


def test_helm_finds_nothing_wrong():
    said = ok(helm("lint", "--strict", str(CHART)))
    assert "[WARNING]" not in said
    assert "[ERROR]" not in said
    assert "1 chart(s) linted, 0 chart(s) failed" in said


def test_it_is_of_the_projects_version():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (VERSION, VERSION)


def test_a_cluster_that_is_too_old_is_refused():
    done = helm("template", "hauberk", str(CHART), "--kube-version=1.31.9")
    assert done.returncode != 0
    assert "kubeVersion" in done.stderr


def test_it_can_be_packaged(tmp_path: Path, default: dict[Key, Object]):
    """Also what links lead to, and of crds/ the manifests alone."""
    ok(helm("package", str(CHART), f"--destination={tmp_path}"))
    archive = tmp_path / f"hauberk-{VERSION}.tgz"
    with tarfile.open(archive) as packed:
        files = [each.name.removeprefix("hauberk/") for each in packed if each.isfile()]
    assert [name for name in files if name.endswith(".py")] == []
    assert {name for name in files if name.startswith("manifests/crds/")} == {
        f"manifests/crds/{file.name}"
        for file in (ROOT / "crds").glob("*.yaml")
        if file.stem != "kustomization"
    }
    assert objects(helm_text(chart=archive)) == default


def test_a_source_tree_without_its_links_is_refused(tmp_path: Path):
    chart = tmp_path / "chart"
    shutil.copytree(CHART, chart, symlinks=True)
    for link in (chart / "manifests").iterdir():
        assert link.is_symlink()
        link.unlink()
    done = helm("template", "hauberk", str(chart))
    assert done.returncode != 0
    assert "without its symbolic links. Use the packaged one" in done.stderr


# -- values -------------------------------------------------------------------------------------------------


def leaves(values: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each setting of values.yaml by its path."""
    for name, value in values.items():
        if isinstance(value, dict) and value and name not in {"nodeSelector", "resources"}:
            yield from leaves(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


def at(path: str, value: Any) -> dict[str, Any]:
    for name in reversed(path.split(".")):
        value = {name: value}
    return value


ANTI = {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}
OTHERS: dict[str, Any] = {
    "namespace.name": "elsewhere",
    "namespace.create": False,
    "crds.install": False,
    "crds.keep": False,
    "image.registry": "registry.example:5000",
    "image.repository": "team/hauberk",
    "image.tag": "9",
    "image.digest": DIGEST,
    "image.pullPolicy": "Always",
    "imagePullSecrets": [{"name": "pull"}],
    "logFormat": "text",
    **{
        f"{part}.{name}": value
        for part in ("operator", "admission")
        for name, value in {
            "replicas": 3,
            "priorityClassName": "mine",
            "nodeSelector": {"pool": "a"},
            "tolerations": [],
            "affinity": ANTI,
            "resources": {"limits": {"cpu": 1}},
        }.items()
    },
    "agents.healthPort": 1234,
    "agents.metricsPort": 0,
    "agents.kubeletDir": "/data/kubelet",
    "agents.selinuxPriority": 300,
    "agents.priorityClassName": "mine",
    "agents.tolerations": [],
    "agents.nodeSelector": {"pool": "a"},
    "agents.affinity": ANTI,
    "agents.resources": {"limits": {"memory": "1Gi"}},
    "agents.selinuxResources": {"limits": {"memory": "2Gi"}},
}


def test_each_setting_is_tried_below():
    assert [path for path, _ in leaves(VALUES)] == list(OTHERS)


@pytest.mark.parametrize("path", OTHERS)
def test_each_setting_changes_something_and_names_no_new_object(path: str, default: dict[Key, Object]):
    made = rendered(**at(path, OTHERS[path]))
    assert made != default
    if path != "namespace.name":
        assert made.keys() <= default.keys()


def test_the_image():
    def image(**image: Any) -> set[str]:
        made = rendered(image=image)
        return {pod(made, f"hauberk-{name}")["containers"][0]["image"] for name in ("operator", "admission")}

    assert image() == {f"hauberk.dev/hauberk:{VERSION}"}
    assert image(registry="r.example:5000", repository="a/b", tag="9") == {"r.example:5000/a/b:9"}
    assert image(registry="", tag="9") == {"hauberk:9"}
    assert image(registry="r.example/a/b", tag="9") == {"r.example/a/b/hauberk:9"}
    assert image(digest=DIGEST) == {f"hauberk.dev/hauberk:{VERSION}@{DIGEST}"}


def test_secrets_to_pull_with_are_for_both():
    made = rendered(imagePullSecrets=[{"name": "a"}, {"name": "b"}], image={"pullPolicy": "Never"})
    for name in ("hauberk-operator", "hauberk-admission"):
        assert pod(made, name)["imagePullSecrets"] == [{"name": "a"}, {"name": "b"}]
        assert pod(made, name)["containers"][0]["imagePullPolicy"] == "Never"


def test_all_write_their_logs_alike():
    for asked in ("json", "text"):
        made = rendered(logFormat=asked)
        told = [environment(made, f"hauberk-{name}")["LOG_FORMAT"] for name in ("operator", "admission")]
        assert told == [asked] * 2
        assert for_agents(made).log_format == asked


@pytest.mark.parametrize(("part", "other"), [("operator", "admission"), ("admission", "operator")])
def test_where_a_deployment_runs_and_what_it_may_use(part: str, other: str, default: dict[Key, Object]):
    tolerations = [{"key": "a", "operator": "Exists"}]
    said = {
        "priorityClassName": "",
        "nodeSelector": {"pool": "a"},
        "tolerations": tolerations,
        "affinity": ANTI,
        "resources": {"limits": {"memory": "1Gi"}},
        "replicas": 3,
    }
    made = rendered(**{part: said})
    before, spec = pod(default, f"hauberk-{part}"), pod(made, f"hauberk-{part}")
    assert one(made, "Deployment", f"hauberk-{part}")["spec"]["replicas"] == 3
    assert "priorityClassName" not in spec
    assert spec["nodeSelector"] == {"kubernetes.io/os": "linux", "pool": "a"}
    assert spec["tolerations"] == tolerations
    assert spec["affinity"] == ANTI
    requests = before["containers"][0]["resources"]["requests"]
    assert spec["containers"][0]["resources"] == {"requests": requests, "limits": {"memory": "1Gi"}}
    assert pod(made, f"hauberk-{other}") == pod(default, f"hauberk-{other}")


def test_one_admission_holds_up_no_drain():
    budget = ("policy/v1", "PodDisruptionBudget", "hauberk-system", "hauberk-admission")
    assert budget in rendered()
    assert budget not in rendered(admission={"replicas": 1})


def test_another_namespace_is_meant_everywhere():
    made = rendered(namespace={"name": "elsewhere"})
    assert "hauberk-system" not in json.dumps(list(made.values()))
    assert {space for _, _, space, _ in made} == {"", "elsewhere"}
    assert one(made, "Namespace", "elsewhere")


def test_a_namespace_that_is_there_is_left_alone(default: dict[Key, Object]):
    made = rendered(namespace={"create": False})
    assert names(default.keys() - made.keys()) == {"Namespace/hauberk-system"}


def test_crds_that_are_somebody_elses(default: dict[Key, Object]):
    made = rendered(crds={"install": False})
    assert names(default.keys() - made.keys()) == KEPT_WITH_CRDS
    assert kept(made) == KEPT


def test_crds_that_go_with_the_release():
    assert kept(rendered(crds={"keep": False})) == KEPT


def test_what_agents_are_told_is_what_the_operator_understands():
    assert for_agents(rendered()) == OnNodes(log_format="json")
    term = {"matchExpressions": [{"key": "pool", "operator": "Exists"}]}
    agents = {
        "healthPort": 1234,
        "metricsPort": 0,
        "kubeletDir": "/data/kubelet",
        "selinuxPriority": 300,
        "priorityClassName": "mine",
        "tolerations": [{"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 0}],
        "nodeSelector": {"pool": "a"},
        "affinity": {
            "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
        },
        "resources": {"requests": {"cpu": 0.5}, "limits": {"memory": "1.5Gi"}},
        "selinuxResources": {"limits": {"memory": "2Gi"}},
    }
    pods = {
        name: value
        for name, value in agents.items()
        if name not in {"healthPort", "metricsPort", "kubeletDir", "selinuxPriority"}
    }
    assert for_agents(rendered(agents=agents, logFormat="text")) == on_nodes(
        {
            "AGENT_HEALTH_PORT": "1234",
            "AGENT_METRICS_PORT": "0",
            "KUBELET_DIR": "/data/kubelet",
            "SELINUX_PRIORITY": "300",
            "AGENT_PODS": json.dumps(pods),
            "LOG_FORMAT": "text",
        }
    )


def test_agents_can_be_told_to_tolerate_nothing():
    assert for_agents(rendered(agents={"tolerations": []})).pods.tolerations == []


BAD = [
    ("unknown", {}, "additional properties 'unknown' not allowed"),
    ("image.version", "1", "additional properties 'version' not allowed"),
    ("image.tag", 1.0, "got number, want null or string"),
    ("image.tag", "a b", "does not match pattern"),
    ("image.registry", "https://r.example", "does not match pattern"),
    ("image.repository", "Hauberk", "does not match pattern"),
    ("image.digest", "sha256:abc", "does not match pattern"),
    ("image.pullPolicy", "Sometimes", "must be one of 'Always', 'IfNotPresent', 'Never'"),
    ("imagePullSecrets", ["pull"], "got string, want object"),
    ("namespace.name", "Hauberk", "does not match pattern"),
    ("namespace.create", "yes", "got string, want boolean"),
    ("crds.keep", "true", "got string, want boolean"),
    ("crds.install", None, "missing property 'install'"),
    ("operator.replicas", "2", "got string, want integer"),
    ("operator.replicas", -1, "minimum: got -1, want 0"),
    ("admission.toleration", [], "additional properties 'toleration' not allowed"),
    ("admission.tolerations", {}, "got object, want null or array"),
    ("operator.tolerations", [{"operator": "Is"}], "must be one of 'Exists', 'Equal'"),
    ("operator.nodeSelector", {"a": True}, "got boolean, want string"),
    ("operator.affinity", {"nodes": {}}, "additional properties 'nodes' not allowed"),
    ("operator.resources", {"limit": {}}, "additional properties 'limit' not allowed"),
    ("agents.resources", {"limits": {"memory": "64 Mi"}}, "does not match pattern"),
    ("agents.selinuxResources", {"limits": {"memory": True}}, "got boolean, want string"),
    ("agents.healthPort", 0, "minimum: got 0, want 1"),
    ("agents.healthPort", "9797", "got string, want integer"),
    ("agents.metricsPort", -1, "minimum: got -1, want 0"),
    ("logFormat", "xml", "must be one of 'json', 'text'"),
    ("agents.kubeletDir", "data/kubelet", "does not match pattern"),
    ("agents.selinuxPriority", 1000, "maximum: got 1,000, want 999"),
    ("agents.replicas", 2, "additional properties 'replicas' not allowed"),
    ("agents.nodeSelector", {"hauberk.dev/agent": "selinux"}, "/agents/nodeSelector/hauberk.dev~1agent"),
    ("agents.nodeSelector", {"kubernetes.io/os": "windows"}, "value must be 'linux'"),
    (
        "agents.affinity",
        {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{}]}}},
        "minProperties: got 0, want 1",
    ),
]


@pytest.mark.parametrize(("path", "value", "said"), BAD)
def test_what_can_not_be_meant_is_refused(path: str, value: Any, said: str):
    done = helm("template", "hauberk", str(CHART), values=at(path, value))
    assert done.returncode != 0
    assert "values don't meet the specifications of the schema" in done.stderr
    assert said in done.stderr


# -- the page -----------------------------------------------------------------------------------------------


def test_the_page_has_each_setting_with_its_default():
    page = (ROOT / "docs" / "how-to" / "install.md").read_text()
    rows = re.findall(r"^\| `([A-Za-z.]+)` \| (.+?) \|", page, re.MULTILINE)
    told = {path: yaml.safe_load(value.strip("`")) for path, value in rows}
    deployments = {
        path.replace("operator.", "admission."): value
        for path, value in told.items()
        if path.startswith("operator.")
    }
    assert {**deployments, **told} == dict(leaves(VALUES))
