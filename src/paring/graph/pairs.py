"""Pairs of layers between which the scale of a channel can move, from the one's outputs to the other's inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from paring.graph.matrices import OPERATORS, as_rows
from paring.graph.onnx_graph import Array, Graph, attribute
from paring.graph.onnx_layers import shapes
from paring.graph.placement import channel_axis, channels_of, float_reasons
from paring.graph.rescaling import Place, shared

RECTIFIERS = ("Relu", "LeakyRelu", "PRelu")
POOLS = ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")
HOMOGENEOUS = frozenset({*RECTIFIERS, *POOLS, "Identity", "Dropout"})
"""Operators f of one channel each with f(s x) = s f(x) for every s > 0."""


@dataclass(frozen=True)
class Shift:
    """A constant that is added to channels, and how many axes lie behind the one that counts these."""

    place: Place
    behind: int

    def broadcast(self, factor: Array) -> Array:
        """One number a channel, shaped to be multiplied with the constant."""
        return factor.reshape(-1, *[1] * self.behind)


@dataclass(frozen=True)
class Pair:
    """A layer whose output one other layer alone reads, through what passes positive factors on.

    `shifts` are the first one's bias and what else is added on the way. `repeat` columns in a row of the second one's
    weight belong to the same channel, where positions were flattened.
    """

    first: onnx.NodeProto
    second: onnx.NodeProto
    shifts: tuple[Shift, ...]
    repeat: int

    def outputs(self, weight: Array) -> Array:
        """The first one's weight, a row for each channel."""
        return as_rows(self.first, weight)

    def inputs(self, weight: Array) -> Array:
        """The second one's weight, a row for each channel that it reads."""
        if self.second.op_type == "Conv":
            groups = int(attribute(self.second, "group", 1))
            parts = weight.reshape(groups, -1, weight.shape[1], math.prod(weight.shape[2:]))
            return parts.swapaxes(1, 2).reshape(groups * weight.shape[1], -1)
        columns = as_rows(self.second, weight).T
        return columns.reshape(len(columns) // self.repeat, -1)

    def by_output(self, factor: Array, weight: Array) -> Array:
        """One number a channel, shaped to be multiplied with the first one's weight."""
        axis = channel_axis(self.first)
        return factor.reshape([-1 if each == axis else 1 for each in range(weight.ndim)])

    def by_input(self, factor: Array, weight: Array) -> Array:
        """One number a channel, shaped to be multiplied with the second one's weight."""
        if self.second.op_type == "Conv":
            groups = int(attribute(self.second, "group", 1))
            each = np.repeat(factor.reshape(groups, -1), len(weight) // groups, axis=0)
            return each.reshape(*each.shape, *[1] * (weight.ndim - 2))
        return np.expand_dims(np.repeat(factor, self.repeat), channel_axis(self.second))


def pairs(graph: Graph) -> tuple[list[Pair], dict[str, str]]:
    """The pairs, and for each layer that is the first of none the reason."""
    told = float_reasons(graph, operators=OPERATORS)
    layers = [node for node in graph.nodes if node.op_type in OPERATORS and node.name in told]
    reasons = {node.name: told[node.name] or shared(graph, node) for node in layers}
    fit = frozenset(name for name, reason in reasons.items() if not reason)
    known = shapes(graph.model)
    found = []
    for node in graph.nodes:
        if node.name in fit:
            way = _Way(graph, node, known, fit)
            reasons[node.name] = way.walked()
            if way.second is not None:
                found.append(Pair(node, way.second, tuple(way.shifts), way.repeat))
    return found, reasons


class _Way:
    """From a layer to the one that reads its channels."""

    def __init__(
        self, graph: Graph, first: onnx.NodeProto, known: Mapping[str, tuple[int, ...]], fit: frozenset[str]
    ) -> None:
        self.graph, self.known, self.fit = graph, known, fit
        weight = graph.constant(first.input[1])
        assert weight is not None
        self.channels, self.repeat = channels_of(first, weight.shape), 1
        self.tensor = first.output[0]
        self.behind = weight.ndim - 2 if first.op_type == "Conv" else 0  # Axes behind that of the channels.
        self.shifts = [Shift((first, 2), 0)] if len(first.input) > 2 and first.input[2] else []
        self.second: onnx.NodeProto | None = None

    def walked(self) -> str:
        """Go as far as factors pass; the reason where that leads to no layer."""
        while True:
            readers = self.graph.consumers[self.tensor]
            if self.tensor in self.graph.outputs or len(readers) != 1:
                return "its output is not read by one operator alone"
            node = readers[0]
            if self._is_second(node):
                self.second = node
                return ""
            if not self._passes(node):
                return f"its output goes into {node.op_type}, from which no factor comes to another layer"
            self.tensor = node.output[0]

    def _is_second(self, node: onnx.NodeProto) -> bool:
        if node.name not in self.fit or node.input[0] != self.tensor:
            return False
        weight = self.graph.constant(node.input[1])
        assert weight is not None
        if node.op_type == "Conv":
            read = weight.shape[1] * int(attribute(node, "group", 1))
            return self.behind == weight.ndim - 2 and read == self.channels
        return self.behind == 0 and weight.size == self.channels * self.repeat * channels_of(node, weight.shape)

    def _passes(self, node: onnx.NodeProto) -> bool:
        """Whether a channel's factor comes out of the node as it goes in; notes what is added, and what axes become."""
        place = list(node.input).index(self.tensor) if self.tensor in node.input else -1
        if place < 0 or len(node.output) != 1:
            return False
        if node.op_type in HOMOGENEOUS:
            return place == 0
        if node.op_type in ("Add", "Sub"):
            return self._adds(node, 1 - place)
        if node.op_type == "Mul" or (node.op_type == "Div" and place == 0):
            same = self.known.get(node.output[0]) == self.known.get(self.tensor)
            return same and self.graph.constant(node.input[1 - place]) is not None
        if node.op_type == "ReduceMean":
            return self._averages(node)
        return node.op_type in ("Flatten", "Reshape", "Squeeze") and place == 0 and self._flattens(node)

    def _adds(self, node: onnx.NodeProto, place: int) -> bool:
        """Whether it adds one number a channel."""
        value = self.graph.constant(node.input[place])
        if value is None or self.repeat > 1 or value.ndim <= self.behind or value.dtype != np.float32:
            return False
        self.shifts.append(Shift((node, place), self.behind))
        return bool(value.size == value.shape[-self.behind - 1] == self.channels and np.isfinite(value).all())

    def _averages(self, node: onnx.NodeProto) -> bool:
        """Whether it is over positions alone."""
        given = self.graph.constant(node.input[1]) if len(node.input) > 1 and node.input[1] else None
        axes = attribute(node, "axes", []) if given is None else given.reshape(-1).tolist()
        rank = self.behind + 2
        over = {axis % rank for axis in axes}
        if not self.behind or not over or min(over) < 2:
            return False
        self.behind -= 0 if attribute(node, "keepdims", 1) else len(over)
        return True

    def _flattens(self, node: onnx.NodeProto) -> bool:
        """Whether channels stay in their order, the positions of each behind one another, or whole rows are moved."""
        before, after = self.known.get(self.tensor, ()), self.known.get(node.output[0], ())
        if not before or not after:
            return False
        if not self.behind:
            return before[-1] == after[-1] == self.channels * self.repeat
        if len(after) != 2 or after[1] != math.prod(before[1:]) or before[1] != self.channels:
            return False
        self.repeat, self.behind = math.prod(before[2:]), 0
        return True
