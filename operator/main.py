"""Starts the operator: `python -m hauberk.operator.main`, as its Deployment does.

Settings come from the environment, as deploy/operator gives them.
"""

from __future__ import annotations

import asyncio
import os
import sys

from lightkube import AsyncClient
from lightkube.core.exceptions import ConfigError

from ..crds.logs import configure
from . import handlers
from .agents import OnNodes
from .controller import Controller
from .election import Election
from .operators_cluster import OperatorsCluster


async def run() -> None:
    """Run the operator until SIGTERM."""
    namespace = os.environ.get("NAMESPACE", "hauberk-system")
    cluster = OperatorsCluster(AsyncClient(), namespace)
    pod = os.environ.get("POD_NAME", "")
    election = Election(cluster, identity=pod or os.uname().nodename)
    controller = Controller(
        cluster=cluster,
        leads=election.leads,
        pod=pod,
        on_nodes=OnNodes(
            health_port=int(os.environ.get("AGENT_HEALTH_PORT", "9797")),
            kubelet=os.environ.get("KUBELET_DIR", "/var/lib/kubelet"),
            priority=int(os.environ.get("SELINUX_PRIORITY", "400")),
        ),
    )
    election.changed = controller.elected
    try:
        await handlers.run(
            controller,
            [election.run, controller.run],
            namespace,
            daemonset_seen=controller.daemonset_seen,
            liveness=os.environ.get("HEALTH_ENDPOINT") or None,
        )
    finally:
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
