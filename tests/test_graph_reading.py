"""What exporters put between a weight and its layer, and weights that no technique can take: seen, or told."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from paring.errors import TechniqueError
from paring.graph.onnx_graph import Graph
from paring.graph.onnx_layers import weighted_layers
from paring.techniques import (
    AWQ,
    CrossLayerEqualization,
    DynamicQuantization,
    HalfPrecision,
    SmoothQuant,
    StaticQuantization,
    WeightQuantization,
)
from paring.techniques.base import GraphTechnique
from tests.quantization_nets import job, make, node, operators, relative_error, rows, run, token_ids, weights

X = rows(8, 5, 32)
EVERY_LINEAR = DynamicQuantization(least_parameters=0)
OF_WEIGHTS: tuple[GraphTechnique, ...] = (
    StaticQuantization(),
    EVERY_LINEAR,
    WeightQuantization("int8", least_parameters=0),
)
TECHNIQUES: tuple[GraphTechnique, ...] = (
    *OF_WEIGHTS,
    CrossLayerEqualization(),
    SmoothQuant(anywhere=True),
    AWQ("int8", None, anywhere=True),
    HalfPrecision("fp16", storage_only=True),
)
named = pytest.mark.parametrize("technique", TECHNIQUES, ids=lambda technique: technique.name)


def told(technique: GraphTechnique, model: onnx.ModelProto, *inputs: Any) -> dict[str, tuple[bool, str]]:
    """Of each layer whether it was changed, and the reason."""
    known = job(*inputs)
    coverage = technique.coverage(model, technique.apply(model, known), known)
    return {layer.layer: (layer.changed, layer.reason) for layer in coverage.layers}


def as_exported() -> onnx.ModelProto:
    """A weight read twice through copies, once by way of a copy of a copy, and one that is transposed for two."""
    return make(
        [
            node("Identity", "w", "w1"),
            node("Identity", "w1", "w2"),
            node("MatMul", "x w", "a"),
            node("MatMul", "a w1", "b"),
            node("MatMul", "b w2", "c"),
            node("Transpose", "v", "v1", perm=[1, 0]),
            node("Transpose", "v", "v2"),
            node("MatMul", "c v1", "d"),
            node("MatMul", "d v2", "y"),
        ],
        {"x": ("n", 5, 32)},
        {"y": ("n", 5, 32)},
        {"w": weights(32, 32), "v": weights(32, 32, seed=1)},
    )


@pytest.mark.parametrize("technique", OF_WEIGHTS, ids=lambda technique: technique.name)
def test_weights_that_are_copied_or_transposed_become_integers(technique: GraphTechnique) -> None:
    model = as_exported()
    found = technique.apply(model, job(X))
    assert operators(found)["MatMul"] <= (5 if isinstance(technique, StaticQuantization) else 0)
    assert relative_error(run(found, X)[0], run(model, X)[0]) < 0.06
    assert [changed for changed, _ in told(technique, model, X).values()] == [True] * 5


def test_a_graph_that_is_read_answers_the_same_in_no_more_bytes() -> None:
    model = as_exported()
    model.graph.value_info.append(helper.make_tensor_value_info("v", TensorProto.FLOAT, (32, 32)))
    found = Graph(model).finished()
    assert set(operators(found)) == {"MatMul"}
    np.testing.assert_array_equal(run(found, X, optimized=False)[0], run(model, X, optimized=False)[0])
    assert sum(len(tensor.raw_data) for tensor in found.graph.initializer) == 2 * 4 * 32 * 32
    assert [layer.weight for layer in weighted_layers(found)] == ["w", "w", "w", "v", "v"]


def test_a_weight_that_is_no_square_has_the_shape_that_it_is_read_in() -> None:
    model = make(
        [node("Transpose", "v", "v1", perm=[1, 0]), node("MatMul", "x v1", "y")],
        {"x": ("n", 5, 32)},
        {"y": ("n", 5, 100)},
        {"v": weights(100, 32)},
    )
    model.graph.value_info.append(helper.make_tensor_value_info("v", TensorProto.FLOAT, (100, 32)))
    (layer,) = weighted_layers(Graph(model).model)
    assert layer.macs == 5 * 100 * 32
    for technique in OF_WEIGHTS:
        assert relative_error(run(technique.apply(model, job(X)), X)[0], run(model, X)[0]) < 0.02


def test_outputs_and_subgraphs_keep_the_names_that_they_read() -> None:
    """A copy is the network's output, and the branches of an If read that, and a transposed weight, by name."""
    branches = {
        name: helper.make_graph(
            [node("MatMul", f"x {read}", f"m_{read}")],
            name,
            [],
            [helper.make_tensor_value_info(f"m_{read}", TensorProto.FLOAT, None)],
        )
        for name, read in (("then_branch", "copy"), ("else_branch", "turned"))
    }
    model = make(
        [
            node("Identity", "w", "copy"),
            node("Transpose", "w", "turned"),
            node("Transpose", "v", "out"),
            node("MatMul", "x copy", "a"),
            node("MatMul", "a out", "b"),
            node("If", "yes", "c", **branches),
            node("Add", "b c", "y"),
        ],
        {"x": ("n", 32)},
        {"y": ("n", 32), "copy": (32, 32), "out": (32, 32)},
        {"w": weights(32, 32), "v": weights(32, 32, seed=1), "yes": np.array(False)},
    )
    found = Graph(model).finished()
    x = rows(3, 32)
    for one, other in zip(run(found, x), run(model, x), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert [layer.weight for layer in weighted_layers(found)] == ["w", "v"]


def test_what_a_caller_can_override_is_read_as_it_was() -> None:
    model = as_exported()
    for name in ("w", "v"):
        model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, (32, 32)))
    found = Graph(model).finished()
    assert operators(found) == operators(model)
    reasons = told(StaticQuantization(), model, X)
    assert reasons["MatMul_a"] == reasons["MatMul_y"] == (False, "its weight can be overridden by the caller")


