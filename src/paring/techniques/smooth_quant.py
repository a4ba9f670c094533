"""SmoothQuant: outliers of activations move into the weights before quantization."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import onnx

from paring.data.job import Job
from paring.errors import TechniqueError
from paring.graph.onnx_graph import Array, Graph, attribute, require_finite, require_float_graph
from paring.settings import check_types
from paring.techniques.base import GraphTechnique, Role
from paring.techniques.calibration import absolute_maxima
from paring.techniques.layer_coverage import layer_coverage, nothing_fits
from paring.types import Coverage

LINEAR = ("Gemm", "MatMul")
SMALLEST = 1e-5

Place = tuple[onnx.NodeProto, int]
"""A node and which of its inputs."""


@dataclass(frozen=True)
class Smoothing:
    """What linear layers read, and these; where the scale and the shift are that make it, if there are such.

    Without `places` a multiplication in front of the layers takes 1/s.
    """

    tensor: str
    places: tuple[Place, ...]
    layers: tuple[onnx.NodeProto, ...]


@dataclass(frozen=True)
class SmoothQuant(GraphTechnique):
    """Scales each channel of a layer normalisation's output down and the weights that read it up; the answers stay.

    Xiao et al., "SmoothQuant" (2022), eq. 4: s_j = max|X_j|^alpha / max|W_j|^(1 - alpha), the maximum over all
    layers that read X. Where only linear layers read X, the normalisation's own scale and shift take 1/s, and nothing
    is computed in addition. With `anywhere` all other linear layers get a multiplication by 1/s in front, which costs
    little: those behind a normalisation that a residual reads too, as in BERT, and those behind an activation. It is
    followed by an integer technique.
    """

    alpha: float = 0.5
    anywhere: bool = False

    role: ClassVar[Role] = "before"

    def __post_init__(self) -> None:
        check_types(self)
        if not 0 < self.alpha < 1:
            raise TechniqueError(f"alpha={self.alpha} must be above 0 and below 1, for example 0.5.")

    def apply(self, graph: onnx.ModelProto, job: Job) -> onnx.ModelProto:
        """The same function with other weights. Raises TechniqueError where the graph is quantized already."""
        require_float_graph(graph, self.name)
        editable = Graph(graph)
        smoothings, _ = _found(editable, self.anywhere)
        largest = absolute_maxima(editable.model, [smoothing.tensor for smoothing in smoothings], job)
        for smoothing in smoothings:
            self._smooth(editable, smoothing, largest[smoothing.tensor])
        return editable.finished()

    def _smooth(self, graph: Graph, smoothing: Smoothing, activations: Array) -> None:
        """Divide by s what makes the tensor, or the tensor itself, and multiply the weights' input channels with it."""
        weights = [(node, _weight(graph, node)) for node in smoothing.layers]
        magnitudes = np.max([np.abs(weight).max(axis=_outputs(node)) for node, weight in weights], axis=0)
        x, w = np.maximum(activations, SMALLEST), np.maximum(magnitudes, SMALLEST)
        factor = (x**self.alpha / w ** (1 - self.alpha)).astype(np.float32)
        factor[activations <= SMALLEST] = 1.0
        for place in smoothing.places:
            _rescale(graph, place, 1 / factor)
        if not smoothing.places:
            scale = graph.add_constant(1 / factor, f"{smoothing.tensor}_scale")
            smooth = graph.add_node("Mul", [smoothing.tensor, scale], f"{smoothing.tensor}_smooth")
            graph.redirect(smoothing.tensor, smooth, list(smoothing.layers))
        for node, _ in weights:
            _rescale(graph, (node, 1), np.expand_dims(factor, _outputs(node)))

    def coverage(self, before: onnx.ModelProto, after: onnx.ModelProto, job: Job) -> Coverage:
        """The linear layers that read smoothed activations; for the others, why not."""
        _, reasons = _found(Graph(before), self.anywhere)
        return layer_coverage(self.name, before, after, reasons, "it is no linear layer")

    @classmethod
    def variants(cls, graph: onnx.ModelProto, job: Job) -> Iterator[Self]:
        """The middle first; then everywhere, where there are normalisations: what comes of them has the outliers.

        Raises TechniqueError where nothing can be smoothed, or the graph is quantized already.
        """
        require_float_graph(graph, cls.__name__)
        editable = Graph(graph)
        free, reasons = _found(editable, anywhere=False)
        everywhere, _ = _found(editable, anywhere=True)
        if not any(_normalisation(editable, smoothing.tensor) for smoothing in everywhere):
            raise nothing_fits("no linear layer can be smoothed", reasons)
        for alpha in (0.5, 0.7, 0.3) if free else ():
            yield cls(alpha)
        for alpha in (0.85, 0.7) if len(free) < len(everywhere) else ():
            yield cls(alpha, anywhere=True)


