"""`python -m bench.lab`: brings a lab up and measures Hauberk on its real kernels."""

from __future__ import annotations

import subprocess
import sys

from tests.e2e.cluster import NODES
from tests.e2e.prepared import lab, lab_with_image


def main() -> int:
    """Measure on the lab that LAB_NAME names, else on one of its own; return the exit code."""
    try:
        with lab_with_image("bench", NODES, used=True):
            lab("run", "--", sys.executable, "-m", "bench.lab.run", *sys.argv[1:])
    except subprocess.CalledProcessError as error:
        return error.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
