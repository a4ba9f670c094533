"""Trace: the network as a graph of ATen operators in which every dimension knows the channels it carries."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Node

from paring.data.batches import tensors_of
from paring.errors import TechniqueError
from paring.graph.channels.atoms import Atoms, Dims, Slot
from paring.graph.channels.calls import Call, Counted, Value, fixed, is_tensor
from paring.graph.channels.rules import followed
from paring.graph.export import quiet_exporter
from paring.types import Inputs


@dataclass(frozen=True)
class Trace:
    """A traced network: the graph, the atoms of all tensors, and which parameter each placeholder stands for.

    `counted` tells which modules may know how many channels there are, as attention knows its heads.
    """

    program: ExportedProgram
    atoms: Atoms
    known: dict[Node, Value]
    states: dict[Node, str]
    names: dict[str, tuple[str, ...]]
    counted: list[Counted]

    def dims(self, node: Node) -> Dims:
        """Atoms of one tensor of the graph."""
        return cast(Dims, self.known[node])


def export(model: nn.Module, inputs: Inputs) -> ExportedProgram:
    """The graph of the network for one sample. TechniqueError where its control flow depends on the data."""
    arguments, named = ((), dict(inputs)) if isinstance(inputs, dict) else (tensors_of(inputs), {})
    try:
        # It warns of recurrent layers that list their weights anew at each call: only the graph is used.
        with torch.no_grad(), quiet_exporter():
            return torch.export.export(model, arguments, kwargs=named, strict=False)
    except Exception as error:
        first = str(error).strip().splitlines()
        detail = first[0] if first else type(error).__name__
        raise TechniqueError(
            f"the network can't be traced to find its channels ({detail}): leave out techniques that change its shape."
        ) from error


def state_names(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Every parameter and buffer by its first qualified name, with all its names (tied ones have several)."""
    names: dict[int, list[str]] = {}
    for source in (model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)):
        for name, tensor in source:
            names.setdefault(id(tensor), []).append(name)
    return {group[0]: tuple(group) for group in names.values()}


def state(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer by qualified name; tied ones under each of their names."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def trace(model: nn.Module, inputs: Inputs) -> Trace:
    """Follow the channels of a network in eval mode through its graph."""
    program = export(model, inputs)
    names = state_names(model)
    first = {alias: name for name, group in names.items() for alias in group}
    signature = program.graph_signature
    placeholders = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    program.graph.eliminate_dead_code()  # What nothing reads, as the weights of an attention, must not freeze channels.
    traced = Trace(program, Atoms(), {}, {}, names, [])
    born = _born(model, traced.atoms, names)
    for node in program.graph.nodes:
        if node.op == "placeholder":
            value = node.meta.get("val")
            name = first.get(placeholders.get(node.name, ""))
            if name is not None:
                traced.states[node] = name
            traced.known[node] = born[name] if name else (None,) * (value.dim() if isinstance(value, Tensor) else 0)
        elif node.op == "get_attr" and is_tensor(node):
            traced.known[node] = fixed(node.meta["val"].dim())
        elif node.op == "call_function":
            traced.known[node] = _value(node, traced)
        elif node.op == "output":
            _freeze_outputs(node, traced)
    return traced


def _born(model: nn.Module, atoms: Atoms, names: dict[str, tuple[str, ...]]) -> dict[str, Dims]:
    """Fresh atoms for every dimension of every parameter and buffer; a dimension of size 1 has nothing to remove."""
    tensors = state(model)
    storages: dict[int, list[str]] = {}
    for name in names:
        if tensors[name].numel():
            storages.setdefault(tensors[name].untyped_storage().data_ptr(), []).append(name)
    result: dict[str, Dims] = {}
    for name in names:
        shape = tensors[name].shape
        result[name] = tuple(atoms.new(Slot(name, at), size) if size > 1 else None for at, size in enumerate(shape))
    for sharing in storages.values():
        for name in sharing if len(sharing) > 1 else ():
            for ids in result[name]:
                atoms.freeze(ids, f"{' and '.join(map(repr, sharing))} are views of one memory")
    return result


def _value(node: Node, traced: Trace) -> Value:
    """Dimensions of one operator's result; `getitem` takes lists apart."""
    source = node.args[0] if node.args else None
    if node.target is operator.getitem and isinstance(source, Node):
        index: Any = node.args[1]
        return cast(Value, traced.known[source][index])
    return followed(Call(node, traced.atoms, traced.known, traced.counted))


def _freeze_outputs(node: Node, traced: Trace) -> None:
    """What the network gives keeps its size."""
    for output in node.all_input_nodes:
        if is_tensor(output):
            for ids in traced.dims(output):
                traced.atoms.freeze(ids, "they are the network's output")
