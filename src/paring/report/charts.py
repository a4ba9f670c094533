"""The chart of the search: the drop of every trial against what the run made best, as inline SVG."""

from __future__ import annotations

from paring.report.captions import certified_at, labels_of
from paring.report.dots import OTHER_SHAPE, SHAPES, Dot, colour
from paring.report.labels import Placed
from paring.report.markup import Markup, el
from paring.report.plot import Plot
from paring.report.units import signed


def scatter(plot: Plot, kind: str) -> Markup:
    """The drawing. `kind` is a class: the page has one for wide and one for narrow screens and shows what fits."""
    size = f"0 0 {plot.frame.width:g} {plot.frame.height:g}"
    name = f"Drop of {len(plot.dots)} trials against {plot.goal.axis}; the same figures are in the table of trials"
    attributes = {"viewBox": size, "class": f"chart {kind}", "role": "group", "aria-label": name}
    labels = labels_of(plot)
    texts = [el("text", _text(spot), spot.label.text) for spot in labels]
    leaders = [_line(spot.label.x, spot.label.y, *spot.end(), "leader") for spot in labels if spot.far]
    layers = [
        *_limits(plot),
        *_drops(plot),
        *_values(plot),
        *_frontier(plot),
        *_whisker(plot),
        *leaders,
        *(_mark(plot, dot) for dot in plot.dots),
    ]
    return el("svg", attributes, *layers, *texts)


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> Markup:
    return el("line", {"x1": x1, "y1": y1, "x2": x2, "y2": y2, "class": style})


def _limits(plot: Plot) -> list[Markup]:
    box, top, budget = plot.frame.plot, plot.frame.top, plot.answer.budget.max_drop
    drawn = []
    if budget is not None:
        y, width = plot.y(budget), box.right - box.left
        drawn.append(el("rect", {"x": box.left, "y": top, "width": width, "height": y - top, "class": "outside"}))
        drawn.append(_line(box.left, y, box.right, y, "budget"))
    if plot.goal.limit:
        x = plot.x(plot.goal.limit)
        drawn.append(_line(x, top, x, box.bottom, "budget"))
    return drawn


def _drops(plot: Plot) -> list[Markup]:
    box, top = plot.frame.plot, plot.frame.top
    drawn = [_tick(f"drop, {plot.unit.noun}", box.left, top - 9, "start")]
    for tick in plot.up.ticks(5):
        y = plot.y(tick / plot.unit.value(1.0))
        drawn.append(_line(box.left, y, box.right, y, "zero" if tick == 0 else "grid"))
        drawn.append(_tick(signed(f"{tick:g}"), box.left - 8, y + 4, "end"))
    if plot.frame.strip:
        drawn.append(_line(box.left, box.top, box.right, box.top, "break"))
        drawn.append(_tick(f"> {plot.up.high:.2g}", box.left - 8, top + 16, "end"))
    return drawn


def _values(plot: Plot) -> list[Markup]:
    box, drawn = plot.frame.plot, []
    for tick in plot.across.ticks(round((box.right - box.left) / 110)):
        x = plot.x(tick)
        drawn.append(_line(x, box.bottom, x, box.bottom + 5, "tick"))
        drawn.append(_tick(_short(plot, tick), x, box.bottom + 19, "middle"))
    better = "right is better" if plot.goal.higher_is_better else "left is better"
    drawn.append(_tick(f"{plot.goal.axis} ({better})", (box.left + box.right) / 2, box.bottom + 39, "middle"))
    return drawn


def _short(plot: Plot, value: float) -> str:
    """A round value as a tick: 0.200 ms is 0.2 ms here."""
    number, _, name = plot.goal.shown(value).partition(" ")
    return f"{number.rstrip('0').rstrip('.') if '.' in number else number} {name}"


def _tick(text: str, x: float, y: float, anchor: str) -> Markup:
    return el("text", {"x": x, "y": y, "text-anchor": anchor, "class": "tick-label"}, text)


def _frontier(plot: Plot) -> list[Markup]:
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in plot.frontier())
    return [el("path", {"d": f"M{path}", "class": "frontier"})] if "L" in path else []


def _whisker(plot: Plot) -> list[Markup]:
    bound = certified_at(plot)
    if bound is None:
        return []
    x, top, dot = bound
    foot = plot.y(dot.drop)
    return [_line(x, foot, x, top, "whisker"), _line(x - 6, top, x + 6, top, "whisker")]


def _mark(plot: Plot, dot: Dot) -> Markup:
    styles = ["mark", f"c{colour(dot.point.backend)}"]
    styles += ["hollow"] if dot.trial.outcome == "stopped-early" else []
    styles += ["on-frontier"] if dot.trial.frontier else []
    place_at = f"translate({plot.x(dot.value):.1f} {plot.y(dot.drop):.1f})"
    ring = [el("circle", {"r": 10, "class": "ring"})] if dot.chosen else []
    shape = el("path", {"d": SHAPES.get(dot.trial.stage, OTHER_SHAPE), "class": " ".join(styles)})
    group = {"class": "dot", "transform": place_at, "role": "img", "aria-label": dot.tip.replace("\n", "; ")}
    return el("g", group, el("title", None, dot.tip), *ring, shape)


def _text(spot: Placed) -> dict[str, str | float | bool | None]:
    return {"x": spot.x, "y": spot.y, "text-anchor": spot.anchor, "class": spot.label.kind}
