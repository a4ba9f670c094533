"""Numerics of narrow formats: 8-bit integers, their parameters and rounding; bfloat16.

A real x is stored as q = clip(round(x / scale) + zero_point) and read back as (q - zero_point) * scale; rounding is
half to even, as ONNX QuantizeLinear defines it. Symmetric parameters (zero_point 0 of a signed type) serve weights;
affine ones, whose range always contains 0 so that zero padding is exact, serve activations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
SMALLEST_SCALE = float(np.finfo(np.float32).tiny)
LARGEST = float(np.finfo(np.float32).max)
LEVELS = 256


WIDE = 64
"""So large may integers of weights become: two products with uint8 inputs still add up in 16 bits, as in older CPUs."""


@dataclass(frozen=True)
class Parameters:
    """Scale (float32) and zero point, both of shape () for a tensor or (channels,) along `axis`.

    Integers are of the zero point's type, and within `limits` where these are narrower than that.
    """

    scale: Array
    zero_point: Array
    axis: int | None = None
    limits: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if not (np.isfinite(self.scale).all() and (self.scale > 0).all()):
            raise ValueError(f"scale={self.scale} must be finite and above 0.")
        if (self.axis is None) != (self.scale.ndim == 0) or self.scale.shape != self.zero_point.shape:
            raise ValueError(f"shapes {self.scale.shape} and {self.zero_point.shape} do not fit axis={self.axis}.")

    @property
    def ends(self) -> tuple[int, int]:
        """The least and the largest integer."""
        kind = np.iinfo(self.zero_point.dtype)
        return self.limits or (int(kind.min), int(kind.max))


@dataclass(frozen=True)
class Range:
    """What a tensor's values lie in."""

    low: float
    high: float


def _along(values: Array, ndim: int, axis: int | None) -> Array:
    """A vector of one value a channel, shaped to broadcast against a tensor of `ndim` axes."""
    if axis is None:
        return values
    return values.reshape([-1 if i == axis % ndim else 1 for i in range(ndim)])


def quantize(values: Array, parameters: Parameters) -> Array:
    """Integers of the zero point's type, of the same shape as `values`."""
    scale = _along(parameters.scale, values.ndim, parameters.axis)
    zero_point = _along(parameters.zero_point, values.ndim, parameters.axis).astype(np.int32)
    rounded = np.rint(values.astype(np.float32) / scale) + zero_point
    return np.clip(rounded, *parameters.ends).astype(parameters.zero_point.dtype)


def dequantize(integers: Array, parameters: Parameters) -> Array:
    """float32 of the same shape as `integers`."""
    scale = _along(parameters.scale, integers.ndim, parameters.axis)
    zero_point = _along(parameters.zero_point, integers.ndim, parameters.axis).astype(np.int32)
    return ((integers.astype(np.int32) - zero_point) * scale).astype(np.float32)


def affine(values: Range, levels: int = LEVELS) -> Parameters:
    """Parameters of a tensor whose values lie in the range, for integers 0 .. levels - 1; no width gets scale 1.

    Where nothing is negative the zero point is 0, so that a rectifier is exactly the clipping at 0.
    """
    low, high = min(values.low, 0.0), max(values.high, 0.0)
    width = high - low
    kind, limits = _stored(levels)
    if width / (levels - 1) < SMALLEST_SCALE:
        return Parameters(np.array(1.0, np.float32), np.array(0, kind), limits=limits)
    scale = np.array(min(width / (levels - 1), LARGEST), np.float32)
    zero_point = np.clip(np.rint(-low / scale), 0, levels - 1)
    farthest = max(zero_point, levels - 1 - zero_point)
    return Parameters(_finite(scale, float(farthest)), np.array(zero_point, kind), limits=limits)


def around_zero(values: Range, levels: int = LEVELS) -> Parameters:
    """Parameters with zero point 0 of a signed type; of so many integers around 0 an even number has one more below.

    At least 3 levels.
    """
    largest = (levels - 1) // 2
    kind = np.int8 if levels <= LEVELS else np.int16
    scale = max(-values.low, values.high, 0.0) / largest
    limits = None if largest == np.iinfo(kind).max else (-(levels // 2), largest)
    usable = np.array(scale if scale >= SMALLEST_SCALE else 1.0, np.float32)
    return Parameters(_finite(usable, largest), np.array(0, kind), limits=limits)


def _finite(scale: Array, farthest: float) -> Array:
    """The scale, or one at which that integer is no number beyond float32: rounding may move the ends of a range."""
    most = np.nextafter(np.float32(LARGEST / farthest), np.float32(0))
    return np.minimum(scale, most)


def _stored(levels: int) -> tuple[type[np.unsignedinteger[Any]], tuple[int, int] | None]:
    """The unsigned type that holds so many levels, and its limits where it could hold more."""
    kind = np.uint8 if levels <= LEVELS else np.uint16
    return kind, None if levels - 1 == np.iinfo(kind).max else (0, levels - 1)


def to_bfloat16(values: Array) -> Array:
    """float32 -> the 16 bits of the nearest bfloat16 (ties to even) as uint16, same shape; NaN stays NaN."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32).reshape(values.shape)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)


def widening(largest: int) -> int:
    """The power of two by which integers up to `largest` are stored larger, in a unit as many times finer.

    Integer kernels round the bias to units of input scale x weight scale, which with few levels are coarse: of binary
    weights and inputs as large as the bias itself.
    """
    return 1 << max(0, (WIDE // max(1, largest)).bit_length() - 1)
