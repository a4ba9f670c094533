"""The sensitivities in words, as a chart and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from paring.report import units
from paring.report.axis import Arcsinh
from paring.report.failures import shortened
from paring.report.goal import Goal
from paring.report.markup import Markup, el, joined
from paring.report.points import TrialRow
from paring.report.records import Limits
from paring.report.sensitivity import Sensitivity, Taken, Verdict, sensitivities
from paring.report.sensitivity_chart import rows_chart, saved_told, share_legend
from paring.report.sensitivity_plot import Sheet
from paring.report.tables import Column, table
from paring.report.units import ScoreUnit

WIDTHS = (("wide", 960.0), ("narrow", 390.0))
SHOWN = 5
"""So many layers are named in a row."""

TOO_FEW = "Too few layers were seen to save something to tell which of them cost least for it."


def sensitivity_section(trials: Sequence[TrialRow], goal: Goal, budget: Limits, unit: ScoreUnit) -> Markup | None:
    """A text, a chart and a table for each recipe that parts were tried in front of; None where no part was tried."""
    found = sensitivities(trials, goal)
    if not found:
        return None
    return el("div", None, *(part for each in found for part in _one(each, goal, budget.max_drop or 0.0, unit)))


def _one(sensitivity: Sensitivity, goal: Goal, allowed: float, unit: ScoreUnit) -> list[Markup]:
    verdict = Verdict.of(sensitivity, allowed)
    sheets = [(kind, Sheet.of(sensitivity, unit, allowed, width)) for kind, width in WIDTHS]
    drawn = [rows_chart(sheet, verdict, goal, kind) for kind, sheet in sheets]
    caption = el("figcaption", None, " ".join(_caption(sensitivity, sheets[0][1], goal)))
    return [
        el("p", None, _lead(sensitivity, goal)),
        _verdict(verdict, goal, unit),
        el("figure", None, share_legend(sensitivity), *drawn, caption),
        _table(sensitivity, goal, unit),
    ]


def _lead(sensitivity: Sensitivity, goal: Goal) -> str:
    tail, layers = sensitivity.tail.point, sum(map(len, sensitivity.layers.values()))
    parts = len(sensitivity.taken)
    places = f", at {units.counted(layers, 'place')}," if layers < parts else ""
    return (
        f"Each of {units.counted(parts, 'part')} of the network{places} was taken away alone, untrained, in front of "
        f"{tail.chain} on {tail.backend_text}. What it saves of the {goal.saved}, and adds to the drop on the rows "
        "that the search may look at, is counted from that recipe without it."
    )


def _verdict(verdict: Verdict, goal: Goal, unit: ScoreUnit) -> Markup:
    items = [
        _item("cheap", "Cost least for what they save", [_told(each, goal, unit) for each in verdict.cheapest]),
        _item("dear", "Best left alone", [_told(each, goal, unit) for each in verdict.dearest]),
        _item("", f"Save no {goal.saved}", [_name(layer) for layer in verdict.idle[:SHOWN]], verdict.idle),
    ]
    few = [] if verdict.cheapest else [el("li", None, TOO_FEW)]
    return el("ul", {"class": "verdict"}, *few, *filter(None, items))


def _item(style: str, title: str, told: Sequence[Markup], of: Sequence[str] = ()) -> Markup:
    """A line of the verdict, empty where nobody is in it; `of` are all where only some are told."""
    if not told:
        return Markup()
    more = [Markup(f" and {units.count(len(of) - len(told))} more")] if len(of) > len(told) else []
    listed = [part for each in told for part in (", ", each)][1:]
    return el("li", {"class": style or None}, el("b", None, f"{title}: "), *listed, *more, ".")


def _told(taken: Taken, goal: Goal, unit: ScoreUnit) -> Markup:
    saved = taken.gain.ratio if taken.gain else 0.0
    loss = unit.drop(taken.loss) if taken.loss and taken.loss > 0 else "nothing"
    whole = "all" if taken.share == 1 else units.percent(round(taken.share, 3))
    figures = f" ({whole} of it saves {units.percent(round(saved, 3))} of the {goal.saved} and loses {loss})"
    return joined([_name(taken.layer), figures])


def _name(layer: str) -> Markup:
    return el("code", {"class": "recipe"}, units.layer(layer))


def _caption(sensitivity: Sensitivity, sheet: Sheet, goal: Goal) -> list[str]:
    told = []
    if isinstance(sheet.losses, Arcsinh):
        told.append(f"Drops are drawn evenly up to about {sheet.unit.drop(sheet.allowed)}, and by ratio beyond.")
    gains = [each for each in sensitivity.taken if each.gain]
    if goal.about_time and gains:
        error = median((each.gain.high - each.gain.low) / 2 for each in gains if each.gain)
        sure = f"{sum(each.surely_gains for each in gains)} of {units.counted(len(gains), 'part')} save time for sure"
        known = f"what is saved is known to about ±{100 * error:.1f}{units.NARROW}%"
        told.append(f"Times are of quick comparisons: {known}, and {sure}.")
    missing = sum(each.gain is None or each.loss is None for each in sensitivity.taken)
    if missing:
        told.append(f"Without all figures: {units.counted(missing, 'part')}; the table says why.")
    return told


def _table(sensitivity: Sensitivity, goal: Goal, unit: ScoreUnit) -> Markup:
    columns: list[Column[Taken]] = [
        Column("Layer", lambda t: units.layer(t.layer), style="recipe"),
        Column("Technique", lambda t: t.technique, style="word"),
        Column("Taken", lambda t: units.percent(t.share), lambda t: t.share),
        Column(f"{goal.saved.capitalize()} saved", saved_told, lambda t: t.gain.ratio if t.gain else None),
        Column("Drop added", lambda t: unit.bare(t.loss), lambda t: t.loss),
        Column("Rows", lambda t: units.count(t.trial.rows) if t.trial.rows else units.NONE, lambda t: t.trial.rows),
        Column("#", lambda t: str(t.trial.point.number or 0), lambda t: t.trial.point.number),
        Column("Outcome", _outcome),
    ]
    summary = el("summary", None, f"All {units.counted(len(sensitivity.taken), 'part')}, one by one")
    rows = table("Sensitivity by layer", columns, sensitivity.taken, lambda taken: "", sortable=True)
    return el("details", None, summary, rows)


def _outcome(taken: Taken) -> str:
    reason = taken.trial.reason
    return f"{taken.trial.outcome}: {shortened(reason)}" if reason else taken.trial.outcome
