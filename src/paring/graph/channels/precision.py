"""Double precision for a proof: what a network computes, in float64 wherever it says float32 or less."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

WIDE: Mapping[torch.dtype, torch.dtype] = MappingProxyType(
    {
        torch.float16: torch.float64,
        torch.bfloat16: torch.float64,
        torch.float32: torch.float64,
        torch.complex32: torch.complex128,
        torch.complex64: torch.complex128,
    }
)


def widened(value: Any) -> Any:
    """A tensor of floating numbers, or a type of such, in double precision; anything else as it is."""
    if isinstance(value, Tensor):
        return value.to(WIDE[value.dtype]) if value.dtype in WIDE else value
    return WIDE.get(value, value) if isinstance(value, torch.dtype) else value


class InDouble(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within, every operator takes and gives double precision, also where a forward asks for float32 by name."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One operator."""
        args, kwargs = tree_map(widened, (args, kwargs or {}))
        return tree_map(widened, func(*args, **kwargs))


def in_double(model: nn.Module) -> nn.Module:
    """A copy with all parameters and buffers in double precision."""
    return copy.deepcopy(model).double()
