"""The command line's side of the API, its only caller: lists and follows, and writes nothing.

Used by `live`. What can't be read becomes a fault with a sentence that says what to do; of an object whose
shape this version does not know, a remark is kept, and the others are shown.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import msgspec
from lightkube import ApiError, AsyncClient, ConfigError, KubeConfig, SingleConfig
from lightkube.config.models import User
from lightkube.generic_resource import create_global_resource
from lightkube.resources.core_v1 import Event as CoreEvent
from lightkube.resources.core_v1 import Namespace, Node
from lightkube.resources.core_v1 import Pod as CorePod

from ..crds.errors import ClusterFault
from ..crds.models import Model, ProfileNode, ProfileRevision, RevisionSpec, SecurityProfile, decode
from ..crds.names import (
    GROUP,
    LABEL_PROFILE,
    PROFILE_NODES,
    PROFILE_REVISIONS,
    SECURITY_PROFILES,
    VERSION,
)
from ..crds.reasons import Reason
from ..profiles.parser import plain
from .kubeconfig import load
from .pods import Event, Pod
from .states import NodeView, Seen, node_view

_Profiles = create_global_resource(GROUP, VERSION, "SecurityProfile", SECURITY_PROFILES)
_Revisions = create_global_resource(GROUP, VERSION, "ProfileRevision", PROFILE_REVISIONS)
_ProfileNodes = create_global_resource(GROUP, VERSION, "ProfileNode", PROFILE_NODES)

# A watch is asked for anew after this, whatever became of the one before: a lost link tells nobody.
WATCH_SECONDS = 30
STALLED_SECONDS = WATCH_SECONDS + 5
RETRY_SECONDS = 1.0
_CHUNK = 500
_UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND = 401, 403, 404

Unreachable = (httpx2.HTTPError, OSError, TimeoutError, ConfigError)


@dataclass(frozen=True)
class Cluster:
    """The API as a person sees it; `remarks` are sentences on what could not be shown."""

    client: AsyncClient
    remarks: list[str] = field(default_factory=list[str])

    async def profiles(self, names: Sequence[str] = ()) -> dict[str, SecurityProfile]:
        """Return SecurityProfiles by name: all, or those of the given names that are there.

        Raises:
            ClusterFault: they can't be read.
        """
        found, _ = await self._profiles(names)
        return {name: one for name, one in found.items() if not names or name in names}

    async def wanted(self, profile: SecurityProfile) -> RevisionSpec | None:
        """Return the profile's revision that the nodes are to hold; None where none was published.

        Raises:
            ClusterFault: revisions can't be read.
        """
        labels = {LABEL_PROFILE: profile.metadata.name}
        found, _ = await self._list(_Revisions, ProfileRevision, labels=labels)
        own = [one.spec for one in found.values() if one.spec.profile_uid == profile.metadata.uid]
        return max(own, key=lambda one: one.placement.sequence, default=None)

    async def seen(self) -> Seen:
        """Return the Nodes, as far as the user may list them, and what their agents told.

        Raises:
            ClusterFault: ProfileNodes can't be read.
        """
        nodes, reports = await asyncio.gather(self._nodes(), self._list(_ProfileNodes, ProfileNode))
        return Seen(nodes, reports[0])

    @property
    def namespace(self) -> str:
        """Return the namespace that the kubeconfig's context names, or `default`."""
        return self.client.namespace

    async def pod(self, name: str, namespace: str) -> Pod | None:
        """Return a pod; None, and a remark, where there is none or no such namespace.

        Raises:
            ClusterFault: it can't be read.
        """
        try:
            return decode(Pod, _plain(await self.client.get(CorePod, name, namespace=namespace)))
        except msgspec.ValidationError as error:
            message = f"pod {name} has a shape that this version of hauberk does not know: {error}"
            raise ClusterFault(Reason.NOT_VERIFIED, message) from error
        except Unreachable as error:
            if _code(error) != _NOT_FOUND:
                raise _fault("pods", error, namespace) from error
        missing = "" if await self._has(namespace) else f": there is no namespace {namespace}"
        self.remarks.append(f"error: there is no pod {name} in namespace {namespace}{missing}")
        return None

    async def _has(self, namespace: str) -> bool:
        """Return whether a namespace is there, or may be: who may not read it is not told that it is not."""
        try:
            await self.client.get(Namespace, namespace)
        except Unreachable as error:
            return _code(error) != _NOT_FOUND
        return True

    async def events(self, pod: Pod) -> list[Event]:
        """Return the Events on a pod; none, and a remark, where the user may not list them.

        Raises:
            ClusterFault: they can't be read.
        """
        fields: Any = {"involvedObject.uid": pod.metadata.uid}
        listing = self.client.list(
            CoreEvent, namespace=pod.metadata.namespace, fields=fields, chunk_size=_CHUNK
        )
        try:
            return [decode(Event, _plain(body)) async for body in listing]
        except Unreachable as error:
            if _code(error) != _FORBIDDEN:
                raise _fault("events", error, pod.metadata.namespace) from error
            self.remarks.append(
                f"you may not list events in namespace {pod.metadata.namespace}: none are shown"
            )
            return []

    async def follow(self, names: Sequence[str]) -> AsyncGenerator[dict[str, SecurityProfile]]:
        """Yield all SecurityProfiles of the given names, once listed and after each change; never ends.

        Raises:
            ClusterFault: they can't be listed in the first place; later that is waited out.
        """
        listed = False
        while True:
            try:
                objects, version = await self._profiles(names)
            except ClusterFault:
                if not listed:
                    raise
            else:
                listed = True
                yield objects
                async for event, body in self._events(names, version):
                    name, model = self._named(SecurityProfile, body)
                    if event == "DELETED" or model is None:
                        objects.pop(name, None)
                    else:
                        objects[name] = model
                    yield objects
            await asyncio.sleep(random.uniform(0.1, RETRY_SECONDS))  # noqa: S311

    async def _events(self, names: Sequence[str], version: str) -> AsyncIterator[tuple[str, Any]]:
        """Yield watch events until the watch ends, fails or stalls, or tells what can't be read.

        httpx2 ends lines at U+0085 too, which a policy may have: half an event is no JSON (a ValueError).
        """
        events = self.client.watch(
            _Profiles, fields=_of(names), resource_version=version, server_timeout=WATCH_SECONDS
        )
        iterator = aiter(events)
        while True:
            try:
                async with asyncio.timeout(STALLED_SECONDS):
                    event = await anext(iterator)
            except (StopAsyncIteration, ValueError, *Unreachable):
                return
            yield event

    async def _profiles(self, names: Sequence[str]) -> tuple[dict[str, SecurityProfile], str]:
        return await self._list(_Profiles, SecurityProfile, fields=_of(names))

    async def _nodes(self) -> dict[str, NodeView] | None:
        try:
            listing = self.client.list(Node, chunk_size=_CHUNK)
            views = [node_view(_plain(body)) async for body in listing]
        except Unreachable as error:
            if _code(error) == _FORBIDDEN:
                return None
            raise _fault("nodes", error) from error
        return {one.name: one for one in views}

    async def _list(
        self, resource: Any, kind: type[Model], *, fields: Any = None, labels: Any = None
    ) -> tuple[dict[str, Any], str]:
        """Return the objects by name, and the version to watch from."""
        listing = self.client.list(resource, fields=fields, labels=labels, chunk_size=_CHUNK)
        try:
            found = [self._named(kind, body) async for body in listing]
        except Unreachable as error:
            raise _fault(f"{kind.__name__.lower()}s", error) from error
        return {name: model for name, model in found if model is not None}, listing.resourceVersion

    def _named(self, kind: type[Model], body: Any) -> tuple[str, Any]:
        """Return an object's name and model; None, and a remark, where its shape is not known."""
        there = _plain(body)
        name = there["metadata"]["name"]
        try:
            return name, decode(kind, there)
        except msgspec.ValidationError as error:
            remark = f"{kind.__name__} {name} has a shape that this version of hauberk does not know: {error}"
            if remark not in self.remarks:
                self.remarks.append(remark)
            return name, None


