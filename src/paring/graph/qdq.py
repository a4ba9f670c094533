"""Insertion of QuantizeLinear and DequantizeLinear nodes as a plan says."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from paring.graph.onnx_graph import Array, Graph, attribute
from paring.graph.placement import Group, Plan, channel_axis, channels_of
from paring.ops.quantization import Parameters, quantize, symmetric

LARGEST_BIAS = 2.0**30


def quantized(graph: Graph, plan: Plan, activations: Mapping[Group, Parameters], *, per_channel: bool) -> Graph:
    """The graph with integer weights, int32 biases and integers between layers; edits and returns `graph`."""
    nodes = {node.name: node for node in graph.nodes}
    scales = {name: parameters for group, parameters in activations.items() for name in group.tensors}
    weights = IntegerWeights(graph, per_channel)
    for name in plan.layers:
        weights.replace(nodes[name], scales[nodes[name].input[0]])
    for group, parameters in activations.items():
        _insert(graph, plan, group, parameters)
    return graph


class IntegerWeights:
    """Replaces weights and biases by integers, each stored once even where several layers read it."""

    def __init__(self, graph: Graph, per_channel: bool) -> None:
        self.graph, self.per_channel = graph, per_channel
        self._stored: dict[tuple[str, int | None, bytes], str] = {}

    def replace(self, node: onnx.NodeProto, inputs: Parameters) -> None:
        """Let the layer read its weight, and its bias where it has one, through DequantizeLinear."""
        weight = self.graph.constant(node.input[1])
        assert weight is not None
        factor, bias = gemm_folded(self.graph, node, weight)
        axis = self._axis(node)
        least = 0.0 if bias is None else np.abs(bias) / (float(inputs.scale) * LARGEST_BIAS)
        if axis is None:
            least = np.max(least)
        parameters = symmetric(weight * factor, axis, least)
        name = node.input[1]
        node.input[1] = self._dequantized(name, quantize(weight * factor, parameters), parameters)
        if bias is not None:
            scale = (parameters.scale.astype(np.float64) * float(inputs.scale)).astype(np.float32)
            units = np.broadcast_to(np.maximum(scale, np.finfo(np.float32).tiny), bias.shape)
            whole = np.rint(bias.astype(np.float64) / units).astype(np.int32)
            per_channel = Parameters(np.array(units), np.zeros(bias.shape, np.int32), 0)
            node.input[2] = self._dequantized(node.input[2], whole, per_channel)

    def round_trip(self, name: str, parameters: Parameters) -> str:
        """The tensor quantized and dequantized, for a reader of its own."""
        constants = _constants(self.graph, name, parameters)
        integers = self.graph.add_node("QuantizeLinear", [name, *constants], f"{name}_quantized")
        return self.graph.add_node("DequantizeLinear", [integers, *constants], f"{name}_dequantized")

    def _axis(self, node: onnx.NodeProto) -> int | None:
        grouped = node.op_type == "ConvTranspose" and attribute(node, "group", 1) != 1
        return channel_axis(node) if self.per_channel and not grouped else None

    def _dequantized(self, name: str, integers: Array, parameters: Parameters) -> str:
        key = (name, parameters.axis, parameters.scale.tobytes())
        if key not in self._stored:
            stored = self.graph.add_constant(integers, f"{name}_quantized")
            inputs = [stored, *_constants(self.graph, name, parameters)]
            axis = {} if parameters.axis is None else {"axis": parameters.axis}
            self._stored[key] = self.graph.add_node("DequantizeLinear", inputs, f"{name}_dequantized", **axis)
        return self._stored[key]


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


def _constants(graph: Graph, name: str, parameters: Parameters) -> list[str]:
    """Names of the stored scale and zero point."""
    return [
        graph.add_constant(parameters.scale, f"{name}_scale"),
        graph.add_constant(parameters.zero_point, f"{name}_zero_point"),
    ]


def _insert(graph: Graph, plan: Plan, group: Group, parameters: Parameters) -> None:
    """Quantize the group's sources, run its movers on integers, and dequantize for whoever else reads."""
    constants = _constants(graph, group.tensors[0], parameters)
    integers = {name: graph.unique(f"{name}_quantized") for name in group.tensors}
    for name in group.sources:
        producer = graph.producers.get(name)
        value = name
        if name in plan.integer_only and producer is not None:
            value = graph.unique(f"{name}_float")
            producer.output[list(producer.output).index(name)] = value
        graph.add_named_node("QuantizeLinear", [value, *constants], integers[name])
    for name in group.tensors:
        _let_read(graph, plan, name, integers, constants)
    for name in group.moved:
        _move_integers(graph, graph.producers[name], integers, constants[1])


def _let_read(graph: Graph, plan: Plan, name: str, integers: dict[str, str], constants: list[str]) -> None:
    """Give the tensor's readers, but for movers inside the group, what the integers stand for."""
    readers = [node for node in graph.consumers[name] if node.name not in plan.movers]
    inputs = [integers[name], *constants]
    if name in plan.moved or (name in plan.integer_only and name in graph.producers):
        if readers or name in graph.outputs:
            graph.add_named_node("DequantizeLinear", inputs, name)
    elif readers := [node for node in readers if node.name in plan.readers]:
        graph.redirect(name, graph.add_node("DequantizeLinear", inputs, f"{name}_dequantized"), readers)


def _move_integers(graph: Graph, node: onnx.NodeProto, integers: dict[str, str], zero_point: str) -> None:
    """Let a mover take and give integers; what Pad adds is the integer that stands for 0."""
    for i, name in enumerate(node.input):
        if name in integers:
            node.input[i] = integers[name]
    node.output[0] = integers[node.output[0]]
    if node.op_type == "Pad":
        while len(node.input) < 3:
            node.input.append("")
        node.input[2] = zero_point
