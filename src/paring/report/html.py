"""The page: one file that needs no network, no font and no script from elsewhere."""

from __future__ import annotations

from paring.report import units
from paring.report.certificate import certificate_section
from paring.report.charts import scatter
from paring.report.document import Section, document
from paring.report.dots import chosen_trial, dots_of, legend
from paring.report.failures import failures_section
from paring.report.goal import Goal
from paring.report.layers import layers_section
from paring.report.machine import machine_section
from paring.report.markup import Markup, el, joined
from paring.report.opening import opening
from paring.report.originals import originals_section
from paring.report.plot import Plot
from paring.report.points import Point, TrialRow
from paring.report.records import Answer
from paring.report.sensitivity_section import sensitivity_section
from paring.report.story import told
from paring.report.tables import Column, point_columns, table, trials_table
from paring.report.units import ScoreUnit

WIDE, NARROW = (960.0, 460.0), (390.0, 420.0)
TAILS = ("p90", "p99")


def page(answer: Answer, trials: tuple[TrialRow, ...]) -> str:
    """The whole document. The same folder gives the same bytes."""
    unit, goal = answer.score_unit(trials), Goal.of(answer.budget)
    sections = _sections(answer, trials, goal, unit)
    title = f"{answer.task}: {told(answer, unit).lead}"
    return document(title, lambda contents: opening(answer, unit, contents), sections)


def _sections(answer: Answer, trials: tuple[TrialRow, ...], goal: Goal, unit: ScoreUnit) -> list[Section]:
    sections = []
    if answer.nearest:
        sections.append(Section("nearest", "Nearest", "The nearest points", _nearest(answer, unit)))
    chart = _chart(answer, trials, goal, unit)
    every = trials_table(trials, chosen_trial(answer, trials), goal, unit) if trials else _none()
    parts = sensitivity_section(trials, goal, answer.budget, unit)
    shown = (
        [Section("sensitivity", "Sensitivity", "What each layer gains and loses, taken alone", parts)] if parts else []
    )
    return [
        *sections,
        Section("search", "Search", f"Drop against {goal.name}", chart),
        Section("runtimes", "Runtimes", "The original on every runtime", originals_section(answer, unit)),
        Section("certificate", "Certificate", "The certificate", certificate_section(answer, unit)),
        Section("layers", "Layers", "What was changed, by layer", layers_section(answer)),
        *shown,
        Section("failures", "Failures", "What was tried and came to nothing", failures_section(answer, trials)),
        Section("trials", "Trials", _count(trials), every),
        Section("machine", "Machine", "The machine, and how to reproduce this", machine_section(answer)),
    ]


def _chart(answer: Answer, trials: tuple[TrialRow, ...], goal: Goal, unit: ScoreUnit) -> Markup:
    dots = dots_of(answer, trials, goal, unit)
    if not dots:
        return el("p", {"class": "empty"}, "No trial was measured, so there is nothing to draw.")
    drawn = [scatter(Plot.of(answer, dots, goal, unit, WIDE), "wide")]
    drawn.append(scatter(Plot.of(answer, dots, goal, unit, NARROW), "narrow"))
    shown = {dot.point.number for dot in dots}
    missing = sum(trial.outcome == "measured" and trial.point.number not in shown for trial in trials)
    hint = f"Drop in {unit.noun}, as seen in the search. The line joins the trials that no other beats."
    if goal.about_time and any(dot.chosen for dot in dots):
        hint += " Points stand beside the chosen one by speed-ups measured in turn, and say what the search saw."
    more = (
        f" {units.counted(missing, 'measured trial')} without these figures is in the table only."
        if missing > 0
        else ""
    )
    return el("figure", None, legend(dots), *drawn, el("figcaption", None, hint + more))


def _nearest(answer: Answer, unit: ScoreUnit) -> Markup:
    """Narrow enough for a page: what it misses takes the place of the tails of the latency."""
    columns: list[Column[Point]] = [
        Column("Recipe", lambda p: p.chain, style="recipe"),
        Column("Backend", lambda p: p.backend_text, style="recipe"),
        Column("What it misses", lambda p: p.misses or "–", style="misses"),
        *(column for column in point_columns(unit) if column.title not in TAILS),
    ]
    return table("The nearest points", columns, answer.nearest, lambda point: "", sortable=False)


def _count(trials: tuple[TrialRow, ...]) -> str:
    return f"All {units.counted(len(trials), 'trial')}" if trials else "Trials"


def _none() -> Markup:
    return joined([el("p", {"class": "empty"}, "Nothing was tried.")])
