"""The operator's writes: finalizers, statuses, Events, its agents, the webhook. Used by `controller`."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx2
import msgspec
from lightkube import ApiError
from lightkube.models.core_v1 import EventSource, ObjectReference
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.operators import not_exists
from lightkube.resources.admissionregistration_v1 import (
    MutatingWebhookConfiguration,
    ValidatingWebhookConfiguration,
)
from lightkube.resources.apps_v1 import DaemonSet, Deployment
from lightkube.resources.core_v1 import ConfigMap, Event, Namespace, Node, Pod
from lightkube.types import PatchType

from ..crds.models import Metadata, ProfileRevision, ProfileStatus, SecurityProfile, decode, encode
from ..crds.names import (
    ADMISSION,
    ADMISSION_AUTHORITY,
    API_VERSION,
    FIELD_MANAGER,
    GATE_ENABLED,
    LABEL_GATED,
    LABEL_POD_GATE,
    LABEL_PROFILE,
    OPERATOR,
    POD_GATE_WEBHOOK,
)
from ..crds.pods import PodObject
from .cluster import CONFLICT, FORBIDDEN, NOT_FOUND, PAGE, Cluster, Nodes, Pods, Profiles, Revisions, fault
from .gated_pods import Changed, Listed, follow, listing, read
from .gating import opening
from .snapshot import is_pending
from .writes import (
    MESSAGE_LENGTH,
    AddFinalizer,
    LabelNode,
    OpenGate,
    PodOf,
    RemoveFinalizer,
    TellOfPod,
    Untaint,
    Write,
)

_Kind = type[MutatingWebhookConfiguration | ValidatingWebhookConfiguration]

NODE, EVENT = "Node", "Event"
# The kinds of what it writes, as it counts them.
WRITES = (
    *("SecurityProfile", "SecurityProfileStatus", NODE, "Pod", EVENT, "DaemonSet"),
    *("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration", "Lease"),
)


@dataclass(frozen=True)
class OperatorsCluster(Cluster):
    """The API as the operator sees it."""

    name: str = OPERATOR

    async def _write(self, write: Write) -> bool:
        match write:
            case AddFinalizer():
                await self._finalizers(write)
            case RemoveFinalizer(profile, once_withdrawn):
                if once_withdrawn and await self._is_published(profile):
                    return False
                await self._finalizers(write)
            case LabelNode(node, labels):
                # As long as the node is there at all: it may have gone meanwhile.
                change = {"metadata": {"labels": dict(labels)}}
                await self.sent(
                    NODE, lambda: self.client.patch(Node, node, change, patch_type=PatchType.MERGE)
                )
            case Untaint(node):
                await self._untaint(node)
            case OpenGate(pod):
                await self._open_gate(pod)
            case TellOfPod():
                await self._tell_of_pod(write)
            case _:
                return await super()._write(write)
        return True

    async def _untaint(self, node: str) -> None:
        """Take the startup taint off a Node: as it was read, or not at all, for others change taints too."""
        there = await self.client.get(Nodes, node)
        taints = (there.get("spec") or {}).get("taints") or []
        others = [one for one in taints if not is_pending(one)]
        if len(others) < len(taints):
            metadata = {"resourceVersion": there["metadata"]["resourceVersion"]}
            change = {"metadata": metadata, "spec": {"taints": others or None}}
            await self.sent(NODE, lambda: self.client.patch(Nodes, node, change, patch_type=PatchType.MERGE))

    async def _open_gate(self, pod: PodOf) -> None:
        """Open a pod's gate; one whose name another pod has by now is gone."""
        change = opening(pod.uid)
        try:
            await self.sent(
                "Pod",
                lambda: self.client.patch(
                    Pods, pod.name, change, namespace=pod.namespace, patch_type=PatchType.STRATEGIC
                ),
            )
        except ApiError as error:
            details = error.status.details
            if not any(one.field == "metadata.uid" for one in (details and details.causes) or []):
                raise

    async def _tell_of_pod(self, write: TellOfPod) -> None:
        """Record an Event on a pod; one that was recorded, by whichever operator, is not recorded again.

        Its name says what it is about, so the API server knows the second one for the same.
        """
        pod, now = write.pod, datetime.now(UTC)
        about = hashlib.sha256("\n".join((pod.uid, write.reason, *write.about)).encode()).hexdigest()[:16]
        event = Event(
            metadata=ObjectMeta(name=f"{pod.name[:200].rstrip('-.')}.{about}", namespace=pod.namespace),
            involvedObject=ObjectReference(
                apiVersion="v1", kind="Pod", namespace=pod.namespace, name=pod.name, uid=pod.uid
            ),
            type="Warning" if write.warning else "Normal",
            reason=write.reason,
            message=write.message[:MESSAGE_LENGTH],
            source=EventSource(component=OPERATOR),
            firstTimestamp=now,
            lastTimestamp=now,
            count=1,
        )
        try:
            await self.sent(EVENT, lambda: self.client.create(event))
        except ApiError as error:
            if error.status.code != CONFLICT:
                raise

    async def _is_published(self, profile: SecurityProfile) -> bool:
        """Return whether there is a revision for nodes to load, as the API server knows it now.

        The watch of revisions may be behind that of profiles, and what nobody withdraws would be left.
        """
        async for body in self.client.list(Revisions, labels={LABEL_PROFILE: profile.metadata.name}):
            spec = decode(ProfileRevision, dict(body)).spec
            if spec.profile_uid == profile.metadata.uid and not spec.placement.withdrawn:
                return True
        return False

    async def _finalizers(self, write: AddFinalizer | RemoveFinalizer) -> None:
        before = write.profile.metadata
        # With the resourceVersion, so that a finalizer that someone else just added is not lost.
        metadata = {"finalizers": write.finalizers, "resourceVersion": before.resource_version}
        change, name = {"metadata": metadata}, before.name
        await self.sent(
            "SecurityProfile",
            lambda: self.client.patch(Profiles, name, change, patch_type=PatchType.MERGE),
        )

    async def write_status(self, name: str, status: ProfileStatus) -> Metadata | None:
        """Write a profile's status, but for what the admission says of its text.

        Returns the object's metadata since, None where it is gone.

        Raises:
            ClusterFault: the API did not take it.
        """
        body = encode(status)
        if not status.reference:
            del body["reference"]
        return await self.apply_status(name, body)

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
            message=message[:MESSAGE_LENGTH],
            source=EventSource(component=OPERATOR),
            firstTimestamp=now,
            lastTimestamp=now,
            count=1,
        )
        try:
            await self.sent(EVENT, lambda: self.client.create(event))
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
        """Have the API server know the webhooks by these certificates; return whether that is new.

        Where pods are not to be looked at, that configuration is not there.

        Raises:
            ClusterFault: the API can't be read, or did not take it; the other one was tried all the same.
        """
        changed, failed = False, None
        for kind, name, is_needed in (
            (MutatingWebhookConfiguration, POD_GATE_WEBHOOK, False),
            (ValidatingWebhookConfiguration, ADMISSION, True),
        ):
            try:
                changed |= await self._trust(kind, name, authority)
            except (httpx2.HTTPError, OSError) as error:
                if is_needed or not isinstance(error, ApiError) or error.status.code != NOT_FOUND:
                    failed = fault(f"the webhook's configuration {name} can't be kept", error)
        if failed:
            raise failed
        return changed

    async def _trust(self, kind: _Kind, name: str, authority: bytes) -> bool:
        """Have a configuration name these certificates; return whether that is new."""
        there = await self.client.get(kind, name)
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
            kind.__name__, lambda: self.client.patch(kind, name, patch, patch_type=PatchType.JSON)
        )
        return True

    async def pods_past_the_gate(self) -> AsyncIterator[PodObject]:
        """Yield the pending pods without the gate's label, of namespaces that ask for the gate.

        Raises:
            ClusterFault: the API can't be read.
        """
        try:
            async for space in self.client.list(
                Namespace, labels={LABEL_POD_GATE: GATE_ENABLED}, chunk_size=PAGE
            ):
                pods = self.client.list(
                    Pods,
                    namespace=(space.metadata and space.metadata.name) or "",
                    labels={LABEL_GATED: not_exists()},
                    fields={"status.phase": "Pending"},
                    chunk_size=PAGE,
                )
                async for body in pods:
                    if pod := read(body):
                        yield pod
        except (httpx2.HTTPError, OSError) as error:
            raise fault("pods can't be listed", error) from error

    async def gated_pods(self) -> AsyncIterator[PodObject]:
        """Yield the pods with Hauberk's gate.

        Raises:
            ClusterFault: the API can't be read.
        """
        try:
            async for body in listing(self.client):
                if pod := read(body):
                    yield pod
        except (httpx2.HTTPError, OSError) as error:
            raise fault("gated pods can't be listed", error) from error

    async def follow_gated_pods(self, listed: Listed, changed: Changed) -> None:
        """Tell of all pods with Hauberk's gate, and of what changes of them for a few minutes.

        Raises:
            ClusterFault: the API can't be read, or does not tell on.
        """
        await follow(self.client, listed, changed)
