"""SmoothQuant: the same function, other weights."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from paring.errors import TechniqueError
from paring.techniques.smooth_quant import SmoothQuant
from paring.techniques.static_quantization import StaticQuantization
from tests.quantization_nets import (
    attention_block,
    constant,
    job,
    make,
    node,
    perceptron,
    relative_error,
    rows,
    run,
    token_ids,
    weights,
)


def outlier_net(*, decomposed: bool = False, transposed: bool = True) -> onnx.ModelProto:
    """Layer norm with two channels of enormous scale, read by a linear layer with small weights there."""
    scale, shift = np.ones(32, np.float32), weights(32, seed=5)
    scale[[3, 17]] = 80
    weight = weights(24, 32)
    weight[:, [3, 17]] *= 0.02
    if decomposed:
        norm = [
            node("ReduceMean", "x", "mu", axes=[-1]),
            node("Sub", "x mu", "d"),
            node("Mul", "d scale", "scaled"),
            node("Add", "shift scaled", "n"),
        ]
    else:
        norm = [node("LayerNormalization", "x scale shift", "n")]
    linear = node("Gemm", "n w b", "y", transB=1) if transposed else node("MatMul", "n w", "y")
    return make(
        [*norm, linear],
        {"x": ("n", 32)},
        {"y": ("n", 24)},
        {"scale": scale, "shift": shift, "w": weight if transposed else weight.T.copy(), "b": weights(24, seed=7)},
    )


@pytest.mark.parametrize("alpha", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("decomposed", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
def test_float_answers_are_unchanged_and_int8_gains(alpha: float, decomposed: bool, transposed: bool) -> None:
    model, x = outlier_net(decomposed=decomposed, transposed=transposed), rows(64, 32)
    smooth = SmoothQuant(alpha).apply(model, job(x))
    onnx.checker.check_model(smooth, full_check=True)
    expected = run(model, x)[0]
    np.testing.assert_allclose(run(smooth, x)[0], expected, rtol=1e-4, atol=1e-4)
    errors = [relative_error(run(StaticQuantization().apply(g, job(x)), x)[0], expected) for g in (smooth, model)]
    assert errors[0] < 0.75 * errors[1]
    assert SmoothQuant(alpha).coverage(model, smooth, job(x)).changed == 1


def test_migration_follows_the_papers_equation() -> None:
    model, x = outlier_net(), rows(64, 32)
    smooth = SmoothQuant(0.5).apply(model, job(x))
    renamed = {n.op_type: list(n.input) for n in smooth.graph.node}
    factor = constant(model, "scale") / constant(smooth, renamed["LayerNormalization"][1])
    centred = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
    inputs = np.abs(centred * constant(model, "scale") + constant(model, "shift")).max(0)
    expected = np.sqrt(inputs / np.abs(constant(model, "w")).max(0))
    np.testing.assert_allclose(factor, expected, rtol=1e-4)
    np.testing.assert_allclose(constant(smooth, renamed["Gemm"][1]), constant(model, "w") * factor, rtol=1e-5)


def test_all_readers_share_the_factors_and_residuals_are_left_alone() -> None:
    model, ids = attention_block(), token_ids()
    technique = SmoothQuant()
    smooth = technique.apply(model, job(ids))
    np.testing.assert_allclose(run(smooth, ids)[0], run(model, ids)[0], rtol=1e-3, atol=1e-4)
    layers = {layer.layer: layer for layer in technique.coverage(model, smooth, job(ids)).layers}
    assert [name for name, layer in layers.items() if layer.changed] == ["MatMul_q", "MatMul_k"]
    assert "also read by Add" in layers["MatMul_o"].reason
    assert "no linear layer" in layers["Gather_e"].reason


def test_channels_that_are_always_zero_stay_as_they_are() -> None:
    model, x = outlier_net(), rows(64, 32)
    for name in ("scale", "shift"):
        tensor = next(t for t in model.graph.initializer if t.name == name)
        value = constant(model, name).copy()
        value[5] = 0
        tensor.CopyFrom(onnx.numpy_helper.from_array(value, name))
    smooth = SmoothQuant().apply(model, job(x))
    np.testing.assert_allclose(run(smooth, x)[0], run(model, x)[0], rtol=1e-4, atol=1e-4)
    assert all(np.isfinite(onnx.numpy_helper.to_array(t)).all() for t in smooth.graph.initializer)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("anywhere", [False, True])
def test_data_that_are_no_numbers_are_told_by_the_tensor(value: float, anywhere: bool) -> None:
    x = rows(64, 32)
    x[3, 5] = value
    with pytest.raises(TechniqueError, match=r"^tensor 'n' holds NaN or infinity on the calibration rows"):
        SmoothQuant(anywhere=anywhere).apply(outlier_net(), job(x))


def test_a_network_without_layer_norm_is_returned_unchanged_and_has_no_variants() -> None:
    technique, x = SmoothQuant(), rows(4, 64)
    graph = technique.apply(perceptron(), job(x))
    assert np.array_equal(run(graph, x)[0], run(perceptron(), x)[0])
    coverage = technique.coverage(perceptron(), graph, job(x))
    assert coverage.changed == 0
    assert all("layer normalisation" in layer.reason for layer in coverage.layers)
    with pytest.raises(
        TechniqueError, match=r"^no linear layer can be smoothed \('Gemm_\w+': its input does not come from"
    ):
        next(SmoothQuant.variants(perceptron(), job(x)))
    assert SmoothQuant(0.5) in list(SmoothQuant.variants(attention_block(), job(token_ids())))


@pytest.mark.parametrize("alpha", [0.0, 1.0, -1.0, float("nan")])
def test_alpha_out_of_range_is_quoted(alpha: float) -> None:
    with pytest.raises(TechniqueError, match=f"alpha={alpha}"):
        SmoothQuant(alpha)


def post_norm_net() -> onnx.ModelProto:
    """A normalisation's result with two outliers, read by a linear layer and by the residual around it."""
    weight = weights(32, 32)
    weight[[3, 17]] *= 0.02
    held = {name: constant(outlier_net(), name) for name in ("scale", "shift")} | {"w": weight}
    nodes = [
        node("LayerNormalization", "x scale shift", "n"),
        node("MatMul", "n w", "m"),
        node("Add", "m n", "y"),
    ]
    return make(nodes, {"x": ("n", 32)}, {"y": ("n", 32)}, held)


