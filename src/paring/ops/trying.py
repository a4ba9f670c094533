"""Which option for which layer, where only trying a choice tells how good it is: near the one that sums expect."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from itertools import combinations
from typing import TypeAlias

from paring.ops.assignment import Chosen, Numbers, total

Holds: TypeAlias = Callable[[Chosen], bool]
"""Whether a choice may be taken."""


def tried_nearby(
    starts: Iterable[Chosen], harms: Numbers, holds: Holds, error: Callable[[Chosen], float], most: int
) -> Chosen:
    """The choice of least `error` among those that hold a limit, of which at most `most` are tried.

    Harms of layers alone don't tell what errors that cancel or add up come to; but they tell what is worth a try: of
    the `starts`, and of all that differ from one that was tried by another option in one layer or in two, the one that
    is expected to err least, as much as its neighbour did and what harms tell between the two.
    """
    known = set(starts)
    waiting = [(total(harms, each), each) for each in known]
    heapq.heapify(waiting)
    tried: list[tuple[float, Chosen]] = []
    while waiting and len(tried) < most:
        _, chosen = heapq.heappop(waiting)
        found = error(chosen)
        tried.append((found, chosen))
        beyond_harms = found - total(harms, chosen)
        for other in _neighbours(chosen, harms):
            if other not in known and holds(other):
                known.add(other)
                heapq.heappush(waiting, (beyond_harms + total(harms, other), other))
    return min(tried)[1]


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
