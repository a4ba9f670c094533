"""What an artifact promises, judged by the budget that it was made for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from paring.artifact import Manifest
from paring.measure.compare import NOISE, Comparison
from paring.report import units
from paring.types import Budget, Objective

NO_ORIGINAL = "no original beside it, copy the whole output folder"
ORIGINAL_ITSELF = "it is the original"

SPEEDUP = "speed-up over the original"
"""What the row is about that checks the speed; where it is missing, nothing does."""


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


def not_compared(manifest: Manifest, here: Figures, reason: str) -> Check:
    """The latency, where there is nothing to compare it with, for that reason: it is told, and is no check."""
    there = units.latency(_number(manifest.measurements, "latency_ms", "p50"))
    told = reason if manifest.recipe else ORIGINAL_ITSELF
    return Check("latency p50", there, units.latency(here.latency_ms), f"speed not checked: {told}", True)


def gains(
    manifest: Manifest, found: Comparison, here: Figures, original: Figures, family: Manifest | None = None
) -> list[Check]:
    """What the objective gained over the original, and that it was not paid for with speed.

    An original that breaks a limit of the budget here need not be beaten. Of a member of the family, which is kept for
    whatever it is good at, `family` is the original's manifest: what was no better there need not be better here.
    """
    budget, promised = manifest.budget, manifest.measurements
    excuse = "" if all(check.holds for check in limits(budget, original)) else "which misses the budget"
    if family and not _was_better(manifest, family):
        excuse = "as where it was made"
    rows = []
    if budget.objective == "size":
        there = _number(promised, "size_bytes")
        rows.append(_smaller("size", there, here.size_bytes, original.size_bytes, not excuse))
    if budget.objective == "memory":
        there = _number(promised, "peak_memory_bytes")
        rows.append(_smaller("peak memory", there, here.peak_memory_bytes, original.peak_memory_bytes, not excuse))
    return [*rows, _speedup(budget.objective, _promised_speedup(manifest, family), found, excuse)]


def _promised_speedup(manifest: Manifest, family: Manifest | None, end: str = "ratio") -> float | None:
    """Over the original; a member's is recorded over the run's reference, as that of the family's original is."""
    ours = _number(manifest.measurements, "speedup", end)
    theirs = _number(family.measurements, "speedup", "ratio") if family else 1.0
    return ours / theirs if ours and theirs else None


def _was_better(member: Manifest, original: Manifest) -> bool:
    """Whether the objective gained over the original of the family where both were made, as far as was recorded."""
    objective = member.budget.objective
    if objective in ("latency", "throughput"):
        speedup = _promised_speedup(member, original, "low")
        return speedup is None or speedup > 1
    speedup = _promised_speedup(member, original)
    field = "size_bytes" if objective == "size" else "peak_memory_bytes"
    ours, theirs = (_number(manifest.measurements, field) for manifest in (member, original))
    smaller = ours is None or theirs is None or ours < theirs
    return smaller and (speedup is None or speedup >= 1 - NOISE)


def _speedup(objective: Objective, promised: float | None, found: Comparison, excuse: str) -> Check:
    """For latency and throughput it must be faster; for size and memory not slower."""
    there = units.NONE if promised is None else units.ratio(promised)
    here = f"{units.ratio(found.ratio)} ({units.interval(found.low, found.high)})"
    if objective in ("latency", "throughput"):
        good, verdict, flaw = found.faster, "faster here too", "not faster than the original here"
    else:
        good, verdict, flaw = found.not_slower, "not slower here either", "slower than the original here"
    if not good:
        verdict = f"{flaw}, {excuse}" if excuse else f"{flaw}: serve the original"
    return Check(SPEEDUP, there, here, verdict, good or bool(excuse))


def _smaller(what: str, there: float | None, here: int, original: int, needed: bool) -> Check:
    """Any saving holds: a run returns none of memory that is so small that the noise here may take it back."""
    told = f"{units.size(here)}, the original {units.size(original)}"
    verdict = "less here too" if here < original else "no less than the original's here"
    return Check(what, units.size(there), told, verdict, here < original or not needed)


def _number(values: Any, *path: str) -> float | None:
    """A figure of the manifest; None where it was not recorded."""
    for name in path:
        values = values.get(name) if isinstance(values, dict) else None
    return float(values) if isinstance(values, int | float) else None
