"""Where a normalisation's scale and shift can take over what the weights behind it are multiplied with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from paring.graph.matrices import as_rows
from paring.graph.onnx_graph import Array, Graph, attribute
from paring.graph.placement import channel_axis, float_reasons

LINEAR = ("Gemm", "MatMul")

Place = tuple[onnx.NodeProto, int]
"""A node and which of its inputs."""


@dataclass(frozen=True)
class Normalised:
    """What linear layers read, these layers, and where the scale and the shift are that make it, if there are such.

    Without `places` a multiplication in front of the layers does their work.
    """

    tensor: str
    places: tuple[Place, ...]
    layers: tuple[onnx.NodeProto, ...]

    def matrix(self, graph: Graph) -> Array:
        """The weights of all layers, shape (outputs of all, channels)."""
        parts = []
        for node in self.layers:
            weight = graph.constant(node.input[1])
            assert weight is not None
            parts.append(as_rows(node, weight))
        return np.concatenate(parts)

    def divide(self, graph: Graph, factor: Array) -> None:
        """Divide the tensor by the factors, one a channel, and multiply the weights' input channels with them."""
        for place in self.places:
            rescale(graph, place, 1 / factor)
        if not self.places:
            inverse = graph.add_constant((1 / factor).astype(np.float32), f"{self.tensor}_scale")
            scaled = graph.add_node("Mul", [self.tensor, inverse], f"{self.tensor}_scaled")
            graph.redirect(self.tensor, scaled, list(self.layers))
        for node in self.layers:
            rescale(graph, (node, 1), np.expand_dims(factor, channel_axis(node)))


def rescale(graph: Graph, place: Place, factor: Array) -> None:
    """Let the node read a constant that is the present one times the factor."""
    node, position = place
    value = graph.constant(node.input[position])
    assert value is not None
    node.input[position] = graph.add_constant((value * factor).astype(np.float32), f"{node.input[position]}_scaled")


def shared(graph: Graph, node: onnx.NodeProto) -> str:
    """Why a layer's weight can't be rescaled: somebody else reads it. Empty where nobody does.

    Each would need one of its own from then on, and weights that a network shares are to stay as small as they are.
    """
    weight = node.input[1]
    if weight in graph.outputs:
        return "its weight is an output too"
    other = next((each for each in graph.consumers[weight] if each != node), None)
    return "" if other is None else f"its weight is also read by {other.name or other.op_type}"


def normalised_inputs(graph: Graph, *, anywhere: bool = False) -> tuple[list[Normalised], dict[str, str]]:
    """The normalisations that linear layers alone read, and for each other linear layer the reason.

    With `anywhere` whatever linear layers read, though others may read it too. Layers whose weight others read are
    none of them.
    """
    found: dict[str, Normalised] = {}
    reasons: dict[str, str] = {}
    unfit = float_reasons(graph, operators=LINEAR)
    for node in graph.nodes:
        if not _is_linear(graph, node) or node.input[0] in graph.initializers:
            if node.op_type in LINEAR and node.name in unfit:
                reasons[node.name] = unfit[node.name] or shared(graph, node)
            continue
        tensor = node.input[0]
        places = normalisation(graph, tensor)
        layers = tuple(n for n in graph.consumers[tensor] if _is_linear(graph, n) and n.input[0] == tensor)
        other = next((n for n in graph.consumers[tensor] if n not in layers), None)
        if places and other is None and tensor not in graph.outputs:
            found[tensor] = Normalised(tensor, places, layers)
        elif anywhere:
            found[tensor] = Normalised(tensor, (), layers)
        elif not places:
            reasons[node.name] = "its input does not come from a layer normalisation with a scale of its own"
        else:
            reasons[node.name] = f"its input is also read by {'the output' if other is None else other.op_type}"
    return list(found.values()), reasons


def _is_linear(graph: Graph, node: onnx.NodeProto) -> bool:
    if node.op_type not in LINEAR or (node.op_type == "Gemm" and attribute(node, "transA", 0)):
        return False
    weight = graph.constant(node.input[1])
    fits = weight is not None and weight.ndim == 2 and weight.dtype == np.float32
    return fits and not shared(graph, node)


def normalisation(graph: Graph, tensor: str) -> tuple[Place, ...]:
    """Where the scale and the shift are that made the tensor, vectors over its last axis; none where they are not."""
    node = graph.producers.get(tensor)
    if node is None:
        return ()
    if node.op_type == "LayerNormalization" and attribute(node, "axis", -1) == -1:
        places = tuple((node, place) for place in (1, 2) if len(node.input) > place and node.input[place])
        return places if all(_is_vector(graph, *place) for place in places) else ()
    shift: tuple[Place, ...] = ()
    if node.op_type == "Add" and (place := _vector_input(graph, node)) is not None:
        shift, tensor = ((node, place),), node.input[1 - place]
        node = graph.producers.get(tensor)
        if node is None or len(graph.consumers[tensor]) != 1 or tensor in graph.outputs:
            return ()
    if node.op_type == "Mul" and (place := _vector_input(graph, node)) is not None:
        return ((node, place), *shift)
    return ()


def _is_vector(graph: Graph, node: onnx.NodeProto, place: int) -> bool:
    value = graph.constant(node.input[place])
    return value is not None and value.dtype == np.float32 and value.ndim > 0 and value.size == value.shape[-1] > 1


def _vector_input(graph: Graph, node: onnx.NodeProto) -> int | None:
    """Which input of a binary operator is a constant vector over the last axis."""
    return next((place for place in (0, 1) if _is_vector(graph, node, place)), None)
