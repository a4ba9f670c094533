"""Static quantization to other formats than int8: what a graph then holds, and that it answers as NumPy has it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import numpy as np
import onnx
import onnxruntime
import pytest

from paring.backends.openvino import OpenVINO
from paring.errors import TechniqueError
from paring.graph.learned import Learned
from paring.graph.onnx_graph import Graph
from paring.ops.formats import FORMATS, format_of
from paring.ops.ranges import Calibration
from paring.ops.rounding import Rounding
from paring.ops.scales import ScaleChoice, Scaling, fitted
from paring.techniques.bit_allocation import BitAllocation
from paring.techniques.dynamic_quantization import DynamicQuantization
from paring.techniques.static_quantization import StaticQuantization
from paring.techniques.weighing import Weighing
from tests.quantization_nets import Array, constant, job, make, node, operators, residual_net, rows, run, weights
from tests.quantization_nets import relative_error as moved

INTEGRAL = sorted(name for name, form in FORMATS.items() if form.is_integral and name != "uint1")
X = rows(32, 3, 8, 8)


def stored_weights(graph: onnx.ModelProto) -> list[Array]:
    """The integers that layers read."""
    editable = Graph(graph)
    layers = [n for n in editable.nodes if n.op_type in ("Conv", "Gemm", "MatMul")]
    readers = [editable.producers[n.input[1]] for n in layers if n.input[1] in editable.producers]
    return [value for n in readers if (value := editable.constant(n.input[0])) is not None]


@pytest.mark.parametrize("name", INTEGRAL)
def test_weights_are_the_levels_of_their_format_in_either_runtime(name: str) -> None:
    """Against the float graph with weights that NumPy rounded, both with the same activations."""
    model = residual_net()
    graph = StaticQuantization("mse", weights=name, scales="mse").apply(model, job(X))
    form = format_of(name)
    stored = stored_weights(graph)
    assert stored
    for integers in stored:
        assert integers.dtype == (np.int8 if form.levels[0] < 0 else np.uint8)
        assert set(np.unique(integers).tolist()) <= set(form.levels)
    rounded = onnx.ModelProto()
    rounded.CopyFrom(model)
    for tensor in rounded.graph.initializer:
        weight = onnx.numpy_helper.to_array(tensor)
        if weight.ndim > 1:
            rows_of = weight.reshape(len(weight), -1)
            values = fitted(rows_of, form, Scaling("mse")).quantized(rows_of).reshape(weight.shape)
            tensor.raw_data = values.tobytes()
    expected = run(rounded, X[:8])[0]
    assert moved(run(graph, X[:8])[0], expected) < 0.1
    assert moved(run(graph, X[:8], optimized=False)[0], expected) < 0.1
    if form.levels[0] < 0:  # OpenVINO has no kernel for weights with a zero point that differs between channels.
        assert moved(in_openvino(graph, X[:8]), expected) < 0.1


def in_openvino(graph: onnx.ModelProto, x: Array) -> Array:
    import openvino

    compiled = openvino.Core().compile_model(openvino.Core().read_model(graph.SerializeToString()), "CPU")
    assert OpenVINO().name
    return np.asarray(compiled(x)[0])


@pytest.mark.parametrize("name", [*(f"uint{bits}" for bits in range(2, 8)), "int4", "int6", "int8", "ternary"])
@pytest.mark.parametrize("placement", ["every-edge", "inputs-only"])
def test_activations_take_no_more_levels_than_they_have_bits(name: str, placement: Any) -> None:
    """What every DequantizeLinear of an activation reads is looked at, on rows beyond those calibrated on."""
    technique = StaticQuantization("mse", activations=name, placement=placement)
    graph = technique.apply(residual_net(), job(X))
    editable = Graph(graph)
    watched = [
        n.input[0] for n in editable.nodes if n.op_type == "DequantizeLinear" and n.input[0] in editable.producers
    ]
    assert watched
    for tensor in watched:
        kind = onnx.TensorProto.UINT8 if name.startswith("u") else onnx.TensorProto.INT8
        graph.graph.output.append(onnx.helper.make_tensor_value_info(tensor, kind, None))
    form = format_of(name)
    for integers in run(graph, 3 * rows(16, 3, 8, 8, seed=9), optimized=False)[1:]:
        assert integers.min() >= form.levels[0]
        assert integers.max() <= form.levels[-1]
    errors = [
        moved(run(replace(technique, activations=each).apply(residual_net(), job(X)), X)[0], run(residual_net(), X)[0])
        for each in ("uint8", name)
    ]
    assert errors[1] < 1.5
    assert errors[1] >= errors[0] * 0.8


@pytest.mark.parametrize("name", ["uint16", "int16"])
def test_activations_of_16_bits_hardly_lose_anything_and_are_told_to_be_dequantized(name: str) -> None:
    technique = StaticQuantization(activations=name)
    graph = technique.apply(residual_net(), job(X))
    weights_alone = technique.apply(residual_net(), job(X))
    assert moved(run(graph, X)[0], run(residual_net(), X)[0]) < 0.02
    assert moved(in_openvino(graph, X), run(residual_net(), X)[0]) < 0.02
    layers = technique.coverage(residual_net(), weights_alone, job(X)).layers
    assert all("dequantized" in layer.reason for layer in layers if layer.changed)


def test_narrow_activations_run_between_integer_convolutions() -> None:
    graph = StaticQuantization("mse", weights="int4", activations="uint4").apply(residual_net(), job(X))
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = ""
    assert operators(graph)["Clip"] >= 3
    assert moved(run(graph, X)[0], run(graph, X, optimized=False)[0]) < 0.2


@pytest.mark.parametrize("choice", get_args(ScaleChoice))
def test_every_way_to_choose_scales_gives_a_network_that_answers(choice: Any) -> None:
    if choice == "hqq":
        technique = StaticQuantization("mse", weights="uint4", scales=choice)
    else:
        technique = StaticQuantization("mse", weights="int6", scales=choice)
    assert moved(run(technique.apply(residual_net(), job(X)), X)[0], run(residual_net(), X)[0]) < 0.35


def test_scales_that_are_powers_of_two() -> None:
    graph = StaticQuantization("mse", weights="int6", power_of_two=True).apply(residual_net(), job(X))
    editable = Graph(graph)
    scales = [
        editable.constant(n.input[1])
        for n in editable.nodes
        if n.op_type in ("QuantizeLinear", "DequantizeLinear")
        and (editable.constant(n.input[0]) is None or np.asarray(editable.constant(n.input[0])).ndim > 1)
    ]
    assert len(scales) > 6
    for scale in scales:
        mantissas, _ = np.frexp(np.asarray(scale))
        assert (mantissas == 0.5).all()
    assert moved(run(graph, X)[0], run(residual_net(), X)[0]) < 0.3


@pytest.mark.parametrize("rounding", [each for each in get_args(Rounding) if each != "nearest"])
def test_rounding_by_what_layers_read_loses_less(rounding: Any) -> None:
    model = residual_net()
    nearest = StaticQuantization("mse", weights="int3", scales="mse")
    errors = [
        moved(run(each.apply(model, job(X)), X)[0], run(model, X)[0])
        for each in (nearest, replace(nearest, rounding=rounding))
    ]
    assert errors[1] < errors[0]


@pytest.mark.parametrize("op", ["Gemm", "MatMul", "Conv"])
def test_bias_correction_takes_the_shift_of_the_mean_away(op: str) -> None:
    """Inputs far from 0 make the mean of an output shift with its weights."""
    x = (rows(256, 6, 4, 4) + 3 if op == "Conv" else rows(256, 12) + 3).astype(np.float32)
    weight = weights(8, 6, 3, 3) if op == "Conv" else weights(12, 8)
    shape = (None, 8, 2, 2) if op == "Conv" else (None, 8)
    model = make([node(op, "x w", "y")], {"x": (None, *x.shape[1:])}, {"y": shape}, {"w": weight})
    plain = StaticQuantization("min-max", weights="int3")

    def shift(technique: StaticQuantization) -> float:
        difference = run(technique.apply(model, job(x)), x)[0] - run(model, x)[0]
        axes = (0, *range(2, difference.ndim))
        return float(np.abs(difference.mean(axis=axes)).max())

    assert shift(replace(plain, bias_correction=True)) < 0.2 * shift(plain)


def test_some_layers_have_a_format_of_their_own() -> None:
    names = [n.name for n in Graph(residual_net()).nodes if n.op_type == "Conv"]
    graph = StaticQuantization(weights="int2", formats=((names[0], "int8"),)).apply(residual_net(), job(X))
    stored = [len(np.unique(each)) for each in stored_weights(graph)]
    assert max(stored) > 16
    assert sorted(stored)[-2] <= 4
    with pytest.raises(TechniqueError, match="formats names 'nowhere', which is no layer with weights: there are"):
        StaticQuantization(formats=(("nowhere", "int4"),)).apply(residual_net(), job(X))


@pytest.mark.parametrize("name", ["int2", "int4", "int5", "ternary", "binary", "apot4"])
def test_dynamic_quantization_has_the_levels_too(name: str) -> None:
    x = rows(32, 64)
    model = make([node("MatMul", "x w", "y")], {"x": (None, 64)}, {"y": (None, 80)}, {"w": weights(64, 80)})
    graph = DynamicQuantization(weights=name, scales="mse").apply(model, job(x))
    integers = next(each for each in map(onnx.numpy_helper.to_array, graph.graph.initializer) if each.ndim == 2)
    assert set(np.unique(integers).tolist()) <= set(format_of(name).levels)
    weight = constant(model, "w")
    expected = x @ fitted(weight.T, format_of(name), Scaling("mse")).quantized(weight.T).T
    assert moved(run(graph, x)[0], expected) < 0.02


@pytest.mark.parametrize(
    ("technique", "settings", "sentence"),
    [
        (StaticQuantization, {"weights": "int9"}, r"^weights='int9' is unknown: choose int8, \w+, \w+\.$"),
        (StaticQuantization, {"weights": "nf4"}, "weights='nf4' does not fit 8-bit integers: use WeightQuantization"),
        (
            StaticQuantization,
            {"weights": "int16"},
            "weights='int16' does not fit 8-bit integers: use Weight",
        ),
        (
            StaticQuantization,
            {"weights": "mxfp4"},
            "weights='mxfp4' does not fit 8-bit integers: use Weight",
        ),
        (
            StaticQuantization,
            {"formats": (("a", "int4"), ("a", "int8"))},
            "formats names 'a' twice, with int4 and int8",
        ),
        (StaticQuantization, {"formats": (("a", "e4m3"),)}, "formats='e4m3' does not fit 8-bit integers"),
        (StaticQuantization, {"activations": "nf4"}, "activations='nf4' can't be calibrated: choose uint1 to uint8"),
        (StaticQuantization, {"activations": "uint32"}, "format 'uint32' is unknown: choose"),
        (StaticQuantization, {"scales": "best"}, "scales='best' is unknown: choose one of"),
        (StaticQuantization, {"rounding": "up"}, "rounding='up' is unknown: choose one of"),
        (DynamicQuantization, {"weights": "uint4"}, "weights='uint4' has no levels below 0: choose int2 to int8"),
        (
            DynamicQuantization,
            {"weights": "e2m1"},
            "weights='e2m1' does not fit 8-bit integers: use Weight",
        ),
        (DynamicQuantization, {"percentile": 50.0}, "percentile=50.0 must be above 50 and at most 100"),
    ],
)
def test_what_can_not_be_is_refused_in_one_sentence(technique: Any, settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(TechniqueError, match=sentence):
        technique(**settings)


def wild(count: int, factor: float, pixels: int | None = None) -> Array:
    """Images, of which `count` are so much brighter, or just `pixels` of each."""
    images = rows(64, 3, 8, 8).copy()
    images[5 : 5 + count].reshape(count, -1)[:, :pixels] *= factor
    return images


@pytest.mark.parametrize("calibration", ["min-max", "mse", "entropy", "percentile"])
@pytest.mark.parametrize(
    ("images", "told"),
    [
        (wild(1, 1e30, 1), "on 1 of 64"),
        (wild(1, 1e6), "on 1 of 64"),
        (wild(1, 1e6, 3), "on 1 of 64"),
        (wild(3, 1e4), "on 3 of 64"),
        (wild(32, 1e6), "on 32 of 64"),
    ],
)
def test_rows_that_leave_no_level_to_the_others_are_told(calibration: Any, images: Array, told: str) -> None:
    with pytest.raises(TechniqueError, match=rf"^input 'x' reaches .* {told} calibration rows \(the first is row 5\)"):
        StaticQuantization(calibration).apply(residual_net(), job(images))


def test_a_row_that_was_not_normalised_is_told_unless_its_range_is_cut_off_or_has_levels_enough() -> None:
    images, x = wild(1, 255), rows(64, 3, 8, 8)
    for technique in (StaticQuantization(), StaticQuantization("mse"), BitAllocation()):
        with pytest.raises(TechniqueError, match=r"and 3\.93 on the others.*remove rows that are wrong, or exclude"):
            technique.apply(residual_net(), job(images))
    for technique in (StaticQuantization("aciq"), StaticQuantization(activations="uint16")):
        graph = technique.apply(residual_net(), job(images))
        assert moved(run(graph, x)[0], run(residual_net(), x)[0]) < 0.4


def test_what_explodes_inside_of_a_network_is_told_by_its_tensor() -> None:
    x = rows(32, 8)
    x[7] = 15
    model = make(
        [node("Exp", "x", "e"), node("MatMul", "e w", "y")], {"x": (None, 8)}, {"y": (None, 4)}, {"w": weights(8, 4)}
    )
    with pytest.raises(TechniqueError, match=r"^tensor 'e' reaches 3\.27e\+06 on 1 of 32 .* row 7\), and"):
        StaticQuantization().apply(model, job(x))


def test_outliers_that_all_rows_have_and_rows_of_many_sizes_are_no_error() -> None:
    """A channel a thousand times beyond the others, a mask, sizes without a gap, images most of which are black."""
    channel, masked, spread = rows(64, 3, 8, 8).copy(), rows(64, 3, 8, 8).copy(), rows(64, 3, 8, 8).copy()
    channel[:, 1] *= 1000
    masked[:, 0, 0] = -1e9
    spread *= np.geomspace(1e-3, 1e4, 64, dtype=np.float32).reshape(-1, 1, 1, 1)
    dark = np.zeros_like(spread)
    dark[:20] = rows(20, 3, 8, 8)
    for images in (channel, masked, spread, dark):
        for calibration in get_args(Calibration):
            graph = StaticQuantization(calibration).apply(residual_net(), job(images))
            assert np.isfinite(run(graph, images)[0]).all()


@pytest.mark.parametrize("calibration", get_args(Calibration))
@pytest.mark.parametrize("bias", [-9.0, -3.9])
def test_an_activation_that_is_never_or_hardly_ever_open_is_no_range_that_explodes(
    calibration: Any, bias: float
) -> None:
    x = rows(3000, 8)
    constants = {"w": np.eye(8, dtype=np.float32), "b": np.full(8, bias, np.float32), "v": weights(4, 8)}
    nodes = [node("Gemm", "x w b", "a", transB=1), node("Relu", "a", "r"), node("Gemm", "r v", "y", transB=1)]
    model = make(nodes, {"x": (None, 8)}, {"y": (None, 4)}, constants)
    open_share = float((x + bias > 0).mean())
    assert open_share < 1e-4
    assert (open_share > 0) == (bias > -9)
    graph = StaticQuantization(calibration).apply(model, job(x))
    closed = (x + bias < 0).all(axis=1)
    np.testing.assert_array_equal(run(graph, x)[0][closed], 0)


def test_constant_and_zero_channels_keep_their_values() -> None:
    weight = np.zeros((4, 8), np.float32)
    weight[1], weight[2] = 0.5, -2.0
    x = rows(16, 8)
    model = make(
        [node("Gemm", "x w b", "y", transB=1)], {"x": (None, 8)}, {"y": (None, 4)}, {"w": weight, "b": rows(4)}
    )
    for name in ("int2", "int4", "uint4", "ternary"):
        graph = StaticQuantization(weights=name, scales="mse").apply(model, job(x))
        assert moved(run(graph, x)[0], run(model, x)[0]) < 0.05


@pytest.mark.parametrize("rounding", [each for each in get_args(Rounding) if each != "nearest"])
@pytest.mark.parametrize("name", ["constant", "far from 0"])
def test_biases_are_corrected_where_inputs_hardly_vary(rounding: Any, name: str) -> None:
    x = np.full((64, 12), 0.3, np.float32) if name == "constant" else (rows(64, 12) * 0.1 + 100).astype(np.float32)
    model = make([node("MatMul", "x w", "y")], {"x": (None, 12)}, {"y": (None, 8)}, {"w": weights(12, 8)})
    technique = StaticQuantization("mse", weights="int4", scales="mse", rounding=rounding, bias_correction=True)
    difference = run(technique.apply(model, job(x)), x)[0] - run(model, x)[0]
    assert np.abs(difference.mean(axis=0)).max() < 0.01 * np.abs(run(model, x)[0]).mean()


def weak_channel(strength: float) -> onnx.ModelProto:
    """Its first output has a weight so weak beside the bias that int32 would not hold this in units of its scale."""
    weight = weights(6, 12).copy()
    weight[0] *= strength
    bias = np.full(6, 0.3, np.float32)
    return make([node("Gemm", "x w b", "y", transB=1)], {"x": (None, 12)}, {"y": (None, 6)}, {"w": weight, "b": bias})


@pytest.mark.parametrize("rounding", [each for each in get_args(Rounding) if each != "nearest"])
def test_a_weak_channel_leaves_the_rounding_of_the_others_as_it_is(rounding: Any) -> None:
    x = (rows(256, 12) @ weights(12, 12)).astype(np.float32)
    technique = StaticQuantization("mse", weights="int2", scales="mse", rounding=rounding)
    weak, strong, nearest = (
        stored_weights(each.apply(weak_channel(strength), job(x)))[0]
        for each, strength in ((technique, 1e-10), (technique, 1.0), (replace(technique, rounding="nearest"), 1.0))
    )
    np.testing.assert_array_equal(weak[1:], strong[1:])
    assert (strong[1:] != nearest[1:]).any()


def test_a_bias_is_corrected_for_the_weights_that_are_stored() -> None:
    """Scales of the weak channel are raised so far that its weights become 0: the bias takes over what they added."""
    layer = Graph(weak_channel(1e-9))
    weighing = Weighing("int4", rounding="learned", bias_correction=True)
    name, rows_of = layer.nodes[0].name, np.asarray(layer.constant("w"))
    x = (rows(256, 12) + 100).astype(np.float32)
    weigh = weighing.prepared(layer, [name], job(x), Learned())
    corrected = np.asarray(layer.constant(layer.nodes[0].input[2]))
    grid, codes, shift = weigh(name, rows_of, True, np.array([1.0, 0, 0, 0, 0, 0]))
    assert not grid.values(codes)[0].any()
    outputs = x.astype(np.float64) @ grid.values(codes).T.astype(np.float64) + corrected + shift
    expected = x.astype(np.float64) @ rows_of.T + np.float32(0.3)
    np.testing.assert_allclose(outputs.mean(axis=0), expected.mean(axis=0), rtol=1e-6)
    assert shift[0]
    assert not shift[1:].any()


def test_scales_that_are_raised_are_powers_of_two_all_the_same() -> None:
    graph = StaticQuantization(power_of_two=True).apply(weak_channel(1e-10), job(rows(64, 12)))
    for tensor in graph.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            assert (np.frexp(onnx.numpy_helper.to_array(tensor))[0] == 0.5).all(), tensor.name


@pytest.mark.parametrize("settings", [{"power_of_two": True}, {"per_channel": False}, {"percentile": 60.0}])
def test_weights_of_dynamic_quantization_have_the_scales_that_are_asked_for(settings: dict[str, Any]) -> None:
    x, weight = rows(32, 64), weights(64, 80)
    model = make([node("MatMul", "x w", "y")], {"x": (None, 64)}, {"y": (None, 80)}, {"w": weight})
    graph = DynamicQuantization(weights="int4", scales="percentile", **settings).apply(model, job(x))
    chosen = {key: value for key, value in settings.items() if key != "per_channel"}
    scaling, by_row = Scaling("percentile", **chosen), settings.get("per_channel", True)
    expected = x @ fitted(weight.T, format_of("int4"), scaling, by_row=by_row).quantized(weight.T).T
    assert moved(run(graph, x)[0], expected) < 0.02
