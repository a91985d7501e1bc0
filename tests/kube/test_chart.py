"""The chart on a real API server: what Kubernetes says of it, and that Helm comes, changes and goes well."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from hauberk.crds.names import ADMISSION
from hauberk.operator.agent_settings import on_nodes
from hauberk.operator.agents import Settings, manifests

from lab.controlplane import ControlPlane
from tests.chart import (
    CHART,
    KEPT,
    KEPT_WITH_CRDS,
    Object,
    helm,
    helm_text,
    key,
    kustomize_text,
    names,
    objects,
    ok,
    tool,
)
from tests.kube.conftest import Kubectl, deploy, wait_served
from tests.kube.operating import GROUP, VERSION, Cluster, eventually, publish
from tests.kube.test_leaving import FINALIZERS, finalizers

SYSTEM = "hauberk-system"
# of the release's record
PLACE = "--namespace=kube-system"
# One of everything that an administrator may set.
FULL: dict[str, Any] = {
    "imagePullSecrets": [{"name": "pull"}],
    "image": {"digest": f"sha256:{'a' * 64}"},
    "agents": {
        "priorityClassName": "mine",
        "tolerations": [
            {"key": "a", "operator": "Equal", "value": "b", "effect": "NoSchedule"},
            {"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 0},
        ],
        "nodeSelector": {"pool": "a"},
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [
                        {"matchExpressions": [{"key": "pool", "operator": "In", "values": ["a"]}]},
                        {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]},
                    ]
                },
                "preferredDuringSchedulingIgnoredDuringExecution": [
                    {"weight": 1, "preference": {"matchExpressions": [{"key": "a", "operator": "Exists"}]}}
                ],
            }
        },
        "resources": {"requests": {"cpu": "5m"}, "limits": {"memory": "1.5Gi", "cpu": 2}},
        "selinuxResources": {"limits": {"memory": "2Gi"}},
    },
}


def for_agents(values: dict[str, Any]) -> str:
    """Return the agents' DaemonSets as the operator makes them of these values, as JSON."""
    said = on_nodes({"AGENT_PODS": json.dumps(values.get("agents", {}))})
    made = manifests(Settings(SYSTEM, "image", "uid", on_nodes=said))
    return "\n---\n".join(json.dumps(one) for one in made.values())


# -- what Kubernetes says of the manifests --------------------------------------------------------------


@dataclass(frozen=True)
class Schemas:
    """The API server's own schemas, as files for kubeconform."""

    folder: Path

    def say(self, text: str) -> subprocess.CompletedProcess[str]:
        """Hold a stream of YAML against them."""
        location = "{{.ResourceKind}}-{{.Group}}-{{.ResourceAPIVersion}}.json"
        return subprocess.run(
            [tool("kubeconform"), "-strict", "-summary", f"-schema-location={self.folder}/{location}"],
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )


def closed(schema: Any) -> Any:
    """Return a schema that refuses the fields it does not know, as `kubectl apply` does."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: closed(one) for name, one in schema.items()}
    if isinstance(made.get("properties"), dict) and "additionalProperties" not in made:
        made["additionalProperties"] = False
    return made


@pytest.fixture(scope="module")
def schemas(kubectl: Kubectl, tmp_path_factory: pytest.TempPathFactory) -> Schemas:
    """Take the schemas of the versions that the manifests use from the API server's OpenAPI."""
    folder = tmp_path_factory.mktemp("schemas")
    versions = {version for version, *_ in objects(kustomize_text())}
    for path in [f"apis/{version}" if "/" in version else f"api/{version}" for version in versions]:
        described = closed(kubectl.ok("get", "--raw", f"/openapi/v3/{path}").object["components"])
        for name, schema in described["schemas"].items():
            for kind in schema.get("x-kubernetes-group-version-kind", []):
                group = (
                    kind["group"] or kind["version"]
                )  # kubeconform's word for the first part of apiVersion
                file = folder / f"{kind['kind'].lower()}-{group}-{kind['version']}.json"
                file.write_text(json.dumps({"$ref": f"#/components/schemas/{name}", "components": described}))
    return Schemas(folder)


TEXTS = {
    "kustomize": kustomize_text,
    "helm": helm_text,
    "helm-with-everything-set": lambda: helm_text(FULL),
    "agents": lambda: for_agents({}),
    "agents-with-everything-set": lambda: for_agents(FULL),
}


@pytest.mark.parametrize("made", TEXTS)
def test_manifests_are_as_the_schemas_of_kubernetes_say(schemas: Schemas, made: str):
    text = TEXTS[made]()
    said = schemas.say(text)
    assert said.returncode == 0, said.stdout + said.stderr
    number = len([one for one in yaml.safe_load_all(text) if one])
    assert f"{number} resources found" in said.stdout
    assert f"Valid: {number}, Invalid: 0, Errors: 0, Skipped: 0" in said.stdout


