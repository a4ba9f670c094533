"""StaticQuantization: weights and activations as integers of few bits, their ranges calibrated beforehand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Self

import numpy as np
import onnx

from paring.data.job import Job
from paring.errors import TechniqueError
from paring.graph.learned import Learned, lifted, own_inputs, shared_input
from paring.graph.matrices import matrix_reasons
from paring.graph.onnx_graph import Array, Graph
from paring.graph.opset import WIDE_OPSET, modernized
from paring.graph.placement import PLACEMENTS, Group, Placement, Plan, planned
from paring.graph.qdq import quantized
from paring.graph.refusals import require_float_graph
from paring.ops.formats import format_of
from paring.ops.quantization import Parameters, affine, around_zero
from paring.ops.ranges import Calibration, Histogram, chosen_range, wild_rows
from paring.ops.rounding import Rounding
from paring.ops.scales import ScaleChoice, Scaling
from paring.ops.weight_formats import integral_format_of
from paring.settings import check_once, check_types
from paring.techniques.base import GraphTechnique
from paring.techniques.calibration import observe
from paring.techniques.layer_coverage import layer_coverage, nothing_fits
from paring.techniques.weighing import Weighing
from paring.types import Coverage

Seen = Mapping[str, Histogram]
NOTHING_LEARNED = Learned()
WIDE = "16-bit inputs are dequantized: ONNX Runtime has no kernel for them"


@dataclass(frozen=True)
class StaticQuantization(GraphTechnique):
    """Weights of a format with integer levels, a scale for each output channel; activations with one for each tensor.

    Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference"
    (2018), written as ONNX QuantizeLinear/DequantizeLinear pairs, which runtimes turn into integer kernels: those of 8
    bits, whatever the format, as fewer bits save bytes and no time. Biases are int32 in units of input scale x weight
    scale.

    `weights` and `activations` are formats of `paring.ops.formats`: "int2" to "int8" are symmetric, "uint2" to "uint8"
    affine; weights may also be "binary", "ternary", powers of two ("pow3") or sums of these ("apot4"), and activations
    "uint16" or "int16", which runtimes compute with in floating point. An affine activation that is never negative has
    zero point 0. `formats` names layers whose weights have another one.
    `calibration` is how the range of an activation is chosen from the observed values, `scales` how that of a weight
    is; `percentile` counts for the choice of that name. `power_of_two`: all scales are 2^p. `rounding` says how weights
    are rounded, see `paring.ops.rounding.refitted`; `bias_correction` takes the mean of what that changes in the
    outputs from the biases (Nagel et al. 2019, Data-Free Quantization, section 4.2, with observed means). `placement`:
    see `paring.graph.placement.planned`. `exclude` names layers (nodes) that stay float.

    Behind `QuantizationAwareTraining` the scales that it learned are kept, and its layers' formats: the settings are
    then about all that it left in floating point.
    """

    calibration: Calibration = "min-max"
    percentile: float = 99.99
    per_channel: bool = True
    placement: Placement = "every-edge"
    exclude: tuple[str, ...] = ()
    weights: str = "int8"
    activations: str = "uint8"
    formats: tuple[tuple[str, str], ...] = ()
    scales: ScaleChoice = "min-max"
    power_of_two: bool = False
    rounding: Rounding = "nearest"
    bias_correction: bool = False

    def __post_init__(self) -> None:
        check_types(self)
        _ = self.weighing
        integral_format_of(self.weights)
        check_once("formats", self.formats)
        for _, name in self.formats:
            integral_format_of(name, "formats")
        if format_of(self.activations).step != 1:
            raise TechniqueError(
                f"activations={self.activations!r} can't be calibrated: choose uint1 to uint8, int2 to int8, ternary, "
                "uint16 or int16."
            )

    def apply(self, graph: onnx.ModelProto, job: Job) -> onnx.ModelProto:
        """The graph with integer layers. Raises TechniqueError where it is quantized already."""
        editable, learned = lifted(self.opened(graph), self.name)
        self._check_formats(editable)
        own = own_inputs(editable, learned)
        plan = planned(editable, self.placement, self.exclude, own, made=learned.outputs, moved=not self._is_wide)
        seen = observe(editable.model, plan.sources, job)
        return self.integer(editable, plan, seen, job, learned)

    def integer(
        self, graph: Graph, plan: Plan, seen: Seen, job: Job, learned: Learned = NOTHING_LEARNED
    ) -> onnx.ModelProto:
        """The graph as the plan says, with ranges from what was seen of the plan's sources; edits `graph`."""
        activations = {group: self._of_group(graph, group, seen, learned) for group in plan.groups}
        weigh = self.weighing.prepared(graph, plan.layers, job, learned)
        own = {layer: given for layer, given in own_inputs(graph, learned).items() if layer in plan.layers}
        return quantized(graph, plan, activations, weigh, own).finished()

    def opened(self, graph: onnx.ModelProto) -> onnx.ModelProto:
        """The graph in an opset that has the integers which are wanted."""
        return modernized(graph, WIDE_OPSET) if self._is_wide else graph

    @property
    def weighing(self) -> Weighing:
        """How weights are quantized."""
        scaling = Scaling(self.scales, self.percentile, self.power_of_two)
        return Weighing(
            self.weights, dict(self.formats), scaling, self.per_channel, self.rounding, self.bias_correction
        )

    @property
    def forms(self) -> tuple[str, ...]:
        """The rows of the table of kernels that a backend must be able to run."""
        levels = format_of(self.activations)
        if levels.bits != 8:
            return ("int8, 4-bit inputs" if levels.bits < 8 else "int8, 16-bit inputs",)
        return ("int8, int8 inputs",) if levels.levels[0] < 0 else ()

    def _of_group(self, graph: Graph, group: Group, seen: Seen, learned: Learned) -> Parameters:
        """What was learned for the tensors, else what fits the values that were seen."""
        given = shared_input(graph, group.tensors, learned)
        if given is not None:
            return given
        together = reduce(Histogram.merged, (seen[name] for name in group.sources))
        found = self.parameters(together)
        wild = wild_rows(together, float(found.scale))
        if len(wild):
            raise _out_of_scale(graph, group.sources[0], together, wild)
        return found

    @property
    def _is_wide(self) -> bool:
        """Whether activations take more than 8 bits, for which there are few kernels."""
        return format_of(self.activations).bits > 8

    def parameters(self, seen: Histogram) -> Parameters:
        """Scale and zero point for values like those seen."""
        form = format_of(self.activations)
        levels = len(form.levels)
        chosen = chosen_range(seen, self.calibration, self.percentile, levels)
        found = affine(chosen, levels) if form.levels[0] >= 0 else around_zero(chosen, levels)
        return _to_power_of_two(found) if self.power_of_two else found

    def _check_formats(self, graph: Graph) -> None:
        names = {node.name for node in graph.nodes}
        for layer, _ in self.formats:
            if layer not in names:
                known = ", ".join(list(matrix_reasons(graph))[:8])
                raise TechniqueError(f"formats names {layer!r}, which is no layer with weights: there are {known}, ...")

    def coverage(self, before: onnx.ModelProto, after: onnx.ModelProto, job: Job) -> Coverage:
        """Each layer with weights, and why where it stayed float."""
        graph, _ = lifted(before, self.name)
        plan = planned(graph, self.placement, self.exclude)
        told = dict.fromkeys(plan.layers, WIDE) if self._is_wide else {}
        return layer_coverage(self.name, graph.finished(), after, {**plan.reasons, **told}, "")

    @classmethod
    def variants(cls, graph: onnx.ModelProto, job: Job) -> Iterator[Self]:
        """Each calibration with each placement that makes a difference.

        Raises TechniqueError where no layer can be integer, or the graph is quantized already.
        """
        require_float_graph(graph, cls.__name__)
        for calibration in ("mse", "min-max", "entropy", "percentile"):
            for placement in distinct_placements(graph):
                yield cls(calibration=calibration, placement=placement)


