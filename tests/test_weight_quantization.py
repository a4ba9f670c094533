"""Weights alone in few bits: what runs is what NumPy makes of the weights, in both runtimes, in every format."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import openvino
import pytest
from onnx import numpy_helper

from paring.errors import TechniqueError
from paring.graph.narrow_weights import integers_of, kernel_bits, kernel_block
from paring.ops.formats import format_of
from paring.ops.scales import Scaling, fitted
from paring.ops.weight_formats import WEIGHT_FORMATS
from paring.techniques.half_precision import HalfPrecision
from paring.techniques.static_quantization import StaticQuantization
from paring.techniques.weight_quantization import WeightQuantization
from tests.quantization_nets import (
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
    token_ids,
    weights,
)

Array = npt.NDArray[Any]

EXACT = 1e-5
INT8_INPUTS = 0.02
"""Kernels for narrow weights may round what they read to int8, block by block: OpenVINO's do so by themselves."""


def convolutions() -> onnx.ModelProto:
    """Conv, one in groups, ConvTranspose, another in groups; each output has 32 or 64 weights."""
    return make(
        [
            node("Conv", "x w0 b0", "c0"),
            node("Relu", "c0", "r0"),
            node("Conv", "r0 w1", "c1", group=2),
            node("Relu", "c1", "r1"),
            node("ConvTranspose", "r1 w2", "c2", strides=[2, 2]),
            node("ConvTranspose", "c2 w3 b3", "y", group=2),
        ],
        {"x": ("n", 32, 6, 6)},
        {"y": ("n", 6, 11, 11)},
        {
            "w0": weights(16, 32, 1, 1),
            "b0": weights(16, seed=1),
            "w1": weights(8, 8, 2, 2, seed=2),
            "w2": weights(8, 8, 2, 2, seed=3),
            "w3": weights(8, 3, 2, 2, seed=4),
            "b3": weights(6, seed=5),
        },
    )


NETWORKS = {
    "convolutions": (convolutions, rows(3, 32, 6, 6), ("w0", "w1", "w2", "w3"), ("w2", "w3")),
    "linear": (lambda: perceptron(alpha=-0.5, beta=2.0), rows(3, 64), ("w0", "w1"), ("w0",)),
    "tables and 3-D inputs": (attention_block, token_ids(3), ("table", "wq", "wk", "wo"), ("wq", "wk", "wo")),
}


def in_openvino(model: onnx.ModelProto, x: Array, folder: Path) -> Array:
    onnx.save(model, folder / "network.onnx")
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.Core().compile_model(folder / "network.onnx", "CPU", settings)
    return np.asarray(compiled([x])[0])


def slowly_rounded(weight: Array, name: str, group: int | None) -> Array:
    """A matrix (outputs, columns) whose every entry is the nearest of all numbers that the format has for it."""
    form = WEIGHT_FORMATS[name]
    blocks = weight.shape[1] // (form.block or group or weight.shape[1])
    grid = form.grid(weight, Scaling(), blocks)
    parts = weight.reshape(len(weight), blocks, -1)
    found = np.empty_like(parts)
    for row, block in np.ndindex(len(weight), blocks):
        own = min(row, len(grid.scale) - 1), block
        zero = 0 if grid.zero_point is None else int(grid.zero_point[own])
        numbers = (np.array(grid.format.levels) - zero) * float(grid.scale[own])
        above = np.searchsorted(numbers, parts[row, block]).clip(1, len(numbers) - 1)
        sides = np.stack([numbers[above - 1], numbers[above]])
        found[row, block] = np.take_along_axis(sides, np.abs(sides - parts[row, block]).argmin(0)[None], 0)[0]
    return found.reshape(weight.shape)


