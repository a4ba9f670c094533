"""A structure in the race: what is known of its cost and drop, and what a training would leave of the drop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log

from paring.techniques.base import Recipe, TrainingTechnique
from paring.tune.trainers import Trainer

MILDER = 1.1
"""A structure that costs so many times as much is a milder one."""

SLOWEST_LEARNING, FASTEST_LEARNING = 0.2, 1.5


@dataclass(frozen=True)
class Racer:
    """A structure with what is known of it: its cost, and its drop after so many epochs (0: untrained).

    A long training starts from `start`: the structure, or what a long training has made of it, in `kept_epochs`. One
    that is `too_large` breaks the budget's limit of bytes on disk, which no training changes.
    """

    start: Recipe
    trainer: Trainer
    cost: float
    drop: float
    deviation: float
    epochs: int = 0
    kept_epochs: int = 0
    epoch_s: float = 0.0
    too_large: bool = False

    @property
    def most_epochs(self) -> int:
        """Of the next training."""
        return self.trainer.most_epochs(self.kept_epochs)

    @property
    def is_owed(self) -> bool:
        """Whether it was to have a number of epochs, and was only raced."""
        return self.trainer.asked_epochs is not None and self.kept_epochs == 0 and self.epochs < self.most_epochs

    @property
    def fewest_epochs(self) -> int:
        """Of a long training: those that come to more than it was raced for, where it may have so many."""
        return max(1, min(self.most_epochs, self.epochs - self.kept_epochs + 1))

    def training(self, epochs: int) -> TrainingTechnique:
        """The next training, with so many epochs."""
        technique = self.trainer.technique
        return technique.continued(epochs) if self.kept_epochs else technique.with_epochs(epochs)

    def after(self, epochs: int, rate: float) -> float:
        """The drop that so many epochs more would leave."""
        total = self.kept_epochs + epochs
        return self.drop * (self.epochs / total) ** rate if total > self.epochs else self.drop

    def deviation_at(self, drop: float, span: float) -> float:
        """What a smaller drop leaves of the deviation: each row that is won back is one less that differs.

        With right-or-wrong scores the variance of a row's difference is the share of rows that differ, less the drop
        squared; it falls with the drop at a slope of about 1 (ResNet-20 on CIFAR-10: 0.8 to 1.1).
        """
        variance, regained = self.deviation**2, span * max(0.0, self.drop - drop)
        least = variance * max(0.0, drop) / self.drop if drop < self.drop else 0.0
        return float(max(variance - regained, least) ** 0.5)


def small_enough(racers: Sequence[Racer]) -> Sequence[Racer]:
    """Those that hold the limit of bytes; all of them where none does."""
    return [racer for racer in racers if not racer.too_large] or racers


def milder(racers: Sequence[Racer], at: int) -> int | None:
    """Where the next racer stands that is clearly milder than the one there; None where none is."""
    return next((i for i in range(at + 1, len(racers)) if racers[i].cost >= MILDER * racers[at].cost), None)


def learnt_rate(before: Racer, after: Racer) -> float | None:
    """The rate of the learning curve through both; None where they do not tell."""
    if min(before.drop, after.drop) <= 0 or after.epochs <= before.epochs:
        return None
    rate = log(before.drop / after.drop) / log(after.epochs / before.epochs)
    return min(max(rate, SLOWEST_LEARNING), FASTEST_LEARNING)
