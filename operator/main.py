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
from .agent_settings import SettingError, on_nodes
from .controller import Controller
from .election import Election
from .operators_cluster import OperatorsCluster


async def run() -> None:
    """Run the operator until SIGTERM.

    Raises:
        SettingError: the environment says what can't be meant; nothing was begun.
    """
    agents = on_nodes(
        health_port=os.environ.get("AGENT_HEALTH_PORT", "9797"),
        kubelet=os.environ.get("KUBELET_DIR", "/var/lib/kubelet"),
        priority=os.environ.get("SELINUX_PRIORITY", "400"),
        pods=os.environ.get("AGENT_PODS", "{}"),
    )
    namespace = os.environ.get("NAMESPACE", "hauberk-system")
    cluster = OperatorsCluster(AsyncClient(), namespace)
    pod = os.environ.get("POD_NAME", "")
    election = Election(cluster, identity=pod or os.uname().nodename)
    controller = Controller(
        cluster=cluster,
        leads=election.leads,
        pod=pod,
        on_nodes=agents,
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
    """Run the operator; return the exit code: 0 after SIGTERM, 2 where its settings are wrong."""
    configure()
    try:
        asyncio.run(run())
    except ConfigError as error:
        sys.stderr.write(f"no way to reach the API server: {error}\n")
        return 2
    except SettingError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
