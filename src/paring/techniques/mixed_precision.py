"""MixedPrecision: static int8 with the layers that hurt most back in float."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Self

import onnx

from paring.data.job import Job
from paring.errors import TechniqueError
from paring.graph.onnx_graph import Graph
from paring.graph.placement import planned
from paring.graph.refusals import require_float_graph
from paring.settings import check_types
from paring.techniques.base import GraphTechnique, Role
from paring.techniques.calibration import observe
from paring.techniques.layer_coverage import layer_coverage
from paring.techniques.layer_damage import layer_damage
from paring.techniques.static_quantization import StaticQuantization, distinct_placements
from paring.types import Coverage


@dataclass(frozen=True)
class MixedPrecision(GraphTechnique):
    """`int8`, but for the `float_layers` layers whose own quantization changes the outputs most.

    The change is measured, each layer alone in integers, the rest float: see `paring.techniques.layer_damage`.
    """

    int8: StaticQuantization = field(default_factory=StaticQuantization)
    float_layers: int = 1

    role: ClassVar[Role] = "around"

    def __post_init__(self) -> None:
        check_types(self)
        if self.float_layers < 1:
            raise TechniqueError(
                f"float_layers={self.float_layers} must be 1 or more; with none, use StaticQuantization alone."
            )

    def apply(self, graph: onnx.ModelProto, job: Job) -> onnx.ModelProto:
        """The graph with integer layers but for the worst. Raises TechniqueError where it is quantized already."""
        require_float_graph(graph, self.name)
        editable = Graph(self.int8.opened(graph))
        plan = planned(editable, self.int8.placement, self.int8.exclude)
        nodes = {node.name: node for node in editable.nodes}
        inputs = {name: nodes[name].input[0] for name in plan.layers}
        if self.float_layers >= len(inputs):
            raise TechniqueError(
                f"float_layers={self.float_layers} leaves nothing in integers: the graph has {len(inputs)} such layers."
            )
        seen = observe(editable.model, list(dict.fromkeys([*plan.sources, *inputs.values()])), job)
        damage = layer_damage(self.int8, graph, inputs, seen, job)
        worst = sorted(damage, key=lambda name: -damage[name])[: self.float_layers]
        job.say(f"float layers: {', '.join(worst)}")
        plan = planned(editable, self.int8.placement, (*self.int8.exclude, *worst))
        return self.int8.integer(editable, plan, seen, job)

    def coverage(self, before: onnx.ModelProto, after: onnx.ModelProto, job: Job) -> Coverage:
        """Each layer with weights, and why where it stayed float."""
        plan = planned(Graph(before), self.int8.placement, self.int8.exclude)
        return layer_coverage(self.name, before, after, plan.reasons, f"among the {self.float_layers} that hurt most")

    @classmethod
    def variants(cls, graph: onnx.ModelProto, job: Job) -> Iterator[Self]:
        """A few layers in float, with each placement.

        Raises TechniqueError where there are too few layers to choose from, or the graph is quantized already.
        """
        require_float_graph(graph, cls.__name__)
        found = [
            each
            for p in distinct_placements(graph)
            for each in cls.around(StaticQuantization("mse", placement=p), graph)
        ]
        if not found:
            raise TechniqueError("fewer than 3 layers can be int8: with one of them in float hardly any is left.")
        yield from found

    @classmethod
    def around(cls, technique: GraphTechnique, graph: onnx.ModelProto) -> Iterator[Self]:
        """A few layers of this StaticQuantization in float; less than half of them."""
        if not isinstance(technique, StaticQuantization):
            return
        layers = len(planned(Graph(graph), technique.placement, technique.exclude).layers)
        for count in sorted({1, 2, max(3, layers // 8)}):
            if 2 * count < layers:
                yield cls(technique, count)
