"""Where the learning of a step begins, and how fast it goes: steps from the values that they will serve."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from paring.ops.fake_quantization import Levels, nearest_, usable, wide
from paring.ops.quantization import SMALLEST_SCALE

STARTS = 32
"""Scales from which the least squares are sought, at equal distances up to the one that clips nothing."""


def step_gradient_scale(count: int, high: float) -> float:
    """g = 1 / sqrt(N Qp): so a step is updated relative to its size as fast as weights are. Esser et al. 2020, 2.2.

    `count`: how many values share the step; of activations how many of one sample. `high`: the largest level.
    """
    return 1 / math.sqrt(count * high)


def mean_step(values: Tensor, high: float, axis: int | None = None) -> Tensor:
    """2 mean|values| / sqrt(high), for the tensor () or for each channel of `axis`. Esser et al. 2020, section 2.1.

    Of values that are all zero the largest step of the other channels, 1 where there is none.
    """
    return _filled(_rows(values, axis).abs().mean(1) * (2 / high**0.5), axis)


def least_squares_scale(values: Tensor, levels: Levels, axis: int | None = None) -> Tensor:
    """The scale with the least sum of squared differences from the nearest levels, as far as this search finds it.

    () or (channels,) of `axis`; zeros as in `mean_step`. From each of `STARTS` scales one step of Lloyd 1982: with the
    levels Q that the values v take, the best scale is v·Q / Q·Q. The last level must be above 0.
    """
    rows = _rows(values, axis)
    reach = (rows / levels[-1]).amax(1, keepdim=True).clamp_min(0)
    if levels[0] < 0:
        reach = torch.maximum(reach, (rows / levels[0]).amax(1, keepdim=True))
    # In units of the reach squares neither overflow nor vanish.
    rows = rows / usable(reach)
    best, least = torch.zeros_like(reach), torch.full_like(reach, torch.inf)
    for start in torch.linspace(0, 1, STARTS + 1).tolist()[1:]:
        taken = nearest_(rows / start, levels)
        scale = usable((rows * taken).sum(1, keepdim=True) / usable(taken.square().sum(1, keepdim=True)))
        error = (rows - nearest_(rows / scale, levels) * scale).square().sum(1, keepdim=True)
        best, least = torch.where(error < least, scale, best), torch.minimum(error, least)
    return _filled((best * reach).squeeze(1), axis)


def _rows(values: Tensor, axis: int | None) -> Tensor:
    """(channels, n), or (1, n) without an axis."""
    given = wide(values.detach())
    return given.reshape(1, -1) if axis is None else given.movedim(axis, 0).flatten(1)


def _filled(scales: Tensor, axis: int | None) -> Tensor:
    """Zeros replaced by the largest, by 1 where there is none; () without an axis."""
    fill = scales.amax() if bool((scales > SMALLEST_SCALE).any()) else torch.ones_like(scales[0])
    filled = torch.where(scales > SMALLEST_SCALE, scales, fill)
    return filled[0] if axis is None else filled
