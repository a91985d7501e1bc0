"""`python -m hauberk.cli`, `hauberk`, `kubectl-hauberk`: runs the command, and ends with its exit code."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ..crds.errors import Fault
from .live import app


def main() -> None:
    """Run the command line; a fault that no command expected becomes one sentence and exit code 3."""
    called = Path(sys.argv[0]).name
    try:
        app(prog_name="kubectl hauberk" if called.startswith("kubectl-") else "hauberk")
    except Fault as fault:
        sys.stderr.write(f"error: {fault.message}\n")
        sys.exit(3)
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


if __name__ == "__main__":
    main()
