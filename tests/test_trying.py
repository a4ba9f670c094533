"""Choices that are tried: against all there are."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from paring.ops.assignment import least_harm, total
from paring.ops.trying import tried_nearby

COSTS = [[8.0, 4.0, 2.0], [16.0, 8.0, 4.0], [24.0, 12.0, 6.0], [8.0, 4.0, 2.0]]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("most_cost", [14.0, 25.0, 40.0])
def test_enough_tries_find_the_best_of_all(seed: int, most_cost: float) -> None:
    """Errors of layers add up and cancel: vectors, of which the sum counts."""
    vectors = np.random.default_rng(seed).normal(size=(4, 3, 2)) * np.array([0.1, 1, 3])[:, None]
    harms = np.square(vectors).sum(axis=2).tolist()

    def error(chosen: tuple[int, ...]) -> float:
        return float(np.square(sum(vectors[layer, option] for layer, option in enumerate(chosen))).sum())

    start = least_harm(harms, COSTS, most_cost).chosen
    fitting = [chosen for chosen in product(range(3), repeat=4) if total(COSTS, chosen) <= most_cost]
    found = tried_nearby([start], harms, lambda chosen: total(COSTS, chosen) <= most_cost, error, 81)
    assert found == min(fitting, key=error)


def test_so_many_are_tried_and_the_likely_ones_first() -> None:
    harms = [[0.0, 1.0, 2.0]] * 4
    tried: list[tuple[int, ...]] = []
    tried_nearby([(0, 0, 0, 0)], harms, lambda _: True, lambda chosen: float(not tried.append(chosen)), 5)
    assert tried[0] == (0, 0, 0, 0)
    assert sorted(map(sum, tried)) == [0, 1, 1, 1, 1]


def test_choices_that_no_change_leads_to_are_found_from_starts_of_their_own() -> None:
    """Two islands: nothing between them holds."""
    harms = [[0.0, 1.0]] * 6
    islands = {(0,) * 6: 2.0, (1,) * 6: 1.0}
    assert tried_nearby(islands, harms, lambda chosen: chosen in islands, islands.__getitem__, 64) == (1,) * 6
