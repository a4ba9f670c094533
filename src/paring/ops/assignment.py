"""Which option for which layer: one each, the least harm in all at a cost in all, or the least cost at a harm.

The multiple-choice knapsack, solved by dynamic programming over dominating states (Kellerer, Pferschy, Pisinger 2004,
Knapsack Problems, sections 11.5 and 11.6).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from paring.errors import TechniqueError
from paring.ops.allocation import least_harm_first

Array = npt.NDArray[np.float64]

Numbers: TypeAlias = Sequence[Sequence[float]]
"""Of each layer, for each of its options."""

Chosen: TypeAlias = tuple[int, ...]
"""The option of each layer, by index."""

ERROR = 0.01
"""How far the answer may lie from the best one, as a share of it, where the states would outgrow `MOST_STATES`."""

MOST_STATES = 4096
"""So many are kept without thinning: up to here the answer is exact."""

ROUNDING = 1e-12
"""Sums of floats in another order differ by less; byte counts below 10^12 stay exact."""


@dataclass(frozen=True)
class Assignment:
    """The option of each layer, by index, and what they come to.

    `bound` is proven: no choice within the limit has less of what was to be least. Where it equals that, the answer is
    the best one. `states` is the most that were kept at one time.
    """

    chosen: Chosen
    harm: float
    cost: float
    bound: float
    states: int


def least_harm(harms: Numbers, costs: Numbers, most_cost: float, error: float = ERROR) -> Assignment:
    """One option for each layer so that the costs sum to `most_cost` or less, and the harms to the least.

    `harms[i][j]` and `costs[i][j]` are of option j of layer i; negative harms count as none. The answer is the best
    one, or with very many states within the share `error` of it. TechniqueError where the cheapest options cost more.
    """
    harms = _checked(harms, costs)
    chosen, bound, states = _Search(harms, costs, most_cost, error, "cost").best()
    return Assignment(chosen, total(harms, chosen), total(costs, chosen), bound, states)


def least_cost(harms: Numbers, costs: Numbers, most_harm: float, error: float = ERROR) -> Assignment:
    """The same with the places exchanged: the least cost at which the harms sum to `most_harm` or less."""
    harms = _checked(harms, costs)
    chosen, bound, states = _Search(costs, harms, most_harm, error, "harm").best()
    return Assignment(chosen, total(harms, chosen), total(costs, chosen), bound, states)


def _checked(harms: Numbers, costs: Numbers) -> list[list[float]]:
    """The harms without negative ones. ValueError for numbers that are no harms or costs."""
    if [len(each) for each in harms] != [len(each) for each in costs] or not all(map(len, harms)):
        raise ValueError("harms and costs must have the same options for each layer, at least one.")
    for layer, (harm, cost) in enumerate(zip(harms, costs, strict=True)):
        if not (np.isfinite(harm).all() and np.isfinite(cost).all() and min(cost) >= 0):
            raise ValueError(f"layer {layer}: harms {harm} and costs {cost} must be finite, and costs 0 or more.")
    return [[max(one, 0.0) for one in each] for each in harms]


def total(values: Numbers, chosen: Chosen) -> float:
    """The sum of what the layers' options have."""
    return float(sum(options[index] for options, index in zip(values, chosen, strict=True)))


