"""The operator's writes: finalizers, statuses, Events, its agents, the webhook. Used by `controller`."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx2
import msgspec
from lightkube import ApiError
from lightkube.models.core_v1 import EventSource, ObjectReference
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.admissionregistration_v1 import ValidatingWebhookConfiguration
from lightkube.resources.apps_v1 import DaemonSet, Deployment
from lightkube.resources.core_v1 import ConfigMap, Event, Node, Pod
from lightkube.types import PatchType

from ..crds.models import ProfileRevision, ProfileStatus, SecurityProfile, decode, encode
from ..crds.names import (
    ADMISSION,
    ADMISSION_AUTHORITY,
    API_VERSION,
    FIELD_MANAGER,
    FINALIZER,
    LABEL_PROFILE,
    OPERATOR,
)
from .cluster import FORBIDDEN, NOT_FOUND, Cluster, Profiles, Revisions, fault
from .writes import AddFinalizer, LabelNode, RemoveFinalizer, Write

# The kinds of what it writes, as it counts them.
WRITES = (
    *("SecurityProfile", "SecurityProfileStatus", "Node", "Event", "DaemonSet"),
    *("ValidatingWebhookConfiguration", "Lease"),
)


@dataclass(frozen=True)
class OperatorsCluster(Cluster):
    """The API as the operator sees it."""

    name: str = OPERATOR

    async def _write(self, write: Write) -> bool:
        match write:
            case AddFinalizer(profile):
                await self._finalizers(profile, there=True)
            case RemoveFinalizer(profile, once_withdrawn):
                if once_withdrawn and await self._is_published(profile):
                    return False
                await self._finalizers(profile, there=False)
            case LabelNode(node, labels):
                # As long as the node is there at all: it may have gone meanwhile.
                change = {"metadata": {"labels": dict(labels)}}
                await self.sent(
                    "Node", lambda: self.client.patch(Node, node, change, patch_type=PatchType.MERGE)
                )
            case _:
                return await super()._write(write)
        return True

    async def _is_published(self, profile: SecurityProfile) -> bool:
        """Return whether there is a revision for nodes to load, as the API server knows it now.

        The watch of revisions may be behind that of profiles, and what nobody withdraws would be left.
        """
        async for body in self.client.list(Revisions, labels={LABEL_PROFILE: profile.metadata.name}):
            spec = decode(ProfileRevision, dict(body)).spec
            if spec.profile_uid == profile.metadata.uid and not spec.placement.withdrawn:
                return True
        return False

    async def _finalizers(self, profile: SecurityProfile, *, there: bool) -> None:
        others = [one for one in profile.metadata.finalizers if one != FINALIZER]
        own = [FINALIZER] if there else []
        # With the resourceVersion, so that a finalizer that someone else just added is not lost.
        metadata = {"finalizers": others + own, "resourceVersion": profile.metadata.resource_version}
        change, name = {"metadata": metadata}, profile.metadata.name
        await self.sent(
            "SecurityProfile",
            lambda: self.client.patch(Profiles, name, change, patch_type=PatchType.MERGE),
        )

    async def write_status(self, name: str, status: ProfileStatus) -> None:
        """Write a profile's status, but for what the admission says of its text.

        Raises:
            ClusterFault: the API did not take it.
        """
        body = encode(status)
        if not status.reference:
            del body["reference"]
        await self.apply_status(name, body)

    async def tell(self, profile: SecurityProfile, reason: str, message: str, *, warning: bool) -> None:
        """Record an Event on a profile.

        Raises:
            ClusterFault: the API did not take it.
        """
        now = datetime.now(UTC)
        about = ObjectReference(
            apiVersion=API_VERSION,
            kind="SecurityProfile",
            name=profile.metadata.name,
            uid=profile.metadata.uid,
        )
        event = Event(
            # Events on cluster-scoped objects live in the namespace `default`.
            metadata=ObjectMeta(generateName=f"{profile.metadata.name}.", namespace="default"),
            involvedObject=about,
            type="Warning" if warning else "Normal",
            reason=reason,
            message=message[:1024],
            source=EventSource(component=OPERATOR),
            firstTimestamp=now,
            lastTimestamp=now,
            count=1,
        )
        try:
            await self.sent("Event", lambda: self.client.create(event))
        except (httpx2.HTTPError, OSError) as error:
            raise fault("an Event was not recorded", error) from error

    async def leaving(self) -> bool:
        """Return whether Hauberk is being uninstalled: its Deployment is going or gone.

        The right to look is mostly gone before it: that says the same.

        Raises:
            ClusterFault: the API can't be read.
        """
        try:
            deployment = await self.client.get(Deployment, OPERATOR, namespace=self.namespace)
        except (httpx2.HTTPError, OSError) as error:
            if isinstance(error, ApiError) and error.status.code in (NOT_FOUND, FORBIDDEN):
                return True
            raise fault("the operator's own Deployment can't be read", error) from error
        return bool(deployment.metadata and deployment.metadata.deletionTimestamp)

    async def own_pod(self, name: str) -> dict[str, Any]:
        """Return the operator's own Pod.

        Raises:
            ClusterFault: the API can't be read.
        """
        try:
            return msgspec.to_builtins(await self.client.get(Pod, name, namespace=self.namespace))
        except (httpx2.HTTPError, OSError) as error:
            raise fault(f"the operator's own pod {name} can't be read", error) from error

    async def own_deployment_uid(self) -> str:
        """Return the UID of the operator's Deployment, which owns the agents.

        Raises:
            ClusterFault: the API can't be read.
        """
        try:
            deployment = await self.client.get(Deployment, OPERATOR, namespace=self.namespace)
        except (httpx2.HTTPError, OSError) as error:
            raise fault("the operator's own Deployment can't be read", error) from error
        return (deployment.metadata.uid if deployment.metadata else None) or ""

    async def apply_daemonset(self, name: str, manifest: dict[str, Any]) -> int:
        """Make one of the agents' DaemonSets as the manifest says; return its generation.

        Raises:
            ClusterFault: the API did not take it.
        """
        try:
            applied = await self.sent(
                "DaemonSet",
                lambda: self.client.patch(
                    DaemonSet,
                    name,
                    manifest,
                    namespace=self.namespace,
                    patch_type=PatchType.APPLY,
                    field_manager=FIELD_MANAGER,
                    force=True,
                ),
            )
        except (httpx2.HTTPError, OSError) as error:
            raise fault(f"the DaemonSet {name} was not applied", error) from error
        return (applied.metadata.generation if applied.metadata else None) or 0

    async def shown_authority(self) -> bytes:
        """Return the certificates by which the admission's webhook is to be known; empty before there are.

        Raises:
            ClusterFault: the API can't be read.
        """
        try:
            shown = await self.client.get(ConfigMap, ADMISSION_AUTHORITY, namespace=self.namespace)
        except (httpx2.HTTPError, OSError) as error:
            raise fault("the admission's authority can't be read", error) from error
        return (shown.data or {}).get("ca.crt", "").encode()

    async def trust(self, authority: bytes) -> bool:
        """Have the API server know the webhook by these certificates; return whether that is new.

        Raises:
            ClusterFault: the API can't be read, or did not take it.
        """
        try:
            there = await self.client.get(ValidatingWebhookConfiguration, ADMISSION)
            bundle = base64.b64encode(authority).decode()
            changes = [
                {"op": "add", "path": f"/webhooks/{at}/clientConfig/caBundle", "value": bundle}
                for at, one in enumerate(there.webhooks or [])
                if bundle and one.clientConfig.caBundle != bundle
            ]
            if not changes:
                return False
            # As it was read, or not at all: its webhooks are told apart by where they stand.
            version = there.metadata.resourceVersion if there.metadata else None
            as_read = {"op": "test", "path": "/metadata/resourceVersion", "value": version}
            patch = [as_read, *changes]
            await self.sent(
                "ValidatingWebhookConfiguration",
                lambda: self.client.patch(
                    ValidatingWebhookConfiguration, ADMISSION, patch, patch_type=PatchType.JSON
                ),
            )
        except (httpx2.HTTPError, OSError) as error:
            raise fault("the configuration of the webhook can't be kept", error) from error
        return True