def test_beside_a_residual_a_multiplication_takes_the_factor_and_int8_gains() -> None:
    model, x = post_norm_net(), rows(64, 32)
    assert SmoothQuant(0.8).coverage(model, SmoothQuant(0.8).apply(model, job(x)), job(x)).changed == 0
    technique = SmoothQuant(0.8, anywhere=True)
    smooth = technique.apply(model, job(x))
    onnx.checker.check_model(smooth, full_check=True)
    assert [n.op_type for n in smooth.graph.node].count("Mul") == 1
    expected = run(model, x)[0]
    np.testing.assert_allclose(run(smooth, x)[0], expected, rtol=1e-4, atol=1e-4)
    static = StaticQuantization(placement="inputs-only")
    errors = [relative_error(run(static.apply(g, job(x)), x)[0], expected) for g in (smooth, model)]
    assert errors[0] < 0.75 * errors[1]
    assert technique.coverage(model, smooth, job(x)).changed == 1
    assert list(SmoothQuant.variants(model, job(x))) == [SmoothQuant(alpha, anywhere=True) for alpha in (0.85, 0.7)]


def test_anywhere_folds_where_that_is_free() -> None:
    model, x = outlier_net(), rows(64, 32)
    smooth = SmoothQuant(0.5, anywhere=True).apply(model, job(x))
    assert [n.op_type for n in smooth.graph.node] == [n.op_type for n in model.graph.node]


def test_layers_that_share_an_input_share_the_multiplication() -> None:
    model, ids = attention_block(), token_ids()
    technique = SmoothQuant(0.6, anywhere=True)
    smooth = technique.apply(model, job(ids))
    np.testing.assert_allclose(run(smooth, ids)[0], run(model, ids)[0], rtol=1e-3, atol=1e-4)
    layers = {layer.layer: layer for layer in technique.coverage(model, smooth, job(ids)).layers}
    assert "MatMul_o" in [name for name, layer in layers.items() if layer.changed]
