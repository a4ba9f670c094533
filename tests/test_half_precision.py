"""Weights in 16 bits: bytes, rounding, and who can read the files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
from onnx import TensorProto, numpy_helper

from paring.backends.precision import EXECUTION_PRECISION_KEY
from paring.errors import TechniqueError
from paring.techniques.half_precision import HalfPrecision
from paring.techniques.static_quantization import StaticQuantization
from tests.quantization_nets import (
    attention_block,
    constant,
    job,
    make,
    metadata,
    node,
    perceptron,
    relative_error,
    residual_net,
    rows,
    run,
    weights,
)

X = rows(5, 3, 8, 8)
FORMATS = pytest.mark.parametrize(("dtype", "error"), [("bf16", 0.02), ("fp16", 0.002)])


@FORMATS
def test_file_is_half_as_large_and_answers_stay(dtype: str, error: float, tmp_path: Path) -> None:
    model = perceptron()
    graph = HalfPrecision(dtype).apply(model, job(rows(1, 64)))  # type: ignore[arg-type]
    onnx.checker.check_model(graph, full_check=True)
    onnx.save(model, tmp_path / "float.onnx")
    onnx.save(graph, tmp_path / "half.onnx")
    assert (tmp_path / "half.onnx").stat().st_size < 0.56 * (tmp_path / "float.onnx").stat().st_size
    for batch in (1, 5):
        x = rows(batch, 64)
        assert 0 < relative_error(run(graph, x)[0], run(model, x)[0]) < error


@FORMATS
def test_openvino_reads_it_too(dtype: str, error: float, tmp_path: Path) -> None:
    onnx.save(HalfPrecision(dtype).apply(residual_net(), job(X)), tmp_path / "half.onnx")  # type: ignore[arg-type]
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.Core().compile_model(tmp_path / "half.onnx", "CPU", settings)
    assert relative_error(compiled({"x": X})[0], run(residual_net(), X)[0]) < error


@pytest.mark.parametrize(("dtype", "told"), [("bf16", "bf16"), ("fp16", "f16")])
def test_metadata_asks_for_kernels_of_the_type(dtype: str, told: str) -> None:
    model = perceptron()
    onnx.helper.set_model_props(model, {EXECUTION_PRECISION_KEY: "f32", "owner": "me"})
    graph = HalfPrecision(dtype).apply(model, job(rows(1, 64)))  # type: ignore[arg-type]
    assert metadata(graph) == {EXECUTION_PRECISION_KEY: told, "owner": "me"}
    stored = HalfPrecision(dtype, storage_only=True).apply(perceptron(), job(rows(1, 64)))  # type: ignore[arg-type]
    assert metadata(stored) == {}
    assert HalfPrecision(dtype).execution == told  # type: ignore[arg-type]
    assert HalfPrecision(dtype, storage_only=True).execution == "f32"  # type: ignore[arg-type]
    assert [tensor.dims for tensor in stored.graph.initializer] == [tensor.dims for tensor in graph.graph.initializer]


def test_stored_bf16_is_the_rounded_weight() -> None:
    graph = HalfPrecision("bf16").apply(perceptron(), job(rows(1, 64)))
    stored = next(t for t in graph.graph.initializer if t.data_type == TensorProto.BFLOAT16 and t.name == "w0_half")
    value = numpy_helper.to_array(stored).astype(np.float32)
    weight = constant(perceptron(), "w0")
    assert np.abs(value / weight - 1).max() <= 2**-8


def test_weights_beyond_the_range_of_fp16_stay_float32_and_say_so() -> None:
    model = perceptron()
    large = constant(model, "w1") * np.float32(1e6)
    next(t for t in model.graph.initializer if t.name == "w1").CopyFrom(numpy_helper.from_array(large, "w1"))
    for dtype, changed in (("fp16", [True, False]), ("bf16", [True, True])):
        technique = HalfPrecision(dtype)  # type: ignore[arg-type]
        graph = technique.apply(model, job(rows(1, 64)))
        layers = technique.coverage(model, graph, job(rows(1, 64))).layers
        assert [layer.changed for layer in layers] == changed
        assert np.isfinite(run(graph, rows(2, 64))[0]).all()
        if not layers[1].changed:
            assert "fp16" in layers[1].reason


def test_integers_and_small_constants_are_left_alone() -> None:
    graph = HalfPrecision().apply(residual_net(), job(X))
    kinds = {t.name: t.data_type for t in graph.graph.initializer}
    assert kinds["pads"] == TensorProto.INT64
    assert kinds["b0"] == TensorProto.FLOAT


def test_what_static_int8_left_in_float_shrinks_after_it() -> None:
    ids = np.random.default_rng(0).integers(0, 50, (16, 6))
    integer = StaticQuantization().apply(attention_block(), job(ids))
    graph = HalfPrecision("fp16").apply(integer, job(ids))
    assert graph.ByteSize() < integer.ByteSize()
    assert relative_error(run(graph, ids)[0], run(attention_block(), ids)[0]) < 0.06


@FORMATS
def test_infinity_in_a_mask_is_meant(dtype: str, error: float) -> None:
    mask = np.triu(np.full((16, 16), -np.inf, np.float32), 1)
    model = make(
        [node("Add", "x mask", "s"), node("Softmax", "s", "p", axis=-1), node("MatMul", "p w", "y")],
        {"x": ("n", 16, 16)},
        {"y": ("n", 16, 8)},
        {"mask": mask, "w": weights(16, 8)},
    )
    x = rows(2, 16, 16)
    graph = HalfPrecision(dtype).apply(model, job(x))  # type: ignore[arg-type]
    assert relative_error(run(graph, x)[0], run(model, x)[0]) < error


def test_bad_input_is_named() -> None:
    with pytest.raises(TechniqueError, match="'int4'"):
        HalfPrecision("int4")  # type: ignore[arg-type]
    model = perceptron()
    broken = constant(model, "w1").copy()
    broken[0, 0] = np.inf
    next(t for t in model.graph.initializer if t.name == "w1").CopyFrom(numpy_helper.from_array(broken, "w1"))
    with pytest.raises(TechniqueError, match="'w1' holds NaN or infinity"):
        HalfPrecision().apply(model, job(rows(1, 64)))


def test_variants_end_where_nothing_is_left_in_float32() -> None:
    variants = list(HalfPrecision.variants(perceptron(), job(rows(1, 64))))
    assert variants == [HalfPrecision("bf16"), HalfPrecision("fp16"), HalfPrecision("fp16", storage_only=True)]
    half = HalfPrecision().apply(perceptron(), job(rows(1, 64)))
    with pytest.raises(TechniqueError, match="no float32 weight of the network has 64 elements or more"):
        next(HalfPrecision.variants(half, job(rows(1, 64))))
