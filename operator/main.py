"""Starts the operator: `python -m hauberk.operator.main`, as its Deployment does.

Settings come from the environment, as deploy/operator gives them.
"""

from __future__ import annotations

import asyncio
import os
import sys

import kopf
from lightkube import AsyncClient
from lightkube.core.exceptions import ConfigError

from ..crds.logs import configure
from ..profiles.check import Judge
from ..profiles.parser import Parser, pinned_features
from ..profiles.rendering import Renderer
from .cluster import Cluster
from .controller import Controller
from .election import Election
from .handlers import register


async def run() -> None:
    """Run the operator until SIGTERM."""
    namespace = os.environ.get("NAMESPACE", "hauberk-system")
    cluster = Cluster(AsyncClient(), namespace)
    judge = Judge(Parser(features=pinned_features()), Renderer())
    pod = os.environ.get("POD_NAME", "")
    election = Election(cluster, identity=pod or os.uname().nodename)
    controller = Controller(
        cluster,
        judge,
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
            await judge.renderer.close()
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
