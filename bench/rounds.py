"""`python -m bench.rounds`: what rounds of the operator take, and its memory, with many nodes and profiles.

Without a cluster: reports and Nodes are made up and told to the loop as kopf would, and the API takes every
write at once. So it is the loop alone that is measured; what a watch costs comes on top.
"""

from __future__ import annotations

import asyncio
import copy
import json
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, cast

import structlog
import typer
from hauberk.crds.models import ProfileStatus, SecurityProfile
from hauberk.crds.names import CONTRACT, PROFILE_NODES, PROFILE_REVISIONS, SECURITY_PROFILES
from hauberk.operator.controller import Controller
from hauberk.operator.operators_cluster import OperatorsCluster
from hauberk.operator.snapshot import Store
from hauberk.operator.writes import Write
from rich.console import Console
from rich.table import Table

MIB = 1 << 20
# An update after which the process should have all the memory that it will ever have.
WARM = 50


class Api:
    """Takes every write and counts it."""

    def __init__(self) -> None:
        self.written = 0

    async def store(self) -> Store:
        """Return where the profiles are kept."""
        return Store("here")

    async def carry_out(self, write: Write) -> bool:
        """Take a write."""
        del write
        self.written += 1
        return True

    async def write_status(self, name: str, status: ProfileStatus) -> None:
        """Take a status, and tell nothing of the object."""
        del name, status
        self.written += 1

    async def tell(self, profile: SecurityProfile, reason: str, message: str, *, warning: bool) -> None:
        """Take an Event."""
        del profile, reason, message, warning
        self.written += 1


def main(
    nodes: Annotated[int, typer.Option(min=1, help="How many nodes.")] = 1000,
    profiles: Annotated[int, typer.Option(min=1, help="How many profiles.")] = 100,
    updates: Annotated[
        int, typer.Option(min=0, help="Changes of one profile that memory is watched over.")
    ] = 0,
) -> None:
    """Measure rounds of the operator's loop."""
    structlog.configure(processors=[_drop])
    asyncio.run(_measure(nodes, profiles, updates))


def _drop(*_: Any) -> Any:
    raise structlog.DropEvent


async def _measure(nodes: int, profiles: int, updates: int) -> None:
    api = Api()
    loop = Controller(cast("OperatorsCluster", api))
    table = Table("round", "seconds", "longest turn", "writes")
    fresh = _memory()

    async def a_round(name: str) -> None:
        api.written = 0
        began = time.thread_time()
        longest = await _longest_while(loop.reconcile)
        table.add_row(name, f"{time.thread_time() - began:.4f}", f"{longest:.4f}", str(api.written))

    began = time.thread_time()
    for at in range(nodes):
        tell(loop, "nodes", node(at))
        tell(loop, "pods", pod(at))
        tell(loop, PROFILE_NODES, report(at, dict.fromkeys(range(profiles), 1)))
    for at in range(profiles):
        tell(loop, PROFILE_REVISIONS, revision(at, 1))
        tell(loop, SECURITY_PROFILES, profile(at, 1))
    table.add_row("(all objects are read)", f"{time.thread_time() - began:.4f}", "", "")
    await a_round("everything is new")
    await a_round("nothing changed")
    tell(loop, PROFILE_NODES, report(0, dict.fromkeys(range(profiles), 1) | {0: 0}))
    await a_round("one report changed in one profile")
    tell(loop, SECURITY_PROFILES, profile(0, 2))
    tell(loop, PROFILE_REVISIONS, revision(0, 2))
    await a_round("one profile has a new revision")
    for at in range(nodes):
        tell(loop, PROFILE_NODES, report(at, dict.fromkeys(range(profiles), 1) | {0: 2}))
    await a_round("all reports changed in one profile")
    for at in range(nodes):
        tell(loop, PROFILE_NODES, report(at, dict.fromkeys(range(profiles), 0)))
    await a_round("all reports changed in all profiles")
    Console().print(table)
    print(f"memory: {_memory() - fresh:.0f} MiB more than {fresh:.0f} MiB")  # noqa: T201
    if updates:
        await _updates(loop, nodes, profiles, updates)


async def _updates(loop: Controller, nodes: int, profiles: int, updates: int) -> None:
    held = dict.fromkeys(range(profiles), 1)
    warm, began = _memory(), time.thread_time()
    for sequence in range(3, updates + 3):
        tell(loop, SECURITY_PROFILES, profile(0, sequence))
        tell(loop, PROFILE_REVISIONS, revision(0, sequence))
        tell(loop, PROFILE_REVISIONS, revision(0, sequence - 1), deleted=True)
        await loop.reconcile()
        held[0] = sequence
        for at in range(nodes):
            tell(loop, PROFILE_NODES, report(at, held))
        await loop.reconcile()
        if sequence == WARM:
            warm = _memory()
    took = time.thread_time() - began
    print(f"{updates} updates: {took:.0f} s, memory {_memory() - warm:+.1f} MiB since the first {WARM}")  # noqa: T201


