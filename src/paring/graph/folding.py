"""Folding: a network that only answers needs no batch norm behind a convolution, whose weights can do its work."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node, symbolic_trace
from torch.nn.utils.fusion import fuse_conv_bn_eval

from paring.data.batches import model_call, tensors_of
from paring.errors import TechniqueError, in_words
from paring.graph.features import features_of
from paring.types import Inputs

CONVOLUTION_BEFORE: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: nn.Conv1d,
    nn.BatchNorm2d: nn.Conv2d,
    nn.BatchNorm3d: nn.Conv3d,
}
TOLERANCE = 1e-3
"""Of the largest answer: sums in another order differ by less, and another network by more."""


def folded(model: nn.Module, inputs: Inputs, features: Sequence[str] = ()) -> nn.Module:
    """A network in eval mode with the same answers and fewer batch norms (Jacob et al. 2018, equation 14).

    Where one was is the identity, and all modules keep their names. One stays where something else reads what its
    convolution gives, or where that one is called more than once. The network that was given is untouched; without
    batch norms it is the result. Raises TechniqueError where its code can't be traced, or where the answers to `inputs`
    change, or what the modules give that `features` names.
    """
    if not any(type(module) in CONVOLUTION_BEFORE for module in model.modules()):
        return model
    try:
        result = copy.deepcopy(model)
        _fold_(result, symbolic_trace(copy.deepcopy(model)))
        expected, found = (_answers(network, inputs, features) for network in (model, result))
    except Exception as error:  # Tracing runs the network's own code on what are no tensors: anything may come of it.
        raise TechniqueError(f"the network can't be traced to fold its batch norms: {in_words(error)}.") from error
    if len(expected) != len(found) or not all(map(_close, expected, found)):
        raise TechniqueError("with its batch norms folded the network's answers are others.")
    return result


def _fold_(model: nn.Module, traced: GraphModule) -> None:
    """Fold in place, as the trace of the network allows; convolutions are replaced, not changed."""
    modules: dict[Any, Any] = dict(model.named_modules())
    calls = [node for node in traced.graph.nodes if node.op == "call_module"]
    times = Counter(node.target for node in calls)
    for node in calls:
        before = node.args[0] if node.args else None
        if not isinstance(before, Node) or before.op != "call_module" or len(before.users) > 1:
            continue
        convolution, norm = modules[before.target], modules[node.target]
        fits = type(convolution) is CONVOLUTION_BEFORE.get(type(norm)) and norm.running_mean is not None
        if fits and times[before.target] == 1:
            model.set_submodule(str(before.target), fuse_conv_bn_eval(convolution, norm))
            model.set_submodule(str(node.target), nn.Identity())


def _answers(model: nn.Module, inputs: Inputs, features: Sequence[str]) -> tuple[Tensor, ...]:
    with torch.no_grad(), features_of(model, features) as noted:
        return (*tensors_of(model_call(model, inputs)), *(each.values for each in noted))


def _close(expected: Tensor, found: Tensor) -> bool:
    """Of the same shape, and alike up to rounding."""
    if expected.shape != found.shape or expected.dtype != found.dtype:
        return False
    if not expected.is_floating_point() or not expected.numel():
        return torch.equal(expected, found)
    return torch.allclose(found, expected, rtol=0, atol=TOLERANCE * float(expected.abs().max()))
