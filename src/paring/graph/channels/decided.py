"""Decided tensors: labels, masks and the like, which say less than the numbers that they were decided by."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ROUNDING = frozenset({"round", "floor", "ceil", "trunc", "sign"})
"""Operators of which a floating number comes out as a whole one."""


def is_continuous(tensor: Tensor) -> bool:
    """Whether it holds floating or complex numbers."""
    return tensor.is_floating_point() or tensor.is_complex()


class Deciding(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within, every decided tensor is known by the floating ones that it was decided by.

    Decided is what holds integers or truth values, what is rounded, and what comes from decided tensors alone.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._decided: dict[int, tuple[Tensor, dict[int, Tensor]]] = {}  # The tensor too: as it lives, its id is its.

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One operator."""
        given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        operator = func._schema.name.removeprefix("aten::").rstrip("_")
        decides = operator in ROUNDING or all(map(self._is_decided, given))
        by: dict[int, Tensor] = {}
        for tensor in given:
            by |= self._by(tensor) if self._is_decided(tensor) else {id(tensor): tensor}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and (decides or not is_continuous(tensor)):
                self._decided[id(tensor)] = (tensor, by)
            else:  # One that was decided is none any more once others are written into it.
                self._decided.pop(id(tensor), None)
        return result

    def _is_decided(self, tensor: Tensor) -> bool:
        return id(tensor) in self._decided or not is_continuous(tensor)

    def _by(self, tensor: Tensor) -> dict[int, Tensor]:
        return self._decided[id(tensor)][1] if id(tensor) in self._decided else {}

    def deciders(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """The floating tensors that one was decided by, in order; none where it is not decided."""
        return tuple(self._by(tensor).values())
