"""Copies of networks, which every technique begins with: what it is given stays as it is."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from paring.errors import TechniqueError
from paring.graph.quantized import told_quantized


def copied(model: nn.Module) -> nn.Module:
    """A copy that can be changed. TechniqueError where a layer makes its weight from others at each call.

    So do the masks of `torch.nn.utils.prune` and the older `weight_norm`; torch copies no tensor that was computed. Nor
    does it copy weights that are stored as sparse ones. TechniqueError for a quantized network too: of that no more
    than the layers which are left in floating point would be changed.
    """
    if told := told_quantized(model):
        raise TechniqueError(told)
    for name, parameter in model.named_parameters():
        if parameter.layout != torch.strided:
            raise TechniqueError(f"{name!r} is stored as {parameter.layout}: make it dense first, by its to_dense().")
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if isinstance(value, Tensor) and not value.is_leaf:
                raise TechniqueError(
                    f"{name!r} computes its {key!r} at each call, so that the network can't be copied: fix it first, "
                    "by torch.nn.utils.prune.remove or torch.nn.utils.remove_weight_norm."
                )
    return copy.deepcopy(model)
