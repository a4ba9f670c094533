"""Which tensors of a graph become 8-bit integers, so that the layers between them run in integer arithmetic.

A tensor is *wanted* where an integer operator reads it. Operators that only move values (`MOVERS`) work on the
integers themselves and share the scale of what they move: all tensors joined by them form one `Group`. A rectifier
right after a layer needs no integers of its own: the quantization after it clips at 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx

from paring.errors import TechniqueError
from paring.graph.onnx_graph import Array, Graph, attribute
from paring.graph.onnx_layers import weighted_layers

Placement = Literal["every-edge", "inputs-only"]
PLACEMENTS: tuple[Placement, ...] = ("every-edge", "inputs-only")

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
MOVERS = ("MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Pad", "Concat", "Identity")
JOINS = ("Add", "Mul")
POOLS = ("GlobalAveragePool", "AveragePool", "ReduceMean")
RECTIFIERS = ("Relu", "Clip")

TRANSPOSED = "its weight is a transposed table that others read"


@dataclass(frozen=True)
class Group:
    """Tensors that share scale and zero point: `sources` are quantized, `moved` come out of movers as integers."""

    sources: tuple[str, ...]
    moved: tuple[str, ...]

    @property
    def tensors(self) -> tuple[str, ...]:
        """All of them."""
        return self.sources + self.moved


@dataclass(frozen=True)
class Plan:
    """What to quantize: layers by name, groups of tensors, the movers inside groups, and who reads integers.

    `integer_only` are sources made by an integer operator: whoever reads them reads what the integers stand for,
    because a float copy beside them would keep the operator from running in integers. `reasons` has a sentence for
    each layer that stays float.
    """

    layers: tuple[str, ...]
    groups: tuple[Group, ...]
    movers: frozenset[str]
    readers: frozenset[str]
    integer_only: frozenset[str]
    reasons: dict[str, str]

    @property
    def sources(self) -> tuple[str, ...]:
        """The tensors to observe: those that are quantized where they are made."""
        return tuple(name for group in self.groups for name in group.sources)

    @property
    def moved(self) -> frozenset[str]:
        """The tensors that exist as integers only."""
        return frozenset(name for group in self.groups for name in group.moved)


def planned(
    graph: Graph,
    placement: Placement,
    exclude: Iterable[str] = (),
    own: Iterable[str] = (),
    *,
    made: Iterable[str] = (),
    moved: bool = True,
) -> Plan:
    """Where integers go; layers in `own` quantize their inputs for themselves, whatever others read.

    The tensors in `made` become integers in any case. Without `moved` what only moves values does so in floating point.

    "every-edge" also quantizes what comes out of every convolution, and both sides of the additions and pools
    between integer layers: for runtimes with an integer kernel for each operator. "inputs-only" quantizes what layers
    read, nothing else: for runtimes that fuse a convolution with the addition and rectifier after it.
    """
    return _Planner(graph, placement, float_reasons(graph, exclude), frozenset(own), frozenset(made), moved).plan()


def float_reasons(graph: Graph, exclude: Iterable[str] = (), operators: Sequence[str] = LAYERS) -> dict[str, str]:
    """For each weighted layer why it has to stay float, "" where it can be integer: one of the operators, and fit.

    Raises TechniqueError where an excluded layer does not exist.
    """
    nodes = {node.name: node for node in graph.nodes}
    layers = weighted_layers(graph.model)
    excluded = frozenset(exclude)
    if unknown := excluded - {layer.name for layer in layers}:
        known = ", ".join(layer.name for layer in layers[:8])
        raise TechniqueError(f"exclude names {min(unknown)!r}, which is no layer with weights: there are {known}, ...")
    return {
        layer.name: "excluded by the settings"
        if layer.name in excluded
        else f"{layer.op_type} has no integer form here"
        if layer.op_type not in operators
        else _misfit(graph, nodes[layer.name])
        for layer in layers
    }


def _misfit(graph: Graph, node: onnx.NodeProto) -> str:
    """Why the layer can't be integer; "" where it can."""
    if unfit := weight_misfit(graph, node.input[1]):
        return unfit
    weight = graph.constant(node.input[1])
    if weight is None:
        return TRANSPOSED
    if node.input[0] in graph.initializers:
        return "it reads constants alone"
    if node.op_type == "MatMul" and weight.ndim != 2:
        return f"its weight has {weight.ndim} axes, not 2"
    if len(node.input) > 2 and node.input[2] and not _bias_fits(graph, node, weight):
        return "its bias is no constant of one value a channel"
    if node.op_type == "Gemm" and attribute(node, "transA", 0):
        return "its input is transposed"
    return ""


def weight_misfit(graph: Graph, name: str) -> str:
    """Why nothing can be done with a layer's weight, or with what it is the transpose of; "" where there is no such."""
    weight = graph.constant(graph.transposed(name) or name)
    if weight is None:
        return "its weight can be overridden by the caller"
    return "" if weight.dtype == np.float32 else f"its weight is {weight.dtype}, not float32"


def _bias_fits(graph: Graph, node: onnx.NodeProto, weight: Array) -> bool:
    """Whether it is a constant of one value for all, or one for each channel; Gemm may have one for each row."""
    bias = graph.constant(node.input[2])
    if bias is None or bias.dtype != np.float32:
        return False
    return bias.size == 1 or bias.size == bias.shape[-1] == channels_of(node, weight.shape)