def _outputs(node: onnx.NodeProto) -> int:
    """The axis of a linear layer's weight that counts its outputs."""
    return 0 if node.op_type == "Gemm" and attribute(node, "transB", 0) else 1


def _weight(graph: Graph, node: onnx.NodeProto) -> Array:
    value = graph.constant(node.input[1])
    assert value is not None
    require_finite(node.input[1], value)
    return value


def _rescale(graph: Graph, place: Place, factor: Array) -> None:
    """Let the node read a constant that is the present one times the factor."""
    node, position = place
    value = graph.constant(node.input[position])
    assert value is not None
    node.input[position] = graph.add_constant((value * factor).astype(np.float32), f"{node.input[position]}_smooth")


def _found(graph: Graph, anywhere: bool) -> tuple[list[Smoothing], dict[str, str]]:
    """What can be smoothed, and for each linear layer left alone the reason."""
    smoothings: dict[str, Smoothing] = {}
    reasons: dict[str, str] = {}
    for node in graph.nodes:
        if not _is_linear(graph, node) or node.input[0] in graph.initializers:
            continue
        tensor = node.input[0]
        places = _normalisation(graph, tensor)
        layers = tuple(n for n in graph.consumers[tensor] if _is_linear(graph, n) and n.input[0] == tensor)
        other = next((n for n in graph.consumers[tensor] if n not in layers), None)
        if places and other is None and tensor not in graph.outputs:
            smoothings[tensor] = Smoothing(tensor, places, layers)
        elif anywhere:
            smoothings[tensor] = Smoothing(tensor, (), layers)
        elif not places:
            reasons[node.name] = "its input does not come from a layer normalisation with a scale of its own"
        else:
            reasons[node.name] = f"its input is also read by {'the output' if other is None else other.op_type}"
    return list(smoothings.values()), reasons


def _is_linear(graph: Graph, node: onnx.NodeProto) -> bool:
    if node.op_type not in LINEAR or (node.op_type == "Gemm" and attribute(node, "transA", 0)):
        return False
    weight = graph.constant(node.input[1])
    return weight is not None and weight.ndim == 2 and weight.dtype == np.float32


def _normalisation(graph: Graph, tensor: str) -> tuple[Place, ...]:
    """Where the scale and the shift are that made the tensor, vectors over its last axis; none where they are not."""
    node = graph.producers.get(tensor)
    if node is None:
        return ()
    if node.op_type == "LayerNormalization" and attribute(node, "axis", -1) == -1:
        places = tuple((node, place) for place in (1, 2) if len(node.input) > place and node.input[place])
        return places if all(_vector(graph, *place) for place in places) else ()
    shift: tuple[Place, ...] = ()
    if node.op_type == "Add" and (place := _vector_input(graph, node)) is not None:
        shift, tensor = ((node, place),), node.input[1 - place]
        node = graph.producers.get(tensor)
        if node is None or len(graph.consumers[tensor]) != 1 or tensor in graph.outputs:
            return ()
    if node.op_type == "Mul" and (place := _vector_input(graph, node)) is not None:
        return ((node, place), *shift)
    return ()


def _vector(graph: Graph, node: onnx.NodeProto, place: int) -> bool:
    value = graph.constant(node.input[place])
    return value is not None and value.dtype == np.float32 and value.ndim > 0 and value.size == value.shape[-1] > 1


def _vector_input(graph: Graph, node: onnx.NodeProto) -> int | None:
    """Which input of a binary operator is a constant vector over the last axis."""
    return next((place for place in (0, 1) if _vector(graph, node, place)), None)
