"""A real API server with Hauberk's own programs, and nodes that are simulated around them.

Used by `figures`. A node is what the API has of one (a Node as heavy as a kubelet's, and the Ready pod of its
agent) and a real agent with a token of its own, in one of a few processes (`agents`). Operator and admission
are the real programs with their own rights. Nothing but Hauberk writes anything while it is measured.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import ssl
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
from hauberk.crds.names import (
    ADMISSION,
    AGENT,
    AGENT_COMPONENT,
    API_VERSION,
    GROUP,
    LABEL_COMPONENT,
    OPERATOR,
    PROFILE_NODES,
    SECURITY_PROFILES,
    VERSION,
)
from hauberk.crds.names import LABEL_LSM as LSM

from lab import binaries
from lab.controlplane import ControlPlane, free_ports
from lab.errors import UnmetError
from lab.tokens import kubeconfig

from .accounting import AuditLog, Metrics

SYSTEM = "hauberk-system"
KINDS = f"/apis/{GROUP}/{VERSION}"
# So many requests of the setting-up are under way at once; it is not what is measured.
AT_ONCE = 32
# So long after its agent was started a node has its pod network, and is Ready.
NETWORK_SECONDS = 5.0
# What has not come about by then is broken, and the run ends with what is behind.
LONGEST_SECONDS = 600.0
# Two processors: one for the agents' processes together, one for the API server.
PROCESSES = 4
DEPLOY = Path(__file__).parents[2] / "deploy"
# A kubelet reports up to 50 images with two names each (--node-status-max-images).
IMAGES = 25
_POLICY = """\
#include <tunables/global>

