"""What zeros among the weights save: told in plain words where it is bytes and no time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

import paring
from paring.backends.base import Backend
from paring.data.job import Job
from paring.flow.zeros import zeros_told
from paring.report import summary
from paring.techniques import (
    FineTune,
    GradualPruning,
    IterativePruning,
    PruneChannels,
    PruneWeights,
    StaticQuantization,
)
from paring.techniques.base import Recipe
from paring.tune import Candidate, Speedup, Trial
from paring.types import Budget, Task
from tests.sleepy import Cheapen, Drowsy, Sleepy
from tests.test_report_page import Reader, kept, rendered, result, rows

PRUNE, TAIL = PruneWeights(sparsity=0.9), StaticQuantization()
GRADUAL = GradualPruning(prune=PRUNE, epochs=3)
OPEN, SURE, SLOWER = Speedup(1.02, 0.97, 1.07), Speedup(1.2, 1.1, 1.3), Speedup(0.8, 0.7, 0.9)


class Run:
    """Trials and their candidates, as the end of a run has them."""

    def __init__(self) -> None:
        self.trials: list[Trial] = []
        self.candidates: dict[str, Candidate] = {}

    def tried(
        self, recipe: Recipe, size: int, speedup: Speedup, backend: Backend | None = None, sparse: bool = True
    ) -> None:
        candidate = Candidate(recipe, backend or Sleepy(), "training")
        trial = Trial.of(candidate, len(self.trials), "measured")
        self.trials.append(replace(trial, size_bytes=size, speedup=speedup, sparse=sparse))
        self.candidates[candidate.key] = candidate

    def told(self, *shown: int) -> str:
        """Where the trials of these numbers are shown to the user."""
        return zeros_told(self.trials, self.candidates, [self.trials[at] for at in shown]).replace("\u202f", " ")


def run(recipe: Recipe, speedup: Speedup = OPEN, without: Recipe = (TAIL,)) -> str:
    """Of a recipe whose file is sparse, beside one whose file is not."""
    there = Run()
    there.tried(without, 1000, Speedup(1.0, 0.999, 1.001), sparse=False)
    there.tried(recipe, 380, speedup)
    return there.told()


def test_zeros_that_save_bytes_and_no_time_are_told_with_their_figures() -> None:
    assert run((PRUNE, TAIL)) == (
        "Zeros of PruneWeights(sparsity=0.9) saved 62 % of the bytes and no time (1.02× the speed, 0.96–1.08): "
        "sleepy does not skip zeros."
    )
    assert "and no time (0.80× the speed" in run((PRUNE, TAIL), SLOWER)


def test_an_interval_that_can_not_tell_is_no_verdict() -> None:
    assert run((PRUNE, TAIL), Speedup(0.88, 0.31, 2.46)) == (
        "Zeros of PruneWeights(sparsity=0.9) saved 62 % of the bytes, and no gain in time could be measured: "
        "the speed with them lies within 0.30–2.47×."
    )
    assert "and no time (0.95× the speed" in run((PRUNE, TAIL), Speedup(0.95, 0.31, 1.05))


def test_a_runtime_that_was_measured_closely_is_told_before_one_that_was_not() -> None:
    there = Run()
    for backend, least, speedup in ((Sleepy(), 300, OPEN), (Drowsy(), 200, Speedup(0.88, 0.31, 2.46))):
        there.tried((), 1000, OPEN, backend, sparse=False)
        there.tried((PRUNE,), least, speedup, backend)
    assert there.told().startswith("Zeros of PruneWeights(sparsity=0.9) saved 70 % of the bytes and no time")
    assert there.told().endswith(": sleepy does not skip zeros.")


@pytest.mark.parametrize(
    ("recipe", "named"),
    [
        ((PRUNE, TAIL), "PruneWeights(sparsity=0.9)"),
        ((PruneChannels(0.25), PRUNE, FineTune(epochs=3)), "PruneWeights(sparsity=0.9)"),
        ((IterativePruning(prune=PRUNE), TAIL), str(IterativePruning(prune=PRUNE))),
        ((PRUNE, GRADUAL, TAIL), f"PruneWeights(sparsity=0.9) and {GRADUAL}"),
    ],
)
def test_an_answer_with_zeros_and_no_twin_is_told_what_is_known_of_zeros(recipe: Recipe, named: str) -> None:
    there = Run()
    there.tried((), 1000, OPEN, sparse=False)
    there.tried(recipe, 200, SURE)
    assert there.told(0) == there.told() == ""
    assert there.told(0, 1) == (
        f"Zeros of {named} save bytes, and no runtime that paring knows is faster by them: "
        "a gain in speed comes from the rest of the recipe."
    )


def test_of_files_that_leave_out_as_much_the_one_that_is_shown_is_told() -> None:
    there = Run()
    there.tried((), 1000, Speedup(1.0, 0.999, 1.001), sparse=False)
    rounds = [IterativePruning(prune=PRUNE, epochs=epochs) for epochs in (1, 5)]
    for technique in rounds:
        there.tried((technique,), 200, OPEN)
    assert there.told(1).startswith(f"Zeros of {rounds[0]} saved")
    assert there.told(2).startswith(f"Zeros of {rounds[1]} saved")


def test_what_was_measured_on_a_runtime_is_not_told_again_without_figures() -> None:
    there = Run()
    there.tried((), 1000, OPEN, sparse=False)
    there.tried((PRUNE,), 300, OPEN)
    there.tried((PRUNE, TAIL), 200, OPEN)
    there.tried((PRUNE, TAIL), 200, OPEN, Drowsy())
    assert there.told(2) == there.told()
    assert there.told(2, 3).startswith(f"{there.told()} Zeros of PruneWeights(sparsity=0.9) save bytes, and no runtime")
    there.trials[1] = replace(there.trials[1], speedup=SURE)
    assert there.told(2, 3) == "", "a runtime was faster by them"


def test_a_recipe_without_zeros_of_its_own_is_told_nothing() -> None:
    there = Run()
    there.tried((TAIL,), 200, SURE)
    there.tried((IterativePruning(prune=PruneChannels(0.5)), TAIL), 200, SURE)
    assert there.told(0, 1) == ""


def test_techniques_that_make_zeros_together_are_held_against_the_recipe_without_both() -> None:
    there = Run()
    there.tried((), 1000, OPEN, sparse=False)
    there.tried((PRUNE, GRADUAL, FineTune(epochs=2)), 300, OPEN)
    assert there.told().startswith(f"Zeros of PruneWeights(sparsity=0.9) and {GRADUAL} saved 70 % of the bytes and no")


def test_where_a_runtime_is_faster_for_sure_nothing_is_said() -> None:
    assert run((PRUNE, TAIL), SURE) == ""


def test_a_training_behind_it_is_no_reason_to_be_faster() -> None:
    assert "62 % of the bytes" in run((PRUNE, FineTune(epochs=3), TAIL))


def test_another_technique_beside_it_must_be_in_both() -> None:
    assert run((PruneChannels(), PRUNE, TAIL)) == ""
    told = run((PruneChannels(), PRUNE, FineTune(epochs=1), TAIL), without=(PruneChannels(), TAIL))
    assert told.startswith("Zeros of PruneWeights(sparsity=0.9) saved 62 %")


def test_every_runtime_that_skips_no_zeros_is_named_and_the_one_that_saved_most_is_told() -> None:
    there = Run()
    for backend, least in ((Sleepy(), 300), (Drowsy(), 200)):
        there.tried((), 1000, OPEN, backend, sparse=False)
        there.tried((PRUNE,), least + 100, SURE, backend)
        there.tried((PruneWeights(sparsity=0.95),), least, OPEN, backend)
    assert there.told().startswith("Zeros of PruneWeights(sparsity=0.95) saved 80 % of the bytes and no time")
    assert there.told().endswith(": drowsy and sleepy do not skip zeros.")


def test_only_what_made_the_zeros_is_told_and_only_where_they_save_bytes() -> None:
    there = Run()
    there.tried((PRUNE,), 900, OPEN)
    there.tried((PRUNE, TAIL), 380, OPEN)
    assert there.told() == "", "the zeros are no work of StaticQuantization"
    there.tried((TAIL,), 370, OPEN, sparse=False)
    assert there.told() == ""
    there.tried((), 1000, OPEN, sparse=False)
    assert there.told().startswith("Zeros of PruneWeights(sparsity=0.9) saved 10 % of the bytes and no time")


def test_a_file_that_keeps_its_zeros_or_was_not_timed_tells_nothing() -> None:
    for changes in ({"sparse": False}, {"speedup": None}, {"size_bytes": None}):
        there = Run()
        there.tried((), 1000, OPEN, sparse=False)
        there.tried((PRUNE,), 380, OPEN)
        assert there.told()
        there.trials[1] = replace(there.trials[1], **changes)  # type: ignore[arg-type]
        assert there.told() == ""


def test_the_page_and_the_terminal_say_the_same_sentence() -> None:
    told = "Zeros of PruneWeights saved 62 % of the bytes and no time: onnxruntime does not skip zeros."
    for answer in (result(), kept()):
        assert told not in summary(answer)
        answer["zeros"] = told
        assert told in summary(answer).splitlines()
        assert told in Reader(rendered(answer, rows())).text()


@dataclass(frozen=True)
class Signs(Cheapen):
    """Leaves weights the sign that they have: two values, and no zero."""

    def apply(self, graph: onnx.ModelProto, job: Job) -> onnx.ModelProto:
        after = super().apply(graph, job)
        for tensor in after.graph.initializer:
            if len(tensor.dims) == 2:
                tensor.CopyFrom(numpy_helper.from_array(np.copysign(0.1, numpy_helper.to_array(tensor)), tensor.name))
        return after


def found_of(*asked: Recipe, out: Path, **budget: Any) -> paring.Result:
    """A run of these recipes alone."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 3)).eval()
    points = torch.randn(900, 16)
    with torch.no_grad():
        data = [(points, model(points).argmax(1))]
    task = Task(model, data)
    return paring.optimize(
        task, Budget(**budget), out=out, time_limit_s=60, techniques=asked, backends=[Sleepy], progress=False
    )


def test_a_run_tells_the_files_that_leave_out_their_zeros(tmp_path: Path) -> None:
    """One that is as small for its few values is none of them."""
    found = found_of((PRUNE,), (Signs(),), out=tmp_path, objective="size")
    sparse = {trial.recipe_text: trial.sparse for trial in found.trials}
    assert sparse == {"original": False, str(PRUNE): True, str(Signs()): False}
    size = {trial.recipe_text: trial.size_bytes or 0 for trial in found.trials}
    assert 0 < size[str(Signs())] < size["original"] / 4
    candidates = [Candidate(recipe, Sleepy(), "training") for recipe in ((), (PRUNE,), (Signs(),))]
    assert found.values["zeros"] == zeros_told(found.trials, {each.key: each for each in candidates})


def test_a_run_whose_answer_holds_zeros_beside_what_makes_it_faster_says_which_is_which(tmp_path: Path) -> None:
    found = found_of((PRUNE, Cheapen()), out=tmp_path, max_drop=0.9)
    assert found.status == "improved"
    assert found.values["zeros"].startswith("Zeros of PruneWeights(sparsity=0.9) save bytes, and no runtime")
