"""Rounding that can be trained through, against its definition written out slowly, number by number."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck

from paring.ops import fake_quantization
from paring.ops.dorefa import dorefa_activations, dorefa_weights
from paring.ops.fake_quantization import (
    fake_quantize,
    learned_levels,
    learned_step,
    straight_through,
    zero_point_of,
)
from paring.ops.formats import FORMATS, format_of, integers
from paring.ops.initial_steps import least_squares_scale, mean_step, step_gradient_scale
from paring.ops.quantization import SMALLEST_SCALE

Slow = Callable[[float], float]
EDGES = (0.0, -0.0, 1e-45, -1e-45, 1e-38, 0.5, -0.5, 1.5, 127.5, -128.5, 1e30, -1e30, 3.4e38, math.inf, -math.inf)
values_lists = st.lists(st.sampled_from(EDGES) | st.floats(-300, 300, width=32), min_size=1, max_size=30)
scales = st.sampled_from((SMALLEST_SCALE, 1e-20, 0.25, 0.1, 1.0, 3.0, 1e20)) | st.floats(
    0.0009765625, 1024.0, width=32, exclude_min=True
)
many_levels = ((-128, 127), (-127, 127), (-8, 7), (-7, 7), (-2, 1), (0, 255), (0, 15), (0, 3))
two_levels = ((0, 1), (-1, 0))


def divided(values: np.ndarray, scale: float) -> list[float]:
    """Quotients as float32 has them."""
    with np.errstate(over="ignore"):
        return (np.asarray(values, np.float32) / np.float32(scale)).tolist()


def half_even(number: float) -> float:
    """The nearest integer, by exact fractions."""
    if math.isinf(number):
        return number
    floor = math.floor(number)
    rest = Fraction(number) - floor
    return float(floor + (rest > Fraction(1, 2) or (rest == Fraction(1, 2) and floor % 2 == 1)))


def clipped(number: float, low: float, high: float) -> float:
    return min(max(number, low), high)


def weights_for(count: int) -> Tensor:
    """A gradient that differs at every value."""
    return torch.linspace(-1, 2, count)


def backward(result: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(result, inputs, weights_for(result.numel()).view_as(result).to(result.dtype))


def summed(slopes: list[float]) -> float:
    return math.fsum(g * slope for g, slope in zip(weights_for(len(slopes)).tolist(), slopes, strict=True))


@settings(deadline=None)
@given(values_lists, scales, st.sampled_from(many_levels + two_levels), st.data())
def test_uniform_levels_and_where_the_gradient_passes(
    given_values: list[float], scale: float, limits: tuple[int, int], data: st.DataObject
) -> None:
    low, high = limits
    point = data.draw(st.integers(low, high))
    values = torch.tensor(given_values, requires_grad=True)
    result = fake_quantize(values, torch.tensor(scale), point, low, high)
    quotients = divided(values.detach().numpy(), scale)
    codes = [clipped(half_even(number) + point, low, high) - point for number in quotients]
    with np.errstate(over="ignore"):
        assert np.array_equal(result.detach().numpy(), np.array(codes, np.float32) * np.float32(scale))
    (grad,) = backward(result, values)
    inside = [low - 0.5 < np.float32(number) + point < high + 0.5 for number in quotients]
    assert torch.equal(grad, weights_for(len(inside)) * torch.tensor(inside))


def test_channels_have_their_own_scale_and_zero_point() -> None:
    torch.manual_seed(0)
    values = torch.randn(5, 3, 4) * 10
    scale, point = torch.tensor([0.1, 1.0, 7.0]), torch.tensor([0, 3, 255])
    together = fake_quantize(values, scale, point, 0, 255, axis=1)
    for channel in range(3):
        alone = fake_quantize(values[:, channel], scale[channel], int(point[channel]), 0, 255)
        assert torch.equal(together[:, channel], alone)
    assert torch.equal(together, fake_quantize(values, scale, point, 0, 255, axis=-2))


def stepped(values: list[float], scale: float, low: int, high: int) -> tuple[list[float], Tensor, Tensor]:
    """Values in steps, and the gradients of the values and of the step; the result is checked."""
    given_values, step = torch.tensor(values, requires_grad=True), torch.tensor(scale, requires_grad=True)
    result = learned_step(given_values, step, low, high, gradient_scale=0.125)
    quotients = divided(given_values.detach().numpy(), scale)
    with np.errstate(over="ignore"):
        expected = np.array([clipped(half_even(v), low, high) for v in quotients], np.float32) * np.float32(scale)
    assert np.array_equal(result.detach().numpy(), expected)
    of_values, of_step = backward(result, given_values, step)
    return quotients, of_values, of_step


@settings(deadline=None)
@given(values_lists, scales, st.sampled_from(many_levels))
def test_learned_step_has_the_slopes_of_the_paper(
    given_values: list[float], scale: float, limits: tuple[int, int]
) -> None:
    low, high = limits
    quotients, of_values, of_step = stepped(given_values, scale, low, high)
    assert torch.equal(of_values, weights_for(len(quotients)) * torch.tensor([low < v < high for v in quotients]))
    slopes = [low if v <= low else high if v >= high else half_even(v) - v for v in quotients]
    assert of_step.item() == pytest.approx(summed(slopes) * 0.125, rel=1e-4, abs=1e-4)


@settings(deadline=None)
@given(values_lists, scales, st.sampled_from(two_levels))
def test_two_levels_have_slopes_around_their_middle(
    given_values: list[float], scale: float, limits: tuple[int, int]
) -> None:
    low, high = limits
    quotients, of_values, of_step = stepped(given_values, scale, low, high)
    heights = [max(0.0, 1 - abs(v - (low + high) / 2)) for v in quotients]
    expected = weights_for(len(heights)) * torch.tensor(heights)
    assert torch.allclose(of_values, expected, rtol=1e-5, atol=1e-6)
    slopes = [clipped(half_even(v), low, high) - h * (v if h else 0.0) for v, h in zip(quotients, heights, strict=True)]
    assert of_step.item() == pytest.approx(summed(slopes) * 0.125, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("start", [0.0, -2.0])
def test_two_levels_with_an_offset(start: float) -> None:
    values = torch.linspace(-6, 6, 25, requires_grad=True)
    step, offset = torch.tensor(2.0, requires_grad=True), torch.tensor(start, requires_grad=True)
    result = learned_step(values, step, 0, 1, offset=offset)
    assert result.unique().tolist() == [start, start + 2]
    of_values, of_step, of_offset = backward(result, values, step, offset)
    shifted = ((values.detach() - start) / 2).tolist()
    heights = [max(0.0, 1 - abs(v - 0.5)) for v in shifted]
    assert torch.allclose(of_values, weights_for(25) * torch.tensor(heights), atol=1e-6)
    codes = ((result.detach() - start) / 2).tolist()
    slopes = [code - h * v for code, h, v in zip(codes, heights, shifted, strict=True)]
    assert of_step.item() == pytest.approx(summed(slopes), rel=1e-5)
    assert of_offset.item() == pytest.approx(summed([1 - h for h in heights]), rel=1e-5)


@settings(deadline=None)
@given(st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=30), st.floats(-20, 20), st.floats(0.05, 5))
def test_learned_offset_has_the_slopes_of_the_paper(given_values: list[float], start: float, scale: float) -> None:
    low, high = 0, 15
    values = torch.tensor(given_values, requires_grad=True)
    step, offset = torch.tensor(scale, requires_grad=True), torch.tensor(start, requires_grad=True)
    result = learned_step(values, step, low, high, offset=offset, gradient_scale=0.5)
    point = clipped(half_even(divided(-offset.detach().numpy(), step.item())), low, high)
    assert zero_point_of(offset, step, low, high).item() == point
    assert torch.equal(result, fake_quantize(values, step, int(point), low, high))
    assert 0 in (result - result).tolist()
    quotients = [float(np.float32(v) + np.float32(point)) for v in divided(values.detach().numpy(), step.item())]
    codes = (result.detach().double() / step.detach().double() + point).round().tolist()
    of_values, of_step, of_offset = backward(result, values, step, offset)
    inside = [low < v < high for v in quotients]
    assert torch.equal(of_values, weights_for(len(inside)) * torch.tensor(inside))
    slopes = [code - v if at else code for code, v, at in zip(codes, quotients, inside, strict=True)]
    assert of_step.item() == pytest.approx(summed(slopes) * 0.5, rel=1e-4, abs=1e-3)
    assert of_offset.item() == pytest.approx(summed([float(not at) for at in inside]) * 0.5, rel=1e-4, abs=1e-5)


def test_zero_stays_zero_with_an_offset() -> None:
    padding = learned_step(torch.zeros(3), torch.tensor(0.3), 0, 15, offset=torch.tensor(-1.234))
    assert padding.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_each_channel_has_its_own_step(axis: int) -> None:
    torch.manual_seed(1)
    values, steps = torch.randn(4, 4, 4, requires_grad=True), torch.rand(4, requires_grad=True)
    offset = torch.randn(4, requires_grad=True)
    weights = torch.randn(4, 4, 4)
    for options in ({}, {"offset": offset}):
        learned = [steps, *options.values()]
        together = learned_step(values, steps, 0, 3, axis=axis, **options)
        of_all = torch.autograd.grad(together, [values, *learned], weights)
        for channel in range(4):
            alone = {name: each[channel] for name, each in options.items()}
            result = learned_step(values.select(axis, channel), steps[channel], 0, 3, **alone)
            assert torch.equal(result, together.select(axis, channel))
            of_one = torch.autograd.grad(result, [values, *learned], weights.select(axis, channel))
            assert torch.equal(of_one[0].select(axis, channel), of_all[0].select(axis, channel))
            for one, every in zip(of_one[1:], of_all[1:], strict=True):
                assert torch.allclose(one[channel], every[channel], atol=1e-5)


def test_blocks_of_a_row_have_their_own_steps() -> None:
    values, steps = torch.randn(3, 2, 8), torch.rand(3, 2, 1, requires_grad=True)
    result = learned_step(values, steps, -8, 7)
    (grad,) = torch.autograd.grad(result.sum(), steps)
    alone = steps[1, 1, 0].detach().requires_grad_()
    (of_one,) = torch.autograd.grad(learned_step(values[1, 1], alone, -8, 7).sum(), alone)
    assert grad.shape == steps.shape
    assert torch.allclose(grad[1, 1, 0], of_one, atol=1e-5)


@settings(deadline=None)
@given(values_lists, scales, st.sampled_from(sorted(FORMATS)), st.data())
def test_levels_are_those_of_the_format(
    given_values: list[float], scale: float, name: str, data: st.DataObject
) -> None:
    form = format_of(name)
    levels = np.array(form.levels)
    at = data.draw(st.lists(st.integers(0, len(levels) - 2), max_size=4))
    ties = np.array([(levels[each] + levels[each + 1]) / 2 for each in at], np.float32)
    picked = [*ties, *np.nextafter(ties, np.float32(-np.inf)), *np.nextafter(ties, np.float32(np.inf))]
    with np.errstate(over="ignore"):
        numbers = np.array([*given_values, *(each * np.float32(scale) for each in picked)], np.float32)
    values, factor = torch.tensor(numbers, requires_grad=True), torch.tensor(scale, requires_grad=True)
    result = learned_levels(values, factor, form.levels)
    quotients = divided(numbers, scale)
    taken = form.decode(form.encode(np.array(quotients, np.float32)))
    with np.errstate(over="ignore"):
        assert np.array_equal(result.detach().numpy(), taken * np.float32(scale))
    of_values, of_scale = backward(result, values, factor)
    low, high = form.levels[0], form.levels[-1]
    inside = [low < v < high for v in quotients]
    assert torch.equal(of_values, weights_for(len(inside)) * torch.tensor(inside))
    slopes = [float(q) - v if at else float(q) for q, v, at in zip(taken, quotients, inside, strict=True)]
    assert of_scale.item() == pytest.approx(summed(slopes), rel=1e-4, abs=1e-4 * high)


@pytest.mark.parametrize("name", sorted(FORMATS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ties_go_where_the_format_sends_them(name: str, dtype: torch.dtype) -> None:
    form = format_of(name)
    levels = torch.tensor(form.levels, dtype=torch.float64)
    ties = ((levels[1:] + levels[:-1]) / 2).to(dtype)
    result = learned_levels(ties, torch.ones((), dtype=dtype), form.levels)
    taken = levels[torch.from_numpy(form.encode(ties.numpy()).astype(np.int64))].to(dtype)
    assert torch.equal(result, taken)


@settings(deadline=None)
@given(values_lists, scales, st.integers(2, 8), st.booleans())
def test_integers_are_a_case_of_both(given_values: list[float], scale: float, bits: int, signed: bool) -> None:
    form = integers(bits, signed=signed)
    low, high = int(form.levels[0]), int(form.levels[-1])
    values, factor = torch.tensor(given_values), torch.tensor(scale)
    with np.errstate(over="ignore"):
        expected = form.decode(form.encode((values / factor).numpy())) * np.float32(scale)
    for result in (
        fake_quantize(values, factor, 0, low, high),
        learned_step(values, factor, low, high),
        learned_levels(values, factor, form.levels),
    ):
        assert np.array_equal(result.numpy(), expected)


def all_kinds() -> list[Callable[[Tensor, Tensor], Tensor]]:
    return [
        lambda values, step: learned_step(values, step, -8, 7),
        lambda values, step: learned_step(values, step, 0, 15, offset=step * -3),
        lambda values, step: learned_levels(values, step, (-4.0, -1.0, 0.0, 1.0, 4.0)),
        lambda values, step: fake_quantize(values, step, 3, 0, 15) + 0 * step,
    ]


@pytest.mark.parametrize("kind", all_kinds())
def test_a_nan_stays_one_and_infinity_is_clipped(kind: Callable[[Tensor, Tensor], Tensor]) -> None:
    step = torch.tensor(0.5, requires_grad=True)
    values = torch.tensor([math.nan, 1.0], requires_grad=True)
    assert kind(values, step).isnan().tolist() == [True, False]
    values = torch.tensor([math.inf, -math.inf, 1e38], requires_grad=True)
    result = kind(values, step)
    assert result.isfinite().all()
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(result.sum(), [values, step]))


@pytest.mark.parametrize("kind", all_kinds())
def test_a_step_that_fell_to_zero_or_below_is_led_back(kind: Callable[[Tensor, Tensor], Tensor]) -> None:
    for start in (0.0, -1.0):
        step = torch.tensor(start, requires_grad=True)
        result = kind(torch.tensor([0.0, 1.0, -1.0]), step)
        assert result.isfinite().all()
        (grad,) = torch.autograd.grad((result - torch.tensor([0.0, 1.0, -1.0])).square().sum(), step)
        assert grad.isfinite()
    step = torch.tensor(-1.0, requires_grad=True)
    (grad,) = torch.autograd.grad((learned_step(torch.ones(3), step, -8, 7) - 1).square().sum(), step)
    assert grad < 0


@pytest.mark.parametrize("kind", all_kinds())
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_values_are_rounded_as_wide_ones(kind: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype) -> None:
    torch.manual_seed(2)
    step = torch.tensor(0.3, requires_grad=True)
    narrow = (torch.randn(2, 8, 4, 4) * 3).to(dtype).requires_grad_()
    wide = narrow.detach().float().requires_grad_()
    one, other = kind(narrow, step), kind(wide, step)
    assert one.dtype == dtype
    assert torch.equal(one, other.to(dtype))
    weights = torch.randn_like(other).to(dtype)
    of_narrow = torch.autograd.grad(one, [narrow, step], weights)
    of_wide = torch.autograd.grad(other, [wide, step], weights.float())
    assert [each.dtype for each in of_narrow] == [dtype, torch.float32]
    assert torch.equal(of_narrow[0].float(), of_wide[0])
    assert torch.allclose(of_narrow[1], of_wide[1], rtol=1e-4)


def test_training_under_autocast() -> None:
    torch.manual_seed(3)
    layer = torch.nn.Conv2d(3, 8, 3)
    steps = torch.full((8,), 0.05, requires_grad=True)
    step = torch.tensor(0.1, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        images = torch.nn.functional.conv2d(torch.randn(2, 3, 9, 9), torch.randn(3, 3, 1, 1))
        assert images.dtype == torch.bfloat16
        quantized = learned_step(images, step, -128, 127)
        weight = learned_step(layer.weight, steps, -8, 7, axis=0)
        result = torch.nn.functional.conv2d(quantized, weight, layer.bias)
    assert quantized.dtype == torch.bfloat16
    assert weight.dtype == torch.float32
    grads = torch.autograd.grad(result.float().square().mean(), [layer.weight, steps, step])
    assert [grad.dtype for grad in grads] == [torch.float32] * 3
    assert all(grad.isfinite().all() and grad.abs().sum() > 0 for grad in grads)


@pytest.mark.parametrize("kind", all_kinds())
def test_the_memory_format_stays(kind: Callable[[Tensor, Tensor], Tensor]) -> None:
    torch.manual_seed(4)
    plain = torch.randn(2, 6, 5, 4, requires_grad=True)
    last = plain.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    step = torch.tensor(0.3, requires_grad=True)
    weights = torch.randn_like(plain)
    one, other = kind(last, step), kind(plain, step)
    assert one.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(one, other)
    arranged = weights.contiguous(memory_format=torch.channels_last)
    of_last, of_plain = torch.autograd.grad(one, last, arranged)[0], torch.autograd.grad(other, plain, weights)[0]
    assert of_last.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(of_last, of_plain)


def test_slopes_that_are_true_ones() -> None:
    beyond = torch.tensor([9.0, -11.0, 20.0], dtype=torch.float64, requires_grad=True)
    step = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda v, s: learned_step(v, s, -8, 7), (beyond, step))
    assert gradcheck(lambda v, s: learned_levels(v, s, (-4.0, 0.0, 1.0)), (beyond, step))


def test_straight_through_is_exact() -> None:
    values = torch.tensor([1e8, 1.0], requires_grad=True)
    quantized = torch.tensor([0.1, 0.3])
    result = straight_through(values, quantized)
    assert torch.equal(result, quantized)
    (grad,) = torch.autograd.grad(result, values, torch.tensor([2.0, -5.0]))
    assert grad.tolist() == [2.0, -5.0]
    result.detach().zero_()
    assert quantized.tolist() == pytest.approx([0.1, 0.3])


@settings(deadline=None)
@given(st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=20), st.integers(2, 4))
def test_dorefa_weights(given_values: list[float], bits: int) -> None:
    weight = torch.tensor(given_values, dtype=torch.float64, requires_grad=True)
    result = dorefa_weights(weight, bits)
    steps, bounded = 2**bits - 1, np.tanh(np.array(given_values))
    most = max(np.abs(bounded).max(), SMALLEST_SCALE)
    unit = bounded / (2 * most) + 0.5
    assert np.allclose(result.detach().numpy(), 2 * np.array([half_even(u * steps) for u in unit]) / steps - 1)
    assert set((result.detach() * steps).round().int().tolist()) <= set(range(-steps, steps + 1, 2))
    if most > 1e-3 and np.sum(np.abs(bounded) == most) == 1:
        (grad,) = backward(result, weight)
        at, weights = int(np.abs(bounded).argmax()), weights_for(len(unit)).double().numpy()
        expected = weights * (1 - bounded**2) / most
        # The largest stands in every denominator.
        expected[at] -= np.sum(weights * bounded) * np.sign(bounded[at]) * (1 - bounded[at] ** 2) / most**2
        assert np.allclose(grad.numpy(), expected, atol=1e-9)


def test_dorefa_activations() -> None:
    values = torch.tensor([-0.5, 0.1, 0.4, 0.6, 2.0], requires_grad=True)
    result = dorefa_activations(values, 2)
    assert result.tolist() == pytest.approx([0, 0, 1 / 3, 2 / 3, 1])
    assert torch.autograd.grad(result.sum(), values)[0].tolist() == [0, 1, 1, 1, 0]
    assert dorefa_activations(values.bfloat16(), 2).dtype == torch.bfloat16
    of_one_bit = dorefa_activations(values, 1)
    assert of_one_bit.tolist() == [0, 0, 0, 1, 1]
    assert torch.autograd.grad(of_one_bit.sum(), values)[0].tolist() == [0, 1, 1, 1, 0]


def test_first_step_and_gradient_scale_of_the_paper() -> None:
    values = torch.tensor([[1.0, -3.0], [0.0, 0.0], [0.5, 0.5]])
    assert mean_step(values, 4).item() == pytest.approx(2 * (5 / 6) / 2)
    assert mean_step(values, 4, axis=0).tolist() == pytest.approx([2.0, 2.0, 0.5])
    assert mean_step(torch.zeros(2, 3), 7, axis=1).tolist() == [1.0, 1.0, 1.0]
    assert mean_step(torch.tensor(2.0), 1).item() == 4.0
    assert step_gradient_scale(100, 4) == pytest.approx(1 / 20)


def squared(values: np.ndarray, scale: float, name: str) -> float:
    form = format_of(name)
    return float(np.square(values - form.decode(form.encode(values / scale)) * scale).sum())


@pytest.mark.parametrize("name", ["int2", "int4", "int8", "uint4", "ternary", "odd2", "pow3", "nf4", "e2m1"])
def test_least_squares_scale_is_as_good_as_a_fine_search(name: str) -> None:
    for seed, size in ((0, 2000), (1, 200), (2, 1)):
        drawn = np.random.default_rng(seed).standard_t(4, size)
        values = (np.abs(drawn) if name.startswith("u") else drawn).astype(np.float32)
        found = least_squares_scale(torch.tensor(values), format_of(name).levels)
        reach = np.abs(values).max() / abs(format_of(name).largest)
        finest = min(squared(values, reach * share, name) for share in np.linspace(0.001, 2, 2000))
        assert squared(values, found.item(), name) <= finest * 1.02 + 1e-12


def test_least_squares_scale_of_channels_and_of_edges() -> None:
    levels = format_of("int4").levels
    values = torch.randn(3, 5, 40, generator=torch.Generator().manual_seed(5))
    scales_found = least_squares_scale(values, levels, axis=1)
    for channel in range(5):
        assert scales_found[channel] == pytest.approx(least_squares_scale(values[:, channel], levels).item(), rel=1e-5)
    values[:, 2] = 0
    filled = least_squares_scale(values, levels, axis=1)
    assert filled[2] == filled.max()
    assert least_squares_scale(torch.zeros(4), levels).item() == 1.0
    assert least_squares_scale(-torch.ones(4), format_of("uint4").levels).item() == 1.0
    for factor in (1e30, 1e-30):
        scaled = least_squares_scale(torch.tensor([1.0, 2.0, 7.0]) * factor, levels)
        assert scaled.item() == pytest.approx(factor, rel=1e-5)


@pytest.mark.parametrize("offset", [None, torch.tensor(-1.3)], ids=["symmetric", "offset"])
@pytest.mark.parametrize("layout", ["plain", "channels last", "with gaps", "repeated"])
def test_large_tensors_go_piece_by_piece_whatever_their_layout(
    layout: str, offset: Tensor | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    plain, grad = (3 * torch.randn(4, 3, 5, 6, generator=generator) for _ in range(2))
    values = {
        "plain": plain,
        "channels last": plain.contiguous(memory_format=torch.channels_last),
        "with gaps": plain[:, ::2, 1:],
        "repeated": plain[:, :1].expand(4, 3, 5, 6),
    }[layout]
    grad = grad[tuple(slice(size) for size in values.shape)]
    found = []
    for piece in (7, 2**20):
        monkeypatch.setattr(fake_quantization, "PIECE", piece)
        rows = values.detach().requires_grad_(True)
        learned = [each.clone().requires_grad_(True) for each in (torch.tensor(0.4), offset) if each is not None]
        result = learned_step(rows, learned[0], 0 if offset is not None else -8, 7, offset=(*learned, None)[1])
        found.append([result, *torch.autograd.grad(result, [rows, *learned], grad)])
        assert result.is_contiguous(memory_format=torch.channels_last) == (layout == "channels last")
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
