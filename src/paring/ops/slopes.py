"""What stands for the slope of rounding, which is 0 wherever there is one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

Slope: TypeAlias = Callable[[Tensor, Tensor, float, float], Tensor]
"""(gradient, values in steps, lowest level, highest one) -> the gradient of the values; 0 a step beyond the levels."""


def where_inside(grad: Tensor, scaled: Tensor, low: float, high: float) -> Tensor:
    """The gradient where low < scaled < high, 0 elsewhere."""
    passed: Tensor = torch.ops.aten.hardtanh_backward(grad, scaled, low, high)
    return passed


def inside_or_near(grad: Tensor, scaled: Tensor, low: float, high: float) -> Tensor:
    """The gradient as far as half a step beyond the levels."""
    return where_inside(grad, scaled, low - 0.5, high + 0.5)


def around_middle(grad: Tensor, scaled: Tensor, low: float, high: float) -> Tensor:
    """The gradient times what falls in lines from 1 in the middle of low..high to 0 at a step from there."""
    return scaled.sub((low + high) / 2).abs_().neg_().add_(1).clamp_min_(0).mul_(grad)
