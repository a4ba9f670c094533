"""AWQ: the weights that read large activations are scaled up before quantization, so that they lose less."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Self

import onnx

from paring.data.job import Job
from paring.errors import TechniqueError
from paring.graph.matrices import matrix_reasons
from paring.graph.onnx_graph import Graph
from paring.graph.refusals import require_float_graph
from paring.graph.rescaling import Normalised, normalised_inputs
from paring.ops.equalization import activation_aware
from paring.ops.formats import format_of
from paring.ops.scales import ScaleChoice, Scaling
from paring.settings import check_types
from paring.techniques.base import GraphTechnique, Role
from paring.techniques.layer_coverage import layer_coverage, nothing_fits
from paring.techniques.moments import layer_moments
from paring.types import Coverage

ALPHAS = tuple(step / 20 for step in range(1, 21))


@dataclass(frozen=True)
class AWQ(GraphTechnique):
    """Scales the input channels of weights up where activations are large, and the normalisation before down.

    Lin et al., "AWQ: Activation-aware Weight Quantization" (2023), eq. 4 and 5: s = E[|x|]^alpha, of `alphas` (between
    0 and 1) that one with which the quantized weights of all layers that read x lose least of their outputs on the
    calibration rows; a layer stays as it is where none loses less. Where only linear layers read x, the normalisation's
    own scale and shift take 1/s, and nothing is computed in addition. With `anywhere` all other linear layers get a
    multiplication by 1/s in front, as those of BERT need. Layers whose weight others read stay as they are.

    It is followed by a technique that quantizes weights: `format`, `group_size` (inputs that share a scale, None for
    all of a row) and `scales` (how that is chosen) tell what that one will do.
    """

    format: str = "int4"
    group_size: int | None = 32
    alphas: tuple[float, ...] = ALPHAS
    scales: ScaleChoice = "min-max"
    anywhere: bool = False

    role: ClassVar[Role] = "before"

    def __post_init__(self) -> None:
        check_types(self)
        format_of(self.format)
        if self.group_size is not None and self.group_size < 1:
            raise TechniqueError(f"group_size={self.group_size} must be at least 1, or None for all inputs of a row.")
        for alpha in self.alphas:
            if not 0 <= alpha <= 1:
                raise TechniqueError(f"alphas holds {alpha}: each must be at least 0 and at most 1, for example 0.5.")
        if not self.alphas:
            raise TechniqueError("alphas is empty: give the powers to try, for example (0.25, 0.5, 0.75).")

    def apply(self, graph: onnx.ModelProto, job: Job) -> onnx.ModelProto:
        """The same function with other weights. Raises TechniqueError where the graph is quantized already."""
        require_float_graph(graph, self.name)
        editable = Graph(graph)
        found, _ = self._fitting(editable)
        readers = {each.layers[0].name: each for each in found}
        form, scaling = format_of(self.format), Scaling(self.scales)
        for name, seen in layer_moments(editable, readers, job):
            job.check_time()
            weight = readers[name].matrix(editable)
            blocks = weight.shape[1] // (self.group_size or weight.shape[1])
            factor = activation_aware(weight, seen.magnitude[0], seen.second[0], form, scaling, blocks, self.alphas)
            if (factor != 1).any():
                readers[name].divide(editable, factor)
        return editable.finished()

    def _fitting(self, graph: Graph) -> tuple[list[Normalised], dict[str, str]]:
        """What can be scaled, and for each linear layer why not, or why it may be left as it was."""
        found, reasons = normalised_inputs(graph, anywhere=self.anywhere)
        told = matrix_reasons(graph)
        fitting = []
        for each in found:
            columns = each.matrix(graph).shape[1]
            reason = next((told[node.name] for node in each.layers if told[node.name]), "")
            if self.group_size is not None and columns % self.group_size:
                reason = f"its {columns} inputs do not divide into groups of {self.group_size}"
            fitting += [] if reason else [each]
            reasons |= {node.name: reason or "no scales that were tried lose less" for node in each.layers}
        return fitting, reasons

    def coverage(self, before: onnx.ModelProto, after: onnx.ModelProto, job: Job) -> Coverage:
        """The linear layers that read scaled activations; for the others, why not."""
        _, reasons = self._fitting(Graph(before))
        return layer_coverage(self.name, before, after, reasons, "it is no linear layer")

    @classmethod
    def variants(cls, graph: onnx.ModelProto, job: Job) -> Iterator[Self]:
        """For weights of four bits in groups, then for eight bits and rows, where these fit.

        Raises TechniqueError where nothing can be scaled, or the graph is quantized already.
        """
        require_float_graph(graph, cls.__name__)
        editable = Graph(graph)
        choices = [cls(), cls("int8", None)]
        fitting = [each for each in choices if each._fitting(editable)[0]]
        if not fitting:
            raise nothing_fits("no linear layer can be scaled", choices[-1]._fitting(editable)[1])
        yield from fitting