def by_hand(
    model: onnx.ModelProto, names: tuple[str, ...], flipped: tuple[str, ...], form: str, group: int | None = None
) -> onnx.ModelProto:
    """The float network with rounded weights."""
    after = onnx.ModelProto()
    after.CopyFrom(model)
    for tensor in after.graph.initializer:
        if tensor.name in names:
            weight = numpy_helper.to_array(tensor)
            first = weight.swapaxes(0, 1) if tensor.name in flipped else weight
            rounded = slowly_rounded(first.reshape(len(first), -1), form, group).reshape(first.shape)
            rounded = rounded.swapaxes(0, 1) if tensor.name in flipped else rounded
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(rounded), tensor.name))
    return after


def largest_error(found: Array, expected: Array) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("form", WEIGHT_FORMATS)
def test_every_format_dequantized_equals_numpy(form: str, network: str, tmp_path: Path) -> None:
    net, x, names, flipped = NETWORKS[network]
    technique = WeightQuantization(form, kernel="dequantize", least_parameters=0)
    graph = technique.apply(net(), job(x))
    onnx.checker.check_model(graph, full_check=True)
    assert all(layer.changed and layer.reason for layer in technique.coverage(net(), graph, job(x)).layers)
    expected = run(by_hand(net(), names, flipped, form), x, optimized=False)[0]
    assert largest_error(run(graph, x, optimized=False)[0], expected) < EXACT
    assert largest_error(run(graph, x)[0], expected) < EXACT
    packed = network != "convolutions" and integers_of(WEIGHT_FORMATS[form].form) in (np.int8, np.uint8)
    assert relative_error(in_openvino(graph, x, tmp_path), expected) < (INT8_INPUTS if packed else EXACT)


MULTIPLIED = [name for name, each in WEIGHT_FORMATS.items() if kernel_bits(each.form) is not None]


@pytest.mark.parametrize(("network", "group"), [("linear", None), ("linear", 16), ("tables and 3-D inputs", 32)])
@pytest.mark.parametrize("form", MULTIPLIED)
def test_integers_multiplied_as_stored_equal_numpy(form: str, group: int | None, network: str, tmp_path: Path) -> None:
    if group == 16 and WEIGHT_FORMATS[form].block:
        return
    net, x, names, flipped = NETWORKS[network]
    technique = WeightQuantization(form, group, kernel="matmul-nbits", accuracy_level=0, least_parameters=0)
    graph = technique.apply(net(), job(x))
    found = operators(graph)
    assert (found["MatMulNBits"], found["Gemm"], found["MatMul"]) == (3 if "table" in network else 2, 0, 0)
    told = [layer.reason for layer in technique.coverage(net(), graph, job(x)).layers]
    assert all(f"in {kernel_bits(WEIGHT_FORMATS[form].form)} bits" in reason for reason in told[-2:])
    expected = run(by_hand(net(), names, flipped, form, group), x, optimized=False)[0]
    assert largest_error(run(graph, x)[0], expected) < EXACT
    assert relative_error(in_openvino(graph, x, tmp_path), expected) < INT8_INPUTS
    quick = WeightQuantization(form, group, least_parameters=0).apply(net(), job(x))
    assert relative_error(run(quick, x)[0], expected) < INT8_INPUTS


@pytest.mark.parametrize("form", ["int4", "uint3", "nf4", "kmeans3"])
@pytest.mark.parametrize(("network", "group"), [*zip(NETWORKS, (2, 4, 8), strict=True)])
def test_groups_of_any_size_equal_numpy(form: str, network: str, group: int, tmp_path: Path) -> None:
    net, x, names, flipped = NETWORKS[network]
    graph = WeightQuantization(form, group, least_parameters=0).apply(net(), job(x))
    assert operators(graph)["MatMulNBits"] == 0
    expected = run(by_hand(net(), names, flipped, form, group), x, optimized=False)[0]
    assert largest_error(run(graph, x)[0], expected) < EXACT
    packed = network != "convolutions" and integers_of(WEIGHT_FORMATS[form].form) is not None
    assert relative_error(in_openvino(graph, x, tmp_path), expected) < (INT8_INPUTS if packed else EXACT)


