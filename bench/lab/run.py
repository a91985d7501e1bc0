"""Measures inside a lab that is up, with this source's image on its nodes: started by `__main__`."""

from __future__ import annotations

import sys
from pathlib import Path

from bench import figures
from bench.figures import Figure
from bench.lab import image, latency, modules, node
from tests.e2e.cluster import kubectl, ok
from tests.e2e.prepared import install

RESULT = Path("build/bench-lab.json")
PARTS = {
    "image": image.measure,
    "latency": latency.measure,
    "node": node.measure,
    "modules": modules.measure,
}


def main(names: list[str]) -> int:
    """Install Hauberk, measure these parts, print the table and write RESULT; return 0."""
    install(restart=True)
    ok(kubectl("delete", "secprof", "--all", "--timeout=300s", timeout=400))
    found: list[Figure] = []
    for name in names or PARTS:
        sys.stderr.write(f"{name}\n")
        found += PARTS[name]()
        figures.write(RESULT, "Real kernels", found)
    return figures.show(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
