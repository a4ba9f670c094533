"""The original on every backend: what a candidate has to beat, and what is returned where none does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from paring.errors import BudgetError
from paring.tune import Miss, Ranking, Trial

RIVALS = 3
"""At most so many originals that may be the fastest are compared with at length."""

NEARLY = 1.6
"""An original that takes at most so many times as long by quick figures may be the fastest.

Processes of small networks come in speeds of their own (17 and 27 microseconds a call), and a quick figure sees one.
"""


@dataclass(frozen=True)
class Originals:
    """`timed` is the original on every backend that ran it, the fastest first.

    `rivals` are those that hold the limits of the budget, in the same order, or all of them where none does: then
    `broken` tells which limits the fastest one breaks.
    """

    timed: tuple[Trial, ...]
    rivals: tuple[Trial, ...]
    broken: tuple[Miss, ...]

    @classmethod
    def of(cls, trials: Sequence[Trial], ranking: Ranking, time_limit_s: float) -> Self:
        """Those among the trials of a run. Raises BudgetError where no backend came to run the original."""
        timed = sorted(timed_originals(trials), key=ranking.time)
        if not timed:
            reasons = "; ".join(t.reason for t in trials if t.reason)
            told = f" ({reasons})" if reasons else ""
            raise BudgetError(
                f"no backend ran the original within time_limit_s={time_limit_s:g}{told}: allow more time."
            )
        rivals = [t for t in timed if not ranking.misses(t)] or timed
        return cls(tuple(timed), tuple(rivals), tuple(ranking.misses(rivals[0])))

    @property
    def fastest(self) -> Trial:
        """The original on its fastest backend, of those that hold the budget's limits where any does."""
        return self.rivals[0]

    def nearly_fastest(self, ranking: Ranking) -> list[Trial]:
        """The rivals that may be the fastest, the fastest by quick figures first."""
        near = [t for t in self.rivals if ranking.time(t) <= NEARLY * ranking.time(self.fastest)]
        return sorted(near, key=ranking.time)[:RIVALS]

    def to_keep(self, ranking: Ranking) -> list[Trial]:
        """Those of which one is returned where nothing wins: the nearly fastest, and the model as it came.

        Quick figures may have put that behind by bad luck, and what is returned must not be slower.
        """
        if self.broken:
            return [self.fastest]
        near = self.nearly_fastest(ranking)
        return near if self.source in near or self.source not in self.rivals else [*near, self.source]

    @property
    def source(self) -> Trial:
        """The model as it came: torch as it is, or for a graph the backend that was tried first."""
        plain = (t for t in self.timed if t.backend["name"] == "torch" and not any(t.backend["options"].values()))
        return next(plain, min(self.timed, key=lambda t: t.number))


def timed_originals(trials: Sequence[Trial]) -> list[Trial]:
    """The trials of the original that came to a time."""
    return [t for t in trials if not t.recipe and t.outcome == "measured" and t.speedup is not None]