async def _longest_while(work: Callable[[], Any]) -> float:
    """Do something; return for how many seconds at most nothing else had its turn."""
    longest, last, done = 0.0, time.thread_time(), False

    async def beside() -> None:
        nonlocal longest, last
        while not done:
            await asyncio.sleep(0)
            now = time.thread_time()
            longest, last = max(longest, now - last), now

    task = asyncio.create_task(beside())
    await asyncio.sleep(0)
    last = time.thread_time()
    await work()
    done = True
    await task
    return longest


def _memory() -> float:
    """Return this process's memory in MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / MIB


# --- what is told -------------------------------------------------------------------------------------------


def tell(loop: Controller, plural: str, body: dict[str, Any], *, deleted: bool = False) -> None:
    """Tell the loop of an object as a watch would: decoded from JSON, sharing nothing with any other."""
    loop.seen(plural, body["metadata"]["name"], json.loads(json.dumps(body)), deleted=deleted)


def node(at: int) -> dict[str, Any]:
    """Return a Node, much shorter than real ones."""
    return {
        "metadata": {
            "name": _node(at),
            "labels": {
                "kubernetes.io/os": "linux",
                "kubernetes.io/hostname": _node(at),
                "hauberk.dev/lsm-apparmor": "true",
                "hauberk.dev/lsm-selinux": "false",
            },
            "creationTimestamp": _SINCE,
        },
        "status": {"nodeInfo": {"bootID": _boot(at)}, "conditions": copy.deepcopy(_READY)},
    }


def pod(at: int) -> dict[str, Any]:
    """Return a node's agent."""
    return {
        "metadata": {"name": f"hauberk-agent-{at:05}", "creationTimestamp": _SINCE},
        "spec": {"nodeName": _node(at)},
        "status": {"conditions": copy.deepcopy(_READY)},
    }


def report(at: int, held: dict[int, int]) -> dict[str, Any]:
    """Return a node's report; `held`: the sequence of the revision of each profile."""
    return {
        "metadata": {"name": _node(at), "resourceVersion": "1"},
        "status": {
            "bootID": _boot(at),
            "summary": f"{len(held)} profiles",
            "facts": {
                "os": {"id": "debian", "version": "12"},
                "kernel": "6.1.0-18-amd64",
                "arch": "amd64",
                "lsms": ["lockdown", "capability", "landlock", "yama", "apparmor", "bpf"],
                "appArmor": {
                    "enabled": True,
                    "features": [f"network_v{one}" for one in range(40)],
                    "featuresDigest": "0123456789",
                    "hostParser": "4.0",
                },
                "seccomp": True,
                "runtime": {"name": "containerd", "version": "1.7"},
            },
            "appArmor": {
                "profiles": {
                    _profile(one): f"{_digest(one, sequence)}/enforce/{_digest(one, sequence)[::-1]}"
                    for one, sequence in held.items()
                }
            },
        },
    }


def revision(at: int, sequence: int) -> dict[str, Any]:
    """Return a profile's revision."""
    return {
        "metadata": {"name": f"{_profile(at)}.{_digest(at, sequence)}"},
        "spec": {
            "profile": _profile(at),
            "profileUID": f"uid-{at}",
            "type": "AppArmor",
            "contract": CONTRACT,
            "installation": "here",
            "content": {
                "digest": _digest(at, sequence),
                "mode": "Enforce",
                "texts": [
                    {"id": _digest(at, sequence), "text": "profile p { }\n" * 100, "names": [_profile(at)]}
                ],
            },
            "placement": {"sequence": sequence},
        },
    }


def profile(at: int, generation: int) -> dict[str, Any]:
    """Return a SecurityProfile that the admission accepted."""
    return {
        "metadata": {
            "name": _profile(at),
            "uid": f"uid-{at}",
            "generation": generation,
            "finalizers": ["hauberk.dev/profile"],
            "creationTimestamp": _SINCE,
        },
        "spec": {"type": "AppArmor", "appArmor": {"policy": "profile p { }\n" * 100}},
        "status": {
            "observedGeneration": generation,
            "conditions": [
                {
                    "type": "Accepted",
                    "status": "True",
                    "reason": "Accepted",
                    "message": "the policy defines 1 profile",
                    "observedGeneration": generation,
                    "lastTransitionTime": _SINCE,
                }
            ],
        },
    }


_SINCE = "2026-01-01T00:00:00Z"
_READY = [{"type": "Ready", "status": "True", "lastTransitionTime": _SINCE}]


def _node(at: int) -> str:
    return f"node-{at:05}.example.internal"


def _boot(at: int) -> str:
    return f"00000000-0000-4000-8000-{at:012}"


def _profile(at: int) -> str:
    return f"profile-{at:03}"


def _digest(at: int, sequence: int) -> str:
    return f"{(at * 1_000_003 + sequence * 7_919) % 16**10:010x}"


if __name__ == "__main__":
    typer.run(main)
