"""`--plan`: what would be tried, what would not and why, as text and as JSON; nothing is run."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from paring.cli.app import app
from paring.data.job import Job
from paring.errors import TaskError
from paring.flow.plan import make_plan
from paring.flow.request import Request
from paring.techniques import (
    FineTune,
    GradualPruning,
    HalfPrecision,
    IterativePruning,
    PruneChannels,
    PruneWeights,
    RemoveBlocks,
)
from paring.techniques.base import Technique
from paring.tune.trainers import TRAINER_VARIANTS
from paring.types import Budget, Objective, Task
from tests import sleepy
from tests.refusing import Bug, Half, Untraceable

HEAD = "import torch\nfrom torch import nn\nimport paring\nfrom tests import sleepy\n"
TASK = (
    "points, classes = sleepy.rows(1500)\n"
    "network = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 3)).eval()\n"
    "rows = [(points, classes)]\n"
    "task = paring.Task(network, rows, train=rows)\n"
    "untrained = paring.Task(network, rows)\n"
    "with open(__file__ + '.runs', 'a') as stream:\n"
    "    stream.write('once ')\n"
    "def own(evidence):\n"
    "    return evidence.weight.abs()\n"
)


def typed(folder: Path, *arguments: str, task: str = "task") -> str:
    """What `paring optimize --plan` prints."""
    file = folder / "user_task.py"
    file.write_text(HEAD + TASK)
    command = ["optimize", f"{file}:{task}", "--out", str(folder / "out"), "--plan", "--backends", "onnxruntime"]
    finished = CliRunner(env={"COLUMNS": "160"}).invoke(app, [*command, *arguments])
    assert finished.exit_code == 0, finished.output
    assert not (folder / "out").exists()
    return finished.stdout


def planned(
    task: Task, *techniques: Technique | type[Technique], out: Path, objective: Objective = "latency"
) -> dict[str, Any]:
    budget, backends = Budget(objective=objective), [sleepy.Absent(), sleepy.Sleepy()]
    return make_plan(Request(task, budget, out, techniques=techniques, backends=backends, threads=1))


def reasons(plan: dict[str, Any]) -> dict[str, str]:
    return {row["what"]: row["reason"] for row in plan["not_tried"]}


def test_the_plan_as_text(tmp_path: Path) -> None:
    text = typed(tmp_path, "--techniques", "HalfPrecision,RemoveBlocks,PruneChannels,FineTune")
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[0] == "Would try"
    assert "baseline original onnxruntime" in lines
    assert any(line.startswith("training PruneChannels(") and line.endswith("the best so far") for line in lines)
    told = "RemoveBlocks no block of the network keeps the shape of its input and passes it on"
    assert any(line.startswith(told) for line in lines[lines.index("Can't try") :])
    assert "training takes what is left of it." in lines[-1]


def test_a_file_that_a_task_and_a_criterion_are_taken_from_is_run_once(tmp_path: Path) -> None:
    recipe = f"PruneWeights(criterion={tmp_path / 'user_task.py'}:own)"
    text = typed(tmp_path, "--techniques", recipe)
    assert (tmp_path / "user_task.py.runs").read_text() == "once "
    assert f"post-training {recipe} onnxruntime" in [" ".join(line.split()) for line in text.splitlines()]


def test_the_plan_as_json_without_training_data(tmp_path: Path) -> None:
    plan = json.loads(
        typed(tmp_path, "--techniques", "HalfPrecision,PruneChannels,FineTune", "--json", task="untrained")
    )
    assert plan["tried"][0] == {"stage": "baseline", "recipe": "original", "backend": "onnxruntime"}
    assert all(row["stage"] != "training" for row in plan["tried"])
    assert reasons(plan)["FineTune"] == "the task has no `train` data."
    assert "it is tried with training behind it" in reasons(plan)["PruneChannels"]
    assert plan["notes"][0] == "1125 rows can certify a drop of 0.0031 at best."
    assert plan["notes"][1].endswith("as the original would; the time limit is 1200 s.")


def test_more_settings_are_promised_only_where_the_first_ones_may_lead_to_others(tmp_path: Path) -> None:
    """A class has others than those planned; an object has none, and neither has what is never tried."""
    told = "; then come more settings around the best, within the time limit of 1200 s."
    task = sleepy.task()
    assert planned(task, sleepy.Cheapen, out=tmp_path)["notes"][1].endswith(told)
    for techniques in ([sleepy.Cheapen()], [Half], [PruneChannels]):
        assert planned(task, *techniques, out=tmp_path)["notes"][1].endswith("; the time limit is 1200 s.")


def test_without_a_technique_that_trains_no_structure_is_planned(tmp_path: Path) -> None:
    plan = json.loads(typed(tmp_path, "--techniques", "PruneChannels", "--json"))
    assert {row["stage"] for row in plan["tried"]} == {"baseline"}
    assert reasons(plan)["PruneChannels"].endswith("no technique that trains was asked for.")


def test_objects_and_what_fails_or_lacks_a_backend(tmp_path: Path) -> None:
    prune, task = PruneChannels(ratio=0.25), sleepy.task()
    task = replace(task, train=task.evaluate)
    plan = planned(task, prune, Bug, Untraceable, FineTune, Half, HalfPrecision, sleepy.Cheapen(), out=tmp_path)
    tried = [row["recipe"] for row in plan["tried"]]
    assert "PruneChannels(ratio=0.25)" in tried
    assert "Cheapen" in tried
    told = reasons(plan)
    assert told["absent"] == "it was never installed: pip install absent."
    assert told["Bug"] == "proposing its settings raised KeyError: 'no such layer'."
    assert told["Untraceable"] == "layer 'fc' can't be traced."
    assert told["Half on sleepy"] == "sleepy does not execute bf16 here."
    assert told["HalfPrecision"] == "no float32 weight of the network has 64 elements or more."


def test_a_graph_needs_no_module_and_says_what_does(tmp_path: Path) -> None:
    points, classes = sleepy.rows(1500)
    batch = torch.export.Dim("batch")
    file = tmp_path / "net.onnx"
    network = nn.Sequential(nn.Linear(6, 3)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (points[:2],), file, input_names=["x"], dynamic_shapes=({0: batch},), verbose=False)
    plan = planned(
        Task(file, [({"x": points}, classes)]), FineTune, RemoveBlocks(count=1), sleepy.Cheapen(), out=tmp_path / "out"
    )
    assert reasons(plan)["FineTune"] == reasons(plan)["RemoveBlocks(count=1)"]
    assert reasons(plan)["FineTune"] == "the task is a graph: it needs the network as an nn.Module."
    assert "Cheapen" in [row["recipe"] for row in plan["tried"]]


def test_a_loss_that_can_not_train_is_no_matter_where_nothing_trains(tmp_path: Path) -> None:
    rows = [sleepy.rows(1500)]
    task = Task(sleepy.network(), rows, train=rows, loss=lambda outputs, targets: outputs["logits"])
    assert "Cheapen" in [row["recipe"] for row in planned(task, sleepy.Cheapen, out=tmp_path)["tried"]]
    with pytest.raises(TaskError, match="the loss failed"):
        planned(task, sleepy.Cheapen, FineTune(epochs=1), out=tmp_path)


def test_a_training_with_nothing_to_mend_is_told(tmp_path: Path) -> None:
    rows = [sleepy.rows(1500)]
    plan = planned(Task(sleepy.network(), rows, train=rows), PruneChannels, RemoveBlocks, FineTune, out=tmp_path)
    assert {row["stage"] for row in plan["tried"]} == {"baseline"}
    assert reasons(plan)["FineTune"] == "it makes nothing smaller itself, and nothing makes a smaller network for it."


def test_trainings_that_make_the_network_smaller_are_planned_from_the_original(tmp_path: Path) -> None:
    rows = [sleepy.rows(1500)]
    network, prune = sleepy.network(), PruneWeights(0.5)
    task = Task(network, rows, train=rows)
    gradual, rounds = GradualPruning(prune=prune, epochs=3), IterativePruning(prune=prune, epochs=4)
    plan = planned(task, gradual, rounds, GradualPruning, FineTune, out=tmp_path, objective="size")
    trained = [row for row in plan["tried"] if row["stage"] == "training"]
    variants = [str(variant) for variant in GradualPruning.variants(network, Job.of(task))]
    assert {row["recipe"] for row in trained} == {str(gradual), str(rounds), *variants[:TRAINER_VARIANTS]}
    assert {row["backend"] for row in trained} == {"the best so far"}
    assert plan["notes"][1].endswith("training takes what is left of it.")


def test_a_training_that_makes_the_network_smaller_is_planned_beside_structures(tmp_path: Path) -> None:
    rows = [sleepy.rows(1500)]
    prune, gradual = PruneWeights(0.5), GradualPruning(prune=PruneWeights(0.9), epochs=3)
    plan = planned(Task(sleepy.network(), rows, train=rows), prune, gradual, FineTune, out=tmp_path)
    trained = [row["recipe"] for row in plan["tried"] if row["stage"] == "training"]
    assert trained == [str(prune), str(gradual)]
