"""After an export of a network that was trained for integers: stored weights, QuantizeLinear in place of arithmetic.

A batch norm behind a convolution goes into the scales of its weights.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx

from paring.graph.learned import LEARNED
from paring.graph.onnx_graph import Array, Graph, attribute
from paring.graph.sum_barriers import part_sums
from paring.ops.quantization import Parameters, quantize, widening

QUANTIZING = ("QuantizeLinear", "DequantizeLinear")


def with_integer_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with integers in place of constants that it quantizes; itself where it quantizes nothing."""
    if not any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        return model
    graph = Graph(model)
    for node in graph.nodes:
        _quantize_inputs(graph, node)
    for step in (
        _fold_casts,
        _join_equals,
        _store_integers,
        _turn_weights,
        _fold_batch_norms,
        _widen,
        _store_biases,
        part_sums,
        _drop_unread,
    ):
        graph.refresh()
        step(graph)
    graph.set_metadata(LEARNED, "scales of weights and inputs")
    return graph.finished()


def _fold_casts(graph: Graph) -> None:
    """Zero points are cast to 8 bits by nodes of their own, which need no running."""
    for node in graph.nodes:
        value = graph.constant(node.input[0]) if node.op_type == "Cast" else None
        readers = graph.consumers[node.output[0]]
        if value is not None and all(reader.op_type in QUANTIZING for reader in readers):
            kind = onnx.helper.tensor_dtype_to_np_dtype(attribute(node, "to", 1))
            folded = graph.add_constant(value.astype(kind), node.output[0] + "_value")
            graph.redirect(node.output[0], folded, readers)


def _store_integers(graph: Graph) -> None:
    for node in graph.nodes:
        values = [graph.constant(name) for name in node.input] if node.op_type == "QuantizeLinear" else []
        if len(values) < 3 or any(value is None for value in values):
            continue
        weight, scale, zero_point = (np.asarray(value) for value in values)
        axis = attribute(node, "axis", 1) if scale.ndim else None
        stored = graph.add_constant(quantize(weight, Parameters(scale, zero_point, axis)), f"{node.input[0]}_quantized")
        graph.redirect(node.output[0], stored, graph.consumers[node.output[0]])


def _turn_weights(graph: Graph) -> None:
    """Integers that are transposed in front of a product are stored so: runtimes look for them right in front."""
    for node in graph.nodes:
        read = graph.producers.get(node.input[0]) if node.op_type == "Transpose" else None
        integers = graph.constant(read.input[0]) if read is not None and read.op_type == "DequantizeLinear" else None
        if read is None or integers is None or node.output[0] in graph.outputs:
            continue
        order = list(attribute(node, "perm", range(integers.ndim)[::-1]))
        stored = graph.add_constant(integers.transpose(order), f"{read.input[0]}_turned")
        axis = order.index(attribute(read, "axis", 1))
        turned = graph.add_node("DequantizeLinear", [stored, *read.input[1:]], f"{node.output[0]}_turned", axis=axis)
        graph.redirect(node.output[0], turned, graph.consumers[node.output[0]])


def _widen(graph: Graph) -> None:
    """Small integers times a power of two, their scale over it: the same numbers, in a finer unit."""
    for node in graph.nodes:
        held = [graph.constant(name) for name in node.input[:2]] if node.op_type == "DequantizeLinear" else []
        integers, scale = (*held, None, None)[:2]
        if integers is None or scale is None or integers.dtype != np.int8:
            continue
        factor = widening(int(np.abs(integers.astype(int)).max()))
        if factor > 1 and (scale / factor >= np.finfo(scale.dtype).tiny).all():
            node.input[0] = graph.add_constant(integers * np.int8(factor), f"{node.input[0]}_wide")
            node.input[1] = graph.add_constant(np.asarray(scale / factor, scale.dtype), f"{node.input[1]}_wide")


def _store_biases(graph: Graph) -> None:
    """Of linear layers as int32 in units of input scale x weight scale: else ONNX Runtime multiplies in float."""
    for node in graph.nodes:
        if node.op_type != "Gemm" or len(node.input) < 3 or not attribute(node, "transB", 0):
            continue
        bias, read, weights = graph.constant(node.input[2]), *(graph.producers.get(name) for name in node.input[:2])
        if bias is None or read is None or weights is None or {read.op_type, weights.op_type} != {"DequantizeLinear"}:
            continue
        scales = [graph.constant(read.input[1]), graph.constant(weights.input[1])]
        if any(scale is None for scale in scales) or graph.constant(weights.input[0]) is None:
            continue
        unit = (np.asarray(scales[0], np.float64) * np.asarray(scales[1], np.float64)).astype(np.float32)
        with np.errstate(all="ignore"):
            integers = np.rint(bias / unit)
        if unit.shape == bias.shape and (unit >= np.finfo(np.float32).tiny).all() and (np.abs(integers) < 2**31).all():
            constants = [integers.astype(np.int32), unit, np.zeros_like(integers, np.int32)]
            names = [graph.add_constant(value, f"{node.input[2]}_integers") for value in constants]
            node.input[2] = graph.add_node("DequantizeLinear", names, f"{node.input[2]}_dequantized", axis=0)


