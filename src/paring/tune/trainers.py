"""Which trainings there are to choose from, and how many epochs each may take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from paring.techniques.base import GraphTechnique, Technique, TrainingTechnique
from paring.tune.candidate import Candidate
from paring.tune.proposing import kind_of, needs_smaller, only_mends, told
from paring.tune.scene import Scene

TRAINER_VARIANTS = 3

MOST_EPOCHS = 200
"""Of one training whose epochs the search chooses."""


Leading = Callable[[tuple[type[GraphTechnique], ...]], Sequence[Candidate]]
"""The leading tails of those kinds, the cheapest first; of all kinds where none is given."""


@dataclass(frozen=True)
class Trainer:
    """A training; `asked_epochs` is the number that came with an object, None where the search chooses it.

    `tails` are the techniques of graphs and the backends that may follow it, the cheapest first.
    """

    technique: TrainingTechnique
    asked_epochs: int | None = None
    tails: tuple[Candidate, ...] = ()

    def most_epochs(self, kept_epochs: int) -> int:
        """Of the next training of a network that has had so many: what was asked for is the sum of all of them."""
        return MOST_EPOCHS if self.asked_epochs is None else self.asked_epochs - kept_epochs


def is_training(technique: Technique | type[Technique]) -> bool:
    """Whether a class or object is a technique that trains."""
    return issubclass(kind_of(technique), TrainingTechnique)


def trainers(scene: Scene) -> list[Trainer]:
    """Those that mend what a smaller network lost: first settings of each technique, then second ones, and so on.

    None without training data.
    """
    return [trainer for trainer in _every(scene) if only_mends(type(trainer.technique))]


def shrinkers(scene: Scene) -> list[Trainer]:
    """Those that make the network smaller themselves, in the same order."""
    return [trainer for trainer in _every(scene) if not only_mends(type(trainer.technique))]


def with_tails(trainers: Sequence[Trainer], leading: Leading) -> list[Trainer]:
    """The same with the tails that lead, of those that may follow each; without those that nothing can follow."""
    found = [replace(trainer, tails=tuple(leading(trainer.technique.prepares))) for trainer in trainers]
    return [trainer for trainer in found if trainer.tails]


def _every(scene: Scene) -> list[Trainer]:
    if scene.job.task.train is None:
        return []
    ranked: list[tuple[int, Trainer]] = []
    for technique in filter(is_training, scene.techniques):
        for rank, variant in enumerate(scene.module_variants(technique, TRAINER_VARIANTS)):
            if isinstance(variant, TrainingTechnique):
                ranked.append((rank, Trainer(variant, variant.epochs if variant is technique else None)))
    return [trainer for _, trainer in sorted(ranked, key=lambda pair: pair[0])]


def tell_untrained(scene: Scene, reason: str) -> None:
    """Say why no technique that trains is tried; a reason that was told before stays."""
    for technique in filter(is_training, scene.techniques):
        scene.not_tried.setdefault(told(technique), reason)


def tell_unmended(scene: Scene, reason: str) -> None:
    """The same of those that only mend what a smaller network lost."""
    for technique in scene.techniques:
        if needs_smaller(kind_of(technique)):
            scene.not_tried.setdefault(told(technique), reason)
