"""Physical removal: smaller parameters and buffers, and modules that say the size they now have."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from paring.errors import TechniqueError
from paring.graph.channels.atoms import Slot
from paring.graph.channels.groups import ChannelGroup
from paring.graph.channels.trace import state, state_names

Removal: TypeAlias = Mapping[str, tuple[int, ...]]
"""Name of a channel group -> the channels to remove from it, as rows of its members' indices."""


def removed_indices(groups: Iterable[ChannelGroup], removal: Removal) -> dict[Slot, set[int]]:
    """Which indices go from which parameter dimension. TechniqueError for a frozen group."""
    gone: dict[Slot, set[int]] = defaultdict(set)
    for group in groups:
        rows = list(removal.get(group.name, ()))
        if rows and group.frozen:
            raise TechniqueError(f"channels of {group.name!r} can't be removed: {group.frozen}.")
        for member in group.members if rows else ():
            gone[member.slot].update(member.indices[rows].ravel().tolist())
    return dict(gone)


def without(tensor: Tensor, gone: Mapping[int, set[int]]) -> Tensor:
    """A copy of a tensor that lacks some indices of some dimensions: `gone` maps dimension -> indices."""
    for dim, indices in gone.items():
        kept = [index for index in range(tensor.shape[dim]) if index not in indices]
        tensor = tensor.index_select(dim, torch.tensor(kept, dtype=torch.long, device=tensor.device))
    return tensor.detach().clone()


def remove_channels(model: nn.Module, groups: Sequence[ChannelGroup], removal: Removal) -> nn.Module:
    """A copy of the network in eval mode without these channels; tied parameters stay tied."""
    result = copy.deepcopy(model).eval()
    by_tensor: dict[str, dict[int, set[int]]] = defaultdict(dict)
    for slot, indices in removed_indices(groups, removal).items():
        by_tensor[slot.tensor][slot.dim] = indices
    tensors, aliases = state(result), state_names(result)
    touched: set[str] = set()
    for group in groups:
        _recount_(result, group, group.channels - len(removal.get(group.name, ())))
    for name, gone in by_tensor.items():
        old = tensors[name]
        new = without(old, gone)
        _respell_(result.get_submodule(name.rpartition(".")[0]), tuple(old.shape), tuple(new.shape))
        if isinstance(old, nn.Parameter):
            new = nn.Parameter(new, requires_grad=old.requires_grad)
        for alias in aliases[name]:
            owner, _, attribute = alias.rpartition(".")
            setattr(result.get_submodule(owner), attribute, new)
            touched.add(owner)
    for module in {id(result.get_submodule(name)): result.get_submodule(name) for name in touched}.values():
        _resize_(module)
    return result


def _recount_(model: nn.Module, group: ChannelGroup, kept: int) -> None:
    """A module that sees channels as heads has their number; the name tells it from any other of the same size."""
    for name in group.counted:
        module = model.get_submodule(name)
        for attribute, value in list(vars(module).items()):
            if "head" in attribute and type(value) is int and value == group.channels:
                setattr(module, attribute, kept)


def _respell_(module: nn.Module, old: tuple[int, ...], new: tuple[int, ...]) -> None:
    """A layer of one's own may keep the size of its weight in attributes; torch's are brought in line by `_resize_`."""
    if type(module).__module__.startswith("torch.nn."):
        return
    for before, after in zip(old, new, strict=True):
        for attribute, value in list(vars(module).items()):
            if type(value) is int and value == before != after and old.count(before) == 1:
                setattr(module, attribute, after)


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
