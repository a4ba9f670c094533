"""Atoms: one index along one dimension of one parameter; union-find tells which can only be removed together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Ids: TypeAlias = npt.NDArray[np.int64]
"""The atoms along one dimension of a tensor, shape (size,)."""

Dims: TypeAlias = tuple[Ids | None, ...]
"""One entry a dimension: its atoms, or None where the size is fixed (batch, space, sequence, network inputs)."""


@dataclass(frozen=True, order=True)
class Slot:
    """One dimension of one parameter or buffer, by its qualified name in the network."""

    tensor: str
    dim: int

    @property
    def layer(self) -> str:
        """Qualified name of the module that owns the tensor; empty for the network itself."""
        return self.tensor.rpartition(".")[0]


NOWHERE = Slot("", 0)
"""Where channels live that no parameter holds, such as padding."""


@dataclass
class Atoms:
    """Union-find over all atoms of a network, with the reason of those that must stay."""

    slots: list[Slot] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    owner: list[int] = field(default_factory=list)
    parent: list[int] = field(default_factory=list)
    reasons: dict[int, str] = field(default_factory=dict)
    producers: set[Slot] = field(default_factory=set)
    consumers: set[Slot] = field(default_factory=set)

    def new(self, slot: Slot, size: int) -> Ids:
        """Fresh atoms for one dimension of a parameter."""
        start = len(self.parent)
        self.owner.extend([len(self.slots)] * size)
        self.slots.append(slot)
        self.starts.append(start)
        self.parent.extend(range(start, start + size))
        return np.arange(start, start + size, dtype=np.int64)

    def find(self, atom: int) -> int:
        """The atom that stands for all that are coupled with this one."""
        root = atom
        while self.parent[root] != root:
            root = self.parent[root]
        while self.parent[atom] != root:
            self.parent[atom], atom = root, self.parent[atom]
        return root

    def place(self, atom: int) -> tuple[Slot, int]:
        """The dimension that an atom belongs to, and its index there."""
        slot = self.owner[atom]
        return self.slots[slot], atom - self.starts[slot]

    def join(self, first: Ids, second: Ids) -> None:
        """Couple two equally long sets of atoms, one by one."""
        for a, b in zip(first.tolist(), second.tolist(), strict=True):
            root, other = self.find(a), self.find(b)
            if root == other:
                continue
            self.parent[other] = root
            reason = self.reasons.pop(other, None)
            if reason is not None:
                self.reasons.setdefault(root, reason)

    def freeze(self, ids: Ids | None, reason: str) -> None:
        """Say that these atoms must stay; the first reason is kept."""
        for atom in () if ids is None else np.unique(ids).tolist():
            self.reasons.setdefault(self.find(atom), reason)

    def couple(self, first: Ids | None, second: Ids | None, reason: str) -> Ids | None:
        """Couple two dimensions of equal size; one of fixed size freezes the other for `reason`."""
        if first is None or second is None:
            self.freeze(first, reason)
            self.freeze(second, reason)
            return None
        self.join(first, second)
        return first

    def slots_of(self, ids: Ids | None) -> Iterable[Slot]:
        """The parameter dimensions that these atoms were born in."""
        owners = () if ids is None else {self.owner[atom] for atom in ids.tolist()}
        return [self.slots[owner] for owner in owners]
