"""What is added to a layer's outputs, wherever a graph keeps it."""

from __future__ import annotations

import numpy as np
import onnx

from paring.graph.onnx_graph import Array, Graph, attribute


def add_to_bias(graph: Graph, node: onnx.NodeProto, shift: Array) -> None:
    """Add a number to each output channel of a Conv, Gemm or MatMul: to its own bias, to that of an Add, or a new one.

    `shift` has shape (channels,). Raises nothing: where the bias is no constant the shift is added behind the layer.
    """
    own = graph.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if node.op_type != "MatMul" and (own is not None or len(node.input) < 3 or not node.input[2]):
        value = np.zeros(len(shift), np.float32) if own is None else np.broadcast_to(own.reshape(-1), len(shift))
        value = value * np.float32(attribute(node, "beta", 1.0))
        for entry in node.attribute:
            if entry.name == "beta":
                entry.f = 1.0
        del node.input[2:]
        node.input.append(graph.add_constant((value + shift).astype(np.float32), f"{node.output[0]}_bias"))
        return
    if (added := _added(graph, node, len(shift))) is not None:
        reader, place, value = added
        reader.input[place] = graph.add_constant((value + shift).astype(np.float32), f"{reader.input[place]}_corrected")
        return
    output = node.output[0]
    node.output[0] = graph.unique(f"{output}_unshifted")
    shape = [len(shift)] + [1] * (0 if node.op_type in ("MatMul", "Gemm") else _spatial(graph, node))
    constant = graph.add_constant(shift.astype(np.float32).reshape(shape), f"{output}_shift")
    graph.add_named_node("Add", [node.output[0], constant], output)
    graph.refresh()


def _added(graph: Graph, node: onnx.NodeProto, channels: int) -> tuple[onnx.NodeProto, int, Array] | None:
    """The Add that alone reads a MatMul, and which of its inputs is a constant of one number a channel, and that."""
    readers = graph.consumers[node.output[0]]
    if node.op_type != "MatMul" or len(readers) != 1 or readers[0].op_type != "Add" or node.output[0] in graph.outputs:
        return None
    for place, name in enumerate(readers[0].input):
        value = graph.constant(name)
        if value is not None and value.ndim and value.size == value.shape[-1] == channels:
            return readers[0], place, value
    return None


def _spatial(graph: Graph, node: onnx.NodeProto) -> int:
    weight = graph.constant(node.input[1])
    assert weight is not None
    return weight.ndim - 2
