"""Rounding that can be trained through: few levels in the forward pass, an estimate of the slope in the backward one.

All is computed in float32 (float64 of float64) and given back in the type of `values`: in bfloat16, which holds 8 bits,
`values / scale` would round to other levels. Values keep their memory format, and a NaN stays one. Steps and scales
have shape () or, with `axis`, (channels,) along it; without `axis` any shape that broadcasts against the values will
do. They must lie above 0: one below `SMALLEST_SCALE` is used as that, and its gradient can lead it back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from paring.ops.quantization import SMALLEST_SCALE
from paring.ops.slopes import Slope, around_middle, inside_or_near, where_inside

PIECE = 2**17
"""So many numbers at once stay in a core's cache."""

Levels: TypeAlias = Sequence[float]
"""What values may be at scale 1, ascending."""


class _StraightThrough(Function):
    """Second argument forward, gradient to the first."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, quantized: Tensor) -> Tensor:
        return quantized.to(values.dtype, copy=True)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def straight_through(values: Tensor, quantized: Tensor) -> Tensor:
    """`quantized`, whose gradient goes to `values` as it is; both of one shape. Bengio et al. 2013, section 4.

    The customary values + (quantized - values).detach() is not exactly `quantized`: its sum is rounded.
    """
    return applied(_StraightThrough, values, quantized)


def fake_quantize(
    values: Tensor, scale: Tensor, zero_point: int | Tensor, low: int, high: int, axis: int | None = None
) -> Tensor:
    """(clip(round(values / scale) + zero_point, low, high) - zero_point) * scale, ties to even, as ONNX has it.

    Jacob et al. 2018, section 3, eq. 12. The gradient of the values is 1 where rounding alone, without the clipping,
    gives a level, hence up to half a step beyond the ends, and 0 elsewhere, as in torch's own operator: of weights
    whose largest sets the scale, the largest must not be frozen by a rounding of `values / scale`. The scale gets none.
    """
    point = _zero_point(zero_point, values.ndim, axis)
    return applied(
        _Uniform, values, _along(scale.detach(), values.ndim, axis), None, point, (low, high), inside_or_near, 1.0
    )


def learned_step(
    values: Tensor,
    step: Tensor,
    low: int,
    high: int,
    *,
    offset: Tensor | None = None,
    axis: int | None = None,
    gradient_scale: float = 1.0,
    slope: Slope | None = None,
) -> Tensor:
    """clip(round(values / step), low, high) * step, with a gradient of the step. Esser et al. 2020, LSQ.

    For v = values / step the slope of the step (eq. 3) is round(v) - v where low < v < high and the end elsewhere, that
    of the values (eq. 5) 1 and 0. `gradient_scale` is section 2.2's g, see `paring.ops.initial_steps`.

    Between two levels all depends on the side of their middle m on which v lies: there the slope h of the values is
    max(0, 1 - |v - m|), that of the step level - h v, that of an offset 1 - h. Such a triangle stands for the slope of
    the sign in Liu et al. 2018 (Bi-Real Net, eq. 7), there half as wide and twice as high. Its area is the distance of
    the levels: with a larger one gradients grow from layer to layer. `slope` is another one for the values.

    With an `offset` of the step's shape, for values that are not symmetric about 0: Bhalgat et al. 2020, LSQ+, eq. 3
    to 5, v = (values - offset) / step, and the slope of the offset is 0 inside, 1 outside; it too is scaled. There the
    offset is any number. Here it is rounded to -step times an integer zero point in low..high, since a network must
    pad with exact zeros, and runtimes know no other; its gradient goes straight through that rounding.
    """
    step, slope = _along(step, values.ndim, axis), slope or (around_middle if high - low == 1 else where_inside)
    if offset is None:
        return applied(_Uniform, values, step, None, None, (low, high), slope, gradient_scale)
    offset = _along(offset, values.ndim, axis)
    point = zero_point_of(offset, step, low, high)
    return applied(_Uniform, values, step, offset, point, (low, high), slope, gradient_scale)


def learned_levels(
    values: Tensor, scale: Tensor, levels: Levels, *, axis: int | None = None, gradient_scale: float = 1.0
) -> Tensor:
    """The nearest of levels * scale; a tie goes to the level of even rank, counted from the level 0 if there is one.

    So `Format.encode` has it. Gradients as in LSQ: with v = values / scale and Q(v) its level, the slope of the scale
    is Q(v) - v between the end levels and the end level outside, that of the values 1 and 0. A frozen scale:
    `scale.detach()`.
    """
    return applied(_Leveled, values, _along(scale, values.ndim, axis), tuple(levels), gradient_scale)


def zero_point_of(offset: Tensor, step: Tensor, low: int, high: int) -> Tensor:
    """Integers in low..high, floats by type, that `learned_step` uses: round(-offset / step), same shape."""
    point = (-offset.detach() / usable(step.detach())).round()
    return point.clamp(low, high)


class _Uniform(Function):
    """Levels low..high, less the zero point, times the step.

    Plain arithmetic, in place where it can be, piece by piece: on a CPU memory is what costs.
    """

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        step: Tensor,
        offset: Tensor | None,
        zero_point: Tensor | None,
        ends: tuple[int, int],
        slope: Slope,
        gradient_scale: float,
    ) -> Tensor:
        values = _dense(values)
        ctx.save_for_backward(values, step, offset, zero_point)
        ctx.ends, ctx.slope, ctx.gradient_scale = ends, slope, gradient_scale
        result = torch.empty_like(values)
        divisor, point, pieces = _in_pieces(step, zero_point, values, result)
        for given, taken in pieces:
            codes = _clip_((wide(given) / divisor).round_(), point, *ends)
            if point is not None:
                codes.sub_(point)
            taken.copy_(codes.mul_(divisor))
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        values, step, offset, zero_point = ctx.saved_tensors
        low, high = ctx.ends
        result = torch.empty_like(values)
        divisor, point, pieces = _in_pieces(step, zero_point, values, _laid_out_as(values, grads[0]), result)
        of_step = torch.zeros_like(divisor) if ctx.needs_input_grad[1] else None
        of_offset = torch.zeros_like(divisor) if ctx.needs_input_grad[2] else None
        for given, grad, taken in pieces:
            grad = grad.to(divisor.dtype)
            scaled = wide(given) / divisor
            codes = _clip_(scaled.round(), point, low, high) if of_step is not None else None
            if point is not None:
                scaled.add_(point)
            passed = ctx.slope(grad, scaled, low, high)
            taken.copy_(passed)
            if of_step is not None and codes is not None:
                of_step += _of_scale(codes.mul_(grad), passed, scaled.clamp_(low - 1, high + 1), divisor)
            if of_offset is not None:
                of_offset += (grad - passed).sum_to_size(of_offset.shape)
        scaled_slopes = (
            None if slope is None else (slope * ctx.gradient_scale).reshape(like.shape).to(like.dtype)
            for slope, like in ((of_step, step), (of_offset, offset))
        )
        return result, *scaled_slopes, None, None, None, None


class _Leveled(Function):
    """The nearest of any levels times the scale."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, scale: Tensor, levels: Levels, gradient_scale: float) -> Tensor:
        scaled, divisor = _scaled(values, scale)
        taken = nearest_(scaled, levels)
        # The search costs more than all else: its result is kept.
        ctx.save_for_backward(values, scale, taken if ctx.needs_input_grad[1] else None)
        ctx.ends, ctx.gradient_scale = (levels[0], levels[-1]), gradient_scale
        return (taken * divisor).to(values.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        values, scale, taken = ctx.saved_tensors
        scaled, _ = _scaled(values, scale)
        grad = grads[0].to(scaled.dtype)
        inside = where_inside(grad, scaled, *ctx.ends)
        of_scale = None
        if taken is not None:
            total = _of_scale(grad * taken, inside, scaled.clamp_(*ctx.ends), scale)
            of_scale = (total * ctx.gradient_scale).to(scale.dtype)
        return inside.to(values.dtype), of_scale, None, None


def _of_scale(of_levels: Tensor, inside: Tensor, clipped: Tensor, scale: Tensor) -> Tensor:
    """The sum over what shares a scale of gradient * (level - value inside, level outside); `of_levels` is overwritten.

    `of_levels` is gradient * level, `inside` the gradient of the values: 0 outside.
    """
    return of_levels.addcmul_(inside, clipped, value=-1).sum_to_size(scale.shape)


def _in_pieces(
    step: Tensor, zero_point: Tensor | None, *tensors: Tensor
) -> tuple[Tensor, Tensor | None, Iterable[tuple[Tensor, ...]]]:
    """The step and zero point to compute with, and dense tensors of one layout: in pieces where one step serves all."""
    divisor = usable(step).to(torch.promote_types(tensors[0].dtype, torch.float32))
    # What a compiler makes of it goes through memory once anyway.
    whole = torch.compiler.is_compiling() or step.numel() != 1
    if whole or (zero_point is not None and zero_point.numel() != 1):
        return divisor, zero_point, [tensors]
    flat = (tensor.as_strided((tensor.numel(),), (1,)) for tensor in tensors)
    point = None if zero_point is None else zero_point.reshape(())
    return divisor.reshape(()), point, zip(*(torch.split(each, PIECE) for each in flat), strict=True)


def _dense(values: Tensor) -> Tensor:
    """The same without gaps or repetitions in memory."""
    return _laid_out_as(torch.empty_like(values), values)


def _laid_out_as(like: Tensor, values: Tensor) -> Tensor:
    """The same with its elements in the order in memory that a dense tensor has."""
    return values if values.stride() == like.stride() else torch.empty_like(like, dtype=values.dtype).copy_(values)


def _scaled(values: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """`values / scale`, a new tensor, and what it was divided by."""
    given = wide(values)
    divisor = usable(scale).to(given.dtype)
    return given / divisor, divisor


def _clip_(rounded: Tensor, zero_point: Tensor | None, low: int, high: int) -> Tensor:
    """Integers to codes low..high, in place."""
    if zero_point is not None:
        rounded.add_(zero_point)
    return rounded.clamp_(low, high)


def nearest_(scaled: Tensor, levels: Levels) -> Tensor:
    """The nearest levels, ties as in `learned_levels`, in place, so that the memory format stays."""
    scaled.clamp_(levels[0], levels[-1])
    ranks = torch.bucketize(scaled.flatten(), _last_below(levels, scaled), out_int32=True)
    taken = scaled.new_tensor(levels)[ranks].view(scaled.shape)
    # 0 times a NaN is a NaN, which has a rank as if it were large.
    return scaled.mul_(0).add_(taken)


def _last_below(levels: Levels, like: Tensor) -> Tensor:
    """(levels - 1,) of the type of `like`: the largest numbers that go to the lower of two neighbouring levels."""
    exact = torch.tensor(levels, dtype=torch.float64, device=like.device)
    middles = (exact[1:] + exact[:-1]) / 2
    near = middles.to(like.dtype)
    zero = levels.index(0.0) if 0.0 in levels else 0
    goes_up = (torch.arange(1, len(levels), device=like.device) - zero) % 2 == 0
    beyond = (near.double() > middles) | ((near.double() == middles) & goes_up)
    return torch.where(beyond, torch.nextafter(near, torch.full_like(near, -torch.inf)), near)


def applied(function: type[Function], *given: Any) -> Tensor:
    """`function` on those; torch has it without types."""
    result: Tensor = function.apply(*given)  # type: ignore[no-untyped-call]
    return result


def wide(values: Tensor) -> Tensor:
    """At least float32."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def usable(scale: Tensor) -> Tensor:
    """At least float32, and at least the smallest scale."""
    return wide(scale).clamp_min(SMALLEST_SCALE)


def _along(scale: Tensor, ndim: int, axis: int | None) -> Tensor:
    """A vector of one number a channel, shaped to broadcast against a tensor of `ndim` axes."""
    return scale if axis is None else scale.reshape([-1 if i == axis % ndim else 1 for i in range(ndim)])


def _zero_point(zero_point: int | Tensor, ndim: int, axis: int | None) -> Tensor | None:
    if isinstance(zero_point, Tensor):
        return _along(zero_point, ndim, axis)
    return torch.tensor(zero_point) if zero_point else None
