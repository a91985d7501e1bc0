"""Starts the operator: `python -m hauberk.operator.main`, as its Deployment does.

Settings come from the environment, as deploy/operator gives them.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import kopf
from lightkube import AsyncClient
from lightkube.core.exceptions import ConfigError

from ..crds.logs import configure
from ..profiles.parser import Parser
from .cluster import Cluster
from .controller import Controller
from .election import Election
from .handlers import register

# What the parser compiles for where there is no kernel to ask: the features that Debian pins.
FEATURES = Path("/usr/share/apparmor-features/features")


def features() -> Path | None:
    """Return the feature file to compile for; None where the parser should ask the kernel."""
    return FEATURES if FEATURES.exists() else None


async def run() -> None:
    """Run the operator until SIGTERM."""
    namespace = os.environ.get("NAMESPACE", "hauberk-system")
    cluster = Cluster(AsyncClient(), namespace)
    parser = Parser(features=features())
    pod = os.environ.get("POD_NAME", "")
    election = Election(cluster, identity=pod or os.uname().nodename)
    controller = Controller(
        cluster,
        parser,
        election.leads,
        pod=pod,
        health_port=int(os.environ.get("AGENT_HEALTH_PORT", "9797")),
    )
    election.changed = controller.elected
    registry = kopf.OperatorRegistry()
    stop = asyncio.Event()
    memo = kopf.Memo()
    register(registry, controller, election, stop)
    try:
        await kopf.operator(
            registry=registry,
            memo=memo,
            stop_flag=stop,
            standalone=True,
            namespaces=[namespace],
            liveness_endpoint=os.environ.get("HEALTH_ENDPOINT") or None,
        )
    finally:
        # Not one of kopf's activities: those are left out where it failed, or was ended before it began.
        if task := memo.get("task"):
            task.cancel()
            await asyncio.wait({task})
        try:
            await controller.let_go()
        finally:
            await election.release()
    if controller.died:
        raise controller.died


def main() -> int:
    """Run the operator; return the exit code: 0 after SIGTERM, 2 where the API server is not configured."""
    configure()
    try:
        asyncio.run(run())
    except ConfigError as error:
        sys.stderr.write(f"no way to reach the API server: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
