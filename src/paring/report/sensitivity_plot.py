"""Where everything stands in the chart of the sensitivities: a line for each layer, two panels beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from paring.report.axis import Arcsinh, Axis
from paring.report.labels import Box
from paring.report.sensitivity import Sensitivity, Taken
from paring.report.units import ScoreUnit

HEADING, TOP, BOTTOM, GAP = 28.0, 44.0, 44.0, 30.0
ROW, DENSE_ROW, DENSE_FROM = 21.0, 16.0, 32
GLYPH = 7.25
"""Pixels of a letter of a layer's name, in a face where all are equally wide."""

MARGIN = 14.0
"""Beside the names."""

NAMES_SHARE = 0.3
"""Of the width, at most, for the names of layers."""

BEND_FROM = 8.0
"""Losses so many times what is allowed would squeeze those that matter on an even axis."""


@dataclass(frozen=True)
class Line:
    """One line of the chart: a layer with its parts, or the heading of a technique, without any."""

    y: float
    name: str
    label: str
    taken: tuple[Taken, ...] = ()


@dataclass(frozen=True)
class Sheet:
    """All that one drawing needs; `gained` and `lost` turn values into pixels from the left."""

    width: float
    names: float
    row: float
    lines: tuple[Line, ...]
    gains: Axis
    losses: Axis | Arcsinh
    unit: ScoreUnit
    allowed: float

    @classmethod
    def of(cls, sensitivity: Sensitivity, unit: ScoreUnit, allowed: float, width: float) -> Sheet:
        """Fit lines and axes; `allowed` is the budget's drop, in the metric's own unit."""
        layers = [layer for found in sensitivity.layers.values() for layer in found]
        row = DENSE_ROW if len(layers) >= DENSE_FROM else ROW
        names = min(max(map(len, (*layers, *sensitivity.layers))) * GLYPH + MARGIN, NAMES_SHARE * width)
        gains = [each.gain.ratio for each in sensitivity.taken if each.gain]
        losses = [unit.value(each.loss) for each in sensitivity.taken if each.loss is not None]
        return cls(
            width,
            names,
            row,
            _lines(sensitivity, row, names),
            _from_zero([100 * gain for gain in gains]),
            _loss_axis(losses, unit.value(allowed)),
            unit,
            allowed,
        )

    @property
    def height(self) -> float:
        """Of the whole drawing."""
        return self.bottom + BOTTOM

    @property
    def bottom(self) -> float:
        """Where the panels end."""
        return self.lines[-1].y + self.row / 2 + 4

    @property
    def gain_panel(self) -> Box:
        """Where gains are drawn."""
        return Box(self.names, TOP, self.names + self._panel_width, self.bottom)

    @property
    def loss_panel(self) -> Box:
        """Where losses are drawn."""
        left = self.names + self._panel_width + GAP
        return Box(left, TOP, left + self._panel_width, self.bottom)

    @property
    def _panel_width(self) -> float:
        return (self.width - self.names - GAP - 12) / 2

    def gained(self, percent: float) -> float:
        """Of a share that is saved, in percent."""
        return self.gain_panel.left + self.gains.at(percent) * self._panel_width

    def lost(self, drop: float) -> float:
        """Of a drop that is added, in the unit that it is plotted in."""
        return self.loss_panel.left + self.losses.at(drop) * self._panel_width

    def radius(self, share: float) -> float:
        """Of the dot of a share: its area grows with it."""
        return float(0.36 * self.row * share**0.5)


def _lines(sensitivity: Sensitivity, row: float, names: float) -> tuple[Line, ...]:
    lines: list[Line] = []
    y = TOP
    for technique, layers in sensitivity.layers.items():
        lines.append(Line(y + HEADING * 0.6, technique, technique))
        y += HEADING
        labels = shortened(list(layers), int((names - MARGIN) / GLYPH + 1e-6))
        for (layer, taken), label in zip(layers.items(), labels, strict=True):
            lines.append(Line(y + row / 2, layer, label, tuple(sorted(taken, key=lambda each: -each.share))))
            y += row
    return tuple(lines)


def shortened(names: Sequence[str], room: int) -> list[str]:
    """Names of at most so many letters: where one is too long, without the modules that all share, then its middle."""
    levels = zip(*(name.split(".")[:-1] for name in names), strict=False)
    shared = sum(len(level[0]) + 1 for level in takewhile(lambda level: len(set(level)) == 1, levels))
    if shared and max(map(len, names)) > room:
        names = [f"…{name[shared:]}" for name in names]
    ahead = (room - 1) * 2 // 5
    return [n if len(n) <= room else f"{n[:ahead]}…{n[len(n) - (room - 1 - ahead) :]}" for n in names]


def _from_zero(values: list[float]) -> Axis:
    """An even axis with 0 on it, and room for half a dot beyond the ends."""
    low, high = min([0.0, *values]), max([0.0, *values])
    room = 0.06 * (high - low) or 1.0
    return Axis(low - room, high + room)


def _loss_axis(losses: list[float], allowed: float) -> Axis | Arcsinh:
    low, high = min([0.0, *losses]), max([0.0, *losses])
    if not high > BEND_FROM * allowed > 0:
        return _from_zero([*losses, allowed])
    return Arcsinh(1.35 * low - 0.3 * allowed, 1.35 * high, allowed)
