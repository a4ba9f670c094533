"""The search against a made-up machine: what it asks for, in which order, and where it ends."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from paring.backends.torch import Torch
from paring.techniques.base import Recipe
from paring.tune import Candidate, Miss, Ranking, Speedup, Trial
from paring.tune.post_training import leading_tails
from paring.types import Budget
from tests.worlds import (
    Careful,
    Crawling,
    Fast,
    Gentle,
    Half,
    Int,
    Narrow,
    Slow,
    Smooth,
    Teach,
    Thin,
    Uneven,
    explore,
    world,
)


def test_the_original_on_every_backend_comes_first() -> None:
    there = world()
    explore(there)
    assert [str(c) for c in there.asked[:2]] == ["original on fast", "original on slow"]
    assert {str(c.backend) for c in there.asked if not c.recipe} == {"fast", "slow", "fast(lanes=2)", "slow(lanes=2)"}


def test_whole_recipes_that_are_asked_for_come_next() -> None:
    there = world(techniques=(), recipes=((Narrow(0.5), Int(6)), (Narrow(0.5), Teach(epochs=7))))
    explore(there)
    asked = [(str(candidate), candidate.stage) for candidate in there.asked if candidate.recipe]
    assert [stage for _, stage in asked] == ["post-training", "training", "training"], "slow reads no graphs"
    assert all("Narrow" in told and ("Int" in told or "epochs=7" in told) for told, _ in asked)


def test_a_recipe_that_trains_needs_training_data() -> None:
    there = world(techniques=(), recipes=((Narrow(0.5), Teach(epochs=7)),), train=False)
    explore(there)
    assert not any(candidate.recipe for candidate in there.asked)
    assert "the task has no `train` data." in there.scene.not_tried.values()


def test_nothing_is_tried_twice() -> None:
    there = world()
    explore(there)
    keys = [candidate.key for candidate in there.asked]
    assert len(keys) == len(set(keys))


def test_the_same_world_gives_the_same_list() -> None:
    first, second = world(), world()
    explore(first)
    explore(second)
    assert [c.key for c in first.asked] == [c.key for c in second.asked]


def test_graph_techniques_never_meet_a_backend_that_cannot_read_them() -> None:
    there = world()
    explore(there)
    assert all(c.backend.format == "onnx" for c in there.asked if c.graph_part)


def test_preparation_stands_only_in_front_of_another_technique() -> None:
    there = world()
    explore(there)
    prepared = [c for c in there.asked if any(isinstance(t, Smooth) for t in c.recipe)]
    assert prepared
    assert all(isinstance(c.recipe[0], Smooth) and len(c.recipe) == 2 for c in prepared)


def test_what_loses_too_much_is_tried_in_a_gentler_form() -> None:
    there = world()
    explore(there)
    assert any(Gentle(5) in c.recipe for c in there.asked)
    assert not any(Gentle(9) in c.recipe for c in there.asked)


def test_options_of_a_backend_that_is_beyond_them_are_told_and_not_run() -> None:
    there = world(backends=(Fast, Crawling))
    explore(there)
    told = {str(c.backend): c.hopeless for c in there.asked if not c.recipe}
    assert told == {
        "fast": "",
        "fast(lanes=2)": "",
        "crawling": "",
        "crawling(lanes=2)": "the original on crawling takes 10.0 times as long as on fast",
    }


def test_options_that_cannot_work_here_are_told_and_cost_no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    there = world(backends=(Torch,))
    explore(there)
    tried = {str(c.backend) for c in there.asked}
    assert {"torch", "torch(channels_last=True)"} <= tried
    assert "torch(compiled=True)" not in tried
    assert "needs a C++ compiler" in there.scene.not_tried["torch(compiled=True)"]


def test_with_a_compiler_torch_is_tried_compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "g++").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    there = world(backends=(Torch,))
    explore(there)
    assert "torch(compiled=True)" in {str(c.backend) for c in there.asked}


def test_why_graph_techniques_are_not_tried_on_a_backend_that_reads_no_graphs_is_told() -> None:
    reason = "slow reads no ONNX graphs, and Int, Smooth, Gentle make nothing else."
    assert world().scene.not_tried == {"graphs on slow": reason}
    assert world(techniques=(Narrow, Teach)).scene.not_tried == {}


def test_why_a_training_with_nothing_to_mend_is_not_tried_is_told() -> None:
    reason = "it makes nothing smaller itself: it is tried with a technique that does, and none was asked for."
    assert world(techniques=(Int, Teach), backends=(Fast,)).scene.not_tried == {"Teach": reason}
    assert world(techniques=(Int, Teach, Narrow), backends=(Fast,)).scene.not_tried == {}


def test_options_that_slow_the_original_down_are_not_run_on_what_was_made_of_it() -> None:
    there = world(backends=(Uneven,), train=False)
    explore(there)
    quantized = {str(c.backend): c.hopeless for c in there.asked if c.recipe == (Int(8),)}
    assert quantized == {
        "uneven": "",
        "uneven(lanes=2)": "",
        "uneven(lanes=7)": "the original on uneven(lanes=7) takes 5.5 times as long as on uneven(lanes=2)",
    }


def test_a_precision_that_a_backend_lacks_is_not_offered_to_it() -> None:
    there = world(techniques=(Half,), backends=(Fast, Uneven), precisions={"fast": ("f32",), "uneven": ("f32", "bf16")})
    explore(there)
    tried = {(c.backend.name, c.recipe[0].settings()["bits"]) for c in there.asked if c.recipe}
    assert {bits for name, bits in tried if name == "fast"} == {6}
    assert {bits for name, bits in tried if name == "uneven"} >= {8, 6}


def test_a_backend_that_reads_no_graphs_carries_trained_networks_too() -> None:
    there = world(backends=(Slow,))
    explore(there)
    trained = [c for c in there.asked if any(isinstance(t, Teach) for t in c.recipe)]
    assert trained
    assert {c.backend.name for c in trained} == {"slow"}
    assert not any(c.graph_part for c in trained)


def test_trained_networks_are_not_carried_to_a_backend_far_behind() -> None:
    there = world(backends=(Fast, Uneven, Slow))
    explore(there)
    assert {c.backend.name for c in there.asked if c.stage == "training"} == {"fast", "uneven"}


def test_without_training_data_nothing_is_trained_or_pruned() -> None:
    there = world(train=False)
    explore(there)
    assert not any(c.module_part for c in there.asked)


def test_with_training_the_best_is_pruned_taught_and_quantized() -> None:
    there = world()
    search = explore(there)
    best = there.scene.ranking.best(search.trials)
    assert best is not None
    assert "Narrow" in best.recipe_text
    assert "Teach" in best.recipe_text
    assert "Int" in best.recipe_text
    untrained = there.scene.ranking.best([t for t in search.trials if t.stage != "training"])
    assert untrained is not None
    assert there.scene.ranking.cost(best) < there.scene.ranking.cost(untrained)


@pytest.mark.parametrize("time_s", [40.0, 200.0, 1000.0])
def test_training_takes_the_time_that_is_there(time_s: float) -> None:
    there = world(time_s=time_s)
    explore(there)
    assert there.clock_s >= -0.1 * time_s, there.clock_s


def test_techniques_given_as_objects_are_tried_as_they_are() -> None:
    there = world(techniques=(Int(5),))
    explore(there)
    assert {c.recipe for c in there.asked} == {(), (Int(5),)}


def test_a_size_objective_orders_by_bytes() -> None:
    ranking = Ranking(Budget(objective="size"), 7000, 0.98)
    there = world()
    big = there.measure(Candidate((), Fast(), "baseline"), 0)
    small = replace(big, key="small", size_bytes=10)
    assert ranking.best([big, small]) == small


@pytest.mark.parametrize(("ratio", "ends"), [(0.8, ()), (1.0, (Int(),))])
def test_for_size_no_trained_recipe_ends_in_what_is_slower_than_the_original(ratio: float, ends: Recipe) -> None:
    """It could not take the original's place, however small."""
    there = world(budget=Budget(objective="size"))
    original, small = Candidate((), Fast(), "baseline"), Candidate((Int(),), Fast(), "post-training")
    trials = [there.measure(candidate, i) for i, candidate in enumerate((original, small))]
    trials[1] = replace(trials[1], size_bytes=10, speedup=Speedup(ratio, ratio - 0.01, ratio + 0.01))
    tails = leading_tails(there.scene, {original.key: original, small.key: small}, trials)
    assert tails[0].recipe == ends


