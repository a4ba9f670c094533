"""Where everything stands in the chart of the search: axes fitted to the trials, values to pixels."""

from __future__ import annotations

from dataclasses import dataclass

from paring.report.axis import Axis
from paring.report.dots import Dot
from paring.report.goal import Goal
from paring.report.labels import Box
from paring.report.records import Answer
from paring.report.units import ScoreUnit


@dataclass(frozen=True)
class Frame:
    """The chart's size and the plot's place in it, in pixels. `strip` is the room above for drops beyond the axis."""

    width: float
    height: float
    strip: float
    left: float = 52.0
    right: float = 18.0
    top: float = 24.0
    bottom: float = 46.0

    @property
    def plot(self) -> Box:
        """Where the axes span."""
        return Box(self.left, self.top + self.strip, self.width - self.right, self.height - self.bottom)

    @property
    def whole(self) -> Box:
        """Where marks and labels may stand: the plot and the strip above it."""
        return Box(self.left, self.top, self.width - self.right + 10, self.height - self.bottom)


@dataclass(frozen=True)
class Plot:
    """All that one drawing needs; `x` and `y` turn values into pixels."""

    answer: Answer
    dots: tuple[Dot, ...]
    goal: Goal
    unit: ScoreUnit
    frame: Frame
    across: Axis
    up: Axis

    @classmethod
    def of(cls, answer: Answer, dots: tuple[Dot, ...], goal: Goal, unit: ScoreUnit, size: tuple[float, float]) -> Plot:
        """Fit the axes to the dots. The drop's axis ends where it would squeeze the part that matters."""
        values = [dot.value for dot in dots] + ([goal.limit] if goal.limit else [])
        drops = [unit.value(dot.drop) for dot in dots]
        ceiling = _ceiling(answer, unit)
        shown = [drop for drop in drops if drop <= ceiling]
        marks = [unit.value(mark) for mark in _levels(answer) if mark is not None]
        up = Axis.over([0.0, *shown, *marks], margin=0.1)
        if up.low == 0:
            up = Axis(-0.08 * up.high, up.high)
        strip = 34.0 if len(shown) < len(drops) else 0.0
        return cls(answer, dots, goal, unit, Frame(*size, strip=strip), Axis.over(values, ratio=True), up)

    def x(self, value: float) -> float:
        """Pixels from the left; better values are on the left, or on the right where higher is better."""
        box = self.frame.plot
        return box.left + self.across.at(value) * (box.right - box.left)

    def y(self, drop: float) -> float:
        """Pixels from the top; what lies beyond the axis stands in the strip above it."""
        box, level = self.frame.plot, self.up.at(self.unit.value(drop))
        return self.frame.top + 12 if level > 1 else box.bottom - level * (box.bottom - box.top)

    def frontier(self) -> list[tuple[float, float]]:
        """The pixels that the frontier's line joins: of its dots, those that no other one beats in this chart."""
        sign = -1 if self.goal.higher_is_better else 1
        flagged = sorted((dot for dot in self.dots if dot.trial.frontier), key=lambda dot: (sign * dot.value, dot.drop))
        joined, least = [], float("inf")
        for dot in flagged:
            if dot.drop < least:
                joined.append((self.x(dot.value), self.y(dot.drop)))
                least = dot.drop
        return joined

    def beyond(self, dot: Dot) -> bool:
        """Whether the dot's drop lies beyond the axis."""
        return self.up.at(self.unit.value(dot.drop)) > 1


def _ceiling(answer: Answer, unit: ScoreUnit) -> float:
    budget = unit.value(answer.budget.max_drop or 0.0)
    bound = answer.certificate.upper_bound if answer.certificate else None
    least = 1.0 if unit.fraction else 0.0
    return max(3 * budget, 1.3 * unit.value(bound or 0.0), least) or float("inf")


def _levels(answer: Answer) -> tuple[float | None, ...]:
    certificate = answer.certificate
    return (answer.budget.max_drop, certificate.upper_bound if certificate else None)
