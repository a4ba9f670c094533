"""Two and three levels against the papers' equations, written out channel by channel and number by number."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from torch import Tensor
from torch.autograd import gradcheck
from torch.nn.functional import conv2d

from paring.ops.binarization import (
    binary_sign,
    binary_weights,
    input_scales,
    ternary_weights,
    trained_ternary,
)

EDGES = (0.0, -0.0, 1e-45, -1e-45, 1.0, -1.0, 0.5, 1e15)
weights = arrays(
    np.float32,
    array_shapes(min_dims=2, max_dims=4, max_side=4),
    elements=st.sampled_from(EDGES) | st.floats(-2, 2, width=32),
)


def gradient(result: Tensor, *inputs: Tensor) -> tuple[np.ndarray, ...]:
    """Of a weighted sum, the weights those of `factors`."""
    return tuple(each.numpy() for each in torch.autograd.grad(result, inputs, torch.tensor(factors(result.shape))))


def factors(shape: tuple[int, ...]) -> np.ndarray:
    return np.linspace(-1, 2, math.prod(shape), dtype=np.float32).reshape(shape)


def sign(numbers: np.ndarray) -> np.ndarray:
    return np.array([1.0 if number >= 0 else -1.0 for number in numbers.ravel()]).reshape(numbers.shape)


@settings(deadline=None)
@given(weights)
def test_signs_and_their_slopes(numbers: np.ndarray) -> None:
    values = torch.tensor(numbers, requires_grad=True)
    result = binary_sign(values)
    assert np.array_equal(result.detach().numpy(), sign(numbers))
    (grad,) = gradient(result, values)
    assert np.array_equal(grad, factors(numbers.shape) * (np.abs(numbers) <= 1))
    (grad,) = gradient(binary_sign(values, "polynomial"), values)
    slopes = np.where(np.abs(numbers) < 1, 2 - 2 * np.abs(numbers), 0)
    assert np.allclose(grad, factors(numbers.shape) * slopes, atol=1e-6)


def test_the_polynomial_is_the_slope_of_the_papers_curve() -> None:
    points = torch.linspace(-1.5, 1.5, 301, dtype=torch.float64, requires_grad=True)
    below = torch.where(points < -1, -1.0, 2 * points + points**2)
    curve = torch.where(points < 0, below, torch.where(points < 1, 2 * points - points**2, 1.0))
    (expected,) = torch.autograd.grad(curve.sum(), points)
    (grad,) = torch.autograd.grad(binary_sign(points, "polynomial").sum(), points)
    assert torch.allclose(grad, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_signs_of_every_type(dtype: torch.dtype) -> None:
    values = torch.tensor([1.0, -1.0, 1.1, 0.0, -0.0, math.nan, math.inf, -math.inf], dtype=dtype, requires_grad=True)
    result = binary_sign(values)
    assert result.dtype == dtype
    assert torch.equal(result.isnan(), values.isnan())
    assert result[[0, 1, 2, 3, 4, 6, 7]].tolist() == [1, -1, 1, 1, 1, 1, -1]
    (grad,) = torch.autograd.grad(result.sum(), values)
    assert grad[[0, 1, 2, 3, 4, 6, 7]].tolist() == [1, 1, 0, 1, 1, 0, 0]
    images = values.detach()[:6].reshape(1, 6, 1, 1).expand(2, 6, 3, 3).contiguous(memory_format=torch.channels_last)
    for slope in ("clipped", "polynomial"):
        images = images.detach().requires_grad_()
        result = binary_sign(images, slope)  # type: ignore[arg-type]
        assert result.is_contiguous(memory_format=torch.channels_last)
        (grad,) = torch.autograd.grad(result, images, torch.ones_like(result))
        assert grad.is_contiguous(memory_format=torch.channels_last)


@settings(deadline=None)
@given(weights)
def test_binary_weights(numbers: np.ndarray) -> None:
    weight = torch.tensor(numbers, requires_grad=True)
    height = np.abs(numbers.reshape(len(numbers), -1).astype(np.float64)).mean(1)
    height = height.reshape(-1, *[1] * (numbers.ndim - 1))
    result = binary_weights(weight)
    assert np.allclose(result.detach().numpy(), sign(numbers) * height, rtol=1e-5)
    (grad,) = gradient(result, weight)
    assert np.array_equal(grad, factors(numbers.shape))


def test_binary_weights_are_the_nearest_in_least_squares() -> None:
    weight = torch.randn(6, 5, 3, 3, generator=torch.Generator().manual_seed(0))
    best = (weight - binary_weights(weight)).square().sum()
    for factor in (0.9, 1.1):
        assert (weight - factor * binary_weights(weight)).square().sum() > best
    assert (weight - weight.sign() * weight.abs().mean()).square().sum() > best


def test_input_scales_bring_signs_to_the_size_of_the_images() -> None:
    torch.manual_seed(2)
    images = torch.randn(2, 3, 7, 6, dtype=torch.float64, requires_grad=True)
    scales = input_scales(images, (3, 2), stride=2, padding=1)
    box = torch.full((1, 1, 3, 2), 1 / 6, dtype=torch.float64)
    assert torch.allclose(scales, conv2d(images.abs().mean(1, keepdim=True), box, stride=2, padding=1))
    assert gradcheck(lambda each: input_scales(each, (3, 2)), (images,))
    weight = torch.randn(5, 3, 3, 2, dtype=torch.float64)
    exact = conv2d(images, weight, stride=2, padding=1)
    binary = conv2d(binary_sign(images), binary_sign(weight), stride=2, padding=1)
    height = weight.abs().mean((1, 2, 3)).view(1, -1, 1, 1)
    assert (binary * scales * height - exact).square().mean() < exact.square().mean()


@settings(deadline=None)
@given(weights)
def test_ternary_weights(numbers: np.ndarray) -> None:
    weight = torch.tensor(numbers, dtype=torch.float64, requires_grad=True)
    result = ternary_weights(weight)
    for row, got in zip(numbers.astype(np.float64), result.detach().numpy(), strict=True):
        bound = 0.7 * np.abs(row.ravel()).mean()
        beyond = [abs(number) for number in row.ravel() if abs(number) > bound]
        height = sum(beyond) / len(beyond) if beyond else 0.0
        surely = np.abs(np.abs(row) - bound) > 1e-12 * bound
        expected = np.where(np.abs(row) > bound, np.sign(row) * height, 0.0)
        if surely.all():
            assert np.allclose(got, expected)
    (grad,) = torch.autograd.grad(result.sum(), weight)
    assert bool((grad == 1).all())


@settings(deadline=None)
@given(weights, st.booleans())
def test_trained_ternary(numbers: np.ndarray, by_channel: bool) -> None:
    numbers = np.clip(numbers, -2, 2)
    weight = torch.tensor(numbers, requires_grad=True)
    shape = (len(numbers),) if by_channel else ()
    positive, negative = torch.full(shape, 0.5, requires_grad=True), torch.full(shape, 0.25, requires_grad=True)
    result = trained_ternary(weight, positive, negative, 0.3)
    of_weight, of_positive, of_negative = gradient(result, weight, positive, negative)
    ups, downs = [], []
    for channel, row in enumerate(numbers):
        bound = np.float32(0.3) * np.abs(row).max()
        above, below, factor = row > bound, row < -bound, factors(numbers.shape)[channel]
        assert np.array_equal(result[channel].detach().numpy(), 0.5 * above - 0.25 * below)
        assert np.allclose(of_weight[channel], factor * np.where(above, 0.5, np.where(below, 0.25, 1.0)))
        ups.append((factor * above).sum())
        downs.append(-(factor * below).sum())
    assert np.allclose(of_positive, ups if by_channel else sum(ups), atol=1e-5)
    assert np.allclose(of_negative, downs if by_channel else sum(downs), atol=1e-5)


def test_both_scales_of_trained_ternary_have_their_true_slopes() -> None:
    weight = torch.randn(3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    scales = (torch.rand(3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert gradcheck(lambda positive, negative: trained_ternary(weight, positive, negative), tuple(scales))


@pytest.mark.parametrize(
    "function",
    [
        binary_weights,
        ternary_weights,
        lambda weight: trained_ternary(weight, torch.tensor(0.5), torch.tensor(0.25)),
    ],
)
def test_types_stay_a_nan_stays_and_zeros_are_no_fault(function) -> None:  # type: ignore[no-untyped-def]
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        assert function(torch.randn(2, 3, dtype=dtype)).dtype == dtype
    weight = torch.ones(2, 3)
    weight[1, 1] = math.nan
    assert bool(function(weight)[1, 1].isnan())
    assert not function(weight)[0].isnan().any()
    zeros = torch.zeros(2, 3, requires_grad=True)
    (grad,) = torch.autograd.grad(function(zeros).sum(), zeros)
    assert bool(function(zeros).eq(0).all())
    assert bool(grad.isfinite().all())
    assert function(torch.ones(1, 1)).shape == (1, 1)


def test_the_ternary_threshold_of_the_paper() -> None:
    assert ternary_weights(torch.tensor([[0.705, -0.695, -1.6]]))[0].tolist() == pytest.approx([1.1525, 0.0, -1.1525])
