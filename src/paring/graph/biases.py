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
        scale = np.float32(attribute(node, "beta", 1.0))
        value = np.zeros(len(shift), np.float32) if own is None else np.broadcast_to(own.reshape(-1), len(shift))
        del node.input[2:]
        node.input.append(graph.add_constant((value + shift / scale).astype(np.float32), f"{node.output[0]}_bias"))
        return
    output = node.output[0]
    node.output[0] = graph.unique(f"{output}_unshifted")
    shape = [len(shift)] + [1] * (0 if node.op_type in ("MatMul", "Gemm") else _spatial(graph, node))
    constant = graph.add_constant(shift.astype(np.float32).reshape(shape), f"{output}_shift")
    graph.add_named_node("Add", [node.output[0], constant], output)
    graph.refresh()


def _spatial(graph: Graph, node: onnx.NodeProto) -> int:
    weight = graph.constant(node.input[1])
    assert weight is not None
    return weight.ndim - 2
