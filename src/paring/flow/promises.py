"""What an artifact promises, judged by the budget that it was made for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from paring.artifact import Manifest
from paring.measure.compare import Comparison
from paring.report import units
from paring.types import Budget


@dataclass(frozen=True)
class Check:
    """One promise: what was found when the artifact was made, what is found here, and whether it holds."""

    what: str
    promised: str
    here: str
    verdict: str
    holds: bool


@dataclass(frozen=True)
class Figures:
    """What was measured of one artifact on this machine."""

    latency_ms: float
    size_bytes: int
    peak_memory_bytes: int


def limits(budget: Budget, here: Figures) -> list[Check]:
    """A row for each limit that the budget sets."""
    rows: tuple[tuple[str, float | None, float, Callable[[float | None], str]], ...] = (
        ("latency p50", budget.max_latency_ms, here.latency_ms, units.latency),
        ("size", budget.max_size_bytes, here.size_bytes, units.size),
        ("peak memory", budget.max_memory_bytes, here.peak_memory_bytes, units.size),
    )
    return [
        Check(
            f"{what}, limit",
            f"at most {told(limit)}",
            told(value),
            "within the budget" if value <= limit else "above the budget here",
            value <= limit,
        )
        for what, limit, value, told in rows
        if limit is not None
    ]


def not_compared(manifest: Manifest, here: Figures) -> Check:
    """The latency, where there is no original to compare with: it is told, and promises nothing."""
    there = units.latency(_number(manifest.measurements, "latency_ms", "p50"))
    is_original = not manifest.recipe
    verdict = "measured" if is_original else "no original beside it to be faster than: copy the whole output folder"
    return Check("latency p50", there, units.latency(here.latency_ms), verdict, True)


def gains(manifest: Manifest, found: Comparison, here: Figures, original: Figures) -> list[Check]:
    """What the objective gained over the original, and that it was not paid for with speed.

    An original that breaks a limit of the budget here need not be beaten.
    """
    budget, promised = manifest.budget, manifest.measurements
    needed = all(check.holds for check in limits(budget, original))
    rows = []
    if budget.objective == "size":
        there = _number(promised, "size_bytes")
        rows.append(_smaller("size", there, here.size_bytes, original.size_bytes, needed))
    if budget.objective == "memory":
        there = _number(promised, "peak_memory_bytes")
        rows.append(_smaller("peak memory", there, here.peak_memory_bytes, original.peak_memory_bytes, needed))
    return [*rows, _speedup(manifest, found, needed)]


def _speedup(manifest: Manifest, found: Comparison, needed: bool) -> Check:
    """For latency and throughput it must be faster; for size and memory not slower."""
    ratio = _number(manifest.measurements, "speedup", "ratio")
    there = units.NONE if ratio is None else units.ratio(ratio)
    here = f"{units.ratio(found.ratio)} ({units.interval(found.low, found.high)})"
    if manifest.budget.objective in ("latency", "throughput"):
        good, verdict, flaw = found.faster, "faster here too", "not faster than the original here"
    else:
        good, verdict, flaw = found.not_slower, "not slower here either", "slower than the original here"
    if not good:
        verdict = f"{flaw}: serve the original" if needed else f"{flaw}, which misses the budget"
    return Check("speed-up over the original", there, here, verdict, good or not needed)


def _smaller(what: str, there: float | None, here: int, original: int, needed: bool) -> Check:
    told = f"{units.size(here)}, the original {units.size(original)}"
    verdict = "less here too" if here < original else "no less than the original's here"
    return Check(what, units.size(there), told, verdict, here < original or not needed)


def _number(values: Any, *path: str) -> float | None:
    """A figure of the manifest; None where it was not recorded."""
    for name in path:
        values = values.get(name) if isinstance(values, dict) else None
    return float(values) if isinstance(values, int | float) else None
