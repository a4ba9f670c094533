"""Gradual pruning: the zeros grow while the network is trained."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from paring.data.job import Job
from paring.errors import TechniqueError
from paring.graph.weights import Matrix, matrices
from paring.techniques.fine_tune import FineTune
from paring.techniques.prune_weights import PruneWeights
from paring.train.constraint import Constraint, HeldZeros
from paring.train.loop import Loss
from paring.types import Coverage, Objective, Task

UPDATES = 100
"""How many times the weights are chosen anew while the zeros grow."""

OBSERVED_UPDATES = 20
"""The same where a criterion looks at data: each time takes passes over hundreds of rows, one by one for gradients."""

FADING = 0.9
"""What is left after each step of a weight that is not seen, beside what its gradient adds."""


def cubic(share: float) -> float:
    """Of the final sparsity when that share of its time is over: 1 - (1 - t)^3. Zhu and Gupta 2017, eq. 1, from 0."""
    return 1 - (1 - min(share, 1.0)) ** 3


@dataclass(frozen=True)
class GradualPruning(FineTune):
    """Fine-tuning in which weights become zero little by little, as `prune` says; then the rest is trained on.

    The share of zeros follows the cubic schedule of Zhu and Gupta (2017) and is reached when `until` of the training is
    over. With `regrow` a weight that was taken away goes on learning in secret by the gradient at its place, and comes
    back when it matters again (dynamic network surgery, Guo et al. 2016; there with two thresholds and a chance that
    falls, here until the zeros are all there, and fading: what the network does not see has no effect that would ever
    stop its growth). Zeros are baked in at the end.

    The weights are chosen anew up to 100 times; with a criterion that looks at data, as `taylor` and `wanda` do, up to
    20 times, since each takes passes over rows of its own: in a short training, about as long as the training itself.
    """

    shrinks: ClassVar[bool] = True
    improves: ClassVar[tuple[Objective, ...]] = PruneWeights.improves

    prune: PruneWeights = field(default_factory=lambda: PruneWeights(0.8, scope="global"))
    until: float = 0.7
    regrow: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.until <= 1:
            raise TechniqueError(f"until={self.until} must be above 0 and at most 1: it is a share of the training.")
        if self.prune.reconstruct:
            raise TechniqueError(f"{self.prune} solves for weights that training then changes: leave reconstruct out.")

    def check_fits(self, model: nn.Module, task: Task) -> None:
        """Raise TechniqueError where the pruning's settings ask for what the network or the task does not have."""
        self.prune.check_fits(model, task)
        super().check_fits(model, task)

    def shaped(self, taught: Loss, student: nn.Module, job: Job) -> tuple[Loss, Constraint]:
        """The teacher's loss, and zeros that grow."""
        return taught, _GrowingZeros(self, student, job)

    def continued(self, epochs: int) -> FineTune:
        """Fine-tuning, which holds the zeros: what was to go is gone."""
        return self.bare(epochs)

    def coverage(self, before: nn.Module, after: nn.Module, job: Job) -> Coverage:
        """What the pruning has done: every weighted layer with its share of zeros."""
        return replace(self.prune.coverage(before, after, job), technique=str(self))

    @classmethod
    def variants(cls, model: nn.Module, job: Job) -> Iterator[Self]:
        """The pruning's own settings, grown. Raises TechniqueError where there is nothing to train."""
        for _ in super().variants(model, job):
            for prune in PruneWeights.variants(model, job):
                yield cls(prune=prune)


class _GrowingZeros(Constraint):
    """Masks that are chosen anew again and again, until all zeros are there; zeros from before stay."""

    def __init__(self, technique: GradualPruning, model: nn.Module, job: Job) -> None:
        # A job of its own, that tells whether the criterion has looked at data.
        self.technique, self.model, self.job = technique, model, replace(job)
        self.matrices = matrices(model, vectors=True)
        self.before = HeldZeros(model, job.original)
        self.begun: set[str] = set()
        self.masks: list[tuple[nn.Parameter, Tensor]] = []
        self.grown = -1.0

    @contextmanager
    def shown_(self, share: float) -> Iterator[None]:
        """The network sees the weights with their zeros; the kept ones are put back for the step that follows."""
        self._choose(share)
        if not self.technique.regrow:
            yield
            return
        kept = [parameter.detach().clone() for parameter, _ in self.masks]
        self._weaken_(0.0)
        try:
            yield
        finally:
            with torch.no_grad():
                for (parameter, _), value in zip(self.masks, kept, strict=True):
                    parameter.copy_(value)

    def settle_(self) -> None:
        """Zeros again; what may come back fades towards them."""
        self._weaken_(FADING if self.technique.regrow else 0.0)
        self.before.settle_()

    def finish_(self) -> None:
        """All zeros, also where the training was cut short."""
        self._choose(1.0)
        self._weaken_(0.0)

    def _choose(self, share: float) -> None:
        """Masks for this moment of the training."""
        updates = OBSERVED_UPDATES if self.job.has_observed else UPDATES
        grown = min(math.floor(share / self.technique.until * updates), updates) / updates
        if grown <= self.grown:
            return
        self.grown = grown
        prune = self.technique.prune.at(cubic(grown))
        pruned = {each.name: each.parameter.detach() for each in self._pruned(prune)}
        # What has been zero as a whole until now begins from nothing, as in `HeldZeros`.
        self.begun |= {each.name for each in self.matrices if each.parameter.any()}
        self.masks = [(each.parameter, pruned[each.name] != 0) for each in self.matrices if each.name in self.begun]
        self.settle_()

    def _pruned(self, prune: PruneWeights | None) -> tuple[Matrix, ...]:
        network = self.model if prune is None else prune.apply(self.model, self.job)
        return matrices(network, vectors=True)

    @torch.no_grad()
    def _weaken_(self, factor: float) -> None:
        """Multiply what was taken away."""
        for parameter, mask in self.masks:
            gone = parameter * factor if factor else torch.zeros(())
            parameter.copy_(torch.where(mask, parameter, gone))
