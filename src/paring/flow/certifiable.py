"""Which drop the rows can certify at all: told, or refused, before the search begins."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from paring.certify import Method, rows_needed, smallest_certifiable_drop
from paring.data.split import SELECTION_SHARE
from paring.errors import BudgetError
from paring.ops.paired_exact import ternary_upper_bound
from paring.types import Array, Budget, CorpusMetric, Task


@dataclass(frozen=True)
class Certifiable:
    """What `rows` rows can certify by a method, at the confidence that is left to one look."""

    max_drop: float
    rows: int
    confidence: float
    score_range: tuple[float, float]
    method: Method

    @classmethod
    def of(cls, task: Task, budget: Budget, rows: int, share: float) -> Certifiable:
        """By the most lenient method that the metric might allow, where `share` is the look's of what may go wrong."""
        method: Method = "bootstrap" if isinstance(task.metric, CorpusMetric) else "exact"
        return cls(budget.max_drop, rows, 1 - (1 - budget.confidence) * share, task.score_range, method)

    def knowing(self, scores: Array) -> Certifiable:
        """The same once the original's scores are known: some that are more than right or wrong allow no exact one."""
        two_valued = np.isin(np.clip(scores, *self.score_range), self.score_range).all()
        return self if self.method == "bootstrap" or two_valued else replace(self, method="betting")

    @property
    def smallest_drop(self) -> float:
        """The smallest drop that can be certified, for a candidate that scores as the original in every row."""
        return smallest_certifiable_drop(self.rows, self.confidence, 1, self.score_range, self.method)

    def check(self) -> None:
        """Raise BudgetError where the budget asks for less, or allows more than there is: points for a share, mostly.

        A drop of 0 is for candidates that score higher.
        """
        low, high = self.score_range
        if self.max_drop > high - low:
            raise BudgetError(
                f"max_drop={self.max_drop:g} is more than a score can lose, which lies between {low:g} and {high:g}: "
                f"give it in the metric's own unit, for example {(high - low) / 100:g}."
            )
        if not self.smallest_drop > self.max_drop > 0:
            return
        needed = rows_needed(self.max_drop, self.confidence, 1, self.score_range, self.method)
        raise BudgetError(
            f"max_drop={self.max_drop:g} can't be certified with {self.rows} rows: the smallest drop that they can "
            f"certify is {self.smallest_drop:.4f}. Give evaluate at least {round(needed / (1 - SELECTION_SHARE)) + 1} "
            "rows, or allow a larger drop."
        )

    @property
    def told(self) -> str:
        """In one sentence, for the user."""
        best = f"{self.rows} rows can certify a drop of {self.smallest_drop:.4f} at best"
        if self.max_drop > 0:
            return best
        return f"{best}: max_drop=0 can be certified only for a network that {self._better()}"

    def _better(self) -> str:
        """What a candidate must show to be no worse for sure."""
        if self.method != "exact":
            return "scores clearly higher than the original"
        alpha, few, enough = 1 - self.confidence, 0, self.rows
        if ternary_upper_bound(0, enough, self.rows, alpha) > 0:
            return "scores higher on more rows than these: give evaluate more of them"
        while enough - few > 1:
            middle = (few + enough) // 2
            few, enough = (few, middle) if ternary_upper_bound(0, middle, self.rows, alpha) <= 0 else (middle, enough)
        return f"gets {enough} rows right that the original gets wrong, and more for each one that it loses"
