"""What one agent takes by itself: a process as on a node, but for the kernel, which is in memory.

Called by `run`. `bench.lab` measures the image's agent on a real kernel; here it is one of many on the same
API server, so that what grows with profiles is seen without a lab.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from bench.figures import Figure

from .cluster import Cluster, none_left, usage

IDLE_SECONDS = 60.0
# The image has none of these, and structlog imports one where it is there, and that the others.
_WITHOUT = "import sys; sys.modules.update(dict.fromkeys(('click', 'pygments', 'rich')))"
_START = "import hauberk.daemonset.main, runpy; runpy.run_module('bench.scale.agents', run_name='__main__')"


async def measure(cluster: Cluster, profiles: int) -> list[Figure]:
    """Start an agent in a process of its own, on a new node; return what it takes once it holds all."""
    name = "lone"
    with (cluster.folder / "lone.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            f"{_WITHOUT}; {_START}",
            cluster.control_plane.at.server,
            str(cluster.control_plane.credentials.authority),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )
    cluster.fleet.append(process)
    try:
        await cluster.add([name], only=len(cluster.fleet) - 1)

        async def missing() -> list[str]:
            section = (await cluster.get("profilenodes", name))["status"].get("appArmor") or {}
            return [] if len(section.get("profiles", {})) >= profiles else [name]

        await none_left(missing, "does not hold all profiles")
        await asyncio.sleep(cluster.settle)
        _, before = usage(process.pid)
        await asyncio.sleep(IDLE_SECONDS)
        resident, after = usage(process.pid)
    finally:
        await cluster.remove([name])
        cluster.fleet.remove(process)
        process.kill()
        await process.wait()
    share = (after - before) / IDLE_SECONDS * 100
    return [
        Figure("agent-rss", f"agent's memory, {profiles} profiles", resident, "MiB", goal=45, decides=True),
        Figure(
            "agent-cpu",
            f"agent's processor share, idle for {IDLE_SECONDS:g} s",
            share,
            "%",
            goal=0.1,
            decides=True,
        ),
    ]
