"""Weights of layers as stored integers, read through DequantizeLinear; their biases as int32."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import onnx

from paring.graph.matrices import as_rows, from_rows
from paring.graph.onnx_graph import Array, Graph, attribute
from paring.graph.placement import channel_axis, channels_of
from paring.ops.grid import Grid
from paring.ops.quantization import Parameters

LARGEST_BIAS = 2.0**30

Weigh: TypeAlias = Callable[[str, Array, bool, Array], tuple[Grid, Array, Array]]
"""How a weight is quantized: (layer, rows, by_row, least_scale) -> (grid, codes, shift).

`rows` has shape (rows, columns): a row for each output channel, unless `by_row` is False, which asks for one scale for
all. No scale is to lie below `least_scale`, shape (rows,), which is above 0 only where there is a bias; `shift`, same
shape, is what that gains because a scale was raised.
"""


class IntegerWeights:
    """Replaces weights and biases by integers, each stored once even where several layers read it."""

    def __init__(self, graph: Graph, weigh: Weigh) -> None:
        self.graph, self.weigh = graph, weigh
        self._stored: dict[tuple[str, int | None, bytes, bytes], str] = {}

    def replace(self, node: onnx.NodeProto, inputs: Parameters, layer: str = "") -> None:
        """Let the layer read its weight, and its bias where it has one, through DequantizeLinear.

        `layer` is the name that `weigh` knows it by, where the node has another one.
        """
        weight = self.graph.constant(node.input[1])
        assert weight is not None
        factor, bias = gemm_folded(self.graph, node, weight)
        axis = channel_axis(node)
        # Channels of a grouped transposed convolution lie along two axes of its weight.
        by_row = not (node.op_type == "ConvTranspose" and attribute(node, "group", 1) != 1)
        rows = as_rows(node, weight * factor)
        least = np.zeros(len(rows)) if bias is None else np.abs(bias) / (float(inputs.scale) * LARGEST_BIAS)
        least = least if by_row else np.full(len(rows), least.max())
        grid, codes, shift = self.weigh(layer or node.name, rows, by_row, least)
        integers, parameters = stored(grid, codes, axis)
        name = node.input[1]
        node.input[1] = self._dequantized(name, from_rows(node, integers, weight.shape), parameters)
        if bias is not None:
            self._replace_bias(node, bias + shift, parameters.scale.astype(np.float64) * float(inputs.scale))

    def _replace_bias(self, node: onnx.NodeProto, bias: Array, scale: Array) -> None:
        """int32 in units of input scale x weight scale."""
        units = np.broadcast_to(np.maximum(scale.astype(np.float32), np.finfo(np.float32).tiny), bias.shape)
        whole = np.rint(bias.astype(np.float64) / units).astype(np.int32)
        per_channel = Parameters(np.array(units), np.zeros(bias.shape, np.int32), 0)
        node.input[2] = self._dequantized(node.input[2], whole, per_channel)

    def round_trip(self, name: str, parameters: Parameters) -> str:
        """The tensor quantized and dequantized, for a reader of its own."""
        constants = constants_of(self.graph, name, parameters)
        integers = quantized_tensor(self.graph, name, parameters, constants)
        return self.graph.add_node("DequantizeLinear", [integers, *constants], f"{name}_dequantized")

    def _dequantized(self, name: str, integers: Array, parameters: Parameters) -> str:
        key = (name, parameters.axis, parameters.scale.tobytes(), integers.tobytes())
        if key not in self._stored:
            inputs = [
                self.graph.add_constant(integers, f"{name}_quantized"),
                *constants_of(self.graph, name, parameters),
            ]
            axis = {} if parameters.axis is None else {"axis": parameters.axis}
            self._stored[key] = self.graph.add_node("DequantizeLinear", inputs, f"{name}_dequantized", **axis)
        return self._stored[key]


def stored(grid: Grid, codes: Array, axis: int) -> tuple[Array, Parameters]:
    """The integers of a grid with a scale for each row, or one for all, and what they stand for along `axis`."""
    kind = np.int8 if grid.format.levels[0] < 0 else np.uint8
    zero_point = np.zeros_like(grid.scale) if grid.zero_point is None else grid.zero_point
    scale, zero_point = grid.scale[:, 0], zero_point[:, 0].astype(kind)
    if len(scale) == 1 and len(codes) > 1:
        return grid.format.decode(codes).astype(kind), Parameters(scale.reshape(()), zero_point.reshape(()))
    return grid.format.decode(codes).astype(kind), Parameters(scale, zero_point, axis)


def constants_of(graph: Graph, name: str, parameters: Parameters) -> list[str]:
    """Names of the stored scale and zero point."""
    return [
        graph.add_constant(parameters.scale, f"{name}_scale"),
        graph.add_constant(parameters.zero_point, f"{name}_zero_point"),
    ]


def quantized_tensor(
    graph: Graph, name: str, parameters: Parameters, constants: list[str], integers: str | None = None
) -> str:
    """The name of a tensor's integers, made here under the name `integers` or a new one."""
    integers = integers or graph.unique(f"{name}_quantized")
    if parameters.limits is None:
        graph.add_named_node("QuantizeLinear", [name, *constants], integers)
        return integers
    whole = graph.add_node("QuantizeLinear", [name, *constants], f"{name}_rounded")
    kind = parameters.zero_point.dtype
    ends = [graph.add_constant(np.array(end, kind), f"{name}_end") for end in parameters.limits]
    graph.add_named_node("Clip", [whole, *ends], integers)
    return integers


def gemm_folded(graph: Graph, node: onnx.NodeProto, weight: Array) -> tuple[np.float32, Array | None]:
    """Gemm's alpha, and the bias times beta, one value a channel; both attributes become 1."""
    bias = graph.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    factor, shift = np.float32(attribute(node, "alpha", 1.0)), np.float32(attribute(node, "beta", 1.0))
    for entry in node.attribute:
        if entry.name in ("alpha", "beta"):
            entry.f = 1.0
    if bias is not None:
        bias = np.broadcast_to(bias.reshape(-1) * shift, (channels_of(node, weight.shape),))
    return factor, bias
