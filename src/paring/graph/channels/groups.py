"""Groups: the channels that one or several layers make, with everything that has to go along when one is removed."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor, nn

from paring.graph.channels.atoms import NOWHERE, Atoms, Ids, Slot
from paring.graph.channels.trace import Trace, trace
from paring.types import Inputs


@dataclass(frozen=True, eq=False)
class Member:
    """One parameter dimension in a group: row c of `indices`, shape (channels, width), goes when channel c goes."""

    slot: Slot
    indices: Ids
    produces: bool
    consumes: bool

    def rows(self, values: Tensor) -> Tensor:
        """Of values like the parameter what belongs to each channel, shape (channels, n)."""
        return values.movedim(self.slot.dim, 0)[self.indices.reshape(-1)].reshape(len(self.indices), -1)


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Channels that can be removed one by one, each from all members at once. `frozen` says why none can be.

    `counted` names the modules that may know their number, as attention knows its heads, or so many times that, as what
    cuts a tensor into equal parts knows the size of one.
    """

    name: str
    layers: tuple[str, ...]
    members: tuple[Member, ...]
    frozen: str = ""
    counted: tuple[tuple[str, int], ...] = ()

    @property
    def channels(self) -> int:
        """How many can be removed independently."""
        return len(self.members[0].indices)

    @property
    def width(self) -> int:
        """How many outputs of the naming layer go with one channel."""
        return int(self.main.indices.shape[1])

    @property
    def main(self) -> Member:
        """The first member that produces the channels."""
        return next(member for member in self.members if member.produces)


def channel_groups(model: nn.Module, inputs: Inputs) -> tuple[ChannelGroup, ...]:
    """The channel groups of a network in eval mode, in the order of its parameters.

    Channels with the same members form a group (the dependency groups of Fang et al. 2023, DepGraph, found here on
    single channels by union-find over the traced ATen graph instead of on whole layers by module type).
    TechniqueError where the network can't be traced.
    """
    return groups_of(trace(model, inputs))


def groups_of(traced: Trace) -> tuple[ChannelGroup, ...]:
    """The groups of a traced network."""
    atoms = traced.atoms
    classes: dict[int, list[int]] = defaultdict(list)
    for atom in range(len(atoms.parent)):
        classes[atoms.find(atom)].append(atom)
    gathered: dict[tuple[tuple[Slot, int], ...], list[int]] = defaultdict(list)
    for root, members in classes.items():
        counts = Counter(slot for slot, _ in map(atoms.place, members) if slot != NOWHERE)
        if any(slot in atoms.producers for slot in counts):
            gathered[tuple(counts.items())].append(root)
    order = {name: position for position, name in enumerate(traced.names)}
    counted = _counted(traced)
    groups = [replace(_group(atoms, classes, r), counted=counted.get(frozenset(r), ())) for r in gathered.values()]
    return _named(sorted(groups, key=lambda group: (order[group.main.slot.tensor], bool(group.frozen))))


def _counted(traced: Trace) -> dict[frozenset[int], tuple[tuple[str, int], ...]]:
    """The modules that see exactly these channels, by what stands for each, and how often each is there."""
    found: dict[frozenset[int], tuple[tuple[str, int], ...]] = defaultdict(tuple)
    for module, ids, part in traced.counted:
        roots = Counter(map(traced.atoms.find, ids.tolist()))
        width = max(roots.values())
        even = width == min(roots.values())
        if even and (part or width == 1) and (module, width) not in found[frozenset(roots)]:
            found[frozenset(roots)] += ((module, width),)
    return found


def frozen_layers(traced: Trace) -> dict[str, str]:
    """Why channels of a layer must stay, for every layer that has such; the first reason of each."""
    atoms = traced.atoms
    reasons: dict[str, str] = {}
    for atom in range(len(atoms.parent)):
        reason = atoms.reasons.get(atoms.find(atom))
        if reason is not None:
            reasons.setdefault(atoms.place(atom)[0].layer, reason)
    return reasons


def _group(atoms: Atoms, classes: dict[int, list[int]], roots: list[int]) -> ChannelGroup:
    """Channels with the same members, in the order of the first member's indices."""
    rows: dict[Slot, list[list[int]]] = defaultdict(list)
    for root in sorted(roots, key=lambda root: classes[root][0]):
        places: dict[Slot, list[int]] = defaultdict(list)
        for atom in classes[root]:
            slot, index = atoms.place(atom)
            if slot != NOWHERE:
                places[slot].append(index)
        for slot, indices in places.items():
            rows[slot].append(indices)
    members = tuple(
        Member(slot, np.asarray(indices, dtype=np.int64), slot in atoms.producers, slot in atoms.consumers)
        for slot, indices in rows.items()
    )
    layers = tuple(dict.fromkeys(member.slot.layer for member in members if member.produces))
    reason = next((atoms.reasons[root] for root in roots if root in atoms.reasons), "")
    return ChannelGroup(layers[0], layers, members, reason)


def _named(groups: list[ChannelGroup]) -> tuple[ChannelGroup, ...]:
    """Several groups of one layer (its outputs part ways later) are told apart by a number."""
    seen: Counter[str] = Counter()
    result = []
    for group in groups:
        seen[group.name] += 1
        number = seen[group.name]
        name = group.name if number == 1 else f"{group.name}#{number}"
        result.append(replace(group, name=name))
    return tuple(result)
