"""`kubectl_complete-hauberk`: what kubectl runs to complete the words of `kubectl hauberk`.

kubectl gives the words after `hauberk`, the last one being the one to complete, and reads a line for each
choice, `choice<tab>what it is`, and then `:` and a number (cobra's ShellCompDirective). Such lines are what
fish reads, so this asks for its completion.
"""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import sys

from .live import app

# cobra, completions.go: files where nothing else fits, and no files.
_FILES, _NO_FILES = 0, 4


def main() -> None:
    """Print the choices for the words on the command line."""
    sys.stdout.write(choices(sys.argv[1:]))


def choices(words: list[str]) -> str:
    """Return what kubectl is to read for some words."""
    os.environ |= {
        "_HAUBERK_COMPLETE": "complete_fish",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "COLUMNS": "1000",  # what an option is stands in one line
        # typer takes the last word for the one to complete, unless a blank is behind it
        "_TYPER_COMPLETE_ARGS": " ".join(["hauberk", *(shlex.quote(one) if one else "" for one in words)]),
    }
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        app(prog_name="hauberk")
    lines = [line for line in said.getvalue().splitlines() if line]
    return "".join(f"{line}\n" for line in [*lines, f":{_NO_FILES if lines else _FILES}"])


if __name__ == "__main__":
    main()
