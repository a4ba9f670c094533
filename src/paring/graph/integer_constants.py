"""After an export of a network that was trained for integers: stored weights, QuantizeLinear in place of arithmetic.

A batch norm behind a convolution goes into the scales of its weights.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from paring.graph.learned import LEARNED
from paring.graph.onnx_graph import Array, Graph, attribute
from paring.ops.quantization import Parameters, quantize

if TYPE_CHECKING:
    import onnx


def with_integer_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with integers in place of constants that it quantizes; itself where it quantizes nothing."""
    if not any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        return model
    graph = Graph(model)
    _fold_casts(graph)
    _store_integers(graph)
    graph.refresh()
    for node in graph.nodes:
        _quantize_inputs(graph, node)
    graph.refresh()
    _join_equals(graph)
    graph.refresh()
    _fold_batch_norms(graph)
    graph.set_metadata(LEARNED, "scales of weights and inputs")
    return graph.finished()


def _fold_casts(graph: Graph) -> None:
    """Zero points are cast to 8 bits by nodes of their own, which need no running."""
    for node in graph.nodes:
        value = graph.constant(node.input[0]) if node.op_type == "Cast" else None
        if value is not None and value.size <= 2**16 and node.output[0] not in graph.outputs:
            from onnx import helper

            kind = helper.tensor_dtype_to_np_dtype(attribute(node, "to", 1))
            folded = graph.add_constant(value.astype(kind), node.output[0] + "_value")
            graph.redirect(node.output[0], folded, graph.consumers[node.output[0]])
            graph.model.graph.node.remove(node)
    graph.refresh()


def _store_integers(graph: Graph) -> None:
    for node in graph.nodes:
        if node.op_type != "QuantizeLinear":
            continue
        values = [graph.constant(name) for name in node.input]
        if len(values) < 3 or any(value is None for value in values):
            continue
        weight, scale, zero_point = (np.asarray(value) for value in values)
        axis = attribute(node, "axis", 1) if scale.ndim else None
        stored = graph.add_constant(quantize(weight, Parameters(scale, zero_point, axis)), f"{node.input[0]}_quantized")
        graph.redirect(node.output[0], stored, graph.consumers[node.output[0]])
        graph.model.graph.node.remove(node)


def _quantize_inputs(graph: Graph, last: onnx.NodeProto) -> None:
    """(clip(round(x / scale) + zero_point) - zero_point) * scale, node by node, as QuantizeLinear and its inverse."""
    found = _rounding(graph, last)
    if found is None:
        return
    chain, (scale, zero_point, low, high) = found
    kind = np.uint8 if low >= 0 else np.int8
    source, name = chain[0].input[0], chain[0].output[0]
    constants = [
        graph.add_constant(scale, f"{name}_scale"),
        graph.add_constant(zero_point.astype(kind), f"{name}_zero_point"),
    ]
    integers = graph.add_node("QuantizeLinear", [source, *constants], f"{name}_quantized")
    if (low, high) != (np.iinfo(kind).min, np.iinfo(kind).max):
        ends = [graph.add_constant(np.array(end, kind), f"{name}_end") for end in (low, high)]
        integers = graph.add_node("Clip", [integers, *ends], f"{name}_clipped")
    for node in chain:
        graph.model.graph.node.remove(node)
    graph.add_named_node("DequantizeLinear", [integers, *constants], last.output[0])


def _rounding(graph: Graph, last: onnx.NodeProto) -> tuple[list[onnx.NodeProto], tuple[Array, Array, int, int]] | None:
    """The nodes, first to last, and scale, zero point and ends; None where the node is not the last of such a chain."""
    wanted = ["Mul", "Sub", "Clip", "Add", "Round", "Div"]
    chain, constants = list[Any](), dict[str, list[Array]]()
    node: onnx.NodeProto | None = last
    for op_type in wanted:
        if node is None or (node.op_type != op_type and op_type in ("Sub", "Add")):
            continue  # The exporter leaves a zero point out that is 0.
        values = [graph.constant(name) for name in node.input[1:]]
        if node.op_type != op_type or any(value is None or value.size != 1 for value in values):
            return None
        if chain and len(graph.consumers[node.output[0]]) > 1:
            return None
        chain.insert(0, node)
        constants[op_type] = [np.asarray(value) for value in values]
        node = graph.producers.get(node.input[0])
    scale, zero_point = constants["Div"][0], constants.get("Add", [np.zeros((), np.float32)])[0]
    if not np.array_equal(scale, constants["Mul"][0]) or ("Sub" in constants) != ("Add" in constants):
        return None
    low, high = (int(value) for value in constants["Clip"])
    return chain, (scale.reshape(()), zero_point.reshape(()), low, high)


