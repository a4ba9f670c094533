"""What each layer gains and loses when a share of it is taken away alone, beside the same recipe without that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from paring.ops.allocation import QUICK_ERROR, least_harm_first
from paring.report.goal import Goal
from paring.report.points import Interval, TrialRow

NAMED = 3
"""So many layers at most are named as the cheapest, and so many as the dearest."""

FEWEST = 4
"""Of fewer layers that save something none is called cheap or dear."""


@dataclass(frozen=True)
class Taken:
    """A share of a layer that was taken alone.

    `gain` is the share of the time (or of the bytes) that this saves, with the ends of its interval; `loss` is what it
    adds to the drop, in the metric's own unit. None is what was not measured.
    """

    trial: TrialRow
    layer: str
    share: float
    gain: Interval | None
    loss: float | None

    @property
    def technique(self) -> str:
        """The name of the technique that took it."""
        return self.trial.point.recipe.partition(" -> ")[0].partition("(")[0].strip()

    @property
    def surely_gains(self) -> bool:
        """Whether all of the interval says that it saves something."""
        return self.gain is not None and self.gain.low > 0

    @property
    def early(self) -> bool:
        """Whether it was stopped early, so that its loss rests on fewer rows."""
        return self.trial.outcome == "stopped-early"


@dataclass(frozen=True)
class Sensitivity:
    """All parts that were tried alone in front of one recipe on one backend, in the order of the trials."""

    tail: TrialRow
    taken: tuple[Taken, ...]

    @property
    def layers(self) -> dict[str, dict[str, tuple[Taken, ...]]]:
        """The parts of each layer, by technique; the same layer may be there for several techniques."""
        found: dict[str, dict[str, tuple[Taken, ...]]] = {}
        for each in self.taken:
            layers = found.setdefault(each.technique, {})
            layers[each.layer] = (*layers.get(each.layer, ()), each)
        return found


@dataclass(frozen=True)
class Verdict:
    """Layers in the order of what their cheapest part costs for what it saves: from both ends; `idle` save nothing.

    Of a cheap layer the part that saves most at a loss within the budget stands for it, of a dear one the cheapest.
    """

    cheapest: tuple[Taken, ...]
    dearest: tuple[Taken, ...]
    idle: tuple[str, ...]

    @classmethod
    def of(cls, sensitivity: Sensitivity, allowed: float) -> Verdict:
        """`allowed` is the budget's drop, in the metric's own unit: dear is only what loses more."""
        known = [each for each in sensitivity.taken if each.gain is not None and each.loss is not None]
        ordered = _by_price(known)
        named = min(NAMED, len(ordered) // 2) if len(ordered) >= FEWEST else 0
        dearest = [each for each in reversed(ordered[len(ordered) - named :]) if (each.loss or 0.0) > allowed]
        gaining = {each.layer for each in ordered}
        idle = dict.fromkeys(each.layer for each in known if each.layer not in gaining)
        return cls(tuple(_furthest(each, known, allowed) for each in ordered[:named]), tuple(dearest), tuple(idle))


def _by_price(taken: Sequence[Taken]) -> list[Taken]:
    """The cheapest part of each layer, in the order in which the search would take them."""
    gains, losses = [each.gain.ratio if each.gain else 0.0 for each in taken], [each.loss or 0.0 for each in taken]
    places = [(each.technique, each.layer) for each in taken]
    first: dict[tuple[str, str], Taken] = {}
    for index in least_harm_first(places, gains, losses, QUICK_ERROR):
        first.setdefault(places[index], taken[index])
    return list(first.values())


def _furthest(taken: Taken, known: Sequence[Taken], allowed: float) -> Taken:
    """The part of the same layer that saves most and loses no more than is allowed; this one where there is none."""
    place = taken.technique, taken.layer
    within = [each for each in known if (each.technique, each.layer) == place and (each.loss or 0.0) <= allowed]
    return max(within, key=lambda each: each.gain.ratio if each.gain else 0.0, default=taken)


def sensitivities(trials: Sequence[TrialRow], goal: Goal) -> tuple[Sensitivity, ...]:
    """The parts that were tried alone, by what they were tried in front of; none where no part was, or nothing of it.

    That is the trial of the same recipe without its first technique on the same backend.
    """
    measured = [trial for trial in trials if trial.part is None and trial.outcome == "measured"]
    whole = {(trial.steps, trial.point.backend_text): trial for trial in measured}
    found: dict[int, list[Taken]] = {}
    tails: dict[int, TrialRow] = {}
    for trial in trials:
        tail = whole.get((trial.steps[1:], trial.point.backend_text))
        if trial.part and trial.steps and tail:
            tails[id(tail)] = tail
            found.setdefault(id(tail), []).append(_taken(trial, trial.part, tail, goal))
    return tuple(Sensitivity(tails[key], tuple(taken)) for key, taken in found.items())


def _taken(trial: TrialRow, part: tuple[str, float], tail: TrialRow, goal: Goal) -> Taken:
    loss = None if trial.drop is None or tail.drop is None else trial.drop - tail.drop
    return Taken(trial, *part, _gain(trial, tail, goal), loss)


def _gain(trial: TrialRow, tail: TrialRow, goal: Goal) -> Interval | None:
    """The share that is saved: of a file's size exactly, of a time within the errors of both comparisons."""
    if not goal.about_time:
        value, whole = goal.value(trial.point), goal.value(tail.point)
        saved = None if value is None or not whole else 1 - value / whole
        return None if saved is None else Interval(saved, saved, saved)
    one, other = trial.point.speedup, tail.point.speedup
    faster = one.over(other) if one and other else None
    return Interval(1 - 1 / faster.ratio, 1 - 1 / faster.low, 1 - 1 / faster.high) if faster else None
