"""How much where: the parts of a technique are measured one by one, then joined by harm for what they gain."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TypeAlias

import numpy as np

from paring.ops.allocation import QUICK_ERROR, least_harm_first
from paring.techniques.base import ModuleTechnique, Part, Technique
from paring.tune.candidate import Candidate
from paring.tune.proposing import offered
from paring.tune.scene import Rounds, Scene, Steps
from paring.tune.trial import Trial

OnePart: TypeAlias = Part[ModuleTechnique]
Measured: TypeAlias = tuple[OnePart, Trial]

FEWEST_PARTS = 3
"""With fewer there is hardly an order to find."""

ALMOST_ALL = 0.9
"""Of the parts: the network whole costs at least as much as these."""


@dataclass(frozen=True)
class Shown:
    """A part with what it showed alone: the share of the cost that it saves, and what its drop adds, untrained."""

    part: OnePart
    gain: float
    harm: float


def joined(shown: Sequence[Shown], most: int, wanted_gain: float = 0.0) -> list[ModuleTechnique]:
    """One part, two, and so on up to half of them, the cheapest in harm first: at most so many steps, evenly spread.

    Where a gain is wanted, the first step that promises so much is among them, however far it goes. The order supposes
    that gains and harms add up, which the joins, measured in their turn, show to be true or not.
    """
    steps = every_step(shown)
    half = steps[: math.ceil(len(shown) / 2)]
    kept = {math.ceil(len(half) * share / most) - 1 for share in range(1, most + 1)}
    chosen = [step for index, step in enumerate(half) if index in kept]
    target = next((step for step in steps if step.gain >= wanted_gain > 0), None)
    if target is not None and target not in chosen:
        chosen = sorted([*chosen[: most - 1], target], key=lambda step: step.gain)
    return [technique for step in chosen for technique in step.recipe]


@dataclass(frozen=True)
class Step:
    """Some parts joined, of one technique or of several, and what they promise to gain together."""

    recipe: tuple[ModuleTechnique, ...]
    gain: float


def every_step(shown: Sequence[Shown]) -> list[Step]:
    """One part, two, and so on, each with the least harm for what it gains; those that gain nothing are left out.

    What lies in a block that is gone by then is not taken as well.
    """
    places = [(type(s.part.technique), s.part.layer) for s in shown]
    taken: dict[Hashable, Shown] = {}
    steps: list[Step] = []
    for index in least_harm_first(places, [s.gain for s in shown], [s.harm for s in shown], QUICK_ERROR):
        part = shown[index].part
        if any(_holds(other.part, part) for other in taken.values()):
            continue
        taken = {place: other for place, other in taken.items() if not _holds(part, other.part)}
        taken[places[index]] = shown[index]
        steps.append(Step(_recipe(taken.values(), shown), sum(each.gain for each in taken.values())))
    return steps


def _holds(whole: OnePart, part: OnePart) -> bool:
    """Whether a part takes all of a block in which another one lies."""
    return whole.share == 1 and part.layer.startswith(f"{whole.layer}.")


def _recipe(taken: Iterable[Shown], shown: Sequence[Shown]) -> tuple[ModuleTechnique, ...]:
    """The parts of each technique joined, the techniques in the order in which they were shown."""
    wholes: dict[type[ModuleTechnique], ModuleTechnique | None] = {type(each.part.technique): None for each in shown}
    for each in taken:
        one, before = each.part.technique, wholes[type(each.part.technique)]
        wholes[type(one)] = before.joined(one) if before else one
    return tuple(whole for whole in wholes.values() if whole)


def divided(scene: Scene, technique: Technique | type[Technique]) -> list[OnePart]:
    """The parts of a class of techniques; none where they are too few to choose among. An object is tried as it is.

    Nor of one that can gain no time: how much it takes where is better told by its criterion than by parts alone.
    """
    choosing = isinstance(technique, type) and "latency" in technique.improves
    parts = most_telling_first(scene.module_parts(technique)) if choosing else []
    return parts if len(parts) >= FEWEST_PARTS else []


def most_telling_first(parts: Sequence[OnePart]) -> list[OnePart]:
    """One part of each layer, that nearest to half of it, then a second one of each, and so on.

    Where the time ends before all are measured, something is known of every layer.
    """
    of_layer: dict[str, list[OnePart]] = {}
    for part in parts:
        of_layer.setdefault(part.layer, []).append(part)
    ranks = {id(p): rank for found in of_layer.values() for rank, p in enumerate(sorted(found, key=_from_half))}
    return sorted(parts, key=lambda part: ranks[id(part)])


def _from_half(part: OnePart) -> float:
    return abs(part.share - 0.5)


def ends_s(scene: Scene, parts: Sequence[Sequence[OnePart]], share: float) -> list[float]:
    """Down to which time that is left each technique's parts may be measured: the share is split by their numbers."""
    begin_s, counts = scene.time_left_s(), [len(found) for found in parts]
    return [begin_s * (1 - share * done / max(1, sum(counts))) for done in accumulate(counts)]


