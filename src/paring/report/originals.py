"""The original on every backend, beside what was chosen: bars and figures in one table."""

from __future__ import annotations

from dataclasses import dataclass

from paring.report import units
from paring.report.dots import colour
from paring.report.goal import Goal
from paring.report.markup import Markup, el
from paring.report.points import Point
from paring.report.records import Answer, Limits
from paring.report.tables import Column, point_columns
from paring.report.units import ScoreUnit


@dataclass(frozen=True)
class _Entry:
    name: str
    point: Point
    chosen: bool


def originals_section(answer: Answer, unit: ScoreUnit) -> Markup:
    """Bars of latency, or of throughput where that was the objective, best first."""
    goal = _speed(answer.budget)
    entries = sorted(_entries(answer), key=lambda entry: goal.rank(entry.point))
    if not entries:
        return el("p", {"class": "empty"}, "The original was not measured on any runtime.")
    longest = max((goal.value(entry.point) or 0.0 for entry in entries), default=0.0) or 1.0
    columns = [column for column in point_columns(unit) if column.title not in ("p50", "p90", "Throughput")]
    second = "Throughput" if goal.name == "latency" else "p50"
    columns.insert(0, next(column for column in point_columns(unit) if column.title == second))
    columns.insert(0, Column("Measured", lambda p: p.measured, style="word"))
    titles = ["Runtime", "Latency p50" if goal.name == "latency" else "Throughput"]
    heads = [(title, "") for title in titles] + [(column.title, _style(column)) for column in columns]
    head = el("tr", None, *(el("th", {"scope": "col", "class": style or None}, title) for title, style in heads))
    body = []
    for entry in entries:
        cells = [el("td", {"class": _style(column)}, column.shown(entry.point)) for column in columns]
        name = el(
            "th", {"scope": "row"}, entry.name, el("small", None, entry.point.backend_text) if entry.chosen else ""
        )
        body.append(el("tr", {"class": "chosen" if entry.chosen else None}, name, _bar(entry, goal, longest), *cells))
    grid = el("table", {"class": "bars"}, el("thead", None, head), el("tbody", None, *body))
    return el(
        "div", {"class": "scroll", "role": "region", "aria-label": "The original on every runtime", "tabindex": 0}, grid
    )


def _style(column: Column[Point]) -> str:
    return "number" if column.key else column.style


def _speed(budget: Limits) -> Goal:
    goal = Goal.of(budget)
    return (
        goal
        if goal.name in ("latency", "throughput")
        else Goal("latency", "", lambda p: p.p50_ms, units.latency, False, None)
    )


def _entries(answer: Answer) -> list[_Entry]:
    points = answer.baselines or ((answer.baseline,) if answer.baseline else ())
    entries = [_Entry(point.backend_text, point, False) for point in points]
    if answer.best and answer.status == "improved":
        entries.append(_Entry("Chosen", answer.best, True))
    return entries


def _bar(entry: _Entry, goal: Goal, longest: float) -> Markup:
    value = goal.value(entry.point)
    width = 0.0 if value is None else 100 * value / longest
    bar = el("i", {"class": f"bar c{colour(entry.point.backend)}", "style": f"width:{width:.1f}%"})
    return el("td", {"class": "bar-cell"}, el("span", {"class": "track"}, bar), el("b", None, goal.shown(value)))
