"""AWQ: the same function, with weights that lose less of their outputs once they are quantized."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from paring.errors import TechniqueError
from paring.graph.matrices import as_rows
from paring.graph.onnx_graph import Graph
from paring.ops.equalization import activation_aware
from paring.ops.formats import format_of
from paring.ops.scales import Scaling, fitted
from paring.techniques.awq import AWQ
from paring.techniques.calibration import with_outputs
from tests.quantization_nets import (
    Array,
    attention_block,
    constant,
    job,
    operators,
    perceptron,
    rows,
    run,
    token_ids,
    weights,
)
from tests.test_smooth_quant import outlier_net


def quantized_error(model: onnx.ModelProto, tensor: str, format: str, blocks: int, *inputs: Array) -> float:
    """Mean squared error of the linear layers that read a tensor, once their weights are quantized."""
    graph, total = Graph(model), 0.0
    read = run(with_outputs(model, [tensor]), *inputs)[-1]
    flat = read.reshape(-1, read.shape[-1]).astype(np.float64)
    for layer in graph.consumers[tensor]:
        weight = as_rows(layer, graph.constant(layer.input[1]))
        values = fitted(weight, format_of(format), Scaling("min-max"), blocks).quantized(weight)
        total += float(np.square(flat @ (values.astype(np.float64) - weight).T).mean())
    return total


@pytest.mark.parametrize(("format", "group_size"), [("int4", 8), ("int3", None), ("uint4", 16), ("nf4", 32)])
@pytest.mark.parametrize("transposed", [False, True])
def test_float_answers_stay_and_quantized_weights_lose_less(
    format: str, group_size: int | None, transposed: bool
) -> None:
    model, x = outlier_net(transposed=transposed), rows(64, 32)
    technique = AWQ(format, group_size)
    aware = technique.apply(model, job(x))
    onnx.checker.check_model(aware, full_check=True)
    np.testing.assert_allclose(run(aware, x)[0], run(model, x)[0], rtol=1e-4, atol=1e-4)
    blocks = 32 // (group_size or 32)
    errors = [quantized_error(each, "n", format, blocks, x) for each in (aware, model)]
    assert errors[0] < 0.9 * errors[1]
    assert technique.coverage(model, aware, job(x)).changed == 1


def test_factors_are_those_of_a_slow_search() -> None:
    draw = np.random.default_rng(0)
    read = draw.normal(size=(500, 12)) * draw.gamma(0.5, size=12)
    weight, form = weights(9, 12), format_of("int3")
    alphas = (0.25, 0.5, 0.75, 1.0)
    magnitude = np.abs(read).mean(axis=0)
    found = activation_aware(weight, magnitude, read.T @ read / 500, form, Scaling("min-max"), 2, alphas)
    tried = []
    for alpha in (0.0, *alphas):
        factor = magnitude**alpha / np.sqrt((magnitude**alpha).max() * (magnitude**alpha).min())
        scaled = (weight * factor).astype(np.float32)
        values = fitted(scaled, form, Scaling("min-max"), 2).quantized(scaled)
        tried.append((float(np.square((read / factor) @ values.T - read @ weight.T).sum()), factor))
    errors = [error for error, _ in tried]
    assert 0 < int(np.argmin(errors)) < len(errors)
    np.testing.assert_allclose(found, min(tried, key=lambda each: each[0])[1], rtol=1e-5)


def test_inputs_that_are_always_zero_keep_their_scale_and_nothing_is_worse_than_no_scales() -> None:
    weight, form = weights(4, 6), format_of("int2")
    magnitude = np.array([0.0, 1.0, 2.0, 0.0, 3.0, 1e-12])
    moments = np.diag(magnitude**2)
    factor = activation_aware(weight, magnitude, moments, form, Scaling(), 1, (0.5, 1.0))
    assert (factor[[0, 3]] == 1).all()
    assert (np.isfinite(factor) & (factor > 0)).all()
    nothing = activation_aware(weight, np.zeros(6), np.zeros((6, 6)), form, Scaling(), 1, (0.5,))
    assert (nothing == 1).all()


def test_all_readers_of_a_normalisation_share_the_factors() -> None:
    model, ids = attention_block(), token_ids()
    technique = AWQ("int3", 16)
    aware = technique.apply(model, job(ids))
    np.testing.assert_allclose(run(aware, ids)[0], run(model, ids)[0], rtol=1e-3, atol=1e-3)
    told = {layer.layer: layer for layer in technique.coverage(model, aware, job(ids)).layers}
    assert [name for name, layer in told.items() if layer.changed] == ["MatMul_q", "MatMul_k"]
    assert "also read by Add" in told["MatMul_o"].reason
    assert "no linear layer" in told["Gather_e"].reason
    named = {n.name: n.input[1] for n in aware.graph.node if n.op_type == "MatMul"}
    ratios = [constant(aware, named[f"MatMul_{each}"]) / constant(model, f"w{each}") for each in "qk"]
    np.testing.assert_allclose(ratios[0], ratios[1], rtol=1e-4)


def test_anywhere_a_multiplication_takes_the_place_of_a_normalisation() -> None:
    model, ids = attention_block(), token_ids()
    technique = AWQ("int3", 16, anywhere=True)
    aware = technique.apply(model, job(ids))
    np.testing.assert_allclose(run(aware, ids)[0], run(model, ids)[0], rtol=1e-3, atol=1e-3)
    told = {layer.layer: layer for layer in technique.coverage(model, aware, job(ids)).layers}
    assert [name for name, layer in told.items() if layer.changed] == ["MatMul_q", "MatMul_k", "MatMul_o"]
    assert operators(aware)["Mul"] == operators(model)["Mul"] + 1


def test_where_nothing_fits_the_reason_is_told() -> None:
    technique = AWQ(group_size=5)
    model, x = outlier_net(), rows(64, 32)
    same = technique.apply(model, job(x))
    layers = technique.coverage(model, same, job(x)).layers
    assert [layer.reason for layer in layers] == ["its 32 inputs do not divide into groups of 5"]
    with pytest.raises(TechniqueError, match=r"^no linear layer can be scaled \('Gemm_h': its input does not come"):
        next(AWQ.variants(perceptron(), job(rows(4, 64))))
    assert list(AWQ.variants(model, job(x))) == [AWQ(), AWQ("int8", None)]


def test_a_layer_for_which_no_scale_is_better_stays_as_it_is() -> None:
    model, x = outlier_net(), rows(64, 32)
    technique = AWQ("int8", None, alphas=(0.0,))
    same = technique.apply(model, job(x))
    layers = technique.coverage(model, same, job(x)).layers
    assert [(layer.changed, layer.reason) for layer in layers] == [(False, "no scales that were tried lose less")]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"alphas": (0.5, 1.5)}, "alphas holds 1.5"),
        ({"alphas": (-0.1,)}, "alphas holds -0.1"),
        ({"alphas": (float("nan"),)}, "alphas"),
        ({"alphas": ()}, "alphas is empty"),
        ({"format": "int9"}, "format 'int9' is unknown"),
        ({"group_size": 0}, "group_size=0 must be at least 1"),
        ({"scales": "best"}, "scales='best'"),
    ],
)
def test_settings_out_of_range_are_quoted(given: dict[str, Any], told: str) -> None:
    with pytest.raises(TechniqueError, match=told):
        AWQ(**given)


def test_weights_and_activations_that_are_no_numbers_are_named() -> None:
    model, x = outlier_net(), rows(64, 32)
    broken = x.copy()
    broken[3] = np.nan
    with pytest.raises(TechniqueError, match="tensor 'n' holds NaN or infinity"):
        AWQ().apply(model, job(broken))
    weight = constant(model, "w").copy()
    weight[2, 3] = np.inf
    next(t for t in model.graph.initializer if t.name == "w").CopyFrom(onnx.numpy_helper.from_array(weight, "w"))
    with pytest.raises(TechniqueError, match="weight 'w' holds NaN or infinity"):
        AWQ().apply(model, job(x))
