"""Insertion of QuantizeLinear and DequantizeLinear nodes as a plan says."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from paring.graph.integer_weights import IntegerWeights, Weigh, constants_of, quantized_tensor
from paring.graph.onnx_graph import Graph
from paring.graph.placement import Group, Plan
from paring.ops.quantization import Parameters


def quantized(
    graph: Graph, plan: Plan, activations: Mapping[Group, Parameters], weigh: Weigh, own: Mapping[str, Parameters]
) -> Graph:
    """The graph with integer weights, int32 biases and integers between layers; edits and returns `graph`.

    `own` has what layers that quantize their input once more, for themselves, quantize it to.
    """
    nodes = {node.name: node for node in graph.nodes}
    shared = {name: parameters for group, parameters in activations.items() for name in group.tensors}
    weights = IntegerWeights(graph, weigh)
    for name in plan.layers:
        weights.replace(nodes[name], own.get(name) or shared[nodes[name].input[0]])
    for group, parameters in activations.items():
        _insert(graph, plan, group, parameters)
    for name, parameters in own.items():
        nodes[name].input[0] = weights.round_trip(nodes[name].input[0], parameters)
    return graph


def _insert(graph: Graph, plan: Plan, group: Group, parameters: Parameters) -> None:
    """Quantize the group's sources, run its movers on integers, and dequantize for whoever else reads."""
    constants = constants_of(graph, group.tensors[0], parameters)
    integers = {name: graph.unique(f"{name}_quantized") for name in group.tensors}
    for name in group.sources:
        producer = graph.producers.get(name)
        value = name
        if name in plan.integer_only and producer is not None:
            value = graph.unique(f"{name}_float")
            producer.output[list(producer.output).index(name)] = value
        quantized_tensor(graph, value, parameters, constants, integers[name])
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