@dataclass(frozen=True)
class _Frontier:
    """States after some layers, none of which another one beats: `weight` ascends, `value` falls.

    `parent` is the state before the last layer, `option` what was taken there.
    """

    weight: Array
    value: Array
    parent: npt.NDArray[np.int64]
    option: npt.NDArray[np.int64]

    def kept(self, which: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> _Frontier:
        """Some of the states."""
        return _Frontier(self.weight[which], self.value[which], self.parent[which], self.option[which])

    def undominated(self) -> _Frontier:
        """Without the states to which another one is equal or better in both."""
        ordered = self.kept(np.lexsort((self.value, self.weight)))
        least_before = np.append(np.inf, np.minimum.accumulate(ordered.value)[:-1])
        return ordered.kept(ordered.value < least_before)

    def thinned(self, width: float) -> _Frontier:
        """One state for each interval of values: the lightest, which is less than `width` above those that go."""
        interval = np.floor(self.value / width)
        return self.kept(np.append(True, interval[1:] != interval[:-1]))


class _Search:
    """Options by (value, weight): the least sum of values at a limit on the sum of weights."""

    def __init__(
        self,
        values: Numbers,
        weights: Numbers,
        limit: float,
        error: float,
        what: str,
    ) -> None:
        least = sum(min(each) for each in weights)
        self.room = limit + abs(limit) * ROUNDING
        if not least <= self.room:
            raise TechniqueError(
                f"the limit of {limit:,} on the {what} can't be met: the options of least {what} come to {least:,} "
                f"together: raise the limit to that, or give options of less {what}."
            )
        self.values, self.weights, self.error = values, weights, error
        self.steps = _Steps(values, weights)

    def best(self) -> tuple[Chosen, float, int]:
        """The choice, what is proven to be the least value, and the most states that were kept."""
        greedy = self.steps.greedy(self.room)
        most = total(self.values, greedy)
        least = float(self.steps.bounds(0, np.array([self.room]))[0])
        layers, spent = self._frontiers(most, self.error * least)
        states = max(each.weight.size for each in layers)
        found = _traced(layers)
        best = found if found and total(self.values, found) <= most else greedy
        return best, max(least, total(self.values, best) - spent), states

    def _frontiers(self, most: float, slack: float) -> tuple[list[_Frontier], float]:
        """The states after each layer, and how much of the slack was spent on thinning them.

        What would end above `most`, even if the rest could be taken by parts, goes.
        """
        start = np.zeros(1, np.int64)
        layers, spent = [_Frontier(np.zeros(1), np.zeros(1), start, start)], 0.0
        for layer, (values, weights) in enumerate(zip(self.values, self.weights, strict=True)):
            after = _extended(layers[-1], np.array(values, float), np.array(weights, float))
            hopeful = after.value + self.steps.bounds(layer + 1, self.room - after.weight) <= most * (1 + ROUNDING)
            after = after.kept(hopeful).undominated()
            width = (slack - spent) / (len(self.values) - layer)
            if after.weight.size > MOST_STATES and width > 0:
                after, spent = after.thinned(width), spent + width
            layers.append(after)
        return layers, spent


def _extended(before: _Frontier, values: Array, weights: Array) -> _Frontier:
    """Each state with each option of the next layer."""
    states, options = before.weight.size, values.size
    return _Frontier(
        (before.weight[:, None] + weights).reshape(-1),
        (before.value[:, None] + values).reshape(-1),
        np.repeat(np.arange(states), options),
        np.tile(np.arange(options), states),
    )


def _traced(layers: Sequence[_Frontier]) -> Chosen | None:
    """The options that lead to the last, least state; None where all states went."""
    if not layers[-1].weight.size:
        return None
    state, chosen = layers[-1].weight.size - 1, []
    for layer in reversed(layers[1:]):
        chosen.append(int(layer.option[state]))
        state = int(layer.parent[state])
    return tuple(reversed(chosen))


class _Steps:
    """From the best option of each layer to ever lighter ones, in the order of value for weight.

    Taken by parts, they are the best that fractions of options could do: the linear relaxation, a bound on all choices
    (Sinha and Zoltners 1979).
    """

    def __init__(self, values: Numbers, weights: Numbers) -> None:
        pairs = [list(zip(value, weight, strict=True)) for value, weight in zip(values, weights, strict=True)]
        self.first = [min(range(len(each)), key=each.__getitem__) for each in pairs]
        starts = [each[index] for each, index in zip(pairs, self.first, strict=True)]
        options = [(layer, index) for layer, each in enumerate(pairs) for index in range(len(each))]
        gains = [starts[layer][1] - pairs[layer][index][1] for layer, index in options]
        harms = [pairs[layer][index][0] - starts[layer][0] for layer, index in options]
        ordered = least_harm_first([layer for layer, _ in options], gains, harms)
        self.order = [options[each] for each in ordered]
        reached, changes = dict(enumerate(starts)), []
        for layer, index in self.order:
            value, weight = pairs[layer][index]
            changes.append((value - reached[layer][0], weight - reached[layer][1]))
            reached[layer] = value, weight
        self.starts = np.array(starts, float).reshape(-1, 2)
        self.layers = np.array([layer for layer, _ in self.order], int)
        self.changes = np.array(changes, float).reshape(-1, 2)

    def greedy(self, room: float) -> Chosen:
        """The first choice on the way whose weights fit the room."""
        chosen = list(self.first)
        weights = accumulate(self.changes[:, 1], initial=float(self.starts[:, 1].sum()))
        for (layer, index), weight in zip(self.order, weights, strict=False):
            if weight <= room:
                break
            chosen[layer] = index
        return tuple(chosen)

    def bounds(self, layer: int, rooms: Array) -> Array:
        """The least value of this layer and all behind it within each room, by parts; infinity where nothing fits."""
        begin = self.starts[layer:].sum(axis=0)
        path = begin + np.vstack([np.zeros((1, 2)), self.changes[self.layers >= layer].cumsum(axis=0)])
        lightest = path[-1, 1] - ROUNDING * begin[1]
        return np.where(rooms < lightest, np.inf, np.interp(rooms, path[::-1, 1], path[::-1, 0]))
