"""The measure that a run made best: what the chart's other axis shows, and what the tables are sorted by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from paring.report import units
from paring.report.points import Point
from paring.report.records import Limits


@dataclass(frozen=True)
class Goal:
    """`value` reads it off a point, `shown` formats it, `limit` is the budget's own bound on it."""

    name: str
    axis: str
    value: Callable[[Point], float | None]
    shown: Callable[[float | None], str]
    higher_is_better: bool
    limit: float | None
    about_time: bool = False

    @classmethod
    def of(cls, budget: Limits) -> Goal:
        """The goal of a budget's objective."""
        if budget.objective == "throughput":
            return cls(
                "throughput", "samples a second", lambda p: p.throughput_per_s, units.throughput, True, None, True
            )
        if budget.objective == "size":
            return cls("size", "size on disk", lambda p: p.size_bytes, units.size, False, budget.max_size_bytes)
        if budget.objective == "memory":
            return cls(
                "memory", "peak memory", lambda p: p.peak_memory_bytes, units.size, False, budget.max_memory_bytes
            )
        return cls(
            "latency", "latency p50", lambda p: p.p50_ms, units.latency, False, budget.max_latency_ms, about_time=True
        )

    @property
    def saved(self) -> str:
        """What a smaller network saves."""
        return "time" if self.about_time else self.name

    def beside(self, point: Point, other: Point, value: float | None) -> float | None:
        """The value of a point where another one has `value`; of times by their speed-ups, where these are known.

        Each was measured in turn with the same original, and times of different moments are none to compare.
        """
        if value is None or not (self.about_time and point.speedup and other.speedup):
            return self.value(point)
        factor = point.speedup.ratio / other.speedup.ratio
        return value * factor if self.higher_is_better else value / factor

    def rank(self, point: Point) -> float:
        """The best first, what has no value last."""
        value = self.value(point)
        return float("inf") if value is None else -value if self.higher_is_better else value
