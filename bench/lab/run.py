"""Measures inside a lab that is up, with this source's image on its nodes: started by `__main__`."""

from __future__ import annotations

import sys
from pathlib import Path

from bench import figures
from bench.lab import modules
from tests.e2e.cluster import kubectl, ok
from tests.e2e.prepared import install

RESULT = Path("build/bench-lab.json")


def main() -> int:
    """Install Hauberk, measure, print the table and write RESULT; return 1 if a figure missed its goal."""
    install(restart=True)
    ok(kubectl("delete", "secprof", "--all", "--timeout=300s", timeout=400))
    found = modules.measure()
    figures.write(RESULT, "Real kernels", found)
    return figures.show(found)


if __name__ == "__main__":
    sys.exit(main())
