"""A float graph whose layers can be switched to any of several integer formats: sensitivity without many graphs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from paring.graph.integer_weights import IntegerWeights, Weigh, gemm_folded
from paring.graph.onnx_graph import Graph
from paring.ops.quantization import Parameters

FLOAT_NOW = -1


def switchable(
    graph: Graph, layers: Sequence[str], activations: Mapping[str, Parameters], weighs: Sequence[Weigh]
) -> tuple[onnx.ModelProto, str]:
    """The graph, edited, and the name of its new input: for each of `layers` the number of the one of `weighs` to use.

    That input is int64 of shape (rows, layers), equal in all rows because sessions want the batch as axis 0 of every
    input; FLOAT_NOW leaves a layer float. `activations` holds scale and zero point of each tensor that a layer reads.
    Weights are selected, not outputs, so that each layer is computed once.
    """
    switch = graph.unique("formats_now")
    graph.model.graph.input.append(helper.make_tensor_value_info(switch, TensorProto.INT64, [None, len(layers)]))
    graph.inputs.append(switch)
    now = _item(graph, switch, 0)
    integers = [IntegerWeights(graph, weigh) for weigh in weighs]
    nodes = {node.name: node for node in graph.nodes}
    for number, name in enumerate(layers):
        _switch(graph, nodes[name], _item(graph, now, number), activations[nodes[name].input[0]], integers)
    return graph.finished(), switch


def _switch(
    graph: Graph, node: onnx.NodeProto, number: str, inputs: Parameters, integers: Sequence[IntegerWeights]
) -> None:
    """Let the layer read what the format of that number has in place of its input, weight and bias."""
    copies = [onnx.NodeProto() for _ in integers]
    for copy, weights in zip(copies, integers, strict=True):
        copy.CopyFrom(node)
        weights.replace(copy, inputs, layer=node.name)
    weight = graph.constant(node.input[1])
    assert weight is not None
    factor, bias = gemm_folded(graph, node, weight)
    if factor != 1:
        node.input[1] = graph.add_constant(weight * factor, f"{node.input[1]}_scaled")
    if bias is not None:
        node.input[2] = graph.add_constant(np.ascontiguousarray(bias), f"{node.input[2]}_each")
    is_float = _equals(graph, number, FLOAT_NOW)
    rounded = integers[0].round_trip(node.input[0], inputs)
    node.input[0] = graph.add_node("Where", [is_float, node.input[0], rounded], f"{node.name}_reads")
    for option, copy in enumerate(copies):
        chosen = _equals(graph, number, option)
        for place in range(1, 2 if bias is None else 3):
            pair = [copy.input[place], node.input[place]]
            node.input[place] = graph.add_node("Where", [chosen, *pair], f"{node.name}_has")


def _item(graph: Graph, tensor: str, index: int) -> str:
    return graph.add_node("Gather", [tensor, graph.add_constant(np.array(index), "index")], f"{tensor}_{index}", axis=0)


def _equals(graph: Graph, number: str, value: int) -> str:
    return graph.add_node("Equal", [number, graph.add_constant(np.array(value), "number")], f"{number}_is")