@asynccontextmanager
async def connected(kubeconfig: Path | None, context: str | None) -> AsyncGenerator[Cluster]:
    """Yield the cluster that a kubeconfig names, by default the one that kubectl would ask.

    Raises:
        ClusterFault: there is none, or it does not say how to reach a cluster.
    """
    single = configuration(kubeconfig, context)
    try:
        client = AsyncClient(config=single)
    except (ConfigError, OSError, ValueError) as error:
        raise ClusterFault(Reason.NOT_VERIFIED, f"the kubeconfig can't be used: {error}") from error
    try:
        yield Cluster(client)
    finally:
        await client.close()


def configuration(kubeconfig: Path | None, context: str | None) -> SingleConfig:
    """Return the way to one cluster, as kubectl would find it.

    Raises:
        ClusterFault: there is none.
    """
    body = load(kubeconfig)
    if body is None:
        return _inside()
    name = context or body["current-context"]
    if not name:
        raise ClusterFault(
            Reason.NOT_VERIFIED,
            "the kubeconfig has no current context: name one with --context, or set it with "
            "`kubectl config use-context`",
        )
    known = {one["name"] for one in body["contexts"]}
    if name not in known:
        raise ClusterFault(
            Reason.NOT_VERIFIED,
            f"the kubeconfig has no context {name}; it has {', '.join(sorted(known)) or 'none'}",
        )
    try:
        single = KubeConfig.from_dict(body).get(name)
    except (KeyError, msgspec.ValidationError) as error:
        raise ClusterFault(
            Reason.NOT_VERIFIED, f"the context {name} of the kubeconfig leads nowhere: {error}"
        ) from error
    assert single  # noqa: S101 - a context was named
    return single if single.user else single._replace(user=User())  # nobody in particular, as kubectl has it


