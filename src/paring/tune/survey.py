"""Survey: every part of the techniques that divide, measured alone, and joined until a speed-up is reached."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from paring.errors import BudgetError, quoted
from paring.techniques.base import Recipe
from paring.tune.allocation import (
    Measured,
    Shown,
    Step,
    compared,
    ends_s,
    every_step,
    measure_alone,
    most_telling_first,
)
from paring.tune.candidate import Candidate
from paring.tune.post_training import first_baselines, other_baselines
from paring.tune.scene import Round, Rounds, Scene
from paring.tune.search import Search
from paring.tune.trial import Trial
from paring.types import is_number

JOINS_SHARE = 0.3
"""Of the time: so much is kept for joins, where a speed-up is wanted."""


@dataclass(frozen=True)
class Target:
    """How fast the network is to be: a speed-up over the original on its fastest backend, or a median time of a batch.

    Neither: nothing is joined.
    """

    speedup: float | None = None
    latency_ms: float | None = None

    def __post_init__(self) -> None:
        if self.speedup is not None and self.latency_ms is not None:
            raise BudgetError(
                f"speedup={self.speedup} and latency_ms={self.latency_ms} contradict each other: give one of them."
            )
        if self.speedup is not None and not (is_number(self.speedup) and self.speedup > 1):
            raise BudgetError(f"speedup={quoted(self.speedup)} must be a number above 1, for example 2.0.")
        if self.latency_ms is not None and not (is_number(self.latency_ms) and self.latency_ms > 0):
            raise BudgetError(f"latency_ms={quoted(self.latency_ms)} must be a number above 0, in milliseconds.")

    @property
    def wanted(self) -> bool:
        """Whether some speed is."""
        return self.speedup is not None or self.latency_ms is not None

    def speedup_over(self, original: Trial) -> float | None:
        """What is wanted beside the original; None where nothing is."""
        if self.latency_ms is None or original.latency_ms is None:
            return self.speedup
        return original.latency_ms["p50"] / self.latency_ms


class Survey(Search):
    """Asks as a search does. What it is told becomes `shown`, and `reached` where a speed-up is wanted.

    Parts are tried on the backend that runs the original fastest. Where a speed-up over it is wanted, parts are joined
    in the order of harm for gain, and a bisection looks for the first join that is measured to be so fast.
    """

    def __init__(self, scene: Scene, target: Target) -> None:
        self.target = target
        self.measured: list[Measured] = []
        self.joins: dict[int, tuple[Step, Trial]] = {}
        self._ahead: Round | None = None
        super().__init__(scene)

    def ask(self) -> Round:
        """The next round; empty when the survey is over."""
        ahead, self._ahead = self._ahead, None
        return super().ask() if ahead is None else ahead

    def tell(self, asked: Round, trials: Sequence[Trial]) -> None:
        """What came of a round is known at once, since the time may end before the next question."""
        super().tell(asked, trials)
        self._ahead = super().ask()

    def _chain(self) -> Iterator[Rounds]:
        yield first_baselines(self.scene)
        yield other_baselines(self.scene, self.trials)
        yield self._parts()
        yield self._joined()

    @property
    def original(self) -> Trial | None:
        """The original on its fastest backend."""
        timed = [t for t in self.trials if t.stage == "baseline" and t.speedup is not None]
        return min(timed, key=self.scene.ranking.cost, default=None)

    @property
    def shown(self) -> list[Shown]:
        """What the parts that were measured gain and lose."""
        return compared(self.scene, self.measured, self.original) if self.original and self.measured else []

    @property
    def reached(self) -> Trial | None:
        """Of joins, and parts alone, that are as fast as is wanted the one that was measured to do the least harm."""
        measured = [trial for _, trial in (*self.joins.values(), *self.measured)]
        enough = [trial for trial in measured if self._fast_enough(trial)]
        return min(enough, key=lambda trial: trial.drop or 0.0, default=None)

    @property
    def told_joins(self) -> list[tuple[Recipe, Trial]]:
        """What was joined and measured; before that a part alone, where it is the answer and no join is."""
        joins = [(step.recipe, trial) for _, (step, trial) in sorted(self.joins.items())]
        alone = [((part.technique,), trial) for part, trial in self.measured if trial is self.reached]
        return [*(alone if all(trial is not self.reached for _, trial in joins) else []), *joins]

    def speedup_of(self, trial: Trial) -> float | None:
        """Over the original on its fastest backend, which need not be the one that trials were timed beside."""
        original = self.original
        if trial.speedup is None or original is None or original.speedup is None:
            return None
        return trial.speedup.over(original.speedup).ratio

    def _parts(self) -> Rounds:
        original = self.original
        if original is None:
            return
        tail = self._candidates[original.key]
        share = 1 - JOINS_SHARE if self.target.speedup_over(original) else 1.0
        parts = [most_telling_first(self.scene.module_parts(technique)) for technique in self.scene.techniques]
        for found, until_s in zip(parts, ends_s(self.scene, parts, share), strict=True):
            yield from measure_alone(self.scene, found, tail, until_s, self.measured)

    def _joined(self) -> Rounds:
        """The first guess is the step that promises enough; each one that is measured halves what is left."""
        steps, original = every_step(self.shown), self.original
        wanted = self.target.speedup_over(original) if original else None
        if wanted is None or original is None or not steps:
            return
        tail, low, high = self._candidates[original.key], 0, len(steps)
        at = next((i for i, step in enumerate(steps) if step.gain >= 1 - 1 / wanted), len(steps) - 1)
        while low < high:
            for trial in (yield [Candidate((*steps[at].recipe, *tail.recipe), tail.backend, "training")]):
                self.joins[at] = steps[at], trial
            if at not in self.joins:
                return
            low, high = (low, at) if self._fast_enough(self.joins[at][1]) else (at + 1, high)
            at = (low + high) // 2

    def _fast_enough(self, trial: Trial) -> bool:
        original, speedup = self.original, self.speedup_of(trial)
        wanted = self.target.speedup_over(original) if original else None
        return speedup is not None and wanted is not None and speedup >= wanted
