"""Int8Static: weights and activations as 8-bit integers, their ranges calibrated beforehand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Self

import onnx

from paring.data.job import Job
from paring.errors import TechniqueError
from paring.graph.onnx_graph import Graph, require_float_graph, weighted_layers
from paring.graph.placement import PLACEMENTS, Group, Placement, Plan, planned
from paring.graph.qdq import quantized
from paring.ops.quantization import CALIBRATIONS, Calibration, Histogram, Parameters, affine, chosen_range
from paring.techniques.base import GraphTechnique
from paring.techniques.calibration import observe
from paring.types import Coverage, LayerChange


@dataclass(frozen=True)
class Int8Static(GraphTechnique):
    """Weights int8, symmetric, a scale for each output channel; activations uint8, affine, a scale for each tensor.

    Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference"
    (2018), written as ONNX QuantizeLinear/DequantizeLinear pairs, which runtimes turn into integer kernels. Where no
    activation is negative its zero point is 0. Biases are int32 in units of input scale x weight scale.

    `calibration` is how a range is chosen from the observed values; `percentile` counts for that choice alone.
    `placement`: see `paring.graph.placement.planned`. `exclude` names layers (nodes) that stay float.
    """

    calibration: Calibration = "min-max"
    percentile: float = 99.99
    per_channel: bool = True
    placement: Placement = "every-edge"
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.calibration not in CALIBRATIONS:
            raise TechniqueError(f"calibration={self.calibration!r} is unknown: choose of {', '.join(CALIBRATIONS)}.")
        if self.placement not in PLACEMENTS:
            raise TechniqueError(f"placement={self.placement!r} is unknown: choose one of {', '.join(PLACEMENTS)}.")
        if not 50 < self.percentile <= 100:
            raise TechniqueError(f"percentile={self.percentile} must be above 50 and at most 100, for example 99.99.")

    def apply(self, graph: onnx.ModelProto, job: Job) -> onnx.ModelProto:
        """The graph with integer layers. Raises TechniqueError where no layer can be, or one is quantized already."""
        require_float_graph(graph, self.name)
        editable = Graph(graph)
        plan = planned(editable, self.placement, self.exclude)
        activations = self.activations(plan, observe(editable.model, sources(plan), job))
        return quantized(editable, plan, activations, per_channel=self.per_channel).finished()

    def activations(self, plan: Plan, seen: dict[str, Histogram]) -> dict[Group, Parameters]:
        """Scale and zero point of each group, from what was seen of its sources."""
        return {
            group: affine(
                chosen_range(
                    reduce(Histogram.merged, (seen[name] for name in group.sources)), self.calibration, self.percentile
                )
            )
            for group in plan.groups
        }

    def coverage(self, before: onnx.ModelProto, after: onnx.ModelProto, job: Job) -> Coverage:
        """Each layer with weights, and why where it stayed float."""
        plan = planned(Graph(before), self.placement, self.exclude)
        return Coverage(
            self.name,
            tuple(
                LayerChange(
                    layer.name,
                    layer.name in plan.layers,
                    plan.reasons.get(layer.name, ""),
                    layer.parameters,
                    layer.macs,
                )
                for layer in weighted_layers(Graph(before).model)
            ),
        )

    @classmethod
    def variants(cls, graph: onnx.ModelProto, job: Job) -> Iterator[Self]:
        """Both placements with each calibration."""
        for calibration in CALIBRATIONS:
            for placement in PLACEMENTS:
                yield cls(calibration=calibration, placement=placement)


def sources(plan: Plan) -> list[str]:
    """The tensors to observe."""
    return [name for group in plan.groups for name in group.sources]
