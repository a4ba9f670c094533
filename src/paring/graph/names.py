"""Names in an exported graph: the signature's for its inputs and outputs, and no name for two values."""

from __future__ import annotations

from collections.abc import Iterator, MutableSequence
from itertools import chain

import onnx

from paring.graph.onnx_graph import subgraphs
from paring.types import Signature, unused


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
