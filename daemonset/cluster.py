"""The agent's side of the API, its only caller: follow revisions and the own Node, write the ProfileNode.

Used by `agent`. Follows by list and watch on a light client: kopf would take a third of the agent's memory.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx2
import msgspec
import structlog
import tenacity
from lightkube import ApiError, AsyncClient
from lightkube.core.client import FieldSelector
from lightkube.generic_resource import create_global_resource
from lightkube.resources.core_v1 import Node, Pod
from lightkube.types import PatchType

from ..crds.errors import ClusterFault
from ..crds.models import Metadata, Model, ProfileNode, ProfileRevision, decode, encode
from ..crds.names import FIELD_MANAGER, GROUP, PROFILE_NODES, PROFILE_REVISIONS, VERSION
from ..crds.reasons import Reason

log = structlog.get_logger()

_Revisions = create_global_resource(GROUP, VERSION, "ProfileRevision", PROFILE_REVISIONS)
_ProfileNodes = create_global_resource(GROUP, VERSION, "ProfileNode", PROFILE_NODES)

# The server ends a watch after this many seconds; a client that hears nothing for longer is cut off
# without being told (a lost link), so it asks again.
WATCH_SECONDS = 240
STALLED_SECONDS = WATCH_SECONDS + 20
RETRY_SECONDS = (0.5, 15.0)
_NOT_FOUND, _GONE = 404, 410

Unreachable = (httpx2.HTTPError, OSError, TimeoutError)


class NodeInfo(Model, frozen=True):
    """What the kubelet says of its machine."""

    container_runtime_version: str = ""


class NodeObjectStatus(Model, frozen=True):
    """The part of a Node's status that the agent reads."""

    node_info: NodeInfo = NodeInfo()


class NodeObject(Model, frozen=True):
    """The part of a Node that the agent reads."""

    metadata: Metadata
    status: NodeObjectStatus = NodeObjectStatus()


@dataclass(frozen=True)
class Cluster:
    """The API as one node's agent sees it."""

    client: AsyncClient
    node: str

    async def follow_revisions(
        self, seen: Callable[[Mapping[str, ProfileRevision]], None], listed: Callable[[], None]
    ) -> None:
        """Call `seen` with all ProfileRevisions by name, once listed and after each change; never returns.

        `listed` is called after each new list: something may have happened that no watch told of.
        """
        await _follow(self.client, _Followed(_Revisions, ProfileRevision), seen, listed)

    async def follow_node(self, seen: Callable[[Mapping[str, NodeObject]], None]) -> None:
        """Call `seen` with this agent's own Node, once listed and after each change; never returns."""
        own = _Followed(Node, NodeObject, {"metadata.name": self.node})
        await _follow(self.client, own, seen, lambda: None)

    async def seccomp_profiles(self) -> dict[str, list[str]]:
        """Return what pods of this node give as `localhostProfile` for seccomp, each with these pods.

        A pod that has ended for good needs no file any more.

        Raises:
            ClusterFault: the API can't be read.
        """
        found: dict[str, list[str]] = {}
        try:
            async for pod in self.client.list(Pod, namespace="*", fields={"spec.nodeName": self.node}):
                for profile in localhost_profiles(msgspec.to_builtins(pod)):
                    meta = pod.metadata
                    name = f"pod {meta.namespace}/{meta.name}" if meta else "a pod"
                    found.setdefault(profile, []).append(name)
        except Unreachable as error:
            raise ClusterFault(Reason.UPDATING, f"the node's pods were not listed: {_why(error)}") from error
        return found

    async def holds(self, profile_node: ProfileNode) -> bool:
        """Return whether the API has the node's ProfileNode as it is given.

        Raises:
            ClusterFault: the API can't be read.
        """
        try:
            body = await self.client.get(_ProfileNodes, profile_node.metadata.name)
        except Unreachable as error:
            if isinstance(error, ApiError) and error.status.code == _NOT_FOUND:
                return False
            raise ClusterFault(Reason.UPDATING, f"the ProfileNode was not read: {_why(error)}") from error
        _, there = _named(ProfileNode, body)
        return there is not None and there.status == profile_node.status

    async def write(self, profile_node: ProfileNode) -> None:
        """Create or update the node's ProfileNode in one write.

        Raises:
            ClusterFault: the API did not take it.
        """
        body = encode(profile_node)
        try:
            await self.client.patch(
                _ProfileNodes,
                profile_node.metadata.name,
                body,
                patch_type=PatchType.APPLY,
                field_manager=f"{FIELD_MANAGER}-agent",
                force=True,
            )
        except Unreachable as error:
            raise ClusterFault(Reason.UPDATING, f"the ProfileNode was not written: {_why(error)}") from error


