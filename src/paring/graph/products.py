"""Products: which parameters a network multiplies as matrices, and which way round, as one forward shows it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from paring.data.batches import model_call
from paring.graph.macs import unfused
from paring.types import Inputs

Layout: TypeAlias = Literal["convolution", "transposed", "outputs-first", "inputs-first", "vector"]
"""How a weight lies in its tensor: (out, in, ...), (in, out, ...), (..., out, in), (..., in, out), or a number each.

The first two are those of convolutions, with the positions of the kernel behind.
"""

_aten = torch.ops.aten
_FACTORS = {
    **dict.fromkeys((_aten.mm, _aten.bmm), (0, 1)),
    **dict.fromkeys((_aten.addmm, _aten.baddbmm), (1, 2)),
    _aten.mv: (0,),
    _aten.addmv: (1,),
}
"""Operators that multiply matrices, and where among their arguments these stand: the left one, the right one."""


def products(model: nn.Module, inputs: Inputs) -> dict[str, Layout]:
    """The parameters that are factors of matrix products or filters of convolutions, by name, in a forward on these.

    Those that are changed before, as by a standardisation, or read both ways round are not among them.
    """
    watch = _Watch(model)
    with torch.no_grad(), unfused(), watch:
        model_call(model, inputs)
    return {name: layouts.pop() for name, layouts in watch.found.items() if len(layouts) == 1}


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Looks at the arguments of every operator for views of parameters."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: dict[str, set[Layout]] = {}
        self._known = {
            parameter.untyped_storage().data_ptr(): (name, parameter) for name, parameter in model.named_parameters()
        }

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet = func.overloadpacket
        if packet is _aten.convolution and not args[6]:
            self._note(args[1], _as_filters)
        for right, at in enumerate(_FACTORS.get(packet, ())):
            self._note(args[at], partial(_way_round, right=bool(right)))
        return func(*args, **(kwargs or {}))

    def _note(self, used: Tensor, layout_of: Callable[[Tensor, Tensor], Layout | None]) -> None:
        name, parameter = self._known.get(used.untyped_storage().data_ptr(), ("", None))
        layout = None if parameter is None else layout_of(parameter, used)
        if layout:
            self.found.setdefault(name, set()).add(layout)


def _as_filters(parameter: Tensor, used: Tensor) -> Layout | None:
    """Of what a convolution reads: its filters as they are."""
    return "convolution" if used.shape == parameter.shape else None


def _way_round(parameter: Tensor, used: Tensor, right: bool) -> Layout | None:
    """Of a factor: a left one is (outputs, inputs), a right one (inputs, outputs), unless it is transposed."""
    if parameter.ndim < 2 or used.numel() != parameter.numel():
        return None
    shape, stride = parameter.shape[-2:], parameter.stride()[-2:]
    straight = used.shape[-2:] == shape and used.stride()[-2:] == stride
    turned = used.shape[-2:] == shape[::-1] and used.stride()[-2:] == stride[::-1]
    if not (straight or turned):
        return None
    return "inputs-first" if straight == right else "outputs-first"
