"""Scales that a training learned, taken out of a graph so that it can be quantized as any other, with these."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import onnx

from paring.graph.onnx_graph import Array, Graph, attribute
from paring.graph.placement import LAYERS, MOVERS, behind_rectifier
from paring.graph.refusals import require_finite, require_float_graph
from paring.graph.sum_barriers import is_barrier
from paring.ops.quantization import Parameters, dequantize

LEARNED = "paring.learned"
"""Metadata of a graph whose scales a training learned."""


@dataclass(frozen=True)
class Learned:
    """By layer: the scale of each output channel's integers, shape (channels,), and what its input is quantized to.

    `outputs` has, by tensor, what convolutions give is quantized to for all who read it, behind a rectifier that alone
    reads it.
    """

    weights: dict[str, Array] = field(default_factory=dict)
    inputs: dict[str, Parameters] = field(default_factory=dict)
    outputs: dict[str, Parameters] = field(default_factory=dict)


def is_learned(model: onnx.ModelProto) -> bool:
    """Whether the graph comes of a training for integers."""
    return any(entry.key == LEARNED for entry in model.metadata_props)


def lifted(model: onnx.ModelProto, technique: str) -> tuple[Graph, Learned]:
    """An editable float graph, and what was learned; of a float graph nothing.

    Raises TechniqueError where the graph is quantized and no training for integers made it.
    """
    if not is_learned(model):
        require_float_graph(model, technique)
        return Graph(model), Learned()
    require_finite(model)
    graph, learned = Graph(model), Learned()
    for entry in [entry for entry in graph.model.metadata_props if entry.key == LEARNED]:
        graph.model.metadata_props.remove(entry)
    for node in [node for node in graph.nodes if node.op_type == "DequantizeLinear"]:
        integers = graph.constant(node.input[0])
        if integers is not None:
            _lift_constant(graph, node, integers, learned)
        elif _is_output(graph, node):
            _lift_output(graph, node, learned)
        else:
            _lift_input(graph, node, learned)
    for node in [node for node in reversed(graph.nodes) if node.op_type in ("QuantizeLinear", "Clip")]:
        if not graph.consumers[node.output[0]] and node.output[0] not in graph.outputs:
            graph.model.graph.node.remove(node)
            graph.refresh()
    return graph, learned


def _lift_constant(graph: Graph, node: onnx.NodeProto, integers: Array, learned: Learned) -> None:
    scale, zero_point = (np.asarray(graph.constant(name)) for name in node.input[1:3])
    axis = attribute(node, "axis", 1) if scale.ndim else None
    name = graph.add_constant(dequantize(integers, Parameters(scale, zero_point, axis)), f"{node.output[0]}_float")
    readers = graph.consumers[node.output[0]]
    if integers.dtype == np.int8:
        learned.weights.update({reader.name: np.atleast_1d(scale) for reader in readers})
    graph.redirect(node.output[0], name, readers)
    graph.model.graph.node.remove(node)
    graph.refresh()


def _is_output(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether it is what a convolution gives that is quantized here, not what layers read."""
    maker = graph.producers[node.input[0]]
    source = graph.producers.get(maker.input[0]) if maker.op_type == "QuantizeLinear" else None
    readers = graph.consumers[node.output[0]]
    read = bool(readers) and all(reader.op_type in LAYERS for reader in readers)
    return source is not None and source.op_type == "Conv" and not read


def _lift_output(graph: Graph, node: onnx.NodeProto, learned: Learned) -> None:
    scale, zero_point = (np.asarray(graph.constant(name)) for name in node.input[1:3])
    source = graph.producers[graph.producers[node.input[0]].input[0]]
    for quantizer in graph.consumers[source.output[0]]:
        graph.model.graph.node.remove(quantizer)
    graph.model.graph.node.remove(node)
    source.output[0] = name = node.output[0]
    graph.refresh()
    for barrier in [reader for reader in graph.consumers[name] if is_barrier(graph, reader)]:
        graph.redirect(barrier.output[0], name, graph.consumers[barrier.output[0]])
        graph.model.graph.node.remove(barrier)
        graph.refresh()
    learned.outputs[behind_rectifier(graph, name)] = Parameters(scale, zero_point)


def _lift_input(graph: Graph, node: onnx.NodeProto, learned: Learned) -> None:
    scale, zero_point = (np.asarray(graph.constant(name)) for name in node.input[1:3])
    maker, limits = graph.producers[node.input[0]], None
    if maker.op_type == "Clip":
        low, high = (int(np.asarray(graph.constant(name))) for name in maker.input[1:3])
        maker, limits = graph.producers[maker.input[0]], (low, high)
    readers = graph.consumers[node.output[0]]
    learned.inputs.update({reader.name: Parameters(scale, zero_point, limits=limits) for reader in readers})
    graph.redirect(node.output[0], maker.input[0], readers)
    graph.model.graph.node.remove(node)
    graph.refresh()


def own_inputs(graph: Graph, learned: Learned) -> dict[str, Parameters]:
    """What layers quantize their input to that others read otherwise: with more bits, or with another scale."""
    found = {}
    for node in graph.nodes:
        given = learned.inputs.get(node.name)
        shared = shared_input(graph, node.input[:1], learned) if given is not None else None
        if given is not None and (shared is None or not _equal(shared, given)):
            found[node.name] = given
    return found


def shared_input(graph: Graph, tensors: Iterable[str], learned: Learned) -> Parameters | None:
    """What was learned for the tensors, if it will do for all who read them: one thing, of 8 bits unless all did."""
    tensors = list(tensors)
    made = [learned.outputs.get(_origin(graph, name)) for name in tensors]
    if any(made):
        first = made[0]
        return first if first and all(each is not None and _equal(each, first) for each in made) else None
    readers = [node.name for name in tensors for node in graph.consumers[name]]
    given = [learned.inputs[name] for name in readers if name in learned.inputs]
    if not given or not all(_equal(each, given[0]) for each in given[1:]):
        return None
    alone = len(given) == len(readers) and not any(name in graph.outputs for name in tensors)
    return given[0] if given[0].limits is None or alone else None


def _origin(graph: Graph, name: str) -> str:
    """The tensor whose values one has, moved about at most."""
    while (node := graph.producers.get(name)) is not None and node.op_type in MOVERS and node.op_type != "Concat":
        name = node.input[0]
    return name


def _equal(one: Parameters, other: Parameters) -> bool:
    same = np.array_equal(one.scale, other.scale) and np.array_equal(one.zero_point, other.zero_point)
    return same and one.limits == other.limits
