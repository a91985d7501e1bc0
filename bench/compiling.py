"""What an agent takes to compile many policies on this machine, beside the parser's own run over them.

Called by `__main__`. `bench.lab` measures the same with the loads on kernels in user mode, where starting a
program takes longer than most policies take to compile; here it takes what it takes on a node.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from hauberk.crds.errors import NodeFault
from hauberk.crds.reasons import Reason
from hauberk.daemonset.apparmor import AppArmor
from hauberk.daemonset.compiling import AT_ONCE, Compiling
from hauberk.daemonset.host import Host
from hauberk.daemonset.plan import Key, Load
from hauberk.profiles import sandbox
from hauberk.profiles.parser import Parser, pinned_features
from hauberk.profiles.sandbox import Limits

from .figures import Figure, Floor
from .scale.cluster import policy

TEXTS = 100
ROUNDS = 3


async def measure() -> list[Figure]:
    """Return how long an agent takes to compile many texts, from no cache.

    Raises:
        NodeFault: the parser can't be run.
    """
    texts = [policy(f"text-{number:03}") for number in range(TEXTS)]
    with tempfile.TemporaryDirectory(prefix="bench-") as made:
        folder = Path(made)
        files = [folder / f"text-{number:03}" for number in range(TEXTS)]
        for file, text in zip(files, texts, strict=True):
            file.write_text(text)
        took: list[float] = []
        floors: list[float] = []
        for number in range(ROUNDS):
            took.append(await _agent(texts, folder / f"state-{number}"))
            floors.append(await _parser(files))
    return [
        Figure(
            "compile",
            f"{TEXTS} policies compiled as an agent does",
            median(took),
            "s",
            goal=1.3,
            floor=Floor("the parser's own run", median(floors), floors),
            samples=took,
        )
    ]


async def _agent(texts: Sequence[str], state: Path) -> float:
    backend = await AppArmor.open(Host(state=state), Parser(features=pinned_features()))
    wake, failures = asyncio.Event(), dict[Key, Exception]()
    compiling = Compiling(backend.prepare, failures.__setitem__, wake)
    began = time.monotonic()
    compiling.want([Load(f"p{number}", "uid", "d1", "Enforce", text) for number, text in enumerate(texts)])
    while compiling.tasks:
        await wake.wait()
        wake.clear()
    took = time.monotonic() - began
    for failure in failures.values():
        raise failure
    return took


async def _parser(files: Sequence[Path]) -> float:
    """Return what one run over all files takes, with as many processes as an agent has."""
    features = pinned_features()
    began = time.monotonic()
    run = await sandbox.run(
        "apparmor_parser",
        *("--skip-kernel-load", "--skip-cache", "--stdout", f"--jobs={AT_ONCE}"),
        *([f"--kernel-features={features}"] if features else []),
        *map(str, files),
        limits=Limits(),
    )
    took = time.monotonic() - began
    if run.code:
        raise NodeFault(
            Reason.LOAD_FAILED, f"apparmor_parser ended with {run.code} {run.exceeded}: {run.stderr}"
        )
    return took
