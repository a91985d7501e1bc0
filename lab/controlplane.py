"""etcd, kube-apiserver, kube-controller-manager and kube-scheduler of one cluster.

cluster.py runs all four inside a lab's network namespace. Tests use it by itself, without root,
nodes or namespaces:

    with ControlPlane.local(tmp_path, binaries) as control_plane:
        subprocess.run(["kubectl", "--kubeconfig", control_plane.kubeconfig, "get", "namespaces"])

`binaries` is the folder that holds kube-apiserver (lab.binaries.find() looks for it where
KUBEBUILDER_ASSETS says and in the cache; None if it is in neither). etcd is taken from there or from
PATH. `components=CONTROL_PLANE` adds the controller manager and the scheduler, for a test that needs
service accounts, garbage collection or DaemonSet pods to appear by themselves. Ports are free ones of
127.0.0.1; it takes about 4 s to ready and leaves nothing behind, not even when the tests are killed.
"""

import contextlib
import shutil
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tenacity

from lab import process
from lab.errors import FailedError, UnmetError, UsageError
from lab.process import Process

if TYPE_CHECKING:
    from lab.credentials import Credentials

ETCD = "etcd"
APISERVER = "kube-apiserver"
CONTROLLER = "kube-controller-manager"
SCHEDULING = "kube-scheduler"
CONTROL_PLANE = (ETCD, APISERVER, CONTROLLER, SCHEDULING)

SERVICE_RANGE = "10.96.0.0/16"
SERVICE_ADDRESS = "10.96.0.1"
POD_RANGE = "10.244.0.0/16"
# How long a silent node stays Ready; Kubernetes' own 50 s make every test of a lost node slow. Four
# times the kubelet's own period, see node.py.
NODE_GRACE = "16s"
READY_SECONDS = 60.0


@dataclass(frozen=True)
class Listening:
    """Where the four programs listen: one address, a port each."""

    address: str = "127.0.0.1"
    apiserver: int = 6443
    etcd: int = 2379
    etcd_peer: int = 2380
    controller: int = 10257
    scheduler: int = 10259

    @property
    def server(self) -> str:
        """The API server's URL."""
        return f"https://{self.address}:{self.apiserver}"


@dataclass(frozen=True)
class Files:
    """The files that the programs are started with."""

    data: Path
    authority: Path
    certificate: Path
    key: Path
    service_account_key: Path
    service_account_public: Path
    controller_kubeconfig: Path
    scheduler_kubeconfig: Path