def part_alone(part: OnePart, tail: Candidate) -> Candidate:
    """A part in front of the tail."""
    return replace(tail.behind((part.technique,)), part=(part.layer, part.share))


def allocated(
    scene: Scene, parts: Sequence[OnePart], tail: Candidate, tail_trial: Trial, until_s: float, most: int
) -> Steps[list[ModuleTechnique]]:
    """The steps of a technique that divides into these parts, each one measured alone in front of the tail.

    Parts that would leave less than `until_s` seconds are left out, which is told. Empty where too few were measured:
    then the technique's own settings have to do.
    """
    measured: list[Measured] = []
    yield from measure_alone(scene, parts, tail, until_s, measured)
    shown = compared(scene, measured, tail_trial) if len(measured) >= FEWEST_PARTS else []
    # Joining is anybody's code too: where it fails, that is told, and the technique's own settings have to do.
    name = measured[0][0].technique.name if measured else ""
    wanted = _wanted_gain(scene, tail_trial)
    return offered(name, lambda: joined(shown, most, wanted), scene.not_tried) if shown else []


def measure_alone(
    scene: Scene, parts: Sequence[OnePart], tail: Candidate, until_s: float, measured: list[Measured]
) -> Rounds:
    """Each part in front of the tail while more than `until_s` seconds are left; `measured` gets what has a figure."""
    what = f"parts of {parts[0].technique.name}" if parts else ""
    for done, part in enumerate(parts):
        if scene.time_left_s() <= until_s:
            scene.not_tried[what] = f"{done} of {len(parts)} were measured in the time for them: allow more time."
            return
        scene.not_tried.pop(what, None)
        trials = yield [part_alone(part, tail)]
        measured += [(part, t) for t in trials if t.drop is not None and t.speedup is not None]


def compared(scene: Scene, measured: Sequence[Measured], tail: Trial) -> list[Shown]:
    """What the parts gain and lose beside the tail without them."""
    costs = [scene.ranking.cost(trial) for _, trial in measured]
    # The tail leads by quick figures, so by luck too: no network costs less whole than without one of its parts. A few
    # parts may have had bad luck of their own.
    whole = max(scene.ranking.cost(tail), float(np.quantile(costs, ALMOST_ALL)))
    pairs = zip(measured, costs, strict=True)
    return [Shown(part, 1 - cost / whole, (trial.drop or 0.0) - (tail.drop or 0.0)) for (part, trial), cost in pairs]


def _wanted_gain(scene: Scene, tail: Trial) -> float:
    """The share of its time that the tail has to save to hold the budget's latency; 0 where it holds it, or none is."""
    limit_ms = scene.budget.max_latency_ms
    if limit_ms is None or tail.latency_ms is None or not scene.ranking.about_speed:
        return 0.0
    return max(0.0, 1 - limit_ms / tail.latency_ms["p50"])
