"""What a layer reads, column by column: the patches that a convolution cuts out of its input, and their moments."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Padding = Literal["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]

ENTRIES_AT_ONCE = 2**22


@dataclass(frozen=True)
class Patches:
    """How a layer reads its input: a convolution patch by patch, and, without a `kernel`, the vectors of the last axis.

    `pads` are those before the first place of each axis, then those behind the last, and count where `padding` is
    "NOTSET", as ONNX Conv has it. In `groups` equal parts of the input channels.
    """

    kernel: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    padding: Padding = "NOTSET"
    groups: int = 1

    def count(self, shape: tuple[int, ...]) -> int:
        """How many patches an input of that shape has."""
        if not self.kernel:
            return math.prod(shape[:-1])
        places = zip(shape[2:], self._reach, self.strides, *self._padded(shape[2:]), strict=True)
        return shape[0] * math.prod(
            (size + before + after - reach) // stride + 1 for size, reach, stride, before, after in places
        )

    def cut(self, inputs: Array, share: float = 1.0, seed: int = 0) -> Iterator[Array]:
        """The patches of an input, or that share of them drawn at random, in pieces of shape (groups, some, columns).

        The columns lie as those of `weight.reshape(outputs, -1)` of a convolution do.
        """
        windows = self._windows(inputs) if self.kernel else inputs.reshape(-1, inputs.shape[-1])
        places = windows.shape[: inputs.ndim - 1] if self.kernel else windows.shape[:1]
        chosen = np.arange(math.prod(places))
        if share < 1:
            chosen = chosen[np.random.default_rng(seed).random(len(chosen)) < share]
        step = max(1, ENTRIES_AT_ONCE // max(1, math.prod(windows.shape[len(places) :])))
        for first in range(0, len(chosen), step):
            some = windows[np.unravel_index(chosen[first : first + step], places)]
            yield np.ascontiguousarray(some.reshape(len(some), self.groups, -1).swapaxes(0, 1))

    @property
    def _reach(self) -> tuple[int, ...]:
        """From a patch's first place to its last, along each axis."""
        return tuple((size - 1) * step + 1 for size, step in zip(self.kernel, self.dilations, strict=True))

    def _padded(self, sizes: tuple[int, ...]) -> tuple[list[int], list[int]]:
        """Zeros before and behind each axis of the given sizes."""
        if self.padding == "NOTSET":
            return list(self.pads[: len(sizes)]), list(self.pads[len(sizes) :])
        if self.padding == "VALID":
            return [0] * len(sizes), [0] * len(sizes)
        places = zip(sizes, self._reach, self.strides, strict=True)
        added = [max(0, (-(-size // stride) - 1) * stride + reach - size) for size, reach, stride in places]
        less, more = [each // 2 for each in added], [each - each // 2 for each in added]
        return (less, more) if self.padding == "SAME_UPPER" else (more, less)

    def _windows(self, inputs: Array) -> Array:
        """(rows, channels, positions ...) -> (rows, positions of patches ..., channels, kernel ...), a view."""
        padded = np.pad(inputs, [(0, 0), (0, 0), *zip(*self._padded(inputs.shape[2:]), strict=True)])
        axes = tuple(range(2, inputs.ndim))
        windows = np.lib.stride_tricks.sliding_window_view(padded, self._reach, axes)
        steps = [slice(None, None, step) for step in (*self.strides, *self.dilations)]
        return np.moveaxis(windows[(slice(None), slice(None), *steps)], 1, inputs.ndim - 1)


class Moments:
    """Means and second moments of a layer's input columns, in float64; patches are added as they are seen.

    What is summed are distances from the mean of the first patches: of columns that hardly vary, sums of squares would
    keep no digit of how they vary.
    """

    def __init__(self, groups: int, columns: int) -> None:
        self.count = 0
        self._origin: Array | None = None
        self._sum, self._magnitudes = np.zeros((groups, columns)), np.zeros((groups, columns))
        self._products = np.zeros((groups, columns, columns))

    def add(self, patches: Array) -> None:
        """Count patches of shape (groups, some, columns)."""
        if not patches.shape[1]:
            return
        if self._origin is None:
            self._origin = patches.mean(axis=1, dtype=np.float64).astype(patches.dtype)
        self.count += patches.shape[1]
        self._magnitudes += np.abs(patches).sum(axis=1, dtype=np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            away = patches - self._origin[:, None]
            self._sum += away.sum(axis=1, dtype=np.float64)
            self._products += away.swapaxes(1, 2) @ away

    @property
    def is_finite(self) -> bool:
        """Whether nothing that was added, and no product of it, is NaN or infinite."""
        return bool(np.isfinite(self._products).all())

    @property
    def mean(self) -> Array:
        """E[x], shape (groups, columns)."""
        return self._away + (0.0 if self._origin is None else self._origin)

    @property
    def magnitude(self) -> Array:
        """E[|x|], shape (groups, columns)."""
        return self._magnitudes / max(1, self.count)

    @property
    def second(self) -> Array:
        """E[x x^T], shape (groups, columns, columns)."""
        return self.covariance + _squares(self.mean)

    @property
    def covariance(self) -> Array:
        """E[x x^T] - E[x] E[x]^T, same shape: what counts where a bias makes up for the shift of the mean."""
        return self._products / max(1, self.count) - _squares(self._away)

    @property
    def _away(self) -> Array:
        """How far the mean lies from the origin."""
        return self._sum / max(1, self.count)


def _squares(vectors: Array) -> Array:
    """v v^T of each, (groups, columns) -> (groups, columns, columns)."""
    return np.asarray(vectors[:, :, None] * vectors[:, None, :])
