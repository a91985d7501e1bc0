"""Starts the agent: `python -m hauberk.daemonset.main`, as the DaemonSet does.

Settings come from the environment, as daemonset.yaml.j2 gives them.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..crds import logs, metrics, settings
from ..crds.exporter import Metrics
from ..profiles.parser import Parser
from . import health
from .agent import Agent
from .api import Api
from .apparmor import AppArmor
from .backend import Backend
from .cluster import Cluster
from .host import KUBELET, ROOT, Host
from .seccomp import Seccomp
from .selinux import SELinux
from .semodule import PRIORITY, Store
from .way import NoWayError, of_pod


@dataclass(frozen=True)
class Settings:
    """What the DaemonSet says.

    Attributes:
        node: the node's name.
        port: for the kubelet's probes, on loopback.
        asked_at: the node's address and the port there for Prometheus; None where nothing is to listen.
        whole_host: the node's root directory is there, to run the node's own semodule in: without it this is
            the agent of nodes without SELinux.
        kubelet: the kubelet's directory on the node.
        priority: of modules in the node's SELinux store.
    """

    node: str
    port: int
    whole_host: bool
    kubelet: str
    priority: int
    asked_at: tuple[str, int] | None = None


async def backends(host: Host, cluster: Cluster, settings: Settings) -> list[Backend]:
    """Return a backend for each security module that the node has and this agent may serve."""
    found: list[Backend] = []
    if host.has_apparmor():
        found.append(await AppArmor.open(host, Parser()))
    selinux = "selinux" in host.lsms()
    if selinux and settings.whole_host:
        store = Store(ROOT, host.selinux.policy_name(), settings.priority)
        found.append(SELinux(host, host.selinux, store))
    # A container that SELinux confines may not write to the kubelet's folder: there it is the other agent's.
    if host.has_seccomp() and (settings.whole_host or not selinux):
        kubelets = host.kubelets_folder() or settings.kubelet
        reached = settings.whole_host or Path(kubelets) == Path(settings.kubelet)
        found.append(Seccomp(host, cluster.seccomp_profiles, "" if reached else kubelets))
    return found


async def run(settings: Settings) -> None:
    """Run a node's agent until SIGTERM."""
    host = Host(securityfs=ROOT / "sys/kernel/security") if settings.whole_host else Host()
    kubelets = (host.kubelets_folder() if settings.whole_host else "") or settings.kubelet
    host = dataclasses.replace(host, seccomp=ROOT / kubelets.lstrip("/") / "seccomp")
    way = of_pod(os.environ)
    counts = Metrics(metrics.AGENT)
    cluster = Cluster(Api.open(way, counts), settings.node, way.namespace)
    found = await backends(host, cluster, settings)
    agent = Agent(host, cluster, found, settings.node, counts=counts)
    begin(counts, [one.type for one in found])
    counts.read = agent.readings
    loop = asyncio.get_running_loop()
    # first the probes: an agent whose port is taken ends before it changes anything
    async with health.serve(agent, settings.port), health.serve_metrics(counts, settings.asked_at):
        task = asyncio.ensure_future(agent.run())
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, task.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await task


def begin(counts: Metrics, types: Sequence[str]) -> None:
    """Begin what is counted at zero: what is not there yet can't be seen to move."""
    counts.keep(metrics.API_WRITES, [("ProfileNode", result) for result in metrics.RESULTS])
    kinds = ("Node", "ProfileRevision") if types else ("Node",)
    counts.keep(metrics.WATCH_RESTARTS, [(kind, cause) for kind in kinds for cause in metrics.CAUSES])
    each = [(one,) for one in types]
    for one in (metrics.AGENT_LOADS, metrics.AGENT_LOAD_DURATION, metrics.AGENT_REPAIRS):
        counts.keep(one, each)
    counts.keep(metrics.AGENT_ROUND_DURATION, each)


def _asked_at() -> tuple[str, int] | None:
    port = settings.port(os.environ, "METRICS_PORT")
    return (os.environ.get("POD_IP") or "127.0.0.1", port) if port else None


def main() -> int:
    """Run the agent; return the exit code: 0 after SIGTERM, 2 where a setting is wrong or missing."""
    try:
        logs.configure(os.environ.get("LOG_FORMAT", ""))
        port, asked_at = settings.port(os.environ, "HEALTH_PORT", 9797), _asked_at()
        priority = settings.whole_number(
            os.environ, "SELINUX_PRIORITY", PRIORITY, highest=settings.HIGHEST_PRIORITY
        )
    except settings.SettingError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    node = os.environ.get("NODE_NAME", "")
    if not node:
        sys.stderr.write("NODE_NAME is not set; the agent runs as a pod of the hauberk-agent DaemonSet\n")
        return 2
    try:
        asyncio.run(
            run(
                Settings(
                    node=node,
                    port=port,
                    whole_host=os.environ.get("WHOLE_HOST") == "true",
                    kubelet=os.environ.get("KUBELET_DIR", KUBELET),
                    priority=priority,
                    asked_at=asked_at,
                )
            )
        )
    except NoWayError as error:
        sys.stderr.write(f"no way to reach the API server: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
