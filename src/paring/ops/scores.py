"""Per-sample scores and losses that a task uses unless it brings its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from paring.errors import TaskError, in_words

if TYPE_CHECKING:
    from torch import Tensor

RANGE_TOLERANCE = 1e-6
"""By this share of their range scores may leave it: means in float32 are rounded."""


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """1 where the largest of the class scores is at the target: (batch, ..., classes), (batch, ...) -> (batch,).

    With positions between batch and classes (a tag for each word, say), the share of right positions in each row.
    """
    right = (outputs.argmax(-1) == targets).float()
    return right.flatten(1).mean(1) if right.ndim > 1 else right


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean negative log-likelihood: (batch, ..., classes), (batch, ...) -> ()."""
    from torch.nn.functional import cross_entropy as reference

    return reference(outputs.flatten(0, -2), targets.flatten().long())


def corpus_score(reduce: Callable[[npt.NDArray[Any]], float], statistics: npt.NDArray[Any]) -> float:
    """The score of some rows, (n, k) -> one number. Raises TaskError where `reduce` fails or gives no finite number."""
    rows = len(statistics)
    try:
        score = reduce(statistics)
        number = math.nan if np.ndim(score) else float(score)
    except Exception as error:
        raise TaskError(f"the metric's reduce failed with {in_words(error)}, on {rows} rows.") from error
    if np.ndim(score):
        raise TaskError(f"the metric's reduce returned shape {np.shape(score)} for {rows} rows: return one number.")
    if not math.isfinite(number):
        raise TaskError(
            f"the metric's reduce gave {number} for {rows} rows: it must give a finite number for any rows, "
            "also where a class does not occur among them."
        )
    return number
