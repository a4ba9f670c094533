"""The summary for terminals: the original on every backend, the best, and what is certified."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TextIO

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from paring.report import units
from paring.report.goal import Goal
from paring.report.points import Point
from paring.report.records import Answer
from paring.report.story import told
from paring.report.units import ScoreUnit

HEADINGS = ("", "backend", "latency p50", "throughput", "size", "score", "measured")
ASCII = str.maketrans({"×": "x", "–": "-", "−": "-", "µ": "u", "→": "->", "…": "...", units.NARROW: " ", "\u00a0": " "})


@dataclass(frozen=True)
class _Line:
    cells: tuple[str, ...]
    chosen: bool


def summary(result: Mapping[str, Any]) -> str:
    """The parsed result.json as plain text without colour: for files, pipes and logs."""
    answer = Answer.of(result)
    unit = answer.score_unit()
    story = told(answer, unit)
    lines = _lines(answer, unit)
    parts = [story.sentence, *story.details]
    if lines:
        parts += ["", *_aligned([HEADINGS, *(line.cells for line in lines)])]
    parts += ["", *(f"{name}: {value}" for name, value in _facts(answer, unit))]
    parts += [f"nearest: {text}" for text in _nearest(answer, unit)]
    return "\n".join(part.translate(ASCII).rstrip() for part in parts).rstrip() + "\n"


def print_summary(result: Mapping[str, Any], file: TextIO | None = None) -> None:
    """Print the summary: with colour to a terminal, plain elsewhere. `file` defaults to standard output."""
    out = sys.stdout if file is None else file
    if out.isatty() and (out.encoding or "").lower().replace("-", "") == "utf8":
        Console(file=out, highlight=False).print(_rich(Answer.of(result)))
    else:
        out.write(summary(result))


def _rich(answer: Answer) -> Group:
    unit = answer.score_unit()
    story = told(answer, unit)
    style = {"improved": "bold green", "infeasible": "bold red"}.get(answer.status, "bold")
    parts: list[Text | Table] = [Text.assemble((story.lead, style), (story.rest, "bold"))]
    parts += [Text(detail, style="dim") for detail in story.details]
    lines = _lines(answer, unit)
    if lines:
        parts += [Text(), _table(lines)]
    facts = Table.grid(padding=(0, 2))
    for name, value in _facts(answer, unit):
        facts.add_row(Text(name, style="dim"), Text(value))
    parts += [Text(), facts, *(Text(f"nearest: {text}") for text in _nearest(answer, unit))]
    return Group(*parts)


def _table(lines: list[_Line]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for index, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="left" if index < 2 else "right", overflow="fold")
    for line in lines:
        table.add_row(*map(Text, line.cells), style="bold green" if line.chosen else "")
    return table


def _lines(answer: Answer, unit: ScoreUnit) -> list[_Line]:
    goal = Goal.of(answer.budget)
    originals = answer.baselines or ((answer.baseline,) if answer.baseline else ())
    kept = answer.best.backend_text if answer.best and answer.status == "kept-original" else None
    ranked = sorted(originals, key=goal.rank)
    names = {kept: "original, kept"}
    lines = [
        _line(names.get(point.backend_text, "original"), point, unit, chosen=point.backend_text == kept)
        for point in ranked
    ]
    if answer.best and answer.status == "improved":
        lines.append(_line(answer.best.recipe, answer.best, unit, chosen=True))
    return lines


def _line(name: str, point: Point, unit: ScoreUnit, *, chosen: bool = False) -> _Line:
    figures = (units.latency(point.p50_ms), units.throughput(point.throughput_per_s), units.size(point.size_bytes))
    return _Line((name, point.backend_text, *figures, unit.score(point.score), point.measured), chosen)


def _facts(answer: Answer, unit: ScoreUnit) -> list[tuple[str, str]]:
    facts = []
    certificate = answer.certificate
    for name, factor in (("speed-up", answer.speedup), ("over the source", answer.speedup_over_source)):
        if factor and not (name == "speed-up" and answer.status == "kept-original"):
            told_factor = "not measured closely" if factor.vague else units.ratio(factor.ratio)
            facts.append((name, f"{told_factor} ({units.interval(factor.low, factor.high)})"))
    if certificate:
        word = "approximately certified" if certificate.approximate else "certified"
        bound = f"{word} at most {unit.bound(certificate.upper_bound)} at {units.percent(certificate.confidence)}"
        facts.append(("drop", f"{unit.drop(certificate.drop)} seen, {bound}, n = {units.count(certificate.rows)}"))
    sizes = (answer.baseline.size_bytes if answer.baseline else None, answer.best.size_bytes if answer.best else None)
    if answer.status == "improved" and sizes[0] and sizes[1]:
        facts.append(("size", f"{units.size(sizes[0])} to {units.size(sizes[1])} ({units.ratio(sizes[0] / sizes[1])})"))
    outcomes = ", ".join(f"{units.count(number)} {name}" for name, number in answer.outcomes if number)
    if outcomes:
        facts.append(("trials", f"{outcomes}, in {units.duration(answer.wall_time_s)}"))
    return facts


def _nearest(answer: Answer, unit: ScoreUnit) -> list[str]:
    goal = Goal.of(answer.budget)
    told_points = []
    for point in answer.nearest:
        misses = f": {point.misses}" if point.misses else ""
        figures = f"{goal.shown(goal.value(point))}, score {unit.score(point.score)}"
        told_points.append(f"{point.recipe} on {point.backend_text} ({figures}){misses}")
    return told_points


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(_padded(index, cell, widths[index]) for index, cell in enumerate(row)) for row in rows]


def _padded(index: int, cell: str, width: int) -> str:
    return cell.ljust(width) if index < 2 else cell.rjust(width)
