"""Tables whose columns can be sorted by a click or the keyboard."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from paring.report import units
from paring.report.goal import Goal
from paring.report.markup import Markup, el
from paring.report.points import Interval, Point, TrialRow
from paring.report.units import ScoreUnit

Row = TypeVar("Row")


@dataclass(frozen=True)
class Column(Generic[Row]):
    """A heading and how a row fills it. `key` is what it is sorted by, for numbers; texts sort by what they show."""

    title: str
    shown: Callable[[Row], str]
    key: Callable[[Row], float | None] | None = None
    style: str = ""


def table(
    name: str, columns: Sequence[Column[Row]], rows: Sequence[Row], style: Callable[[Row], str], *, sortable: bool
) -> Markup:
    """The table in a frame that scrolls sideways where the screen is narrow; the first column is each row's heading."""
    head = el("tr", None, *(_heading(column, sortable) for column in columns))
    body = [el("tr", {"class": style(row) or None}, *_cells(columns, row)) for row in rows]
    grid = el("table", {"class": "sortable" if sortable else None}, el("thead", None, head), el("tbody", None, *body))
    return el("div", {"class": "scroll", "role": "region", "aria-label": name, "tabindex": 0}, grid)


def _heading(column: Column[Row], sortable: bool) -> Markup:
    title = el("button", {"type": "button"}, column.title) if sortable else column.title
    return el("th", {"scope": "col", "class": "number" if column.key else None}, title)


def _cells(columns: Sequence[Column[Row]], row: Row) -> list[Markup]:
    cells = []
    for index, column in enumerate(columns):
        styles = " ".join(filter(None, ("number" if column.key else "", column.style)))
        value = column.key(row) if column.key else None
        attributes = {"class": styles or None, "data-value": None if value is None else f"{value:.9g}"}
        first = index == 0
        cells.append(el("th" if first else "td", {**attributes, "scope": "row" if first else None}, column.shown(row)))
    return cells


def point_columns(unit: ScoreUnit) -> list[Column[Point]]:
    """What was measured of a point."""
    return [
        Column("p50", lambda p: units.latency(p.p50_ms), lambda p: p.p50_ms),
        Column("p90", lambda p: units.latency(p.p90_ms), lambda p: p.p90_ms),
        Column("p99", lambda p: units.latency(p.p99_ms), lambda p: p.p99_ms),
        Column("Throughput", lambda p: units.throughput(p.throughput_per_s), lambda p: p.throughput_per_s),
        Column("Size", lambda p: units.size(p.size_bytes), lambda p: p.size_bytes),
        Column("Memory", lambda p: units.size(p.peak_memory_bytes), lambda p: p.peak_memory_bytes),
        Column("Score", lambda p: unit.score(p.score), lambda p: p.score),
    ]


def trials_table(trials: Sequence[TrialRow], chosen: TrialRow | None, goal: Goal, unit: ScoreUnit) -> Markup:
    """Every trial, the best of what was made best first."""
    ranked = sorted(trials, key=lambda trial: (goal.rank(trial.point), trial.point.number or 0))
    columns: list[Column[TrialRow]] = [
        Column("Recipe", lambda t: t.point.chain, style="recipe"),
        Column("Backend", lambda t: t.point.backend_text, style="recipe"),
        Column("#", lambda t: "–" if t.point.number is None else str(t.point.number), lambda t: t.point.number),
        Column("Stage", lambda t: t.stage, style="word"),
        Column("Outcome", lambda t: t.outcome, style="word"),
        Column("Speed-up", lambda t: _factor(t.point.speedup), _ratio),
        Column("Drop", lambda t: unit.bare(t.drop), lambda t: t.drop),
        Column("Rows", lambda t: units.count(t.rows) if t.rows else "–", lambda t: t.rows),
    ]
    columns += [_of_point(column) for column in point_columns(unit)]
    columns.append(Column("Took", lambda t: units.duration(t.wall_time_s), lambda t: t.wall_time_s))
    return table("All trials", columns, ranked, lambda trial: _style(trial, chosen), sortable=True)


def _of_point(column: Column[Point]) -> Column[TrialRow]:
    key = column.key
    return Column(column.title, lambda t: column.shown(t.point), (lambda t: key(t.point)) if key else None)


def _factor(speedup: Interval | None) -> str:
    return f"{units.ratio(speedup.ratio)} ({units.interval(speedup.low, speedup.high)})" if speedup else "–"


def _ratio(trial: TrialRow) -> float | None:
    return trial.point.speedup.ratio if trial.point.speedup else None


def _style(trial: TrialRow, chosen: TrialRow | None) -> str:
    if trial is chosen:
        return "chosen"
    return "" if trial.outcome == "measured" else "faint"
