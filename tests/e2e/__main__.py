"""`python -m tests.e2e [PYTEST OPTIONS]`: brings a lab up and runs the end-to-end tests on it.

The tests run inside the lab's network namespace, where the API server and the nodes' addresses are. The lab
is ended afterwards; KEEP_LAB=1 leaves it up, so that the next run starts quicker.
"""

from __future__ import annotations

import os
import subprocess
import sys

from tests.e2e.prepared import lab, prepare

LAB = os.environ.get("LAB_NAME", "test")


def main() -> int:
    """Run the tests; return pytest's exit code, or that of the step that failed."""
    os.environ["LAB_NAME"] = LAB
    try:
        prepare(LAB, "debian12,debian13,selinux")
        options = sys.argv[1:] or ["-v", "--durations=10"]
        lab(LAB, "run", "--", sys.executable, "-m", "pytest", "tests/e2e", *options)
        if not sys.argv[1:]:
            lab(LAB, "run", "--", sys.executable, "-m", "pytest", "tests/lab", "-m", "lab", *options)
    except subprocess.CalledProcessError as error:
        return error.returncode
    finally:
        if not os.environ.get("KEEP_LAB"):
            lab(LAB, "down")
    return 0


if __name__ == "__main__":
    sys.exit(main())
