"""Graphs that techniques refuse: what is quantized already, whoever did it, and weights that are no numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from paring.errors import TechniqueError
from paring.graph.export import export_onnx, export_program, signature_of
from paring.graph.refusals import require_finite, require_float_graph
from paring.techniques import (
    AWQ,
    BitAllocation,
    CrossLayerEqualization,
    DynamicQuantization,
    HalfPrecision,
    MixedPrecision,
    SmoothQuant,
    StaticQuantization,
    WeightQuantization,
)
from tests.quantization_nets import constant, job, make, node, residual_net, rows, weights

QUANTIZING: tuple[Any, ...] = (
    StaticQuantization(),
    DynamicQuantization(least_parameters=0),
    WeightQuantization(least_parameters=0),
    SmoothQuant(),
    CrossLayerEqualization(),
    AWQ(group_size=None),
    BitAllocation(),
    MixedPrecision(),
)
ALL = (*QUANTIZING, HalfPrecision(), WeightQuantization(embeddings="only", least_parameters=0))


def refusal(model: onnx.ModelProto) -> str:
    """Why the graph is no float one; empty where it is."""
    try:
        require_float_graph(model, "It")
    except TechniqueError as error:
        return str(error)
    return ""


def with_normalisation() -> onnx.ModelProto:
    """A normalisation with scale and shift, and linear layers behind it."""
    return make(
        [
            node("LayerNormalization", "x scale shift", "n"),
            node("Gemm", "n w b", "h", transB=1),
            node("Relu", "h", "r"),
            node("Gemm", "r v", "y", transB=1),
        ],
        {"x": ("n", 32)},
        {"y": ("n", 8)},
        {
            "scale": np.ones(32, np.float32),
            "shift": weights(32),
            "w": weights(64, 32),
            "b": weights(64),
            "v": weights(8, 64),
        },
    )


def broken(model: onnx.ModelProto, name: str, value: float) -> onnx.ModelProto:
    wrong = constant(model, name).copy()
    wrong.reshape(-1)[3] = value
    next(t for t in model.graph.initializer if t.name == name).CopyFrom(numpy_helper.from_array(wrong, name))
    return model


INTEGER_OPERATORS = """
QLinearConv QLinearMatMul ConvInteger MatMulInteger DynamicQuantizeLinear DequantizeLinear QGemm QLinearAdd QAttention
QEmbedLayerNormalization MatMulIntegerToFloat DynamicQuantizeLSTM DynamicQuantizeMatMul GatherBlockQuantized MatMulNBits
MatMulBnb4 QMoE MatMulFpQ4
"""


@pytest.mark.parametrize("operator", INTEGER_OPERATORS.split())
@pytest.mark.parametrize("after_own", [False, True])
def test_operators_of_quantized_networks_are_told(operator: str, after_own: bool) -> None:
    for name, told in (("a", "a"), ("", "y")):
        made = helper.make_node(operator, ["x"], ["y"], name=name, domain="com.microsoft")
        model = helper.make_model(helper.make_graph([made], "g", [], []))
        sentence = f"^It needs a float graph, but {operator} '{told}' shows .* quantized already"
        with pytest.raises(TechniqueError, match=sentence):
            require_float_graph(model, "It", after_own=after_own)


@pytest.mark.parametrize("operator", ["QuickGelu", "FusedMatMul", "Conv", "SkipLayerNormalization", "Cast", "Unique"])
def test_operators_of_float_networks_are_not(operator: str) -> None:
    model = helper.make_model(helper.make_graph([helper.make_node(operator, ["x", "w"], ["y"])], "g", [], []))
    assert refusal(model) == ""


@pytest.mark.parametrize("technique", QUANTIZING, ids=lambda each: each.name)
@pytest.mark.parametrize(
    "made",
    [
        WeightQuantization(least_parameters=0),
        WeightQuantization(group_size=16, kernel="dequantize", least_parameters=0),
        WeightQuantization("nf4", least_parameters=0),
        WeightQuantization("kmeans3", least_parameters=0),
        StaticQuantization(),
    ],
    ids=str,
)
def test_no_technique_quantizes_what_paring_has_quantized(technique: Any, made: Any) -> None:
    x = rows(8, 32)
    quantized = made.apply(with_normalisation(), job(x))
    with pytest.raises(TechniqueError, match=rf"^{technique.name} needs a float graph.* is quantized already"):
        technique.apply(quantized, job(x))
    with pytest.raises(TechniqueError, match=r"needs a float graph.* is quantized already"):
        next(type(technique).variants(quantized, job(x)))


@pytest.mark.parametrize("technique", QUANTIZING, ids=lambda each: each.name)
def test_no_technique_quantizes_what_onnxruntime_has_quantized(technique: Any) -> None:
    """Its quantizer of weights leaves the convolutions in floating point."""
    x = rows(8, 3, 8, 8)
    model = residual_net()
    gemm = next(item for item in model.graph.node if item.op_type == "Gemm")
    gemm.op_type, gemm.domain = "MatMulNBits", "com.microsoft"
    with pytest.raises(TechniqueError, match=r"but MatMulNBits '\w+' shows that this one is quantized already"):
        technique.apply(model, job(x))


def test_16_bit_weights_and_weights_that_are_computed_are_no_integers() -> None:
    x = rows(8, 32)
    assert refusal(HalfPrecision("fp16").apply(with_normalisation(), job(x))) == ""
    model = make(
        [node("Reshape", "w shape", "r"), node("Mul", "r m", "v"), node("Gemm", "x v", "y")],
        {"x": ("n", 32)},
        {"y": ("n", 8)},
        {"w": weights(8, 32), "shape": np.array([32, 8]), "m": np.ones((32, 8), np.float32)},
    )
    assert refusal(model) == ""


@pytest.mark.parametrize("technique", ALL, ids=str)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("name", "reader"), [("scale", "LayerNormalization_n"), ("w", "Gemm_h"), ("b", "Gemm_h")])
def test_parameters_that_are_no_numbers_are_named_by_all(technique: Any, value: float, name: str, reader: str) -> None:
    wrong = broken(with_normalisation(), name, value)
    with pytest.raises(TechniqueError, match=rf"^weight '{name}' holds NaN or infinity \(read by '{reader}'\): check"):
        technique.apply(wrong, job(rows(8, 32)))


@pytest.mark.parametrize("technique", ALL, ids=str)
@pytest.mark.parametrize(("name", "reader"), [("w0", "Conv_c0"), ("b0", "Conv_c0")])
def test_so_are_those_of_convolutions(technique: Any, name: str, reader: str) -> None:
    with pytest.raises(TechniqueError, match=rf"^weight '{name}' holds NaN or infinity \(read by '{reader}'\): check"):
        technique.apply(broken(residual_net(), name, np.nan), job(rows(8, 3, 8, 8)))


def masked(value: float) -> onnx.ModelProto:
    mask = np.full((4, 4), value, np.float32)
    return make(
        [node("Add", "x mask", "s"), node("MatMul", "s w", "y")],
        {"x": ("n", 4, 4)},
        {"y": ("n", 4, 8)},
        {"mask": mask, "w": weights(4, 8)},
    )


def test_infinity_in_a_mask_is_meant_and_nan_is_not() -> None:
    require_finite(masked(-np.inf))
    with pytest.raises(TechniqueError, match=r"^weight 'mask' holds NaN or infinity \(read by 'Add_s'\)"):
        require_finite(masked(np.nan))


def held_by_nodes(model: onnx.ModelProto) -> onnx.ModelProto:
    for tensor in list(model.graph.initializer):
        model.graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], value=tensor))
    del model.graph.initializer[:]
    return model


def in_16_bits(model: onnx.ModelProto) -> onnx.ModelProto:
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    return model


@pytest.mark.parametrize("change", [held_by_nodes, in_16_bits])
def test_constants_are_found_wherever_they_are(change: Callable[[onnx.ModelProto], onnx.ModelProto]) -> None:
    require_finite(change(with_normalisation()))
    with pytest.raises(TechniqueError, match="weight 'v' holds"):
        require_finite(change(broken(with_normalisation(), "v", np.inf)))


class Tokens(nn.Module):
    """A linear layer on inputs of three axes, whose weight the export turns around."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Linear(8, 12)
        self.head = nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.head(self.wide(x).relu()).mean(1))


def test_a_linear_layer_on_inputs_of_three_axes_is_told_by_its_module() -> None:
    model, x = Tokens().eval(), torch.from_numpy(rows(2, 5, 8))
    with torch.no_grad():
        model.wide.weight[3, 3] = torch.nan
    graph = export_onnx(export_program(model, x), signature_of(model, x))
    with pytest.raises(TechniqueError, match=r"^weight '\w+' holds NaN or infinity \(read by 'wide'\): check"):
        require_finite(graph)
