"""CrossLayerEqualization: layers that follow one another get channels of equal ranges before quantization."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import onnx

from paring.data.job import Job
from paring.graph.onnx_graph import Array, Graph
from paring.graph.pairs import Pair, pairs
from paring.graph.refusals import require_float_graph
from paring.graph.rescaling import rescale
from paring.ops.equalization import equalizing
from paring.techniques.base import GraphTechnique, Role
from paring.techniques.layer_coverage import layer_coverage, nothing_fits
from paring.types import Coverage

TOLERANCE = 1e-3
MOST_ROUNDS = 100


@dataclass(frozen=True)
class CrossLayerEqualization(GraphTechnique):
    """Scales each channel between two layers down where it is made and up where it is read; the answers stay.

    Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (2019), eq. 8 to 11: with
    s = sqrt(r1 r2) / r2 the channel has the same range in both weights; pair by pair, until nothing changes any more.
    Between the two may be what passes a positive factor on, as rectifiers and pools do, but nobody else who reads. A
    layer whose weight others read stays as it is. It is followed by an integer technique, and does most for one with a
    single scale for each weight.
    """

    role: ClassVar[Role] = "before"

    def apply(self, graph: onnx.ModelProto, job: Job) -> onnx.ModelProto:
        """The same function with other weights. Raises TechniqueError where the graph is quantized already."""
        require_float_graph(graph, self.name)
        editable = Graph(graph)
        found, _ = pairs(editable)
        for pair, factor in zip(found, _factors(editable, found, job), strict=True):
            _rescale(editable, pair, factor)
        return editable.finished()

    def coverage(self, before: onnx.ModelProto, after: onnx.ModelProto, job: Job) -> Coverage:
        """The layers that are one of a pair; for the others, why not."""
        _, reasons = pairs(Graph(before))
        reasons = {name: reason or "its channels have equal ranges as they are" for name, reason in reasons.items()}
        return layer_coverage(self.name, before, after, reasons, "it is no convolution or linear layer")

    @classmethod
    def variants(cls, graph: onnx.ModelProto, job: Job) -> Iterator[Self]:
        """Itself. Raises TechniqueError where no two layers are a pair, or the graph is quantized already."""
        require_float_graph(graph, cls.__name__)
        found, reasons = pairs(Graph(graph))
        if not found:
            raise nothing_fits("no two layers can be equalized", reasons)
        yield cls()


def _factors(graph: Graph, found: Sequence[Pair], job: Job) -> list[Array]:
    """What each pair's channels are divided by in the end, (channels,) each; exactly 1 where they are equal already."""
    weights = {node.name: _weight(graph, node) for pair in found for node in (pair.first, pair.second)}
    totals = [np.ones(len(pair.outputs(weights[pair.first.name]))) for pair in found]
    for _ in range(MOST_ROUNDS):
        job.check_time()
        largest = 0.0
        for pair, total in zip(found, totals, strict=True):
            first, second = weights[pair.first.name], weights[pair.second.name]
            factor = equalizing(pair.outputs(first), pair.inputs(second))
            largest = max(largest, float(np.abs(np.log(factor)).max(initial=0.0)))
            weights[pair.first.name] = first / pair.by_output(factor, first)
            weights[pair.second.name] = second * pair.by_input(factor, second)
            total *= factor
        if largest < TOLERANCE:
            break
    return [np.where(np.abs(np.log(total)) < TOLERANCE, 1.0, total) for total in totals]


def _rescale(graph: Graph, pair: Pair, factor: Array) -> None:
    """Divide the first layer and what is added to its channels by the factors, multiply the second one with them."""
    if (factor == 1).all():
        return
    rescale(graph, (pair.first, 1), 1 / pair.by_output(factor, _weight(graph, pair.first)))
    for shift in pair.shifts:
        rescale(graph, shift.place, 1 / shift.broadcast(factor))
    rescale(graph, (pair.second, 1), pair.by_input(factor, _weight(graph, pair.second)))


def _weight(graph: Graph, node: onnx.NodeProto) -> Array:
    value = graph.constant(node.input[1])
    assert value is not None
    return value.astype(np.float64)
