"""Weights and activations of two or three levels, with the gradients to train them by.

Weights are (out_channels, ...), and what a paper computes for a layer or filter is computed for each output channel.
Results have the type of what is given, and a NaN stays one.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.functional import avg_pool2d

from paring.ops.fake_quantization import applied, straight_through
from paring.ops.slopes import where_inside

Slope: TypeAlias = Literal["clipped", "polynomial"]
"""What stands for the slope of the sign, which is 0 wherever there is one."""
TERNARY_THRESHOLD = 0.7
"""Of mean|w|. Li et al. 2016, eq. 6: near the best for normal and for uniform weights."""


def binary_sign(values: Tensor, slope: Slope = "clipped") -> Tensor:
    """1 where a value is at least 0, -1 elsewhere. The slope is estimated:

    "clipped" 1 where |value| <= 1, else 0: Courbariaux et al. 2016, BNN, eq. 4;
    "polynomial" 2 - 2|value| there, closer to the sign: Liu et al. 2018, Bi-Real Net, eq. 7 and 8.

    With a learned shift, `binary_sign(values - shift)`: Liu et al. 2020, ReActNet, eq. 3.
    """
    return applied(_Sign, values, slope)


def binary_weights(weight: Tensor) -> Tensor:
    """sign(w) mean|w|, the nearest two levels +-a in least squares. Rastegari et al. 2016, BWN, eq. 6; sign(0) = 1.

    The slope is 1 everywhere. Theirs ends where |w| = 1, and is smaller by mean|w|: weights begin as those of a trained
    network here, about whose size the number 1 says nothing.
    """
    given = weight.detach()
    return straight_through(weight, binary_sign(given) * _channel_mean(given.abs()))


def input_scales(values: Tensor, kernel_size: tuple[int, int], stride: Any = 1, padding: Any = 0) -> Tensor:
    """K of Rastegari et al. 2016, XNOR-Net, section 3.2: (batch, channels, h, w) -> (batch, 1, out_h, out_w).

    The mean of |values| over the channels, and over the window of each output, outside the image 0:
    conv(values, W) ~ conv(sign(values), sign(W)) K mean|W| (eq. 11).
    """
    return avg_pool2d(values.abs().mean(1, keepdim=True), kernel_size, stride, padding)


def ternary_weights(weight: Tensor) -> Tensor:
    """a sign(w) where |w| > d = 0.7 mean|w|, else 0; a = mean|w| of those beyond d. Li et al. 2016, TWN, eq. 5 and 6.

    The slope is 1, as theirs.
    """
    given = weight.detach()
    size = given.abs()
    beyond = (size > TERNARY_THRESHOLD * _channel_mean(size)).to(size.dtype)
    height = (size * beyond).flatten(1).sum(1) / beyond.flatten(1).sum(1).clamp_min(1)
    return straight_through(weight, given.sign() * beyond * _as_channels(height, weight.ndim))


def trained_ternary(weight: Tensor, positive: Tensor, negative: Tensor, threshold: float = 0.05) -> Tensor:
    """`positive` where w > d, -`negative` where w < -d, else 0; d = threshold max|w|. Zhu et al. 2017, TTQ, eq. 6.

    Both scales () or (out_channels,). Their gradients are sums over their weights (eq. 7; the sign of the negative one,
    left out there, is that of -negative here); that of a weight is the gradient times its scale, times 1 in between
    (eq. 8). Zhu et al. divide weights by max|w| once; d is relative to it here, which comes to the same levels.
    """
    scales = (_as_channels(scale, weight.ndim) for scale in (positive, negative))
    return applied(_TrainedTernary, weight, *scales, threshold)


class _Sign(Function):
    """1 or -1."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, slope: Slope) -> Tensor:
        ctx.save_for_backward(values)
        ctx.slope = slope
        # Adding 0 makes -0 a 0; the second term is 0, or the NaN whose sign would be lost.
        return torch.copysign(values.new_ones(()), values + 0.0).add_(values.clamp(0, 0))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (values,) = ctx.saved_tensors
        if ctx.slope == "polynomial":
            return values.abs().mul_(-2).add_(2).clamp_min_(0).mul_(grads[0]), None
        just_above_one = 1 + torch.finfo(values.dtype).eps  # Weights that are kept in -1..1 often are 1 or -1.
        return where_inside(grads[0], values, -just_above_one, just_above_one), None


class _TrainedTernary(Function):
    """Two learned scales on either side of 0."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, positive: Tensor, negative: Tensor, threshold: float) -> Tensor:
        bound = threshold * weight.abs().amax(tuple(range(1, weight.ndim)), keepdim=True)
        above, below = (weight > bound).to(weight.dtype), (weight < -bound).to(weight.dtype)
        ctx.save_for_backward(above, below, positive, negative)
        # As in the sign: 0, or the NaN that no comparison shows.
        return (above * positive - below * negative + weight.clamp(0, 0)).to(weight.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        above, below, positive, negative = ctx.saved_tensors
        (grad,) = grads
        slope = above * positive + below * negative + (1 - above - below)
        of_positive = (grad * above).sum_to_size(positive.shape).to(positive.dtype)
        of_negative = -(grad * below).sum_to_size(negative.shape).to(negative.dtype)
        return (grad * slope).to(grad.dtype), of_positive, of_negative, None


def _channel_mean(weight: Tensor) -> Tensor:
    """The mean of each output channel, shaped to broadcast."""
    return _as_channels(weight.flatten(1).mean(1), weight.ndim)


def _as_channels(numbers: Tensor, ndim: int) -> Tensor:
    """() or (out_channels,) -> what broadcasts against weights of `ndim` axes."""
    return numbers.reshape(-1, *[1] * (ndim - 1))