def etcd_flags(at: Listening, files: Files) -> list[str]:
    """Return etcd's arguments: one member, local only, no waiting for the disk (throwaway)."""
    client, peer = f"http://127.0.0.1:{at.etcd}", f"http://127.0.0.1:{at.etcd_peer}"
    return [
        f"--data-dir={files.data}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def apiserver_flags(at: Listening, files: Files) -> list[str]:
    """Return kube-apiserver's arguments.

    Node and RBAC authorization and the admission plugins are as kubeadm has them. Webhooks are dialled
    at their endpoints, because the service range leads nowhere from where the API server runs.
    """
    return [
        f"--advertise-address={at.address}",
        f"--bind-address={at.address}",
        f"--secure-port={at.apiserver}",
        f"--etcd-servers=http://127.0.0.1:{at.etcd}",
        f"--tls-cert-file={files.certificate}",
        f"--tls-private-key-file={files.key}",
        f"--client-ca-file={files.authority}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--anonymous-auth=true",
        "--allow-privileged=true",
        f"--service-cluster-ip-range={SERVICE_RANGE}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={files.service_account_public}",
        f"--service-account-signing-key-file={files.service_account_key}",
        "--kubelet-preferred-address-types=InternalIP",
        # the kubelets' serving certificates are signed by this cluster's authority, see node.py
        f"--kubelet-certificate-authority={files.authority}",
        f"--kubelet-client-certificate={files.authority.parent / 'admin.crt'}",
        f"--kubelet-client-key={files.authority.parent / 'admin.key'}",
        "--enable-aggregator-routing=true",
        "--endpoint-reconciler-type=lease",
        "--profiling=false",
    ]


def controller_flags(at: Listening, files: Files) -> list[str]:
    """Return kube-controller-manager's arguments; the lab itself gives each node its pod range."""
    return [
        f"--kubeconfig={files.controller_kubeconfig}",
        "--bind-address=127.0.0.1",
        f"--secure-port={at.controller}",
        f"--root-ca-file={files.authority}",
        f"--service-account-private-key-file={files.service_account_key}",
        "--use-service-account-credentials=true",
        "--allocate-node-cidrs=false",
        f"--node-monitor-grace-period={NODE_GRACE}",
        "--node-monitor-period=2s",
        "--leader-elect=false",
        "--profiling=false",
    ]


def scheduler_flags(at: Listening, files: Files) -> list[str]:
    """Return kube-scheduler's arguments."""
    return [
        f"--kubeconfig={files.scheduler_kubeconfig}",
        "--bind-address=127.0.0.1",
        f"--secure-port={at.scheduler}",
        "--leader-elect=false",
        "--profiling=false",
    ]


FLAGS = {
    ETCD: etcd_flags,
    APISERVER: apiserver_flags,
    CONTROLLER: controller_flags,
    SCHEDULING: scheduler_flags,
}


def open_credentials(folder: Path) -> "Credentials":
    """Return the keys in a folder, made if there are none."""
    # imported late: `exec` is called hundreds of times, never needs a key and starts quicker without
    from lab.credentials import Credentials  # noqa: PLC0415

    return Credentials(folder)


def free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 that nobody listens on now."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


class ControlPlane:
    """The control plane whose keys, data and logs are in `folder`.

    `enter` is put before each command (a lab enters its network namespace with it). The caller may fill
    `running` with processes of an earlier command, which are then not started again. `flags` are put after
    kube-apiserver's own.
    """

    def __init__(  # noqa: PLR0913 - most are given by name
        self,
        folder: Path,
        binaries: Path,
        at: Listening,
        *,
        enter: Sequence[str] = (),
        tied: bool = False,
        flags: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.binaries = binaries
        self.at = at
        self.enter = tuple(enter)
        self.flags = tuple(flags)
        self.running: dict[str, Process] = {}
        self.tied = tied
        self.credentials = open_credentials(folder / "keys")
        self.kubeconfig = folder / "admin.kubeconfig"
        self.files = self._files()

    @classmethod
    @contextlib.contextmanager
    def local(
        cls,
        folder: Path,
        binaries: Path,
        components: Sequence[str] = (ETCD, APISERVER),
        flags: Sequence[str] = (),
    ) -> "Generator[ControlPlane]":
        """Run these components on free ports of 127.0.0.1 and yield when the API is ready.

        `folder` keeps keys, data and logs and is the caller's to remove (tmp_path does it); `flags` are
        further ones of kube-apiserver. Everything started is stopped at the end. Raises UnmetError if a
        program is missing, FailedError with the end of its log if one does not come up.
        """
        control_plane = cls(folder, binaries, Listening("127.0.0.1", *free_ports(5)), tied=True, flags=flags)
        try:
            control_plane.start(components)
            yield control_plane
        finally:
            control_plane.stop()

    def _files(self) -> Files:
        from lab.credentials import ADMIN, CONTROLLER_MANAGER, SCHEDULER  # noqa: PLC0415 - see below

        names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
        addresses = list(dict.fromkeys(["127.0.0.1", SERVICE_ADDRESS, self.at.address]))
        certificate, key = self.credentials.serving("apiserver", names, addresses)
        server = self.at.server
        self.credentials.kubeconfig(ADMIN, server, self.kubeconfig)
        return Files(
            data=self.folder / "etcd",
            authority=self.credentials.authority,
            certificate=certificate,
            key=key,
            service_account_key=self.credentials.service_account_key,
            service_account_public=self.credentials.service_account_public,
            controller_kubeconfig=self.credentials.kubeconfig(
                CONTROLLER_MANAGER, server, self.folder / "controller-manager.kubeconfig"
            ),
            scheduler_kubeconfig=self.credentials.kubeconfig(
                SCHEDULER, server, self.folder / "scheduler.kubeconfig"
            ),
        )

    def log(self, component: str) -> Path:
        """Return the file that a component's output goes to."""
        return self.folder / "logs" / f"{component}.log"

    def program(self, component: str) -> Path:
        """Return the path of a component's program; etcd may also come from PATH."""
        path = self.binaries / component
        if path.exists():
            return path
        found = shutil.which(component)
        if component == ETCD and found:
            return Path(found)
        wanted = "install the package etcd-server" if component == ETCD else "run `python -m lab binaries`"
        raise UnmetError(f"{component} is neither in {self.binaries} nor on this machine: {wanted}.")

    def start(self, components: Sequence[str] = CONTROL_PLANE) -> None:
        """Start those of the components that do not run and wait until the API server is ready."""
        unknown = set(components) - set(CONTROL_PLANE)
        if unknown:
            raise UsageError(f"{unknown.pop()} is no component: take one of {', '.join(CONTROL_PLANE)}.")
        for component in CONTROL_PLANE:  # in this order, whatever order they are named in
            if component not in components or self.is_running(component):
                continue
            again = self._stop_clients() if component == APISERVER else []
            self._start(component)
            if component == APISERVER:  # the other two end if they may not do their work yet
                self.wait_ready()
            for client in again:
                self._start(client)

    def _start(self, component: str) -> None:
        argv = [*self.enter, str(self.program(component)), *FLAGS[component](self.at, self.files)]
        if component == APISERVER:
            argv += self.flags
        self.running[component] = process.start(argv, self.log(component), tied=self.tied)

    def _stop_clients(self) -> list[str]:
        """Stop those that ran on while the API server was away; return them, to be started again after it.

        Elsewhere they end by themselves when they can't renew their lease. Left alone, they would call all
        nodes lost as soon as it answers, before any kubelet had the time to report.
        """
        found = [client for client in (CONTROLLER, SCHEDULING) if self.is_running(client)]
        self.stop(found)
        return found

    def is_running(self, component: str) -> bool:
        """Whether the component's process is there."""
        found = self.running.get(component)
        return found is not None and process.alive(found)

    def stop(self, components: Sequence[str] = CONTROL_PLANE, grace: float = 5) -> None:
        """Stop these components, the last started first; those that do not run are passed over.

        The API server takes all of `grace` (seconds) while someone watches, and has nothing to write out.
        """
        for component in reversed(CONTROL_PLANE):
            if component in components and component in self.running:
                process.stop(self.running.pop(component), grace=grace)

    def wait_ready(self, seconds: float = READY_SECONDS) -> None:
        """Return when /readyz says ok; raise FailedError when a program ended or the time is over."""
        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_delay(seconds),
            wait=tenacity.wait_fixed(0.1),
            retry=tenacity.retry_if_result(lambda ready: not ready),
            retry_error_callback=lambda _: False,
        )
        if not retrying(self._ready):
            log = self.log(APISERVER)
            raise FailedError(
                f"kube-apiserver was not ready within {seconds:.0f} s, see {log}: {process.tail(log)}"
            )

    def _ready(self) -> bool:
        for component in (ETCD, APISERVER):
            if component in self.running and not self.is_running(component):
                log = self.log(component)
                raise FailedError(f"{component} ended at once, see {log}: {process.tail(log)}")
        if self.enter:
            kubectl = [*self.enter, str(self.binaries / "kubectl"), f"--kubeconfig={self.kubeconfig}"]
            return process.succeeds([*kubectl, "get", "--raw", "/readyz"], timeout=5)
        return answers(f"{self.at.server}/readyz", self.credentials.authority)


def answers(url: str, authority: Path, timeout: float = 2.0) -> bool:
    """Whether an HTTPS server that `authority` vouches for answers with a good status."""
    context = ssl.create_default_context(cafile=str(authority))
    try:
        with urllib.request.urlopen(url, timeout=timeout, context=context) as response:  # noqa: S310 - own URL
            return int(response.status) == 200
    except (urllib.error.URLError, TimeoutError, ConnectionError, ssl.SSLError):
        return False
