"""StaticQuantization: weights and activations as 8-bit integers, their ranges calibrated beforehand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Self

import onnx

from paring.data.job import Job
from paring.errors import TechniqueError
from paring.graph.onnx_graph import Graph, require_float_graph
from paring.graph.placement import PLACEMENTS, Placement, Plan, planned
from paring.graph.qdq import quantized
from paring.ops.quantization import Parameters, affine
from paring.ops.ranges import Calibration, Histogram, chosen_range
from paring.settings import check_types
from paring.techniques.base import GraphTechnique
from paring.techniques.calibration import observe
from paring.techniques.layer_coverage import layer_coverage, nothing_fits
from paring.types import Coverage


@dataclass(frozen=True)
class StaticQuantization(GraphTechnique):
    """Weights int8, symmetric, a scale for each output channel; activations uint8, affine, a scale for each tensor.

    Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference"
    (2018), written as ONNX QuantizeLinear/DequantizeLinear pairs, which runtimes turn into integer kernels. Where no
    activation is negative its zero point is 0. Biases are int32 in units of input scale x weight scale.

    `calibration` is how a range is chosen from the observed values; `percentile` counts for that choice alone. "aciq"
    rests on a Gaussian or Laplace distribution fitted to them (Banner et al. 2019).
    `placement`: see `paring.graph.placement.planned`. `exclude` names layers (nodes) that stay float.
    """

    calibration: Calibration = "min-max"
    percentile: float = 99.99
    per_channel: bool = True
    placement: Placement = "every-edge"
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_types(self)
        if not 50 < self.percentile <= 100:
            raise TechniqueError(f"percentile={self.percentile} must be above 50 and at most 100, for example 99.99.")

    def apply(self, graph: onnx.ModelProto, job: Job) -> onnx.ModelProto:
        """The graph with integer layers. Raises TechniqueError where it is quantized already."""
        require_float_graph(graph, self.name)
        editable = Graph(graph)
        plan = planned(editable, self.placement, self.exclude)
        return self.integer(editable, plan, observe(editable.model, plan.sources, job))

    def integer(self, graph: Graph, plan: Plan, seen: Mapping[str, Histogram]) -> onnx.ModelProto:
        """The graph as the plan says, with ranges from what was seen of the plan's sources; edits `graph`."""
        activations = {
            group: self.parameters(reduce(Histogram.merged, (seen[name] for name in group.sources)))
            for group in plan.groups
        }
        return quantized(graph, plan, activations, per_channel=self.per_channel).finished()

    def parameters(self, seen: Histogram) -> Parameters:
        """Scale and zero point for values like those seen."""
        return affine(chosen_range(seen, self.calibration, self.percentile))

    def coverage(self, before: onnx.ModelProto, after: onnx.ModelProto, job: Job) -> Coverage:
        """Each layer with weights, and why where it stayed float."""
        plan = planned(Graph(before), self.placement, self.exclude)
        return layer_coverage(self.name, before, after, plan.reasons, "")

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
