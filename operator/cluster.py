"""The API as the operator and the admission both see it: what they list and watch, and their Leases.

`operators_cluster` and `admissions_cluster` add what each of them may write, `gated_pods` follows pods. No
other module calls the API; what else changes after a list arrives through kopf's watches in `handlers`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

import httpx2
from lightkube import ApiError, AsyncClient
from lightkube.generic_resource import create_global_resource, create_namespaced_resource
from lightkube.models.coordination_v1 import LeaseSpec
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.apiextensions_v1 import CustomResourceDefinition
from lightkube.resources.coordination_v1 import Lease
from lightkube.types import PatchType

from ..crds.errors import BusyFault, ClusterFault, RefusedFault
from ..crds.metrics import API_WRITES, Counts, Uncounted, result_of
from ..crds.models import Metadata, decode
from ..crds.names import (
    AGENT_COMPONENT,
    API_VERSION,
    GROUP,
    LABEL_COMPONENT,
    PROFILE_NODES,
    PROFILE_REVISIONS,
    SECURITY_PROFILES,
    VERSION,
)
from ..crds.reasons import Reason
from .budget import Budget
from .snapshot import Store
from .writes import Write

Profiles = create_global_resource(GROUP, VERSION, "SecurityProfile", SECURITY_PROFILES)
_ProfilesStatus = Profiles.Status
Revisions = create_global_resource(GROUP, VERSION, "ProfileRevision", PROFILE_REVISIONS)
_ProfileNodes = create_global_resource(GROUP, VERSION, "ProfileNode", PROFILE_NODES)
# As they come, not as lightkube's types: of a Node's hundred fields four are read.
Nodes = create_global_resource("", "v1", "Node", "nodes")
Pods = create_namespaced_resource("", "v1", "Pod", "pods")

FORBIDDEN, NOT_FOUND, CONFLICT, GONE, BUSY = 403, 404, 409, 410, 429
# What is said of the process that asks, or of the time, and not of the object.
_OF_ALL = (401, 408, GONE, BUSY)
_WEBHOOK = "failed calling webhook"
# A thousand Nodes are some 15 MB of JSON, and five times that as objects: never all at once. Where the API
# server has forgotten the rest of a list meanwhile (410), that can't be read, and `loop` begins it again.
PAGE = 100
# A write is tried again for so long where the API server is busy: who sends it must still be the one who
# leads (`election`), so what takes longer is decided on anew.
BUSY_SECONDS = 4.0

T = TypeVar("T")

# The kinds that are kept in memory, by the plural names that kopf uses as well.
_LISTED: dict[str, Any] = {
    SECURITY_PROFILES: Profiles,
    PROFILE_REVISIONS: Revisions,
    PROFILE_NODES: _ProfileNodes,
    "nodes": Nodes,
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
    """The API as one of the two processes sees it.

    Attributes:
        client: with the process's own token.
        namespace: that Hauberk runs in.
        name: of the process, which is that of its Deployment and its Lease, and signs what it writes.
        budget: how many writes it may send.
        counts: is told of each.
    """

    client: AsyncClient
    namespace: str
    name: str
    budget: Budget = field(default_factory=Budget)
    counts: Counts = field(default_factory=Uncounted)

    async def listing(self, plural: str) -> AsyncIterator[dict[str, Any]]:
        """Yield the objects of a kind as decoded JSON; of pods only the agents'.

        Raises:
            ClusterFault: the API can't be read.
        """
        try:
            if plural == "pods":
                pods = self.client.list(
                    Pods,
                    namespace=self.namespace,
                    labels={LABEL_COMPONENT: AGENT_COMPONENT},
                    chunk_size=PAGE,
                )
                async for pod in pods:
                    yield pod
                return
            async for body in self.client.list(_LISTED[plural], chunk_size=PAGE):
                yield body
        except (httpx2.HTTPError, OSError) as error:
            raise fault(f"{plural} can't be listed", error) from error

    async def carry_out(self, write: Write) -> bool:
        """Do one write; return False where someone else's change came first: then decide anew.

        One whose object is gone is as good as done.

        Raises:
            ClusterFault: the API did not take it.
        """
        try:
            return await self._write(write)
        except ApiError as error:
            if error.status.code not in (NOT_FOUND, CONFLICT):
                raise fault(f"{type(write).__name__} was not taken", error) from error
            return error.status.code == NOT_FOUND
        except (httpx2.HTTPError, OSError) as error:
            raise fault(f"{type(write).__name__} was not sent", error) from error

    async def _write(self, write: Write) -> bool:
        """Do one of the writes that are this process's; return whether it was done."""
        raise NotImplementedError(write)

    async def sent(self, kind: str, request: Callable[[], Awaitable[T]]) -> T:
        """Send a write of an object of a kind once the budget has it; return what the API answered.

        One for which the API server has no time (429) is sent again when it says, or a little later, so that
        not all who were told so come back at once. Leases are not written by this.

        Raises:
            httpx2.HTTPError, OSError: as the request does; what is busy for too long is that as well.
        """
        waited = 0.0
        while True:
            await self.budget.spend()
            try:
                return await self._counted(kind, request)
            except httpx2.HTTPStatusError as error:
                asked = asked_to_wait(error)
                wait = (asked or 0.0) * random.uniform(1.0, 1.5)  # noqa: S311
                if asked is None or waited + wait > BUSY_SECONDS:
                    raise
            waited += wait
            await self.budget.sleep(wait)

    async def _counted(self, kind: str, request: Callable[[], Awaitable[T]]) -> T:
        try:
            answer = await request()
        except httpx2.HTTPStatusError as error:
            self.counts.count(API_WRITES, kind, result_of(error.response.status_code))
            raise
        except (httpx2.HTTPError, OSError):
            self.counts.count(API_WRITES, kind, result_of(None))
            raise
        self.counts.count(API_WRITES, kind, "done")
        return answer

    async def apply_status(self, name: str, status: dict[str, Any]) -> Metadata | None:
        """Write the part of a profile's status that is this process's: what it does not name is another's.

        Returns the object's metadata since, None where it is gone.

        Raises:
            ClusterFault: the API did not take it.
        """
        applied = {
            "apiVersion": API_VERSION,
            "kind": "SecurityProfile",
            "metadata": {"name": name},
            "status": status,
        }
        try:
            answer = await self.sent(
                "SecurityProfileStatus",
                lambda: self.client.patch(
                    _ProfilesStatus,
                    name,
                    applied,
                    patch_type=PatchType.APPLY,
                    field_manager=self.name,
                    force=True,
                ),
            )
        except ApiError as error:
            if error.status.code != NOT_FOUND:
                raise fault(f"the status of {name} was not taken", error) from error
        except (httpx2.HTTPError, OSError) as error:
            raise fault(f"the status of {name} was not sent", error) from error
        else:
            return decode(Metadata, dict(answer)["metadata"])
        return None

    async def store(self) -> Store:
        """Return where SecurityProfiles are kept now; a kind that is not served is as good as going away.

        Raises:
            ClusterFault: the API can't be read.
        """
        kinds = (SECURITY_PROFILES, PROFILE_REVISIONS, PROFILE_NODES)
        # at once: a new profile waits for this
        found = await asyncio.gather(*(self._definition(plural) for plural in kinds))
        metadata = [one for one in found if one is not None]
        if len(metadata) < len(kinds):
            return Store(terminating=True)
        return Store(
            installation=metadata[0].uid or "", terminating=any(one.deletionTimestamp for one in metadata)
        )

    async def _definition(self, plural: str) -> ObjectMeta | None:
        """Return the metadata of a kind's definition; None where the kind is not served."""
        try:
            crd = await self.client.get(CustomResourceDefinition, f"{plural}.{GROUP}")
        except (httpx2.HTTPError, OSError) as error:
            if isinstance(error, ApiError) and error.status.code == NOT_FOUND:
                return None
            raise fault(f"the definition of {plural} can't be read", error) from error
        conditions = (crd.status and crd.status.conditions) or []
        if not any(one.type == "Established" and one.status == "True" for one in conditions):
            return None
        return crd.metadata or ObjectMeta()

    async def lease(self, name: str = "") -> Held | None:
        """Return this process's Lease, or the one of that name; None where it has never been taken.

        Raises:
            ClusterFault: the API can't be read.
        """
        try:
            lease = await self.client.get(Lease, name or self.name, namespace=self.namespace)
        except (httpx2.HTTPError, OSError) as error:
            if isinstance(error, ApiError) and error.status.code == NOT_FOUND:
                return None
            raise fault("the Lease can't be read", error) from error
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
                name=self.name, namespace=self.namespace, resourceVersion=before.version if before else None
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
            send = self.client.create if before is None else self.client.replace
            await self._counted("Lease", lambda: send(lease, field_manager=self.name))
        except ApiError as error:
            if error.status.code in (CONFLICT, NOT_FOUND):
                return False
            raise fault("the Lease was not taken", error) from error
        except (httpx2.HTTPError, OSError) as error:
            raise fault("the Lease was not sent", error) from error
        return True


