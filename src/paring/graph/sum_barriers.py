"""What a convolution adds to is kept apart from its integers: OpenVINO would join both, and round the sum alone.

A maximum with the least number there is changes nothing, and is no part of what it joins to a convolution.
"""

from __future__ import annotations

import numpy as np
import onnx

from paring.graph.onnx_graph import Graph

LEAST = np.finfo(np.float32).min


def part_sums(graph: Graph) -> None:
    """Put a maximum between what convolutions give, quantized, and the sums that read it."""
    for node in graph.nodes:
        quantizer = graph.producers.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        layer = graph.producers.get(quantizer.input[0]) if quantizer is not None and quantizer.input else None
        sums = [reader for reader in graph.consumers[node.output[0]] if reader.op_type == "Add"]
        if layer is not None and layer.op_type == "Conv" and sums:
            least = graph.add_constant(np.array(LEAST), f"{node.output[0]}_least")
            graph.redirect(
                node.output[0], graph.add_node("Max", [node.output[0], least], f"{node.output[0]}_apart"), sums
            )


def is_barrier(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether a node is such a maximum."""
    least = graph.constant(node.input[1]) if node.op_type == "Max" and len(node.input) == 2 else None
    return least is not None and least.shape == () and bool(least == LEAST)
