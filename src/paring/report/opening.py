"""The top of the page: the answer in a sentence, what was done, and the figures that matter."""

from __future__ import annotations

from paring.report import units
from paring.report.markup import Markup, el
from paring.report.records import Answer
from paring.report.story import budget_told, told
from paring.report.units import ScoreUnit


def opening(answer: Answer, unit: ScoreUnit, contents: Markup) -> Markup:
    """The header of the page."""
    story = told(answer, unit)
    head = el("p", {"class": "task"}, el("b", None, "paring"), f" report on {answer.task}")
    title = el("h1", None, el("em", None, story.lead), story.rest)
    details = el("p", {"class": "details"}, " ".join(story.details)) if story.details else ""
    budget = el("p", {"class": "budget-told"}, el("b", None, "Budget: "), budget_told(answer, unit))
    return el(
        "header",
        {"class": answer.status},
        head,
        title,
        details,
        _recipe(answer),
        _figures(answer, unit),
        budget,
        contents,
    )


def _recipe(answer: Answer) -> Markup:
    if answer.best is None or answer.status != "improved":
        return Markup()
    steps = [el("li", {"class": "recipe"}, el("code", None, step.strip())) for step in answer.best.recipe.split(" -> ")]
    where = el("li", {"class": "recipe runtime"}, "on ", el("b", None, answer.best.backend_text))
    return el("ol", {"class": "chain", "aria-label": "The recipe"}, *steps, where)


def _figures(answer: Answer, unit: ScoreUnit) -> Markup:
    figures = [_figure(*told_figure) for told_figure in (*_speed_figures(answer), *_score_figures(answer, unit))]
    return el("dl", {"class": "figures"}, *figures) if figures else Markup()


def _speed_figures(answer: Answer) -> list[tuple[str, str, str]]:
    best, before = answer.best or answer.baseline, answer.baseline
    if best is None or before is None or answer.status == "infeasible":
        return []
    kept = answer.status == "kept-original"
    figures = [("Latency p50", units.latency(best.p50_ms), "" if kept else f"was {units.latency(before.p50_ms)}")]
    if best.throughput_per_s is not None:
        was = "" if kept else f"was {units.throughput(before.throughput_per_s)}"
        figures.append(("Throughput", units.throughput(best.throughput_per_s), was))
    if best.size_bytes is not None:
        figures.append(("On disk", units.size(best.size_bytes), "" if kept else f"was {units.size(before.size_bytes)}"))
    if best.peak_memory_bytes is not None:
        was = "" if kept else f"was {units.size(before.peak_memory_bytes)}"
        figures.append(("Peak memory", units.size(best.peak_memory_bytes), was))
    return figures


def _score_figures(answer: Answer, unit: ScoreUnit) -> list[tuple[str, str, str]]:
    best, before = answer.best, answer.baseline
    if best is None or best.score is None or answer.status == "infeasible":
        return []
    was = f"was {unit.score(before.score)}" if before and answer.status == "improved" else ""
    return [("Score", unit.score(best.score), was)]


def _figure(name: str, value: str, note: str) -> Markup:
    return el("div", None, el("dt", None, name), el("dd", None, el("b", None, value), el("small", None, note)))
