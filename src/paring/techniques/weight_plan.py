"""Which weights become narrow, in what blocks, and how whoever reads them computes with them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import onnx

from paring.errors import TechniqueError
from paring.graph.narrow_weights import KERNEL_BLOCKS, integers_of, kernel_bits, kernel_block, turned
from paring.graph.onnx_graph import Graph, attribute
from paring.graph.onnx_layers import shapes, weighted_layers
from paring.graph.placement import TRANSPOSED, float_reasons
from paring.ops.weight_formats import WeightFormat

Kernel = Literal["automatic", "dequantize", "matmul-nbits"]
Uneven = Literal["refuse", "float", "whole"]

LINEAR = ("Gemm", "MatMul")
TABLE = "Gather"
NEAR_DIVISORS = 3


@dataclass(frozen=True)
class Place:
    """A constant, the layers that read it, and in how many blocks each of its rows has scales.

    `flipped`: its outputs lie on the second axis. `multiplied`: MatMulNBits reads it. `lookups`: which of the layers
    look up rows of it, by indices of how many axes.
    """

    weight: str
    layers: tuple[str, ...]
    flipped: bool
    blocks: int
    multiplied: bool
    lookups: Mapping[str, int]


@dataclass(frozen=True)
class WeightPlan:
    """What becomes narrow; `reasons` has a sentence for each layer that stays float, `told` for each other one."""

    places: tuple[Place, ...]
    reasons: Mapping[str, str] = field(default_factory=dict)
    told: Mapping[str, str] = field(default_factory=dict)


def table_reasons(graph: Graph, exclude: Sequence[str] = ()) -> dict[str, str]:
    """As `float_reasons`, where lookups, and what reads a table transposed, have a narrow form too.

    Raises TechniqueError as that does.
    """
    reasons = float_reasons(graph, exclude)
    nodes = {node.name: node for node in graph.nodes}
    ranks = _ranks(graph)
    for layer in weighted_layers(graph.model):
        if layer.op_type == TABLE and layer.name not in exclude:
            reasons[layer.name] = _table_misfit(graph, nodes[layer.name], ranks)
        elif reasons[layer.name] == TRANSPOSED:
            reasons[layer.name] = ""
    return reasons


def _ranks(graph: Graph) -> dict[str, int]:
    """How many axes tensors have, where inference finds it."""
    return {name: len(shape) for name, shape in shapes(graph.model).items()}


def _table_misfit(graph: Graph, node: onnx.NodeProto, ranks: Mapping[str, int]) -> str:
    """Why a lookup's table can't be narrow; "" where it can."""
    if graph.transposed(node.input[0]):
        return TRANSPOSED
    table = graph.constant(node.input[0])
    if table is None:
        return "its table can be overridden by the caller"
    if table.dtype != np.float32:
        return f"its table is {table.dtype}, not float32"
    if not np.isfinite(table).all():
        return "its table holds infinity"
    if attribute(node, "axis", 0) not in (0, -table.ndim):
        return "it looks up along another axis than the first"
    if table.shape[-1] == 1:
        return "what it looks up are single numbers"
    return "" if node.input[1] in ranks else "the rank of its indices is not known"


class WeightPlanner:
    """Decides weight by weight, since several layers may read one."""

    def __init__(
        self, graph: Graph, form: WeightFormat, group_size: int | None, uneven: Uneven, kernel: Kernel
    ) -> None:
        self.graph, self.form, self.kernel = graph, form, kernel
        self.uneven: Uneven = "float" if form.block else uneven
        self.group_size = form.block or group_size
        self.nodes = {node.name: node for node in graph.nodes}
        self.ranks = _ranks(graph)

    def plan(self, reasons: Mapping[str, str]) -> WeightPlan:
        """For the layers of which the reason is "". Raises TechniqueError where a group does not divide."""
        by_weight, transposed = self._readers()
        places, left, told = list[Place](), dict(reasons), dict[str, str]()
        left |= {name: reasons[name] or TRANSPOSED for names in transposed.values() for name in names}
        for weight, readers in by_weight.items():
            also = transposed.get(weight, [])
            reason, place = self._placed(weight, readers, also, reasons)
            if place is None:
                left |= {name: reasons[name] or reason for name in (*(node.name for node in readers), *also)}
            else:
                places.append(place)
                told |= {node.name: self._told(node, place) for node in readers}
                of = f"{self.form.name}: its weight is that of {readers[0].name!r}, transposed"
                told |= dict.fromkeys(also, of)
        left = {name: reason for name, reason in left.items() if name not in told}
        return WeightPlan(tuple(places), {name: reason for name, reason in left.items() if reason}, told)

    def _readers(self) -> tuple[dict[str, list[onnx.NodeProto]], dict[str, list[str]]]:
        """By weight the layers that read it as it is, and the names of those that read it transposed."""
        plain: dict[str, list[onnx.NodeProto]] = {}
        transposed: dict[str, list[str]] = {}
        for layer in weighted_layers(self.graph.model):
            if (source := self.graph.transposed(layer.weight)) is None:
                plain.setdefault(layer.weight, []).append(self.nodes[layer.name])
            else:
                transposed.setdefault(source, []).append(layer.name)
        return plain, transposed

    def _placed(
        self, weight: str, readers: Sequence[onnx.NodeProto], also: Sequence[str], reasons: Mapping[str, str]
    ) -> tuple[str, Place | None]:
        """The place of a weight, or why its readers, and those who `also` depend on it, stay float."""
        held = next((name for name in (*(node.name for node in readers), *also) if reasons[name]), None)
        if held is not None:
            return f"its weight is that of {held!r} too, which stays float", None
        lookups = {node.name: self.ranks[node.input[1]] for node in readers if node.op_type == TABLE}
        flipped = turned(readers[0]) and not lookups
        shape = tuple(self.graph.initializers[weight].dims)
        rows = shape[1] if flipped else shape[0]
        columns = math.prod(shape) // max(rows, 1)
        size = self.group_size or columns
        if columns % size:
            if self.uneven == "refuse":
                raise self._does_not_divide(readers[0], columns)
            if self.uneven == "float":
                return f"groups of {size} do not divide the {columns} weights of each of its outputs", None
            size = columns
        misfit = self._kernel_misfit(weight, readers, columns, columns // size)
        if misfit and self.kernel == "matmul-nbits" and not lookups:
            return misfit, None
        names = tuple(node.name for node in readers)
        multiplied = self.kernel != "dequantize" and not misfit
        return "", Place(weight, names, flipped, columns // size, multiplied, lookups)

    def _kernel_misfit(self, weight: str, readers: Sequence[onnx.NodeProto], columns: int, blocks: int) -> str:
        """Why MatMulNBits can't read a weight; "" where it can."""
        if any(node.op_type not in LINEAR for node in readers):
            return "MatMulNBits is for linear layers alone"
        if len(readers) < len(self.graph.consumers[weight]) or len({turned(node) for node in readers}) > 1:
            return "its weight is read in another way too"
        bits = kernel_bits(self.form.form)
        if bits is None:
            return f"MatMulNBits does not hold {self.form.name}"
        if kernel_block(columns, blocks, bits) is None:
            return f"MatMulNBits has groups that {KERNEL_BLOCKS[-1]} divides, not of {columns // blocks}"
        return ""

    def _does_not_divide(self, node: onnx.NodeProto, columns: int) -> TechniqueError:
        divisors = [size for size in range(2, columns + 1) if columns % size == 0]
        near = sorted(divisors, key=lambda size: abs(size - (self.group_size or 0)))[:NEAR_DIVISORS]
        return TechniqueError(
            f"group_size={self.group_size} does not divide the {columns} weights of each "
            f"{'row' if node.op_type == TABLE else 'output'} of layer {node.name!r}: take "
            f"{', '.join(map(str, sorted(near)))} or None, exclude the layer, or give it uneven='whole' or 'float'."
        )

    def _told(self, node: onnx.NodeProto, place: Place) -> str:
        """How a layer computes with its narrow weight."""
        shared = f", a scale for each {self.group_size} weights" if place.blocks > 1 else ""
        form = f"{self.form.name}{shared}"
        bits = kernel_bits(self.form.form)
        if place.multiplied and bits is not None:
            columns = self.graph.initializers[place.weight].dims[0 if place.flipped else 1]
            filled = columns % (kernel_block(columns, place.blocks, bits) or 1)
            openvino = "; OpenVINO dequantizes rows of that length as the network is loaded" if filled else ""
            return f"{form}: multiplied as stored, in {bits} bits, by MatMulNBits{openvino}"
        if node.op_type == TABLE:
            return f"{form}: dequantized row by row as they are looked up, which saves bytes on disk and in memory"
        saves = f"{form}: dequantized as the network is loaded, which saves bytes on disk and no time"
        held = integers_of(self.form.form) in (np.int8, np.uint8) and node.op_type in LINEAR
        return f"{saves}; OpenVINO multiplies the integers as stored" if held else saves
