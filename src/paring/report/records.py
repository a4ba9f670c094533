"""The answer of a finished run, result.json, as typed values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from paring.report.fields import Fields
from paring.report.points import Interval, Point, TrialRow
from paring.report.units import ScoreUnit, size
from paring.types import Coverage, LayerChange


@dataclass(frozen=True)
class Certified:
    """The certificate; `regressions` and `fixes` are None where scores are not right or wrong."""

    drop: float | None
    upper_bound: float | None
    confidence: float
    rows: int
    method: str
    finalists: int
    regressions: int | None
    fixes: int | None
    smallest_certifiable_drop: float | None

    @classmethod
    def of(cls, fields: Fields | None) -> Certified | None:
        """None where nothing was certified."""
        if fields is None:
            return None
        return cls(
            drop=fields.number("drop"),
            upper_bound=fields.number("upper_bound"),
            confidence=fields.number("confidence") or 0.0,
            rows=fields.integer("n") or 0,
            method=fields.text("method", "not recorded"),
            finalists=fields.integer("finalists") or 1,
            regressions=fields.integer("regressions"),
            fixes=fields.integer("fixes"),
            smallest_certifiable_drop=fields.number("smallest_certifiable_drop"),
        )

    @property
    def approximate(self) -> bool:
        """Whether the method gives no finite-sample guarantee."""
        return any(word in self.method.lower() for word in ("approximate", "bootstrap"))


@dataclass(frozen=True)
class Look:
    """One look at the certification rows: at what, and what it showed."""

    recipe: str
    backend_text: str
    certified: bool
    told: str

    @classmethod
    def of(cls, fields: Fields) -> Look:
        """From one of the result's `finalists`."""
        backend = fields.text("backend_text", "?")
        return cls(fields.text("recipe_text", "?"), backend, fields.flag("certified"), fields.text("told"))


@dataclass(frozen=True)
class Limits:
    """The budget as it was given."""

    max_drop: float | None
    confidence: float
    max_latency_ms: float | None
    max_size_bytes: float | None
    max_memory_bytes: float | None
    objective: str
    batch_size: int

    @classmethod
    def of(cls, fields: Fields) -> Limits:
        """From the result's `budget`."""
        return cls(
            max_drop=fields.number("max_drop"),
            confidence=fields.number("confidence") or 0.95,
            max_latency_ms=fields.number("max_latency_ms"),
            max_size_bytes=fields.number("max_size_bytes"),
            max_memory_bytes=fields.number("max_memory_bytes"),
            objective=fields.text("objective", "latency"),
            batch_size=fields.integer("batch_size") or 1,
        )


@dataclass(frozen=True)
class Answer:
    """result.json."""

    task: str
    status: str
    reason: str
    zeros: str
    budget: Limits
    threads: int | None
    best: Point | None
    baseline: Point | None
    baselines: tuple[Point, ...]
    speedup: Interval | None
    speedup_over_source: Interval | None
    certificate: Certified | None
    looks: tuple[Look, ...]
    discarded_looks: int
    coverage: tuple[Coverage, ...]
    hardware: tuple[tuple[str, str], ...]
    wall_time_s: float | None
    outcomes: tuple[tuple[str, int], ...]
    unavailable: tuple[tuple[str, str], ...]
    not_tried: tuple[tuple[str, str], ...]
    nearest: tuple[Point, ...]
    seed: int | None
    time_limit_s: float | None
    techniques: tuple[str, ...]
    backends: tuple[str, ...]
    version: str

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Answer:
        """From the parsed file; what is missing stays empty."""
        fields = Fields(values)
        outcomes = fields.inner("trials") or Fields({})
        hardware = fields.inner("hardware") or Fields({})
        best, baseline = fields.inner("best"), fields.inner("baseline")
        return cls(
            task=fields.text("task", "task"),
            status=fields.text("status"),
            reason=fields.text("reason").strip(),
            zeros=fields.text("zeros").strip(),
            budget=Limits.of(fields.inner("budget") or Fields({})),
            threads=fields.integer("threads"),
            best=Point.of(best) if best else None,
            baseline=Point.of(baseline) if baseline else None,
            baselines=tuple(Point.of(each) for each in fields.each("baselines")),
            speedup=Interval.of(fields.inner("speedup")),
            speedup_over_source=Interval.of(fields.inner("speedup_over_source")),
            certificate=Certified.of(fields.inner("certificate")),
            looks=tuple(Look.of(each) for each in fields.each("finalists")),
            discarded_looks=fields.integer("discarded_looks") or 0,
            coverage=tuple(_coverage(each) for each in fields.each("coverage")),
            hardware=_facts(hardware.values),
            wall_time_s=fields.number("wall_time_s"),
            outcomes=tuple((name, outcomes.integer(name) or 0) for name in outcomes.values),
            unavailable=tuple((each.text("backend", "?"), each.text("reason")) for each in fields.each("unavailable")),
            not_tried=tuple((each.text("what", "?"), each.text("reason")) for each in fields.each("not_tried")),
            nearest=tuple(Point.of(each) for each in fields.each("nearest")),
            seed=fields.integer("seed"),
            time_limit_s=fields.number("time_limit_s"),
            techniques=fields.texts("techniques"),
            backends=fields.texts("backends"),
            version=fields.text("version"),
        )

    def score_unit(self, trials: tuple[TrialRow, ...] = ()) -> ScoreUnit:
        """Points where every score that was seen lies in 0..1, else the metric's own unit."""
        points = [*self.baselines, *self.nearest, *(trial.point for trial in trials)]
        points += [point for point in (self.best, self.baseline) if point]
        return ScoreUnit(all(point.score is None or 0 <= point.score <= 1 for point in points))


def _coverage(fields: Fields) -> Coverage:
    layers = tuple(
        LayerChange(
            layer=each.text("layer", "?"),
            changed=each.flag("changed"),
            reason=each.text("reason"),
            parameters=each.integer("parameters") or 0,
            macs=each.integer("macs") or 0,
        )
        for each in fields.each("layers")
    )
    return Coverage(fields.text("technique", "?"), layers)


def _facts(values: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Names and values as people read them; what lies in an inner object (versions of packages) stands on its own."""
    facts: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            facts += _facts(value)
        elif name.endswith("_bytes") and isinstance(value, int | float):
            facts.append((name.removesuffix("_bytes"), size(value)))
        else:
            facts.append((name.replace("_", " "), _plain(value)))
    return tuple(facts)


def _plain(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    return "–" if value is None else str(value)
