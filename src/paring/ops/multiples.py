"""Which numbers of channels a machine runs fast, from what some of them take."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import ceil
from statistics import mean

STEPS = (1, 2, 4, 8, 16)
ALIKE = 1.03
"""Times that differ by less are one."""


def free_step(timings: Iterable[Mapping[int, float]]) -> int:
    """The largest step for which rounding up to its multiples costs as little time as for any: what it keeps is free.

    Each of `timings` tells what every number of channels takes, for 16 in a row of which the last is a multiple of 16;
    each has the same say.
    """
    every = list(timings)
    costs = {step: mean(_cost(times, step) for times in every) for step in STEPS}
    return max(step for step, cost in costs.items() if cost <= ALIKE * min(costs.values()))


def _cost(times: Mapping[int, float], step: int) -> float:
    """What the sizes take once they are rounded up, beside what they take as they are."""
    return mean(times[ceil(size / step) * step] / taken for size, taken in times.items())
