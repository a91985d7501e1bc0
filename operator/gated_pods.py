"""Follows the pods that have Hauberk's gate, in all namespaces, by their label: the API server picks them.

Called by `operators_cluster` for `gates`. Not kopf's watch: that has every pod of the cluster sent to it, and
picks those out by itself.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from contextlib import aclosing
from typing import Any

import httpx2
import msgspec
import structlog
from lightkube import ApiError, AsyncClient
from lightkube.core.client import LabelSelector
from lightkube.core.generic_client import ListAsyncIterable

from ..crds.models import decode
from ..crds.names import GATED_FOR, LABEL_GATED
from ..crds.pods import APPARMOR_ANNOTATION, MIRROR, PodObject
from .cluster import GONE, Pods, fault

log = structlog.get_logger()

# There are few such pods, and not for long: a new list now and then costs nothing, and heals what was missed.
WATCH_SECONDS = 240.0
# Whoever may make pods decides what is in them: one that breaks watches costs a list a second, and no more.
BROKEN_SECONDS = (0.5, 1.0)
# A pod may be over a megabyte, and a page is decoded at once.
PODS_IN_PAGE = 20
# What the webhook writes is far shorter; what others write there is cut off.
ANNOTATION_LENGTH = 4096
# The server ends a watch only where this process could not: lightkube would begin it again by itself.
MARGIN_SECONDS = 60.0
_LABELS: LabelSelector = {LABEL_GATED: "true"}
_EVERYWHERE = "*"
_READ = (GATED_FOR, MIRROR)

Key = tuple[str, str]
Listed = Callable[[Mapping[Key, PodObject]], None]
Changed = Callable[[Key, PodObject | None], None]


async def follow(client: AsyncClient, listed: Listed, changed: Changed) -> None:
    """Hand on all gated pods by namespace and name, then each that is another or gone (None), for a while.

    Returns when they are to be listed anew: its time is over, the server does not know any more what changed
    since, or it told what can't be read.

    Raises:
        ClusterFault: the API can't be read, or ended the watch.
    """
    try:
        version = await _list(client, listed)
        async with asyncio.timeout(WATCH_SECONDS * random.uniform(0.8, 1.2)):  # noqa: S311
            await _watch(client, version, changed)
    except TimeoutError:
        return
    except ValueError as error:
        # httpx2 ends lines at U+0085 too, which any annotation may have: half an event is no JSON
        log.warning("gated pods are listed anew", error=str(error))
        await asyncio.sleep(random.uniform(*BROKEN_SECONDS))  # noqa: S311
    except ApiError as error:
        if error.status.code != GONE:
            raise fault("gated pods can't be watched", error) from error
    except (httpx2.HTTPError, OSError) as error:
        raise fault("gated pods can't be watched", error) from error


def listing(client: AsyncClient) -> ListAsyncIterable[Any]:
    """Return what yields all gated pods, as they come, and has the version that they are of."""
    return client.list(Pods, namespace=_EVERYWHERE, labels=_LABELS, chunk_size=PODS_IN_PAGE)


async def _list(client: AsyncClient, listed: Listed) -> str:
    """Hand on all gated pods; return the version that they are of."""
    pods = listing(client)
    found: dict[Key, PodObject] = {}
    async for body in pods:
        if pod := read(body):
            found[pod.metadata.namespace, pod.metadata.name] = pod
    listed(found)
    return pods.resourceVersion


async def _watch(client: AsyncClient, version: str, changed: Changed) -> None:
    seconds = int(WATCH_SECONDS * 1.2 + MARGIN_SECONDS)
    events: Any = client.watch(
        Pods,
        namespace=_EVERYWHERE,
        labels=_LABELS,
        server_timeout=seconds,
        resource_version=version,
    )
    async with aclosing(events):
        async for kind, body in events:
            if pod := read(body):
                # one that lost its label is told of as if it were deleted
                changed((pod.metadata.namespace, pod.metadata.name), None if kind == "DELETED" else pod)


def read(body: Mapping[str, Any]) -> PodObject | None:
    """Return what is read of a pod, and no more; None where it has no pod's shape."""
    try:
        pod = decode(PodObject, dict(body))
    except msgspec.ValidationError as error:
        log.error("unreadable object", kind="pods", error=str(error))
        return None
    annotations = {
        key: value[:ANNOTATION_LENGTH]
        for key, value in pod.metadata.annotations.items()
        if key in _READ or key.startswith(APPARMOR_ANNOTATION)
    }
    metadata = msgspec.structs.replace(pod.metadata, annotations=annotations)
    return msgspec.structs.replace(pod, metadata=metadata)
