"""DynamicQuantization: linear layers in 8-bit integers whose input ranges are found at run time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import onnx
from onnx import TensorProto

from paring.data.job import Job
from paring.errors import TechniqueError
from paring.graph.integer_weights import gemm_folded
from paring.graph.onnx_graph import Graph, attribute
from paring.graph.onnx_layers import weighted_layers
from paring.graph.placement import float_reasons
from paring.graph.refusals import require_float_graph
from paring.ops.scales import ScaleChoice, Scaling, fitted
from paring.ops.weight_formats import integral_format_of
from paring.settings import check_types
from paring.techniques.base import GraphTechnique
from paring.techniques.layer_coverage import layer_coverage, nothing_fits
from paring.types import Coverage

LINEAR = ("Gemm", "MatMul")
LEAST_PARAMETERS = 4096
"""Below this a linear layer is quicker in float than finding its input's range."""


@dataclass(frozen=True)
class DynamicQuantization(GraphTechnique):
    """Linear layers as DynamicQuantizeLinear and MatMulInteger; weights have a scale for each output channel.

    `weights` is a format of `paring.ops.formats` with integer levels of either sign, "int2" to "int8", "ternary" or
    others; whatever its width it runs in 8 bits. `scales`, `percentile` and `power_of_two` are for these: see
    `paring.ops.scales.Scaling`. Without `per_channel` a whole weight has one scale.

    No calibration, and no clipping of unseen inputs. The input's range is that of the whole batch, so an answer may
    differ slightly with the rows that it shares a batch with. Layers whose weights are fewer than `least_parameters`
    stay float, and those that `exclude` names.
    """

    exclude: tuple[str, ...] = ()
    least_parameters: int = LEAST_PARAMETERS
    weights: str = "int8"
    scales: ScaleChoice = "min-max"
    percentile: float = 99.9
    power_of_two: bool = False
    per_channel: bool = True

    def __post_init__(self) -> None:
        check_types(self)
        if self.least_parameters < 0:
            raise TechniqueError(
                f"least_parameters={self.least_parameters} must be 0 or more: smaller layers stay float, with 0 none."
            )
        _ = self._scaling
        if integral_format_of(self.weights).levels[0] >= 0:
            raise TechniqueError(f"weights={self.weights!r} has no levels below 0: choose int2 to int8.")

    @property
    def _scaling(self) -> Scaling:
        return Scaling(self.scales, self.percentile, self.power_of_two)

    @property
    def forms(self) -> tuple[str, ...]:
        """The row of the table of kernels: not every runtime computes with ranges that are found at run time."""
        return ("int8 dynamic",)

    def apply(self, graph: onnx.ModelProto, job: Job) -> onnx.ModelProto:
        """The graph with integer linear layers. Raises TechniqueError where it is quantized already."""
        require_float_graph(graph, self.name)
        editable = Graph(graph)
        reasons = self._reasons(editable)
        inputs: dict[str, tuple[str, str, str]] = {}
        for node in [node for node in editable.nodes if reasons.get(node.name) == ""]:
            if node.input[0] not in inputs:
                inputs[node.input[0]] = _quantized_input(editable, node.input[0])
            self._replace(editable, node, inputs[node.input[0]])
        return editable.finished()

    def _replace(self, graph: Graph, node: onnx.NodeProto, integers: tuple[str, str, str]) -> None:
        """Integer product, then its scale and the bias, in place of the layer."""
        weight = graph.constant(node.input[1])
        assert weight is not None
        factor, bias = gemm_folded(graph, node, weight)
        weight = weight * factor
        if node.op_type == "Gemm" and attribute(node, "transB", 0):
            weight = weight.T
        grid = fitted(weight.T, integral_format_of(self.weights), self._scaling, by_row=self.per_channel)
        whole = grid.format.decode(grid.nearest(weight.T)).astype(np.int8).T
        stored = graph.add_constant(whole, f"{node.input[1]}_quantized")
        scale = graph.add_constant(grid.scale[:, 0], f"{node.input[1]}_scale")
        output = node.output[0]
        graph.model.graph.node.remove(node)
        product = graph.add_node("MatMulInteger", [integers[0], stored, integers[2]], f"{output}_integer")
        product = graph.add_node("Cast", [product], f"{output}_cast", to=TensorProto.FLOAT)
        unit = graph.add_node("Mul", [integers[1], scale], f"{output}_unit")
        if bias is None:
            graph.add_named_node("Mul", [product, unit], output)
            return
        product = graph.add_node("Mul", [product, unit], f"{output}_scaled")
        graph.add_named_node("Add", [product, graph.add_constant(np.array(bias), f"{output}_bias")], output)

    def coverage(self, before: onnx.ModelProto, after: onnx.ModelProto, job: Job) -> Coverage:
        """Each layer with weights, and why where it stayed float."""
        return layer_coverage(self.name, before, after, self._reasons(Graph(before)), "")

    @classmethod
    def variants(cls, graph: onnx.ModelProto, job: Job) -> Iterator[Self]:
        """One. Raises TechniqueError where no linear layer has weights enough, or the graph is quantized already."""
        require_float_graph(graph, cls.__name__)
        reasons = cls()._reasons(Graph(graph))
        if "" not in reasons.values():
            raise nothing_fits("no linear layer can be int8", reasons)
        yield cls()

    def _reasons(self, graph: Graph) -> dict[str, str]:
        """For each layer with weights why it stays float, "" where it becomes integer.

        Small ones are found on the graph at hand: names change when a network that lost layers is exported anew.
        """
        reasons = float_reasons(graph, self.exclude, LINEAR)
        for layer in weighted_layers(graph.model):
            if layer.parameters < self.least_parameters:
                told = f"its {layer.parameters} parameters are fewer than least_parameters={self.least_parameters}"
                reasons[layer.name] = reasons[layer.name] or told
        return reasons


def _quantized_input(graph: Graph, name: str) -> tuple[str, str, str]:
    """Names of the tensor's integers, scale and zero point, found at run time."""
    made = tuple(graph.unique(f"{name}_dynamic_{part}") for part in ("quantized", "scale", "zero_point"))
    node = onnx.helper.make_node("DynamicQuantizeLinear", [name], made, name=graph.unique(f"{name}/DynamicQuantize"))
    graph.model.graph.node.append(node)
    return made[0], made[1], made[2]
