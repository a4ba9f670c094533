"""Labels that stand next to their points and never on top of anything."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Anchor = Literal["start", "middle", "end"]

GLYPH_WIDTH, BOLD_GLYPH_WIDTH = 0.56, 0.66
"""Mean width of a glyph over the font size, on the safe side for the sans faces that systems bring."""

BOLD = "key"
"""The kind of label that is bold."""


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """Whether the two overlap."""
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )

    def within(self, other: Box) -> bool:
        """Whether this one lies inside the other."""
        return (
            self.left >= other.left
            and self.right <= other.right
            and self.top >= other.top
            and self.bottom <= other.bottom
        )


@dataclass(frozen=True)
class Stroke:
    """A straight line, in pixels."""

    x1: float
    y1: float
    x2: float
    y2: float

    def meets(self, box: Box) -> bool:
        """Whether some of it lies in a box: the parts between its sides and between its top and bottom overlap."""
        first, last = 0.0, 1.0
        for start, end, low, high in (
            (self.x1, self.x2, box.left, box.right),
            (self.y1, self.y2, box.top, box.bottom),
        ):
            if start == end:
                if not low < start < high:
                    return False
                continue
            enters, leaves = sorted(((low - start) / (end - start), (high - start) / (end - start)))
            first, last = max(first, enters), min(last, leaves)
        return first < last


@dataclass(frozen=True)
class Label:
    """A text wished for at a point: only close to it, also further off, or even where there is no room."""

    text: str
    x: float
    y: float
    reach: Literal["near", "far", "needed"] = "far"
    kind: str = "label"


@dataclass(frozen=True)
class Placed:
    """Where a label's text goes: the baseline's start, middle or end. A `far` one needs a line to its point."""

    label: Label
    x: float
    y: float
    anchor: Anchor
    far: bool = False

    def box(self, size: float) -> Box:
        """The room that the text takes at that font size."""
        width = len(self.label.text) * size * (BOLD_GLYPH_WIDTH if self.label.kind == BOLD else GLYPH_WIDTH)
        left = {"start": self.x, "middle": self.x - width / 2, "end": self.x - width}[self.anchor]
        return Box(left - 2, self.y - size, left + width + 2, self.y + size * 0.3)

    def leader(self) -> Box:
        """The room that the line to the point takes; none where there is no line."""
        x, y = self.end()
        if not self.far:
            return Box(0, 0, 0, 0)
        return Box(x - 2, min(y, self.label.y), x + 2, max(y, self.label.y))

    def end(self) -> tuple[float, float]:
        """Where the line from the point ends: the text's near edge."""
        return self.label.x, self.y + 3 if self.y < self.label.y else self.y - 11


def place(labels: Sequence[Label], obstacles: Iterable[Box | Stroke], frame: Box, size: float) -> tuple[Placed, ...]:
    """Put each label on the first free side of its point, earlier labels first.

    Those without room are left out, but a needed one goes where it covers the least.
    """
    taken = list(obstacles)
    texts: list[Box] = []
    placed: list[Placed] = []
    for label in labels:
        spots = [spot for spot in _spots(label, size) if spot.box(size).within(frame)]
        covered = {spot: _covered(spot.box(size), taken) + _covered(spot.leader(), texts) for spot in spots}
        chosen = min(spots, key=covered.__getitem__, default=None)
        if chosen and (label.reach == "needed" or not covered[chosen]):
            placed.append(chosen)
            texts.append(chosen.box(size))
            taken += [chosen.box(size), chosen.leader()]
    return tuple(placed)


def _covered(box: Box, others: Iterable[Box | Stroke]) -> int:
    return sum(other.meets(box) for other in others)


def _spots(label: Label, size: float) -> Iterable[Placed]:
    """Beside, below and above the point, then further off with a line; the nearest first."""
    gap, x, y = size * 0.85, label.x, label.y
    yield Placed(label, x + gap, y + size * 0.35, "start")
    yield Placed(label, x - gap, y + size * 0.35, "end")
    yield Placed(label, x, y + size + gap, "middle")
    yield Placed(label, x, y - gap, "middle")
    for distance in () if label.reach == "near" else (2.0, 3.3, 4.6):
        for level in (y - size * distance, y + size * (distance + 0.8)):
            yield Placed(label, x, level, "middle", far=True)
            # Beside the line to the point, where there may be a line already: that of the certified bound.
            yield Placed(label, x + 5, level, "start", far=True)
            yield Placed(label, x - 5, level, "end", far=True)
