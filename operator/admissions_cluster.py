"""The admission's writes: revisions, what it says of texts, its authority. Used by `publisher`, `trust`."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import httpx2
from lightkube import ApiError
from lightkube.resources.admissionregistration_v1 import (
    MutatingWebhookConfiguration,
    ValidatingWebhookConfiguration,
)
from lightkube.resources.core_v1 import ConfigMap, Secret
from lightkube.types import PatchType

from ..crds.models import Condition, ProfileRevision, SecurityProfile, decode, encode
from ..crds.names import ADMISSION, ADMISSION_AUTHORITY, POD_GATE_WEBHOOK
from . import certificates
from .cluster import CONFLICT, NOT_FOUND, Cluster, Profiles, Revisions, fault
from .writes import Collect, CreateRevision, DeleteRevision, Entomb, Extend, Place, Write

REVISION = "ProfileRevision"
# The kinds of what it writes, as it counts them.
WRITES = (REVISION, "SecurityProfileStatus", "Secret", "ConfigMap", "Lease")


@dataclass(frozen=True)
class Kept:
    """The admission's Secret as it was read: empty before there is an authority.

    Attributes:
        certificates: of the authorities, in PEM, the current one first.
        key: of the current one, in PEM.
        version: of the object.
    """

    certificates: bytes
    key: bytes
    version: str


@dataclass(frozen=True)
class AdmissionsCluster(Cluster):
    """The API as the admission sees it."""

    name: str = ADMISSION

    async def _write(self, write: Write) -> bool:
        match write:
            case CreateRevision(revision):
                await self._create(revision)
            case Place(name, placement):
                # Replaced as a whole: a merge would keep the labels of an earlier selector.
                change = [{"op": "replace", "path": "/spec/placement", "value": encode(placement)}]
                await self.sent(
                    REVISION,
                    lambda: self.client.patch(Revisions, name, change, patch_type=PatchType.JSON),
                )
            case Extend():
                await self._extend(write)
            case DeleteRevision(name):
                await self._delete(name)
            case Collect(revision):
                if await self._is_gone(revision):
                    await self._delete(revision.metadata.name)
            case Entomb(tombstone):
                if await self._is_gone(tombstone, or_going=True):
                    await self._create(tombstone)
            case _:
                return await super()._write(write)
        return True

    async def _create(self, revision: ProfileRevision) -> None:
        made = Revisions(**encode(revision))
        await self.sent(REVISION, lambda: self.client.create(made, field_manager=self.name))

    async def _delete(self, revision: str) -> None:
        await self.sent(REVISION, lambda: self.client.delete(Revisions, revision))

    async def _is_gone(self, revision: ProfileRevision, *, or_going: bool = False) -> bool:
        """Return whether a SecurityProfile was deleted, or is being so, as the API server knows it now.

        What it is told of will be unloaded, so neither a late watch nor kinds that go away may decide: they
        are looked at last, for objects go after their kind is on its way.
        """
        try:
            found = decode(SecurityProfile, await self.client.get(Profiles, revision.spec.profile)).metadata
            going = or_going and found.deletion_timestamp is not None
            gone = found.uid != revision.spec.profile_uid or going
        except ApiError as error:
            if error.status.code != NOT_FOUND:
                raise
            gone = True
        store = await self.store()
        return gone and not store.terminating and store.installation == revision.spec.installation

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
        await self.sent(
            REVISION, lambda: self.client.patch(Revisions, name, change, patch_type=PatchType.MERGE)
        )

    async def write_acceptance(self, name: str, condition: Condition) -> None:
        """Write what is said of a profile's text, and nothing else of its status.

        Raises:
            ClusterFault: the API did not take it.
        """
        await self.apply_status(name, {"conditions": [encode(condition)]})

    async def kept_authority(self) -> Kept:
        """Return the authority that signs the webhook's certificates, as the Secret has it.

        Raises:
            ClusterFault: the API can't be read.
        """
        try:
            secret = await self.client.get(Secret, ADMISSION, namespace=self.namespace)
        except (httpx2.HTTPError, OSError) as error:
            raise fault("the admission's Secret can't be read", error) from error
        data = {name: base64.b64decode(value) for name, value in (secret.data or {}).items()}
        version = (secret.metadata.resourceVersion if secret.metadata else None) or ""
        return Kept(data.get("ca.crt", b""), data.get("ca.key", b""), version)

    async def keep_authority(self, kept: Kept) -> bool:
        """Write an authority into the Secret; return False where someone else wrote since it was read.

        Raises:
            ClusterFault: the API did not take it.
        """
        data = {"ca.crt": kept.certificates, "ca.key": kept.key}
        change = {
            "metadata": {"resourceVersion": kept.version},
            "data": {name: base64.b64encode(value).decode() for name, value in data.items()},
        }
        try:
            await self.sent(
                "Secret",
                lambda: self.client.patch(
                    Secret, ADMISSION, change, namespace=self.namespace, patch_type=PatchType.MERGE
                ),
            )
        except ApiError as error:
            if error.status.code == CONFLICT:
                return False
            raise fault("the admission's Secret was not taken", error) from error
        except (httpx2.HTTPError, OSError) as error:
            raise fault("the admission's Secret was not sent", error) from error
        return True

    async def show_authority(self, certificates: bytes) -> None:
        """Show the authorities' certificates to the operator, which has the API server trust them.

        Raises:
            ClusterFault: the API can't be read, or did not take it.
        """
        try:
            shown = await self.client.get(ConfigMap, ADMISSION_AUTHORITY, namespace=self.namespace)
            if (shown.data or {}).get("ca.crt") != certificates.decode():
                change = {"data": {"ca.crt": certificates.decode()}}
                await self.sent(
                    "ConfigMap",
                    lambda: self.client.patch(
                        ConfigMap,
                        ADMISSION_AUTHORITY,
                        change,
                        namespace=self.namespace,
                        patch_type=PatchType.MERGE,
                    ),
                )
        except (httpx2.HTTPError, OSError) as error:
            raise fault("the admission's authority can't be shown", error) from error

    async def trusted(self) -> bytes:
        """Return the certificates by which the API server knows each of the webhooks; empty for none.

        Where pods are not to be looked at, that configuration is not there.

        Raises:
            ClusterFault: the API can't be read.
        """
        profiles = await self._bundles(ValidatingWebhookConfiguration, ADMISSION)
        pods = await self._bundles(MutatingWebhookConfiguration, POD_GATE_WEBHOOK)
        known = [certificates.split(one) for one in (*profiles, *pods)]
        return b"".join(one for one in known[0] if all(one in more for more in known)) if profiles else b""

    async def _bundles(
        self,
        kind: type[MutatingWebhookConfiguration | ValidatingWebhookConfiguration],
        name: str,
    ) -> list[bytes]:
        """Return what each webhook of a configuration is known by; none where there is no such one."""
        try:
            there = await self.client.get(kind, name)
        except ApiError as error:
            if error.status.code == NOT_FOUND:
                return []
            raise fault("the configuration of a webhook can't be read", error) from error
        except (httpx2.HTTPError, OSError) as error:
            raise fault("the configuration of a webhook can't be read", error) from error
        return [base64.b64decode(one.clientConfig.caBundle or "") for one in there.webhooks or []]
