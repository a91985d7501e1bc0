"""What someone may have meant who wrote a name that is not there. Pure.

Called by `why`.
"""

from __future__ import annotations

from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the known name that is the fewest changes away; empty where none is near.

    Near is a change for every four characters, and one at least; of several that are as near, the first by
    letter.
    """
    limit = max(1, len(name) // 4)
    distances = sorted((distance(name, one), one) for one in known if abs(len(one) - len(name)) <= limit)
    near = [one for away, one in distances if away <= limit and away < len(name)]
    return near[0] if near else ""


def distance(one: str, other: str) -> int:
    """Return how many changes make one of the other: a letter more, less or another, or two in turned order.

    It is the Damerau-Levenshtein distance with adjacent transpositions (optimal string alignment).
    """
    before: list[int] = []
    above = list(range(len(other) + 1))
    for down, letter in enumerate(one, 1):
        row = [down]
        for right, against in enumerate(other, 1):
            least = min(above[right] + 1, row[-1] + 1, above[right - 1] + (letter != against))
            turned = down > 1 and right > 1 and letter == other[right - 2] and one[down - 2] == against
            row.append(min(least, before[right - 2] + 1) if turned else least)
        before, above = above, row
    return above[-1]
