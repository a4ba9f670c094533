"""Networks that are quantized, or prepared for it: by torch or torchao, or by a training of paring's own."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.ao.nn.quantized import FloatFunctional, FXFloatFunctional

from paring.graph.fake_quantized import KINDS

PARTS = frozenset({"quantized", "qat", "fake_quantize", "observer"})
"""In `torch.ao`: whose modules compute with integers, pretend to, or watch what it would take."""

FLOAT = (FloatFunctional, FXFloatFunctional)
"""Of these the modules that compute in floating point all the same."""


def told_quantized(model: nn.Module) -> str:
    """One sentence that names the quantized modules of a network and the remedy; empty where there are none."""
    found = list(_quantized(model))
    if not found:
        return ""
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return (
        f"the network is quantized already, or prepared for it: {found[0]}{more}. Give the float network from before "
        "that; paring quantizes by itself."
    )


def _quantized(model: nn.Module) -> Iterator[str]:
    """The outermost modules that are, each by its name and what it is."""
    outer: list[str] = []
    for name, module in model.named_modules():
        kind = _kind(module)
        if kind and not any(name.startswith(f"{each}.") for each in outer):
            outer.append(name)
            yield f"{name!r} ({kind})" if name else kind


def _kind(module: nn.Module) -> str:
    """What makes a module a quantized one, its class or a weight; empty where it is none."""
    if isinstance(module, FLOAT):
        return ""
    if isinstance(module, tuple(KINDS.values())):
        return f"{type(module).__module__}.{type(module).__qualname__}"
    for kind in type(module).__mro__:
        if kind.__module__.startswith("torch.ao.") and PARTS.intersection(kind.__module__.split(".")):
            return f"{kind.__module__}.{kind.__qualname__}"
    held = chain(module.parameters(recurse=False), module.buffers(recurse=False), vars(module).values())
    return next((told for value in held if (told := _weight_kind(value))), "")


def _weight_kind(value: Any) -> str:
    """What is stored in place of floating-point numbers; empty where these are."""
    if isinstance(value, Tensor) and value.is_quantized:
        return f"a weight of {value.dtype}"
    if isinstance(value, torch.ScriptObject):
        packed: str = value._type().qualified_name()
        return f"a weight of {packed}" if ".quantized." in packed else ""
    kind = type(value.data) if isinstance(value, Tensor) else type(value)
    return f"a weight of {kind.__module__}.{kind.__qualname__}" if kind.__module__.startswith("torchao.") else ""
