"""How much where: parts are measured alone, and joined by harm for what they gain."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise, product
from typing import ClassVar, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from paring.data.job import Job
from paring.ops.allocation import QUICK_ERROR, least_harm_first
from paring.techniques import PruneChannels
from paring.techniques.base import Part
from paring.tune.allocation import Shown, joined, most_telling_first
from paring.types import Budget
from tests.worlds import GAINS, HARMS, Fast, Int, Narrow, Slow, Teach, Without, World, explore, world


@dataclass(frozen=True)
class Torn(Without):
    """Divides, and can't be put together."""

    def joined(self, other: Self) -> Self:
        raise KeyError("no such part")


@dataclass(frozen=True)
class Dull(Without):
    """Has many parts, of which only the last ones save anything."""

    @classmethod
    def variants(cls, model: nn.Module, job: Job) -> Iterator[Self]:
        yield cls(names=("d",) * 20)

    def parts(self, model: nn.Module, job: Job) -> Iterator[Part[Self]]:
        for index in range(20):
            yield Part(replace(self, names=("d",) * 20, ratio=index / 100), str(index), 1.0)
        for name in "ce":
            yield Part(replace(self, names=(name,)), name, 1.0)


@dataclass(frozen=True)
class Near(Fast):
    """Two options that are about as fast."""

    name: ClassVar[str] = "near"


def part(name: str, gain: float | None = None, harm: float | None = None) -> Shown:
    gain, harm = GAINS[name] if gain is None else gain, HARMS[name] if harm is None else harm
    return Shown(Part(Without(names=(name,)), name, 1.0), gain, harm)


def price(shown: Shown) -> float:
    return max(shown.harm, 0.0) / (shown.gain + QUICK_ERROR)


def names_of(steps: object) -> list[str]:
    assert isinstance(steps, list)
    return ["".join(step.names) for step in steps]


def test_parts_join_by_harm_for_what_they_gain_and_those_that_gain_nothing_never() -> None:
    assert names_of(joined([part(name) for name in GAINS], 5)) == ["e", "ae", "ace"]


def test_of_parts_that_do_no_harm_the_one_that_gains_most_comes_first() -> None:
    parts = [replace(part(name), harm=harm) for name, harm in (("a", 0.0), ("c", -0.001), ("b", 0.0), ("e", 0.1))]
    assert names_of(joined(parts, 5)) == ["c", "bc"]


