"""A layer's weight as a matrix, a row for each output and a column for each number that a row is multiplied with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from paring.graph.onnx_graph import Array, Graph, attribute
from paring.graph.placement import channel_axis, channels_of, float_reasons
from paring.ops.moments import Patches

OPERATORS = ("Conv", "Gemm", "MatMul")

MOST_COLUMNS = 4608
"""Numbers that an output may be made of where moments of all pairs of them are taken: 170 MB of these."""


@dataclass(frozen=True)
class Reading:
    """What a layer multiplies its weight with: a tensor, cut into patches. Several layers may share one."""

    tensor: str
    patches: Patches


def as_rows(node: onnx.NodeProto, weight: Array) -> Array:
    """A layer's weight as (outputs, columns).

    In groups a row holds the columns of its own group alone, as the weight of Conv does.
    """
    axis = channel_axis(node)
    return np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)


def from_rows(node: onnx.NodeProto, rows: Array, shape: tuple[int, ...]) -> Array:
    """A matrix (outputs, columns), also one of codes, as the weight of that shape."""
    axis = channel_axis(node)
    others = (size for place, size in enumerate(shape) if place != axis)
    return np.moveaxis(rows.reshape(shape[axis], *others), 0, axis)


def reading(graph: Graph, node: onnx.NodeProto) -> Reading:
    """What a Conv, Gemm or MatMul with a constant weight reads."""
    if node.op_type != "Conv":
        return Reading(node.input[0], Patches())
    weight = graph.constant(node.input[1])
    assert weight is not None
    kernel = weight.shape[2:]
    ones = [1] * len(kernel)
    patches = Patches(
        kernel,
        tuple(attribute(node, "strides", ones)),
        tuple(attribute(node, "dilations", ones)),
        tuple(attribute(node, "pads", [0, 0] * len(kernel))),
        attribute(node, "auto_pad", b"NOTSET").decode(),
        int(attribute(node, "group", 1)),
    )
    return Reading(node.input[0], patches)


def matrix_reasons(graph: Graph) -> dict[str, str]:
    """For each weighted layer why it can't be rounded by what it reads, "" where it can."""
    nodes = {node.name: node for node in graph.nodes}
    reasons = float_reasons(graph, operators=OPERATORS)
    return {name: _reason(graph, nodes[name], reason) for name, reason in reasons.items()}


def _reason(graph: Graph, node: onnx.NodeProto, reason: str) -> str:
    if node.op_type not in OPERATORS:
        return f"{node.op_type} is no product of a matrix and patches of its input"
    weight = graph.constant(node.input[1])
    columns = 0 if weight is None else weight.size // max(1, channels_of(node, weight.shape))
    wide = f"each output reads {columns} numbers, above {MOST_COLUMNS}" if columns > MOST_COLUMNS else ""
    return reason or wide
