"""`python -m lab`: runs the command and turns an error of the lab into one sentence and an exit code."""

import os
import sys

from lab.commands import app
from lab.errors import LabError


def main() -> None:
    """Run the command line."""
    try:
        app(prog_name="python -m lab")
    except LabError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.stderr.write("\nstopped: `python -m lab down` removes what was begun\n")
        sys.stderr.flush()
        # threads may still wait for a kernel that boots; an ordinary exit would wait for them
        os._exit(130)


if __name__ == "__main__":
    main()
