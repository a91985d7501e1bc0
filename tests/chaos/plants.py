"""Faults planted into the product on the lab's nodes, to see that the loop finds them.

Used by `test_planted`. The product has no switch for sabotage: the files of its image are changed where the
nodes keep them unpacked, and what runs is started again. PLANTS is the table to keep up with the product.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass

from lab.cluster import Lab
from lab.progress import Progress
from tests.chaos.choices import Blow
from tests.e2e.cluster import on_node

_IN_IMAGE = "/opt/hauberk/hauberk"
_SNAPSHOTS = "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots"
# The agent is on every node: its root is the image as it is mounted now.
_MOUNTED = "/proc/$(pgrep -o -f 'hauberk[.]daemonset[.]main')/root" + _IN_IMAGE
_KEPT = ".unplanted"


@dataclass(frozen=True)
class Edit:
    """A piece of a file of the product, which has to be there exactly once, and what takes its place."""

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Plant:
    """A law broken, and the faults that reveal it.

    Attributes:
        edits: what breaks it.
        blows: what happens then.
        shows: how the verdict has to show it: `red` (a wrong Ready) or `red_lost`.
    """

    edits: tuple[Edit, ...]
    blows: tuple[Blow, ...]
    shows: str


def _blow(fault: str, hold: float = 0.0, dice: int = 0) -> Blow:
    return Blow(fault, node="debian12", profile="chaos-a", delay=0.0, hold=hold, dice=dice)


PLANTS: dict[str, Plant] = {
    "verification skipped": Plant(
        (
            Edit(
                "daemonset/plan.py",
                "    for name, mode in holding.modes.items():\n        loaded = kernel.get(name)\n",
                "    for name, mode in ():\n        loaded = kernel.get(name)\n",
            ),
            Edit(
                "daemonset/apparmor.py",
                '            if mismatch(holding, kernel, ""):\n',
                "            if True:\n",
            ),
            Edit(
                "daemonset/report.py",
                "        first = kernel[holding.names[0]]\n",
                "        name, mode = next(iter(holding.modes.items()))\n"
                "        first = kernel.get(name) or Loaded(mode, holding.digests[0])\n",
            ),
        ),
        (_blow("drift"),),
        "red",
    ),
    "boot ID ignored": Plant(
        (
            Edit(
                "operator/rollout.py",
                "if report and boot_id and report.status.boot_id == boot_id else None\n",
                "if report else None\n",
            ),
        ),
        (_blow("crash", hold=25.0),),
        "red",
    ),
    "unload on absence": Plant(
        (
            Edit(
                "daemonset/plan.py",
                "until someone says otherwise.\n    return _repair(holding, snapshot), None\n",
                "until someone says otherwise.\n    return Remove(holding), None\n",
            ),
        ),
        (_blow("absence"),),
        "red_lost",
    ),
    "in-use guard off": Plant(
        (
            Edit(
                "daemonset/apparmor.py",
                "        if held := {name: confined[name] for name in sorted(names) if confined[name]}:\n",
                "        if held := {name: confined[name] for name in ()}:\n",
            ),
        ),
        (_blow("delete-in-use"),),
        "red_lost",
    ),
    "last good overwritten": Plant(
        (
            Edit(
                "operator/desired.py",
                "        writes += _publishing(profile, bounded(accepted), snapshot)\n",
                "        writes += _publishing(profile, bounded(accepted), snapshot)\n"
                "    elif accepted is not None:\n"
                "        writes += [\n"
                "            Place(one.metadata.name, Placement(sequence=1, withdrawn=True))\n"
                "            for one in snapshot.revisions_of(profile)\n"
                "            if not one.spec.placement.withdrawn\n"
                "        ]\n",
            ),
        ),
        (_blow("bad-update"),),
        "red_lost",
    ),
}


@contextmanager
def planted(edits: Iterable[Edit]) -> Generator[None]:
    """Change the product on every node while the context lasts; what runs has to be started again after both.

    Raises:
        AssertionError: a text to change is not there exactly once; nothing is changed then.
    """
    here = Lab(os.environ["LAB_NAME"], Progress(terminal=False))
    nodes = [node.name for node in here.state.nodes()]
    texts = {edit.file: "" for edit in edits}
    for file in texts:
        texts[file] = on_node(nodes[0], "sh", "-c", f"cat {_MOUNTED}/{file}")
    for edit in edits:
        count = texts[edit.file].count(edit.old)
        assert count == 1, f"{edit.file} has this {count} times, adapt PLANTS:\n{edit.old}"
        texts[edit.file] = texts[edit.file].replace(edit.old, edit.new)
    try:
        for node in nodes:
            for file, text in texts.items():
                _change(node, file, text)
        yield
    finally:
        for node in nodes:
            on_node(node, "sh", "-c", _RESTORE)


def _change(node: str, file: str, text: str) -> None:
    """Change a file in every layer that has it as it is mounted now; older images are left alone."""
    script = f"""
        cat > /tmp/planted
        for path in $(find {_SNAPSHOTS} -path {shlex.quote(f"*{_IN_IMAGE}/{file}")}); do
            cmp -s "$path" {_MOUNTED}/{file} || continue
            cp -p "$path" "$path{_KEPT}"
            cat /tmp/planted > "$path"
            echo "$path"
        done"""
    changed = on_node(node, "sh", "-ec", script, given=text).split()
    assert changed, f"{node} has no layer with {file}"


# A file that is renamed keeps its time of change, so that what was compiled of it is good again.
_RESTORE = f"""
    find {_SNAPSHOTS} -path '*{_IN_IMAGE}/*{_KEPT}' | while read -r kept; do
        mv "$kept" "${{kept%{_KEPT}}}"
    done"""