@pytest.mark.parametrize(
    ("planted", "said"),
    [
        (("minAvailable: 1", "minAvailabel: 1"), "minAvailabel"),
        (("replicas: 2", 'replicas: "2"'), "want integer"),
        (("kind: PodDisruptionBudget", "kind: PodDisruptedBudget"), "could not find schema"),
    ],
)
def test_what_they_do_not_say_is_found(schemas: Schemas, planted: tuple[str, str], said: str):
    text = kustomize_text()
    assert planted[0] in text
    done = schemas.say(text.replace(*planted))
    assert done.returncode != 0
    assert said in done.stdout


@pytest.mark.parametrize("made", TEXTS)
@pytest.mark.usefixtures("accounts")  # deploy/ is there, and so the namespace
def test_the_api_server_takes_them(kubectl: Kubectl, made: str):
    said = kubectl(
        "apply", "--dry-run=server", "--server-side", "--force-conflicts", "--validate=strict", "-f-",
        given=TEXTS[made](),
    )  # fmt: skip
    assert said.code == 0, said.stderr


# -- a release ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Release:
    """Hauberk on the API server as a release of Helm's."""

    cluster: Cluster
    kubectl: Kubectl

    def helm(self, verb: str, *words: str, values: dict[str, Any] | None = None) -> str:
        """Run a verb of helm's on the release and return what it printed."""
        return ok(helm(verb, "hauberk", *words, PLACE, values=values, kubeconfig=self.kubectl.kubeconfig))

    def quiet(self) -> None:
        """Take the webhook's configuration away: where it leads nobody listens here."""
        self.kubectl.ok("delete", f"validatingwebhookconfiguration/{ADMISSION}")

    def live(self) -> list[Object]:
        """Return the chart's objects as the API server has them, those that are there."""
        listed = self.kubectl.ok("get", "-f-", "--ignore-not-found", "-ojson", given=helm_text()).stdout
        return json.loads(listed)["items"] if listed else []

    def there(self) -> set[str]:
        """Return which of the chart's objects are on the API server, as kind/name."""
        return {f"{one['kind']}/{one['metadata']['name']}" for one in self.live()}


@pytest.fixture
def release(cluster: Cluster, kubectl: Kubectl) -> Iterator[Release]:
    """Take over by Helm what kustomize has installed; afterwards that is put back."""
    cluster.taboo = ()
    made = Release(cluster, kubectl)
    made.helm("install", str(CHART), "--take-ownership")
    made.quiet()
    yield made
    cluster.stop()
    made.helm("uninstall", "--ignore-not-found")
    deploy(kubectl)
    wait_served(kubectl)


def test_helm_takes_over_what_kustomize_installed(release: Release):
    """Nothing is made anew: the SecurityProfiles are of the same installation, and stay."""
    status = json.loads(release.helm("status", "-ojson"))
    assert status["info"]["status"] == "deployed"
    notes = status["info"]["notes"]
    assert "kubectl wait --for=condition=Ready secprof --all --timeout=5m" in notes
    assert "helm uninstall hauberk -n kube-system" in notes
    assert "Hauberk stops; the objects, and profiles on the nodes, stay." in notes


def test_an_operator_that_helm_takes_away_lets_everything_go(release: Release):
    cluster = release.cluster
    publish(cluster, "free")
    cluster.api.patch_cluster_custom_object(
        GROUP, VERSION, "securityprofiles", "free", {"metadata": {"finalizers": [*FINALIZERS, "test/other"]}}
    )
    publish(cluster, "deleted")
    cluster.delete("securityprofiles", "deleted")
    eventually(lambda: cluster.revisions("deleted")[0]["spec"]["placement"]["withdrawn"])

    release.helm("uninstall")
    cluster.stop()

    assert finalizers(cluster, "free") == ["test/other"]
    assert not cluster.revisions("free")[0]["spec"]["placement"]["withdrawn"]
    assert cluster.is_gone("securityprofiles", "deleted")
    assert release.there() == KEPT | KEPT_WITH_CRDS

    installation = cluster.installation()
    release.helm("install", str(CHART))  # what was left is known as its own
    release.quiet()
    assert cluster.installation() == installation
    assert finalizers(cluster, "free") == ["test/other"]


def test_crds_that_go_with_the_release_take_nothing_from_the_nodes(release: Release):
    cluster = release.cluster
    release.helm("upgrade", str(CHART), values={"crds": {"keep": False}})
    release.quiet()
    publish(cluster, "going")

    release.helm("uninstall")
    cluster.stop()

    release.kubectl.ok("wait", "crd/securityprofiles.hauberk.dev", "--for=delete", "--timeout=30s")
    assert release.there() == KEPT


