"""Names in an exported graph: the signature's for its inputs and outputs, the modules' for layers, none for two."""

from __future__ import annotations

import ast
from collections.abc import Iterator, MutableSequence
from itertools import chain

import onnx

from paring.graph.onnx_graph import subgraphs
from paring.graph.onnx_layers import WEIGHT_INPUT, weighted_layers
from paring.types import Signature, unused

WEIGHT = ".weight"
ON_THE_WAY = ("QuantizeLinear", "DequantizeLinear", "Transpose")
"""Between a weight that is quantized and its layer."""

SCOPES = "pkg.torch.onnx.name_scopes"
"""The exporter's note on a node: the modules around it as a list of Python's, the innermost last but one."""


def name_values_(graph: onnx.GraphProto, signature: Signature) -> None:
    """Give the inputs and outputs the signature's names, in place; inner values of such a name get another.

    The exporter renames inputs and outputs without a look at what else bears these names, and a graph in which two
    values share one is refused by every runtime.
    """
    inputs = zip(graph.input, signature.input_names, strict=True)
    outputs = zip(graph.output, signature.graph_output_names, strict=True)
    new = {value.name: name for value, name in chain(inputs, outputs)}
    given, taken = set(new.values()), {*new.values(), *_names(graph)}
    for name in dict.fromkeys(_names(graph)):
        if name in given and name not in new:
            new[name] = unused(f"{name}_1", taken)
            taken.add(new[name])
    for part in _parts(graph):
        _rename_(part, new)


def name_layers_(model: onnx.ModelProto) -> None:
    """Name each layer after its module, in place, as users know it: the exporter only counts its nodes.

    The module is the one whose weight the layer holds, or where that was computed anew (transposed, say) the one in
    whose code the exporter met it, which for a folded batch norm would be the batch norm.
    """
    taken = {node.name for node in model.graph.node}
    layers = _quantized(model.graph) | {layer.name: layer.weight for layer in weighted_layers(model)}
    for node in model.graph.node:
        weight = layers.get(node.name, "")
        module = weight.removesuffix(WEIGHT) if weight.endswith(WEIGHT) else _scope(node) if weight else ""
        if module:
            node.name = unused(module, taken)
            taken.add(node.name)


def _quantized(graph: onnx.GraphProto) -> dict[str, str]:
    """Of the layers that quantize a constant for their weight: its name, by theirs."""
    made = {node.output[0]: node.input[0] for node in graph.node if node.op_type in ON_THE_WAY}
    constants = {tensor.name for tensor in graph.initializer}
    found = {}
    for node in graph.node:
        weight = node.input[WEIGHT_INPUT[node.op_type]] if node.op_type in ("Conv", "Gemm", "MatMul") else ""
        while weight in made:
            weight = made[weight]
        if weight in constants:
            found[node.name] = weight
    return found


def _scope(node: onnx.NodeProto) -> str:
    """The innermost module in whose code the exporter met a node; empty where it is the network itself, or not told."""
    scopes = next((entry.value for entry in node.metadata_props if entry.key == SCOPES), "[]")
    modules: list[str] = ast.literal_eval(scopes)[:-1]
    return modules[-1] if modules else ""


def _parts(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and those inside its nodes, at any depth: they read its values by name."""
    yield graph
    for node in graph.node:
        for inner in subgraphs(node):
            yield from _parts(inner)


def _names(graph: onnx.GraphProto) -> Iterator[str]:
    """Every name that a value bears."""
    for part in _parts(graph):
        yield from (value.name for value in (*part.input, *part.initializer))
        yield from (name for node in part.node for name in node.output)


def _rename_(graph: onnx.GraphProto, new: dict[str, str]) -> None:
    """Other names wherever one graph makes, reads or describes values."""
    for node in graph.node:
        _replace_(node.input, new)
        _replace_(node.output, new)
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = new.get(value.name, value.name)


def _replace_(names: MutableSequence[str], new: dict[str, str]) -> None:
    for at, name in enumerate(names):
        names[at] = new.get(name, name)
