"""What each layer costs: parameters, and multiply-accumulate operations for one sample."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from paring.data.batches import mapped, model_call
from paring.types import Inputs


@dataclass(frozen=True)
class LayerCost:
    """Parameters that a layer itself holds (not its children), and its MACs for one row of the sample."""

    parameters: int
    macs: int


def weighted_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The modules that hold a parameter of two or more dimensions themselves, by qualified name, each once."""
    return {
        name: module
        for name, module in model.named_modules()
        if any(parameter.dim() >= 2 for parameter in module.parameters(recurse=False))
    }


def layer_costs(model: nn.Module, inputs: Inputs) -> dict[str, LayerCost]:
    """Cost of every weighted layer, in the order of the network, from one forward of the sample's first row.

    Convolutions and matrix products count, wherever they run: those in a module's own forward are that module's. A
    weight that several layers share counts once, in the first of them.
    """
    model_macs = _macs(model, inputs)
    costs: dict[str, LayerCost] = {}
    counted: set[int] = set()
    for name, module in weighted_layers(model).items():
        own = [parameter for parameter in module.parameters(recurse=False) if id(parameter) not in counted]
        counted |= set(map(id, own))
        macs = model_macs.get(name, 0) - _inside(name, module, model_macs)
        costs[name] = LayerCost(sum(parameter.numel() for parameter in own), max(macs, 0))
    return costs


def _inside(name: str, module: nn.Module, model_macs: Mapping[str, int]) -> int:
    """MACs of the modules that a module calls; one that has no forward, as a list has none, stands for its own."""
    children = ((f"{name}.{child}" if name else child, each) for child, each in module.named_children())
    return sum(model_macs.get(child) or _inside(child, each, model_macs) for child, each in children)


@contextmanager
def unfused() -> Iterator[None]:
    """The fused transformer layer is one opaque operator: no counter knows it, and its parts are not called."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _macs(model: nn.Module, inputs: Inputs) -> dict[str, int]:
    """MACs by qualified module name, children included; the network itself is ''."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), unfused(), counter:
        model_call(model, mapped(inputs, lambda tensor: tensor[:1]))
    root = type(model).__name__
    result: dict[str, int] = {}
    for path, counts in counter.get_flop_counts().items():
        name = "" if path in (root, "Global") else path.removeprefix(f"{root}.")
        result[name] = max(result.get(name, 0), sum(counts.values()) // 2)
    return result