# {generation}
profile {name} flags=(attach_disconnected) {{
  #include <abstractions/base>

  file,
  network inet,
  capability net_bind_service,
  signal (receive) peer=runc,
  deny /tmp/** w,
{rules}
}}
"""


def policy(name: str, generation: int = 0, rules: int = 20) -> str:
    """Return a policy of about a kilobyte."""
    lines = "\n".join(f"  deny /var/lib/{name}/{number}/** wl," for number in range(rules))
    return _POLICY.format(name=name, generation=generation, rules=lines)


def profile(name: str, generation: int = 0) -> dict[str, Any]:
    """Return a SecurityProfile; another `generation` is another text."""
    return {
        "apiVersion": API_VERSION,
        "kind": "SecurityProfile",
        "metadata": {"name": name},
        "spec": {"type": "AppArmor", "appArmor": {"policy": policy(name, generation)}},
    }


@dataclass
class Node:
    """One simulated node: its name, its boot, and the token that its agent's pod has."""

    name: str
    boot: str
    token: str = ""


@dataclass
class Cluster:
    """What is measured.

    Attributes:
        control_plane: etcd and kube-apiserver.
        api: a client that may everything.
        folder: for logs and kubeconfigs.
        audit: what was written.
        settle: how many seconds after a change what is written still belongs to it: reports are up to
            10 s apart, with few nodes 1 s.
        nodes: that are there, by name.
        started: which program was started last, and where in its log that was.
    """

    control_plane: ControlPlane
    api: httpx2.AsyncClient
    folder: Path
    audit: AuditLog
    settle: float = 12.0
    nodes: dict[str, Node] = field(default_factory=dict[str, Node])
    programs: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict[str, Any])
    fleet: list[asyncio.subprocess.Process] = field(default_factory=list[Any])
    where: dict[str, int] = field(default_factory=dict[str, int])
    started: str = ""
    started_at: int = 0

    # --- the API ------------------------------------------------------------------------------------------

    async def send(self, method: str, path: str, body: Any = None, **headers: str) -> dict[str, Any]:
        """Send a request and return the answer.

        Raises:
            httpx2.HTTPStatusError: it was refused.
        """
        content = None if body is None else json.dumps(body)
        kind = {"Content-Type": headers.pop("kind", "application/json")}
        response = await self.api.request(method, path, content=content, headers=kind)
        response.raise_for_status()
        return response.json()

    async def get(self, plural: str, name: str = "") -> dict[str, Any]:
        """Return an object of Hauberk's, or all of a kind."""
        return await self.send("GET", f"{KINDS}/{plural}/{name}".rstrip("/"))

    async def apply(self, name: str, generation: int = 0) -> None:
        """Create a profile, or give it another text."""
        await self.send(
            "PATCH",
            f"{KINDS}/{SECURITY_PROFILES}/{name}?fieldManager=bench&force=true",
            profile(name, generation),
            kind="application/apply-patch+yaml",
        )

    async def delete(self, name: str) -> None:
        """Delete a profile."""
        await self.send("DELETE", f"{KINDS}/{SECURITY_PROFILES}/{name}")

    async def metrics(self) -> Metrics:
        """Return the API server's metrics as they are now."""
        response = await self.api.get("/metrics")
        response.raise_for_status()
        return Metrics.parse(response.text)

    # --- nodes --------------------------------------------------------------------------------------------

    async def add(self, names: Iterable[str], *, only: int | None = None) -> None:
        """Make nodes and start their agents, in process `only` or in all; return when all nodes are Ready.

        As it goes with real ones: an agent waits for no pod network, which is what makes a node Ready.
        """
        fresh = [Node(name, str(uuid.uuid4())) for name in names]
        await _in_parallel(self._make, fresh)
        self.nodes |= {one.name: one for one in fresh}
        shares: list[list[Node]] = [[] for _ in self.fleet]
        for number, one in enumerate(fresh):
            self.where[one.name] = number % PROCESSES if only is None else only
            shares[self.where[one.name]].append(one)
        for number, share in enumerate(shares):
            await self.tell(number, add=[vars(one) for one in share])
        await self._count_agents()
        await asyncio.sleep(NETWORK_SECONDS)
        await _in_parallel(lambda one: self._set_status(one, ready=True), fresh)

    async def remove(self, names: Sequence[str]) -> None:
        """Take nodes away as an autoscaler does: agent, pod, Node, and what the node owned."""
        for number in range(len(self.fleet)):
            await self.tell(number, remove=[name for name in names if self.where[name] == number])

        async def unmake(name: str) -> None:
            await self.send("DELETE", f"/api/v1/namespaces/{SYSTEM}/pods/agent-{name}?gracePeriodSeconds=0")
            await self.send("DELETE", f"/api/v1/nodes/{name}")
            # what the garbage collector would do, which does not run here
            with contextlib.suppress(httpx2.HTTPStatusError):
                await self.send("DELETE", f"{KINDS}/{PROFILE_NODES}/{name}")

        await _in_parallel(unmake, names)
        for name in names:
            del self.nodes[name], self.where[name]
        await self._count_agents()

    async def hold_still(self, names: Sequence[str]) -> None:
        """End the agents of these nodes, whose reports stay as they are, and whose pods stay Ready."""
        for number in range(len(self.fleet)):
            await self.tell(number, remove=[name for name in names if self.where[name] == number])

    async def _make(self, node: Node) -> None:
        labels = {
            "kubernetes.io/os": "linux",
            "kubernetes.io/hostname": node.name,
            LSM["AppArmor"]: "true",
            LSM["SELinux"]: "false",
        }
        await self.send("POST", "/api/v1/nodes", {"metadata": {"name": node.name, "labels": labels}})
        await self._set_status(node, ready=False)
        name = f"agent-{node.name}"
        pod = await self.send("POST", f"/api/v1/namespaces/{SYSTEM}/pods", _pod(name, node.name))
        ready = {"type": "Ready", "status": "True", "lastTransitionTime": _now()}
        status = {"phase": "Running", "conditions": [ready]}
        await self.send("PUT", f"/api/v1/namespaces/{SYSTEM}/pods/{name}/status", {**pod, "status": status})
        node.token = await self._token(AGENT, name, pod["metadata"]["uid"])

    async def _set_status(self, node: Node, *, ready: bool) -> None:
        body = {"status": _node_status(node.boot, ready=ready)}
        path = f"/api/v1/nodes/{node.name}/status"
        await self.send("PATCH", path, body, kind="application/merge-patch+json")

    async def _token(self, account: str, pod: str = "", uid: str = "") -> str:
        there = {"kind": "Pod", "apiVersion": "v1", "name": pod, "uid": uid}
        bound = {"boundObjectRef": there} if pod else {}
        asked = await self.send(
            "POST",
            f"/api/v1/namespaces/{SYSTEM}/serviceaccounts/{account}/token",
            {"spec": {"audiences": [], "expirationSeconds": 7200, **bound}},
        )
        return asked["status"]["token"]

    async def _count_agents(self) -> None:
        """Write what the DaemonSets' controller would: how many nodes have an agent."""
        path = f"/apis/apps/v1/namespaces/{SYSTEM}/daemonsets/{AGENT}"
        count = len(self.nodes)
        status = dict.fromkeys(
            ("desiredNumberScheduled", "currentNumberScheduled", "numberReady", "numberAvailable"), count
        )
        body = {"status": {**status, "numberMisscheduled": 0}}
        await self.send("PATCH", f"{path}/status", body, kind="application/merge-patch+json")

    async def rest(self) -> None:
        """Have the agents' processes look for garbage once, and then no more in what there is by now."""
        for number in range(len(self.fleet)):
            await self.tell(number, rest=True)

    @contextlib.contextmanager
    def halted(self) -> Generator[None]:
        """Have all agents stand still, for seconds, while something else is measured."""
        for process in self.fleet:
            process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for process in self.fleet:
                process.send_signal(signal.SIGCONT)

    async def tell(self, number: int, **command: Any) -> None:
        """Give one of the agents' processes a command, and wait until it is carried out."""
        process = self.fleet[number]
        if process.stdin is None or process.stdout is None:
            raise UnmetError("the agents' process has no way to be told.")
        process.stdin.write(json.dumps(command).encode() + b"\n")
        await process.stdin.drain()
        if not await process.stdout.readline():
            await process.wait()
        self._look_at_fleet()

    def _look_at_fleet(self) -> None:
        for number, process in enumerate(self.fleet):
            if process.returncode is not None:
                log = (self.folder / f"agents{number}.log").read_text(encoding="utf-8", errors="replace")
                raise UnmetError(f"an agents' process ended with {process.returncode}: {log[-4000:]}")

    # --- programs -----------------------------------------------------------------------------------------

    async def start(self, account: str) -> None:
        """Start the operator or the admission with the rights of its account."""
        module = {OPERATOR: "main", ADMISSION: "admission"}[account]
        file = self.folder / f"{account}.kubeconfig"
        server, authority = self.control_plane.at.server, self.control_plane.credentials.authority
        file.write_text(json.dumps(kubeconfig(server, authority, await self._token(account))))
        settings = {
            "KUBECONFIG": str(file),
            "NAMESPACE": SYSTEM,
            "POD_NAME": "",
        }
        if account == ADMISSION:
            settings |= {
                "WEBHOOK_PORT": str(free_ports(1)[0]),
                "WEBHOOK_NAMES": "localhost",
                "LINGER_SECONDS": "0",
            }
        with self.log(account).open("ab") as log:
            self.started, self.started_at = account, log.tell()
            self.programs[account] = subprocess.Popen(  # noqa: ASYNC220 - returns at once
                [sys.executable, "-m", f"hauberk.operator.{module}"],
                env={**os.environ, **settings},
                stdout=log,
                stderr=log,
            )

    def knows_all(self) -> bool:
        """Return whether the program that was started last has read everything: its log tells of that."""
        with self.log(self.started).open("rb") as log:
            log.seek(self.started_at)
            return b'"event": "listed"' in log.read()

    def stop(self, account: str) -> None:
        """End a program in the orderly way."""
        process = self.programs.pop(account)
        process.terminate()
        process.wait(timeout=60)

    def log(self, account: str) -> Path:
        """Return the file that a program's log goes to."""
        return self.folder / f"{account}.log"

    def used(self, account: str) -> tuple[float, float]:
        """Return a program's resident memory in MiB, and the processor seconds that it has used."""
        return usage(self.programs[account].pid)

    # --- what is waited for -------------------------------------------------------------------------------

    async def counts(self) -> dict[str, tuple[str, str]]:
        """Return each profile's `ready/targeted` and the Ready condition's status for its generation."""
        found: dict[str, tuple[str, str]] = {}
        for body in (await self.get(SECURITY_PROFILES))["items"]:
            status = body.get("status", {})
            ready = next((one for one in status.get("conditions", ()) if one["type"] == "Ready"), {})
            current = ready.get("observedGeneration") == body["metadata"]["generation"]
            said = ready.get("status", "") if current else ""
            found[body["metadata"]["name"]] = status.get("summary", {}).get("ready", ""), said
        return found

    async def wait_ready(
        self, names: Iterable[str], seconds: float = LONGEST_SECONDS, every: float = 0.1
    ) -> float:
        """Return how long it took until each of these is Ready on every node.

        Raises:
            TimeoutError: it did not come about in that many seconds.
        """
        asked, wanted = set(names), f"{len(self.nodes)}/{len(self.nodes)}"

        async def behind() -> list[str]:
            self._look_at_fleet()
            found = await self.counts()
            return [f"{one} {found.get(one)}" for one in asked if found.get(one) != (wanted, "True")]

        return await none_left(behind, "are not Ready", seconds, every)


async def none_left(
    what: Callable[[], Awaitable[Collection[str]]],
    why: str,
    seconds: float = LONGEST_SECONDS,
    every: float = 0.2,
) -> float:
    """Return after how many seconds a function has nothing left to return.

    Raises:
        TimeoutError: it did not come about in time; says what is left.
    """
    began = time.monotonic()
    while left := await what():
        if time.monotonic() - began > seconds:
            some = ", ".join(sorted(left)[:3])
            raise TimeoutError(f"{len(left)} {why} after {seconds:g} s: {some}")
        await asyncio.sleep(every)
    return time.monotonic() - began


async def _in_parallel(work: Callable[[Any], Awaitable[None]], what: Iterable[Any]) -> None:
    limit = asyncio.Semaphore(AT_ONCE)

    async def one(item: Any) -> None:
        async with limit:
            await work(item)

    async with asyncio.TaskGroup() as tasks:
        for item in what:
            tasks.create_task(one(item))


def usage(pid: int) -> tuple[float, float]:
    """Return a process's resident memory in MiB and its processor seconds (proc_pid_status(5), _stat(5))."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    resident = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    return int(resident.split()[1]) / 1024, ticks / os.sysconf("SC_CLK_TCK")


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _node_status(boot: str, *, ready: bool) -> dict[str, Any]:
    """Return a Node's status with all that a kubelet puts into it."""
    info = {
        "architecture": "amd64",
        "bootID": boot,
        "containerRuntimeVersion": "containerd://2.1.4",
        "kernelVersion": "6.12.41+deb13-amd64",
        "kubeProxyVersion": "",
        "kubeletVersion": "v1.35.0",
        "machineID": boot.replace("-", ""),
        "operatingSystem": "linux",
        "osImage": "Debian GNU/Linux 13 (trixie)",
        "systemUUID": boot,
    }
    names = ("MemoryPressure", "DiskPressure", "PIDPressure")
    now = _now()
    conditions = [
        {
            "type": name,
            "status": "False",
            "reason": f"KubeletHasNo{name}",
            "message": f"kubelet has no {name}",
            "lastHeartbeatTime": now,
            "lastTransitionTime": now,
        }
        for name in names
    ]
    last = {
        "type": "Ready",
        "status": str(ready),
        "reason": "KubeletReady" if ready else "KubeletNotReady",
        "message": "kubelet is posting ready status" if ready else "network plugin is not ready",
        "lastHeartbeatTime": now,
        "lastTransitionTime": now,
    }
    size = {"cpu": "8", "memory": "32590672Ki", "pods": "110", "ephemeral-storage": "203234260Ki"}
    images = [
        {
            "names": [
                f"registry.example.com/team/application-{number}@sha256:{number:064d}",
                f"registry.example.com/team/application-{number}:v1.{number}.0",
            ],
            "sizeBytes": 120_000_000 + number,
        }
        for number in range(IMAGES)
    ]
    return {
        "nodeInfo": info,
        "conditions": [*conditions, last],
        "capacity": size,
        "allocatable": size,
        "images": images,
    }


def _pod(name: str, node: str) -> dict[str, Any]:
    """Return an agent's pod."""
    labels = {
        "app.kubernetes.io/name": "hauberk",
        LABEL_COMPONENT: AGENT_COMPONENT,
        "app.kubernetes.io/instance": AGENT,
    }
    return {
        "metadata": {"name": name, "namespace": SYSTEM, "labels": labels},
        "spec": {
            "nodeName": node,
            "serviceAccountName": AGENT,
            "containers": [{"name": "agent", "image": "hauberk.dev/hauberk:bench"}],
        },
    }


@contextlib.asynccontextmanager
async def running(folder: Path, settle: float) -> AsyncGenerator[Cluster]:
    """Run an API server with Hauberk installed and the agents' processes, and end all of it.

    Operator and admission are not started yet; there are no nodes.

    Raises:
        UnmetError: a program is missing.
    """
    async with bare(folder, settle) as cluster:
        await _daemonset(cluster)
        try:
            for number in range(PROCESSES):
                cluster.fleet.append(await _agents(cluster.control_plane, folder / f"agents{number}.log"))
            yield cluster
        finally:
            for process in [*cluster.programs.values(), *cluster.fleet]:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
            for process in cluster.fleet:
                await process.wait()
            for process in cluster.programs.values():
                process.wait()


@contextlib.asynccontextmanager
async def bare(folder: Path, settle: float = 0.0) -> AsyncGenerator[Cluster]:
    """Run an API server with Hauberk's kinds, roles and policies, where nothing of Hauberk runs.

    Raises:
        UnmetError: a program is missing.
    """
    found = binaries.find()
    if found is None:
        raise UnmetError("no kube-apiserver: run `python -m lab binaries`.")
    audit = AuditLog(folder / "audit")
    with ControlPlane.local(folder, found, flags=audit.flags) as control_plane:
        _install(control_plane)
        context = ssl.create_default_context(cafile=str(control_plane.credentials.authority))
        keys = control_plane.folder / "keys"
        context.load_cert_chain(keys / "admin.crt", keys / "admin.key")
        limits = httpx2.Limits(max_connections=AT_ONCE)
        async with httpx2.AsyncClient(
            base_url=control_plane.at.server, verify=context, timeout=60, limits=limits, trust_env=False
        ) as api:
            yield Cluster(control_plane, api, folder, audit, settle)


async def _agents(control_plane: ControlPlane, log: Path) -> asyncio.subprocess.Process:
    with log.open("ab") as output:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "bench.scale.agents",
            control_plane.at.server,
            str(control_plane.credentials.authority),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=output,
            cwd=DEPLOY.parent,
        )


def _install(control_plane: ControlPlane) -> None:
    """Apply all of deploy/, but for the webhook's configuration: where it leads nobody listens."""
    kubectl = [
        str(control_plane.binaries / "kubectl"),
        f"--kubeconfig={control_plane.kubeconfig}",
        f"--cache-dir={control_plane.folder / 'cache'}",
    ]

    def run(*words: str) -> None:
        subprocess.run([*kubectl, *words], check=True, stdout=subprocess.DEVNULL, timeout=120)

    run("apply", "-k", str(DEPLOY / "crds"))
    run("wait", "crd", "--all", "--for=condition=Established", "--timeout=30s")
    run("apply", "-k", str(DEPLOY))
    run("delete", f"validatingwebhookconfiguration/{ADMISSION}")


async def _daemonset(cluster: Cluster) -> None:
    """Make the agents' DaemonSet, whose status tells agents how many they are."""
    labels = {LABEL_COMPONENT: AGENT_COMPONENT}
    container = {"name": "agent", "image": "hauberk.dev/hauberk:bench"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    await cluster.send(
        "POST",
        f"/apis/apps/v1/namespaces/{SYSTEM}/daemonsets",
        {"metadata": {"name": AGENT}, "spec": {"selector": {"matchLabels": labels}, "template": template}},
    )