@pytest.mark.parametrize("kernel", ["matmul-nbits", "dequantize"])
@pytest.mark.parametrize("form", ["int4", "uint4"])
def test_one_scale_for_a_whole_weight_equals_numpy(form: str, kernel: Any, tmp_path: Path) -> None:
    weight, x = weights(32, 64), rows(16, 64)
    model = make([node("Gemm", "x w", "y", transB=1)], {"x": (None, 64)}, {"y": (None, 32)}, {"w": weight})
    technique = WeightQuantization(form, kernel=kernel, per_channel=False, accuracy_level=0, least_parameters=0)
    expected = x @ fitted(weight, format_of(form), Scaling(), by_row=False).quantized(weight).T
    assert largest_error(run(technique.apply(model, job(x)), x)[0], expected) < EXACT


def test_onnx_runtime_folds_at_load_what_is_dequantized(tmp_path: Path) -> None:
    import onnxruntime

    for net, x in ((convolutions, rows(1, 32, 6, 6)), (perceptron, rows(1, 64))):
        for form, group in (("int8", None), ("uint4", 16), ("nf4", 16), ("kmeans4", None)):
            graph = WeightQuantization(form, group, kernel="dequantize", least_parameters=0).apply(net(), job(x))
            options = onnxruntime.SessionOptions()
            options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
            options.log_severity_level = 3
            onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
            assert not {"Cast", "Mul", "Sub", "Gather"} & set(operators(onnx.load(tmp_path / "optimized.onnx")))


@pytest.mark.parametrize(
    ("form", "group", "bits"),
    [("int8", None, 8), ("int4", 32, 5), ("uint4", 32, 5.2), ("nf4", 64, 8), ("kmeans4", None, 8), ("int16", None, 16)],
)
def test_bytes_of_a_weight(form: str, group: int | None, bits: float) -> None:
    net = make([node("MatMul", "x w", "y")], {"x": ("n", 512)}, {"y": ("n", 256)}, {"w": weights(512, 256)})
    graph = WeightQuantization(form, group).apply(net, job(rows(1, 512)))
    stored = sum(len(tensor.raw_data) for tensor in graph.graph.initializer)
    assert stored == pytest.approx(512 * 256 * bits / 8, rel=0.1)


def test_a_stored_code_is_one_of_few_values_so_that_artifacts_can_pack_it() -> None:
    for form, most in (("int4", 16), ("int3", 8), ("ternary", 3), ("nf4", 16), ("kmeans2", 4), ("mxfp4", 15)):
        graph = WeightQuantization(form, kernel="dequantize").apply(perceptron(), job(rows(1, 64)))
        (codes,) = (t for t in graph.graph.initializer if t.name == "w0_quantized")
        assert len(np.unique(numpy_helper.to_array(codes))) <= most


def tied() -> onnx.ModelProto:
    """A table that is looked up, and multiplied as the last layer's weight."""
    return make(
        [
            node("Gather", "table ids", "e"),
            node("ReduceMean", "e", "m", axes=[1], keepdims=0),
            node("Gemm", "m table", "g", transB=1),
            node("Transpose", "table", "t", perm=[1, 0]),
            node("MatMul", "m t", "h"),
            node("Add", "g h", "y"),
        ],
        {"ids": ("n", 6)},
        {"y": ("n", 50)},
        {"table": weights(50, 64)},
        input_type=onnx.TensorProto.INT64,
    )


