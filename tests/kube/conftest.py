"""A real API server with Hauberk's CRDs, for all tests of this folder.

It is started once a run, without nodes; the tests tell their objects apart by name. About 6 s.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tenacity
import yaml
from hauberk.crds.names import ADMISSION, ADMISSION_AUTHORITY, GROUP, OPERATOR, SECURITY_PROFILES, VERSION
from hauberk.operator.webhook import REVIEW_PATH
from kubernetes import client, config

from lab import binaries
from lab.controlplane import ControlPlane
from tests.kube.accounts import SYSTEM, Accounts
from tests.kube.operating import Cluster, eventually

CRDS = Path(__file__).parents[2] / "crds"
DEPLOY = Path(__file__).parents[2] / "deploy"


@dataclass(frozen=True)
class Said:
    """How a run of kubectl ended and what it printed."""

    code: int
    stdout: str
    stderr: str

    @property
    def object(self) -> dict[str, Any]:
        """What it printed, if it was asked for `-o json`."""
        return json.loads(self.stdout)


@dataclass(frozen=True)
class Kubectl:
    """kubectl with one kubeconfig, called like a function."""

    program: str
    kubeconfig: Path
    cache: Path

    def __call__(self, *words: str, given: dict[str, Any] | str | None = None) -> Said:
        """Run `kubectl WORDS` with the document `given` (a dict is sent as JSON) on its standard input."""
        done = subprocess.run(
            [self.program, f"--kubeconfig={self.kubeconfig}", f"--cache-dir={self.cache}", *words],
            input=json.dumps(given) if isinstance(given, dict) else given or "",
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        return Said(done.returncode, done.stdout, done.stderr)

    def ok(self, *words: str, given: dict[str, Any] | str | None = None) -> Said:
        """Do the same where a failure is a failure of the test."""
        said = self(*words, given=given)
        assert said.code == 0, f"kubectl {' '.join(words)}: {said.stderr}"
        return said


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have the tests of the kinds alone come first: programs that a test has begun run on after it.

    And then the longest file: where files are shared out, others are done beside it.
    """
    first = ("test_crds.py", "test_scale.py")
    items.sort(key=lambda item: first.index(name) if (name := item.path.name) in first else len(first))


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Run etcd and kube-apiserver for as long as the tests take."""
    found = binaries.find()
    if found is None:
        pytest.fail("no kube-apiserver: run `python -m lab binaries`, or name a folder in KUBEBUILDER_ASSETS")
    with ControlPlane.local(tmp_path_factory.mktemp("kube"), found) as running:
        yield running


def wait_served(kubectl: Kubectl) -> None:
    """Return when the API server serves the three kinds, and can describe them."""
    kubectl.ok("wait", "crd", "--all", "--for=condition=Established", "--timeout=30s")
    _wait_described(kubectl)


def _wait_described(kubectl: Kubectl) -> None:
    """Return when the API server's OpenAPI has the three kinds, about a second after they are served."""
    for attempt in tenacity.Retrying(stop=tenacity.stop_after_delay(30), wait=tenacity.wait_fixed(0.1)):
        with attempt:
            described = kubectl.ok("get", "--raw", "/openapi/v3/apis/hauberk.dev/v1alpha1").object
            kinds = {name.rpartition(".")[2] for name in described["components"]["schemas"]}
            assert {"SecurityProfile", "ProfileRevision", "ProfileNode"} <= kinds


@pytest.fixture(scope="session")
def kubectl(control_plane: ControlPlane) -> Kubectl:
    """Return kubectl for an API server that serves Hauberk's kinds; each of them can be asked for."""
    own = control_plane.binaries / "kubectl"
    program = str(own) if own.exists() else shutil.which("kubectl")
    if program is None:
        pytest.fail("no kubectl, neither beside kube-apiserver nor on the PATH")
    folder = control_plane.folder
    first = Kubectl(program, control_plane.kubeconfig, folder / "cache-before-crds")
    first.ok("apply", "-k", str(CRDS))
    wait_served(first)
    # kubectl keeps what the server offers for ten minutes and looks a short name up in that alone
    return Kubectl(program, control_plane.kubeconfig, folder / "cache")


