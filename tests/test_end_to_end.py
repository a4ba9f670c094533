"""Networks, rows and goals of every kind through the main job, on a machine whose measures are known."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import paring
from paring.artifact import Artifact
from paring.cli.tasks import load_task
from paring.data.job import Job
from paring.flow import conclusion, trials
from paring.flow.result import Result
from paring.flow.verify import deployment_of
from paring.flow.workload import golden_outputs
from paring.graph.export import export_onnx, export_program, signature_of
from paring.techniques.base import GraphTechnique, Technique
from paring.techniques.fine_tune import FineTune
from paring.techniques.prune_channels import PruneChannels
from paring.tune import trainers
from paring.types import Budget, Coverage, LayerChange, Task
from tests.metered import Metered

HIDDEN, CLASSES, ROWS = 24, 3, 1500


@pytest.fixture(scope="module", autouse=True)
def short_comparisons() -> Iterator[None]:
    """Sleeping takes the same time in every process, and small networks learn fast: nothing need be long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trials, "COMPARISON_TIME_S", 0.2)
        patch.setattr(conclusion, "COMPARISON_LIMIT_S", 2.0)
        patch.setattr(trainers, "MOST_EPOCHS", 20)
        yield


def optimized(out: Path, task: Task, *techniques: Technique, **budget: Any) -> Result:
    return paring.optimize(
        task,
        Budget(**{"max_drop": 0.02, **budget}),
        out=out,
        time_limit_s=120,
        techniques=techniques,
        backends=[Metered()],
        threads=1,
        progress=False,
    )


@dataclass(frozen=True)
class Traded(GraphTechnique):
    """Sets what a call takes, what the process holds, and how much of the file is padding."""

    base_ms: float = 4.0
    row_ms: float = 0.1
    ballast_mb: int = 60
    padding: int = 100_000

    def apply(self, graph: onnx.ModelProto, job: Job) -> onnx.ModelProto:
        after = copy.deepcopy(graph)
        del after.metadata_props[:]
        for field in fields(self):
            value = getattr(self, field.name)
            entry = after.metadata_props.add()
            entry.key, entry.value = field.name, "x" * value if field.name == "padding" else str(value)
        return after

    def coverage(self, before: onnx.ModelProto, after: onnx.ModelProto, job: Job) -> Coverage:
        return Coverage(self.name, (LayerChange("all", True, "traded", 1, 1),))

    @classmethod
    def variants(cls, graph: onnx.ModelProto, job: Job) -> Iterator[Self]:
        yield cls()


QUICK, WIDE = Traded(base_ms=0.5), Traded(base_ms=1.0, row_ms=0.01)
"""The faster for one row, and the faster for many."""

SLOW = Traded(base_ms=6.0, ballast_mb=0, padding=1)
"""Slower than the original, and the smallest in every other way."""


