"""The agent's side of the API in its own words: follow revisions and the own Node, write the ProfileNode.

Used by `agent` and, for pods, by `seccomp`; what is asked for over HTTP is in `api`, how it is followed in
`following`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NoReturn

from msgspec.structs import replace

from ..crds.errors import ClusterFault
from ..crds.models import Metadata, Model, ProfileNode, ProfileRevision
from ..crds.names import AGENT, AGENT_SELINUX, API_VERSION, FIELD_MANAGER, PROFILE_NODES, PROFILE_REVISIONS
from ..crds.pods import PodObject, containers
from ..crds.reasons import Reason
from .api import Api, ApiFault, Resource
from .following import follow


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


class DaemonSetStatus(Model, frozen=True):
    """The part of a DaemonSet's status that the agent reads."""

    desired_number_scheduled: int = 0


class DaemonSetObject(Model, frozen=True):
    """The part of a DaemonSet that the agent reads."""

    metadata: Metadata
    status: DaemonSetStatus = DaemonSetStatus()


_REVISIONS = Resource(f"/apis/{API_VERSION}/{PROFILE_REVISIONS}", ProfileRevision)
_PROFILE_NODES = Resource(f"/apis/{API_VERSION}/{PROFILE_NODES}", ProfileNode)


@dataclass(frozen=True)
class Cluster:
    """The API as one node's agent sees it.

    Attributes:
        api: the API server.
        node: the node's name.
        namespace: of this agent's DaemonSet.
    """

    api: Api
    node: str
    namespace: str

    async def follow_revisions(
        self,
        listed: Callable[[Mapping[str, ProfileRevision]], None],
        changed: Callable[[str, ProfileRevision | None], None],
    ) -> NoReturn:
        """Call `listed` with all ProfileRevisions by name, then `changed` with each that is another or gone.

        Never returns. After each new list `listed` is called again: something may have happened that no watch
        told of.

        Of each revision its name and its whole spec are kept, with the texts for other kinds of nodes. A node
        may become another kind while the API is away (`setenforce`), and a text that was dropped would be a
        profile that is not loaded then. Who made the revision, and what labels it, no agent reads.
        """

        def all_of_them(revisions: Mapping[str, ProfileRevision]) -> None:
            listed({name: _kept(one) for name, one in revisions.items()})

        def one_of_them(name: str, revision: ProfileRevision | None) -> None:
            changed(name, revision and _kept(revision))

        await follow(self.api, _REVISIONS, all_of_them, one_of_them)

    async def follow_node(self, seen: Callable[[NodeObject | None], None]) -> NoReturn:
        """Call `seen` with this agent's own Node, and whenever what is read of it changed; never returns.

        The kubelet writes a Node every few minutes, and mostly nothing of that is the agent's matter.
        """
        last: list[NodeObject | None] = []

        def tell(node: NodeObject | None) -> None:
            if node:
                meta = node.metadata
                node = replace(node, metadata=Metadata(name=meta.name, uid=meta.uid, labels=meta.labels))
            if last != [node]:
                last[:] = [node]
                seen(node)

        own = Resource("/api/v1/nodes", NodeObject, f"metadata.name={self.node}")
        await follow(self.api, own, lambda nodes: tell(nodes.get(self.node)), lambda _, node: tell(node))

    async def seccomp_profiles(self) -> dict[str, list[str]]:
        """Return what pods of this node give as `localhostProfile` for seccomp, each with these pods.

        Asked anew each time: a file must not be deleted by what was known before. A pod that has ended for
        good needs no file any more.

        Raises:
            ClusterFault: the API can't be read.
        """
        pods = Resource("/api/v1/pods", PodObject, f"spec.nodeName={self.node}")
        try:
            listed = await self.api.list(pods)
        except ApiFault as fault:
            raise fault.about("the node's pods were not listed") from fault
        if listed.unreadable:
            message = f"the node's pods were not all read: {', '.join(listed.unreadable)[:200]}"
            raise ClusterFault(Reason.UPDATING, message)
        found: dict[str, list[str]] = {}
        for pod in listed.objects:
            for profile in localhost_profiles(pod):
                found.setdefault(profile, []).append(f"pod {pod.metadata.namespace}/{pod.metadata.name}")
        return found

    async def agents(self) -> int:
        """Return how many nodes have an agent, or should have one.

        Raises:
            ClusterFault: the API can't be read.
        """
        sets = Resource(f"/apis/apps/v1/namespaces/{self.namespace}/daemonsets", DaemonSetObject)
        try:
            found = [await self.api.get(sets, name) for name in (AGENT, AGENT_SELINUX)]
        except ApiFault as fault:
            raise fault.about("the agents were not counted") from fault
        return sum(one.status.desired_number_scheduled for one in found if one)

    async def holds(self, profile_node: ProfileNode) -> bool:
        """Return whether the API has the node's ProfileNode as it is given.

        Raises:
            ClusterFault: the API can't be read.
        """
        try:
            there = await self.api.get(_PROFILE_NODES, profile_node.metadata.name)
        except ApiFault as fault:
            raise fault.about("the ProfileNode was not read") from fault
        return there is not None and there.status == profile_node.status

    async def write(self, profile_node: ProfileNode) -> None:
        """Create or update the node's ProfileNode in one write.

        Raises:
            ClusterFault: the API did not take it.
        """
        name, manager = profile_node.metadata.name, f"{FIELD_MANAGER}-agent"
        try:
            await self.api.apply(_PROFILE_NODES, name, profile_node, manager)
        except ApiFault as fault:
            raise fault.about("the ProfileNode was not written") from fault


def localhost_profiles(pod: PodObject) -> set[str]:
    """Return the seccomp profiles of the node that a pod names; none where it has ended for good."""
    if pod.status.phase in ("Succeeded", "Failed"):
        return set()
    # what the pod names counts even where every container overrides it: one more file stays, at worst
    contexts = (pod.spec.security_context, *(one.security_context for _, one in containers(pod.spec)))
    return {
        context.seccomp_profile.localhost_profile
        for context in contexts
        if context and context.seccomp_profile and context.seccomp_profile.localhost_profile
    }


def _kept(revision: ProfileRevision) -> ProfileRevision:
    """Return a revision without the metadata that no agent reads."""
    return replace(revision, metadata=Metadata(name=revision.metadata.name))
