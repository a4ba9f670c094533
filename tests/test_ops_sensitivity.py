"""What a layer's quantization harms, estimated: each estimate against what it stands for, taken the slow way."""

from __future__ import annotations

import math

import numpy as np
import pytest

from paring.ops.sensitivity import curvature_error, output_error, output_relative_error, relative_error, sqnr_db

RANDOM = np.random.default_rng(0)
WEIGHT = RANDOM.normal(size=(4, 6)).astype(np.float32)
ROUNDED = np.round(WEIGHT * 2) / 2
ZEROS = np.zeros((4, 6), np.float32)


def test_the_relative_error_and_its_decibels() -> None:
    assert relative_error(WEIGHT, WEIGHT) == 0
    assert relative_error(WEIGHT, ZEROS) == 1
    assert relative_error(100 * WEIGHT, 100 * ROUNDED) == pytest.approx(relative_error(WEIGHT, ROUNDED), rel=1e-5)
    assert relative_error(np.array([3.0, 4.0]), np.array([3.0, 3.0])) == pytest.approx(1 / 25)
    assert sqnr_db(np.array([10.0]), np.array([9.0])) == pytest.approx(20)
    assert sqnr_db(WEIGHT, WEIGHT) == math.inf


def test_zeros_that_stay_are_no_harm_and_those_that_do_not_are_all_of_it() -> None:
    assert relative_error(ZEROS, ZEROS) == 0
    assert relative_error(ZEROS, WEIGHT) == math.inf
    assert sqnr_db(ZEROS, ZEROS) == math.inf
    assert sqnr_db(ZEROS, WEIGHT) == -math.inf
    moments = np.eye(6)
    assert output_relative_error(ZEROS, ZEROS, moments) == 0
    assert output_relative_error(ZEROS, WEIGHT, moments) == math.inf


def test_the_output_error_is_that_of_the_outputs() -> None:
    inputs = RANDOM.normal(size=(500, 6)) * np.array([1, 2, 3, 0.1, 0.2, 0])
    moments = inputs.T @ inputs / len(inputs)
    outputs, changed = inputs @ WEIGHT.T, inputs @ ROUNDED.T
    slow = np.square(outputs - changed).sum(1).mean()
    assert output_error(WEIGHT, ROUNDED, moments) == pytest.approx(slow, rel=1e-5)
    assert output_relative_error(WEIGHT, ROUNDED, moments) == pytest.approx(
        slow / np.square(outputs).sum(1).mean(), rel=1e-5
    )
    # An input that is always zero makes no weight matter.
    spoilt = WEIGHT.copy()
    spoilt[:, 5] += 100
    assert output_error(WEIGHT, spoilt, moments) == pytest.approx(0, abs=1e-9)


def test_the_curvature_error_is_twice_the_rise_of_a_loss_of_that_curvature() -> None:
    curvature = RANDOM.random((4, 6))
    slow = sum(c * (w - q) ** 2 for c, w, q in zip(curvature.ravel(), WEIGHT.ravel(), ROUNDED.ravel(), strict=True))
    assert curvature_error(WEIGHT, ROUNDED, curvature) == pytest.approx(float(slow), rel=1e-5)
    assert curvature_error(WEIGHT, ROUNDED, 2.0) == pytest.approx(
        2 * float(np.square(WEIGHT - ROUNDED).sum()), rel=1e-5
    )
