"""A drawing of accuracy against speed-up: a line for each way of pruning, its name at its end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from paring.report.axis import Axis
from paring.report.markup import Markup, el

WIDTH, HEIGHT = 800.0, 420.0
LEFT, RIGHT, TOP, BOTTOM = 56.0, 270.0, 20.0, 48.0
LABEL_HEIGHT = 15.0
COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#8a6d00",
    "#56b4e9",
    "#555555",
    "#000000",
    "#7b3294",
    "#a50026",
    "#4d9221",
    "#e08214",
)
STYLE = "text{font:12px system-ui,sans-serif;fill:#222}.grid{stroke:#ddd}.line{fill:none;stroke-width:2}"


@dataclass(frozen=True)
class Line:
    """Points (speed-up, percent right) in the order of their speed-ups; one point is drawn as a larger dot."""

    name: str
    points: tuple[tuple[float, float], ...]


def drawn(lines: Sequence[Line], across: str, along: str) -> str:
    """The SVG file; `across` and `along` name the axes."""
    xs = Axis.over([x for line in lines for x, _ in line.points])
    ys = Axis.over([y for line in lines for _, y in line.points])

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            LEFT + xs.at(x) * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - ys.at(y) * (HEIGHT - TOP - BOTTOM),
        )

    placed = [Line(line.name, tuple(place(*point) for point in line.points)) for line in lines]
    floor, ceiling = HEIGHT - BOTTOM, TOP
    grid = [
        *(_tick(place(x, ys.low)[0], floor, ceiling, f"{x:g}x") for x in xs.ticks()),
        *(_level(place(xs.low, y)[1], f"{y:g}") for y in ys.ticks()),
        el("text", {"x": (LEFT + WIDTH - RIGHT) / 2, "y": HEIGHT - 10, "text-anchor": "middle"}, across),
        el("text", {"x": 14.0, "y": TOP - 6}, along),
    ]
    head = {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {WIDTH:g} {HEIGHT:g}", "role": "img"}
    ground = el("rect", {"width": WIDTH, "height": HEIGHT, "fill": "white"})
    return el("svg", head, el("style", None, Markup(STYLE)), ground, *grid, *_shapes(placed)) + "\n"


def _tick(x: float, floor: float, ceiling: float, told: str) -> Markup:
    line = el("line", {"class": "grid", "x1": x, "x2": x, "y1": floor, "y2": ceiling})
    return Markup(line + el("text", {"x": x, "y": floor + 16, "text-anchor": "middle"}, told))


def _level(y: float, told: str) -> Markup:
    line = el("line", {"class": "grid", "x1": LEFT, "x2": WIDTH - RIGHT, "y1": y, "y2": y})
    return Markup(line + el("text", {"x": LEFT - 6, "y": y + 4, "text-anchor": "end"}, told))


def _shapes(lines: Sequence[Line]) -> Iterator[Markup]:
    """Each line with its dots, joined to its name by a thin one: names stand under one another, none on another."""
    below = TOP
    for line in sorted(lines, key=lambda line: line.points[-1][1]):
        colour = COLOURS[lines.index(line) % len(COLOURS)]
        way = " ".join(f"{x:.1f},{y:.1f}" for x, y in line.points)
        yield el("polyline", {"class": "line", "points": way, "stroke": colour})
        radius = 3.5 if len(line.points) > 1 else 6.0
        for x, y in line.points:
            yield el("circle", {"cx": x, "cy": y, "r": radius, "fill": colour})
        x, y = line.points[-1]
        below = max(y, below + LABEL_HEIGHT)
        name_x = WIDTH - RIGHT + 16
        yield el("line", {"x1": x, "y1": y, "x2": name_x - 4, "y2": below, "stroke": colour, "stroke-width": 0.6})
        yield el("text", {"x": name_x, "y": below + 4, "style": f"fill:{colour}"}, line.name)
