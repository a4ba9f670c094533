"""How much a layer's quantization harms, estimated without running the network: by weights, inputs or gradients.

Comparable between layers are the errors that are relative, and `curvature_error`, which is in units of the loss.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from paring.ops.quantization import SMALLEST_SCALE

Array = npt.NDArray[Any]


def relative_error(values: Array, quantized: Array) -> float:
    """The squared error over the squared values, both summed: 0 is none, 1 is as bad as all zeros.

    Infinity where values that are all zero are no longer so; the least that levels without a 0 can be counts as none.
    """
    error, power = _power(values - quantized), _power(values)
    if power == 0:
        return 0.0 if np.abs(quantized).max(initial=0.0) <= SMALLEST_SCALE else math.inf
    return error / power


def sqnr_db(values: Array, quantized: Array) -> float:
    """The signal-to-quantization-noise ratio in decibels: infinite where nothing was changed."""
    relative = relative_error(values, quantized)
    return math.inf if relative == 0 else -10 * math.log10(relative)


def output_error(weight: Array, quantized: Array, moments: Array) -> float:
    """What the mean squared error of a layer's outputs comes to, summed over them: tr(D E[x x^T] D^T), D the change.

    (rows, columns), (rows, columns), (columns, columns) -> (). Nagel et al. 2020, Up or Down? Adaptive Rounding,
    section 3.2. `moments` are the mean of x x^T over the inputs x, for a convolution over all patches.
    """
    change = (weight - quantized).astype(np.float64)
    return float(np.sum((change @ moments) * change))


def output_relative_error(weight: Array, quantized: Array, moments: Array) -> float:
    """The same over the mean square of the outputs; infinity where these are all zero and are no longer so."""
    error, power = output_error(weight, quantized, moments), output_error(weight, np.zeros_like(weight), moments)
    if power <= 0:
        return 0.0 if error <= 0 else math.inf
    return error / power


def curvature_error(weight: Array, quantized: Array, squared_gradients: Array | float) -> float:
    """The sum of squared gradients times squared changes: twice what the loss rises by, to second order.

    Dong et al. 2020, HAWQ-V2, weigh the squared change of a layer by the mean of its Hessian's diagonal. Differs in
    that each weight has a curvature of its own, the diagonal of the empirical Fisher matrix: the mean over samples of
    its squared gradient. One number for the whole layer, as in the paper, will do in its place.
    """
    change = (weight - quantized).astype(np.float64)
    return float(np.sum(squared_gradients * np.square(change)))


def _power(values: Array) -> float:
    return float(np.sum(np.square(values.astype(np.float64))))
