"""What the parser takes by itself, on the node whose own is of the image's version: the floor of loads.

Used by `latency` and `node`.
"""

from __future__ import annotations

from tests.e2e.cluster import on_node

NODE = "debian13"


def seconds(*commands: str, given: str | None = None) -> float:
    """Return what shell commands take in a row, by the node's own clock; the first reads `given`."""
    told = f"b=$(date +%s%N); {'; '.join(commands)}; echo $((($(date +%s%N) - b) / 1000000))"
    return int(on_node(NODE, "sh", "-c", told, given=given).split()[-1]) / 1000