@given(
    st.lists(st.tuples(st.floats(-1, 1), st.floats(-0.1, 1)), max_size=20),
    st.integers(1, 6),
)
def test_steps_grow_and_never_leave_a_better_part_out(figures: list[tuple[float, float]], most: int) -> None:
    parts = [part(f"{i:02}", gain, harm) for i, (gain, harm) in enumerate(figures)]
    steps = [set(step.names) for step in joined(parts, most) if isinstance(step, Without)]
    worth = [p for p in parts if p.gain > 0]
    assert len(steps) <= most
    assert all(small < large for small, large in pairwise(steps))
    if worth:
        assert len(steps[-1]) == min(len(worth), -(-len(parts) // 2))
    for step in steps:
        taken = [p for p in worth if p.part.layer in step]
        left = [p for p in worth if p not in taken]
        assert all(price(one) <= price(other) for one in taken for other in left)


def structures(there: World) -> list[str]:
    """What was tried untrained, in this order."""
    parts = [[t for t in c.recipe if isinstance(t, Without)] for c in there.asked if c.stage == "training"]
    trained = [any(isinstance(t, Teach) for t in c.recipe) for c in there.asked if c.stage == "training"]
    return ["".join(p[0].names) for p, taught in zip(parts, trained, strict=True) if p and not taught]


@pytest.mark.parametrize("luck", [1.0, 1.1, 1.2])
def test_the_search_measures_each_part_alone_and_then_joins_them(luck: float) -> None:
    there = world(techniques=(Int, Without, Teach))
    there.luck = luck
    search = explore(there)
    assert structures(there) == ["a", "b", "c", "d", "e", "ae", "ace"]
    best = there.scene.ranking.best(search.trials)
    assert best is not None
    assert best.recipe[0]["settings"]["names"] in (["a", "c", "e"], ("a", "c", "e"))


def test_with_too_little_time_for_all_parts_those_that_were_measured_are_joined_and_the_rest_is_told() -> None:
    there = world(techniques=(Int, Without, Teach), time_s=40.0)
    explore(there)
    assert structures(there)[:4] == ["a", "b", "c", "d"]
    assert "ac" in structures(there)
    assert "4 of 5 were measured" in there.scene.not_tried["parts of Without"]


def test_with_time_for_hardly_any_part_the_technique_proposes_itself() -> None:
    there = world(techniques=(Int, Without, Teach), time_s=25.0)
    explore(there)
    assert structures(there) == ["a", "b"]


def test_where_the_first_parts_lead_to_nothing_more_are_measured() -> None:
    """Those of the first tenth of the time save nothing."""
    there = world(techniques=(Int, Dull, Teach), time_s=100.0)
    explore(there)
    assert {"e", "c"} < set(structures(there))
    assert "ce" in structures(there)
    assert "parts of Dull" not in there.scene.not_tried


def test_of_each_layer_a_part_near_half_of_it_comes_first() -> None:
    shares = [("a", 0.25), ("a", 0.5), ("a", 0.75), ("b", 0.3), ("b", 0.6), ("c", 1.0)]
    parts = [Part(Without(), layer, share) for layer, share in shares]
    ordered = [(part.layer, part.share) for part in most_telling_first(parts)]
    assert ordered == [("a", 0.5), ("b", 0.6), ("c", 1.0), ("a", 0.25), ("b", 0.3), ("a", 0.75)]


def test_parts_that_can_not_be_joined_are_told_and_the_technique_proposes_itself() -> None:
    there = world(techniques=(Int, Torn, Teach))
    explore(there)
    assert structures(there) == ["a", "b", "c", "d", "e"]
    assert there.scene.not_tried["Torn"] == "proposing its settings raised KeyError: 'no such part'."


def test_a_trained_network_is_tried_with_options_that_were_about_as_fast() -> None:
    there = world(techniques=(Int, Narrow, Teach), backends=(Near, Slow))
    explore(there)
    epochs = {t.epochs for c in there.asked for t in c.recipe if isinstance(t, Teach)}
    ends = {str(c.backend) for c in there.asked if Teach(epochs=max(epochs)) in c.recipe}
    assert ends == {"near", "near(lanes=2)"}


@pytest.mark.parametrize("time_s", [20.0, 60.0, 300.0])
def test_parts_never_take_the_time_that_training_needs(time_s: float) -> None:
    there = world(techniques=(Int, Without, Teach), time_s=time_s)
    explore(there)
    assert there.clock_s >= -0.1 * time_s


def level(layer: str, share: float, gain: float, harm: float) -> Shown:
    return Shown(Part(PruneChannels(0.0, ratios=((layer, share),)), layer, share), gain, harm)


def ratios_of(steps: object) -> list[dict[str, float]]:
    assert isinstance(steps, list)
    return [dict(step.ratios) for step in steps]


def test_a_size_that_runs_no_faster_than_a_larger_one_is_never_taken() -> None:
    levels = [level("a", 0.25, 0.1, 0.01), level("a", 0.35, 0.09, 0.02), level("a", 0.5, 0.2, 0.03)]
    others = [level("b", 0.5, 0.0, 0.0), level("c", 0.5, 0.01, 0.5), level("d", 0.5, 0.01, 0.6)]
    assert ratios_of(joined([*levels, *others], 5)) == [{"a": 0.25}, {"a": 0.5}, {"a": 0.5, "c": 0.5}]


def test_a_latency_that_is_wanted_is_among_the_steps_however_far_it_goes() -> None:
    levels = [level(layer, 0.5, 0.1, index / 10) for index, layer in enumerate("abcdef")]
    assert [len(step) for step in ratios_of(joined(levels, 2))] == [2, 3]
    assert [len(step) for step in ratios_of(joined(levels, 2, wanted_gain=0.45))] == [2, 5]


def test_with_a_limit_on_latency_the_search_tries_a_structure_that_should_hold_it() -> None:
    there = world(techniques=(Int, Without, Teach), budget=Budget(max_latency_ms=0.3))
    explore(there)
    assert structures(there)[-1] == "abce"


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9), st.integers(0, 9)), max_size=9), st.data())
def test_no_choice_does_less_harm_for_the_gain_of_a_prefix(
    choices: list[tuple[int, int, int]], data: st.DataObject
) -> None:
    """Every prefix is optimal for what it gains: against all combinations of one choice, or none, of each place."""
    places, gains, harms = ([choice[i] for choice in choices] for i in range(3))
    order = least_harm_first(places, gains, harms)
    prefix = order[: data.draw(st.integers(0, len(order)))]
    taken = {places[index]: index for index in prefix}
    gain, harm = (sum(figures[index] for index in taken.values()) for figures in (gains, harms))
    options = [[None, *(i for i, other in enumerate(places) if other == place)] for place in dict.fromkeys(places)]
    for combination in product(*options):
        chosen = [index for index in combination if index is not None]
        if sum(gains[index] for index in chosen) >= gain:
            assert sum(harms[index] for index in chosen) >= harm
