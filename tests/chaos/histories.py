"""What is seen while the faults happen: statuses as the API tells them, kernels as the nodes tell them.

Filled by the watchers of `watchers`, read by `loop` for `verdict`. Every entry carries the moment of its
arrival here, by one monotonic clock.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.chaos.verdict import Claim, Content, Reading
from tests.e2e.cluster import condition


@dataclass(frozen=True)
class NodeSeen:
    """What the API says of a node from a moment on."""

    at: float
    node: str
    ready: bool
    boot_id: str


class Histories:
    """Everything seen so far; safe to use from several threads."""

    def __init__(self, nodes: tuple[str, ...]) -> None:
        self.nodes = nodes
        self._lock = threading.Lock()
        self._claims: list[Claim] = []
        self._readings: list[Reading] = []
        self._nodes: list[NodeSeen] = []
        self._annotated: dict[str, float] = {}

    # --- what the watchers tell

    def profile_told(self, kind: str, body: Mapping[str, Any]) -> None:
        """Take note of a SecurityProfile that the API told of; `kind` as a watch event has it."""
        now = time.monotonic()
        metadata = body["metadata"]
        asked, claimed = claimed_by(body, self.nodes)
        with self._lock:
            nodes = frozenset[str]() if kind == "DELETED" else claimed
            self._claims.append(Claim(now, metadata["name"], asked, nodes))
            if mark := (metadata.get("annotations") or {}).get(MARK):
                self._annotated.setdefault(mark, now)

    def profiles_untold(self) -> None:
        """Take note that the API can't be read: nobody is told that anything is Ready."""
        now = time.monotonic()
        with self._lock:
            last = {one.profile: one for one in self._claims}
            self._claims += [Claim(now, name, one.asked) for name, one in last.items() if one.nodes]

    def node_told(self, _: str, body: Mapping[str, Any]) -> None:
        """Take note of a Node that the API told of."""
        now = time.monotonic()
        ready = condition(dict(body), "Ready").get("status") == "True"
        boot_id = ((body.get("status") or {}).get("nodeInfo") or {}).get("bootID", "")
        seen = NodeSeen(now, body["metadata"]["name"], ready, boot_id)
        with self._lock:
            last = next((one for one in reversed(self._nodes) if one.node == seen.node), None)
            if last is None or (last.ready, last.boot_id) != (ready, boot_id):  # else a heartbeat
                self._nodes.append(seen)

    def kernel_told(self, node: str, held: Content | None) -> None:
        """Take note of what a node's kernel holds; None: from now on it is not known."""
        now = time.monotonic()
        with self._lock:
            self._readings.append(Reading(now, node, held))

    # --- what was seen

    def claims(self) -> list[Claim]:
        """Return every claim, in the order of arrival."""
        with self._lock:
            return list(self._claims)

    def readings(self) -> list[Reading]:
        """Return every reading, in the order of arrival."""
        with self._lock:
            return list(self._readings)

    def held(self, node: str) -> Content | None:
        """Return what a node's kernel held when it was last seen; None: not known."""
        return next((one.held for one in reversed(self.readings()) if one.node == node), None)

    def back_since(self, node: str, gone_at: float) -> float | None:
        """Return when the API knew a boot of a node that it did not know at a moment; None: not yet."""
        with self._lock:
            seen = [one for one in self._nodes if one.node == node and one.boot_id]
        before = {one.boot_id for one in seen if one.at <= gone_at}
        return next((one.at for one in seen if one.at > gone_at and one.boot_id not in before), None)

    def gone_since(self, node: str, began: float) -> float | None:
        """Return when a node's kernel first held nothing at all after a moment: it had ended."""
        own = [one for one in self.readings() if one.node == node and one.at >= began]
        return next((one.at for one in own if one.held == {}), None)

    def forget(self) -> None:
        """Keep only what holds now: what came before was judged."""
        with self._lock:
            claims = {one.profile: one for one in self._claims}
            readings = {one.node: one for one in self._readings}
            self._claims = sorted(claims.values(), key=lambda one: one.at)
            self._readings = sorted(readings.values(), key=lambda one: one.at)

    def annotated(self, mark: str) -> float | None:
        """Return when a SecurityProfile with a mark of `MARK` first arrived."""
        with self._lock:
            return self._annotated.get(mark)


# An annotation by which the delay of the watch is measured.
MARK = "chaos.hauberk.dev/mark"


def claimed_by(body: Mapping[str, Any], nodes: tuple[str, ...]) -> tuple[tuple[str, int], frozenset[str]]:
    """Return which generation a SecurityProfile's Ready speaks of, and the nodes whose kernels it claims.

    A node that the status itself calls unreachable is not claimed.
    """
    ready = condition(dict(body), "Ready")
    asked = (body["metadata"]["uid"], int(ready.get("observedGeneration", 0)))
    if ready.get("status") != "True":
        return asked, frozenset()
    failures = body["status"].get("failures") or []
    away = {one["node"] for one in failures if one["reason"] == "NodesUnreachable"}
    return asked, frozenset(nodes) - away
