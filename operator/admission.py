"""Starts the admission: `python -m hauberk.operator.admission`, as its Deployment does.

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
from ..crds.names import ADMISSION
from ..profiles.check import Judge
from ..profiles.parser import Parser, pinned_features
from ..profiles.rendering import Renderer
from . import garbage, handlers, probes
from .admissions_cluster import WRITES, AdmissionsCluster
from .election import Election
from .judging import Judging
from .loop import KINDS
from .publisher import Publisher
from .trust import Trust
from .webhook import PORT, Webhook


async def run() -> None:
    """Run the admission until SIGTERM."""
    asked_at = settings.port(os.environ, "PROBES_PORT")
    port = settings.port(os.environ, "WEBHOOK_PORT", PORT)
    namespace = os.environ.get("NAMESPACE", "hauberk-system")
    counts = of_loop(metrics.ADMISSION, [KINDS[one] for one in Publisher.kinds], WRITES)
    counts.keep(metrics.RETRIES, [("certificate",)])
    counts.keep(metrics.WEBHOOK_ANSWERS, metrics.ANSWERS)
    counts.keep(metrics.WEBHOOK_DURATION, [(kind,) for kind in metrics.REVIEWED])
    cluster = AdmissionsCluster(AsyncClient(), namespace, counts=counts)
    election = Election(cluster, identity=os.environ.get("POD_NAME") or os.uname().nodename)
    judging = Judging(Judge(Parser(features=pinned_features()), Renderer()))
    publisher = Publisher(
        cluster=cluster, judging=judging, leads=election.leads, counts=counts, at_rest=garbage.collect
    )
    counts.read = publisher.readings
    election.changed = publisher.elected
    names = os.environ.get("WEBHOOK_NAMES") or f"{ADMISSION}.{namespace}.svc"
    trust = Trust(cluster, tuple(names.split(",")))

    def is_ready() -> bool:
        return publisher.ready and trust.is_trusted

    webhook = Webhook(publisher, trust.context, is_ready, port, counts=counts)

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

    async with probes.serve(
        asked_at,
        is_alive=publisher.is_alive,
        is_ready=is_ready,
        metrics=counts.text,
    ):
        try:
            await handlers.run(publisher, [election.run, publisher.run, serve], namespace, before_end=end)
        finally:
            await election.release()
            await webhook.stop()
            await judging.close()
    if publisher.died:
        raise publisher.died


def main() -> int:
    """Run the admission; return the exit code: 0 after SIGTERM, 2 where a setting is wrong or missing."""
    try:
        logs.configure(os.environ.get("LOG_FORMAT", ""))
        asyncio.run(run())
    except settings.SettingError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except ConfigError as error:
        sys.stderr.write(f"no way to reach the API server: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
