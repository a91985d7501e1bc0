"""What a seed chooses: which faults, where, when and for how long. Pure: the same seed, the same rounds.

Called by `loop`. Faults come from shuffled bags, so that each has its turn before any comes twice.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

# Of the rounds, this share has two faults at once, as far as any two go together.
PAIRS = 0.4
JITTER_SECONDS = 2.0
# Gone for a moment, for longer than the cluster waits before it gives a node up, or for so long that the API
# server has closed the connections too (it asks after 30 s and waits 15 s): then nothing is sent again.
SHORT_SECONDS = (0.5, 4.0)
BEYOND_GRACE_SECONDS = (5.0, 12.0)
BEYOND_CONNECTIONS_SECONDS = (50.0, 60.0)

T = TypeVar("T")


@dataclass(frozen=True)
class Blow:
    """One fault of a round.

    Attributes:
        fault: its name in `faults.FAULTS`.
        node: where, for faults of one node.
        profile: which one, for faults of one profile.
        delay: seconds from the round's beginning.
        hold: seconds until it is healed, for faults that last.
        dice: what is left to choose: the fault takes it modulo its choices.
    """

    fault: str
    node: str
    profile: str
    delay: float
    hold: float
    dice: int


@dataclass(frozen=True)
class Round:
    """The faults that happen at once, one or two; `number` counts from 1."""

    number: int
    blows: tuple[Blow, ...]

    @property
    def label(self) -> str:
        """Return the names of its faults: `update`, `cut+delete`."""
        return "+".join(sorted(blow.fault for blow in self.blows))


@dataclass(frozen=True)
class Field:
    """What may be chosen from; `together` says whether two faults can happen at once."""

    faults: Sequence[str]
    together: Callable[[str, str], bool]
    nodes: Sequence[str]
    profiles: Sequence[str]
    grace: float


def rounds(seed: int, count: int, field: Field) -> Iterator[Round]:
    """Yield the rounds of a seed; of a longer run, the first ones are those of a shorter."""
    choose = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret
    pairs = [
        (one, other)
        for number, one in enumerate(field.faults)
        for other in field.faults[number + 1 :]
        if field.together(one, other)
    ]
    single, paired = _bag(choose, field.faults), _bag(choose, pairs)
    for number in range(1, count + 1):
        two = bool(pairs) and choose.random() < PAIRS
        chosen = next(paired) if two else (next(single),)
        yield Round(number, tuple(_blow(choose, fault, field) for fault in chosen))


def _bag(choose: random.Random, items: Sequence[T]) -> Iterator[T]:
    while items:
        yield from choose.sample(items, len(items))


def _blow(choose: random.Random, fault: str, field: Field) -> Blow:
    return Blow(
        fault=fault,
        node=choose.choice(field.nodes),
        profile=choose.choice(field.profiles),
        delay=choose.uniform(0, JITTER_SECONDS),
        hold=_hold(choose, field.grace),
        dice=choose.randrange(1 << 16),
    )


def _hold(choose: random.Random, grace: float) -> float:
    short, given_up = choose.uniform(*SHORT_SECONDS), grace + choose.uniform(*BEYOND_GRACE_SECONDS)
    kinds = (short, given_up, choose.uniform(*BEYOND_CONNECTIONS_SECONDS))
    return choose.choices(kinds, weights=(5, 4, 1))[0]
