"""`python -m tests.e2e [--all | PYTEST OPTIONS]`: brings a lab up and runs the end-to-end tests on it.

The tests run inside the lab's network namespace, where the API server and the nodes' addresses are. After
them come five rounds of chaos, and with --all the tests of the lab itself. Without --all the longest stories
are left out: what they tell is held by the tests against a real API server too, but for the kernels.
"""

from __future__ import annotations

import subprocess
import sys

from tests.e2e.prepared import build_previous, lab, lab_with_image

# For each test: a run of semodule alone takes 12 s and more, and busy machines are slower by half.
LIMIT = ("--timeout=900",)
# The same each time: operator, bad-update+restart-selinux, reboot+update-other, drift-other,
# delete-other+restart-selinux.
CHAOS = ("--rounds", "5", "--seed", "2013")


def main() -> int:
    """Run the tests; return pytest's exit code, or that of the step that failed."""
    given = sys.argv[1:]
    whole = given in ([], ["--all"])
    options = ["-v", "--durations=25"] if whole else given
    choice = [] if given else ["-m", "not long"]
    try:
        if given == ["--all"] or any("upgrade" in word for word in given):
            build_previous()
        with lab_with_image("test", ("debian12", "debian13", "selinux")):
            lab("run", "--", sys.executable, "-m", "pytest", "tests/e2e", *LIMIT, *options, *choice)
            if whole:
                lab("run", "--", sys.executable, "-m", "tests.chaos.loop", *CHAOS)
            if given == ["--all"]:
                lab("run", "--", sys.executable, "-m", "pytest", "tests/lab", "-m", "lab", *options)
    except subprocess.CalledProcessError as error:
        return error.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
