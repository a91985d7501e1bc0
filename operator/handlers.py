"""Every kopf decorator of Hauberk: each handler tells the loop what was seen, nothing more.

Called by `main` (the operator) and by `admission`. Raw events, not kopf's change detection: that would keep a
second copy of each policy in an annotation, and the decisions need all objects at once anyway.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import kopf

from ..crds.names import (
    AGENT_COMPONENT,
    GROUP,
    LABEL_COMPONENT,
    PROFILE_NODES,
    PROFILE_REVISIONS,
    SECURITY_PROFILES,
    VERSION,
)
from .agents import AGENTS
from .cluster import PAGE
from .loop import Loop

# Where the kubelet puts a pod's credentials.
_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_KINDS = (SECURITY_PROFILES, PROFILE_REVISIONS, PROFILE_NODES)

Work = Callable[[], Awaitable[None]]


async def run(
    loop: Loop[Any],
    work: Sequence[Work],
    namespace: str,
    *,
    daemonset_seen: Callable[[str, int | None], None] | None = None,
    before_end: Work | None = None,
) -> None:
    """Run kopf for a loop until SIGTERM, or until one of the works has ended; all of them have ended then.

    `daemonset_seen` is told of the agents' DaemonSets; `before_end` is done after SIGTERM, while everything
    still runs: kopf cancels whatever runs as it ends.
    """
    registry, memo, stop = kopf.OperatorRegistry(), kopf.Memo(), asyncio.Event()
    asyncio.get_running_loop().set_exception_handler(_tell)
    _register_life(registry, loop, work, stop)
    if before_end:
        _register_end(registry, before_end, stop)
    _register_watches(registry, loop)
    if daemonset_seen:
        _register_daemonset(registry, daemonset_seen)
    try:
        await kopf.operator(
            registry=registry,
            memo=memo,
            stop_flag=stop,
            standalone=True,
            namespaces=[namespace],
        )
    finally:
        # Again, as kopf's activities are left out where it failed, or was ended before it began.
        if task := memo.get("task"):
            task.cancel()
            await asyncio.wait({task})


def _register_life(
    registry: kopf.OperatorRegistry, loop: Loop[Any], work: Sequence[Work], stop: asyncio.Event
) -> None:
    """Register what happens once: credentials, the start, and the end."""

    async def all_work() -> None:
        async with asyncio.TaskGroup() as tasks:
            for one in work:
                tasks.create_task(_awaited(one))

    @kopf.on.login(registry=registry)
    def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
        return in_cluster() or kopf.login_with_kubeconfig(**kwargs)

    @kopf.on.startup(registry=registry)
    async def start(settings: kopf.OperatorSettings, memo: Any, **_: Any) -> None:
        configure(settings)
        await loop.await_kinds()  # kopf looks for them once, after this
        memo.task = asyncio.create_task(all_work())

        def ended(task: asyncio.Task[None]) -> None:
            # A process that watches and decides nothing would look alive.
            loop.died = None if task.cancelled() else task.exception()
            stop.set()

        memo.task.add_done_callback(ended)

    @kopf.on.cleanup(registry=registry)
    async def end(memo: Any, **_: Any) -> None:
        memo.task.cancel()  # kopf would have it decide for 5 s more, with nothing that watches


def _register_end(registry: kopf.OperatorRegistry, before_end: Work, stop: asyncio.Event) -> None:
    """Have SIGTERM do what is to be done before the end, and then end; once more, it ends at once."""

    async def end() -> None:
        try:
            await before_end()
        finally:
            stop.set()

    @kopf.on.startup(registry=registry)
    async def take_over(memo: Any, **_: Any) -> None:
        def told() -> None:
            if memo.get("ending"):
                stop.set()
            else:
                memo.ending = asyncio.create_task(end())

        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told)  # in the place of kopf's


async def _awaited(work: Work) -> None:
    await work()


def _tell(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what nothing awaits, but for a watch that was ended as it began: kopf's can't be closed then."""
    if "asyncgen" not in context:
        loop.default_exception_handler(context)


def _register_watches(registry: kopf.OperatorRegistry, loop: Loop[Any]) -> None:
    """Register the kinds that are watched."""

    def seen(plural: str, name: str, event: Any) -> None:
        # The object as it was decoded: kopf's body is a view, from which it would be copied.
        kind = event["type"]  # None while kopf lists
        loop.seen(plural, name, event["object"], deleted=kind == "DELETED", listed=kind is None)

    for plural in _KINDS:

        @kopf.on.event(GROUP, VERSION, plural, registry=registry, id=plural)
        async def kind_seen(name: str, event: Any, resource: Any, **_: Any) -> None:
            seen(resource.plural, name, event)

    if "nodes" in loop.kinds:

        @kopf.on.event("", "v1", "nodes", registry=registry)
        async def node_seen(name: str, event: Any, **_: Any) -> None:
            seen("nodes", name, event)

    if "pods" in loop.kinds:

        @kopf.on.event("", "v1", "pods", labels={LABEL_COMPONENT: AGENT_COMPONENT}, registry=registry)
        async def agent_seen(name: str, event: Any, **_: Any) -> None:
            seen("pods", name, event)


def _register_daemonset(
    registry: kopf.OperatorRegistry, daemonset_seen: Callable[[str, int | None], None]
) -> None:
    def ours(value: str, **_: Any) -> bool:
        return value in AGENTS

    @kopf.on.event("apps", "v1", "daemonsets", field="metadata.name", value=ours, registry=registry)
    async def seen(event: Any, meta: Any, name: str, **_: Any) -> None:
        daemonset_seen(name, None if event["type"] == "DELETED" else meta.get("generation"))


def in_cluster() -> kopf.ConnectionInfo | None:
    """Return the pod's own way to the API server; None outside of a pod.

    By address: kopf's own login asks the cluster's DNS, which may not be up yet, or not be there at all. kopf
    calls it again when the token has expired.
    """
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host or not (_ACCOUNT / "token").exists():
        return None
    return kopf.ConnectionInfo(
        server=f"https://{f'[{host}]' if ':' in host else host}:{port}",
        ca_path=str(_ACCOUNT / "ca.crt"),
        token=(_ACCOUNT / "token").read_text().strip(),
    )


def configure(settings: kopf.OperatorSettings) -> None:
    """Set what differs from kopf's defaults, each for a reason."""
    settings.posting.enabled = False  # Events are the controller's, on what it decided
    settings.scanning.disabled = True  # the kinds are known; watching CRDs and namespaces needs rights
    # A watch through a cut link never ends by itself: bound it on all sides.
    settings.watching.server_timeout = 240
    settings.watching.client_timeout = 260
    settings.watching.connect_timeout = 10
    settings.networking.request_timeout = 30
    # As our own lists. If etcd forgets the rest within the seconds that it takes, kopf and this process end.
    settings.watching.chunk_size = PAGE
    # Each object has a task, which holds its last body until it ends: a thousand Nodes are some 70 MB.
    settings.queueing.idle_timeout = 0.2
    # Raw events alone are asked for: what kopf would compare with before need not be copied, twice for each.
    settings.persistence.diffbase_storage = _NothingToCompare()


class _NothingToCompare(kopf.DiffBaseStorage):
    """Keeps nothing of an object, and finds nothing in one, which is what no handler of ours asks for."""

    def build(self, **_: Any) -> Any:
        return {}

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        """Store nothing."""
