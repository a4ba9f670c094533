"""Static int8 against a NumPy reading of the same graph, and the graphs that users bring."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, version_converter
from onnx.reference import ReferenceEvaluator

from paring.errors import TechniqueError
from paring.ops.quantization import Range, affine, dequantize, quantize
from paring.ops.ranges import Calibration
from paring.techniques.base import GraphTechnique
from paring.techniques.dynamic_quantization import DynamicQuantization
from paring.techniques.mixed_precision import MixedPrecision
from paring.techniques.smooth_quant import SmoothQuant
from paring.techniques.static_quantization import StaticQuantization
from tests.quantization_nets import (
    Array,
    attention_block,
    constant,
    job,
    make,
    node,
    operators,
    perceptron,
    relative_error,
    residual_net,
    rows,
    run,
    symmetric,
    token_ids,
    weights,
)

X = rows(32, 3, 8, 8)
BOTH = pytest.mark.parametrize("placement", ["every-edge", "inputs-only"])


@BOTH
@pytest.mark.parametrize("calibration", get_args(Calibration))
def test_residual_network_keeps_its_answers_at_any_batch(placement: Any, calibration: Any) -> None:
    float_graph = residual_net()
    graph = StaticQuantization(calibration=calibration, placement=placement).apply(float_graph, job(X))
    onnx.checker.check_model(graph, full_check=True)
    for batch in (1, 5):
        assert relative_error(run(graph, X[:batch])[0], run(float_graph, X[:batch])[0]) < 0.12
    assert float_graph.SerializeToString() == residual_net().SerializeToString()


@BOTH
def test_runtime_agrees_with_the_reference_of_onnx(placement: Any) -> None:
    """The same graph in ONNX's own NumPy evaluator: one rounding of an integer kernel is allowed."""
    model = version_converter.convert_version(residual_net(), 21)
    graph = StaticQuantization(placement=placement).apply(model, job(X))
    expected = ReferenceEvaluator(graph).run(None, {"x": X[:3]})[0]
    np.testing.assert_allclose(run(graph, X[:3], optimized=False)[0], expected, atol=1e-4)
    assert relative_error(run(graph, X[:3])[0], expected) < 0.05


def test_perceptron_equals_a_fake_quantized_one_in_numpy() -> None:
    x = rows(16, 64)
    model = perceptron()
    graph = StaticQuantization(calibration="min-max").apply(model, job(x))
    w0, b0, w1, b1 = (constant(model, name) for name in ("w0", "b0", "w1", "b1"))

    def fake(value: Array, seen: Array) -> Array:
        parameters = affine(Range(float(seen.min()), float(seen.max())))
        return dequantize(quantize(value, parameters), parameters)

    def fake_weight(value: Array, axis: int) -> Array:
        return dequantize(quantize(value, symmetric(value, axis)), symmetric(value, axis))

    hidden_seen = np.maximum(x @ w0 + b0, 0)
    hidden = np.maximum(fake(x, x) @ fake_weight(w0, 1) + b0, 0)
    expected = fake(hidden, hidden_seen) @ fake_weight(w1, 0).T + b1
    np.testing.assert_allclose(run(graph, x, optimized=False)[0], expected, atol=0.02)


def test_nodes_are_as_few_as_the_placement_needs() -> None:
    every = operators(StaticQuantization().apply(residual_net(), job(X)))
    # x, r0, r1, c2, r2 and m become integers; s and p are moved as integers.
    assert every["QuantizeLinear"] == 6
    # The same without c2, which the addition takes from the convolution as it is, and s and p are computed in float.
    inputs = operators(StaticQuantization(placement="inputs-only").apply(residual_net(), job(X)))
    assert inputs["QuantizeLinear"] == 5
    # 4 weights, 3 biases, and x, r0, r1, r2, m, or these and c2, p.
    assert every["DequantizeLinear"] == 4 + 3 + 7
    assert inputs["DequantizeLinear"] == 4 + 3 + 5


def test_values_are_moved_as_integers_and_padding_is_the_zero_point() -> None:
    graph = StaticQuantization().apply(residual_net(), job(X))
    pad = next(n for n in graph.graph.node if n.op_type == "Pad")
    made = {name: n for n in graph.graph.node for name in n.output}
    quantizer = made[made[pad.input[0]].input[0]]
    assert quantizer.op_type == "QuantizeLinear"
    assert pad.input[2] == quantizer.input[2]


