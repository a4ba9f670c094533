"""Trials as the dots of the chart: where each stands, how it looks, and what it says when pointed at."""

from __future__ import annotations

from dataclasses import dataclass, replace

from paring.report import units
from paring.report.goal import Goal
from paring.report.markup import Markup, el
from paring.report.points import Point, TrialRow
from paring.report.records import Answer
from paring.report.units import ScoreUnit

BACKENDS = ("onnxruntime", "openvino", "torch", "tensorrt", "native")
"""Backends with a colour of their own; others share what is left."""

COLOURS = 7
SHAPES = {
    "baseline": "M-5-5H5V5H-5Z",
    "post-training": "M-5 0A5 5 0 1 0 5 0A5 5 0 1 0-5 0Z",
    "training": "M0-6 6 5H-6Z",
}
OTHER_SHAPE = SHAPES["post-training"]


@dataclass(frozen=True)
class Dot:
    """A trial that has both a drop and a value of the goal. `value` and `drop` are in the data's own units."""

    trial: TrialRow
    value: float
    drop: float
    chosen: bool
    tip: str

    @property
    def point(self) -> Point:
        """What was measured."""
        return self.trial.point


def dots_of(answer: Answer, trials: tuple[TrialRow, ...], goal: Goal, unit: ScoreUnit) -> tuple[Dot, ...]:
    """Every trial that can be drawn, the chosen one last so that nothing hides it.

    The chosen one stands where it was measured at length, as in the answer, and the others beside it: originals as the
    answer places them.
    """
    rows = trials if any(trial.stage == "baseline" for trial in trials) else (*_originals(answer), *trials)
    chosen = chosen_trial(answer, rows)
    placed: dict[int | None, float | None] = {
        point.number: goal.value(point) for point in answer.baselines if point.number is not None
    }
    dots = []
    for row in rows:
        trial = replace(row, point=answer.best) if row is chosen and answer.best else row
        value, drop = goal.value(trial.point), drop_of(trial, answer)
        if chosen and answer.best and row is not chosen:
            beside = goal.beside(row.point, chosen.point, goal.value(answer.best))
            value = placed.get(row.point.number, beside)
        if value is not None and value > 0 and drop is not None:
            dots.append(Dot(trial, value, drop, row is chosen, tip(trial, drop, unit)))
    return tuple(sorted(dots, key=lambda dot: (dot.chosen, dot.trial.frontier, dot.trial.outcome == "measured")))


def drop_of(trial: TrialRow, answer: Answer) -> float | None:
    """The drop as recorded; 0 for the original, which is what drops are counted from."""
    if trial.drop is not None or trial.stage != "baseline":
        return trial.drop
    before, score = answer.baseline.score if answer.baseline else None, trial.point.score
    return 0.0 if before is None or score is None else before - score


def chosen_trial(answer: Answer, trials: tuple[TrialRow, ...]) -> TrialRow | None:
    """The trial that became the answer: by its number, else the last with the same recipe and backend."""
    best = answer.best
    if best is None or answer.status == "infeasible":
        return None
    same = [t for t in trials if (t.point.recipe, t.point.backend_text) == (best.recipe, best.backend_text)]
    numbered = [t for t in same if best.number is not None and t.point.number == best.number]
    return next(reversed(numbered or same), None)


def tip(trial: TrialRow, drop: float, unit: ScoreUnit) -> str:
    """What a dot says, in three lines."""
    point = trial.point
    number = "" if point.number is None else f"#{point.number} "
    rows = f" on {units.counted(trial.rows, 'row')}" if trial.rows else ""
    figures = [units.latency(point.p50_ms), f"drop {unit.drop(drop)}{rows}"]
    if point.speedup:
        figures.append(f"{units.ratio(point.speedup.ratio)} ({units.interval(point.speedup.low, point.speedup.high)})")
    if point.size_bytes is not None:
        figures.append(units.size(point.size_bytes))
    ending = "" if trial.outcome == "measured" else f", {trial.outcome}"
    return f"{number}{point.chain}\n{point.backend_text}, {trial.stage}{ending}\n{' · '.join(figures)}"


def colour(backend: str) -> int:
    """Which of the page's colours a backend has: 1..COLOURS, the same in every report."""
    if backend in BACKENDS:
        return BACKENDS.index(backend) + 1
    return len(BACKENDS) + 1 + sum(backend.encode()) % (COLOURS - len(BACKENDS))


def legend(dots: tuple[Dot, ...]) -> Markup:
    """Which colour is which backend, and which shape which stage; only what the chart shows."""
    backends = sorted({dot.point.backend for dot in dots}, key=lambda name: (colour(name), name))
    stages = [stage for stage in SHAPES if any(dot.trial.stage == stage for dot in dots)]
    keys = [_key(SHAPES["post-training"], f"c{colour(name)}", name) for name in backends]
    keys += [_key(SHAPES[stage], "c0", "original" if stage == "baseline" else stage) for stage in stages]
    if any(dot.trial.outcome == "stopped-early" for dot in dots):
        keys.append(_key(OTHER_SHAPE, "c0 hollow", "stopped early"))
    return el("ul", {"class": "legend"}, *keys)


def _key(shape: str, style: str, name: str) -> Markup:
    mark = el("path", {"d": shape, "class": f"mark {style}"})
    picture = el("svg", {"viewBox": "-8 -8 16 16", "width": 14, "height": 14, "aria-hidden": "true"}, mark)
    return el("li", None, picture, name)


def _originals(answer: Answer) -> tuple[TrialRow, ...]:
    points = answer.baselines or ((answer.baseline,) if answer.baseline else ())
    return tuple(TrialRow(point, "baseline", "measured", "", None, 0, None, False) for point in points)
