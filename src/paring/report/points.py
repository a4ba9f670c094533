"""What was measured, as typed values: points of result.json and the rows of trials.jsonl."""

from __future__ import annotations

import json
from dataclasses import dataclass

from paring.ops.intervals import quotient
from paring.report import units
from paring.report.fields import Fields

WIDEST = 4.0
"""An interval whose upper end is more than so many times its lower one tells no factor: half or double is left open."""


@dataclass(frozen=True)
class Interval:
    """A factor with the ends of its interval."""

    ratio: float
    low: float
    high: float

    @property
    def vague(self) -> bool:
        """Whether the interval is too wide for the factor to mean anything."""
        return self.high > WIDEST * self.low

    def over(self, other: Interval) -> Interval | None:
        """Of two speed-ups over one reference the first over the second; None where they are none."""
        mine, theirs = ((each.ratio, each.low, each.high) for each in (self, other))
        return Interval(*quotient(mine, theirs)) if min(*mine, *theirs) > 0 else None

    @classmethod
    def of(cls, fields: Fields | None) -> Interval | None:
        """None where the ratio is missing; an end that is missing is the ratio itself."""
        ratio = fields.number("ratio") if fields else None
        if fields is None or ratio is None:
            return None
        low, high = fields.number("low"), fields.number("high")
        return cls(ratio, ratio if low is None else low, ratio if high is None else high)


@dataclass(frozen=True)
class Point:
    """One recipe on one backend with what was measured; None is what was not."""

    recipe: str
    backend: str
    backend_text: str
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    throughput_per_s: float | None
    size_bytes: int | None
    peak_memory_bytes: int | None
    score: float | None
    speedup: Interval | None
    number: int | None
    at_length: bool | None
    misses: str = ""

    @property
    def chain(self) -> str:
        """The recipe with true arrows, which no line break can split."""
        return self.recipe.replace(" -> ", " → ")

    @property
    def measured(self) -> str:
        """How its times were measured, for tables in which both ways meet."""
        if self.at_length is None:
            return units.NONE
        return "at length" if self.at_length else "quickly"

    @classmethod
    def of(cls, fields: Fields) -> Point:
        """From a row or a point of the result."""
        latency = fields.inner("latency_ms") or Fields({})
        backend = (fields.inner("backend") or Fields({})).text("name")
        return cls(
            recipe=fields.text("recipe_text") or _chain(fields.each("recipe")),
            backend=backend or fields.text("backend_text", "?").partition("(")[0],
            backend_text=fields.text("backend_text", backend or "?"),
            p50_ms=latency.number("p50"),
            p90_ms=latency.number("p90"),
            p99_ms=latency.number("p99"),
            throughput_per_s=fields.number("throughput_per_s"),
            size_bytes=fields.integer("size_bytes"),
            peak_memory_bytes=fields.integer("peak_memory_bytes"),
            score=fields.number("score"),
            speedup=Interval.of(fields.inner("speedup")),
            number=fields.integer("number"),
            at_length=fields.flag("at_length") if "at_length" in fields.values else None,
            misses=fields.text("misses"),
        )


@dataclass(frozen=True)
class TrialRow:
    """One row of trials.jsonl as people see it: what is missing or no number stays empty.

    `part` is the layer and the share of it that a trial of a single part took; `steps` are the techniques of the recipe
    with their settings, as JSON, by which recipes are told apart.
    """

    point: Point
    stage: str
    outcome: str
    reason: str
    drop: float | None
    rows: int
    wall_time_s: float | None
    frontier: bool
    part: tuple[str, float] | None = None
    steps: tuple[str, ...] = ()

    @classmethod
    def of(cls, fields: Fields) -> TrialRow:
        """From one parsed line."""
        return cls(
            point=Point.of(fields),
            stage=fields.text("stage", "?"),
            outcome=fields.text("outcome", "?"),
            reason=fields.text("reason").strip(),
            drop=fields.number("drop"),
            rows=fields.integer("rows") or 0,
            wall_time_s=fields.number("wall_time_s"),
            frontier=fields.flag("frontier"),
            part=_part(fields.values.get("part")),
            steps=tuple(json.dumps(dict(step.values), sort_keys=True) for step in fields.each("recipe")),
        )


def _part(value: object) -> tuple[str, float] | None:
    """A layer and a share above 0 and at most 1; None for anything else."""
    match value:
        case [str(layer), int() | float() as share] if 0 < share <= 1:
            return layer, float(share)
        case _:
            return None


def _chain(recipe: tuple[Fields, ...]) -> str:
    return " -> ".join(each.text("technique", "?") for each in recipe) or "original"
