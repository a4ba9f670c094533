"""The chart of the sensitivities: for each layer what a share of it gains, and what it loses, as inline SVG."""

from __future__ import annotations

from collections.abc import Callable

from paring.report import units
from paring.report.axis import Arcsinh, Axis
from paring.report.goal import Goal
from paring.report.labels import Box
from paring.report.markup import Markup, el, joined
from paring.report.sensitivity import Sensitivity, Taken, Verdict
from paring.report.sensitivity_plot import GLYPH, HEADING, Line, Sheet
from paring.report.units import ScoreUnit, signed


def rows_chart(sheet: Sheet, verdict: Verdict, goal: Goal, kind: str) -> Markup:
    """The drawing. `kind` is a class: the page has one for wide and one for narrow screens and shows what fits."""
    name = "What each layer gains and loses, taken alone; the same figures are in the table below"
    size = f"0 0 {sheet.width:g} {sheet.height:g}"
    attributes = {"viewBox": size, "class": f"chart rows {kind}", "role": "group", "aria-label": name}
    drawn = [
        *_budget(sheet),
        *_panel(sheet.gain_panel, sheet.gains, sheet.gained, f"{goal.saved} saved, %"),
        *_panel(sheet.loss_panel, sheet.losses, sheet.lost, f"drop added, {sheet.unit.noun}"),
    ]
    for line in sheet.lines:
        drawn += _row(sheet, line, verdict, goal) if line.taken else [_heading(line)]
    return el("svg", attributes, *drawn)


def _budget(sheet: Sheet) -> list[Markup]:
    """What the budget allows in all, as a measure of what a single layer loses."""
    box, unit = sheet.loss_panel, sheet.unit
    if not sheet.allowed > 0:
        return []
    x = sheet.lost(unit.value(sheet.allowed))
    told = f"budget: {unit.drop(sheet.allowed)}"
    fits = x + GLYPH * len(told) < box.right
    end, anchor = (x, "start") if fits else (box.right, "end")
    width, height = box.right - x, box.bottom - box.top
    return [
        el("rect", {"x": x, "y": box.top, "width": width, "height": height, "class": "outside"}),
        _line(x, box.top, x, box.bottom + 4, "budget"),
        _text(told, (end, box.bottom + 34), anchor, "limit"),
    ]


def _panel(box: Box, axis: Axis | Arcsinh, place: Callable[[float], float], title: str) -> list[Markup]:
    drawn = [_text(title, (place(0.0), 14), "start", "axis")]
    for tick in axis.ticks(max(3, round((box.right - box.left) / 60))):
        x = place(tick)
        drawn.append(_line(x, box.top, x, box.bottom, "zero" if tick == 0 else "grid"))
        for y in (box.top - 8, box.bottom + 16):
            drawn.append(_text(signed(f"{tick:g}"), (x, y), "middle", "tick-label"))
    return drawn


def _heading(line: Line) -> Markup:
    return _text(line.name, (0, line.y + HEADING * 0.2), "start", "technique")


def _row(sheet: Sheet, line: Line, verdict: Verdict, goal: Goal) -> list[Markup]:
    label = joined([el("title", None, line.name), line.label])
    drawn = [_text(label, (sheet.names - 10, line.y + 4), "end", f"layer {_style(line, verdict)}".rstrip())]
    gains = [(each, sheet.gained(100 * each.gain.ratio)) for each in line.taken if each.gain]
    losses = [(each, sheet.lost(sheet.unit.value(each.loss))) for each in line.taken if each.loss is not None]
    for style, places, zero in (("gain", gains, sheet.gained(0.0)), ("loss", losses, sheet.lost(0.0))):
        if places:
            ends = [zero, *(x for _, x in places)]
            drawn.append(_line(min(ends), line.y, max(ends), line.y, f"stem {style}"))
        drawn += [_dot(sheet, each, (x, line.y), style, goal) for each, x in places]
    if not gains and not losses:
        said = f"not measured: {line.taken[0].trial.outcome}"
        drawn.append(_text(said, (sheet.gained(0.0) + 6, line.y + 4), "start", "tick-label"))
    return drawn


def _style(line: Line, verdict: Verdict) -> str:
    if any(each in line.taken for each in verdict.cheapest):
        return "cheap"
    return "dear" if any(each in line.taken for each in verdict.dearest) else ""


def _dot(sheet: Sheet, taken: Taken, at: tuple[float, float], style: str, goal: Goal) -> Markup:
    told = tip(taken, goal, sheet.unit)
    hollow = " hollow" if style == "loss" and taken.early else ""
    shape = el("path", {"d": circle(sheet.radius(taken.share)), "class": f"mark {style}{hollow}"})
    place = f"translate({at[0]:.1f} {at[1]:.1f})"
    group = {"class": "dot", "transform": place, "role": "img", "aria-label": told.replace("\n", "; ")}
    return el("g", group, el("title", None, told), shape)


def tip(taken: Taken, goal: Goal, unit: ScoreUnit) -> str:
    """What a dot says, in three lines."""
    number = "" if taken.trial.point.number is None else f"#{taken.trial.point.number}, "
    rows = f" on {units.counted(taken.trial.rows, 'row')}" if taken.trial.rows else ""
    return (
        f"{taken.layer}, {units.percent(taken.share)} taken\n"
        f"{number}{taken.technique}, {taken.trial.outcome}\n"
        f"{goal.saved} saved {saved_told(taken)} · drop added {unit.drop(taken.loss)}{rows}"
    )


def saved_told(taken: Taken) -> str:
    """What it saves, with its interval where it has one: 12.1 % (9.8–14.3)."""
    if taken.gain is None:
        return units.NONE
    told, *ends = (
        f"{round(100 * value, 1) + 0.0:.1f}" for value in (taken.gain.ratio, taken.gain.low, taken.gain.high)
    )
    interval = "" if taken.gain.low == taken.gain.high else f" ({ends[0]} to {ends[1]})"
    return signed(f"{told}{units.NARROW}%{interval}")


def circle(radius: float) -> str:
    """The path of a circle about the origin."""
    r = f"{radius:.2f}"
    return f"M-{r} 0A{r} {r} 0 1 0 {r} 0A{r} {r} 0 1 0-{r} 0Z"


def share_legend(sensitivity: Sensitivity) -> Markup:
    """How large a dot is for which share, of those that are there at most four; and which are hollow."""
    shares = sorted({round(each.share, 2) for each in sensitivity.taken})
    shown = shares if len(shares) <= len(QUARTERS) else [each for each in QUARTERS if each <= max(shares) + 0.1]
    keys = [_key(circle(7 * share**0.5), "c0", f"{units.percent(share)} taken") for share in shown]
    if any(each.early and each.loss is not None for each in sensitivity.taken):
        keys.append(_key(circle(5), "loss hollow", "stopped early: on fewer rows"))
    return el("ul", {"class": "legend"}, *keys)


QUARTERS = (0.25, 0.5, 0.75, 1.0)


def _key(shape: str, style: str, name: str) -> Markup:
    mark = el("path", {"d": shape, "class": f"mark {style}"})
    picture = el("svg", {"viewBox": "-8 -8 16 16", "width": 16, "height": 16, "aria-hidden": "true"}, mark)
    return el("li", None, picture, name)


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> Markup:
    return el("line", {"x1": x1, "y1": y1, "x2": x2, "y2": y2, "class": style})


def _text(text: str, at: tuple[float, float], anchor: str, style: str) -> Markup:
    return el("text", {"x": at[0], "y": at[1], "text-anchor": anchor, "class": style}, text)
