"""`python -m tests.chaos [--rounds N] [--seed N] [--faults a,b]`: brings a lab up and runs `loop` on it.

KEEP_LAB=1 leaves the lab up, so that the next run starts quicker; LAB_NAME names it.
"""

from __future__ import annotations

import subprocess
import sys

from tests.chaos.loop import arguments
from tests.e2e.cluster import APPARMOR_NODES
from tests.e2e.prepared import lab, lab_with_image


def main() -> int:
    """Run the loop; return its exit code, or that of the step that failed."""
    asked = arguments()  # what is wrong with them is told before a lab is brought up
    program = ("pytest", "-v", "-s", "tests/chaos") if asked.planted else ("tests.chaos.loop", *sys.argv[1:])
    try:
        # The third is harmed alone: where one operator's node is lost, its successor does not join the other.
        with lab_with_image("chaos", (*APPARMOR_NODES, "selinux")):
            lab("run", "--", sys.executable, "-m", *program)
    except subprocess.CalledProcessError as error:
        return error.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