def test_padding_of_a_convolution_with_an_affine_input_is_exact() -> None:
    """Inputs far from 0: a border filled with the integer 0 in place of the zero point would be far off."""
    x = rows(8, 2, 6, 6) + np.float32(-3)
    model = make(
        [node("Pad", "x pads", "p"), node("Conv", "p w", "y", pads=[1, 1, 1, 1])],
        {"x": ("n", 2, 6, 6)},
        {"y": ("n", 4, 8, 8)},
        {"w": weights(4, 2, 3, 3), "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])},
    )
    for placement in ("every-edge", "inputs-only"):
        graph = StaticQuantization(placement=placement).apply(model, job(x))  # type: ignore[arg-type]
        assert relative_error(run(graph, x)[0], run(model, x)[0]) < 0.02


def test_activations_without_negatives_have_zero_point_zero() -> None:
    graph = StaticQuantization().apply(residual_net(), job(X))
    for quantizer in (n for n in graph.graph.node if n.op_type == "QuantizeLinear"):
        zero_point = constant(graph, quantizer.input[2])
        assert zero_point.dtype == np.uint8
        if quantizer.input[0].startswith("r"):
            assert zero_point == 0


def test_per_channel_keeps_small_channels() -> None:
    model = perceptron()
    uneven = constant(model, "w1") * np.logspace(-3, 1, 10).reshape(10, 1).astype(np.float32)
    next(t for t in model.graph.initializer if t.name == "w1").CopyFrom(numpy_helper.from_array(uneven, "w1"))
    next(t for t in model.graph.initializer if t.name == "b1").CopyFrom(numpy_helper.from_array(weights(10) * 0, "b1"))
    x = rows(32, 64)
    expected = run(model, x)[0]

    def error(per_channel: bool) -> float:
        found = run(StaticQuantization(per_channel=per_channel).apply(model, job(x)), x)[0]
        return relative_error(found[:, 0], expected[:, 0])

    assert error(True) < 0.1
    assert error(False) > 0.3


@BOTH
def test_channels_of_zeros_and_tiny_channels_keep_their_bias(placement: Any) -> None:
    weight = weights(4, 3, 3, 3)
    weight[1] = 0
    weight[2] *= 1e-12
    model = make(
        [node("Conv", "x w b", "c"), node("Relu", "c", "r"), node("Conv", "r w2", "y")],
        {"x": ("n", 3, 8, 8)},
        {"y": ("n", 2, 4, 4)},
        {"w": weight, "b": np.array([0.1, 0.7, 0.9, 0.3], np.float32), "w2": weights(2, 4, 3, 3)},
    )
    graph = StaticQuantization(placement=placement).apply(model, job(X))
    assert relative_error(run(graph, X)[0], run(model, X)[0]) < 0.05
    for tensor in graph.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            value = numpy_helper.to_array(tensor)
            assert np.isfinite(value).all()
            assert (value > 0).all(), f"{tensor.name} is a scale"


@BOTH
@pytest.mark.parametrize(
    "layer",
    [
        node("Conv", "x w", "c", group=4),
        node("Conv", "x w", "c", group=2, pads=[1, 1, 1, 1]),
        node("Conv", "x w b", "c", strides=[2, 2], dilations=[2, 2]),
        node("ConvTranspose", "x w b", "c", strides=[2, 2]),
        node("ConvTranspose", "x w", "c", group=2),
    ],
    ids=["depthwise", "grouped", "dilated", "transposed", "grouped transposed"],
)
def test_kinds_of_convolution(placement: Any, layer: onnx.NodeProto) -> None:
    groups = next((a.i for a in layer.attribute if a.name == "group"), 1)
    shape = (4, 4 // groups, 3, 3)
    model = make(
        [layer, node("Relu", "c", "r"), node("GlobalAveragePool", "r", "y")],
        {"x": ("n", 4, 9, 9)},
        {"y": ("n", 4, 1, 1)},
        {"w": weights(*shape), "b": weights(4, seed=3)},
    )
    x = rows(32, 4, 9, 9)
    technique = StaticQuantization(placement=placement)
    graph = technique.apply(model, job(x))
    for batch in (1, 5):
        assert relative_error(run(graph, x[:batch])[0], run(model, x[:batch])[0]) < 0.06
    coverage = technique.coverage(model, graph, job(x))
    transposed_stays = layer.op_type == "ConvTranspose" and placement == "every-edge"
    assert coverage.changed == (0 if transposed_stays else 1)
    assert bool(coverage.layers[0].reason) == transposed_stays


@BOTH
def test_gemm_factors_are_folded(placement: Any) -> None:
    model = perceptron(alpha=0.5, beta=2.0)
    x = rows(64, 64)
    graph = StaticQuantization(placement=placement).apply(model, job(x))
    assert relative_error(run(graph, x)[0], run(model, x)[0]) < 0.03


@BOTH
def test_token_ids_and_three_dimensional_activations(placement: Any) -> None:
    model = attention_block()
    ids = token_ids()
    technique = StaticQuantization(placement=placement)
    graph = technique.apply(model, job(ids))
    for batch in (1, 5):
        assert relative_error(run(graph, ids[:batch])[0], run(model, ids[:batch])[0]) < 0.06
    covered = {layer.layer: layer for layer in technique.coverage(model, graph, job(ids)).layers}
    assert {name for name, layer in covered.items() if layer.changed} == {"MatMul_q", "MatMul_k", "MatMul_o"}
    assert "Gather" in covered["Gather_e"].reason
    # The residual stream stays float: no addition between float tensors reads integers.
    reads = {n.name: list(n.input) for n in graph.graph.node}
    assert "e" in reads["Add_res"]


@BOTH
def test_several_inputs_and_outputs_and_shared_constants(placement: Any) -> None:
    """Two convolutions share a weight; a tensor inside is an output too; one branch ends in Concat."""
    model = make(
        [
            node("Conv", "a w", "ca", pads=[1, 1, 1, 1]),
            node("Relu", "ca", "ra"),
            node("Conv", "b w", "cb", pads=[1, 1, 1, 1]),
            node("Concat", "ra cb", "cat", axis=1),
            node("MaxPool", "cat", "pool", kernel_shape=[2, 2], strides=[2, 2]),
            node("Conv", "pool w2", "y"),
            node("Sigmoid", "ra", "z"),
        ],
        {"a": ("n", 3, 8, 8), "b": ("n", 3, 8, 8)},
        {"y": ("n", 2, 2, 2), "z": ("n", 4, 8, 8), "ra": ("n", 4, 8, 8), "pool": ("n", 8, 4, 4)},
        {"w": weights(4, 3, 3, 3), "w2": weights(2, 8, 3, 3)},
    )
    a, b = X, rows(32, 3, 8, 8, seed=9) * 2
    graph = StaticQuantization(placement=placement).apply(model, job(a, b))
    assert [value.name for value in graph.graph.output] == ["y", "z", "ra", "pool"]
    for found, expected in zip(run(graph, a, b), run(model, a, b), strict=True):
        assert relative_error(found, expected) < 0.06
    assert sum(t.name.startswith("w_quantized") for t in graph.graph.initializer) == 1
    concat = next(n for n in graph.graph.node if n.op_type == "Concat")
    assert all(name.endswith("_quantized") for name in concat.input)


def test_excluded_layers_stay_float_and_say_so() -> None:
    technique = StaticQuantization(exclude=("Conv_c0",))
    graph = technique.apply(residual_net(), job(X))
    first = technique.coverage(residual_net(), graph, job(X)).layers[0]
    assert (first.changed, first.reason) == (False, "excluded by the settings")
    assert next(n for n in graph.graph.node if n.name == "Conv_c0").input[1] == "w0"
    with pytest.raises(TechniqueError, match=r"'nope'.*Conv_c0"):
        StaticQuantization(exclude=("nope",)).apply(residual_net(), job(X))


def test_coverage_counts_parameters_and_macs_of_a_row() -> None:
    technique = StaticQuantization()
    coverage = technique.coverage(residual_net(), technique.apply(residual_net(), job(X)), job(X))
    assert coverage.changed == 4
    assert coverage.share("macs") == coverage.share("parameters") == 1.0
    assert [layer.parameters for layer in coverage.layers] == [216, 1152, 2304, 80]
    assert [layer.macs for layer in coverage.layers] == [216 * 64, 1152 * 16, 2304 * 16, 80]


def test_a_weight_that_can_be_overridden_or_is_half_stays_float() -> None:
    model = perceptron()
    model.graph.input.append(helper.make_tensor_value_info("w0", TensorProto.FLOAT, (64, 96)))
    technique = StaticQuantization()
    layers = technique.coverage(model, technique.apply(model, job(rows(4, 64))), job(rows(4, 64))).layers
    assert [layer.changed for layer in layers] == [False, True]
    assert "overridden" in layers[0].reason


def test_constants_in_nodes_and_nodes_without_names() -> None:
    """As many exporters write them."""
    model = perceptron()
    constants = [helper.make_node("Constant", [], [t.name], value=t) for t in model.graph.initializer]
    nodes = [*constants, *model.graph.node]
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.node.extend(nodes)
    for item in model.graph.node:
        item.name = ""
    x = rows(16, 64)
    technique = StaticQuantization()
    graph = technique.apply(model, job(x))
    assert relative_error(run(graph, x)[0], run(perceptron(), x)[0]) < 0.03
    assert technique.coverage(model, graph, job(x)).changed == 2


def test_bad_graphs_are_refused_by_name() -> None:
    quantized = StaticQuantization().apply(perceptron(), job(rows(4, 64)))
    with pytest.raises(TechniqueError, match=r"QuantizeLinear .* quantized already"):
        StaticQuantization().apply(quantized, job(rows(4, 64)))
    broken = perceptron()
    weight = constant(broken, "w1").copy()
    weight[3, 4] = np.nan
    next(t for t in broken.graph.initializer if t.name == "w1").CopyFrom(numpy_helper.from_array(weight, "w1"))
    with pytest.raises(TechniqueError, match=r"'w1' holds NaN"):
        StaticQuantization().apply(broken, job(rows(4, 64)))
    with pytest.raises(TechniqueError, match="'x' holds NaN"):
        StaticQuantization().apply(perceptron(), job(np.full((4, 64), np.nan, np.float32)))
    with pytest.raises(TechniqueError, match=r"takes 1 inputs .* has 2"):
        StaticQuantization().apply(perceptron(), job(rows(4, 64), rows(4, 64)))


@pytest.mark.parametrize(
    ("settings", "quoted"),
    [
        ({"calibration": "best"}, "'best'"),
        ({"placement": "some"}, "'some'"),
        ({"percentile": 0.5}, r"0\.5"),
        ({"percentile": 100.1}, r"100\.1"),
    ],
)
def test_bad_settings_are_quoted(settings: dict[str, Any], quoted: str) -> None:
    with pytest.raises(TechniqueError, match=quoted):
        StaticQuantization(**settings)


def test_variants_exist_only_where_a_layer_can_be_integer() -> None:
    found = list(StaticQuantization.variants(residual_net(), job(X)))
    assert {(v.calibration, v.placement) for v in found} >= {("mse", "every-edge"), ("mse", "inputs-only")}
    assert len(found) == len(set(found))
    # Without convolutions and additions both placements are the same.
    flat = list(StaticQuantization.variants(perceptron(), job(rows(4, 64))))
    assert [(v.calibration, v.placement) for v in flat] == [
        (c, "every-edge") for c in ("mse", "min-max", "entropy", "percentile")
    ]
    bare = make([node("Relu", "x", "y")], {"x": ("n", 4)}, {"y": ("n", 4)}, {})
    with pytest.raises(TechniqueError, match=r"^no layer can be int8 \(the network has no such layers\)\.$"):
        next(StaticQuantization.variants(bare, job(rows(4, 4))))


@pytest.mark.parametrize("technique", [StaticQuantization, DynamicQuantization, MixedPrecision, SmoothQuant])
def test_that_a_graph_is_quantized_already_is_the_reason_for_no_variants(technique: type[GraphTechnique]) -> None:
    quantized = StaticQuantization(exclude=("Conv_c0",)).apply(residual_net(), job(X))
    with pytest.raises(TechniqueError, match=rf"^{technique.__name__} needs a float graph.* is quantized already"):
        next(technique.variants(quantized, job(X)))
