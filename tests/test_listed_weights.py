"""Files whose weights are among the inputs of their graph, as exporters wrote them before version 4 of the format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from paring.backends.onnxruntime import OnnxRuntime
from paring.cli.tasks import load_task
from paring.data.job import Job
from paring.flow.networks import Networks
from paring.flow.prepare import task_signature
from paring.techniques import (
    DynamicQuantization,
    StaticQuantization,
    WeightQuantization,
)
from paring.techniques.base import GraphTechnique
from paring.tune import Candidate
from paring.types import Task
from tests.quantization_nets import make, node, relative_error, rows, run, weights

TECHNIQUES: tuple[GraphTechnique, ...] = (
    StaticQuantization(),
    DynamicQuantization(least_parameters=0),
    WeightQuantization("int8", least_parameters=0),
)


def old_file(folder: Path, *, ir_version: int) -> Path:
    """A graph whose weights are all among its inputs; `offset`, one a row, is meant to be given or left."""
    model = make(
        [node("MatMul", "x w", "m"), node("Add", "m b", "a"), node("Add", "a offset", "y")],
        {"x": ("n", 32)},
        {"y": ("n", 8)},
        {"w": weights(32, 8), "b": weights(8, seed=1), "offset": np.full((1, 1), 3, np.float32)},
        opset=9,
    )
    for name, shape in (("w", (32, 8)), ("b", (8,)), ("offset", ("n", 1))):
        model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    model.ir_version = ir_version
    onnx.checker.check_model(model)
    onnx.save(model, folder / "net.onnx")
    return folder / "net.onnx"


def networks(task: Task, folder: Path) -> Networks:
    return Networks(Job.of(task), task_signature(task), folder)


@pytest.mark.parametrize("ir_version", [3, 4, 9])
@pytest.mark.parametrize("form", ["tensor", "dict"])
def test_weights_that_a_file_lists_as_inputs_are_constants(tmp_path: Path, ir_version: int, form: str) -> None:
    file, x = old_file(tmp_path, ir_version=ir_version), rows(16, 32)
    inputs = torch.from_numpy(x) if form == "tensor" else {"x": torch.from_numpy(x)}
    made = networks(Task(file, [(inputs, torch.zeros(16, dtype=torch.int64))]), tmp_path)
    original = made.original_graph()
    assert [value.name for value in original.graph.input] == ["x"]
    np.testing.assert_array_equal(run(original, x)[0], run(onnx.load(file), x)[0])
    for technique in TECHNIQUES:
        built = made.build(Candidate((technique,), OnnxRuntime(), "post-training"))
        assert [layer["changed"] for layer in built.coverage[0]["layers"]] == [True]
        assert relative_error(run(onnx.load(built.network), x)[0], run(original, x)[0]) < 0.02


def test_one_that_the_data_gives_stays_an_input(tmp_path: Path) -> None:
    file, x, offset = old_file(tmp_path, ir_version=3), rows(16, 32), rows(16, 1)
    np.savez(tmp_path / "rows.npz", x=x, offset=offset, targets=np.zeros(16, np.int64))
    task = load_task(str(file), tmp_path / "rows.npz")
    made = networks(task, tmp_path)
    assert made.signature.input_names == ("x", "offset")
    original = made.original_graph()
    assert [value.name for value in original.graph.input] == ["x", "offset"]
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in original.graph.initializer}
    assert set(stored) == {"w", "b"}
    np.testing.assert_allclose(run(original, x, offset)[0], x @ stored["w"] + stored["b"] + offset, atol=1e-5)
    built = made.build(Candidate((TECHNIQUES[1],), OnnxRuntime(), "post-training"))
    assert relative_error(run(onnx.load(built.network), x, offset)[0], run(original, x, offset)[0]) < 0.02
