"""How far to reach so that quantized values diverge least from the observed ones, in the sense of Kullback and Leibler.

Migacz, "8-bit inference with TensorRT" (2017): magnitudes beyond the reach are counted at its end, where their
quantized form has no mass for them. Differs in that each level has the cell of the numbers that are nearest to it, so
that it holds for few levels too, and for such as do not lie evenly; and as many bins in each cell, whatever the reach.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

BINS = 16
"""Of each cell, as 2048 bins and 128 levels have it."""

_SHRINKS = np.geomspace(1.0, 1 / 32, 100)


@dataclass(frozen=True)
class Cells:
    """Which magnitudes are nearest to each level: `ends`, ascending from 0, shape (cells + 1,); `top`, the last level.

    The last cell ends as far behind its level as it begins before.
    """

    ends: Array
    top: float

    @classmethod
    def of(cls, levels: Array) -> Cells:
        """Those of levels that ascend, 0 or more."""
        if len(levels) == 1:
            return cls(np.array([0.0, 2 * levels[0]]), float(levels[0]))
        middles = (levels[1:] + levels[:-1]) / 2
        return cls(np.array([0.0, *middles, 2 * levels[-1] - middles[-1]]), float(levels[-1]))

    @classmethod
    def even(cls, levels: int, *, half: bool) -> Cells:
        """Those of so many levels, each a step of 1 from the next: about 0 or, where `half`, from 0 on."""
        if half:
            return cls.of(np.arange(levels))
        ends = np.append(0.0, np.abs(np.arange(levels + 1) - levels / 2))
        return cls(np.unique(ends), (levels - 1) / 2)


def least_diverging(counts: Array, width: float, most: float, cells: Cells) -> float:
    """The reach of the largest level, at most `most`, for magnitudes that were counted in bins of a width from 0 on."""
    ends = cells.ends
    if len(ends) > len(counts) or counts.sum() < BINS * (len(ends) - 1):
        # No bin tells what happens within a cell; or fewer values than bins, which are no distribution.
        return most
    edges = np.append((ends[:-1, None] + np.diff(ends)[:, None] * np.arange(BINS) / BINS).reshape(-1), ends[-1])
    places, below = np.arange(len(counts) + 1) * width, np.append(0.0, np.cumsum(counts))

    def divergence(reach: float) -> float:
        inside = np.diff(np.interp(edges * (reach / cells.top), places, below)).reshape(-1, BINS)
        return _divergence(inside, below[-1] - inside.sum())

    return float(min(most * _SHRINKS, key=divergence))


def _divergence(inside: Array, outliers: float) -> float:
    """In nats, of counts of shape (cells, bins) whose last bin holds the outliers, from what levels tell of them.

    That is each cell's mass, spread over those of its bins that are not empty.
    """
    filled = inside > 0
    spread = inside.sum(axis=1, keepdims=True) / np.maximum(filled.sum(axis=1, keepdims=True), 1) * filled
    clipped = inside.copy()
    clipped[-1, -1] += outliers
    p, q = clipped / clipped.sum(), spread / max(spread.sum(), 1e-30)
    where = p > 0
    return float(np.sum(p[where] * np.log(p[where] / np.maximum(q[where], 1e-9))))
