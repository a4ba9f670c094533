"""k-means of numbers: the few levels that stand for many values with the least squared error.

Lloyd 1982, Least Squares Quantization in PCM. Since numbers have an order, clusters are stretches of it, and the best
ones are found by dynamic programming (Wang and Song 2011, Ckmeans.1d.dp); of many values those of a fine histogram,
from which Lloyd's steps go on with the values themselves.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

BINS = 1024
"""As many of equal width, and as many that hold equally many values: fine in the tails and where most values lie."""

MOST_STEPS = 100


def levels_of(values: Array, count: int) -> Array:
    """At most `count` levels, ascending, float32, each once: the values themselves where they are no more than that.

    Raises ValueError where there is no value, or one that is not finite.
    """
    ordered = np.sort(values.astype(np.float32).reshape(-1)).astype(np.float64)
    if not ordered.size or not np.isfinite(ordered).all():
        raise ValueError("levels are fitted to finite values, at least one.")
    firsts = np.flatnonzero(np.diff(ordered, prepend=np.nan) != 0)
    if len(firsts) <= count:
        return ordered[firsts].astype(np.float32)
    starts = firsts if len(firsts) <= 2 * BINS else _bins(ordered)
    # Around the mean, so that differences of sums keep their digits.
    mean = ordered.mean()
    ordered -= mean
    sums = _sums(ordered)
    levels = _stretches(sums, starts, count)
    for _ in range(MOST_STEPS):
        following = _means(sums, np.searchsorted(ordered, (levels[1:] + levels[:-1]) / 2, side="right"))
        if np.array_equal(following, levels):
            break
        levels = following
    return np.unique((levels + mean).astype(np.float32))


def _sums(ordered: Array) -> Array:
    """Sums of the values and of their squares before each of them and behind the last, shape (2, values + 1)."""
    sums = np.zeros((2, len(ordered) + 1))
    np.cumsum(ordered, out=sums[0, 1:])
    np.cumsum(np.square(ordered), out=sums[1, 1:])
    return sums


def _bins(ordered: Array) -> Array:
    """Where bins begin: the first of the values in each."""
    even = np.searchsorted(ordered, np.linspace(ordered[0], ordered[-1], BINS, endpoint=False))
    equal = np.linspace(0, len(ordered), BINS, endpoint=False).astype(np.int64)
    # Equal values belong to one bin.
    return np.unique(np.searchsorted(ordered, ordered[np.concatenate([even, equal])]))


def _means(sums: Array, starts: Array) -> Array:
    """The mean of the values in each stretch; `starts` are those of all but the first. Empty ones are left out."""
    ends = np.unique(np.concatenate([[0], starts, [sums.shape[1] - 1]]))
    return np.asarray(np.diff(sums[0, ends]) / np.diff(ends))


def _stretches(sums: Array, starts: Array, count: int) -> Array:
    """The means of the `count` stretches of whole bins that have the least squared error."""
    places = np.append(starts, sums.shape[1] - 1)
    first, second, size = sums[0, places], sums[1, places], places.astype(np.float64)

    def error(begin: Array, end: Array) -> Array:
        """Of one level for the bins from `begin` on to before `end`."""
        weight = np.maximum(size[end] - size[begin], 1)
        return np.asarray(second[end] - second[begin] - np.square(first[end] - first[begin]) / weight)

    bins = len(starts)
    ends = np.arange(bins + 1)
    best = error(np.zeros(bins + 1, np.int64), ends)
    splits = np.zeros((count, bins + 1), np.int64)
    for level in range(1, count):
        best, splits[level] = _one_more(best, error, level)
    chosen = [bins]
    for level in range(count - 1, 0, -1):
        chosen.append(int(splits[level, chosen[-1]]))
    return _means(sums, places[np.array(chosen[:0:-1], np.int64)])


def _one_more(best: Array, error: Any, level: int) -> tuple[Array, Array]:
    """The least errors with one stretch more for every end, and where that last stretch begins.

    It never begins earlier for a later end, so that ends are halved: those in the middle first, which bound the others.
    """
    last = len(best) - 1
    after, split = np.full(last + 1, np.inf), np.full(last + 1, last)
    split[:level] = 0
    done = np.array([level - 1, last + 1])
    bounds = np.append(split, last)
    while True:
        gaps = np.flatnonzero(np.diff(done) > 1)
        if not len(gaps):
            return after, split
        middles = (done[gaps] + done[gaps + 1]) // 2
        low = np.maximum(bounds[done[gaps]], level)
        high = np.maximum(np.minimum(bounds[done[gaps + 1]], middles - 1), low)
        lengths = high - low + 1
        offsets = np.cumsum(lengths) - lengths
        begin = np.repeat(low - offsets, lengths) + np.arange(lengths.sum())
        errors = best[begin] + error(begin, np.repeat(middles, lengths))
        least = np.minimum.reduceat(errors, offsets)
        hits = np.flatnonzero(errors == np.repeat(least, lengths))
        first = hits[np.searchsorted(hits, offsets)]
        after[middles], split[middles] = least, begin[first]
        bounds[middles] = split[middles]
        done = np.sort(np.concatenate([done, middles]))