def test_crds_are_kept_where_the_chart_does_not_make_them_any_more(release: Release):
    installation = release.cluster.installation()
    release.helm("upgrade", str(CHART), values={"crds": {"install": False}})
    release.quiet()
    assert release.cluster.installation() == installation
    assert release.there() >= KEPT | KEPT_WITH_CRDS


def older(folder: Path) -> Path:
    """Return the chart as it was before SecurityProfiles had `suspend`, say."""
    chart = folder / "chart"
    shutil.copytree(CHART, chart, ignore=shutil.ignore_patterns("__pycache__", "*.py"))
    file = chart / "manifests" / "crds" / "securityprofiles.yaml"
    definition = yaml.safe_load(file.read_text())
    del definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"][
        "suspend"
    ]
    file.write_text(yaml.safe_dump(definition))
    return chart


def test_an_upgrade_brings_the_crds_and_leaves_what_programs_wrote(release: Release, tmp_path: Path):
    kubectl = release.kubectl

    def has_suspend() -> bool:
        got = kubectl.ok("get", "crd/securityprofiles.hauberk.dev", "-ojson").object
        schema = got["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        return "suspend" in schema["properties"]["spec"]["properties"]

    release.cluster.stop()  # both keep what follows themselves
    installation = release.cluster.installation()
    release.helm("upgrade", str(older(tmp_path)))
    assert not has_suspend()
    private, bundle = (base64.b64encode(one).decode() for one in (b"key", b"bundle"))
    written = {
        f"secret/{ADMISSION}": {"data": {"tls.key": private}},
        "configmap/hauberk-admission-authority": {"data": {"ca.crt": "shown"}},
    }
    for name, change in written.items():
        kubectl.ok("patch", name, f"-n{SYSTEM}", "--type=merge", f"-p={json.dumps(change)}")
    path = "/webhooks/0/clientConfig/caBundle"
    patch = [{"op": "add", "path": path, "value": bundle}]
    webhook = f"validatingwebhookconfiguration/{ADMISSION}"
    kubectl.ok("patch", webhook, "--type=json", f"-p={json.dumps(patch)}")

    # with what the admission may have written before it was stopped
    held = {name: kubectl.ok("get", name, f"-n{SYSTEM}", "-ojson").object["data"] for name in written}

    release.helm("upgrade", str(CHART))

    assert has_suspend()
    assert release.cluster.installation() == installation
    for name, change in written.items():
        assert kubectl.ok("get", name, f"-n{SYSTEM}", "-ojson").object["data"] == held[name]
        assert change["data"].items() <= held[name].items()
    got = kubectl.ok("get", webhook, "-ojson").object
    assert got["webhooks"][0]["clientConfig"]["caBundle"] == bundle
    release.quiet()


# -- the first install ----------------------------------------------------------------------------------


@pytest.fixture
def bare(control_plane: ControlPlane, kubectl: Kubectl, tmp_path: Path) -> Iterator[Kubectl]:
    """Return kubectl for an API server of its own that has never seen Hauberk."""
    with ControlPlane.local(tmp_path, control_plane.binaries) as running:
        yield Kubectl(kubectl.program, running.kubeconfig, tmp_path / "cache")


def test_a_cluster_that_never_saw_hauberk(bare: Kubectl):
    def install(*words: str, **values: Any) -> subprocess.CompletedProcess[str]:
        return helm("install", "hauberk", str(CHART), *words, values=values, kubeconfig=bare.kubeconfig)

    # Helm would make the namespace bare, and then fail to make it
    refused = install(f"--namespace={SYSTEM}", "--create-namespace")
    assert refused.returncode != 0
    assert "the chart makes the namespace hauberk-system itself" in refused.stderr
    assert bare("get", f"namespace/{SYSTEM}").code != 0
    # where that is meant it can be had
    own = {"name": "own", "create": False}
    said = ok(install("--namespace=own", "--create-namespace", "--dry-run=server", namespace=own))
    assert "kubectl label namespace own pod-security.kubernetes.io/enforce=privileged" in said

    ok(install(PLACE))

    release = Release(cast("Cluster", None), bare)
    rendered = objects(helm_text())
    assert release.there() == names(rendered)
    for one in release.live():
        del one["metadata"]["annotations"]["meta.helm.sh/release-name"]
        del one["metadata"]["annotations"]["meta.helm.sh/release-namespace"]
        assert one["metadata"]["labels"].pop("app.kubernetes.io/managed-by") == "Helm"
        if one["kind"] != "Namespace":
            wanted = rendered[key(one)]["metadata"]
            for what in ("labels", "annotations"):  # nothing else of Helm's own
                assert one["metadata"][what] == wanted.get(what, {})
    labels = bare.ok("get", f"namespace/{SYSTEM}", "-ojson").object["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "privileged"
    bare.ok("wait", "crd", "--all", "--for=condition=Established", "--timeout=30s")
