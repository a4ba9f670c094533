"""Penalties that make weights prunable: what is not needed shrinks, and what is pruned later is missed less."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TypeAlias

import torch
from torch import Tensor

Penalty: TypeAlias = Callable[[Sequence[Tensor]], Tensor]
"""Weights of channels, each tensor (channels, n) -> (), differentiable."""


SMALLEST = 1e-12
"""A norm has no slope at zero: squared norms are held above this."""


def l1(weights: Sequence[Tensor]) -> Tensor:
    """Sum of |w|: single weights go to zero. Tibshirani 1996; of networks Han et al. 2015, section 3.1."""
    return torch.stack([each.abs().sum() for each in weights]).sum()


def l2(weights: Sequence[Tensor]) -> Tensor:
    """Half the sum of w^2: all weights shrink by the same share. Han et al. 2015, section 3.1."""
    return torch.stack([each.square().sum() for each in weights]).sum() / 2


def group_lasso(weights: Sequence[Tensor]) -> Tensor:
    """Sum over channels of sqrt(n) |w_c|_2: whole channels go to zero. Yuan and Lin 2006; Wen et al. 2016.

    sqrt(n) makes channels of layers of different width equals; Wen et al. leave it out.
    """
    norms = [each.square().sum(1).clamp_min(SMALLEST).sqrt() * each.shape[1] ** 0.5 for each in weights]
    return torch.cat(norms).sum()


PENALTIES: Mapping[str, Penalty] = MappingProxyType({"l1": l1, "l2": l2, "group_lasso": group_lasso})
