"""Rivals: other ways to the sizes of a structure, of which a race shows whether they are better."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from paring.techniques.base import ModuleTechnique, TrainingTechnique
from paring.tune.proposing import offered
from paring.tune.racer import Racer
from paring.tune.scene import Scene

NO_TIME_FOR_RIVALS = "the time that was left held no race of other ways to the same sizes."


def rivals(scene: Scene, racer: Racer) -> Iterator[Racer]:
    """The racer with other settings of a technique of its structure, or with a training in the place or in front of it.

    They have as many epochs as the racer had, in all. Objects stay as they are.
    """
    kinds = [kind for kind in scene.techniques if isinstance(kind, type) and issubclass(kind, TrainingTechnique)]
    for at, technique in enumerate(racer.start):
        if not isinstance(technique, ModuleTechnique) or technique in scene.techniques:
            continue
        before, after = racer.start[:at], racer.start[at + 1 :]
        for other in offered(technique.name, technique.as_small, scene.not_tried):
            yield replace(racer, start=(*before, other, *after))
        for kind in kinds if racer.epochs > 1 else ():
            of_both = (technique, racer.trainer.technique)
            for training in offered(kind.__name__, partial(kind.around, *of_both), scene.not_tried):
                trainer = replace(racer.trainer, technique=training)
                yield replace(racer, start=(*before, *after), trainer=trainer)
            for training in offered(kind.__name__, partial(kind.before, *of_both), scene.not_tried):
                first = training.with_epochs(racer.epochs // 2)
                yield replace(racer, start=(first, *racer.start), kept_epochs=first.epochs)


def tell_no_rivals(scene: Scene, racer: Racer) -> None:
    """Say of trainings that are raced in the place of a technique, or in front of it, that there was no time."""
    own = (*racer.start, racer.trainer.technique)
    for rival in rivals(scene, racer):
        for technique in {*rival.start, rival.trainer.technique}.difference(own):
            if technique.name in scene.not_tried:
                scene.not_tried[technique.name] = NO_TIME_FOR_RIVALS
