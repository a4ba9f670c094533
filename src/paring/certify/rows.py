"""Certificates for scores of single rows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from paring.certify.certificate import Certificate, Method, error_share
from paring.errors import BudgetError, InputError, TaskError
from paring.ops.bounds import betting_upper_bound, unseen_share
from paring.ops.paired_exact import ternary_upper_bound
from paring.ops.scores import RANGE_TOLERANCE

Floats = npt.NDArray[np.float64]
Range = tuple[float, float]


def certify(
    original_scores: npt.ArrayLike,
    candidate_scores: npt.ArrayLike,
    *,
    confidence: float,
    score_range: Range = (0.0, 1.0),
    finalists: int = 1,
    method: Method | None = None,
) -> Certificate:
    """Bound how far the candidate's mean score lies below the original's, on the same rows: (n,), (n,).

    Holds at this n with `confidence` for all `finalists` together, for rows drawn independently and scores within
    `score_range`. By default the method is "exact" where every score is one of the two ends of the range (right or
    wrong), which supposes that the metric gives nothing else, and "betting" otherwise. Raises TaskError where scores
    are missing, not finite, out of range, or differ in number.
    """
    original = checked_scores(original_scores, "original_scores", score_range)
    candidate = checked_scores(candidate_scores, "candidate_scores", score_range)
    if len(original) != len(candidate):
        raise TaskError(
            f"{len(original)} original_scores and {len(candidate)} candidate_scores can't be paired: "
            "score both networks on the same rows, in the same order."
        )
    alpha = error_share(confidence, finalists)
    n, span = len(original), score_range[1] - score_range[0]
    differences = original - candidate
    drop = float(differences.mean())
    two_valued = bool(np.isin(np.concatenate((original, candidate)), score_range).all())
    method = method or ("exact" if two_valued else "betting")
    regressions, fixes = int((differences > 0).sum()), int((differences < 0).sum())
    if method == "exact" and not two_valued:
        raise InputError(
            f"method='exact' needs scores that are all {score_range[0]} or {score_range[1]}: use 'betting'."
        )
    bound = _bound(differences, method, alpha, span)
    counts = (regressions, fixes) if two_valued else (None, None)
    return Certificate(drop, max(drop, bound), confidence, n, method, finalists, *counts)


def smallest_certifiable_drop(
    n: int,
    confidence: float,
    finalists: int = 1,
    score_range: Range = (0.0, 1.0),
    method: Method = "exact",
) -> float:
    """The bound that `n` rows give where no row differs, about log(finalists / (1 - confidence)) / n of the range.

    `method` is that of the certificate to come: "betting" where scores are more than right or wrong,
    "bootstrap" where they are no mean over rows.
    """
    if n < 1:
        raise TaskError(f"n={n} rows can't certify anything: give `evaluate` at least one row for certification.")
    alpha, span = error_share(confidence, finalists), _checked_span(score_range)
    return span * unseen_share(n, alpha) if method == "bootstrap" else _bound(np.zeros(n), method, alpha, span)


def rows_needed(
    max_drop: float,
    confidence: float,
    finalists: int = 1,
    score_range: Range = (0.0, 1.0),
    method: Method = "exact",
) -> int:
    """The fewest rows that can certify `max_drop` at all, where no row differs. Raises BudgetError where none can."""
    span = _checked_span(score_range)
    if not max_drop > 0:
        raise BudgetError(f"max_drop={max_drop} can't be certified by any number of rows: allow a drop above 0.")
    if max_drop >= span:
        return 1

    def enough(n: int) -> bool:
        return smallest_certifiable_drop(n, confidence, finalists, score_range, method) <= max_drop

    most = max(1, round(-math.log(error_share(confidence, finalists)) * span / max_drop))
    while not enough(most):
        most += most // 10 + 1
    fewest = most
    while fewest and enough(fewest):
        fewest -= min(fewest, fewest // 10 + 1)
    while most - fewest > 1:
        middle = (most + fewest) // 2
        fewest, most = (fewest, middle) if enough(middle) else (middle, most)
    return most


def checked_scores(scores: npt.ArrayLike, name: str, score_range: Range) -> Floats:
    """The scores as float64, (n,), clipped to the range they may leave by rounding only. Raises TaskError."""
    values: Any = np.asarray(scores, dtype=np.float64)
    span = _checked_span(score_range)
    if values.ndim != 1 or not values.size:
        raise TaskError(f"{name} has shape {values.shape}: give one score for each row, and at least one row.")
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values))[0])
        raise TaskError(f"{name} holds {values[row]} in row {row}: the metric must give a finite number for each row.")
    low, high = score_range
    outside = np.flatnonzero((values < low - RANGE_TOLERANCE * span) | (values > high + RANGE_TOLERANCE * span))
    if outside.size:
        row = int(outside[0])
        raise TaskError(
            f"{name} holds {values[row]:.6g} in row {row}, outside score_range=({low}, {high}): "
            "declare the least and the largest score of a row, as in Task(..., score_range=(low, high))."
        )
    clipped: Floats = np.clip(values, low, high)
    return clipped


def _checked_span(score_range: Range) -> float:
    """The width of the range. Raises TaskError unless it is finite and above 0."""
    low, high = score_range
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise TaskError(f"score_range={score_range} must be two finite numbers, the lower first.")
    return high - low


def _bound(differences: Floats, method: Method, alpha: float, span: float) -> float:
    """The bound of a method for single rows, in the metric's unit."""
    if method == "exact":
        lost, won = int((differences > 0).sum()), int((differences < 0).sum())
        return span * ternary_upper_bound(lost, won, len(differences), alpha)
    if method == "betting":
        return betting_upper_bound(differences, alpha, span)
    raise InputError(f"method={method!r} is not for scores of single rows: choose 'exact' or 'betting'.")
