"""Many real agents in one process, each with a memory, a kernel and connections of its own.

Started by `cluster`, several times. It takes a JSON document on each line of its input: `{"add": [...]}`
starts agents, each given by the node's `name`, its `boot` ID and the `token` of its agent's pod;
`{"remove": [names]}` ends some as if their nodes were gone; `{"rest": true}` has what all have in memory by
now looked through for garbage once, and not again while others come and go; `{"unload": {"node": ...,
"profile": ...}}` changes a node's kernel past its agent. Each is answered by a line when it is done.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import json
import logging
import os
import random
import ssl
import sys
import traceback
from pathlib import Path
from typing import Any

import structlog
from hauberk.daemonset.agent import Agent
from hauberk.daemonset.api import Api
from hauberk.daemonset.cluster import Cluster
from hauberk.daemonset.way import Way

from .kernel import MemoryHost, MemoryKernel

SYSTEM = "hauberk-system"
# A DaemonSet's pods don't start in one instant.
START_SPREAD_SECONDS = 2.0


class Agents:
    """The agents of this process, by their nodes."""

    def __init__(self, server: str, authority: Path) -> None:
        self.server, self.authority = server, authority
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.kernels: dict[str, MemoryKernel] = {}

    async def carry_out(self, command: dict[str, Any]) -> None:
        """Do what a line says."""
        for node in command.get("add", ()):
            task = self.tasks[node["name"]] = asyncio.create_task(self._run(**node))
            task.add_done_callback(functools.partial(_ended, node["name"]))
        ending = [self.tasks.pop(name) for name in command.get("remove", ())]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        if command.get("rest"):
            # A node's process has one agent's memory to walk for garbage, not that of hundreds.
            gc.unfreeze()
            gc.collect()
            gc.freeze()
        if unload := command.get("unload"):
            self.kernels[unload["node"]].someone_else(unload["profile"])

    async def _run(self, name: str, boot: str, token: str) -> None:
        await asyncio.sleep(random.uniform(0, START_SPREAD_SECONDS))  # noqa: S311
        host = MemoryHost(boot=boot)
        kernel = self.kernels[name] = MemoryKernel(host)
        tls = ssl.create_default_context(cafile=str(self.authority))
        api = Api.open(Way(self.server, tls, lambda: token, SYSTEM))
        try:
            await Agent(host, Cluster(api, name, SYSTEM), [kernel], name).run()
        finally:
            await api.close()


def _ended(name: str, task: asyncio.Task[None]) -> None:
    """End the process where an agent ended by itself: a kubelet would start it anew, and hide it."""
    if not task.cancelled() and (died := task.exception()):
        sys.stderr.write(f"the agent of {name} ended\n")
        traceback.print_exception(died)
        sys.stderr.flush()
        os._exit(1)


async def main(server: str, authority: Path) -> None:
    """Do what the input says until it ends."""
    agents = Agents(server, authority)
    reader = asyncio.StreamReader(limit=64 << 20)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer
    )
    while line := await reader.readline():
        await agents.carry_out(json.loads(line))
        sys.stdout.write('{"done": true}\n')
        sys.stdout.flush()


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
