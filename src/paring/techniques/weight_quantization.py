"""WeightQuantization: weights alone in few bits; what flows between layers stays float."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import onnx

from paring.data.job import Job
from paring.errors import TechniqueError
from paring.graph.matrices import matrix_reasons
from paring.graph.narrow_weights import NarrowWeight, kernel_bits
from paring.graph.onnx_graph import Array, Graph
from paring.graph.onnx_layers import weighted_layers
from paring.graph.refusals import NARROWED, require_finite, require_float_graph
from paring.ops.rounding import Rounding, refitted
from paring.ops.scales import ScaleChoice, Scaling
from paring.ops.weight_formats import weight_format_of
from paring.settings import check_types
from paring.techniques.base import GraphTechnique
from paring.techniques.layer_coverage import layer_coverage, nothing_fits
from paring.techniques.moments import layer_moments
from paring.techniques.weight_plan import TABLE, Kernel, Place, Uneven, WeightPlan, WeightPlanner, table_reasons
from paring.types import Coverage, Objective

LEAST_PARAMETERS = 1024
GROUP = 32


@dataclass(frozen=True)
class WeightQuantization(GraphTechnique):
    """Weights in `format`, with a scale for each output (or row of a table), or for each `group_size` of its inputs.

    `format`: any of `paring.ops.weight_formats.WEIGHT_FORMATS`: integers (int2 to int8, affine ones as uint4),
    binary, ternary, powers of two, floats as e4m3, nf4, the block formats mxfp8, mxfp6, mxfp4 and mxint8, whose groups
    are of 32, and kmeans2 to kmeans8, levels of each layer's own. Inputs of a convolution are counted with their places
    in the kernel. `uneven` says what of layers that `group_size` does not divide: they are refused, stay "float", or
    have a scale for each "whole" output. Without `per_channel` a whole weight has one scale. `scales`, `percentile` and
    `power_of_two`: see `paring.ops.scales.Scaling`.
    `rounding`: see `paring.ops.rounding.rounded`; tables and transposed convolutions are rounded to the nearest.

    `kernel`: "matmul-nbits" puts MatMulNBits in the place of linear layers, which multiplies 4 or 8 bits as they are
    stored: it reads fewer bytes, which is what one row at a time waits for. It holds integers of up to 8 bits, and
    groups that 16 divides or whole outputs. At `accuracy_level` 4 it may round what it reads to int8, block by block;
    at 0 ONNX Runtime does not. "dequantize" brings floats back as the network is loaded, which saves bytes on disk and,
    in ONNX Runtime, no time; OpenVINO multiplies integers as they are all the same. "automatic" takes the former where
    it fits.
    Tables that are looked up keep their codes, and rows are dequantized as they are found: `embeddings` leaves them
    float, or takes "only" them, also where the layers are integers already.

    Layers with fewer weights than `least_parameters` stay float, and those that `exclude` names.
    """

    improves: ClassVar[tuple[Objective, ...]] = ("size", "memory", "latency")

    format: str = "int4"
    group_size: int | None = None
    uneven: Uneven = "refuse"
    scales: ScaleChoice = "mse"
    percentile: float = 99.9
    power_of_two: bool = False
    rounding: Rounding = "nearest"
    kernel: Kernel = "automatic"
    accuracy_level: Literal[0, 4] = 4
    embeddings: bool | Literal["only"] = True
    exclude: tuple[str, ...] = ()
    least_parameters: int = LEAST_PARAMETERS
    per_channel: bool = True

    def __post_init__(self) -> None:
        check_types(self)
        form = weight_format_of(self.format)
        if self.group_size is not None and self.group_size < 1:
            raise TechniqueError(f"group_size={self.group_size} must be 1 or more, for example {GROUP}, or None.")
        if self.group_size is not None and form.block not in (None, self.group_size):
            raise TechniqueError(
                f"group_size={self.group_size} does not fit {form.name}, of blocks of {form.block}: leave it out."
            )
        if not self.per_channel and (self.group_size or form.block):
            raise TechniqueError(
                f"per_channel=False has one scale for a whole weight, where groups of {self.group_size or form.block} "
                "have their own: leave it out, or take a format without blocks and group_size=None."
            )
        _ = self._scaling
        if self.least_parameters < 0:
            raise TechniqueError(
                f"least_parameters={self.least_parameters} must be 0 or more: smaller layers stay float, with 0 none."
            )
        if self.kernel == "matmul-nbits" and kernel_bits(form.form) is None:
            raise TechniqueError(
                f"kernel='matmul-nbits' holds integers of at most 8 bits, which {form.name} are not: take int4 or "
                "int8, or kernel='dequantize'."
            )

    @property
    def _scaling(self) -> Scaling:
        return Scaling(self.scales, self.percentile, self.power_of_two)

    def apply(self, graph: onnx.ModelProto, job: Job) -> onnx.ModelProto:
        """The graph with narrow weights. Raises TechniqueError where none can be, or where it is quantized already."""
        editable = self._editable(graph)
        plan = self._plan(editable)
        if not plan.places:
            raise self._nothing_fits(graph, plan)
        left = {place.weight: place for place in plan.places}
        observed = self._observed(editable, plan)
        for layer, moments in layer_moments(editable, observed, job) if observed else ():
            place = next(place for place in left.values() if layer in place.layers)
            self._replace(editable, left.pop(place.weight), moments.second)
        for place in left.values():
            job.check_time()
            self._replace(editable, place, None)
        editable.set_metadata(NARROWED, "weights")
        return editable.finished()

    def serves(self, graph: onnx.ModelProto) -> tuple[Objective, ...]:
        """Time is gained where weights are multiplied as they are stored, which no convolution does."""
        multiplied = any(place.multiplied for place in self._plan(self._editable(graph)).places)
        return tuple(each for each in self.improves if each != "latency" or multiplied)

    def _observed(self, graph: Graph, plan: WeightPlan) -> list[str]:
        """For each weight that is rounded by what is multiplied with it, the layer whose inputs count."""
        if self.rounding == "nearest":
            return []
        reasons = matrix_reasons(graph)
        fitting = ([layer for layer in place.layers if reasons[layer] == ""] for place in plan.places)
        return [layers[0] for layers in fitting if layers]

    def _replace(self, graph: Graph, place: Place, moments: Array | None) -> None:
        """Quantize a weight, and let all that read it read what it is now."""
        weight = NarrowWeight(graph, place.weight, flipped=place.flipped)
        form = weight_format_of(self.format)
        grid = form.grid(weight.rows, self._scaling, place.blocks, by_row=self.per_channel)
        free = not (self.power_of_two or form.block)
        weight.grid, weight.codes = refitted(weight.rows, grid, moments, self.rounding, free=free)
        for node in list(graph.consumers[place.weight]):
            if place.multiplied:
                weight.multiply(node, self.accuracy_level)
            elif node.name in place.lookups:
                weight.look_up(node, place.lookups[node.name])
            else:
                graph.redirect(place.weight, weight.dequantized, [node])

    def coverage(self, before: onnx.ModelProto, after: onnx.ModelProto, job: Job) -> Coverage:
        """Each layer with weights: how it computes with them, or why they stayed float."""
        graph = self._editable(before)
        plan = self._plan(graph)
        told = dict(plan.told)
        if self.rounding != "nearest":
            unread = {layer: reason for layer, reason in matrix_reasons(graph).items() if reason and layer in told}
            told |= {layer: f"{told[layer]}; rounded to the nearest, since {unread[layer]}" for layer in unread}
        return layer_coverage(self.name, before, after, {**plan.reasons, **told})

    @classmethod
    def variants(cls, graph: onnx.ModelProto, job: Job) -> Iterator[Self]:
        """8 bits with a scale for each output, then 4 bits in groups where these divide, also with GPTQ.

        Raises TechniqueError where no layer has weights enough, or the graph is quantized already.
        """
        wide = cls("int8")
        plan = wide._plan(wide._editable(graph))
        if not plan.places:
            raise wide._nothing_fits(graph, plan)
        yield wide
        yield cls("int4", GROUP, "whole")
        yield cls("int4", GROUP, "whole", rounding="gptq")

    def _editable(self, graph: onnx.ModelProto) -> Graph:
        if self.embeddings == "only":
            require_finite(graph)
        else:
            require_float_graph(graph, self.name, after_own=True)
        return Graph(graph)

    def _nothing_fits(self, graph: onnx.ModelProto, plan: WeightPlan) -> TechniqueError:
        if not plan.reasons:
            require_float_graph(graph, self.name)
        return nothing_fits(f"no weight can be {self.format}", plan.reasons)

    def _plan(self, graph: Graph) -> WeightPlan:
        form = weight_format_of(self.format)
        return WeightPlanner(graph, form, self.group_size, self.uneven, self.kernel).plan(self._reasons(graph))

    def _reasons(self, graph: Graph) -> dict[str, str]:
        """For each layer with weights why these stay float, "" where they become narrow."""
        reasons = table_reasons(graph, self.exclude)
        for layer in weighted_layers(graph.model):
            told = ""
            if self.embeddings in (False, "only") and (layer.op_type == TABLE) == (self.embeddings is False):
                told = f"embeddings={self.embeddings!r} leaves it float"
            elif layer.parameters < self.least_parameters:
                told = f"its {layer.parameters} parameters are fewer than least_parameters={self.least_parameters}"
            reasons[layer.name] = reasons[layer.name] or told
        return reasons
