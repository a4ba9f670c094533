"""Trainings that prepare for a technique of graphs: what they are tried with, where nothing is smaller too."""

from __future__ import annotations

from typing import Any

import pytest

from paring.techniques import FineTune, HalfPrecision, QuantizationAwareTraining, StaticQuantization
from paring.techniques.base import Recipe
from paring.tune import Search
from paring.tune.proposing import out_of_place
from paring.tune.structures import planned
from paring.tune.training import RACE_EPOCHS
from tests.worlds import Aware, Int, Narrow, Sharp, Teach, World, explore, world


def explored(*techniques: Any, **settings: Any) -> tuple[World, Search]:
    there = world(techniques=techniques, **settings)
    return there, explore(there)


def prepared(there: World) -> list[Recipe]:
    """The recipes with such a training, in the order in which they were asked for."""
    recipes = dict.fromkeys(candidate.recipe for candidate in there.asked)
    return [recipe for recipe in recipes if any(isinstance(technique, Aware) for technique in recipe)]


def test_where_nothing_is_smaller_it_is_raced_before_what_it_prepares_for_and_trained_for_long() -> None:
    there, search = explored(Int(4), Aware)
    recipes = prepared(there)
    assert recipes[:2] == [(Aware(epochs=1), Int(4)), (Aware(epochs=RACE_EPOCHS), Int(4))]
    assert all(len(recipe) == 2 and recipe[1] == Int(4) for recipe in recipes), "it never stands behind itself"
    best = there.scene.ranking.best(search.trials)
    assert best is not None
    assert "Aware" in best.recipe_text
    assert "Aware" not in there.scene.not_tried


def test_it_is_not_trained_for_long_where_that_is_accurate_without() -> None:
    there, _ = explored(Int(8), Aware)
    assert prepared(there) == [(Aware(epochs=1), Int(8)), (Aware(epochs=RACE_EPOCHS), Int(8))]


def test_an_object_has_its_epochs_all_the_same() -> None:
    there, _ = explored(Int(8), Aware(epochs=30))
    assert (Aware(epochs=30), Int(8)) in prepared(there)


@pytest.mark.parametrize("asked", [Aware, Aware(epochs=2)])
def test_alone_it_is_tried_as_it_is(asked: Any) -> None:
    there, _ = explored(asked)
    assert prepared(there)[0] == (Aware(epochs=1),)
    assert Aware(epochs=2 if asked != Aware else RACE_EPOCHS) in {recipe[-1] for recipe in prepared(there)}
    assert there.scene.not_tried.keys() == {"graphs on slow"} & there.scene.not_tried.keys()
    assert planned(there.scene) == [(Aware(epochs=2) if asked != Aware else Aware(),)]


def test_before_another_technique_it_is_not_tried() -> None:
    there, _ = explored(Sharp, Aware)
    assert all(len(recipe) == 1 for recipe in prepared(there))


def test_where_what_it_prepares_for_gains_less_than_the_best_that_is_told() -> None:
    there, _ = explored(Int(8), Sharp, Aware)
    assert not prepared(there)
    assert there.scene.not_tried["Aware"] == (
        "it only adds accuracy to Int on fast(lanes=2), which gains less than Sharp on fast(lanes=2)."
    )
    there, _ = explored(Int(8), Sharp, Aware(epochs=2))
    assert (Aware(epochs=2), Int(8)) in prepared(there)


def test_smaller_networks_are_raced_with_it_where_it_prepares_for_what_leads() -> None:
    there, _ = explored(Int, Narrow, Teach, Aware)
    assert prepared(there)
    assert all(isinstance(recipe[0], Narrow) and isinstance(recipe[-1], Int) for recipe in prepared(there))
    there, _ = explored(Int, Sharp, Narrow, Teach, Aware)
    assert not prepared(there)
    there, _ = explored(Int, Narrow, Aware)
    assert all(isinstance(recipe[0], Narrow) for recipe in prepared(there))


def test_a_training_that_only_mends_is_told_beside_it() -> None:
    there, _ = explored(Int(4), Teach, Aware)
    assert prepared(there)
    assert there.scene.not_tried["Teach"].startswith("it makes nothing smaller itself: ")
    assert "Aware" not in there.scene.not_tried


@pytest.mark.parametrize(
    "asked",
    [
        (QuantizationAwareTraining, StaticQuantization),
        (QuantizationAwareTraining,),
        (QuantizationAwareTraining(weights="int4", epochs=2),),
        (QuantizationAwareTraining, HalfPrecision),
    ],
)
def test_training_for_integers_needs_no_smaller_network(asked: tuple[Any, ...]) -> None:
    assert not list(out_of_place(asked, ("latency",), graph_only=False, train_data=True))
    ((name, reason),) = out_of_place((*asked, FineTune), ("latency",), graph_only=False, train_data=True)
    assert (name, reason.split(":")[0]) == ("FineTune", "it makes nothing smaller itself")
    told = dict(out_of_place(asked, ("latency",), graph_only=False, train_data=False))
    assert list(told.values()) == ["the task has no `train` data."]