def localhost_profiles(pod: Mapping[str, Any]) -> set[str]:
    """Return the seccomp profiles of the node that a pod names; none where it has ended for good."""
    if (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
        return set()
    spec = pod.get("spec") or {}
    owners = [spec]
    for kind in ("initContainers", "containers", "ephemeralContainers"):
        owners += spec.get(kind) or []
    found = (((one.get("securityContext") or {}).get("seccompProfile") or {}) for one in owners)
    return {one["localhostProfile"] for one in found if one.get("localhostProfile")}


@dataclass(frozen=True)
class _Followed:
    """What is listed and watched: the API's resource, the model of its objects, and which of them."""

    resource: Any
    kind: type[Any]
    fields: FieldSelector | None = None


async def _follow(
    client: AsyncClient,
    what: _Followed,
    seen: Callable[[Mapping[str, Any]], None],
    listed: Callable[[], None],
) -> None:
    """List, then watch from there; whatever ends the watch, list again. A missed event heals so."""

    def told(state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        log.warning("list failed", kind=what.kind.__name__, error=_why(error), failures=state.attempt_number)

    # Full jitter: after an outage of the API a thousand agents must not come back at once.
    patiently = tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception_type(Unreachable),
        wait=tenacity.wait_random_exponential(multiplier=RETRY_SECONDS[0], max=RETRY_SECONDS[1]),
        before_sleep=told,
    )
    while True:
        objects, version = await patiently(_list, client, what)
        seen(objects)
        listed()
        try:
            async for event, body in _events(client, what, version):
                name, model = _named(what.kind, body)
                if event == "DELETED" or model is None:
                    objects.pop(name, None)
                else:
                    objects[name] = model
                seen(objects)
        except Unreachable as error:
            if not (isinstance(error, ApiError) and error.status.code == _GONE):
                log.warning("watch interrupted", kind=what.kind.__name__, error=_why(error))
        await asyncio.sleep(random.uniform(0, RETRY_SECONDS[0]))  # noqa: S311


async def _list(client: AsyncClient, what: _Followed) -> tuple[dict[str, Any], str]:
    """Return the objects by name, and the version to watch from."""
    listing = client.list(what.resource, fields=what.fields)
    found = [_named(what.kind, body) async for body in listing]
    return {name: model for name, model in found if model is not None}, listing.resourceVersion


async def _events(client: AsyncClient, what: _Followed, version: str) -> AsyncIterator[tuple[str, Any]]:
    """Yield watch events until the watch fails or stalls.

    Raises:
        TimeoutError: nothing was heard for longer than the server keeps a watch open.
    """
    events = client.watch(
        what.resource, fields=what.fields, resource_version=version, server_timeout=WATCH_SECONDS
    )
    iterator = aiter(events)
    while True:
        async with asyncio.timeout(STALLED_SECONDS):
            try:
                event = await anext(iterator)
            except StopAsyncIteration:
                return
        yield event


def _named(kind: type[Any], body: Any) -> tuple[str, Any]:
    """Return an object's name and model; None where this agent can't read its shape."""
    # lightkube gives typed structs for what it knows and dicts for custom resources
    plain = body if isinstance(body, dict) else msgspec.to_builtins(body)
    name = plain["metadata"]["name"]
    try:
        return name, decode(kind, plain)
    except msgspec.ValidationError as error:
        # Of a later contract, perhaps. Not seeing it unloads nothing: absence is not deletion.
        log.error("unreadable object", kind=kind.__name__, name=name, error=str(error))
        return name, None


def _why(error: BaseException | None) -> str:
    if isinstance(error, ApiError):
        return f"{error.status.code} {error.status.reason}: {error.status.message}"[:500]
    return f"{type(error).__name__}: {error}"[:500]
