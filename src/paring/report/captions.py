"""The chart's labels: what is named directly, in the order in which labels get their room."""

from __future__ import annotations

from itertools import pairwise

from paring.report.dots import Dot
from paring.report.labels import BOLD, Box, Label, Placed, Stroke, place
from paring.report.plot import Plot

FONT = 13.0


def labels_of(plot: Plot) -> tuple[Placed, ...]:
    """The labels that found room: the choice and the budget first, then the originals, then the frontier."""
    spots = [(plot.x(dot.value), plot.y(dot.drop)) for dot in plot.dots]
    dots = [Box(x - 6, y - 6, x + 6, y + 6) for x, y in spots]
    frontier = [Stroke(*start, *end) for start, end in pairwise(plot.frontier())]
    wished = [*_chosen_labels(plot), *_budget_labels(plot), *_original_labels(plot), *_frontier_labels(plot)]
    return place(wished, [*dots, *_lines(plot), *frontier], plot.frame.whole, FONT)


def _lines(plot: Plot) -> list[Box]:
    """The level and upright lines that would strike a label through."""
    box, budget, bound = plot.frame.plot, plot.answer.budget.max_drop, certified_at(plot)
    levels = [plot.y(0.0)] + ([plot.y(budget)] if budget is not None else [])
    lines = [Box(box.left, y - 1, box.right, y + 1) for y in levels]
    if bound:
        x, top, dot = bound
        lines.append(Box(x - 2, top, x + 2, plot.y(dot.drop)))
    return lines


def _chosen_labels(plot: Plot) -> list[Label]:
    labels, bound = [], certified_at(plot)
    for dot in plot.dots:
        if dot.chosen:
            labels.append(
                Label(f"chosen: {plot.goal.shown(dot.value)}", plot.x(dot.value), plot.y(dot.drop), "needed", BOLD)
            )
    if bound and plot.answer.certificate:
        labels.append(Label(f"certified: at most {plot.unit.bound(plot.answer.certificate.upper_bound)}", *bound[:2]))
    return labels


def _budget_labels(plot: Plot) -> list[Label]:
    box, budget, limit = plot.frame.plot, plot.answer.budget.max_drop, plot.goal.limit
    labels = []
    if budget is not None:
        text, height = f"budget: {plot.unit.drop(budget)}", plot.y(budget) - FONT * 0.85
        # Where the worst values stand: what is good and loses much comes near the line.
        end = box.left - 4 if plot.goal.higher_is_better else box.right + 4
        labels.append(Label(text, end, height, "needed", "limit"))
    if limit:
        low = box.bottom - 4 * FONT
        labels.append(Label(f"limit: {plot.goal.shown(limit)}", plot.x(limit), low, "needed", "limit"))
    return labels


def _original_labels(plot: Plot) -> list[Label]:
    labels: dict[str, Label] = {}
    for dot in sorted(plot.dots, key=lambda dot: plot.goal.rank(dot.point)):
        backend = dot.point.backend
        if dot.trial.stage == "baseline" and backend not in labels and not dot.chosen:
            labels[backend] = Label(f"original, {backend}", plot.x(dot.value), plot.y(dot.drop))
    return list(labels.values())


def _frontier_labels(plot: Plot) -> list[Label]:
    """The fastest of the frontier, each way of getting there named once."""
    named = {_techniques(dot.point.recipe) for dot in plot.dots if dot.chosen or dot.trial.stage == "baseline"}
    labels = []
    for dot in sorted(plot.dots, key=lambda dot: plot.goal.rank(dot.point)):
        text = _techniques(dot.point.recipe)
        if dot.trial.frontier and text not in named and not plot.beyond(dot):
            labels.append(Label(text, plot.x(dot.value), plot.y(dot.drop), "near"))
            named.add(text)
    return labels[:4]


def _techniques(recipe: str) -> str:
    """A recipe without its settings: what a label has room for."""
    return " → ".join(step.partition("(")[0].strip() for step in recipe.split(" -> "))


def certified_at(plot: Plot) -> tuple[float, float, Dot] | None:
    """Where the certified bound stands above the chosen dot; None where nothing was certified."""
    certificate, chosen = plot.answer.certificate, next((dot for dot in plot.dots if dot.chosen), None)
    if certificate is None or certificate.upper_bound is None or chosen is None or plot.beyond(chosen):
        return None
    return plot.x(chosen.value), plot.y(certificate.upper_bound), chosen
