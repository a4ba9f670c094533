"""The measure that a run made best: what the chart's other axis shows, and what the tables are sorted by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from paring.report import units
from paring.report.records import Limits, Point


@dataclass(frozen=True)
class Goal:
    """`value` reads it off a point, `shown` formats it, `limit` is the budget's own bound on it."""

    name: str
    axis: str
    value: Callable[[Point], float | None]
    shown: Callable[[float | None], str]
    higher_is_better: bool
    limit: float | None

    @classmethod
    def of(cls, budget: Limits) -> Goal:
        """The goal of a budget's objective."""
        if budget.objective == "throughput":
            return cls("throughput", "samples a second", lambda p: p.throughput_per_s, units.throughput, True, None)
        if budget.objective == "size":
            return cls("size", "size on disk", lambda p: p.size_bytes, units.size, False, budget.max_size_bytes)
        if budget.objective == "memory":
            return cls(
                "memory", "peak memory", lambda p: p.peak_memory_bytes, units.size, False, budget.max_memory_bytes
            )
        return cls("latency", "latency p50", lambda p: p.p50_ms, units.latency, False, budget.max_latency_ms)

    def rank(self, point: Point) -> float:
        """The best first, what has no value last."""
        value = self.value(point)
        return float("inf") if value is None else -value if self.higher_is_better else value
