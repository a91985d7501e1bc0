"""How long users wait on three real nodes: to Ready, to the kernels, to gone, and for many profiles at once.

Used by `run`, inside a lab. What happens is seen by a watch, as `kubectl wait` sees it, without the time that
starting a program for it takes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

from lightkube import Client, KubeConfig
from lightkube.generic_resource import create_global_resource
from lightkube.types import PatchType

from bench.figures import Figure, percentile
from bench.lab import parser
from tests.e2e.cluster import APPARMOR_NODES, SYSTEM, agent_pod, deny_write, kubectl, ok, on_node, profile

Profiles = create_global_resource("hauberk.dev", "v1alpha1", "SecurityProfile", "securityprofiles")

RUNS = 30
AT_ONCE = 80
# Between two runs: each is one user's, not a part of a burst.
PAUSE_SECONDS = 2.0
LONGEST_SECONDS = 300


def measure() -> list[Figure]:
    """Return the figures, in seconds."""
    bare = [_bare() for _ in range(RUNS)]
    client = Client(KubeConfig.from_env(), trust_env=False)
    ready, kernels, gone = _one_by_one(client)
    return [
        Figure(
            "lab-bare", f"the parser alone, 3 runs on one node, p50 of {RUNS}", percentile(bare, 0.5), "s"
        ),
        *_percentiles("lab-ready", f"apply to Ready, {len(APPARMOR_NODES)} nodes", ready, goal=0.6),
        *_percentiles("lab-kernels", "apply to the last kernel", kernels, goal=0.3),
        *_percentiles("lab-gone", "delete to gone", gone, goal=1.0),
        *_at_once(client),
    ]


def _bare() -> float:
    """Return the seconds that the parser takes for what no design can do without: verdict, compile, load.

    By hand, on one node, while nothing else happens.
    """
    took = parser.seconds(
        "cat > /run/bare",
        "apparmor_parser -QK --stdout /run/bare > /dev/null",
        "apparmor_parser -QK --stdout /run/bare > /run/bare.bin",
        "apparmor_parser --replace --binary /run/bare.bin",
        given=deny_write("bare"),
    )
    on_node(parser.NODE, "apparmor_parser", "--remove", "/run/bare")
    return took


def _percentiles(key: str, what: str, samples: list[float], goal: float) -> list[Figure]:
    return [
        Figure(f"{key}-p50", f"{what}, p50 of {len(samples)}", percentile(samples, 0.5), "s", goal=goal),
        Figure(
            f"{key}-p95", f"{what}, p95 of {len(samples)}", percentile(samples, 0.95), "s", samples=samples
        ),
    ]


def _one_by_one(client: Client) -> tuple[list[float], list[float], list[float]]:
    ready: list[float] = []
    kernels: list[float] = []
    gone: list[float] = []
    for number in range(RUNS):
        name = f"latency-{number}"
        began = time.time()
        ready.append(_seen(client, {name}, lambda name=name: _apply(client, [name]), _is_ready))
        kernels.append(max(_loaded_at(node, name) for node in APPARMOR_NODES) - began)
        gone.append(_seen(client, {name}, lambda name=name: client.delete(Profiles, name), _is_gone))
        time.sleep(PAUSE_SECONDS)
    return ready, kernels, gone


def _at_once(client: Client) -> list[Figure]:
    names = [f"many-{number}" for number in range(AT_ONCE)]
    took = _seen(client, set(names), lambda: _apply(client, names), _is_ready)
    gone = _seen(client, set(names), lambda: _delete(client, names), _is_gone)
    return [
        Figure("lab-many", f"{AT_ONCE} profiles applied at once: all Ready", took, "s", goal=8),
        Figure("lab-many-gone", f"{AT_ONCE} profiles deleted at once: all gone", gone, "s"),
    ]


def _apply(client: Client, names: Iterable[str]) -> None:
    """Apply profiles as `kubectl apply` with several files does: one after the other."""
    for name in names:
        body = profile(name, deny_write(name))
        client.patch(Profiles, name, body, patch_type=PatchType.APPLY, field_manager="bench", force=True)


def _delete(client: Client, names: Iterable[str]) -> None:
    for name in names:
        client.delete(Profiles, name)


def _is_ready(event: str, body: dict[str, Any]) -> bool:
    conditions = {one["type"]: one for one in body.get("status", {}).get("conditions", [])}
    ready = conditions.get("Ready", {})
    current = ready.get("observedGeneration") == body["metadata"]["generation"]
    return event != "DELETED" and current and ready.get("status") == "True"


def _is_gone(event: str, body: dict[str, Any]) -> bool:
    del body
    return event == "DELETED"


def _seen(
    client: Client, names: set[str], begin: Callable[[], object], there: Callable[[str, Any], bool]
) -> float:
    """Begin something, and return the seconds until a watch has seen it come true for all of these."""
    listed = client.list(Profiles)
    list(listed)
    left = set(names)
    with ThreadPoolExecutor(1) as aside:
        began = time.monotonic()
        doing = aside.submit(begin)
        events = client.watch(
            Profiles, resource_version=listed.resourceVersion, server_timeout=LONGEST_SECONDS
        )
        for event, found in events:
            body: dict[str, Any] = dict(found)
            name = body["metadata"]["name"]
            if name in left and there(event, body):
                left.discard(name)
                if not left:
                    break
        took = time.monotonic() - began
        doing.result()
    return took


def _loaded_at(node: str, name: str) -> float:
    """Return when a node's agent had read a profile back from its kernel, as its log has it (Unix time)."""
    log = ok(kubectl("logs", f"--namespace={SYSTEM}", agent_pod(node), "--since=60s"))
    told = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    loads = [one for one in told if one.get("event") == "done" and one.get("profile") == name]
    first = next(one for one in loads if one["step"] == "load")
    return datetime.fromisoformat(first["timestamp"]).timestamp()
