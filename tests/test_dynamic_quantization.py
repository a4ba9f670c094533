"""Dynamic int8: linear layers whose input ranges are found at run time."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from paring.data.job import Job
from paring.errors import TechniqueError
from paring.graph.export import export_onnx, export_program, signature_of
from paring.ops.quantization import Range, affine, dequantize, quantize
from paring.techniques.dynamic_quantization import DynamicQuantization
from paring.techniques.remove_blocks import RemoveBlocks
from paring.techniques.static_quantization import StaticQuantization
from paring.types import Task
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
    symmetric,
    token_ids,
    weights,
)

EVERY_LAYER = DynamicQuantization(least_parameters=0)


def test_equals_numpy_with_the_range_of_each_batch() -> None:
    model, x = perceptron(), rows(7, 64) * 3
    graph = EVERY_LAYER.apply(model, job(x))

    def linear(value: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
        inputs, columns = affine(Range(float(value.min()), float(value.max()))), symmetric(weight, 1)
        return dequantize(quantize(value, inputs), inputs) @ dequantize(quantize(weight, columns), columns) + bias

    w0, b0, w1, b1 = (constant(model, name) for name in ("w0", "b0", "w1", "b1"))
    expected = linear(np.maximum(linear(x, w0, b0), 0), w1.T, b1)
    # One step of the hidden layer's integers may round the other way.
    np.testing.assert_allclose(run(graph, x, optimized=False)[0], expected, atol=0.05)
    assert relative_error(run(graph, x)[0], expected) < 0.01


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.5, 2.0)])
def test_any_batch_and_gemm_factors(alpha: float, beta: float) -> None:
    model, x = perceptron(alpha=alpha, beta=beta), rows(5, 64)
    graph = EVERY_LAYER.apply(model, job(x))
    onnx.checker.check_model(graph, full_check=True)
    for batch in (1, 5):
        assert relative_error(run(graph, x[:batch])[0], run(model, x[:batch])[0]) < 0.03


def test_layers_that_read_the_same_tensor_share_its_integers() -> None:
    model, ids = attention_block(), token_ids()
    graph = EVERY_LAYER.apply(model, job(ids))
    found = operators(graph)
    assert (found["MatMulInteger"], found["DynamicQuantizeLinear"], found["MatMul"]) == (3, 2, 0)
    assert relative_error(run(graph, ids)[0], run(model, ids)[0]) < 0.06


def test_inputs_of_zeros_give_the_bias() -> None:
    model = perceptron()
    graph = EVERY_LAYER.apply(model, job(rows(2, 64)))
    x = np.zeros((3, 64), np.float32)
    np.testing.assert_allclose(run(graph, x)[0], run(model, x)[0], atol=0.02)


def test_convolutions_and_excluded_layers_stay_float_and_say_why() -> None:
    technique = EVERY_LAYER
    x = rows(4, 3, 8, 8)
    coverage = technique.coverage(residual_net(), technique.apply(residual_net(), job(x)), job(x))
    assert [layer.changed for layer in coverage.layers] == [False, False, False, True]
    assert "Conv" in coverage.layers[0].reason
    excluded = DynamicQuantization(exclude=("Gemm_h",), least_parameters=0)
    flat = rows(4, 64)
    layers = excluded.coverage(perceptron(), excluded.apply(perceptron(), job(flat)), job(flat)).layers
    assert [(layer.changed, layer.reason) for layer in layers] == [(False, "excluded by the settings"), (True, "")]


def test_a_quantized_graph_is_refused() -> None:
    x = rows(4, 64)
    with pytest.raises(TechniqueError, match="DynamicQuantization needs a float graph"):
        DynamicQuantization().apply(StaticQuantization().apply(perceptron(), job(x)), job(x))


def test_small_layers_stay_float_and_alone_are_not_worth_a_try() -> None:
    x = rows(4, 64)
    (variant,) = DynamicQuantization.variants(perceptron(), job(x))
    layers = variant.coverage(perceptron(), variant.apply(perceptron(), job(x)), job(x)).layers
    assert [(layer.changed, layer.reason) for layer in layers] == [
        (True, ""),
        (False, "its 960 parameters are fewer than least_parameters=4096"),
    ]
    small = make([node("MatMul", "x w", "y")], {"x": ("n", 4)}, {"y": ("n", 4)}, {"w": weights(4, 4)})
    with pytest.raises(
        TechniqueError, match=r"^no linear layer can be int8 \('MatMul_y': its 16 parameters are fewer than"
    ):
        next(DynamicQuantization.variants(small, job(rows(4, 4))))
    told = (
        "('Conv_c0': Conv has no integer form here; 'Gemm_y': its 80 parameters are fewer than least_parameters=4096)."
    )
    with pytest.raises(TechniqueError, match=re.escape(told)):
        next(DynamicQuantization.variants(residual_net(), job(rows(4, 3, 8, 8))))


def test_fewer_than_no_parameters_are_refused() -> None:
    with pytest.raises(TechniqueError, match="least_parameters=-1 must be 0 or more"):
        DynamicQuantization(least_parameters=-1)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 64), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)  # type: ignore[no-any-return]


def exported(network: nn.Module, x: torch.Tensor) -> onnx.ModelProto:
    return export_onnx(export_program(network, x), signature_of(network, x))


def test_what_is_proposed_for_a_network_fits_what_block_removal_leaves_of_it() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(16, 64), Block(), Block(), nn.Linear(64, 70), nn.Linear(70, 5)).eval()
    x = torch.randn(32, 16)
    given = Job.of(Task(network, [(x, torch.zeros(32, dtype=torch.int64))]), threads=1)
    (proposed,) = DynamicQuantization.variants(exported(network, x), given)
    left = exported(RemoveBlocks(count=1).apply(network, given), x)
    layers = proposed.coverage(left, proposed.apply(left, given), given).layers
    # The nodes are numbered anew: a name of before is another layer's now, or nobody's.
    assert [layer.parameters for layer in layers if layer.changed] == [64 * 64, 64 * 70]
    assert [layer.parameters for layer in layers if not layer.changed] == [16 * 64, 70 * 5]