@pytest.mark.parametrize("group", [None, 32])
def test_a_weight_that_several_layers_read_is_stored_once(group: int | None, tmp_path: Path) -> None:
    technique = WeightQuantization("int4", group)
    ids = token_ids(3)
    graph = technique.apply(tied(), job(ids))
    assert sum(len(tensor.raw_data) for tensor in graph.graph.initializer) < 1.3 * 50 * 64
    expected = run(by_hand(tied(), ("table",), (), "int4", group), ids)[0]
    assert largest_error(run(graph, ids)[0], expected) < EXACT
    assert relative_error(in_openvino(graph, ids, tmp_path), expected) < INT8_INPUTS
    told = [layer.reason for layer in technique.coverage(tied(), graph, job(ids)).layers]
    assert "row by row" in told[0]
    assert "no time" in told[1]


def test_two_layers_with_one_weight_share_its_packed_form() -> None:
    net = make(
        [node("MatMul", "x w", "a"), node("Gemm", "x w", "b", alpha=3.0), node("Add", "a b", "y")],
        {"x": ("n", 64)},
        {"y": ("n", 32)},
        {"w": weights(64, 32)},
    )
    x = rows(3, 64)
    graph = WeightQuantization("int4", 32, accuracy_level=0).apply(net, job(x))
    assert operators(graph)["MatMulNBits"] == 2
    assert sum(t.name.endswith("_packed") for t in graph.graph.initializer) == 1
    expected = run(by_hand(net, ("w",), ("w",), "int4", 32), x)[0]
    assert largest_error(run(graph, x)[0], expected) < EXACT


def test_a_weight_stays_float_with_a_layer_that_is_excluded() -> None:
    technique = WeightQuantization(exclude=("Gather_e",))
    with pytest.raises(TechniqueError, match="'Gemm_g': its weight is that of 'Gather_e' too, which stays float"):
        technique.apply(tied(), job(token_ids(3)))


def test_embeddings_can_be_left_or_taken_alone() -> None:
    ids = token_ids(3)
    for embeddings, changed in ((True, [1, 1, 1, 1]), (False, [0, 1, 1, 1]), ("only", [1, 0, 0, 0])):
        technique = WeightQuantization(embeddings=embeddings, least_parameters=0)  # type: ignore[arg-type]
        layers = technique.coverage(attention_block(), technique.apply(attention_block(), job(ids)), job(ids)).layers
        assert [layer.changed for layer in layers] == changed
        told = [layer.reason for layer in layers if not layer.changed]
        assert all(reason == f"embeddings={embeddings!r} leaves it float" for reason in told)


def test_tables_beside_layers_that_are_integers_already(tmp_path: Path) -> None:
    ids = token_ids()
    integer = StaticQuantization().apply(attention_block(), job(ids))
    with pytest.raises(TechniqueError, match="WeightQuantization needs a float graph"):
        WeightQuantization().apply(integer, job(ids))
    graph = WeightQuantization("int8", embeddings="only").apply(integer, job(ids))
    assert graph.ByteSize() < integer.ByteSize() - 2 * 50 * 32
    for found in (run(graph, ids)[0], in_openvino(graph, ids, tmp_path)):
        assert relative_error(found, run(attention_block(), ids)[0]) < 0.08
    before = WeightQuantization("int8", embeddings="only").apply(attention_block(), job(ids))
    after = StaticQuantization().apply(before, job(ids))
    assert relative_error(run(after, ids)[0], run(attention_block(), ids)[0]) < 0.08


def test_layers_in_different_formats_one_after_the_other() -> None:
    x = rows(3, 64)
    first = WeightQuantization("int8", exclude=("Gemm_y",), least_parameters=0).apply(perceptron(), job(x))
    second = WeightQuantization("nf4", least_parameters=0)
    graph = second.apply(first, job(x))
    assert operators(graph)["MatMulNBits"] == 1
    (layer,) = second.coverage(first, graph, job(x)).layers
    assert layer.layer == "Gemm_y"
    for technique in (second, StaticQuantization()):
        with pytest.raises(TechniqueError, match=r"float graph, but MatMulNBits .* quantized already"):
            technique.apply(graph, job(x))
    ids = token_ids(3)
    groups = WeightQuantization("int4", 16, least_parameters=0).apply(attention_block(), job(ids))
    with pytest.raises(TechniqueError, match="what it looks up are single numbers"):
        second.apply(groups, job(ids))


