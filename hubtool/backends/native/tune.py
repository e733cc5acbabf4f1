"""How each layer is done, chosen by timing the ways that there are, where they will run.

A convolution can be done in several ways (`lower.Choice`): directly or by Winograd, in tiles of
one form or another. Which is fastest depends on its shape, the machine, the number of threads and
on what its neighbours leave in the caches. So the whole part is run, every layer in its k-th way,
and the engine tells the seconds of each step:

    run k:   conv1 in way k ──▶ conv2 in way k ──▶ …        k = 1 … as many ways as any layer has

The least of several runs counts, for a busy machine only ever makes one longer. Of ways that are as
fast as each other, but for chance, the first is taken: they stand in order of their rounding, the
exact one first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

__all__ = ["BUDGET", "LEAST", "MARGIN", "ROUNDS", "Timed", "tuned"]

BUDGET = 1.5
"""The seconds that all runs together should take; LEAST runs in each way there are in any case."""

LEAST, ROUNDS = 2, 5
"""The fewest and the most runs in one way: the first finds cold caches."""

MARGIN = 1.03
"""How much longer than the fastest a way may take to count as equally fast."""


class Timed(Protocol):
    """A part in which every layer is done in one way. layers: the one of each step, "" for none."""

    layers: list[str]

    def run(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """The seconds that each step took."""


def tuned(
    choices: Mapping[str, list[Any]], made: Callable[[dict[str, Any]], Timed]
) -> dict[str, Any]:
    """Layer -> the way in which it is fastest. choices: those that each layer has; made: the part
    with these choices, ready to be timed."""
    ways = max(map(len, choices.values()), default=0)
    taken: dict[str, list[float]] = {layer: [] for layer in choices}
    for way in range(ways):
        picked = {layer: known[min(way, len(known) - 1)] for layer, known in choices.items()}
        seconds = _least(made(picked), BUDGET / ways)
        for layer, known in choices.items():
            if way < len(known):
                taken[layer].append(seconds.get(layer, 0.0))
    return {layer: _best(known, taken[layer]) for layer, known in choices.items()}


def _least(part: Timed, budget: float) -> dict[str, float]:
    """Layer -> the seconds of all its steps in the fastest of as many runs as there is time for."""
    least: dict[str, float] = {}
    spent = 0.0
    for count in range(ROUNDS):
        seconds = part.run()
        spent += float(seconds.sum())
        found: dict[str, float] = {}
        for layer, each in zip(part.layers, seconds.tolist(), strict=True):
            found[layer] = found.get(layer, 0.0) + each
        least = {layer: min(each, least.get(layer, each)) for layer, each in found.items()}
        if spent >= budget and count + 1 >= LEAST:
            break
    return least


def _best(known: list[Any], times: list[float]) -> Any:
    """The first that is as fast as the fastest."""
    enough = min(times) * MARGIN
    return next(way for way, seconds in zip(known, times, strict=True) if seconds <= enough)
