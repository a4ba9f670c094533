"""Which trials are good: what they are worth for the objective, whether they would hold the budget, who beats whom."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

from paring.tune.trial import Trial
from paring.types import Budget

LEAST_CHANCE = 0.25
"""A look is worth its price for what will be certified with this probability; the last look wants an even chance."""

ALIKE = 0.05
"""Bytes on disk or in memory that differ by no more do not set a trial apart: a process's memory is noisy."""

LUCK = 1.2
"""By so much the best of many quick figures may be too good: a lucky one must not end the search for better ones."""


Axis = Literal["latency", "size", "memory", "drop"]


@dataclass(frozen=True)
class Miss:
    """A limit of the budget that a trial breaks: in milliseconds, bytes, or the metric's own unit."""

    of: Axis
    value: float
    limit: float


@dataclass(frozen=True)
class Ranking:
    """Orders trials under a budget. `certification_rows` and the rest tell how far a bound will lie above a drop."""

    budget: Budget
    certification_rows: int
    finalist_confidence: float
    score_span: float = 1.0

    def cost(self, trial: Trial) -> float:
        """What the objective makes small; infinite where it was not measured. Time is relative to the reference."""
        if self.about_speed:
            return self.time(trial)
        value = trial.size_bytes if self.budget.objective == "size" else trial.peak_memory_bytes
        return float("inf") if value is None else float(value)

    def time(self, trial: Trial) -> float:
        """The time of a call relative to the reference; infinite where it was not measured."""
        return _axes(trial)[0]

    def order(self, trial: Trial) -> tuple[float, float]:
        """The better of two trials comes first: the one of less cost, of equal files the faster."""
        return self.cost(trial), self.time(trial)

    @property
    def about_speed(self) -> bool:
        """Whether the objective is latency or throughput: what it makes small is time."""
        return self.budget.objective in ("latency", "throughput")

    def less(self, trial: Trial, other: Trial) -> bool:
        """Whether a trial costs less than another one, and memory by more than its noise."""
        noise = ALIKE if self.budget.objective == "memory" else 0.0
        return self.cost(trial) * (1 + noise) < self.cost(other)

    def may_win(self, trial: Trial, originals: Sequence[Trial]) -> bool:
        """Whether, by quick figures, it may replace the original: it costs less, and is not slower for sure.

        Where every original breaks a limit of the budget, none of them need be beaten.
        """
        holding = [t for t in originals if not self.misses(t)]
        if not holding:
            return True
        return not _surely_slower(trial, min(holding, key=self.time)) and all(self.less(trial, t) for t in holding)

    def seems_too_slow(self, trial: Trial, originals: Sequence[Trial]) -> bool:
        """Whether, by a quick figure, its speed keeps it from replacing the original, where the objective is bytes."""
        holding = [self.time(t) for t in originals if not self.misses(t)]
        return not self.about_speed and bool(holding) and self.time(trial) > min(holding)

    def likely_bound(self, trial: Trial) -> float:
        """The certified upper bound that a drop like this one would get."""
        return float("inf") if trial.drop is None else self.bound_at(trial.drop, trial.drop_deviation or 0.0)

    def bound_at(self, drop: float, deviation: float) -> float:
        """The same from the drop and the deviation of a row's paired difference, by a normal approximation."""
        z = NormalDist().inv_cdf(self.finalist_confidence)
        # A row that differs nowhere in selection may still differ in certification: the bound is never zero.
        floor = self.score_span * z * z / self.certification_rows
        return float(drop + z * deviation / self.certification_rows**0.5 + floor)

    def chance(self, trial: Trial) -> float:
        """How likely its bound holds the budget, from its drop on few rows: 0.5 where `likely_bound` is the limit."""
        margin = self.budget.max_drop - self.likely_bound(trial)
        spread = (trial.drop_deviation or 0.0) * (1 / max(1, trial.rows) + 1 / self.certification_rows) ** 0.5
        return NormalDist().cdf(margin / spread) if spread else float(margin >= 0)

    def keeps_accuracy(self, trial: Trial) -> bool:
        """Whether the trial has a fair chance of a certificate."""
        seen = trial.drop is not None and trial.drop <= self.budget.max_drop
        return trial.outcome == "measured" and seen and self.chance(trial) >= LEAST_CHANCE

    def hopeful(self, trial: Trial) -> bool:
        """Whether it keeps the accuracy and holds every other limit."""
        return self.keeps_accuracy(trial) and not self.misses(trial)

    def misses(self, trial: Trial) -> list[Miss]:
        """The limits of the budget that the trial breaks; empty where it holds all that was measured."""
        budget = self.budget
        latency_ms = trial.latency_ms["p50"] if trial.latency_ms else None
        found: tuple[tuple[Axis, float | None, float | None], ...] = (
            ("latency", latency_ms, budget.max_latency_ms),
            ("size", trial.size_bytes, budget.max_size_bytes),
            ("memory", trial.peak_memory_bytes, budget.max_memory_bytes),
            ("drop", trial.drop, budget.max_drop),
        )
        known = [(of, value, limit) for of, value, limit in found if value is not None and limit is not None]
        return [Miss(of, value, limit) for of, value, limit in known if value > limit]

    def too_large(self, trial: Trial) -> bool:
        """Whether it breaks the limit of bytes on disk: of all figures the one that is neither noisy nor trained."""
        return any(miss.of == "size" for miss in self.misses(trial))

    def feasible(self, trial: Trial) -> bool:
        """Whether the trial would probably be certified and holds every other limit."""
        return (
            trial.outcome == "measured" and self.likely_bound(trial) <= self.budget.max_drop and not self.misses(trial)
        )

    def best(self, trials: Iterable[Trial]) -> Trial | None:
        """The feasible trial of least cost; beside originals none that seems too slow to replace them."""
        known = list(trials)
        originals = [t for t in known if not t.recipe and t.speedup is not None]
        pool = (t for t in known if self.feasible(t) and not self.seems_too_slow(t, originals))
        return min(pool, key=self.order, default=None)

    def frontier(self, trials: Iterable[Trial]) -> list[Trial]:
        """Trials that no other one beats on every measured axis: time, drop, size and memory; of least cost first."""
        measured = [t for t in trials if t.outcome == "measured" and t.drop is not None]
        kept: list[Trial] = []
        for trial in sorted(measured, key=lambda t: (self.cost(t), t.drop or 0.0)):
            if not any(_beats(other, trial) for other in kept):
                kept.append(trial)
        return kept


def _surely_slower(one: Trial, other: Trial) -> bool:
    """Whether the intervals of their speed-ups lie apart."""
    return one.speedup is None or (other.speedup is not None and one.speedup.high < other.speedup.low)


def _beats(one: Trial, other: Trial) -> bool:
    """Whether a trial is as good as another on every axis."""
    pairs = zip(_axes(one), _axes(other), (1.0, 1.0, 1 + ALIKE, 1 + ALIKE), strict=True)
    return all(ours <= theirs * tolerance for ours, theirs, tolerance in pairs)


def _axes(trial: Trial) -> tuple[float, float, float, float]:
    """Time relative to the reference, drop, size and memory; the smaller the better, infinite where not measured."""
    time = 1 / trial.speedup.ratio if trial.speedup else float("inf")
    size, memory = (float("inf") if n is None else float(n) for n in (trial.size_bytes, trial.peak_memory_bytes))
    return time, trial.drop or 0.0, size, memory