@pytest.mark.parametrize("form", ["int4", "nf4"])
def test_16_bit_scales_behind_it(form: str, tmp_path: Path) -> None:
    x = rows(3, 64)
    graph = WeightQuantization(form, 16, least_parameters=0).apply(perceptron(), job(x))
    half = HalfPrecision("fp16", storage_only=True).apply(graph, job(x))
    assert relative_error(run(half, x)[0], run(graph, x)[0]) < 0.01
    assert relative_error(in_openvino(half, x, tmp_path), run(graph, x)[0]) < 0.01


def test_layers_that_stay_float_say_why() -> None:
    x = rows(4, 3, 8, 8)
    technique = WeightQuantization("mxfp4", exclude=("Conv_c2",))
    net = residual_net()
    plan = {layer.layer: layer.reason for layer in technique.coverage(net, net, job(x)).layers}
    assert plan == {
        "Conv_c0": "its 216 parameters are fewer than least_parameters=1024",
        "Conv_c1": "groups of 32 do not divide the 72 weights of each of its outputs",
        "Conv_c2": "excluded by the settings",
        "Gemm_y": "its 80 parameters are fewer than least_parameters=1024",
    }
    kernels = WeightQuantization("int4", kernel="matmul-nbits", least_parameters=0)
    told = {layer.layer: layer.reason for layer in kernels.coverage(net, net, job(x)).layers}
    assert told["Conv_c2"] == "MatMulNBits is for linear layers alone"
    few = WeightQuantization("int4", 8, kernel="matmul-nbits", exclude=("Conv_c0",), least_parameters=0)
    told = {layer.layer: layer.reason for layer in few.coverage(net, net, job(x)).layers}
    assert told["Gemm_y"] == "MatMulNBits has groups that 16 divides, not of 8"


