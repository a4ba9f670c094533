"""Cross-layer equalization: the same answers from weights whose channels have equal ranges."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from paring.errors import TechniqueError
from paring.graph.onnx_graph import Graph
from paring.graph.pairs import Pair, pairs
from paring.ops.equalization import equalizing
from paring.techniques.cross_layer_equalization import CrossLayerEqualization
from paring.techniques.static_quantization import StaticQuantization
from tests.quantization_nets import (
    Array,
    attention_block,
    constant,
    job,
    make,
    node,
    perceptron,
    relative_error,
    residual_net,
    rows,
    run,
    token_ids,
    weights,
)


def uneven(*shape: int, seed: int = 0) -> Array:
    """Weights whose output channels differ in range by two orders of magnitude."""
    spread = np.random.default_rng(seed + 100).permutation(np.geomspace(0.1, 10, shape[0])).astype(np.float32)
    return weights(*shape, seed=seed) * spread.reshape(-1, *[1] * (len(shape) - 1))


def convolutions(*, group: int = 1, rectifier: str = "Relu") -> onnx.ModelProto:
    """Three convolutions, the second grouped or depthwise, a pool, a mean and a linear layer."""
    slope = " slope" if rectifier == "PRelu" else ""
    return make(
        [
            node("Conv", "x w0 b0", "c0", pads=[1, 1, 1, 1]),
            node(rectifier, f"c0{slope}", "r0"),
            node("MaxPool", "r0", "p0", kernel_shape=[2, 2], strides=[2, 2]),
            node("Conv", "p0 w1 b1", "c1", group=group),
            node(rectifier, f"c1{slope}", "r1"),
            node("Conv", "r1 w2", "c2"),
            node("Mul", "c2 half", "h2"),
            node("Add", "b2 h2", "a2"),
            node(rectifier, f"a2{slope}", "r2"),
            node("Flatten", "r2", "f"),
            node("Gemm", "f w3 b3", "y", transB=1),
        ],
        {"x": ("batch", 3, 10, 10)},
        {"y": ("batch", 5)},
        {
            "w0": uneven(8, 3, 3, 3),
            "b0": weights(8, seed=1),
            "w1": uneven(8, 8 // group, 3, 3, seed=2),
            "b1": weights(8, seed=3),
            "w2": uneven(6, 8, 2, 2, seed=4),
            "b2": weights(1, 6, 1, 1, seed=5),
            "half": np.array(0.5, np.float32),
            "w3": weights(5, 6 * 4, seed=6),
            "b3": weights(5, seed=7),
            **({"slope": np.array([0.1], np.float32)} if slope else {}),
        },
    )


def ranges(model: onnx.ModelProto, pair: Pair) -> tuple[Array, Array]:
    first, second = (constant(model, each.input[1]) for each in (pair.first, pair.second))
    return np.abs(pair.outputs(first)).max(axis=1), np.abs(pair.inputs(second)).max(axis=1)


@pytest.mark.parametrize("group", [1, 2, 4, 8])
@pytest.mark.parametrize("rectifier", ["Relu", "LeakyRelu", "PRelu", "Identity"])
def test_answers_stay_and_all_channels_between_two_layers_have_equal_ranges(group: int, rectifier: str) -> None:
    model, x = convolutions(group=group, rectifier=rectifier), rows(8, 3, 10, 10)
    technique = CrossLayerEqualization()
    equal = technique.apply(model, job(x))
    onnx.checker.check_model(equal, full_check=True)
    expected = run(model, x)[0]
    np.testing.assert_allclose(run(equal, x)[0], expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    found, _ = pairs(Graph(equal))
    assert [(pair.first.name, pair.second.name) for pair in found] == [
        ("Conv_c0", "Conv_c1"),
        ("Conv_c1", "Conv_c2"),
        ("Conv_c2", "Gemm_y"),
    ]
    for pair in found:
        one, other = ranges(equal, pair)
        np.testing.assert_allclose(one, other, rtol=0.01)
    coverage = technique.coverage(model, equal, job(x))
    assert coverage.changed == 4
    assert technique.apply(equal, job(x)).graph.initializer == equal.graph.initializer


@pytest.mark.parametrize("rectifier", ["Relu", "Identity"])
def test_one_scale_for_each_weight_loses_far_less_afterwards(rectifier: str) -> None:
    model, x = convolutions(group=8, rectifier=rectifier), rows(32, 3, 10, 10)
    expected = run(model, x)[0]
    graphs = [CrossLayerEqualization().apply(model, job(x)), model]
    integer = StaticQuantization(per_channel=False)
    errors = [relative_error(run(integer.apply(each, job(x)), x)[0], expected) for each in graphs]
    assert errors[0] < 0.7 * errors[1]


def test_linear_layers_of_all_kinds_are_pairs_with_what_is_added_between_them() -> None:
    model = make(
        [
            node("MatMul", "x w0", "m0"),
            node("Add", "m0 b0", "a0"),
            node("Relu", "a0", "r0"),
            node("MatMul", "r0 w1", "m1"),
            node("Sub", "b1 m1", "s1"),
            node("Reshape", "s1 shape", "f"),
            node("Gemm", "f w2 b2", "g", alpha=0.5, beta=2.0),
            node("Relu", "g", "r2"),
            node("Gemm", "r2 w3", "y", transB=1),
        ],
        {"x": ("batch", 4, 6)},
        {"y": ("rows", 3)},
        {
            "w0": uneven(8, 6).T.copy(),
            "b0": weights(8, seed=1),
            "w1": uneven(10, 8, seed=2).T.copy(),
            "b1": weights(1, 1, 10, seed=3),
            "shape": np.array([-1, 10]),
            "w2": uneven(7, 10, seed=4).T.copy(),
            "b2": weights(1, seed=5),
            "w3": weights(3, 7, seed=6),
        },
    )
    x = rows(16, 4, 6)
    equal = CrossLayerEqualization().apply(model, job(x))
    expected = run(model, x)[0]
    np.testing.assert_allclose(run(equal, x)[0], expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    found, _ = pairs(Graph(equal))
    assert len(found) == 3
    for pair in found:
        one, other = ranges(equal, pair)
        np.testing.assert_allclose(one, other, rtol=0.01)


def test_factors_are_the_papers() -> None:
    first, second = rows(5, 7), rows(5, 3, seed=2)
    factor = equalizing(first, second)
    one, other = np.abs(first).max(axis=1), np.abs(second).max(axis=1)
    np.testing.assert_allclose(factor, np.sqrt(one * other) / other, rtol=1e-6)
    np.testing.assert_allclose(one / factor, np.sqrt(one * other), rtol=1e-6)


@given(
    arrays(np.float32, (4, 3), elements=st.floats(-(2.0**100), 2.0**100, width=32)),
    arrays(np.float32, (4, 5), elements=st.floats(-(2.0**100), 2.0**100, width=32)),
)
@settings(max_examples=100, deadline=None)
def test_factors_are_positive_and_spare_channels_that_one_side_does_not_use(first: Array, second: Array) -> None:
    factor = equalizing(first, second)
    assert (np.isfinite(factor) & (factor > 0)).all()
    unused = ~first.any(axis=1) | ~second.any(axis=1)
    assert (factor[unused] == 1).all()


def test_dead_channels_stay_finite_and_answers_stay() -> None:
    model, x = convolutions(), rows(8, 3, 10, 10)
    for name, channel in (("w0", 2), ("w1", 5)):
        value = constant(model, name).copy()
        value[channel] = 0
        next(t for t in model.graph.initializer if t.name == name).CopyFrom(onnx.numpy_helper.from_array(value, name))
    equal = CrossLayerEqualization().apply(model, job(x))
    assert all(np.isfinite(onnx.numpy_helper.to_array(t)).all() for t in equal.graph.initializer)
    np.testing.assert_allclose(run(equal, x)[0], run(model, x)[0], rtol=1e-3, atol=1e-4)


def test_branches_and_functions_that_no_factor_passes_are_left_alone_with_the_reason() -> None:
    x = rows(4, 3, 8, 8)
    technique = CrossLayerEqualization()
    told = {layer.layer: layer for layer in technique.coverage(residual_net(), residual_net(), job(x)).layers}
    assert told["Conv_c0"].reason == "its output is not read by one operator alone"
    assert told["Conv_c1"].reason == "its channels have equal ranges as they are"
    assert told["Conv_c2"].reason == "its output goes into Add, from which no factor comes to another layer"
    assert told["Gemm_y"].reason == "its output is not read by one operator alone"
    model = make(
        [node("MatMul", "x w", "m"), node("Sigmoid", "m", "s"), node("MatMul", "s v", "y")],
        {"x": ("n", 4)},
        {"y": ("n", 2)},
        {"w": weights(4, 3), "v": weights(3, 2)},
    )
    with pytest.raises(TechniqueError, match=r"^no two layers can be equalized \('MatMul_m': its output goes into S"):
        next(CrossLayerEqualization.variants(model, job(rows(4, 4))))
    unchanged = technique.apply(model, job(rows(4, 4)))
    assert unchanged.graph.initializer == Graph(model).finished().graph.initializer
    with pytest.raises(TechniqueError, match="no two layers can be equalized"):
        next(CrossLayerEqualization.variants(attention_block(), job(token_ids())))
    assert list(CrossLayerEqualization.variants(perceptron(), job(rows(4, 64)))) == [technique]


@pytest.mark.parametrize(
    ("nodes", "constants", "last"),
    [
        ("Add m four", {"four": np.ones((4, 1, 3), np.float32)}, 3),
        ("Add m one", {"one": np.ones(1, np.float32)}, 3),
        ("Mul m m", {}, 3),
        ("Div three m", {"three": np.ones(3, np.float32)}, 3),
        ("Flatten m", {}, 6),
        ("Transpose m", {}, 3),
        ("Clip m zero six", {"zero": np.array(0.0, np.float32), "six": np.array(6.0, np.float32)}, 3),
    ],
)
def test_what_changes_channels_otherwise_is_no_way_for_a_factor(
    nodes: str, constants: dict[str, Any], last: int
) -> None:
    op, *inputs = nodes.split(" ")
    attributes = {"perm": [0, 1, 2]} if op == "Transpose" else {}
    model = make(
        [node("MatMul", "x w", "m"), node(op, " ".join(inputs), "s", **attributes), node("MatMul", "s v", "y")],
        {"x": (4, 2, 5)},
        {"y": (None,) * (2 if op == "Flatten" else 3)},
        {"w": weights(5, 3), "v": weights(last, 2), **constants},
    )
    found, reasons = pairs(Graph(model))
    assert found == []
    assert op in reasons["MatMul_m"] or "not read by one" in reasons["MatMul_m"]


def test_weights_that_are_no_numbers_are_named_and_quantized_graphs_refused() -> None:
    model, x = perceptron(), rows(8, 64)
    broken = constant(model, "w1").copy()
    broken[2, 3] = np.nan
    quantized = StaticQuantization().apply(model, job(x))
    with pytest.raises(TechniqueError, match="quantized already"):
        CrossLayerEqualization().apply(quantized, job(x))
    next(t for t in model.graph.initializer if t.name == "w1").CopyFrom(onnx.numpy_helper.from_array(broken, "w1"))
    with pytest.raises(TechniqueError, match="weight 'w1' holds NaN or infinity"):
        CrossLayerEqualization().apply(model, job(x))
