"""The numbers that the entries of a weight may take once it is quantized: a format's levels times scales of its blocks.

A weight is a matrix here, shape (rows, columns): a row for each output channel, and a column for each input, or each
input and place of a kernel. Whatever chooses scales or rounds, whatever runs the result: they all speak of a `Grid`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from paring.ops.formats import Format

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Grid:
    """value = (level - zero_point) * scale, with a level of the format.

    `scale`, float32 and above 0, has shape (rows or 1, blocks): one for each of so many equal parts of each row, or for
    all rows. `zero_point`, integers of the same shape, is for formats of all integers in a row; None stands for 0.
    """

    format: Format
    scale: Array
    zero_point: Array | None = None

    def __post_init__(self) -> None:
        if self.scale.ndim != 2 or not (np.isfinite(self.scale).all() and (self.scale > 0).all()):
            raise ValueError(f"scale={self.scale} must have two axes, be finite and above 0.")
        if self.zero_point is not None and (self.zero_point.shape != self.scale.shape or self.format.step != 1):
            raise ValueError(f"zero points of shape {self.zero_point.shape} do not fit {self.format.name}.")

    def nearest(self, weight: Array) -> Array:
        """The code of the nearest level for each entry, shape (rows, columns); far entries take the level at the end.

        The quotient is rounded, half to even, before the zero point is added, as ONNX QuantizeLinear defines it.
        """
        # What float32 does not hold is out of reach all the same.
        with np.errstate(over="ignore"):
            quotient = self._blocks(weight.astype(np.float32)) / self.scale[..., None]
        if self.zero_point is not None:
            quotient = np.rint(quotient) + self.zero_point[..., None].astype(np.float32)
        return self.format.encode(quotient).reshape(weight.shape)

    def values(self, codes: Array) -> Array:
        """What the codes stand for, float32, same shape."""
        levels = self._blocks(self.format.decode(codes))
        if self.zero_point is not None:
            levels = levels - self.zero_point[..., None].astype(np.float32)
        return (levels * self.scale[..., None]).reshape(codes.shape)

    def quantized(self, weight: Array) -> Array:
        """The nearest values, float32, same shape."""
        return self.values(self.nearest(weight))

    def columns(self, chosen: slice, count: int) -> Grid:
        """The grid of some of the `count` columns, a block or a part of one at most."""
        block = chosen.start * self.scale.shape[1] // count
        zero_point = None if self.zero_point is None else self.zero_point[:, block : block + 1]
        return Grid(self.format, self.scale[:, block : block + 1], zero_point)

    def rows(self, chosen: slice) -> Grid:
        """The grid of some of the rows."""
        if len(self.scale) == 1:
            return self
        zero_point = None if self.zero_point is None else self.zero_point[chosen]
        return Grid(self.format, self.scale[chosen], zero_point)

    def _blocks(self, matrix: Array) -> Array:
        """(rows, columns) -> (rows, blocks, columns of a block)."""
        blocks = self.scale.shape[1]
        return matrix.reshape(len(matrix), blocks, matrix.shape[1] // blocks)