def _inside() -> SingleConfig:
    """Return the way that a pod has to its own cluster."""
    try:
        single = KubeConfig.from_service_account().get()
    except (ConfigError, OSError, KeyError) as error:
        raise ClusterFault(
            Reason.NOT_VERIFIED,
            "there is no kubeconfig: name one with --kubeconfig or KUBECONFIG, or have ~/.kube/config",
        ) from error
    assert single  # noqa: S101 - it has one context
    return single


def _of(names: Sequence[str]) -> Any:
    """Return the selector for a single name; of several all are asked for and some are looked at."""
    return {"metadata.name": names[0]} if len(set(names)) == 1 else None


def _plain(body: Any) -> Any:
    # lightkube gives typed structs for what it knows and dicts for custom resources
    return body if isinstance(body, dict) else msgspec.to_builtins(body)


def _code(error: BaseException) -> int:
    if isinstance(error, ApiError):
        return error.status.code or 0
    return error.response.status_code if isinstance(error, httpx2.HTTPStatusError) else 0


def _fault(plural: str, error: BaseException, namespace: str = "") -> ClusterFault:
    """Return what a failed request means for who called the command, and what to do."""
    match _code(error):
        case 0:
            said = f"the cluster can't be reached: {type(error).__name__}: {error}"
        case code if code == _UNAUTHORIZED:
            said = (
                "the cluster does not take your credentials: log in again, or look at the kubeconfig's user"
            )
        case code if code == _FORBIDDEN and namespace:
            said = (
                f"you may not read {plural} in namespace {namespace}: that is the namespace's own right, and "
                f"the ClusterRole view has it (the API server says: {error})"
            )
        case code if code == _FORBIDDEN:
            said = (
                f"you may not list {plural}: have someone bind the ClusterRole hauberk-viewer to you "
                f"(the API server says: {error})"
            )
        case code if code == _NOT_FOUND:
            said = (
                f"the cluster does not know {plural}: Hauberk is not installed there; "
                "`kubectl apply -k deploy/` does it"
            )
        case code:
            said = f"{plural} can't be read: the API server answers {code}: {error}"
    return ClusterFault(Reason.NOT_VERIFIED, plain(said))
