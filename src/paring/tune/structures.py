"""Structures: smaller networks that a training may mend, and what they cost as long as they are untrained."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from paring.techniques.base import ModuleTechnique, Recipe, Technique
from paring.tune.allocation import OnePart, allocated, divided, ends_s
from paring.tune.candidate import Candidate
from paring.tune.racer import Racer, small_enough
from paring.tune.ranking import LUCK
from paring.tune.scene import Scene, Steps
from paring.tune.trainers import Trainer, is_training, shrinkers, tell_unmended, trainers
from paring.tune.trial import Trial

STRUCTURE_VARIANTS = 6
MOST_STRUCTURES = 20
PROBE_SHARE = 0.12
PARTS_SHARES = (0.1, 0.5)
"""Of the time, for measuring parts: where the first ones lead to nothing that is worth a race, more are measured."""

LEAST_GAIN = 0.95
"""A structure is raced only if it costs at most this share of the best recipe without training."""

NO_STRUCTURE = "it makes nothing smaller itself, and nothing makes a smaller network for it."
NO_GAIN = "it makes nothing smaller itself, and no smaller network that was measured gained enough to be worth it."


def planned(scene: Scene) -> list[Recipe]:
    """What will be raced as far as it is known beforehand: parts, combinations of what does not divide, and trainings.

    A training that makes the network smaller itself is raced from the original, and without structures one that
    prepares. A structure needs another training to follow; and without any structure there is no such training, which
    is told.
    """
    structures = _in_front(scene)
    alone = [each for each in trainers(scene) if each.technique.prepares and not structures]
    return [*structures, *((trainer.technique,) for trainer in (*alone, *shrinkers(scene)))]


def _in_front(scene: Scene) -> list[Recipe]:
    """The structures that a training would follow."""
    if not trainers(scene):
        return []
    parts = [divided(scene, technique) for technique in scene.techniques]
    pairs = zip(scene.techniques, parts, strict=True)
    whole = combined([_settings(scene, technique) for technique, found in pairs if not found])
    structures: list[Recipe] = [*((part.technique,) for found in parts for part in found), *whole]
    if not structures:
        tell_unmended(scene, NO_STRUCTURE)
    return structures


def probed(scene: Scene, trials: Sequence[Trial], trainer: Trainer) -> Steps[list[Racer]]:
    """Measure structures untrained while there is time for it, with what follows the training behind them.

    Those worth a race, cheapest first. Without any there is none of the trainings that need one, which is told.
    """
    parts = [divided(scene, technique) for technique in scene.techniques]
    tail = trainer.tails[0]
    tail_trial = next(trial for trial in trials if trial.key == tail.key)
    for share in PARTS_SHARES:
        structures = combined((yield from _ladders(scene, parts, tail, tail_trial, share)))
        worth = _worth_racing(scene, trials, (yield from _untrained(scene, structures, tail, trainer)))
        if worth:
            return worth
    tell_unmended(scene, NO_GAIN if structures else NO_STRUCTURE)
    return []


def _untrained(scene: Scene, structures: Sequence[Recipe], tail: Candidate, trainer: Trainer) -> Steps[list[Racer]]:
    """What structures cost and lose before any training, of one at least and as many as there is time for."""
    until_s = scene.time_left_s() * (1 - PROBE_SHARE)
    racers: list[Racer] = []
    for structure in structures:
        if racers and scene.time_left_s() < until_s:
            break
        for trial in (yield [tail.behind(structure)]):
            # One that was tried alone before may have been given up on its drop: training is what mends that.
            if trial.outcome in ("measured", "stopped-early") and trial.drop is not None:
                cost, deviation = scene.ranking.cost(trial), trial.drop_deviation or 0.0
                too_large = scene.ranking.too_large(trial)
                racers.append(Racer(structure, trainer, cost, trial.drop, deviation, too_large=too_large))
    return racers


def _ladders(
    scene: Scene, parts: Sequence[Sequence[OnePart]], tail: Candidate, tail_trial: Trial, share: float
) -> Steps[list[list[ModuleTechnique]]]:
    """The steps of each technique that makes structures: its parts, joined, else its own settings."""
    ladders: list[list[ModuleTechnique]] = []
    for technique, found, until_s in zip(scene.techniques, parts, ends_s(scene, parts, share), strict=True):
        steps = yield from allocated(scene, found, tail, tail_trial, until_s, STRUCTURE_VARIANTS)
        ladders.append(steps or _settings(scene, technique))
    return ladders


def _settings(scene: Scene, technique: Technique | type[Technique]) -> list[ModuleTechnique]:
    """What a structural technique proposes; nothing for any other kind."""
    return [] if is_training(technique) else scene.module_variants(technique, STRUCTURE_VARIANTS)


def _worth_racing(scene: Scene, trials: Sequence[Trial], racers: Sequence[Racer]) -> list[Racer]:
    """Those that gain enough and that no other one beats in both cost and harm, the cheapest first.

    Where some hold the limit of bytes, none that does not: it might beat them in cost, and could be no answer.
    """
    racers = small_enough(racers)
    best = scene.ranking.best(trials)
    limit = LUCK * LEAST_GAIN * scene.ranking.cost(best) if best else float("inf")
    kept: list[Racer] = []
    for racer in sorted(racers, key=lambda r: (r.cost, r.drop)):
        if racer.cost <= limit and (not kept or racer.drop < kept[-1].drop):
            kept.append(racer)
    return kept


def combined(ladders: Sequence[Sequence[ModuleTechnique]]) -> list[Recipe]:
    """Every way to take a step of a ladder or none, of each one, the first steps first; at most MOST_STRUCTURES."""
    choices = [(None, *ladder) for ladder in ladders if ladder]
    steps = sorted(product(*(range(len(choice)) for choice in choices)), key=lambda s: (sum(s), s))
    chosen = [[choice[i] for choice, i in zip(choices, step, strict=True)] for step in steps]
    recipes: list[Recipe] = [tuple(t for t in techniques if t) for techniques in chosen if any(techniques)]
    return recipes[:MOST_STRUCTURES]
