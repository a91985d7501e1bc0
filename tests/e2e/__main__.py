"""`python -m tests.e2e [PYTEST OPTIONS]`: brings a lab up and runs the end-to-end tests on it.

The tests run inside the lab's network namespace, where the API server and the nodes' addresses are. The lab
is ended afterwards; KEEP_LAB=1 leaves it up, so that the next run starts quicker.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
LAB = os.environ.get("LAB_NAME", "test")
IMAGE = "hauberk.dev/hauberk:0.1.0"


def lab(*words: str) -> None:
    """Run a command of the lab.

    Raises:
        CalledProcessError: it failed; what it said went to the terminal.
    """
    subprocess.run([sys.executable, "-m", "lab", "--name", LAB, *words], cwd=ROOT, check=True)


def main() -> int:
    """Run the tests; return pytest's exit code, or that of the step that failed."""
    os.environ["LAB_NAME"] = LAB
    archive = ROOT / "build" / "image.tar"
    archive.parent.mkdir(exist_ok=True)
    began = time.monotonic()
    try:
        lab("up", "--nodes", "debian12,debian13,selinux")
        lab("build", "--tag", IMAGE, "--output", str(archive), str(ROOT))
        lab("load", str(archive))
        sys.stderr.write(f"lab and image: {time.monotonic() - began:.0f} s\n")
        options = sys.argv[1:] or ["-v", "--durations=10"]
        lab("run", "--", sys.executable, "-m", "pytest", "tests/e2e", *options)
        if not sys.argv[1:]:
            lab("run", "--", sys.executable, "-m", "pytest", "tests/lab", "-m", "lab", *options)
    except subprocess.CalledProcessError as error:
        return error.returncode
    finally:
        if not os.environ.get("KEEP_LAB"):
            lab("down")
    return 0


if __name__ == "__main__":
    sys.exit(main())