def channel_axis(node: onnx.NodeProto) -> int:
    """The axis of a layer's weight that counts its output channels (for ConvTranspose, those of one group)."""
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB", 0) else 1
    return {"Conv": 0, "ConvTranspose": 1, "MatMul": 1}[node.op_type]


def channels_of(node: onnx.NodeProto, shape: tuple[int, ...]) -> int:
    """Output channels of a layer with a weight of that shape."""
    groups = int(attribute(node, "group", 1)) if node.op_type == "ConvTranspose" else 1
    return int(shape[channel_axis(node)]) * groups


def behind_rectifier(graph: Graph, name: str) -> str:
    """What the tensor's only reader makes of it, where that is a rectifier; else the tensor itself."""
    readers = graph.consumers[name]
    if len(readers) == 1 and readers[0].op_type in RECTIFIERS and name not in graph.outputs:
        return str(readers[0].output[0])
    return name


class _Planner:
    def __init__(
        self,
        graph: Graph,
        placement: Placement,
        reasons: dict[str, str],
        own: frozenset[str],
        made: frozenset[str],
        moved: bool,
    ) -> None:
        self.own, self.made, self.moved = own, made, moved
        self.graph, self.every_edge, self.reasons = graph, placement == "every-edge", reasons
        if self.every_edge:
            for node in graph.nodes:
                if node.op_type == "ConvTranspose" and reasons.get(node.name) == "":
                    reasons[node.name] = "ConvTranspose stays float where every edge is quantized"
        self.layers = {name for name, reason in reasons.items() if not reason}
        self.capable: set[str] = set()
        self.wanted: set[str] = set()
        self.readers: set[str] = set(self.layers)

    def plan(self) -> Plan:
        for node in self.graph.nodes:
            self._mark_capable(node)
        for node in reversed(self.graph.nodes):
            self._mark_wanted(node)
        movers = [node for node in self.graph.nodes if self._moves(node) and self._wanted_any(node.output)]
        groups = _groups(self.wanted, movers, self.graph)
        sources = {name for group in groups for name in group.sources}
        return Plan(
            layers=tuple(node.name for node in self.graph.nodes if node.name in self.layers),
            groups=groups,
            movers=frozenset(node.name for node in movers),
            readers=frozenset(self.readers),
            integer_only=frozenset(sources & self.capable),
            reasons={name: reason for name, reason in self.reasons.items() if reason},
        )

    def _mark_capable(self, node: onnx.NodeProto) -> None:
        """Note tensors that an integer operator makes, or would if they were wanted."""
        if node.name in self.layers:
            self.capable.update(node.output)
        elif node.op_type in (*RECTIFIERS, *POOLS, *JOINS) or self._moves(node):
            self.capable.update(node.output if any(name in self.capable for name in self._data(node)) else ())

    def _mark_wanted(self, node: onnx.NodeProto) -> None:
        """Visited after all that read the node's outputs."""
        if node.name in self.layers:
            if node.name not in self.own:
                self.wanted.add(node.input[0])
            given = behind_rectifier(self.graph, node.output[0])
            if node.op_type == "Conv" and (self.every_edge or given in self.made):
                self.wanted.add(given)
        elif self._moves(node):
            self.wanted.update(self._data(node) if self._wanted_any(node.output) else ())
        elif node.op_type in (*JOINS, *POOLS) and self._wanted_any([behind_rectifier(self.graph, node.output[0])]):
            data = self._data(node)
            both = len(data) == (2 if node.op_type in JOINS else 1)
            if both and any(name in self.capable for name in data):
                self.readers.add(node.name)
                if self.every_edge or node.op_type in POOLS:
                    self.wanted.update(data)

    def _wanted_any(self, names: Iterable[str]) -> bool:
        return any(name in self.wanted for name in names)

    def _data(self, node: onnx.NodeProto) -> list[str]:
        """The inputs that are no constants; movers and pools have but the first, Concat all."""
        names = list(node.input) if node.op_type in (*JOINS, "Concat") else list(node.input[:1])
        return [name for name in names if name and name not in self.graph.initializers]

    def _moves(self, node: onnx.NodeProto) -> bool:
        """Whether the node's output holds values of its inputs, and zeros, alone."""
        if not self.moved or node.op_type not in MOVERS or len(node.output) != 1 or len(self._data(node)) == 0:
            return False
        if node.op_type == "Concat":
            return len(self._data(node)) == len(node.input)
        if node.op_type == "Pad" and len(node.input) > 2 and node.input[2]:
            value = self.graph.constant(node.input[2])
            return value is not None and not value.any()
        return True


def _groups(wanted: set[str], movers: list[onnx.NodeProto], graph: Graph) -> tuple[Group, ...]:
    """The wanted tensors, joined where a mover leads from one to the other."""
    parent = {name: name for name in wanted}

    def root(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    moved = set()
    for node in movers:
        moved.add(node.output[0])
        parent.setdefault(node.output[0], node.output[0])
        for name in node.input:
            if name in parent and name not in graph.initializers:
                parent[root(name)] = root(node.output[0])
    members: dict[str, list[str]] = {}
    order = [*graph.inputs, *(name for node in graph.nodes for name in node.output)]
    for name in (name for name in order if name in parent):
        members.setdefault(root(name), []).append(name)
    return tuple(
        Group(tuple(n for n in names if n not in moved), tuple(n for n in names if n in moved))
        for names in members.values()
    )
