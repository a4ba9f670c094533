"""Certificates for scores that are no mean over rows: F1, mean average precision, word error rate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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

RESAMPLES = 2000
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
    drops = _scored(original, reduce) - _scored(candidate, reduce)
    return certify_drops(drops, len(original), confidence=confidence, score_range=score_range, finalists=finalists)


def certify_drops(
    drops: Floats, rows: int, *, confidence: float, score_range: tuple[float, float] = (0.0, 1.0), finalists: int = 1
) -> Certificate:
    """The same where the `bootstrap_scores` of so many rows are known: the original's less the candidate's.

    They serve any confidence, and those of the original serve every candidate.
    """
    alpha = error_share(confidence, finalists)
    drop = float(drops[0])
    unseen = unseen_share(rows, alpha) * (score_range[1] - score_range[0])
    bound = max(_upper_bound(drops, rows, alpha), drop + unseen)
    return Certificate(drop, bound, confidence, rows, "bootstrap", finalists)


def paired_bootstrap_upper_bound(
    original: Array, candidate: Array, reduce: Reduce, alpha: float, *, resamples: int = RESAMPLES, seed: int = 0
) -> float:
    """Upper bound on reduce(original) - reduce(candidate), approximate: (n, k), (n, k) with the same rows.

    Rows are drawn with replacement, the same ones for both networks; the quantile is corrected for bias and skewness
    (BCa, Efron 1987), the skewness from a jackknife over at most 50 groups of rows where Efron leaves out single rows.
    """
    first, second = (_scored(each, reduce, resamples=resamples, seed=seed) for each in (original, candidate))
    return _upper_bound(first - second, len(original), alpha)


def bootstrap_scores(
    statistics: Array, reduce: Reduce, *, resamples: int = RESAMPLES, seed: int = 0
) -> Iterator[float]:
    """What a bootstrap must know of one network, (n, k) -> `bootstrap_size` scores, each a call of `reduce`.

    First the score of all rows, then of rows drawn with replacement, then of those that each jackknife leaves. The same
    seed draws the same rows, so the scores of two networks pair. One at a time: whoever needs them may look at the
    clock.
    """
    n = len(statistics)
    yield corpus_score(reduce, statistics)
    if n < 2:
        return
    draw = np.random.default_rng(seed)
    for _ in range(resamples):
        yield corpus_score(reduce, statistics[draw.integers(0, n, n)])
    for group in np.array_split(draw.permutation(n), _groups(n)):
        yield corpus_score(reduce, np.delete(statistics, group, axis=0))


def bootstrap_size(rows: int) -> int:
    """How many scores a bootstrap must know of each network."""
    return 1 if rows < 2 else 1 + RESAMPLES + _groups(rows)


def _groups(rows: int) -> int:
    """Into how many groups the jackknife divides so many rows."""
    return min(_JACKKNIFE_GROUPS, rows)


def _scored(statistics: Array, reduce: Reduce, *, resamples: int = RESAMPLES, seed: int = 0) -> Floats:
    return np.fromiter(bootstrap_scores(statistics, reduce, resamples=resamples, seed=seed), np.float64)


def _upper_bound(drops: Floats, rows: int, alpha: float) -> float:
    """The BCa bound: `drops` are differences of `bootstrap_scores`."""
    drop = float(drops[0])
    if rows < 2:
        return drop
    resampled, left_out = np.sort(drops[1 : -_groups(rows)]), drops[-_groups(rows) :]
    return float(np.quantile(resampled, _corrected_share(resampled, drop, left_out, 1 - alpha)))


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
