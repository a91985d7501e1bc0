"""What the user sees while a command works: a spinner on a terminal, plain lines elsewhere.

Used by commands.py and cluster.py; everything goes to standard error, so that the output of a command
(`status -o json`, `kubeconfig`) stays clean.
"""

import contextlib
import sys
import threading
import time
from collections.abc import Generator


class Progress:
    """Tells the steps of a command; may be told from several threads at once."""

    def __init__(self, *, terminal: bool | None = None) -> None:
        self._terminal = sys.stderr.isatty() if terminal is None else terminal
        self._lock = threading.Lock()
        self._status: object = None

    def note(self, text: str) -> None:
        """Tell what is being done now; on a terminal it replaces what was told before."""
        with self._lock:
            update = getattr(self._status, "update", None)
            if callable(update):
                update(text)
            else:
                sys.stderr.write(f"{text}\n")
                sys.stderr.flush()

    @contextlib.contextmanager
    def step(self, title: str) -> Generator[None]:
        """Tell that a step begins, and at its end how long it took."""
        begun = time.monotonic()
        if not self._terminal:
            self.note(title)
            yield
            self.note(f"{title}: done in {time.monotonic() - begun:.1f} s")
            return
        from rich.console import Console  # noqa: PLC0415 - `exec` is quicker without it

        console = Console(stderr=True, highlight=False)
        with console.status(title) as status:
            self._status = status
            try:
                yield
            finally:
                self._status = None
        console.print(f"[green]✓[/] {title} [dim]{time.monotonic() - begun:.1f} s[/]")
