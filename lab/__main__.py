"""`python -m lab`: runs the command and turns an error of the lab into one sentence and an exit code."""

import os
import signal
import sys

from lab.commands import app
from lab.errors import LabError


def _stop_now(*_: object) -> None:
    # Every fact on disk is whole at any moment and threads may be waiting for a kernel that boots:
    # there is nothing to unwind, and an ordinary exit would wait for them.
    os.write(2, b"\nstopped: `python -m lab down` removes what was begun\n")
    os._exit(130)


def main() -> None:
    """Run the command line."""
    signal.signal(signal.SIGINT, _stop_now)
    try:
        app(prog_name="python -m lab")
    except LabError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