def test_a_group_that_does_not_divide_is_refused_with_those_that_do() -> None:
    technique = WeightQuantization("int4", 32)
    told = (
        "group_size=32 does not divide the 72 weights of each output of layer 'Conv_c1': take 18, 24, 36 or None, "
        "exclude the layer, or give it uneven='whole' or 'float'."
    )
    for refused in (technique.apply, lambda net, job: technique.coverage(net, net, job)):
        with pytest.raises(TechniqueError, match=re.escape(told)):
            refused(residual_net(), job(rows(4, 3, 8, 8)))
    with pytest.raises(TechniqueError, match="each row of layer 'Gather_e'"):
        WeightQuantization("int4", 24).apply(attention_block(), job(token_ids()))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"format": "int9"}, "format='int9' is unknown: choose int8, "),
        ({"format": "int1"}, "format='int1' is unknown: choose "),
        ({"format": 4}, "format=4 must be a str"),
        ({"group_size": 0}, "group_size=0 must be 1 or more, for example 32, or None."),
        ({"format": "mxfp4", "group_size": 16}, "group_size=16 does not fit mxfp4, of blocks of 32: leave it out."),
        ({"uneven": "no"}, "uneven='no' is unknown: choose one of refuse, float, whole."),
        ({"percentile": 50.0}, "percentile=50.0 must be above 50 and at most 100"),
        (
            {"per_channel": False, "group_size": 8},
            "per_channel=False has one scale for a whole weight, where",
        ),
        ({"least_parameters": -1}, "least_parameters=-1 must be 0 or more"),
        ({"format": "nf4", "kernel": "matmul-nbits"}, "kernel='matmul-nbits' holds integers of at most 8 bits, which"),
        ({"format": "int16", "kernel": "matmul-nbits"}, "which int16 are not: take int4 or int8, or"),
        ({"kernel": "int8"}, "kernel='int8' is unknown: choose one of automatic, dequantize, matmul-nbits."),
        ({"accuracy_level": 3}, "accuracy_level=3 is unknown: choose one of 0, 4."),
        ({"embeddings": "no"}, "embeddings='no' must be True or False or 'only'"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(TechniqueError, match=re.escape(told)):
        WeightQuantization(**settings)


def test_a_table_that_holds_infinity_stays_as_a_mask_that_is_looked_up() -> None:
    net, x, *_ = NETWORKS["tables and 3-D inputs"]
    model = net()
    mask = constant(model, "table").copy()
    mask[1, 2] = -np.inf
    next(t for t in model.graph.initializer if t.name == "table").CopyFrom(numpy_helper.from_array(mask, "table"))
    technique = WeightQuantization(least_parameters=0)
    layers = technique.coverage(model, technique.apply(model, job(x)), job(x)).layers
    assert [layer.reason for layer in layers if not layer.changed] == ["its table holds infinity"]


@pytest.mark.parametrize("form", ["int4", "uint4", "ternary", "nf4", "kmeans4", "mxfp4", "int8"])
def test_outputs_of_zeros_and_of_one_value(form: str, tmp_path: Path) -> None:
    weight = weights(64, 32)
    weight[:, 0], weight[:, 1] = 0.0, 0.25
    net = make([node("MatMul", "x w", "y")], {"x": ("n", 64)}, {"y": ("n", 32)}, {"w": weight})
    x = np.abs(rows(3, 64))
    graph = WeightQuantization(form).apply(net, job(x))
    for found in (run(graph, x)[0], in_openvino(graph, x, tmp_path)):
        np.testing.assert_allclose(found[:, 0], 0, atol=0.25 if form == "kmeans4" else 0)
        np.testing.assert_allclose(found[:, 1], x.sum(axis=1) / 4, rtol=0.25)
    zeros = make([node("MatMul", "x w", "y")], {"x": ("n", 64)}, {"y": ("n", 32)}, {"w": 0 * weight})
    assert not run(WeightQuantization(form).apply(zeros, job(x)), x)[0].any()


def test_variants_fit_all_networks() -> None:
    for net, x in ((residual_net(), rows(4, 3, 8, 8)), (attention_block(), token_ids())):
        variants = list(WeightQuantization.variants(net, job(x)))
        narrow = WeightQuantization("int4", 32, uneven="whole")
        assert variants == [WeightQuantization("int8"), narrow, replace(narrow, rounding="gptq")]
        assert all(each.coverage(net, each.apply(net, job(x)), job(x)).changed for each in variants)
    small = make([node("MatMul", "x w", "y")], {"x": ("n", 4)}, {"y": ("n", 4)}, {"w": weights(4, 4)})
    with pytest.raises(TechniqueError, match=r"^no weight can be int8 \('MatMul_y': its 16 parameters are fewer"):
        next(WeightQuantization.variants(small, job(rows(4, 4))))


def test_what_a_group_does_not_divide_stays_float_or_has_a_scale_for_each_output() -> None:
    net, x = residual_net(), rows(4, 3, 8, 8)
    left = WeightQuantization("int4", 16, "float", least_parameters=0)
    changed = [layer.changed for layer in left.coverage(net, left.apply(net, job(x)), job(x)).layers]
    assert changed == [False, False, True, True]
    whole = WeightQuantization("int4", 16, "whole", kernel="dequantize", least_parameters=0).apply(net, job(x))
    by_output = by_hand(by_hand(net, ("w0", "w1"), (), "int4"), ("w2", "w3"), (), "int4", 16)
    assert largest_error(run(whole, x)[0], run(by_output, x)[0]) < EXACT


@pytest.mark.parametrize(
    ("columns", "blocks", "expected"),
    [
        (64, 1, 64),
        (240, 1, 16),
        (384, 1, 128),
        (172, 1, 64),
        (7, 1, 16),
        (384, 12, 32),
        (384, 16, None),
    ],
)
def test_blocks_of_the_kernel(columns: int, blocks: int, expected: int | None) -> None:
    assert kernel_block(columns, blocks, 4) == expected


@pytest.mark.parametrize("form", ["int4", "uint4", "int8", "uint8", "ternary"])
@pytest.mark.parametrize("columns", [7, 27, 172, 300])
def test_rows_of_any_length_are_multiplied_as_stored(form: str, columns: int, tmp_path: Path) -> None:
    weight, x = weights(columns, 24), rows(3, columns)
    net = make([node("MatMul", "x w", "y")], {"x": ("n", columns)}, {"y": ("n", 24)}, {"w": weight})
    technique = WeightQuantization(form, accuracy_level=0, least_parameters=0)
    graph = technique.apply(net, job(x))
    assert operators(graph)["MatMulNBits"] == 1
    (layer,) = technique.coverage(net, graph, job(x)).layers
    assert layer.reason.endswith("; OpenVINO dequantizes rows of that length as the network is loaded")
    expected = run(by_hand(net, ("w",), ("w",), form), x)[0]
    assert largest_error(run(graph, x)[0], expected) < EXACT
    assert relative_error(in_openvino(graph, x, tmp_path), expected) < INT8_INPUTS


def test_scales_are_chosen_as_they_are_asked_for() -> None:
    x = rows(3, 64)
    found = {
        str(kwargs): constant(
            WeightQuantization("int4", kernel="dequantize", **kwargs).apply(perceptron(), job(x)), "w0_scale"
        )
        for kwargs in ({}, {"scales": "min-max"}, {"scales": "percentile", "percentile": 95.0}, {"power_of_two": True})
    }
    least, widest, cut, powers = found.values()
    assert least.mean() < widest.mean()
    assert (cut < widest).all()
    assert (np.frexp(powers)[0] == 0.5).all()


@pytest.mark.parametrize("form", ["int3", "uint3", "nf4", "mxfp4", "kmeans3"])
@pytest.mark.parametrize("group", [None, 32])
def test_rounding_by_what_layers_read_loses_less(form: str, group: int | None) -> None:
    x = np.random.default_rng(0).standard_normal((400, 64)).astype(np.float32) @ rows(64, 64) / 8
    given = job(x)
    reference = run(perceptron(), x)[0]
    errors = [
        relative_error(
            run(WeightQuantization(form, group, rounding=way, accuracy_level=0).apply(perceptron(), given), x)[0],
            reference,
        )
        for way in ("nearest", "gptq", "learned")
    ]
    assert errors[1] < 0.9 * errors[0]
    assert errors[2] < 0.9 * errors[0]


@pytest.mark.parametrize("network", NETWORKS)
def test_rounding_of_all_layers_and_what_is_told_of_those_that_are_not_observed(network: str) -> None:
    net, x, *_ = NETWORKS[network]
    plain = WeightQuantization("int4", least_parameters=0)
    technique = WeightQuantization("int4", rounding="gptq", least_parameters=0)
    graph = technique.apply(net(), job(x))
    layers = technique.coverage(net(), graph, job(x)).layers
    assert all(layer.changed for layer in layers)
    nearest = [layer.layer for layer in layers if "; rounded to the nearest, since " in layer.reason]
    assert nearest == [n for n in (layer.layer for layer in layers) if n.startswith(("Gather", "ConvTranspose"))]
    assert operators(graph) == operators(plain.apply(net(), job(x)))
    assert not np.array_equal(run(graph, x)[0], run(plain.apply(net(), job(x)), x)[0])


def test_a_shared_weight_is_rounded_by_the_layer_that_multiplies_it() -> None:
    ids = token_ids(64)
    given = job(ids)
    errors = [
        relative_error(run(WeightQuantization("int3", rounding=way).apply(tied(), given), ids)[0], run(tied(), ids)[0])
        for way in ("nearest", "gptq")
    ]
    assert errors[0] != errors[1]