def test_limits_of_the_budget_make_trials_infeasible() -> None:
    there = world(budget=Budget(max_latency_ms=0.45))
    original = there.measure(Candidate((), Fast(), "baseline"), 0)
    quantized = there.measure(Candidate((Int(),), Fast(), "post-training"), 1)
    assert there.scene.ranking.misses(original) == [Miss("latency", 1.0, 0.45)]
    assert there.scene.ranking.best([original, quantized]) is None
    relaxed = replace(quantized, latency_ms={"p50": 0.4, "p90": 0.4, "p99": 0.4})
    assert there.scene.ranking.best([original, relaxed]) == relaxed


def test_the_frontier_holds_what_nothing_beats_on_every_axis() -> None:
    there = world()
    ranking = there.scene.ranking
    original = replace(there.measure(Candidate((), Fast(), "baseline"), 0), size_bytes=1000, peak_memory_bytes=1000)

    def other(ratio: float, drop: float, size: int, memory: int) -> Trial:
        return replace(
            original, speedup=Speedup(ratio, ratio, ratio), drop=drop, size_bytes=size, peak_memory_bytes=memory
        )

    fast, lossless = other(3, 0.01, 500, 1000), other(2, 0.0, 500, 1000)
    small, lean = other(1.5, 0.01, 100, 1000), other(1.5, 0.01, 500, 500)
    beaten, within_noise = other(1.9, 0.0, 500, 1000), other(1.9, 0.0, 490, 960)
    pool = [original, beaten, small, fast, within_noise, lean, lossless, replace(fast, outcome="failed")]
    assert ranking.frontier(pool) == [fast, lossless, small, lean]
    assert ranking.frontier([original]) == [original]


