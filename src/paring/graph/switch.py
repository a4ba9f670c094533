"""A float graph in which one layer at a time can be switched to 8-bit integers: sensitivity without many graphs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from paring.graph.integer_weights import IntegerWeights, Weigh
from paring.graph.onnx_graph import Graph
from paring.ops.quantization import Parameters

NO_LAYER = -1


def switchable(
    graph: Graph, layers: Sequence[str], activations: Mapping[str, Parameters], weigh: Weigh
) -> tuple[onnx.ModelProto, str]:
    """The graph, edited, and the name of its new input: the number of the one of `layers` that runs in integers.

    That input is int64 of shape (rows,), equal in all rows because sessions want the batch as axis 0 of every input;
    NO_LAYER leaves all layers float. `activations` holds scale and zero point of each tensor that a layer reads.
    """
    switch = graph.unique("integer_layer")
    graph.model.graph.input.append(helper.make_tensor_value_info(switch, TensorProto.INT64, [None]))
    graph.inputs.append(switch)
    number_now = graph.add_node("ReduceMax", [switch], f"{switch}_number", keepdims=1)
    weights = IntegerWeights(graph, weigh)
    nodes = {node.name: node for node in graph.nodes}
    for number, name in enumerate(layers):
        node = nodes[name]
        chosen = graph.add_node(
            "Equal", [number_now, graph.add_constant(np.array([number]), "number")], f"{name}_chosen"
        )
        output = node.output[0]
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = graph.unique(f"{name}_integer")
        node.output[0], copy.output[0] = graph.unique(f"{output}_float"), graph.unique(f"{output}_integer")
        copy.input[0] = weights.round_trip(node.input[0], activations[node.input[0]])
        weights.replace(copy, activations[node.input[0]], layer=name)
        graph.model.graph.node.append(copy)
        graph.add_named_node("Where", [chosen, copy.output[0], node.output[0]], output)
    return graph.finished(), switch