def distinct_placements(graph: onnx.ModelProto) -> tuple[Placement, ...]:
    """The placements that give different graphs. Raises TechniqueError where no layer can be integer."""
    plans = {placement: planned(Graph(graph), placement) for placement in PLACEMENTS}
    fitting = tuple(placement for placement in PLACEMENTS if plans[placement].layers)
    if not fitting:
        raise nothing_fits("no layer can be int8", plans["inputs-only"].reasons)
    return fitting[:1] if plans["every-edge"] == plans["inputs-only"] else fitting


def _out_of_scale(graph: Graph, tensor: str, seen: Histogram, wild: Array) -> TechniqueError:
    """The error for calibration rows that reach so far that nothing is left of all others."""
    others = np.delete(seen.row_reaches, wild)
    return TechniqueError(
        f"{'input' if tensor in graph.inputs else 'tensor'} {tensor!r} reaches {seen.row_reaches[wild].max():.3g} on "
        f"{len(wild)} of {len(seen.row_reaches)} calibration rows (the first is row {wild[0]}), and {others.max():.3g} "
        "on the others, of which hardly a level would be left: remove rows that are wrong, or exclude the layers that "
        "read it."
    )


def _to_power_of_two(parameters: Parameters) -> Parameters:
    """The next larger power of two as scale, so that nothing is clipped."""
    scale = np.exp2(np.ceil(np.log2(parameters.scale))).astype(np.float32)
    zero_point = np.rint(parameters.zero_point * (parameters.scale / scale)).astype(parameters.zero_point.dtype)
    return Parameters(scale, zero_point, limits=parameters.limits)
