"""What an answer to the API server may say beside yes or no. Pure.

Called by `review` and `pod_review`.
"""

from __future__ import annotations

from collections.abc import Iterable

# The API server cuts what is longer, and drops what comes after 4 KiB in all.
WARNING_CHARACTERS = 250
WARNINGS = 12


def cut(warnings: Iterable[str]) -> tuple[str, ...]:
    """Return as many warnings as the API server passes on, each as long as it may be."""
    short = [
        one if len(one) <= WARNING_CHARACTERS else f"{one[: WARNING_CHARACTERS - 3]}..." for one in warnings
    ]
    return tuple(short[:WARNINGS])
