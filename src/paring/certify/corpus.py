"""Certificates for scores that are no mean over rows: F1, mean average precision, word error rate."""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from paring.certify.certificate import Certificate, error_share
from paring.errors import TaskError
from paring.ops.bounds import unseen_share
from paring.ops.scores import corpus_score
from paring.types import Array

Floats = npt.NDArray[np.float64]
Reduce = Callable[[Array], float]

_JACKKNIFE_GROUPS = 50


def certify_corpus(
    original_statistics: npt.ArrayLike,
    candidate_statistics: npt.ArrayLike,
    reduce: Reduce,
    *,
    confidence: float,
    score_range: tuple[float, float] = (0.0, 1.0),
    finalists: int = 1,
) -> Certificate:
    """Bound how far the candidate's score lies below the original's by a paired bootstrap: (n, k), (n, k).

    `reduce` maps (n, k) to the score, higher is better. Approximate: the bound holds as n grows. As no resample can
    show a kind of row that was not seen, it is never nearer to the drop than three rows in a thousand at n = 1,000
    (the rule of three, times the width of `score_range`). Raises TaskError where rows are missing, not finite or
    differ in number, or where `reduce` gives no finite number.
    """
    original, candidate = _checked(original_statistics, "original"), _checked(candidate_statistics, "candidate")
    if original.shape != candidate.shape:
        raise TaskError(
            f"original statistics of shape {original.shape} and candidate statistics of shape {candidate.shape} "
            "can't be paired: evaluate both networks on the same rows, in the same order."
        )
    alpha = error_share(confidence, finalists)
    n = len(original)
    drop = corpus_score(reduce, original) - corpus_score(reduce, candidate)
    unseen = unseen_share(n, alpha) * (score_range[1] - score_range[0])
    bound = max(paired_bootstrap_upper_bound(original, candidate, reduce, alpha), drop + unseen)
    return Certificate(drop, bound, confidence, n, "bootstrap", finalists)


def paired_bootstrap_upper_bound(
    original: Array, candidate: Array, reduce: Reduce, alpha: float, *, resamples: int = 2000, seed: int = 0
) -> float:
    """Upper bound on reduce(original) - reduce(candidate), approximate: (n, k), (n, k) with the same rows.

    Rows are drawn with replacement, the same ones for both networks; the quantile is corrected for bias and skewness
    (BCa, Efron 1987), the skewness from a jackknife over at most 50 groups of rows where Efron leaves out single rows.
    """
    n = len(original)
    draw = np.random.default_rng(seed)

    def drop_on(rows: npt.NDArray[np.intp]) -> float:
        return corpus_score(reduce, original[rows]) - corpus_score(reduce, candidate[rows])

    drop = drop_on(np.arange(n))
    if n < 2:
        return drop
    drops = np.sort([drop_on(draw.integers(0, n, n)) for _ in range(resamples)])
    groups = np.array_split(draw.permutation(n), min(_JACKKNIFE_GROUPS, n))
    left_out = np.array([drop_on(np.setdiff1d(np.arange(n), group)) for group in groups])
    return float(np.quantile(drops, _corrected_share(drops, drop, left_out, 1 - alpha)))


def _corrected_share(drops: Floats, drop: float, left_out: Floats, share: float) -> float:
    """The share of resamples whose quantile is the BCa bound at `share`."""
    normal = NormalDist()
    below = float(np.mean(drops < drop) + np.mean(drops == drop) / 2)
    bias = normal.inv_cdf(min(max(below, 0.5 / len(drops)), 1 - 0.5 / len(drops)))
    gaps = left_out.mean() - left_out
    spread = float(np.square(gaps).sum()) ** 1.5
    skewness = float((gaps**3).sum()) / (6 * spread) if spread > 0 else 0.0
    z = bias + normal.inv_cdf(share)
    scale = 1 - skewness * z
    return normal.cdf(bias + z / scale) if scale > 0 else 1.0


def _checked(statistics: npt.ArrayLike, name: str) -> Array:
    """The statistics as an array of (n, k) or (n,). Raises TaskError."""
    values: Any = np.asarray(statistics)
    if values.ndim < 1 or not len(values):
        raise TaskError(f"{name} statistics have shape {values.shape}: give one row for each sample, at least one.")
    if not np.isfinite(values).all():
        row = int(np.argwhere(~np.isfinite(values))[0][0])
        raise TaskError(f"{name} statistics hold NaN or infinity in row {row}: the metric must give finite numbers.")
    checked: Array = values
    return checked
