"""Loss numerics against slow oracles, and what a teacher makes of each kind of output."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from paring.ops.distillation import (
    as_logits,
    cosine_gap,
    holds_class_scores,
    holds_probabilities,
    scaled_mse,
    soft_cross_entropy_gap,
)
from paring.train.mixing import can_mix, mixed

seeds = st.integers(0, 2**31)


def scores(seed: int, *shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator) * 3, torch.randn(shape, generator=generator) * 3


def slow_kl(student: Tensor, teacher: Tensor, temperature: float) -> float:
    total = 0.0
    for ours, theirs in zip(student.tolist(), teacher.tolist(), strict=True):
        q = [math.exp(z / temperature) for z in ours]
        p = [math.exp(z / temperature) for z in theirs]
        total += sum(b / sum(p) * math.log((b / sum(p)) / (a / sum(q))) for a, b in zip(q, p, strict=True))
    return temperature**2 * total / len(student)


@given(seeds, st.integers(1, 5), st.integers(2, 7), st.floats(0.5, 8))
def test_kl_is_the_textbook_sum(seed: int, rows: int, classes: int, temperature: float) -> None:
    student, teacher = scores(seed, rows, classes)
    got = soft_cross_entropy_gap(student, teacher, temperature).item()
    assert got == pytest.approx(slow_kl(student, teacher, temperature), rel=1e-3, abs=1e-4)


def test_kl_takes_the_mean_over_positions() -> None:
    student, teacher = scores(0, 2, 3, 5)
    each = [slow_kl(student[:, i], teacher[:, i], 2.0) for i in range(3)]
    assert soft_cross_entropy_gap(student, teacher, 2.0).item() == pytest.approx(sum(each) / 3, rel=1e-4)


@given(seeds, st.floats(1, 8))
def test_every_distance_is_zero_to_oneself(seed: int, temperature: float) -> None:
    same, _ = scores(seed, 4, 6)
    assert soft_cross_entropy_gap(same, same, temperature).item() == pytest.approx(0, abs=1e-4)
    assert scaled_mse(same, same, 2.0).item() == 0
    assert cosine_gap(same, same).item() == pytest.approx(0, abs=1e-5)


def test_squared_error_is_in_units_of_the_variance() -> None:
    student, teacher = scores(1, 3, 4)
    by_hand = sum((a - b) ** 2 for a, b in zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True))
    assert scaled_mse(student, teacher, 4.0).item() == pytest.approx(by_hand / 12 / 4, rel=1e-5)


def test_cosine_gap_by_hand() -> None:
    student = torch.tensor([[1.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    teacher = torch.tensor([[0.0, 3.0], [-1.0, 0.0], [5.0, 0.0]])
    assert cosine_gap(student, teacher).item() == pytest.approx((1 + 2 + 0) / 3)


@pytest.mark.parametrize(
    ("shape", "targets", "expected"),
    [
        ((4, 10), torch.zeros(4, dtype=torch.long), True),
        ((4, 10), torch.zeros(4, dtype=torch.uint8), True),
        ((4, 7, 10), torch.zeros(4, 7, dtype=torch.long), True),
        ((4, 10), torch.zeros(4), False),
        ((4, 10), torch.zeros(4, 10), False),
        ((4, 10), torch.zeros(4, dtype=torch.bool), False),
        ((4, 1), torch.zeros(4, dtype=torch.long), False),
        ((4,), torch.zeros(4, dtype=torch.long), False),
    ],
)
def test_class_scores_are_told_by_their_labels(shape: tuple[int, ...], targets: Tensor, expected: bool) -> None:
    assert holds_class_scores(torch.zeros(shape), targets) is expected


def test_probabilities_are_told_apart_and_turned_back() -> None:
    logits, _ = scores(2, 5, 4)
    assert holds_probabilities(logits.softmax(-1))
    assert not holds_probabilities(logits)
    torch.testing.assert_close(as_logits(logits.softmax(-1)).softmax(-1), logits.softmax(-1))
    assert torch.isfinite(as_logits(torch.tensor([[0.0, 1.0]]))).all()


def test_mixup_stays_between_the_two_rows() -> None:
    rows = torch.arange(6.0).reshape(6, 1).repeat(1, 3)
    got = mixed(rows, "mixup", torch.Generator().manual_seed(3))
    assert got.shape == rows.shape
    assert bool((got >= 0).all())
    assert bool((got <= 5).all())
    assert not torch.equal(got, rows)
    assert (got[:, 0] - got[:, 1]).abs().max().item() == 0


@given(seeds)
def test_cutmix_puts_one_window_of_another_row(seed: int) -> None:
    images = torch.arange(4.0).reshape(4, 1, 1, 1).repeat(1, 2, 8, 6)
    got = mixed(images, "cutmix", torch.Generator().manual_seed(seed))
    assert torch.equal(got[:, 0], got[:, 1])
    for row, image in enumerate(got[:, 0]):
        foreign = image != row
        assert len(image[foreign].unique()) <= 1
        height, width = foreign.any(1).sum(), foreign.any(0).sum()
        assert foreign.sum() == height * width


def test_mixing_keeps_the_structure_and_one_share_for_all_inputs() -> None:
    inputs = {"a": torch.arange(4.0).reshape(4, 1), "b": torch.arange(4.0).reshape(4, 1) * 10}
    got = mixed(inputs, "mixup", torch.Generator().manual_seed(0))
    torch.testing.assert_close(got["a"] * 10, got["b"])


@pytest.mark.parametrize(
    ("inputs", "mixing", "expected"),
    [
        (torch.zeros(2, 3, 8, 8), "cutmix", True),
        (torch.zeros(2, 3), "cutmix", False),
        (torch.zeros(2, 3), "mixup", True),
        (torch.zeros(2, 3), "none", False),
        ({"tokens": torch.zeros(2, 3, dtype=torch.long)}, "mixup", False),
        ((torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.long)), "mixup", False),
    ],
)
def test_only_numbers_with_others_between_them_are_mixed(inputs: object, mixing: str, expected: bool) -> None:
    assert can_mix(inputs, mixing) is expected  # type: ignore[arg-type]
