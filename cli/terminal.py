"""What every command has in common: where it writes what is no result, and how it reads what it is given.

Called by the modules that hold commands. Whoever names a file that is not there meets exit code 2 here.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NoReturn

import typer
from rich.console import Console

from .sources import files_of

EXIT_CODES = (
    "Exit codes: 0 fine, 1 something is wrong, 2 wrong use, "
    "3 this machine, or the cluster, lacks what it takes."
)

# Progress and everything that is no result.
stderr = Console(stderr=True, soft_wrap=True)


def told(message: str) -> None:
    """Write a sentence that is no result."""
    stderr.print(message, highlight=False, markup=False)


def wrong_use(message: str) -> NoReturn:
    """End with 2: what was asked for can't be done by anyone."""
    told(f"error: {message}")
    raise typer.Exit(2)


def texts(paths: list[str]) -> list[tuple[str, str]]:
    """Return the name and text of each file, and of each in a folder; ends with 2 where one is not there.

    `-` is standard input.
    """
    read: list[tuple[str, str]] = []
    for path in paths:
        try:
            if path == "-":
                read.append(("-", sys.stdin.read()))
            else:
                read += [(str(file), file.read_text()) for file in files_of(Path(path))]
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) and error.strerror else "not there, or no text"
            wrong_use(f"{path}: {why}")
    return read
