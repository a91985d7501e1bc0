"""The published rules by which kstatus judges any object, in Python: what Flux, kpt and others wait by.

From the README and the Go package `status` of sigs.k8s.io/cli-utils/pkg/kstatus, as far as they are for
custom resources: deletion, then the generation, then the conditions Reconciling and Stalled in the order in
which they stand, then Ready. What has none of them is as wanted, and so is an object without a status.
"""

from __future__ import annotations

from typing import Any, Literal

Status = Literal["Terminating", "InProgress", "Failed", "Current"]


def kstatus(thing: dict[str, Any]) -> Status:
    """Return what kstatus says of an object as the API has it."""
    metadata, status = thing["metadata"], thing.get("status", {})
    if metadata.get("deletionTimestamp"):
        return "Terminating"
    if (
        "generation" in metadata
        and status.get("observedGeneration", metadata["generation"]) != (metadata["generation"])
    ):
        return "InProgress"
    conditions = status.get("conditions", [])
    for one in conditions:
        if one["status"] == "True" and one["type"] == "Reconciling":
            return "InProgress"
        if one["status"] == "True" and one["type"] == "Stalled":
            return "Failed"
    ready = next((one["status"] for one in conditions if one["type"] == "Ready"), "True")
    return "Current" if ready == "True" else "InProgress"
