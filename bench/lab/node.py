"""What Hauberk costs one real node: many loads beside the parser's own time, drift, and the agent itself.

Used by `run`, inside a lab, on one node.
"""

from __future__ import annotations

import json
import time
from datetime import datetime
from typing import Any

from bench.figures import Figure, Floor, percentile
from bench.lab import parser
from tests.e2e.cluster import (
    SYSTEM,
    agent_pod,
    agent_ready,
    apply,
    deny_write,
    eventually,
    get,
    kubectl,
    ok,
    on_node,
    profile,
    wait_published,
)
from tests.e2e.test_drift import REMOVED_UNTIL_BACK

NODE = parser.NODE
LOADS = 100
HELD = 200
DRIFTS = 20
IDLE_SECONDS = 120
LONGEST_SECONDS = 300
# The agent's processes, by what they were started as; the first is the oldest.
_PID = "pgrep --oldest --full hauberk.daemonset.main"


def measure() -> list[Figure]:
    """Return the figures."""
    return [*_loads(), *_drift(), *_agent()]


def _loads() -> list[Figure]:
    """Have one node load many profiles in one go, and its own parser as many of the same text."""
    for number in range(LOADS):
        apply(_on_node(f"held-{number:03}", first=True))
    for number in range(LOADS):
        wait_published(f"held-{number:03}")
    began = time.monotonic()
    ok(kubectl("label", "node", NODE, "bench=first"))
    eventually(lambda: _held() >= LOADS, within=LONGEST_SECONDS)
    took = time.monotonic() - began
    text = "\n".join(deny_write(f"floor-{number:03}") for number in range(LOADS))
    folder = "/run/floor"
    on_node(NODE, "mkdir", "--parents", folder)
    for number in range(LOADS):
        name = f"floor-{number:03}"
        on_node(NODE, "sh", "-c", f"cat > {folder}/{name}", given=deny_write(name))
    floor = parser.seconds(f"apparmor_parser --replace --skip-cache {folder}/*")
    on_node(NODE, "sh", "-c", f"apparmor_parser --remove {folder}/*; rm -r {folder}")
    return [
        Figure(
            "lab-loads",
            f"{LOADS} profiles on one node, loaded and reported",
            took,
            "s",
            goal=1.3,
            floor=Floor(f"the node's own parser, {len(text) // 1024} KiB", floor),
        )
    ]


def _drift() -> list[Figure]:
    """Unload a profile past the agent some times; return how long the kernel was without it."""
    samples: list[float] = []
    for number in range(DRIFTS):
        name = f"held-{number:03}"
        said = on_node(NODE, "timeout", "30", "sh", "-c", REMOVED_UNTIL_BACK, "sh", name)
        samples.append(int(said) / 1000)
        time.sleep(0.5)
    return [
        Figure(
            "lab-drift",
            f"a profile unloaded by hand is back, p95 of {DRIFTS}",
            percentile(samples, 0.95),
            "s",
            goal=1,
            samples=samples,
        )
    ]


def _agent() -> list[Figure]:
    """Return the agent's memory, its idle processor share, and how long it takes to know what is loaded."""
    for number in range(LOADS, HELD):
        apply(_on_node(f"held-{number:03}", first=False))
    eventually(lambda: _held() >= HELD, within=LONGEST_SECONDS)
    eventually(lambda: _recorded() >= HELD, within=LONGEST_SECONDS)
    peak = _peak()
    before = _ticks()
    time.sleep(IDLE_SECONDS)
    share = (_ticks() - before) / 100 / IDLE_SECONDS * 100
    resident = _resident()
    old = agent_pod(NODE)
    ok(kubectl("delete", f"pod/{old}", f"--namespace={SYSTEM}", "--timeout=60s"))
    eventually(lambda: agent_pod(NODE) != old and agent_ready(NODE), within=120)
    started = _started()
    verified = _verified_at()
    fresh = _resident()
    ok(kubectl("delete", "secprof", "--all", f"--timeout={LONGEST_SECONDS}s", timeout=LONGEST_SECONDS + 60))
    ok(kubectl("label", "node", NODE, "bench-"))
    return [
        Figure("agent-rss", f"agent's memory, {HELD} profiles", resident, "MiB", goal=45),
        Figure("agent-peak", f"most that the agent's pod took while it loaded {HELD} profiles", peak, "MiB"),
        Figure("agent-rss-fresh", f"agent's memory after a start, {HELD} profiles", fresh, "MiB", goal=45),
        Figure("agent-cpu", f"agent's processor share, idle for {IDLE_SECONDS} s", share, "%", goal=0.1),
        Figure(
            "agent-start",
            f"agent's start until {HELD} loaded profiles are verified",
            verified - started,
            "s",
            goal=1,
        ),
    ]


def _on_node(name: str, *, first: bool) -> dict[str, Any]:
    label = {"bench": "first"} if first else {"kubernetes.io/hostname": NODE}
    return profile(name, deny_write(name), nodeSelector={"matchLabels": label})


def _held() -> int:
    return len(get("profilenode", NODE)["status"]["appArmor"]["profiles"])


def _recorded() -> int:
    """Return how many profiles are recorded on the node's disk: that comes after the loads."""
    return len(on_node(NODE, "sh", "-c", "ls /var/lib/hauberk/apparmor/*.json").split())


def _resident() -> float:
    said = on_node(NODE, "sh", "-c", f"grep VmRSS /proc/$({_PID})/status")
    return int(said.split()[1]) / 1024


def _peak() -> float:
    """Return the most memory that the agent's container had: parsers and page cache count (cgroup v2)."""
    group = f"/sys/fs/cgroup$(sed 's/^0:://' /proc/$({_PID})/cgroup)"
    return int(on_node(NODE, "sh", "-c", f"cat {group}/memory.peak")) / (1 << 20)


def _ticks() -> int:
    fields = on_node(NODE, "sh", "-c", f"cat /proc/$({_PID})/stat").rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def _started() -> float:
    """Return when the agent's process began (Unix time): proc_pid_stat(5), field 22."""
    said = on_node(NODE, "sh", "-c", f"cat /proc/$({_PID})/stat; grep btime /proc/stat")
    stat, _, boot = said.partition("\nbtime ")
    return int(boot) + int(stat.rpartition(")")[2].split()[19]) / 100


def _verified_at() -> float:
    """Return when the agent told for the first time what its kernel holds (Unix time)."""
    log = ok(kubectl("logs", f"--namespace={SYSTEM}", agent_pod(NODE)))
    told = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    first = next(one for one in told if one.get("event") == "reported")
    return datetime.fromisoformat(first["timestamp"]).timestamp()