def tied_head() -> onnx.ModelProto:
    """A table that is looked up, and transposed for the last layer."""
    return make(
        [
            node("Gather", "table ids", "e"),
            node("MatMul", "e w", "m"),
            node("Transpose", "table", "t", perm=[1, 0]),
            node("MatMul", "m t", "y"),
        ],
        {"ids": ("n", 6)},
        {"y": ("n", 6, 50)},
        {"table": weights(50, 32), "w": weights(32, 32, seed=1)},
        input_type=TensorProto.INT64,
    )


TRANSPOSED = "its weight is a transposed table that others read"


@named
def test_a_layer_of_a_transposed_table_is_told(technique: GraphTechnique) -> None:
    model, ids = tied_head(), token_ids(8)
    found = told(technique, model, ids)["MatMul_y"]
    expected = {
        "WeightQuantization": (True, "int8: its weight is that of 'Gather_e', transposed"),
        "HalfPrecision": (True, ""),
    }
    assert found == expected.get(technique.name, (False, TRANSPOSED))
    changed = technique.apply(model, job(ids))
    assert relative_error(run(changed, ids)[0], run(model, ids)[0]) < 0.03
    assert sum(len(tensor.raw_data) for tensor in changed.graph.initializer) < 1.1 * 4 * 82 * 32


def test_a_table_stays_float_with_the_head_that_is_excluded() -> None:
    found = told(WeightQuantization("int8", exclude=("MatMul_y",), least_parameters=0), tied_head(), token_ids(8))
    assert found["Gather_e"] == (False, "its weight is that of 'MatMul_y' too, which stays float")
    assert found["MatMul_y"] == (False, "excluded by the settings")
    assert found["MatMul_m"][0]


def test_a_weight_that_is_also_read_in_another_way_stays_and_is_told() -> None:
    model = make(
        [node("Transpose", "w", "t"), node("MatMul", "x t", "a"), node("Mul", "a w", "b"), node("MatMul", "b v", "y")],
        {"x": ("n", 32, 32)},
        {"y": ("n", 32, 32)},
        {"w": weights(32, 32), "v": weights(32, 32, seed=1)},
    )
    for technique in OF_WEIGHTS:
        found = told(technique, model, rows(4, 32, 32))
        assert (found["MatMul_a"], found["MatMul_y"][0]) == ((False, TRANSPOSED), True)


def biased(shape: tuple[int, ...]) -> onnx.ModelProto:
    """A Gemm that always reads 5 rows, and has 5 channels and a bias of that shape, and another without a bias."""
    return make(
        [
            node("ReduceMean", "x", "m", axes=[0], keepdims=0),
            node("Gemm", "m w c", "h"),
            node("Relu", "h", "r"),
            node("Gemm", "r v", "y"),
        ],
        {"x": ("n", 5, 64)},
        {"y": (5, 5)},
        {"w": weights(64, 5), "c": weights(*shape, seed=2) * 10, "v": weights(5, 5, seed=3)},
    )


@named
@pytest.mark.parametrize("shape", [(5, 1), (5, 5), (5,), (1, 5), (1, 1), (1,)], ids=str)
def test_a_bias_of_one_value_a_row_is_no_bias_of_channels(technique: GraphTechnique, shape: tuple[int, ...]) -> None:
    model, x = biased(shape), rows(3, 5, 64)
    found = technique.apply(model, job(x))
    assert relative_error(run(found, x)[0], run(model, x)[0]) < 0.05
    # Neither SmoothQuant nor half precision touches a bias.
    free = isinstance(technique, SmoothQuant | HalfPrecision)
    refused = told(technique, model, x)["Gemm_h"][1] == "its bias is no constant of one value a channel"
    assert refused == (shape in [(5, 1), (5, 5)] and not free)


def in_double() -> onnx.ModelProto:
    """A float32 layer, and a table and a layer in float64."""
    return make(
        [
            node("Gather", "table ids", "e"),
            node("Cast", "e", "f", to=TensorProto.FLOAT),
            node("MatMul", "f v", "m"),
            node("Relu", "m", "r"),
            node("Cast", "r", "d", to=TensorProto.DOUBLE),
            node("MatMul", "d w", "o"),
            node("Cast", "o", "y", to=TensorProto.FLOAT),
        ],
        {"ids": ("n", 6)},
        {"y": ("n", 6, 32)},
        {
            "table": weights(50, 32).astype(np.float64),
            "v": weights(32, 32, seed=1),
            "w": weights(32, 32, seed=2).astype(np.float64),
        },
        input_type=TensorProto.INT64,
    )


@named
def test_layers_in_float64_are_told(technique: GraphTechnique) -> None:
    found = told(technique, in_double(), token_ids(8))
    assert list(found) == ["Gather_e", "MatMul_m", "MatMul_o"]
    assert found["MatMul_o"] == (False, "its weight is float64, not float32")
    assert not found["Gather_e"][0]
    assert found["Gather_e"][1]


def test_a_network_in_float64_alone_has_the_reason() -> None:
    model = make(
        [node("Cast", "x", "d", to=TensorProto.DOUBLE), node("MatMul", "d w", "o"), node("Cast", "o", "y", to=1)],
        {"x": ("n", 32)},
        {"y": ("n", 32)},
        {"w": weights(32, 32).astype(np.float64)},
    )
    for technique in OF_WEIGHTS:
        with pytest.raises(TechniqueError, match=r"'MatMul_o': its weight is float64, not float32"):
            next(type(technique).variants(model, job(rows(4, 32))))