def test_a_trial_survives_json() -> None:
    there = world()
    trial = there.measure(Candidate((Int(),), Fast(), "post-training"), 3)
    assert Trial.from_json(trial.to_json()) == trial


def test_keys_follow_settings_not_stages() -> None:
    one, other = (Candidate((Int(),), Fast(), stage) for stage in ("post-training", "training"))
    assert one.key == other.key
    assert one.key != Candidate((Int(7),), Fast(), "training").key
    settings: dict[str, Any] = Int(7).settings()
    assert settings == {"bits": 7}


def test_what_comes_to_the_same_sizes_is_raced_and_the_best_of_it_trained_for_long() -> None:
    there = world(techniques=(Int, Careful, Teach))
    explore(there)
    trained = [c.recipe for c in there.asked if any(isinstance(t, Teach) for t in c.recipe)]
    epochs = {recipe[0].harm: max(t.epochs for t in recipe if isinstance(t, Teach)) for recipe in trained}  # type: ignore[union-attr]
    assert set(epochs) == {1.0, 1.5, 0.5}
    assert epochs[0.5] > 5 >= max(epochs[1.0], epochs[1.5])


def test_an_object_is_raced_as_it_is() -> None:
    there = world(techniques=(Int, Careful(0.5), Teach))
    explore(there)
    assert {t.harm for c in there.asked for t in c.recipe if isinstance(t, Careful)} == {1.0}


def test_a_long_training_that_falls_short_goes_on_from_where_it_ended() -> None:
    there = world(techniques=(Int(8), Narrow(0.5), Teach), time_s=200.0, budget=Budget(max_drop=0.004))
    search = explore(there)
    best = there.scene.ranking.best(search.trials)
    assert best is not None
    trained = [step["settings"]["epochs"] for step in best.recipe if step["technique"] == "Teach"]
    assert len(trained) == 2
    alone = [t for t in search.trials if t.recipe[:2] == best.recipe[:2] and len(t.recipe) == 3]
    assert alone
    assert not any(there.scene.ranking.feasible(t) for t in alone)


def test_where_a_long_training_falls_short_a_milder_structure_gets_the_rest_of_the_time() -> None:
    there = world(techniques=(Int(8), Thin, Teach), time_s=600.0)
    there.floor = 0.08
    search = explore(there)
    best = there.scene.ranking.best(search.trials)
    assert best is not None
    assert best.recipe[0]["settings"] == {"ratio": 0.25}
    taught = [t for t in search.trials if len(t.recipe) == 3 and t.recipe[1]["settings"]["epochs"] > 5]
    fell_short = [t for t in taught if t.recipe[0]["settings"] == {"ratio": 0.75}]
    assert fell_short
    assert not any(there.scene.ranking.feasible(t) for t in fell_short)
    assert fell_short[0].number < best.number


def test_what_will_surely_be_certified_is_trained_no_more() -> None:
    there = world(techniques=(Int(8), Narrow(0.25), Teach), time_s=600.0)
    search = explore(there)
    best = there.scene.ranking.best(search.trials)
    assert best is not None
    assert [step["technique"] for step in best.recipe].count("Teach") == 1
    assert there.clock_s > 200


def test_the_chance_of_a_certificate_falls_with_the_drop_and_grows_with_the_rows() -> None:
    there = world()
    trial = there.measure(Candidate((Int(),), Fast(), "post-training"), 0)
    ranking = there.scene.ranking
    chances = [ranking.chance(replace(trial, drop=drop)) for drop in (0.0, 0.004, 0.008, 0.012, 0.02)]
    assert chances == sorted(chances, reverse=True)
    assert chances[0] > 0.9
    assert chances[-1] < 0.01
    feasible = [ranking.feasible(replace(trial, drop=drop)) for drop in (0.0, 0.004, 0.008, 0.012, 0.02)]
    assert feasible == [chance >= 0.5 for chance in chances]
    short = replace(trial, drop=0.008, rows=100)
    assert ranking.chance(short) < ranking.chance(replace(short, rows=100_000))
    assert ranking.chance(replace(trial, drop_deviation=0.0)) == 1.0


def test_a_lucky_figure_without_training_does_not_end_the_stage_with_training() -> None:
    there = world(techniques=(Int(8), Narrow(0.5), Teach), time_s=200.0)
    there.luck = 1.5
    explore(there)
    assert any(t.epochs > 10 for c in there.asked for t in c.recipe if isinstance(t, Teach))
