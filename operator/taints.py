"""Decides from which new nodes the startup taint comes off: those that hold all that is meant for them. Pure.

Called by `controller`. The node pool puts the taint there, if anyone does; Hauberk never does. A node with
nothing to hold is let go as soon as its agent has reported.
"""

from __future__ import annotations

from collections.abc import Container

from ..crds.reasons import NodeState
from .rollout import on_node, seen
from .snapshot import NodeView, Snapshot
from .writes import Untaint

# Here a profile is as it should be, or can't be at all.
_SETTLED = (NodeState.READY, NodeState.UNSUPPORTED)


def untaints(snapshot: Snapshot, labelled: Container[str]) -> list[Untaint]:
    """Return the taints to take off; `labelled`: nodes whose labels are about to change.

    Those wait for the next round: a pod that must not run where a module is lacking is kept off by a label.
    """
    waiting = [node for _, node in sorted(snapshot.nodes.items()) if node.pending]
    held = {one.name: _all_held(one, snapshot) for one in waiting if one.name not in labelled}
    return [
        Untaint(name, because=f"profiles that are meant for it, all verified: {number}")
        for name, number in held.items()
        if number is not None
    ]


def _all_held(node: NodeView, snapshot: Snapshot) -> int | None:
    """Return how many profiles a node holds, where its report, of this boot, has each that is meant for it.

    None where one is missing, or not verified.
    """
    now, number = seen(node, snapshot), 0
    if now.current is None or not node.ready or now.agent_down:
        return None
    for profile in snapshot.profiles.values():
        revisions = snapshot.revisions_of(profile)
        if profile.metadata.deletion_timestamp is not None or not revisions:
            continue  # nothing of it is to be loaded
        state = on_node(revisions[0].spec, now)
        if state is not None and state.state not in _SETTLED:
            return None
        number += state is not None and state.state is NodeState.READY
    return number
