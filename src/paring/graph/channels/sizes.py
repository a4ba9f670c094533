"""Sizes that modules keep as numbers of their own: which of them a removal may have to rewrite."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from torch import nn

from paring.errors import TechniqueError
from paring.graph.channels.atoms import Slot
from paring.graph.channels.groups import ChannelGroup
from paring.graph.channels.trace import state

Removal: TypeAlias = Mapping[str, tuple[int, ...]]
"""Name of a channel group -> the channels to remove from it, as rows of its members' indices."""

Attribute: TypeAlias = tuple[type[nn.Module], str]
"""An attribute of all modules of one class: whether it is a size is a matter of the class's code."""

DOCUMENTED = frozenset(
    [
        "in_features",
        "out_features",
        "in_channels",
        "out_channels",
        "num_features",
        "num_channels",
        "num_parameters",
        "embedding_dim",
    ]
)
"""What torch's layers call their sizes, and layers of one's own after them."""


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


def resized_attributes(
    model: nn.Module, groups: Sequence[ChannelGroup], removal: Removal
) -> dict[tuple[str, str], int]:
    """Numbers that modules keep and that equal a size which changes: (module, attribute) -> what it would be then.

    A layer of one's own may keep the sizes of its weight, a module that sees channels as heads their number, and one
    that cuts a tensor into equal parts the size of these. A number may also equal a size by chance, and must then stay.
    Layers of torch are left to `remove_channels`.
    """
    found: dict[tuple[str, str], int] = {}
    tensors = state(model)
    for group in groups:
        kept = group.channels - len(removal.get(group.name, ()))
        for name, width in group.counted if kept < group.channels else ():
            for attribute in _equal_to(model.get_submodule(name), group.channels * width):
                found.setdefault((name, attribute), kept * width)
    for slot, indices in removed_indices(groups, removal).items():
        shape = tuple(tensors[slot.tensor].shape)
        size = shape[slot.dim]
        if shape.count(size) == 1:
            for attribute in _equal_to(model.get_submodule(slot.layer), size):
                found.setdefault((slot.layer, attribute), size - len(indices))
    return found


def _equal_to(module: nn.Module, size: int) -> list[str]:
    """Attributes of a module of one's own that hold this number."""
    if type(module).__module__.startswith("torch.nn."):
        return []
    return [attribute for attribute, value in vars(module).items() if type(value) is int and value == size]


def undocumented(model: nn.Module, resized: Iterable[tuple[str, str]]) -> tuple[Attribute, ...]:
    """Those of the attributes of which only the network's behaviour tells whether they are sizes."""
    own = [(type(model.get_submodule(name)), attribute) for name, attribute in resized if attribute not in DOCUMENTED]
    return tuple(dict.fromkeys(own))
