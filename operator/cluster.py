"""The operator's side of the API: lists at the start, and every write. No other module calls the API.

Used by `controller`. What changes afterwards arrives through kopf's watches in `handlers`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx2
import msgspec
from lightkube import ApiError, AsyncClient
from lightkube.generic_resource import create_global_resource
from lightkube.models.coordination_v1 import LeaseSpec
from lightkube.models.core_v1 import EventSource, ObjectReference
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.apiextensions_v1 import CustomResourceDefinition
from lightkube.resources.apps_v1 import DaemonSet, Deployment
from lightkube.resources.coordination_v1 import Lease
from lightkube.resources.core_v1 import Event, Node, Pod
from lightkube.types import PatchType

from ..crds.errors import ClusterFault
from ..crds.models import ProfileRevision, ProfileStatus, SecurityProfile, decode, encode
from ..crds.names import (
    AGENT,
    AGENT_COMPONENT,
    API_VERSION,
    FIELD_MANAGER,
    FINALIZER,
    GROUP,
    LABEL_COMPONENT,
    OPERATOR,
    PROFILE_NODES,
    PROFILE_REVISIONS,
    SECURITY_PROFILES,
    VERSION,
)
from ..crds.reasons import Reason
from .desired import (
    AddFinalizer,
    CreateRevision,
    DeleteRevision,
    Entomb,
    Extend,
    Place,
    RemoveFinalizer,
    Write,
)
from .snapshot import Store

_Profiles = create_global_resource(GROUP, VERSION, "SecurityProfile", SECURITY_PROFILES)
_ProfilesStatus = _Profiles.Status
_Revisions = create_global_resource(GROUP, VERSION, "ProfileRevision", PROFILE_REVISIONS)
_ProfileNodes = create_global_resource(GROUP, VERSION, "ProfileNode", PROFILE_NODES)

_FORBIDDEN, _NOT_FOUND, _CONFLICT = 403, 404, 409

# The kinds that the operator keeps in memory, by the plural names that kopf uses as well.
_LISTED: dict[str, Any] = {
    SECURITY_PROFILES: _Profiles,
    PROFILE_REVISIONS: _Revisions,
    PROFILE_NODES: _ProfileNodes,
    "nodes": Node,
}


@dataclass(frozen=True)
class Held:
    """A Lease as it was read.

    Attributes:
        holder: who may write; empty: nobody.
        seconds: how long after its last change.
        transitions: how often the holder changed.
        version: of the object: changes with each renewal.
    """

    holder: str
    seconds: int
    transitions: int
    version: str


@dataclass(frozen=True)
class Cluster:
    """The API as the operator sees it; `namespace` is the operator's own."""

    client: AsyncClient
    namespace: str

    async def listing(self, plural: str) -> AsyncIterator[dict[str, Any]]:
        """Yield the objects of a kind as decoded JSON; of pods only the agents'.

        Raises:
            ClusterFault: the API can't be read.
        """
        try:
            if plural == "pods":
                pods = self.client.list(
                    Pod, namespace=self.namespace, labels={LABEL_COMPONENT: AGENT_COMPONENT}
                )
                async for pod in pods:
                    yield msgspec.to_builtins(pod)
                return
            async for body in self.client.list(_LISTED[plural]):
                yield body if isinstance(body, dict) else msgspec.to_builtins(body)
        except (httpx2.HTTPError, OSError) as error:
            raise _fault(f"{plural} can't be listed", error) from error

    async def carry_out(self, write: Write) -> bool:
        """Do one write; return False where someone else's change came first: then decide anew.

        One whose object is gone is as good as done.

        Raises:
            ClusterFault: the API did not take it.
        """
        try:
            match write:
                case AddFinalizer(profile) | RemoveFinalizer(profile):
                    await self._finalizers(profile, there=isinstance(write, AddFinalizer))
                case CreateRevision(revision):
                    await self._create(revision)
                case Place(name, placement):
                    # Replaced as a whole: a merge would keep the labels of an earlier selector.
                    change = [{"op": "replace", "path": "/spec/placement", "value": encode(placement)}]
                    await self.client.patch(_Revisions, name, change, patch_type=PatchType.JSON)
                case Extend():
                    await self._extend(write)
                case DeleteRevision(name):
                    await self.client.delete(_Revisions, name)
                case Entomb(tombstone):
                    await self._create(tombstone, only_if=self._is_gone)
        except ApiError as error:
            if error.status.code not in (_NOT_FOUND, _CONFLICT):
                raise _fault(f"{type(write).__name__} was not taken", error) from error
            return error.status.code == _NOT_FOUND
        except (httpx2.HTTPError, OSError) as error:
            raise _fault(f"{type(write).__name__} was not sent", error) from error
        return True

    async def _is_gone(self, tombstone: ProfileRevision) -> bool:
        """Return whether a SecurityProfile was deleted, or is being so, as the API server knows it now.

        What it is told of will be unloaded, so neither a late watch nor kinds that go away may decide: they
        are looked at last, for objects go after their kind is on its way.
        """
        try:
            found = decode(SecurityProfile, await self.client.get(_Profiles, tombstone.spec.profile)).metadata
            gone = found.uid != tombstone.spec.profile_uid or found.deletion_timestamp is not None
        except ApiError as error:
            if error.status.code != _NOT_FOUND:
                raise
            gone = True
        store = await self.store()
        return gone and not store.terminating and store.installation == tombstone.spec.installation

    async def store(self) -> Store:
        """Return where SecurityProfiles are kept now; a kind that is not served is as good as going away.

        Raises:
            ClusterFault: the API can't be read.
        """
        found: dict[str, ObjectMeta] = {}
        for plural in (SECURITY_PROFILES, PROFILE_REVISIONS, PROFILE_NODES):
            try:
                crd = await self.client.get(CustomResourceDefinition, f"{plural}.{GROUP}")
            except (httpx2.HTTPError, OSError) as error:
                if isinstance(error, ApiError) and error.status.code == _NOT_FOUND:
                    return Store(terminating=True)
                raise _fault(f"the definition of {plural} can't be read", error) from error
            conditions = (crd.status and crd.status.conditions) or []
            if not any(one.type == "Established" and one.status == "True" for one in conditions):
                return Store(terminating=True)
            found[plural] = crd.metadata or ObjectMeta()
        return Store(
            installation=found[SECURITY_PROFILES].uid or "",
            terminating=any(one.deletionTimestamp for one in found.values()),
        )

    async def leaving(self) -> bool:
        """Return whether Hauberk is being uninstalled: its Deployment is going or gone.

        The right to look is mostly gone before it: that says the same.

        Raises:
            ClusterFault: the API can't be read.
        """
        try:
            deployment = await self.client.get(Deployment, OPERATOR, namespace=self.namespace)
        except (httpx2.HTTPError, OSError) as error:
            if isinstance(error, ApiError) and error.status.code in (_NOT_FOUND, _FORBIDDEN):
                return True
            raise _fault("the operator's own Deployment can't be read", error) from error
        return bool(deployment.metadata and deployment.metadata.deletionTimestamp)

    async def _create(
        self,
        revision: ProfileRevision,
        only_if: Callable[[ProfileRevision], Awaitable[bool]] | None = None,
    ) -> None:
        if only_if is None or await only_if(revision):
            await self.client.create(_Revisions(**encode(revision)), field_manager=FIELD_MANAGER)

    async def _extend(self, write: Extend) -> None:
        # With the resourceVersion, so that a text that someone else just added is not lost.
        change = {
            "metadata": {"resourceVersion": write.revision.metadata.resource_version},
            "spec": {
                "content": {"texts": [encode(one) for one in write.texts]},
                "unrendered": [encode(one) for one in write.unrendered],
            },
        }
        name = write.revision.metadata.name
        await self.client.patch(_Revisions, name, change, patch_type=PatchType.MERGE)

    async def _finalizers(self, profile: SecurityProfile, *, there: bool) -> None:
        others = [one for one in profile.metadata.finalizers if one != FINALIZER]
        own = [FINALIZER] if there else []
        # With the resourceVersion, so that a finalizer that someone else just added is not lost.
        metadata = {"finalizers": others + own, "resourceVersion": profile.metadata.resource_version}
        await self.client.patch(
            _Profiles, profile.metadata.name, {"metadata": metadata}, patch_type=PatchType.MERGE
        )

    async def write_status(self, name: str, status: ProfileStatus) -> None:
        """Write a profile's whole status.

        Raises:
            ClusterFault: the API did not take it.
        """
        body = encode(status)
        body["reference"] = status.reference or None  # a merge keeps what it is not told to drop
        try:
            await self.client.patch(_ProfilesStatus, name, {"status": body}, patch_type=PatchType.MERGE)
        except ApiError as error:
            if error.status.code != _NOT_FOUND:
                raise _fault(f"the status of {name} was not taken", error) from error
        except (httpx2.HTTPError, OSError) as error:
            raise _fault(f"the status of {name} was not sent", error) from error

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
            await self.client.create(event)
        except (httpx2.HTTPError, OSError) as error:
            raise _fault("an Event was not recorded", error) from error

    async def lease(self) -> Held | None:
        """Return the operators' Lease; None where it has never been taken.

        Raises:
            ClusterFault: the API can't be read.
        """
        try:
            lease = await self.client.get(Lease, OPERATOR, namespace=self.namespace)
        except (httpx2.HTTPError, OSError) as error:
            if isinstance(error, ApiError) and error.status.code == _NOT_FOUND:
                return None
            raise _fault("the operators' Lease can't be read", error) from error
        spec = lease.spec or LeaseSpec()
        return Held(
            holder=spec.holderIdentity or "",
            seconds=spec.leaseDurationSeconds or 0,
            transitions=spec.leaseTransitions or 0,
            version=(lease.metadata.resourceVersion if lease.metadata else None) or "",
        )

    async def take_lease(self, before: Held | None, holder: str, seconds: int) -> bool:
        """Write a holder into the Lease; return False where someone else wrote since it was read.

        Raises:
            ClusterFault: the API did not take it.
        """
        transitions = before.transitions if before else 0
        now = datetime.now(UTC)
        lease = Lease(
            metadata=ObjectMeta(
                name=OPERATOR, namespace=self.namespace, resourceVersion=before.version if before else None
            ),
            spec=LeaseSpec(
                holderIdentity=holder,
                leaseDurationSeconds=seconds,
                leaseTransitions=transitions + (before is not None and before.holder != holder),
                # MicroTime is read with six digits or not at all
                renewTime=now.replace(microsecond=now.microsecond or 1),
            ),
        )
        try:
            if before is None:
                await self.client.create(lease, field_manager=FIELD_MANAGER)
            else:
                await self.client.replace(lease, field_manager=FIELD_MANAGER)
        except ApiError as error:
            if error.status.code in (_CONFLICT, _NOT_FOUND):
                return False
            raise _fault("the operators' Lease was not taken", error) from error
        except (httpx2.HTTPError, OSError) as error:
            raise _fault("the operators' Lease was not sent", error) from error
        return True

    async def own_pod(self, name: str) -> dict[str, Any]:
        """Return the operator's own Pod.

        Raises:
            ClusterFault: the API can't be read.
        """
        try:
            return msgspec.to_builtins(await self.client.get(Pod, name, namespace=self.namespace))
        except (httpx2.HTTPError, OSError) as error:
            raise _fault(f"the operator's own pod {name} can't be read", error) from error

    async def own_deployment_uid(self) -> str:
        """Return the UID of the operator's Deployment, which owns the agents.

        Raises:
            ClusterFault: the API can't be read.
        """
        try:
            deployment = await self.client.get(Deployment, OPERATOR, namespace=self.namespace)
        except (httpx2.HTTPError, OSError) as error:
            raise _fault("the operator's own Deployment can't be read", error) from error
        return (deployment.metadata.uid if deployment.metadata else None) or ""

    async def apply_daemonset(self, manifest: dict[str, Any]) -> int:
        """Make the agents' DaemonSet as the manifest says; return its generation.

        Raises:
            ClusterFault: the API did not take it.
        """
        try:
            applied = await self.client.patch(
                DaemonSet,
                AGENT,
                manifest,
                namespace=self.namespace,
                patch_type=PatchType.APPLY,
                field_manager=FIELD_MANAGER,
                force=True,
            )
        except (httpx2.HTTPError, OSError) as error:
            raise _fault("the agents' DaemonSet was not applied", error) from error
        return (applied.metadata.generation if applied.metadata else None) or 0


def _fault(what: str, error: Exception) -> ClusterFault:
    why = error.status.message if isinstance(error, ApiError) else f"{type(error).__name__} {error}"
    return ClusterFault(Reason.PROGRESSING, f"{what}: {why}")
