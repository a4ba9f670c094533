"""Physical removal: smaller parameters and buffers, and modules that say the size they now have."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from paring.graph.channels.groups import ChannelGroup
from paring.graph.channels.sizes import DOCUMENTED, Attribute, Removal, removed_indices, resized_attributes
from paring.graph.channels.trace import state, state_names


def without(tensor: Tensor, gone: Mapping[int, set[int]]) -> Tensor:
    """A copy of a tensor that lacks some indices of some dimensions: `gone` maps dimension -> indices."""
    for dim, indices in gone.items():
        kept = [index for index in range(tensor.shape[dim]) if index not in indices]
        tensor = tensor.index_select(dim, torch.tensor(kept, dtype=torch.long, device=tensor.device))
    return tensor.detach().clone()


def remove_channels(
    model: nn.Module, groups: Sequence[ChannelGroup], removal: Removal, own_sizes: Collection[Attribute] = ()
) -> nn.Module:
    """A copy of the network in eval mode without these channels; tied parameters stay tied.

    Of the numbers that classes of one's own keep, `own_sizes` are known to be sizes, beside those that are called as
    torch calls them.
    """
    result = copy.deepcopy(model).eval()
    by_tensor: dict[str, dict[int, set[int]]] = defaultdict(dict)
    for slot, indices in removed_indices(groups, removal).items():
        by_tensor[slot.tensor][slot.dim] = indices
    for (name, attribute), size in resized_attributes(model, groups, removal).items():
        module = result.get_submodule(name)
        if attribute in DOCUMENTED or (type(module), attribute) in own_sizes:
            setattr(module, attribute, size)
    tensors, aliases = state(result), state_names(result)
    touched: set[str] = set()
    for name, gone in by_tensor.items():
        new = without(tensors[name], gone)
        if isinstance(tensors[name], nn.Parameter):
            new = nn.Parameter(new, requires_grad=tensors[name].requires_grad)
        for alias in aliases[name]:
            owner, _, attribute = alias.rpartition(".")
            setattr(result.get_submodule(owner), attribute, new)
            touched.add(owner)
    for module in {id(result.get_submodule(name)): result.get_submodule(name) for name in touched}.values():
        _resize_(module)
    return result


def _resize_(module: nn.Module) -> None:
    """Bring a layer's own record of its size in line with its parameters."""
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        _resize_convolution_(module)
    elif isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        module.in_channels, module.out_channels = (
            int(module.weight.shape[0]),
            int(module.weight.shape[1]) * module.groups,
        )
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = map(int, module.weight.shape)
    elif isinstance(module, nn.Embedding):
        module.embedding_dim = int(module.weight.shape[1])
    else:
        _resize_norm_(module)


def _resize_convolution_(module: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> None:
    """Depthwise layers lose groups; other grouped layers keep their groups, which become narrower."""
    outputs, fan_in = int(module.weight.shape[0]), int(module.weight.shape[1])
    if 1 < module.groups == module.in_channels:
        module.groups = outputs // (module.out_channels // module.groups)
    module.out_channels, module.in_channels = outputs, fan_in * module.groups


def _resize_norm_(module: nn.Module) -> None:
    """Normalisation layers and PReLU: all are one-dimensional."""
    if isinstance(module, nn.GroupNorm):
        channels = len(module.weight)
        module.num_groups = channels * module.num_groups // module.num_channels
        module.num_channels = channels
    elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
        module.normalized_shape = tuple(module.weight.shape)
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(module.weight)
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        kept = module.weight if module.weight is not None else module.running_mean
        module.num_features = len(kept) if kept is not None else module.num_features
