"""Trainings that prepare for a technique of graphs: with what they are raced, and whether that may come to anything."""

from __future__ import annotations

from collections.abc import Sequence

from paring.tune.candidate import Candidate
from paring.tune.post_training import WORTH_AN_OPTION
from paring.tune.ranking import LUCK
from paring.tune.scene import Scene
from paring.tune.trainers import Trainer
from paring.tune.trial import Trial

SURE = 0.9
"""A chance of a certificate above which a network needs no more training."""


def untrained(trials: Sequence[Trial], tail: Candidate) -> Trial:
    """A tail as it was tried without training."""
    return next(trial for trial in trials if trial.key == tail.key)


def meets(scene: Scene, trials: Sequence[Trial], trainer: Trainer, leading: Candidate) -> bool:
    """Whether a training is one for the structures, which are raced with the leading tail.

    One that prepares is, where its own tail costs about as much.
    """
    cost = scene.ranking.cost
    own, other = cost(untrained(trials, trainer.tails[0])), cost(untrained(trials, leading))
    return not trainer.technique.prepares or 1 / WORTH_AN_OPTION <= own / other <= WORTH_AN_OPTION


def may_gain(scene: Scene, trials: Sequence[Trial], trainer: Trainer) -> bool:
    """Whether what a training prepares for could be the best, were it accurate enough; if not, that is told.

    An object is tried all the same.
    """
    tail, best, cost = untrained(trials, trainer.tails[0]), scene.ranking.best(trials), scene.ranking.cost
    if best is None or trainer.asked_epochs is not None or cost(tail) < LUCK * cost(best):
        return True
    scene.not_tried.setdefault(
        str(trainer.technique), f"it only adds accuracy to {tail}, which gains less than {best}."
    )
    return False


def needless(scene: Scene, trials: Sequence[Trial], trainer: Trainer) -> bool:
    """Whether a long training would make surer what is sure without; of an object that is no question."""
    sure = scene.ranking.chance(untrained(trials, trainer.tails[0])) >= SURE
    return sure and bool(trainer.technique.prepares) and trainer.asked_epochs is None
