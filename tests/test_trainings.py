"""Which training is tried, and how long: objects keep their epochs, several are raced, and the rest is told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import pytest
from torch import nn

from paring.data.job import Job
from paring.tune import trainers
from paring.tune.training import RACE_EPOCHS
from paring.types import Budget
from tests.worlds import (
    Careful,
    Clumsy,
    Coach,
    Fade,
    Hollow,
    Int,
    Narrow,
    Press,
    Rounds,
    Spoilt,
    Teach,
    Wane,
    World,
    explore,
    world,
)


@dataclass(frozen=True)
class Twin(Teach):
    """Has a second setting that is hardly better."""

    @classmethod
    def variants(cls, model: nn.Module, job: Job) -> Iterator[Self]:
        yield cls()
        yield cls(skill=1.1)


@dataclass(frozen=True)
class Rigid(Narrow):
    """Finds nothing to make smaller."""

    @classmethod
    def variants(cls, model: nn.Module, job: Job) -> Iterator[Self]:
        return iter(())


def trainings(there: World) -> list[tuple[Teach, ...]]:
    """The trainings of each recipe that has one, in the order in which they were asked for."""
    found = (tuple(t for t in candidate.recipe if isinstance(t, Teach)) for candidate in there.asked)
    return [each for each in found if each]


def long_ones(there: World) -> set[Teach]:
    return {training for each in trainings(there) for training in each if training.epochs > RACE_EPOCHS}


@pytest.mark.parametrize("time_s", [200.0, 1000.0])
def test_the_long_training_has_the_epochs_of_the_object_that_was_given(time_s: float) -> None:
    there = world(techniques=(Int, Narrow, Teach(epochs=30)), time_s=time_s)
    explore(there)
    assert long_ones(there) == {Teach(epochs=30)}
    assert all(sum(training.epochs for training in each) <= 30 for each in trainings(there))


def test_the_search_chooses_the_epochs_of_a_class() -> None:
    there = world(techniques=(Int, Narrow, Teach))
    explore(there)
    assert max(training.epochs for training in long_ones(there)) > 30


def test_where_the_time_is_short_an_object_gets_the_epochs_that_it_holds() -> None:
    there = world(techniques=(Int, Narrow, Teach(epochs=30)), time_s=100.0)
    explore(there)
    longest = max(training.epochs for each in trainings(there) for training in each)
    assert 2 < longest < 30
    assert there.clock_s >= -10


def test_fewer_epochs_than_a_race_are_tried_on_each_leading_backend() -> None:
    there = world(techniques=(Int, Narrow, Teach(epochs=2)))
    explore(there)
    assert {training.epochs for each in trainings(there) for training in each} == {1, 2}
    assert {str(c.backend) for c in there.asked if Teach(epochs=2) in c.recipe} == {"fast", "fast(lanes=2)"}


def test_another_setting_that_is_clearly_better_takes_over() -> None:
    there = world(techniques=(Int, Narrow, Coach))
    explore(there)
    assert {training.skill for training in long_ones(there)} == {5.0}
    raced = {c.recipe[0] for c in there.asked if Coach(epochs=RACE_EPOCHS, skill=5.0) in c.recipe}
    assert len(raced) == 1


def test_a_setting_that_is_hardly_better_is_raced_and_does_not_take_over() -> None:
    there = world(techniques=(Int, Narrow, Twin))
    explore(there)
    assert {training.skill for training in long_ones(there)} == {1.0}
    assert any(training.skill == 1.1 for each in trainings(there) for training in each)


def test_every_technique_that_trains_is_raced() -> None:
    there = world(techniques=(Int, Narrow, Teach, Coach))
    explore(there)
    assert {str(training.with_epochs(1)) for each in trainings(there) for training in each} == {
        "Teach",
        "Coach",
        "Coach(skill=5.0)",
    }
    assert {str(training.with_epochs(1)) for training in long_ones(there)} == {"Coach(skill=5.0)"}


def test_where_one_training_fails_the_next_one_takes_its_place() -> None:
    there = world(techniques=(Int, Narrow, Clumsy, Teach))
    search = explore(there)
    assert {training.name for training in long_ones(there)} == {"Teach"}
    best = there.scene.ranking.best(search.trials)
    assert best is not None
    assert "Teach" in best.recipe_text


def test_where_the_training_data_is_at_fault_nothing_else_is_trained_and_that_is_told() -> None:
    there = world(techniques=(Int, Narrow, Spoilt, Teach))
    search = explore(there)
    assert trainings(there) == [(Spoilt(epochs=1),)]
    assert there.scene.not_tried["Spoilt"] == there.scene.not_tried["Teach"]
    assert there.scene.not_tried["Teach"].endswith("every one would fail as the last: train is spoilt.")
    assert there.scene.ranking.best(search.trials) is not None


def test_an_object_that_loses_the_race_is_told() -> None:
    there = world(techniques=(Int, Narrow, Teach(epochs=30), Teach(epochs=40, skill=5.0)))
    explore(there)
    assert long_ones(there) == {Teach(epochs=40, skill=5.0)}
    assert there.scene.not_tried["Teach(epochs=30)"] == (
        "raced for 5 epochs, Teach(epochs=40, skill=5.0) promised about as much or more."
    )


def test_with_nothing_to_make_smaller_a_training_is_told_and_not_tried() -> None:
    there = world(techniques=(Int, Rigid, Teach))
    explore(there)
    assert not trainings(there)
    assert there.scene.not_tried["Rigid"] == "it proposes no settings of its own for this network."
    reason = "it makes nothing smaller itself, and nothing makes a smaller network for it."
    assert there.scene.not_tried["Teach"] == reason


def test_where_no_smaller_network_gains_enough_a_training_is_told_and_not_tried() -> None:
    there = world(techniques=(Int(8), Narrow(0.25), Teach, Coach))
    there.luck = 1.5
    explore(there)
    assert not trainings(there)
    reason = "it makes nothing smaller itself, and no smaller network that was measured gained enough to be worth it."
    assert there.scene.not_tried["Teach"] == there.scene.not_tried["Coach"] == reason


@pytest.mark.parametrize(
    ("time_s", "told"),
    [
        (20.0, "no smaller network was worth a long training in the time that was left, so it was not raced."),
        (30.0, "the time that was left held no race against another training."),
    ],
)
def test_a_training_that_is_not_raced_for_want_of_time_is_told(time_s: float, told: str) -> None:
    there = world(techniques=(Int(8), Narrow(0.5), Teach, Coach), time_s=time_s)
    explore(there)
    assert {training.name for each in trainings(there) for training in each} == {"Teach"}
    assert there.scene.not_tried["Coach"] == there.scene.not_tried["Coach(skill=5.0)"] == told


def test_time_that_two_long_trainings_leave_goes_to_a_cheaper_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainers, "MOST_EPOCHS", 12)
    there = world(techniques=(Int(8), Narrow, Teach), time_s=2000.0)
    search = explore(there)
    best = there.scene.ranking.best(search.trials)
    assert best is not None
    assert best.recipe[0]["settings"] == {"ratio": 0.5}
    assert [step["settings"]["epochs"] for step in best.recipe if step["technique"] == "Teach"] == [12, 12]
    assert sum(training == Teach(epochs=12) for each in trainings(there) for training in each[-1:]) >= 3


def test_what_no_training_mends_is_not_trained_to_the_end_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainers, "MOST_EPOCHS", 12)
    there = world(techniques=(Int(8), Narrow(0.5), Teach), time_s=5000.0, budget=Budget(max_drop=0.01))
    there.floor = 0.3
    explore(there)
    assert max(len(each) for each in trainings(there)) == 2
    assert there.clock_s > 4000


@pytest.mark.parametrize("techniques", [(Int, Wane), (Int, Narrow, Teach, Wane), (Int, Wane(epochs=20))])
def test_a_training_that_makes_the_network_smaller_is_tried_on_the_original(techniques: tuple[Any, ...]) -> None:
    there = world(techniques=techniques)
    explore(there)
    recipes = [candidate.module_part for candidate in there.asked]
    alone = [recipe for recipe in recipes if recipe and isinstance(recipe[0], Wane)]
    assert max(training.epochs for recipe in alone for training in recipe if isinstance(training, Wane)) > RACE_EPOCHS
    assert all(isinstance(technique, Wane) for recipe in alone for technique in recipe)
    assert "Wane" not in there.scene.not_tried


def test_it_is_not_proposed_for_an_objective_that_it_does_not_serve() -> None:
    there = world(techniques=(Int, Wane), budget=Budget(objective="size"))
    explore(there)
    assert not any(isinstance(one, Wane) for candidate in there.asked for one in candidate.recipe)
    assert there.scene.not_tried["Wane"] == "no runtime here gains size by it: it serves the objective latency."


@pytest.mark.parametrize("techniques", [(Int, Hollow, Teach), (Int, Fade), (Int, Hollow, Teach, Fade)])
def test_what_gains_bytes_alone_is_proposed_for_a_limit_of_bytes(techniques: tuple[Any, ...]) -> None:
    there = world(techniques=techniques, budget=Budget(max_size_bytes=600))
    search = explore(there)
    assert not there.scene.not_tried.keys() & {"Hollow", "Fade", "Teach"}
    best = there.scene.ranking.best(search.trials)
    assert best is not None
    assert best.size_bytes == 500, "the one of a quarter is faster by luck, and too large"
    long = {c.recipe[0] for c in there.asked if any(training in c.recipe for training in long_ones(there))}
    assert Hollow(0.25) not in long
    assert not any(isinstance(one, Fade) and one.ratio == 0.25 for one in long)


@pytest.mark.parametrize("budget", [Budget(), Budget(max_memory_bytes=600), Budget(max_latency_ms=600)])
def test_it_is_not_proposed_without_a_limit_of_bytes(budget: Budget) -> None:
    there = world(techniques=(Int, Hollow, Teach, Fade), budget=budget)
    explore(there)
    assert not any(isinstance(one, Hollow | Fade) for candidate in there.asked for one in candidate.recipe)
    wanted = " or ".join(budget.wants)
    reason = f"no runtime here gains {wanted} by it: it serves the objective size."
    assert there.scene.not_tried["Hollow"] == there.scene.not_tried["Fade"] == reason


def test_where_nothing_holds_the_limit_of_bytes_what_is_nearest_is_trained_nevertheless() -> None:
    there = world(techniques=(Int, Hollow, Teach), budget=Budget(max_size_bytes=100))
    explore(there)
    assert long_ones(there)


def test_a_limit_on_time_or_memory_is_served_beside_another_objective() -> None:
    there = world(techniques=(Int, Wane), budget=Budget(objective="size", max_latency_ms=0.5))
    explore(there)
    assert any(isinstance(one, Wane) for candidate in there.asked for one in candidate.recipe)
    assert Budget(objective="size", max_latency_ms=1, max_memory_bytes=1).wants == ("size", "latency", "memory")
    assert Budget(max_size_bytes=1, max_latency_ms=1).wants == ("latency", "size")


def test_a_training_that_prunes_in_rounds_takes_the_place_of_a_pruning_where_it_is_better() -> None:
    there = world(techniques=(Int, Careful, Teach, Rounds))
    explore(there)
    long = [c.recipe for c in there.asked if any(t in long_ones(there) for t in c.recipe)]
    assert [type(t) for t in long[0] if not isinstance(t, Int)] == [Rounds]
    assert "Rounds" not in there.scene.not_tried


def test_a_training_that_prepares_a_pruning_stands_before_it_where_that_is_better() -> None:
    there = world(techniques=(Int, Careful, Teach, Press))
    explore(there)
    long = [c.recipe for c in there.asked if any(t in long_ones(there) for t in c.recipe)]
    assert [type(t) for t in long[0] if not isinstance(t, Int)] == [Press, Careful, Teach]
    raced = [each for each in trainings(there) if isinstance(each[0], Press) and each[1] not in long_ones(there)]
    assert {sum(t.epochs for t in each) for each in raced} == {RACE_EPOCHS}
    assert "Press" not in there.scene.not_tried


def test_where_the_time_holds_no_race_against_them_that_is_told() -> None:
    there = world(techniques=(Int, Careful, Teach, Rounds, Press), time_s=40.0)
    explore(there)
    assert any(isinstance(t, Teach) for each in trainings(there) for t in each)
    reason = "the time that was left held no race of other ways to the same sizes."
    assert there.scene.not_tried["Rounds"] == there.scene.not_tried["Press"] == reason


def test_neither_of_them_is_tried_where_no_pruning_leads_to_a_training() -> None:
    there = world(techniques=(Int, Narrow, Teach, Rounds, Press))
    explore(there)
    assert not any(isinstance(t, Rounds | Press) for each in trainings(there) for t in each)
    assert there.scene.not_tried["Rounds"] == there.scene.not_tried["Press"] == "alone it is nothing."


def test_epochs_that_were_asked_for_are_had_also_where_the_race_would_do() -> None:
    there = world(techniques=(Int, Narrow, Teach(epochs=40, skill=50.0)), budget=Budget(max_drop=0.05))
    explore(there)
    assert long_ones(there) == {Teach(epochs=40, skill=50.0)}