def fault(what: str, error: Exception) -> ClusterFault:
    """Return what to tell of a request that failed."""
    why = error.status.message if isinstance(error, ApiError) else f"{type(error).__name__} {error}"
    seconds = asked_to_wait(error)
    if seconds is not None:
        return BusyFault(Reason.PROGRESSING, f"{what}: {why}", seconds)
    if isinstance(error, ApiError) and _is_of_the_object(error):
        return RefusedFault(Reason.PROGRESSING, f"{what}: {why}")
    return ClusterFault(Reason.PROGRESSING, f"{what}: {why}")


def _is_of_the_object(error: ApiError) -> bool:
    """Return whether the API refused what it was asked, and may take the same of another object.

    Somebody's webhook that can't be asked is told of as an error of the API server's own
    (apiserver, `webhook/errors`), and is asked of some objects only.
    """
    code, message = error.status.code or 0, error.status.message or ""
    return (400 <= code < 500 and code not in _OF_ALL) or (code == 500 and _WEBHOOK in message)


def asked_to_wait(error: Exception) -> float | None:
    """Return for how many seconds an API server that is busy asks to wait; None where it is not.

    The header is there whoever refused: API priority and fairness answer in plain text, without a Status.
    """
    # what a watch says in the end is no response of its own
    response: httpx2.Response | None = getattr(error, "response", None)
    if response is None or response.status_code != BUSY:
        return None
    told = response.headers.get("Retry-After", "")
    return max(1.0, float(told)) if told.isdecimal() else 1.0