@pytest.fixture(scope="session")
def api(kubectl: Kubectl, control_plane: ControlPlane) -> Iterator[client.CustomObjectsApi]:
    """Return the Python client, for tests that make many requests: ten times as quick as kubectl."""
    del kubectl  # it is asked for because it brings the CRDs
    with config.new_client_from_config(str(control_plane.kubeconfig)) as connection:
        yield client.CustomObjectsApi(connection)


@pytest.fixture(scope="session")
def accounts(kubectl: Kubectl, control_plane: ControlPlane, api: client.CustomObjectsApi) -> Accounts:
    """Put all of deploy/ onto the API server, where nobody makes a pod of a Deployment."""
    deploy(kubectl)
    return Accounts(control_plane, client.CoreV1Api(api.api_client))


def deploy(kubectl: Kubectl) -> None:
    """Apply deploy/, but for the webhook's configuration: where it leads nobody listens here."""
    kubectl.ok("apply", "-k", str(DEPLOY))
    kubectl.ok("delete", f"validatingwebhookconfiguration/{ADMISSION}")


@pytest.fixture(scope="session")
def programs(
    accounts: Accounts, api: client.CustomObjectsApi, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """Operator and admission with their own rights only; they run from test to test, as they start slowly."""
    made = Cluster(api, accounts.core, tmp_path_factory.mktemp("programs"))
    yield made
    made.stop()


def enrol(cluster: Cluster, accounts: Accounts) -> None:
    """Give the programs tokens of their accounts, which may have been deleted and made again."""
    for account in (OPERATOR, ADMISSION):
        token = accounts.token(account, SYSTEM)
        may_list = ("GET", f"/apis/{GROUP}/{VERSION}/{SECURITY_PROFILES}")
        eventually(lambda token=token, may=may_list: accounts.ask(token, *may) == 200)
        (cluster.folder / f"{account}.kubeconfig").write_text(json.dumps(accounts.kubeconfig(token)))


@pytest.fixture
def cluster(programs: Cluster, accounts: Accounts) -> Iterator[Cluster]:
    """An API server and two nodes with AppArmor; operator and admission run."""
    made = programs
    made.forget()
    for node in ("one", "two"):
        made.node(node)
        made.report(node)
    if not made.pids():
        enrol(made, accounts)
    made.start()
    pids = made.pids()
    yield made
    if made.pids() != pids:  # a test that ends programs may leave anything behind
        made.stop()
    made.clear()
    said = made.log.read_text() + made.admission_log.read_text()
    assert not [word for word in made.taboo if word in said], said


def authority(cluster: Cluster) -> str:
    """Return what the admission shows the operator, for it to have the API server trust; '' before it did."""
    try:
        shown: Any = cluster.core.read_namespaced_config_map(ADMISSION_AUTHORITY, SYSTEM)
    except client.ApiException as error:
        if error.status != 404:
            raise
        return ""
    return (shown.data or {}).get("ca.crt", "")


@pytest.fixture
def webhook(cluster: Cluster, kubectl: Kubectl) -> Iterator[Cluster]:
    """The same, with the API server asking the admission, at an address of this machine's loopback."""
    shipped = yaml.safe_load((DEPLOY / "operator" / "webhook.yaml").read_text())
    # the operator would write the bundle as well, after up to 5 s
    bundle = {"caBundle": base64.b64encode(known.encode()).decode()} if (known := authority(cluster)) else {}
    for one in shipped["webhooks"]:
        one["clientConfig"] = {"url": f"https://localhost:{cluster.port}{REVIEW_PATH}", **bundle}
    kubectl.ok("apply", "-f", "-", given=shipped)
    probe = {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "SecurityProfile",
        "metadata": {"name": "probe"},
        "spec": {"type": "AppArmor", "appArmor": {"policy": "broken"}},
    }
    # until it is known by its authority, and the API server's watch has seen the configuration
    eventually(
        lambda: "refuses the policy" in kubectl("apply", "--dry-run=server", "-f", "-", given=probe).stderr
    )
    yield cluster
    kubectl.ok("delete", f"validatingwebhookconfiguration/{ADMISSION}")