class Two(nn.Module):
    """Two inputs; the class of the largest of their first three sums, told by as many copies of each as fit."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(4, HIDDEN), nn.Linear(3, HIDDEN), nn.Linear(HIDDEN, CLASSES)
        with torch.no_grad():
            copies = torch.eye(CLASSES).repeat(HIDDEN // CLASSES, 1)
            self.left.weight.copy_(nn.functional.pad(copies, (0, 1)))
            self.right.weight.copy_(copies)
            self.left.bias.fill_(5.0)
            self.right.bias.zero_()
            self.head.weight.copy_(copies.T)
            self.head.bias.zero_()
        self.eval()

    def scores(self, left: Tensor, right: Tensor) -> Tensor:
        return self.head(torch.relu(self.left(left) + self.right(right)))  # type: ignore[no-any-return]


class Named(Two):
    """By name, and with a second answer."""

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:
        scores = self.scores(left, right)
        return {"scores": scores, "total": scores.sum(1, keepdim=True)}


class Ordered(Two):
    """In order, and with a second answer."""

    def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.scores(left, right)
        return scores, scores.sum(1, keepdim=True)


def points() -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    left, right = torch.randn(ROWS, 4, generator=draw), torch.randn(ROWS, 3, generator=draw)
    return left, right, (left[:, :CLASSES] + right).argmax(1)


def right_names(outputs: dict[str, Tensor], targets: dict[str, Tensor]) -> Tensor:
    return (outputs["scores"].argmax(1) == targets["class"]).float()


def right_first(outputs: tuple[Tensor, Tensor], targets: Tensor) -> Tensor:
    return (outputs[0].argmax(1) == targets).float()


class Updated(Two):
    """Answers under the names of its inputs."""

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:
        return {"right": self.scores(left, right), "left": left + 1}


def test_an_output_may_be_called_like_an_input(tmp_path: Path) -> None:
    left, right, classes = points()
    evaluate = [({"left": left, "right": right}, classes)]
    task = Task(Updated(), evaluate, metric=lambda outputs, targets: (outputs["right"].argmax(1) == targets).float())
    result = optimized(tmp_path, task, QUICK)
    assert result.status == "improved", result.reason
    signature = Artifact.open(tmp_path / "best").manifest.signature
    assert (signature.input_names, signature.output_names) == (("left", "right"), ("right", "left"))
    inputs, outputs = Artifact.open(tmp_path / "best").golden()
    np.testing.assert_allclose(outputs["left"], inputs["left"] + 1, rtol=1e-6)
    found = paring.load(tmp_path, backends=[Metered]).run(inputs)
    assert set(found) == {"left", "right"}
    assert (found["left"] == outputs["left"]).all()
    again = golden_outputs(deployment_of(Artifact.open(tmp_path / "best"), [Metered]), inputs, 1, 1)
    assert {name: value.tolist() for name, value in again.items()} == {n: v.tolist() for n, v in outputs.items()}


def test_inputs_outputs_and_targets_by_name_with_training_rows_that_have_no_labels(tmp_path: Path) -> None:
    left, right, classes = points()
    evaluate = [({"left": left, "right": right}, {"class": classes})]
    train = [({"left": a, "right": b}, None) for a, b in zip(left.split(64)[:8], right.split(64)[:8], strict=True)]
    task = Task(Named(), evaluate, train=train, metric=right_names)
    result = optimized(tmp_path, task, PruneChannels(ratio=0.5), FineTune(epochs=2), max_drop=0.2)
    trained = [t for t in result.trials if "FineTune" in t.recipe_text]
    assert trained
    assert {t.outcome for t in trained} <= {"measured", "stopped-early"}, [t.reason for t in trained]
    settings = [step["settings"] for t in trained for step in t.recipe if step["technique"] == "FineTune"]
    assert {each["epochs"] for each in settings} == {1, 2}
    assert min(t.drop for t in trained if t.drop is not None) <= 0.2
    assert result.status == "improved"
    signature = Artifact.open(tmp_path / "best").manifest.signature
    assert signature.input_names == ("left", "right")
    assert signature.output_names == ("scores", "total")
    assert (signature.input_structure, signature.output_structure) == ("dict", "dict")


def test_two_inputs_and_outputs_in_order_as_a_data_loader_collates_them(tmp_path: Path) -> None:
    left, right, classes = points()
    rows = [((a, b), int(c)) for a, b, c in zip(left, right, classes, strict=True)]
    data = torch.utils.data.DataLoader(rows, batch_size=100)  # type: ignore[arg-type]
    assert isinstance(next(iter(data))[0], list)
    task = Task(Ordered(), data, metric=right_first)
    result = optimized(tmp_path, task, QUICK, WIDE, objective="throughput", batch_size=64)
    assert result.status == "improved", result.reason
    assert result.values["best"]["recipe_text"] == str(WIDE)
    artifact = Artifact.open(tmp_path / "best")
    assert artifact.manifest.signature.input_structure == "tuple"
    assert artifact.manifest.signature.output_structure == "tuple"
    inputs, outputs = artifact.golden()
    with torch.inference_mode():
        wanted = Ordered()(*(torch.from_numpy(inputs[name]) for name in artifact.manifest.signature.input_names))
    for found, tensor in zip(outputs.values(), wanted, strict=True):
        np.testing.assert_allclose(found, tensor.numpy(), rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def graph_task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    """A two-input graph in a file with rows beside it, as the command line reads them."""

    class Scores(Two):
        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            return self.scores(left, right)

    folder = tmp_path_factory.mktemp("graph")
    left, right, classes = points()
    inputs = {"left": left[:2], "right": right[:2]}
    graph = export_onnx(export_program(Scores(), inputs), signature_of(Scores(), inputs))
    given = Traded().apply(graph, Job(Task(Scores(), []), ()))
    onnx.save(given, folder / "net.onnx")
    np.savez(folder / "rows.npz", left=left.numpy(), right=right.numpy(), targets=classes.numpy())
    return load_task(str(folder / "net.onnx"), folder / "rows.npz")


@pytest.mark.parametrize(
    ("objective", "wanted"),
    [("size", Traded(base_ms=1.5, padding=10)), ("memory", Traded(base_ms=1.5, ballast_mb=20))],
)
def test_a_graph_of_two_inputs_is_made_best_in_what_was_asked_for(
    tmp_path: Path, graph_task: Task, objective: str, wanted: Traded
) -> None:
    result = optimized(tmp_path, graph_task, SLOW, QUICK, wanted, objective=objective)
    assert result.status == "improved", result.reason
    assert result.values["best"]["recipe_text"] == str(wanted)
