"""How a graph is called, from what it records of its inputs and outputs, and what is said where that is too little."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from paring.backends.onnxruntime import OnnxRuntime
from paring.data.job import Job
from paring.errors import TaskError
from paring.flow.networks import Networks
from paring.flow.prepare import task_signature
from paring.graph.signature import graph_signature, read_graph
from paring.techniques.dynamic_quantization import DynamicQuantization
from paring.tune import Candidate
from paring.types import Task, TensorSpec
from tests.command_line import refused, typed

BATCH = ["n", 6]


def saved(
    file: Path,
    *,
    x: list[str | int] | None = BATCH,
    outputs: tuple[onnx.ValueInfoProto, ...] = (),
    domain: str = "",
    external: bool = False,
) -> Path:
    """Two steps of a network: y = x W, z = reshaped y."""
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["y"], domain=domain),
        helper.make_node("Reshape", ["y", "shape"], ["z"]),
    ]
    constants = [
        numpy_helper.from_array(np.ones((6, 4), np.float32), "weight"),
        numpy_helper.from_array(np.array([-1, 2, 2]), "shape"),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)]
    graph = helper.make_graph(nodes, "g", inputs, outputs, constants)
    opsets = [helper.make_opsetid("", 18), *([helper.make_opsetid(domain, 1)] if domain else [])]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    onnx.save(model, file, save_as_external_data=external, size_threshold=0)
    return file


def value(name: str, shape: list[str | int] | None = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


@pytest.mark.parametrize("external", [False, True], ids=["inside", "beside"])
def test_shapes_that_the_outputs_do_not_record_are_inferred(tmp_path: Path, external: bool) -> None:
    file = saved(tmp_path / "net.onnx", outputs=(value("z"), value("y")), external=external)
    found = graph_signature(read_graph(file), "dict")
    assert found.inputs == (TensorSpec("x", "float32", (None, 6)),)
    assert found.outputs == (TensorSpec("z", "float32", (None, 2, 2)), TensorSpec("y", "float32", (None, 4)))


def test_an_output_without_a_type_is_inferred(tmp_path: Path) -> None:
    file = saved(tmp_path / "net.onnx", outputs=(onnx.ValueInfoProto(name="y"),))
    assert graph_signature(read_graph(file), "dict").outputs == (TensorSpec("y", "float32", (None, 4)),)


def test_shapes_that_are_recorded_stay_as_they_are(tmp_path: Path) -> None:
    file = saved(tmp_path / "net.onnx", outputs=(value("z"), value("y", ["n", "m"])))
    assert graph_signature(read_graph(file), "dict").outputs[1].shape == (None, None)


@pytest.mark.parametrize(
    ("x", "outputs", "domain", "says"),
    [
        (None, (value("y", BATCH),), "", "'x' of the graph has no recorded shape, and none can be inferred: export it"),
        (BATCH, (value("y"),), "somebody", "'y' of the graph has no recorded shape, and none can be inferred: export"),
        (BATCH, (value("y", []),), "", "'y' of the graph is a scalar: every input and output needs the batch"),
        (BATCH, (value("y", [1, 4]),), "", "'y' of the graph has a fixed batch of 1: export it with a dynamic axis 0"),
        ([2, 6], (value("y"),), "", "'x' of the graph has a fixed batch of 2"),
    ],
    ids=["input", "operator", "scalar", "fixed", "fixed-inferred"],
)
def test_what_can_not_be_called_with_a_batch(
    tmp_path: Path, x: list[str | int] | None, outputs: tuple[onnx.ValueInfoProto, ...], domain: str, says: str
) -> None:
    file = saved(tmp_path / "net.onnx", x=x, outputs=outputs, domain=domain)
    with pytest.raises(TaskError) as error:
        graph_signature(read_graph(file), "dict")
    assert says in str(error.value)


def test_an_output_that_is_no_tensor_is_named_with_its_type() -> None:
    rows = helper.make_tensor_type_proto(TensorProto.FLOAT, BATCH)
    output = helper.make_value_info("maps", helper.make_sequence_type_proto(rows))
    graph = helper.make_graph([], "g", [value("x", BATCH)], [output])
    with pytest.raises(TaskError, match="'maps' of the graph is of type sequence: every input and output must be a"):
        graph_signature(graph, "dict")


def test_techniques_are_given_the_graph_with_the_shapes_of_its_outputs(tmp_path: Path) -> None:
    file = saved(tmp_path / "net.onnx", outputs=(value("z"),))
    batch = ({"x": torch.ones(9, 6)}, torch.zeros(9, dtype=torch.int64))
    task = Task(file, [batch])
    networks = Networks(Job.of(task), task_signature(task), tmp_path)
    candidate = Candidate((DynamicQuantization(least_parameters=0),), OnnxRuntime(), "post-training")
    made = onnx.load(networks.build(candidate).network)
    assert [output.type.tensor_type.HasField("shape") for output in made.graph.output] == [True]


def test_the_command_line_tells_the_cause(tmp_path: Path) -> None:
    file = saved(tmp_path / "net.onnx", x=None, outputs=(value("y"),))
    np.savez(tmp_path / "rows.npz", x=np.ones((9, 6), np.float32), targets=np.zeros(9, np.int64))
    sentence = refused(typed("optimize", file, "--data", tmp_path / "rows.npz", "--out", tmp_path / "out"))
    assert "'x' of the graph has no recorded shape" in sentence
