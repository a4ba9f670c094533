"""How much where: the parts of a technique are measured one by one, then joined by harm for what they gain."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from paring.techniques.base import ModuleTechnique, Technique
from paring.tune.candidate import Candidate
from paring.tune.proposing import offered
from paring.tune.scene import Scene, Steps
from paring.tune.trial import Trial

FEWEST_PARTS = 3
"""With fewer there is hardly an order to find."""


QUICK_ERROR = 0.05
"""How far the gain of a quick comparison may be off, as a share of the whole cost."""


@dataclass(frozen=True)
class Part:
    """One small change with what it showed alone: the share of the cost that it saves, and its drop untrained."""

    technique: ModuleTechnique
    gain: float
    harm: float

    @property
    def price(self) -> tuple[float, float]:
        """Harm for what it gains at best; of those that do none, the one that gains most comes first."""
        return max(self.harm, 0.0) / (self.gain + QUICK_ERROR), -self.gain


def joined(parts: Sequence[Part], most: int) -> list[ModuleTechnique]:
    """One part, two, and so on up to half of them, the cheapest in harm first: at most so many steps, evenly spread.

    Parts that gain nothing are left out. The order supposes that gains and harms add up, which the joins, measured in
    their turn, show to be true or not. A knapsack's greedy order by density (Dantzig 1957), here with figures that
    were measured on the machine.
    """
    order = sorted((part for part in parts if part.gain > 0), key=lambda part: part.price)
    chosen = order[: math.ceil(len(parts) / 2)]
    steps = list(accumulate((part.technique for part in chosen), lambda whole, part: whole.joined(part)))
    kept = {math.ceil(len(steps) * share / most) - 1 for share in range(1, most + 1)}
    return [step for index, step in enumerate(steps) if index in kept]


def divided(scene: Scene, technique: Technique | type[Technique]) -> list[ModuleTechnique]:
    """The parts of a technique; none where they are too few to choose among."""
    parts = scene.module_parts(technique)
    return parts if len(parts) >= FEWEST_PARTS else []


def allocated(
    scene: Scene, technique: Technique | type[Technique], tail: Candidate, tail_cost: float, until_s: float, most: int
) -> Steps[list[ModuleTechnique]]:
    """The steps of a technique that divides into parts, each part measured alone in front of the tail.

    Empty where it does not divide, or where measuring all parts would leave less than `until_s` seconds: then the
    technique's own settings have to do.
    """
    techniques = divided(scene, technique)
    measured: list[tuple[ModuleTechnique, Trial]] = []
    begin_s = scene.time_left_s()
    for done, part in enumerate(techniques, 1):
        trials = yield [tail.behind((part,))]
        measured += [(part, t) for t in trials if t.drop is not None and t.speedup is not None]
        each_s = (begin_s - scene.time_left_s()) / done
        if begin_s - each_s * len(techniques) < until_s:
            return []
    costs = [scene.ranking.cost(trial) for _, trial in measured]
    # The tail leads by quick figures, so by luck too: no network costs less whole than without one of its parts.
    whole = max([tail_cost, *costs])
    parts = [
        Part(part, 1 - cost / whole, trial.drop or 0.0) for (part, trial), cost in zip(measured, costs, strict=True)
    ]
    # Joining is anybody's code too: where it fails, that is told, and the technique's own settings have to do.
    return offered(parts[0].technique.name, lambda: joined(parts, most), scene.not_tried) if parts else []
