"""Watches beside the faults: each node's kernel by a program on the node, the API by kubectl.

Started by `loop`; fills `histories`. Each watcher is a thread that starts its program again whenever it ends.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import threading
import time
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

from lab import process
from lab.cluster import Lab
from lab.progress import Progress
from tests.chaos.histories import Histories

_PROGRAM = Path(__file__).with_name("watch.pl")
# How often the program on the node is asked whether it is there, and after what time it is given up.
_PING_SECONDS = 1.0
_DEAF_SECONDS = 8.0
# A node that boots does not refuse a connection, it is silent; then it is quicker to begin anew.
_FIRST_WORD_SECONDS = 2.0
_AGAIN_SECONDS = 0.2


class KernelWatcher:
    """Follows what one node's kernel holds under a prefix, through reboots and power cuts."""

    def __init__(self, node: str, prefix: str, histories: Histories) -> None:
        self.node = node
        self.delays: list[tuple[float, float]] = []
        self._prefix = prefix
        self._histories = histories
        self._lab = Lab(os.environ["LAB_NAME"], Progress(terminal=False))
        self._program: subprocess.Popen[str] | None = None
        self._kernel = self._running()
        self._asked: dict[str, float] = {}
        self._answered: dict[str, threading.Event] = {}
        self._number = 0
        self._silent_since = math.inf
        self._lock = threading.Lock()
        self._ended = threading.Event()

    def start(self) -> None:
        """Begin."""
        threading.Thread(target=self._read_forever, daemon=True).start()
        threading.Thread(target=self._mind_forever, daemon=True).start()

    def stop(self) -> None:
        """End the program on the node."""
        self._ended.set()
        self._hang_up()

    def catch_up(self, seconds: float = 10.0) -> bool:
        """Return whether all that the kernel held until now was told, waiting for it if need be."""
        answered = self._ping()
        return answered is not None and answered.wait(seconds)

    def delays_since(self, moment: float = 0.0) -> list[float]:
        """Return the delays measured since a moment, in seconds: from a question here to its answer."""
        return [delay for at, delay in self.delays if at >= moment]

    def _running(self) -> process.Process | None:
        found = self._lab.state.process(f"node-{self.node}")
        return found if found and process.alive(found) else None

    def _read_forever(self) -> None:
        while not self._ended.is_set():
            if self._running():
                with contextlib.suppress(OSError):
                    self._read()
                self._histories.kernel_told(self.node, None if self._running() else {})
            self._ended.wait(_AGAIN_SECONDS)

    def _read(self) -> None:
        words = ["perl", "-e", _PROGRAM.read_text(), self._prefix]
        command = self._lab.shell(self._lab.node(self.node), words)
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as program:
            self._silent_since = time.monotonic()
            self._program = program
            for line in program.stdout or ():
                self._silent_since = math.inf
                with contextlib.suppress(json.JSONDecodeError):  # cut short by the end of the node
                    self._told(json.loads(line))
            self._program = None
            program.kill()

    def _told(self, document: dict[str, Any]) -> None:
        if "held" in document:
            held = {name: (mode, digest) for name, (mode, digest) in document["held"].items()}
            self._histories.kernel_told(self.node, held)
        elif asked := self._asked.pop(document["pong"], None):
            now = time.monotonic()
            self.delays.append((now, now - asked))
            self._answered.pop(document["pong"]).set()

    def _ping(self) -> threading.Event | None:
        program = self._program
        if program is None or program.stdin is None:
            return None
        with self._lock:
            self._number += 1
            word = str(self._number)
            answered = self._answered[word] = threading.Event()
            self._asked[word] = time.monotonic()
            try:
                program.stdin.write(f"{word}\n")
                program.stdin.flush()
            except (OSError, ValueError):  # it ended just now
                return None
        return answered

    def _mind_forever(self) -> None:
        """Notice the end of the node's kernel, which tells nobody, and a connection that went dead."""
        pinged = time.monotonic()
        while not self._ended.wait(0.05):
            running = self._running()
            if running != self._kernel:
                self._kernel = running
                # What the old kernel held is gone; what a new one holds is not known yet.
                self._histories.kernel_told(self.node, None if running else {})
                self._hang_up()
            now = time.monotonic()
            deaf = any(now - asked > _DEAF_SECONDS for asked in list(self._asked.values()))
            if deaf or now - self._silent_since > _FIRST_WORD_SECONDS:
                self._silent_since = math.inf
                self._hang_up()
            if now - pinged > _PING_SECONDS and self._silent_since == math.inf:
                pinged = now
                self._ping()

    def _hang_up(self) -> None:
        self._asked.clear()
        self._answered.clear()
        if program := self._program:
            program.kill()


class ApiWatcher:
    """Follows a kind of object through `kubectl get --watch`, through restarts of the API server."""

    def __init__(
        self,
        kind: str,
        told: Callable[[str, Mapping[str, Any]], None],
        untold: Callable[[], None] = lambda: None,
    ) -> None:
        self._command = ("kubectl", "get", kind, "--watch", "--output-watch-events", "--output=json")
        self._told = told
        self._untold = untold
        self._program: subprocess.Popen[str] | None = None
        self._ended = threading.Event()

    def start(self) -> None:
        """Begin."""
        threading.Thread(target=self._read_forever, daemon=True).start()

    def stop(self) -> None:
        """End it."""
        self._ended.set()
        if program := self._program:
            program.kill()

    def _read_forever(self) -> None:
        while not self._ended.is_set():
            with subprocess.Popen(
                self._command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            ) as program:
                self._program = program
                for line in program.stdout or ():
                    with contextlib.suppress(json.JSONDecodeError):  # cut short by the end of the API server
                        event = json.loads(line)
                        self._told(event["type"], event["object"])
            self._untold()
            self._ended.wait(_AGAIN_SECONDS)


@contextlib.contextmanager
def watching(histories: Histories, prefix: str) -> Generator[dict[str, KernelWatcher]]:
    """Watch the nodes' kernels and the API while the context lasts; yield the kernels' watchers by node."""
    kernels = {node: KernelWatcher(node, prefix, histories) for node in histories.nodes}
    api = [
        ApiWatcher("secprof", histories.profile_told, histories.profiles_untold),
        ApiWatcher("nodes", histories.node_told),
    ]
    watchers = [*kernels.values(), *api]
    try:
        for one in watchers:
            one.start()
        yield kernels
    finally:
        for one in watchers:
            one.stop()
