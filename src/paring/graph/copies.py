"""Copies of networks, which every technique begins with: what it is given stays as it is."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from paring.errors import TechniqueError
from paring.graph.quantized import told_quantized


def copied(model: nn.Module) -> nn.Module:
    """A copy that can be changed. TechniqueError as of `check_copyable`."""
    check_copyable(model)
    return copy.deepcopy(model)


def check_copyable(model: nn.Module) -> None:
    """Raise TechniqueError where a layer makes its weight from others at each call: what is changed would not hold.

    So do the masks of `torch.nn.utils.prune` and the older `weight_norm`; nor does torch copy a tensor that was
    computed, or weights that are stored as sparse ones. TechniqueError for a quantized network too: of that no more
    than the layers which are left in floating point would be changed.
    """
    if told := told_quantized(model):
        raise TechniqueError(told)
    for name, parameter in model.named_parameters():
        if parameter.layout != torch.strided:
            raise TechniqueError(f"{name!r} is stored as {parameter.layout}: make it dense first, by its to_dense().")
    for name, module in model.named_modules():
        for key, remedy in (*_made_by_hooks(module), *_computed(module)):
            raise TechniqueError(
                f"{name!r} computes its {key!r} at each call, so that the network can't be copied: fix it first, by "
                f"{remedy}."
            )


def _made_by_hooks(module: nn.Module) -> list[tuple[str, str]]:
    """The weights of a module that hooks make, each with what ends that."""
    found = []
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, BasePruningMethod):
            found.append((hook._tensor_name, "torch.nn.utils.prune.remove"))
        elif isinstance(hook, WeightNorm | SpectralNorm):
            kind = "weight" if isinstance(hook, WeightNorm) else "spectral"
            found.append((hook.name, f"torch.nn.utils.remove_{kind}_norm"))
    return found


def _computed(module: nn.Module) -> list[tuple[str, str]]:
    """The tensors of a module that its own code computed, each with what ends that."""
    tensors = [key for key, value in vars(module).items() if isinstance(value, Tensor) and not value.is_leaf]
    return [(key, "keeping its detach()") for key in tensors]
