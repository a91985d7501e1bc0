"""Looks for garbage when a process is at rest, in the place of the collector's own times.

Called by `loop` once all was read, and after each new list.
"""

from __future__ import annotations

import gc

# So many new objects are looked through together at first; all that came since the last rest is, where that
# is a hundred times as many and a quarter of all.
YOUNG = 10_000


def collect() -> None:
    """Look for garbage in all that there is, and have the collector leave that alone until the next time.

    By its own measure it walks all that a process knows of a thousand nodes once or twice while they report a
    change: pauses of some tenths of a second, and a fifth of what a change costs the process.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, *gc.get_threshold()[1:])
