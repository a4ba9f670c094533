"""What rectifiers were given, for quantizers behind them that tell apart two sides of a number above 0.

To such a quantizer a rectifier makes no difference, but to what learns by it: below 0 a rectifier passes no gradient,
although values there may be nearer to the number than others above it, which have one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

RECTIFIERS = frozenset({functional.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_})


class NotedRectifiers(TorchFunctionMode):
    """Within, `before_rectifier` knows what a rectifier was given."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """As without, but what a rectifier gives keeps what it was given."""
        named = kwargs or {}
        if func not in RECTIFIERS or not torch.is_grad_enabled():
            return func(*args, **named)
        # A copy: the rectifier, or whoever comes after it, may change it in place.
        before = (args[0] if args else named["input"]).clone()
        found = func(*args, **named)
        if found.requires_grad:
            found.before_rectifier = before, 0 if torch.compiler.is_compiling() else found._version
        return found


def before_rectifier(values: Tensor) -> Tensor:
    """What the rectifier was given that gave these values; the values themselves where none did."""
    before, version = getattr(values, "before_rectifier", (None, 0))
    if before is None:
        return values
    # Values that were changed in place are no longer what the rectifier gave. A compiler can't count the changes.
    if torch.compiler.is_compiling():
        return torch.where(values == before.clamp_min(0), before, values)
    return before if values._version == version else values
