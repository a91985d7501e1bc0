"""Starts the operator: `python -m hauberk.operator.main`, as its Deployment does.

Settings come from the environment, as deploy/operator gives them.
"""

from __future__ import annotations

import asyncio
import os
import sys

from lightkube import AsyncClient
from lightkube.core.exceptions import ConfigError

from ..crds import logs, metrics, settings
from ..crds.exporter import of_loop
from . import garbage, handlers, probes
from .agent_settings import on_nodes
from .controller import Controller
from .election import Election
from .loop import KINDS
from .operators_cluster import WRITES, OperatorsCluster


async def run() -> None:
    """Run the operator until SIGTERM.

    Raises:
        SettingError: the environment says what can't be meant; nothing was begun.
    """
    agents, port = on_nodes(os.environ), settings.port(os.environ, "PROBES_PORT")
    namespace = os.environ.get("NAMESPACE", "hauberk-system")
    counts = of_loop(metrics.OPERATOR, [KINDS[one] for one in Controller.kinds], WRITES)
    counts.keep(metrics.RETRIES, [("watch",)])
    cluster = OperatorsCluster(AsyncClient(), namespace, counts=counts)
    pod = os.environ.get("POD_NAME", "")
    election = Election(cluster, identity=pod or os.uname().nodename)
    controller = Controller(
        cluster=cluster,
        leads=election.leads,
        counts=counts,
        pod=pod,
        on_nodes=agents,
        at_rest=garbage.collect,
    )
    election.changed = controller.elected
    counts.read = controller.readings
    async with probes.serve(
        port,
        is_alive=controller.is_alive,
        is_ready=lambda: controller.ready,
        metrics=counts.text,
    ):
        try:
            await handlers.run(
                controller,
                [election.run, controller.run],
                namespace,
                daemonset_seen=controller.daemonset_seen,
            )
        finally:
            try:
                await controller.let_go()
            finally:
                await election.release()
    if controller.died:
        raise controller.died


def main() -> int:
    """Run the operator; return the exit code: 0 after SIGTERM, 2 where a setting is wrong or missing."""
    try:
        logs.configure(os.environ.get("LOG_FORMAT", ""))
        asyncio.run(run())
    except ConfigError as error:
        sys.stderr.write(f"no way to reach the API server: {error}\n")
        return 2
    except settings.SettingError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
