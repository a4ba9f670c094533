"""Graphs above what a protocol buffer can hold: nothing on the way may serialize them whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from paring.backends import runner
from paring.backends.onnxruntime import OnnxRuntime
from paring.graph.onnx_graph import Graph
from paring.graph.onnx_layers import shapes, skeleton, weighted_layers

LIMIT_BYTES = 20_000
WEIGHT = np.ones((100, 100), np.float32)


@pytest.fixture
def large() -> onnx.ModelProto:
    """x @ w, to a shape that is computed; twice as large as the limit."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["product"]),
        helper.make_node("Concat", ["any", "half"], ["shape"], axis=0),
        helper.make_node("Reshape", ["product", "shape"], ["y"]),
    ]
    constants = [numpy_helper.from_array(WEIGHT, "w")]
    constants += [numpy_helper.from_array(np.array(value), name) for name, value in (("any", [-1]), ("half", [50]))]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 100])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["m", 50])
    graph = helper.make_graph(nodes, "large", [x], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


@pytest.fixture(autouse=True)
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """As protocol buffers refuse 2 GiB."""

    def limited(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(model: onnx.ModelProto, *arguments: Any, **settings: Any) -> Any:
            assert model.ByteSize() <= LIMIT_BYTES, "a model above the limit was serialized"
            return function(model, *arguments, **settings)

        return call

    monkeypatch.setattr(onnx.checker, "check_model", limited(onnx.checker.check_model))
    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", limited(onnx.shape_inference.infer_shapes))
    monkeypatch.setattr(runner, "MAXIMUM_FILE_BYTES", LIMIT_BYTES)


def test_its_shapes_are_known(large: onnx.ModelProto) -> None:
    found = shapes(large)
    assert found["product"] == (1, 100)
    assert found["w"] == (100, 100)
    assert found["y"] == (1, 50)
    assert [(layer.weight, layer.parameters) for layer in weighted_layers(large)] == [("w", 10_000)]


def test_it_is_edited_and_checked(large: onnx.ModelProto) -> None:
    graph = Graph(large)
    graph.add_named_node("Relu", ["y"], "z")
    assert len(graph.finished().graph.initializer) == 3
    graph.add_named_node("NoSuchOperator", ["y"], "broken")
    with pytest.raises(onnx.checker.ValidationError, match="NoSuchOperator"):
        graph.finished()


def test_it_is_written_and_runs(large: onnx.ModelProto, tmp_path: Path) -> None:
    runner.write_graph(large, tmp_path / "network.onnx")
    assert (tmp_path / "network.onnx").stat().st_size < LIMIT_BYTES
    x = np.ones((2, 100), np.float32)
    found = OnnxRuntime().load(tmp_path / "network.onnx", threads=1).run({"x": x})
    assert (found["y"] == 100).all()
    assert found["y"].shape == (4, 50)


def test_its_skeleton_is_small_and_leaves_it_alone(large: onnx.ModelProto) -> None:
    before = large.SerializeToString()
    assert skeleton(large).ByteSize() < LIMIT_BYTES / 10
    assert large.SerializeToString() == before
