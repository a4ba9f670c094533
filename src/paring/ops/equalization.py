"""Scales that move between what makes a channel and what reads it, so that both quantize well."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from paring.ops.formats import Format
from paring.ops.scales import Scaling, fitted

Array = npt.NDArray[Any]

SMALLEST = 1e-5
"""Of the largest range or magnitude: what lies below counts as that much, so that no factor gets out of hand."""


def equalizing(first: Array, second: Array) -> Array:
    """What to divide the rows of the first by and multiply those of the second with, (channels,): equal ranges.

    Nagel et al. 2019, Data-Free Quantization, eq. 11: s = sqrt(r1 r2) / r2, with r the largest magnitude of a row. Both
    hold a row for each channel, which may be of different lengths. Channels that either does not use keep their scale.
    """
    ranges = [np.abs(each).max(axis=1, initial=0.0).astype(np.float64) for each in (first, second)]
    one, other = (np.maximum(each, SMALLEST * each.max(initial=0.0)) for each in ranges)
    used = (ranges[0] > 0) & (ranges[1] > 0)
    return np.sqrt(np.where(used, one, 1.0) / np.where(used, other, 1.0))


def activation_aware(
    weight: Array,
    magnitude: Array,
    moments: Array,
    form: Format,
    scaling: Scaling,
    blocks: int,
    alphas: Sequence[float],
) -> Array:
    """What to multiply the columns of a weight with, and to divide its inputs by, to quantize it well, (columns,).

    Lin et al. 2023, AWQ, eq. 4 and 5: s = E[|x|]^alpha for the alpha of least E[(Q(w s) x / s - w x)^2], which the
    second moments E[x x^T] give without the samples; divided by the geometric mean of its ends as their code does.
    weight (rows, columns), magnitude (columns,), moments (columns, columns). The factor 1 is tried before all others.
    """
    best, least = np.ones(weight.shape[1], np.float32), np.inf
    for alpha in (0.0, *alphas):
        factor = _factor(magnitude, alpha)
        values = fitted(weight * factor, form, scaling, blocks).quantized(weight * factor) / factor
        difference = values.astype(np.float64) - weight
        error = float(np.sum((difference @ moments) * difference))
        if error < least:
            best, least = factor, error
    return best


def _factor(magnitude: Array, alpha: float) -> Array:
    """E[|x|]^alpha with ends that are each other's inverse; 1 for columns that are always 0."""
    power = np.maximum(magnitude, SMALLEST * magnitude.max(initial=0.0)) ** alpha
    used = magnitude > 0
    middle = np.sqrt(power[used].max() * power[used].min()) if used.any() else 1.0
    return np.where(used, power / middle, 1.0).astype(np.float32)
