"""Labels that stand next to their points and never on top of anything."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Anchor = Literal["start", "middle", "end"]

GLYPH_WIDTH = 0.56
"""Mean width of a glyph over the font size, on the safe side for the sans faces that systems bring."""


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
class Label:
    """A text wished for at a point; `needed` ones are placed even where there is no room."""

    text: str
    x: float
    y: float
    needed: bool = False
    kind: str = "label"


@dataclass(frozen=True)
class Placed:
    """Where a label's text goes: the baseline's start, middle or end."""

    label: Label
    x: float
    y: float
    anchor: Anchor

    def box(self, size: float) -> Box:
        """The room that the text takes at that font size."""
        width = len(self.label.text) * size * GLYPH_WIDTH
        left = {"start": self.x, "middle": self.x - width / 2, "end": self.x - width}[self.anchor]
        return Box(left - 2, self.y - size, left + width + 2, self.y + size * 0.3)


def place(labels: Sequence[Label], obstacles: Iterable[Box], frame: Box, size: float) -> tuple[Placed, ...]:
    """Put each label on the first free side of its point, earlier labels first; those without room are left out."""
    taken = list(obstacles)
    placed: list[Placed] = []
    for label in labels:
        spots = [spot for spot in _spots(label, size) if spot.box(size).within(frame)]
        free = [spot for spot in spots if not any(spot.box(size).meets(other) for other in taken)]
        chosen = next(iter(free or (spots if label.needed else [])), None)
        if chosen:
            placed.append(chosen)
            taken.append(chosen.box(size))
    return tuple(placed)


def _spots(label: Label, size: float) -> Iterable[Placed]:
    gap, x, y = size * 0.85, label.x, label.y
    middle = y + size * 0.35
    yield Placed(label, x + gap, middle, "start")
    yield Placed(label, x - gap, middle, "end")
    for distance in (1.0, 2.2, 3.4):
        below, above = y + size * distance + gap, y - size * (distance - 1) - gap
        yield Placed(label, x, below, "middle")
        yield Placed(label, x, above, "middle")
        yield Placed(label, x + gap, below, "start")
        yield Placed(label, x + gap, above, "start")
        yield Placed(label, x - gap, below, "end")
        yield Placed(label, x - gap, above, "end")
