"""What an ONNX graph's layers are and cost: its skeleton, the shapes that inference finds, parameters and MACs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx
from onnx import TensorProto

WEIGHT_INPUT = {"Conv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1, "Gather": 0, "LSTM": 1, "GRU": 1, "RNN": 1}
"""Operators that hold weights, and which of their inputs that is."""

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)

SMALL_CONSTANT = 1024
"""Elements of a constant that may hold a shape."""


@dataclass(frozen=True)
class WeightedLayer:
    """A node with constant weights: its name, operator, weight's name, parameters, and MACs for one row.

    The weight may be the transpose of a constant, and has the name of what the node reads.
    Dimensions that vary other than the batch count as 1, so MACs are then those of one position.
    """

    name: str
    op_type: str
    weight: str
    parameters: int
    macs: int


def skeleton(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph, with inputs of their types and shapes in place of weights.

    What checks a graph or infers its shapes copies it through a protocol buffer, which ends at 2 GiB. Small constants
    stay: shapes may be computed from them.
    """
    graph = model.graph
    given = {value.name for value in graph.input}
    small = [tensor for tensor in graph.initializer if math.prod(tensor.dims) <= SMALL_CONSTANT]
    weights = [t for t in graph.initializer if math.prod(t.dims) > SMALL_CONSTANT and t.name not in given]
    bones = onnx.helper.make_graph(
        graph.node,
        graph.name or "graph",
        [*graph.input, *(onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in weights)],
        graph.output,
        small,
        value_info=graph.value_info,
        sparse_initializer=graph.sparse_initializer,
    )
    after = onnx.helper.make_model(bones, opset_imports=model.opset_import, functions=model.functions)
    after.ir_version = model.ir_version
    return after


def shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors that inference finds, dimensions that vary as 1."""
    inferred = onnx.shape_inference.infer_shapes(skeleton(model), data_prop=True).graph
    found: dict[str, tuple[int, ...]] = {}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        if value.type.tensor_type.HasField("shape"):
            found[value.name] = tuple(d.dim_value or 1 for d in value.type.tensor_type.shape.dim)
    return found | {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}


def _macs(node: onnx.NodeProto, weight: tuple[int, ...], known: dict[str, tuple[int, ...]]) -> int:
    """Multiply-accumulates of one row, 0 where the shapes are unknown."""
    size = math.prod(weight)
    if node.op_type == "Gemm":
        return size
    if node.op_type == "MatMul":
        return size * math.prod(known.get(node.output[0], (1, 1))[1:-1])
    if node.op_type == "Conv":
        return size * math.prod(known.get(node.output[0], (0,) * 4)[2:])
    if node.op_type == "ConvTranspose":
        return size * math.prod(known.get(node.input[0], (0,) * 4)[2:])
    return 0


def weighted_layers(model: onnx.ModelProto) -> list[WeightedLayer]:
    """The nodes with constant weights of two or more axes, in the order of the graph.

    A model given in an editable copy (`Graph(model).model`) has a name for each; nameless nodes go by their output.
    """
    known = shapes(model)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Transpose" and node.input[0] in constants:
            constants[node.output[0]] = constants[node.input[0]]
    layers = []
    for node in model.graph.node:
        place = WEIGHT_INPUT.get(node.op_type)
        if place is None or place >= len(node.input) or node.input[place] not in constants:
            continue
        weight = node.input[place]
        shape = tuple(constants[weight].dims)
        if len(shape) < 2 or constants[weight].data_type not in FLOATS:
            continue
        macs = _macs(node, shape, known)
        layers.append(WeightedLayer(node.name or node.output[0], node.op_type, weight, math.prod(shape), macs))
    return layers
