"""Which option for which layer, where only trying a choice tells how good it is: near the one that sums expect."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations

from paring.ops.assignment import ROUNDING, Assignment

Numbers = Sequence[Sequence[float]]
Chosen = tuple[int, ...]


def tried_nearby(
    start: Assignment, harms: Numbers, costs: Numbers, most_cost: float, error: Callable[[Chosen], float], most: int
) -> Assignment:
    """The choice of least `error` within the limit on the costs, among at most `most` that are tried.

    Harms of layers alone don't tell what errors that cancel or add up come to; but they tell what is worth a try: from
    `start`, of all that differ from one that was tried by another option in one layer or in two, the one that is
    expected to err least, as much as its neighbour did and what harms tell between the two.
    """
    limit = most_cost + abs(most_cost) * ROUNDING
    waiting, known = [(start.harm, start.chosen)], {start.chosen}
    tried: list[tuple[float, Chosen]] = []
    while waiting and len(tried) < most:
        _, chosen = heapq.heappop(waiting)
        found = error(chosen)
        tried.append((found, chosen))
        beyond_harms = found - _total(harms, chosen)
        for other in _neighbours(chosen, harms):
            if other not in known and _total(costs, other) <= limit:
                known.add(other)
                heapq.heappush(waiting, (beyond_harms + _total(harms, other), other))
    _, best = min(tried)
    return replace(start, chosen=best, harm=_total(harms, best), cost=_total(costs, best))


def _neighbours(chosen: Chosen, harms: Numbers) -> Iterator[Chosen]:
    """Another option in one layer, or in one and another."""
    changes = [
        (layer, option) for layer, each in enumerate(harms) for option in range(len(each)) if option != chosen[layer]
    ]
    for layer, option in changes:
        yield (*chosen[:layer], option, *chosen[layer + 1 :])
    for (one, first), (other, second) in combinations(changes, 2):
        if one != other:
            yield (*chosen[:one], first, *chosen[one + 1 : other], second, *chosen[other + 1 :])


def _total(values: Numbers, chosen: Chosen) -> float:
    return float(sum(options[index] for options, index in zip(values, chosen, strict=True)))
