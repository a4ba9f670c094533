"""SmoothQuant: outliers of activations move into the weights before quantization."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import onnx

from paring.data.job import Job
from paring.errors import TechniqueError
from paring.graph.onnx_graph import Array, Graph
from paring.graph.refusals import require_float_graph
from paring.graph.rescaling import normalisation, normalised_inputs
from paring.settings import check_types
from paring.techniques.base import GraphTechnique, Role
from paring.techniques.calibration import absolute_maxima
from paring.techniques.layer_coverage import layer_coverage, nothing_fits
from paring.types import Coverage

SMALLEST = 1e-5


@dataclass(frozen=True)
class SmoothQuant(GraphTechnique):
    """Scales each channel of a layer normalisation's output down and the weights that read it up; the answers stay.

    Xiao et al., "SmoothQuant" (2022), eq. 4: s_j = max|X_j|^alpha / max|W_j|^(1 - alpha), the maximum over all
    layers that read X. Where only linear layers read X, the normalisation's own scale and shift take 1/s, and nothing
    is computed in addition. With `anywhere` all other linear layers get a multiplication by 1/s in front, which costs
    little: those behind a normalisation that a residual reads too, as in BERT, and those behind an activation. Layers
    whose weight others read stay as they are. It is followed by an integer technique.
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
        found, _ = normalised_inputs(editable, anywhere=self.anywhere)
        largest = absolute_maxima(editable.model, [each.tensor for each in found], job)
        for each in found:
            each.divide(editable, self._factor(each.matrix(editable), largest[each.tensor]))
        return editable.finished()

    def _factor(self, weight: Array, activations: Array) -> Array:
        """s, from the weights that read the channels, (rows, channels), and the channels' largest magnitudes."""
        x, w = np.maximum(activations, SMALLEST), np.maximum(np.abs(weight).max(axis=0), SMALLEST)
        factor: Array = (x**self.alpha / w ** (1 - self.alpha)).astype(np.float32)
        factor[activations <= SMALLEST] = 1.0
        return factor

    def coverage(self, before: onnx.ModelProto, after: onnx.ModelProto, job: Job) -> Coverage:
        """The linear layers that read smoothed activations; for the others, why not."""
        _, reasons = normalised_inputs(Graph(before), anywhere=self.anywhere)
        return layer_coverage(self.name, before, after, reasons, "it is no linear layer")

    @classmethod
    def variants(cls, graph: onnx.ModelProto, job: Job) -> Iterator[Self]:
        """The middle first; then everywhere, where there are normalisations: what comes of them has the outliers.

        Raises TechniqueError where nothing can be smoothed, or the graph is quantized already.
        """
        require_float_graph(graph, cls.__name__)
        editable = Graph(graph)
        free, reasons = normalised_inputs(editable)
        everywhere, _ = normalised_inputs(editable, anywhere=True)
        if not any(normalisation(editable, each.tensor) for each in everywhere):
            raise nothing_fits("no linear layer can be smoothed", reasons)
        for alpha in (0.5, 0.7, 0.3) if free else ():
            yield cls(alpha)
        for alpha in (0.85, 0.7) if len(free) < len(everywhere) else ():
            yield cls(alpha, anywhere=True)