def _drop_unread(graph: Graph) -> None:
    """Nodes whose place others took."""
    for node in reversed(graph.nodes):
        if not any(name in graph.outputs or graph.consumers[name] for name in node.output):
            graph.model.graph.node.remove(node)
            for name in node.input:
                graph.consumers[name] = [reader for reader in graph.consumers[name] if reader is not node]


def _quantize_inputs(graph: Graph, last: onnx.NodeProto) -> None:
    """(clip(round(x / scale) + zero_point) - zero_point) * scale, node by node, as QuantizeLinear and its inverse."""
    found = _rounding(graph, last)
    if found is None:
        return
    chain, (scale, zero_point, low, high) = found
    # Of int8, ONNX Runtime has no convolution that clips to fewer bits.
    shift = 0 if low >= 0 else 128
    zero_point, low, high, kind = zero_point + shift, low + shift, high + shift, np.uint8
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
    chain, constants = list[Any](), dict[str, list[Array]]()
    node: onnx.NodeProto | None = last
    for op_type in ("Mul", "Sub", "Clip", "Add", "Round", "Div"):
        if (node is None or node.op_type != op_type) and op_type not in ("Clip", "Round"):
            continue  # The exporter leaves out a zero point that is 0 and a scale that is 1.
        if node is None or node.op_type != op_type or (chain and len(graph.consumers[node.output[0]]) > 1):
            return None
        values = [graph.constant(name) for name in node.input[1:]]
        if any(value is None or value.size != 1 for value in values):
            return None
        chain.insert(0, node)
        constants[op_type] = [np.asarray(value) for value in values]
        node = graph.producers.get(node.input[0])
    scale, again = (constants.get(op_type, [np.ones((), np.float32)])[0] for op_type in ("Div", "Mul"))
    zero_point, back = (constants.get(op_type, [np.zeros((), np.float32)])[0] for op_type in ("Add", "Sub"))
    ends = constants["Clip"]
    if scale != again or not scale > 0 or zero_point != back or not _fit_8_bits(*ends, zero_point):
        return None
    low, high = (int(end) for end in ends)
    return chain, (scale.reshape(()), zero_point.reshape(()), low, high)


def _fit_8_bits(*integers: Array) -> bool:
    """Whether the numbers, of which the first is the least, are integers that one type of 8 bits holds."""
    kind = np.iinfo(np.uint8 if integers[0] >= 0 else np.int8)
    return len(integers) == 3 and all(kind.min <= each <= kind.max and each == np.rint(each) for each in integers)


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
        layer = graph.producers.get(node.input[0]) if node.op_type == "BatchNormalization" else None
        if layer is None or graph.consumers[node.input[0]] != [node] or node.input[0] in graph.outputs:
            continue
        outputs_first = layer.op_type == "Conv" or (layer.op_type == "Gemm" and attribute(layer, "transB", 0))
        weights = graph.producers.get(layer.input[1]) if outputs_first else None
        if weights is not None and weights.op_type == "DequantizeLinear" and _fold(graph, layer, weights, node):
            layer.output[0] = node.output[0]
            graph.model.graph.node.remove(node)


def _fold(graph: Graph, layer: onnx.NodeProto, weights: onnx.NodeProto, norm: onnx.NodeProto) -> bool:
    """Factor and shift of each output channel into the layer; False where its weights don't allow it."""
    names = [name for name in (*weights.input, *norm.input[1:], *layer.input[2:]) if name]
    held = [np.asarray(value) for name in names if (value := graph.constant(name)) is not None]
    if len(held) < len(names) or len(weights.input) < 3 or attribute(weights, "axis", 1) != 0:
        return False
    integers, scale, zero_point, gamma, beta, mean, variance, *bias = held
    if integers.dtype != np.int8 or zero_point.any() or (integers == -128).any() or not scale.ndim:
        return False
    factor = gamma.astype(np.float64) / np.sqrt(variance.astype(np.float64) + attribute(norm, "epsilon", 1e-5))
    new_scale = scale * np.abs(factor)
    # A channel that is taken times nothing has integers 0, since there is no scale 0.
    gone = new_scale < np.finfo(scale.dtype).tiny
    signs = np.where(gone, 0, np.sign(factor)).astype(np.int8).reshape([-1] + [1] * (integers.ndim - 1))
    inputs = [
        graph.add_constant(integers * signs, f"{weights.input[0]}_folded"),
        # Its bias is rounded to units of that scale all the same.
        graph.add_constant(
            np.where(gone, new_scale[~gone].min(initial=1), new_scale).astype(scale.dtype), f"{weights.input[1]}_folded"
        ),
        graph.add_constant(np.zeros_like(zero_point), f"{weights.input[1]}_zero_point"),
    ]
    layer.input[1] = graph.add_node("DequantizeLinear", inputs, f"{layer.input[1]}_folded", axis=0)
    shift = beta + (sum(bias, np.zeros(len(factor))) - mean) * factor
    del layer.input[2:]
    layer.input.append(graph.add_constant(shift.astype(gamma.dtype), f"{norm.output[0]}_bias"))
    return True
