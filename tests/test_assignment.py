"""Which option for which layer: held against every choice there is, and against the greedy one."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paring.errors import TechniqueError
from paring.ops import assignment
from paring.ops.allocation import least_harm_first
from paring.ops.assignment import Assignment, least_cost, least_harm

Table = list[list[float]]

numbers = st.one_of(st.integers(0, 20).map(float), st.floats(0, 100).map(lambda x: round(x, 6)))
layers = st.lists(st.lists(st.tuples(st.one_of(numbers, st.just(-1.0)), numbers), min_size=1, max_size=5), max_size=6)


def tables(options: list[list[tuple[float, float]]]) -> tuple[Table, Table]:
    return [[harm for harm, _ in each] for each in options], [[cost for _, cost in each] for each in options]


def every_choice(harms: Table, costs: Table) -> list[tuple[float, float]]:
    """Harm and cost of each."""
    choices = product(*(range(len(each)) for each in harms))
    return [
        (sum(max(h[i], 0.0) for h, i in zip(harms, c, strict=True)), sum(t[i] for t, i in zip(costs, c, strict=True)))
        for c in choices
    ]


def check(found: Assignment, harms: Table, costs: Table) -> None:
    """What it says of its choice is true."""
    assert len(found.chosen) == len(harms)
    assert found.harm == sum(max(each[i], 0.0) for each, i in zip(harms, found.chosen, strict=True))
    assert found.cost == sum(each[i] for each, i in zip(costs, found.chosen, strict=True))


@given(layers, st.floats(0, 1))
@settings(max_examples=300, deadline=None)
def test_it_is_the_best_of_all_choices(options: list[list[tuple[float, float]]], share: float) -> None:
    harms, costs = tables(options)
    every = every_choice(harms, costs)
    low, high = (end(cost for _, cost in every) for end in (min, max))
    limit = low + share * (high - low)
    found = least_harm(harms, costs, limit)
    check(found, harms, costs)
    assert found.cost <= limit * (1 + 1e-12)
    assert found.harm <= min(harm for harm, cost in every if cost <= limit)
    assert found.bound == found.harm


@given(layers, st.floats(0, 1))
@settings(max_examples=300, deadline=None)
def test_the_least_cost_at_a_harm_is_that_of_all_choices(
    options: list[list[tuple[float, float]]], share: float
) -> None:
    harms, costs = tables(options)
    every = every_choice(harms, costs)
    low, high = (end(harm for harm, _ in every) for end in (min, max))
    limit = low + share * (high - low)
    found = least_cost(harms, costs, limit)
    check(found, harms, costs)
    assert found.harm <= limit * (1 + 1e-12)
    assert found.cost <= min(cost for harm, cost in every if harm <= limit)
    assert found.bound == found.cost


@given(layers, st.floats(0, 1), st.sampled_from([0.01, 0.3]))
@settings(max_examples=300, deadline=None)
def test_thinned_to_few_states_it_is_as_near_as_it_says(
    options: list[list[tuple[float, float]]], share: float, error: float
) -> None:
    harms, costs = tables(options)
    every = every_choice(harms, costs)
    low, high = (end(cost for _, cost in every) for end in (min, max))
    limit = low + share * (high - low)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assignment, "MOST_STATES", 1)
        found = least_harm(harms, costs, limit, error)
    best = min(harm for harm, cost in every if cost <= limit)
    assert found.bound <= best * (1 + 1e-12)
    assert found.harm <= best * (1 + error) * (1 + 1e-12)


def of_many_layers(kind: str) -> tuple[Table, Table]:
    """200 layers with 6 options; those whose harm and cost come to about the same for all are the hardest."""
    random = np.random.default_rng(0)
    size = random.integers(1_000, 1_000_000, (200, 1))
    bits = np.array([2, 3, 4, 5, 6, 8])
    if kind == "bytes":
        return (random.lognormal(0, 2, (200, 1)) * 4.0**-bits).tolist(), (size * bits // 8).tolist()
    costs = random.random((200, 6))
    noise = {"milliseconds": 1.0, "about the same": 0.1, "the same": 0.0}[kind]
    return (1 - costs + noise * random.random((200, 6))).tolist(), costs.tolist()


@pytest.mark.parametrize("kind", ["bytes", "milliseconds", "about the same", "the same"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6])
def test_many_layers_need_few_states_and_no_more_than_the_greedy(kind: str, share: float) -> None:
    harms, costs = of_many_layers(kind)
    low, high = (sum(map(end, costs)) for end in (min, max))
    limit = low + share * (high - low)
    found = least_harm(harms, costs, limit)
    check(found, harms, costs)
    assert found.cost <= limit * (1 + 1e-12)
    assert found.states <= 20_000  # layers over the error
    assert found.harm <= found.bound * 1.01
    assert found.harm <= greedy(harms, costs, limit)
    back = least_cost(harms, costs, found.harm)
    assert back.cost <= found.cost * 1.01
    assert back.states <= 20_000


def greedy(harms: Table, costs: Table, limit: float) -> float:
    """From the options of least harm along the steps that cost least for what they give, until the limit holds."""
    chosen = [int(np.argmin(each)) for each in harms]
    places = [layer for layer, each in enumerate(harms) for _ in each]
    where = [(layer, index) for layer, each in enumerate(harms) for index in range(len(each))]
    gains = [costs[layer][chosen[layer]] - costs[layer][index] for layer, index in where]
    rises = [harms[layer][index] - harms[layer][chosen[layer]] for layer, index in where]
    for step in least_harm_first(places, gains, rises):
        if sum(each[i] for each, i in zip(costs, chosen, strict=True)) <= limit:
            break
        layer, chosen[layer] = where[step]
    return sum(each[i] for each, i in zip(harms, chosen, strict=True))


def test_bytes_are_exact_and_sums_of_milliseconds_may_be_rounded() -> None:
    size = 2**39
    assert least_harm([[1.0, 0.0]], [[size - 1, size]], size - 1).chosen == (0,)
    assert least_harm([[1.0, 0.0]], [[size - 1, size]], size).chosen == (1,)
    # 0.1 + 0.2 is more than 0.3, and no reason to refuse it.
    assert least_harm([[0.0], [0.0]], [[0.1], [0.2]], 0.3).cost == pytest.approx(0.3)


def test_negative_harms_count_as_none_and_the_cheaper_of_equals_is_taken() -> None:
    found = least_harm([[0.0, -5.0, 0.0]], [[3.0, 2.0, 1.0]], 10.0)
    assert (found.chosen, found.harm, found.cost) == ((2,), 0.0, 1.0)
    assert least_harm([], [], 0.0).chosen == ()


@pytest.mark.parametrize("limit", [4.0, -1.0, math.nan])
def test_a_limit_below_the_least_cost_is_refused_with_both(limit: float) -> None:
    with pytest.raises(TechniqueError, match=rf"the limit of {limit} on the cost .* least cost come to 5\.0 together"):
        least_harm([[1.0, 2.0], [0.0]], [[2.0, 1.0], [4.0]], limit)
    with pytest.raises(TechniqueError, match=r"the limit of 0.5 on the harm .* least harm come to 1\.0 together"):
        least_cost([[1.0, 2.0], [0.0]], [[2.0, 1.0], [4.0]], 0.5)


@pytest.mark.parametrize(
    ("harms", "costs"),
    [
        ([[1.0]], [[1.0], [1.0]]),
        ([[1.0]], [[1.0, 2.0]]),
        ([[]], [[]]),
        ([[math.nan]], [[1.0]]),
        ([[1.0]], [[math.inf]]),
        ([[1.0]], [[-1.0]]),
    ],
)
def test_numbers_that_are_no_harms_or_costs_are_refused(harms: Table, costs: Table) -> None:
    with pytest.raises(ValueError, match=r"same options|must be finite"):
        least_harm(harms, costs, 10.0)
