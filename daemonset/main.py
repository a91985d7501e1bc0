"""Starts the agent: `python -m hauberk.daemonset.main`, as the DaemonSet does.

Settings come from the environment, as daemonset.yaml.j2 gives them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys

from lightkube import AsyncClient
from lightkube.core.exceptions import ConfigError

from ..crds.logs import configure
from ..profiles.parser import Parser
from . import health
from .agent import Agent
from .apparmor import AppArmor
from .cluster import Cluster
from .host import Host


async def run(node: str, port: int) -> None:
    """Run a node's agent until SIGTERM."""
    host = Host()
    cluster = Cluster(AsyncClient(), node)
    backend = await AppArmor.open(host, Parser()) if host.has_apparmor() else None
    agent = Agent(host, cluster, backend, node)
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(agent.run())
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    async with health.serve(agent, port):
        with contextlib.suppress(asyncio.CancelledError):
            await task


def main() -> int:
    """Run the agent; return the exit code: 0 after SIGTERM, 2 where a setting is missing."""
    configure()
    node = os.environ.get("NODE_NAME", "")
    if not node:
        sys.stderr.write("NODE_NAME is not set; the agent runs as a pod of the hauberk-agent DaemonSet\n")
        return 2
    try:
        asyncio.run(run(node, int(os.environ.get("HEALTH_PORT", "9797"))))
    except ConfigError as error:
        sys.stderr.write(f"no way to reach the API server: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
