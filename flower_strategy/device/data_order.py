"""The order in which a device goes through its examples: one order over all rounds of a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from flower_strategy.data.examples import Example
from flower_strategy.settings import TrainingSettings


@dataclass(frozen=True)
class Place:
    """Where a device is in its order.

    Attributes
    ----------
    passes : int (default: 0)
        Passes over its examples that it has begun and finished.
    used : int (default: 0)
        Examples of the present pass that it has trained on.
    """

    passes: int = 0
    used: int = 0


def steps_from(
    place: Place,
    examples: Sequence[Example],
    settings: TrainingSettings,
    seed: Sequence[int],
    *,
    steps: int,
) -> Iterator[tuple[list[Example], Place]]:
    """Yield the examples of each step, and the place after it.

    A pass is a shuffle that follows from the seed and the pass's number. With ``epochs`` a pass
    ends with the step in which its last examples are, as transformers' Trainer does it; with
    ``local-steps`` every step is full.
    """
    size = settings.batch_size * settings.gradient_accumulation_steps
    count = len(examples)
    if place.used >= count:  # It has fewer examples than when it stopped.
        place = Place(place.passes + 1)
    order = _order(seed, place.passes, count)
    for _ in range(steps):
        rows: list[int] = []
        while len(rows) < size:
            taken = order[place.used : place.used + size - len(rows)]
            rows += taken
            place = Place(place.passes, place.used + len(taken))
            if place.used == count:
                place = Place(place.passes + 1)
                order = _order(seed, place.passes, count)
                if settings.epochs:
                    break
        yield [examples[row] for row in rows], place


def _order(seed: Sequence[int], number: int, count: int) -> list[int]:
    order: list[int] = np.random.default_rng([*seed, number]).permutation(count).tolist()
    return order
