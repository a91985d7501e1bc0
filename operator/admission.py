"""Starts the admission: `python -m hauberk.operator.admission`, as its Deployment does.

Settings come from the environment, as deploy/operator gives them.
"""

from __future__ import annotations

import asyncio
import os
import sys

from lightkube import AsyncClient
from lightkube.core.exceptions import ConfigError

from ..crds.logs import configure
from ..crds.names import ADMISSION
from ..profiles.check import Judge
from ..profiles.parser import Parser, pinned_features
from ..profiles.rendering import Renderer
from . import handlers
from .admissions_cluster import AdmissionsCluster
from .election import Election
from .judging import Judging
from .publisher import Publisher
from .trust import Trust
from .webhook import PORT, Webhook


async def run() -> None:
    """Run the admission until SIGTERM."""
    namespace = os.environ.get("NAMESPACE", "hauberk-system")
    cluster = AdmissionsCluster(AsyncClient(), namespace)
    election = Election(cluster, identity=os.environ.get("POD_NAME") or os.uname().nodename)
    judging = Judging(Judge(Parser(features=pinned_features()), Renderer()))
    publisher = Publisher(cluster=cluster, judging=judging, leads=election.leads)
    election.changed = publisher.elected
    names = os.environ.get("WEBHOOK_NAMES") or f"{ADMISSION}.{namespace}.svc"
    trust = Trust(cluster, tuple(names.split(",")))
    port = int(os.environ.get("WEBHOOK_PORT") or PORT)
    webhook = Webhook(publisher, trust.context, lambda: publisher.ready and trust.is_trusted, port)

    async def serve() -> None:
        await publisher.until_done("certificate", trust.begin)
        await webhook.start()
        await trust.run()

    async def end() -> None:
        await election.retire()
        if trust.is_trusted:
            # The API server sends questions here until it has heard of the end.
            webhook.is_ending = True
            await asyncio.sleep(float(os.environ.get("LINGER_SECONDS", "5")))
        await webhook.stop()

    try:
        await handlers.run(publisher, [election.run, publisher.run, serve], namespace, before_end=end)
    finally:
        await election.release()
        await webhook.stop()
        await judging.close()
    if publisher.died:
        raise publisher.died


def main() -> int:
    """Run the admission; return the exit code: 0 after SIGTERM, 2 where the API server is not configured."""
    configure()
    try:
        asyncio.run(run())
    except ConfigError as error:
        sys.stderr.write(f"no way to reach the API server: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
