"""Graphs of old opsets: techniques work on one that answers the same, or say why there is none."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from paring.errors import TechniqueError
from paring.graph.onnx_graph import Graph
from paring.graph.opset import modernized, opset
from paring.techniques import DynamicQuantization, HalfPrecision, StaticQuantization
from paring.techniques.base import GraphTechnique
from tests.quantization_nets import job, make, metadata, node, operators, perceptron, relative_error, rows, run, weights

ROWS = rows(64, 64)


def old_net() -> onnx.ModelProto:
    """Softmax, Squeeze, Unsqueeze and ReduceSum mean another thing, or are written in another way, from opset 13 on."""
    model = make(
        [
            node("Gemm", "x w0 b0", "h"),
            node("Unsqueeze", "h", "u", axes=[1]),
            node("Reshape", "u shape", "m"),
            node("Softmax", "m", "s", axis=1),
            node("ReduceSum", "s", "t", axes=[2], keepdims=1),
            node("Squeeze", "t", "q", axes=[2]),
            node("Gemm", "q w1", "y", transB=1),
        ],
        {"x": ("batch", 64)},
        {"y": ("batch", 10)},
        {
            "w0": weights(64, 96, seed=1) * 4,
            "b0": weights(96, seed=2),
            "shape": np.array([-1, 12, 8]),
            "w1": weights(10, 12, seed=3),
        },
        opset=11,
    )
    model.metadata_props.add(key="made", value="long ago")
    return model


def test_an_old_graph_answers_the_same_in_a_later_opset_and_keeps_its_weights() -> None:
    old = old_net()
    before = old.SerializeToString()
    found = Graph(old).finished()
    assert (opset(old), opset(found)) == (11, 13)
    np.testing.assert_allclose(run(found, ROWS)[0], run(old, ROWS)[0], atol=1e-6)
    constants = {tensor.name: tensor for tensor in found.graph.initializer}
    for tensor in old.graph.initializer:
        assert constants[tensor.name] == tensor
    assert found.graph.input == old.graph.input
    assert found.graph.output == old.graph.output
    assert metadata(found) == {"made": "long ago"}
    assert old.SerializeToString() == before


@pytest.mark.parametrize("technique", [StaticQuantization(), DynamicQuantization(least_parameters=0), HalfPrecision()])
def test_techniques_work_on_it_and_name_the_layers_of_the_file(technique: GraphTechnique) -> None:
    old, known = old_net(), job(ROWS)
    found = technique.apply(old, known)
    assert relative_error(run(found, ROWS)[0], run(old, ROWS)[0]) < 0.05
    coverage = technique.coverage(old, found, known)
    assert {layer.layer: layer.changed for layer in coverage.layers} == {"Gemm_h": True, "Gemm_y": True}
    assert next(type(technique).variants(old, known))


def test_a_graph_that_is_new_enough_is_left_as_it_is() -> None:
    model = perceptron()
    assert modernized(model) is model


def test_one_that_can_not_be_converted_says_so() -> None:
    old = old_net()
    old.graph.node[3].op_type = "Sharpmax"
    with pytest.raises(TechniqueError, match=r"this graph has 11, and onnx\.version_converter fails .*Sharpmax.*again"):
        StaticQuantization().apply(old, job(ROWS))
    assert "Sharpmax" in operators(old)
