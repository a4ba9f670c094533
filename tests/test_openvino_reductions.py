"""Reductions in OpenVINO, which alone would answer wrongly: with what reads them, against arithmetic by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from paring.backends.openvino import OpenVINO
from paring.backends.openvino_reductions import part_reductions_
from paring.types import Array, Arrays

openvino = pytest.importorskip("openvino", reason="openvino is not installed")

X = np.random.default_rng(0).normal(size=(16, 8, 20)).astype(np.float32)
FACTORS = np.linspace(-2, 2, 8, dtype=np.float32)
REDUCED: dict[str, Callable[..., Array]] = {
    "ReduceMax": np.max,
    "ReduceMin": np.min,
    "ReduceMean": np.mean,
    "ReduceSum": np.sum,
}
STEP, ZERO = np.float32(0.02), np.uint8(100)


def answered(nodes: list[onnx.NodeProto], folder: Path, values: Array = X) -> Array:
    """What OpenVINO makes of nodes that begin with x and end in y."""
    return answers(nodes, folder, ("y",), values)["y"]


def answers(nodes: list[onnx.NodeProto], folder: Path, outputs: tuple[str, ...], values: Array = X) -> Arrays:
    """The same with several outputs."""
    constants = {
        "axes": np.array([2]),
        "factors": FACTORS,
        "column": FACTORS[:, None],
        "ones": np.ones(8, np.float32),
        "step": STEP,
        "zero": ZERO,
    }
    graph = helper.make_graph(
        nodes,
        "reduces",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["rows", 8, 20])],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    file = folder / "network.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), file)
    session = OpenVINO().load(file, threads=1)
    return session.run({"x": values})


@pytest.mark.parametrize("kind", REDUCED)
def test_what_is_multiplied_by_channel(kind: str, tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node(kind, ["a", "axes"], ["b"], keepdims=0)]
    found = answered([*nodes, helper.make_node("Mul", ["b", "factors"], ["y"])], tmp_path)
    np.testing.assert_allclose(found, REDUCED[kind](np.maximum(X, 0), axis=2) * FACTORS, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", REDUCED)
def test_what_is_gated_by_channel_where_the_axis_stays(kind: str, tmp_path: Path) -> None:
    nodes = [
        helper.make_node(kind, ["x", "axes"], ["a"], keepdims=1),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Mul", ["b", "column"], ["c"]),
        helper.make_node("Add", ["c", "column"], ["y"]),
    ]
    column = FACTORS[:, None]
    expected = np.maximum(REDUCED[kind](X, axis=2, keepdims=True), 0) * column + column
    np.testing.assert_allclose(answered(nodes, tmp_path), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["GlobalAveragePool", "GlobalMaxPool"])
def test_a_global_pooling_that_a_batch_norm_follows(kind: str, tmp_path: Path) -> None:
    nodes = [
        helper.make_node(kind, ["x"], ["a"]),
        helper.make_node("BatchNormalization", ["a", "factors", "factors", "factors", "ones"], ["y"], epsilon=0.0),
    ]
    pooled = X.mean(axis=2, keepdims=True) if kind == "GlobalAveragePool" else X.max(axis=2, keepdims=True)
    column = FACTORS[:, None]
    np.testing.assert_allclose(answered(nodes, tmp_path), (pooled - column) * column + column, rtol=1e-4, atol=1e-5)


def test_infinities_and_what_is_no_number_go_through_sums(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceSum", ["x", "axes"], ["a"], keepdims=0),
        helper.make_node("Neg", ["a"], ["y"]),
    ]
    odd = X.copy()
    odd[0, :3, 4] = np.inf, -np.inf, np.nan
    np.testing.assert_allclose(answered(nodes, tmp_path, odd), -odd.sum(axis=2), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("between", ["Identity", "LeakyRelu"])
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("kind", REDUCED)
def test_what_is_quantized(kind: str, keepdims: int, between: str, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Tanh", ["x"], ["a"]),
        helper.make_node(kind, ["a", "axes"], ["b"], keepdims=keepdims),
        helper.make_node(between, ["b"], ["between"]),
        helper.make_node("QuantizeLinear", ["between", "step", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "step", "zero"], ["c"]),
    ]
    found = answered([*nodes, helper.make_node("Neg", ["c"], ["y"])], tmp_path)
    reduced = REDUCED[kind](np.tanh(X), axis=2, keepdims=bool(keepdims))
    if between == "LeakyRelu":
        reduced = np.where(reduced < 0, 0.01 * reduced, reduced)
    expected = np.clip(np.round(reduced / STEP) + ZERO, 0, 255) - ZERO
    # A tie may go either way.
    np.testing.assert_allclose(found, -expected * STEP, atol=1.01 * float(STEP))


@pytest.mark.parametrize("kind", REDUCED)
def test_an_output_of_what_was_quantized(kind: str, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "step", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "step", "zero"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node(kind, ["b", "axes"], ["y"], keepdims=0),
    ]
    rounded = np.maximum(np.clip(np.round(X / STEP) + ZERO, 0, 255) - ZERO, 0) * STEP
    found = answered(nodes, tmp_path)
    np.testing.assert_allclose(found, REDUCED[kind](rounded, axis=2), rtol=1e-4, atol=1.01 * float(STEP))


def test_an_answer_keeps_its_name_where_it_is_read_on(tmp_path: Path) -> None:
    """The reduction itself is an output here."""
    nodes = [
        helper.make_node("ReduceMax", ["x", "axes"], ["y"], keepdims=0),
        helper.make_node("Mul", ["y", "factors"], ["z"]),
    ]
    found = answers(nodes, tmp_path, ("y", "z"))
    np.testing.assert_allclose(found["y"], X.max(axis=2))
    np.testing.assert_allclose(found["z"], X.max(axis=2) * FACTORS, rtol=1e-6)


@pytest.mark.parametrize("kind", REDUCED)
def test_half_precision(kind: str, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["half"], to=onnx.TensorProto.FLOAT16),
        helper.make_node("Cast", ["factors"], ["half_factors"], to=onnx.TensorProto.FLOAT16),
        helper.make_node(kind, ["half", "axes"], ["a"], keepdims=0),
        helper.make_node("Mul", ["a", "half_factors"], ["b"]),
        helper.make_node("Cast", ["b"], ["y"], to=onnx.TensorProto.FLOAT),
    ]
    expected = REDUCED[kind](X, axis=2) * FACTORS
    np.testing.assert_allclose(answered(nodes, tmp_path), expected, rtol=0.01, atol=0.1)


def test_normalisations_and_softmax_stay_whole(tmp_path: Path) -> None:
    """As exporters before opset 17 write them."""
    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["mean"]),
        helper.make_node("Sub", ["x", "mean"], ["centered"]),
        helper.make_node("Mul", ["centered", "centered"], ["squared"]),
        helper.make_node("ReduceMean", ["squared", "axes"], ["variance"]),
        helper.make_node("Add", ["variance", "step"], ["positive"]),
        helper.make_node("Sqrt", ["positive"], ["deviation"]),
        helper.make_node("Div", ["centered", "deviation"], ["y"]),
    ]
    centered = X - X.mean(axis=2, keepdims=True)
    expected = centered / np.sqrt(np.square(centered).mean(axis=2, keepdims=True) + STEP)
    np.testing.assert_allclose(answered(nodes, tmp_path), expected, rtol=1e-4, atol=1e-5)
    model = openvino.Core().read_model(tmp_path / "network.onnx")
    before = len(model.get_ops())
    part_reductions_(model)
    assert len(model.get_ops()) == before