def _join_equals(graph: Graph) -> None:
    """Layers that read one tensor through equal quantizers read one result."""
    first: dict[tuple[Any, ...], str] = {}
    for node in graph.nodes:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear", "Clip") or node.output[0] in graph.outputs:
            continue
        key = (node.op_type, attribute(node, "axis", 1), node.input[0], *_values(graph, node.input[1:]))
        if key in first:
            graph.redirect(node.output[0], first[key], graph.consumers[node.output[0]])
            graph.model.graph.node.remove(node)
        else:
            first[key] = node.output[0]


def _values(graph: Graph, names: Iterable[str]) -> list[Any]:
    constants = ((name, graph.constant(name)) for name in names)
    return [name if value is None else (str(value.dtype), value.shape, value.tobytes()) for name, value in constants]


def _fold_batch_norms(graph: Graph) -> None:
    """gamma / sqrt(variance + eps) scales integer weights exactly: it goes into their scale, its sign into them."""
    for node in graph.nodes:
        if node.op_type != "BatchNormalization":
            continue
        convolution = graph.producers.get(node.input[0])
        constants = [graph.constant(name) for name in node.input[1:]]
        if convolution is None or convolution.op_type != "Conv" or any(value is None for value in constants):
            continue
        alone = graph.consumers[node.input[0]] == [node] and node.input[0] not in graph.outputs
        weights = graph.producers.get(convolution.input[1])
        if alone and weights is not None and weights.op_type == "DequantizeLinear":
            gamma, beta, mean, variance = (np.asarray(value, np.float64) for value in constants)
            factor = gamma / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
            if _fold(graph, convolution, weights, factor, beta - mean * factor):
                convolution.output[0] = node.output[0]
                graph.model.graph.node.remove(node)


def _fold(graph: Graph, convolution: onnx.NodeProto, weights: onnx.NodeProto, factor: Array, shift: Array) -> bool:
    """Factor and shift of each output channel into the layer; False where its weights don't allow it."""
    integers, scale = graph.constant(weights.input[0]), graph.constant(weights.input[1])
    zero_point = graph.constant(weights.input[2]) if len(weights.input) > 2 else None
    with_bias = len(convolution.input) > 2 and convolution.input[2]
    bias = graph.constant(convolution.input[2]) if with_bias else np.zeros(len(factor), np.float32)
    if integers is None or scale is None or bias is None or integers.dtype != np.int8 or not factor.all():
        return False
    if (
        (zero_point is not None and zero_point.any())
        or (integers == -128).any()
        or (scale.ndim and attribute(weights, "axis", 1))
    ):
        return False
    signs = np.sign(factor).reshape([-1] + [1] * (integers.ndim - 1)).astype(np.int8)
    name = convolution.input[1]
    new_scale = np.broadcast_to(scale, factor.shape) * np.abs(factor)
    inputs = [
        graph.add_constant(integers * signs, f"{weights.input[0]}_folded"),
        graph.add_constant(new_scale.astype(np.float32), f"{weights.input[1]}_folded"),
        graph.add_constant(np.zeros(factor.shape, np.int8), f"{weights.input[1]}_zero_point"),
    ]
    convolution.input[1] = graph.add_node("DequantizeLinear", inputs, f"{name}_folded", axis=0)
    new_bias = graph.add_constant((bias * factor + shift).astype(np.float32), f"{name}_bias_folded")
    del convolution.input[2:]
    convolution.input.append(new_bias)
    if graph.consumers[name] == [convolution]:
        graph.model.graph.node.remove(weights)
    return True
