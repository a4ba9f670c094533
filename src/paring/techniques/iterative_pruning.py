"""Iterative pruning: some weights or channels go, the network is trained, more go; with rewinding, lottery tickets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import torch
from torch import nn

from paring.data.job import Job
from paring.errors import TechniqueError
from paring.graph.copies import copied
from paring.graph.weights import matrices
from paring.techniques.base import ModuleTechnique, TrainingTechnique
from paring.techniques.channel_plan import ChannelPlan
from paring.techniques.fine_tune import FineTune, fine_tuning_of
from paring.techniques.prune_channels import GroupSizes, PruneChannels
from paring.techniques.prune_weights import PruneWeights
from paring.types import Coverage, Inputs, Task


@dataclass(frozen=True)
class IterativePruning(FineTune):
    """Prune a little, fine-tune, prune more: `rounds` times, with an equal part of the `epochs` in each training.

    With fewer epochs there are as many rounds as these. They end with what `prune` alone would leave: as many zeros,
    where no threshold decides on them, or the same sizes.
    Han et al. 2015, Learning both Weights and Connections, section 3.4. With `rewind` the network is trained before the
    first round too, each round takes what is small by then, and the weights that stay go back to what they were as this
    technique began: iterative magnitude pruning with rewinding (Frankle et al. 2020). The lottery tickets of Frankle
    and Carbin (2019) rewind to weights from before any training: for those, begin with the untrained network. Only
    single weights can be rewound, since they keep their places.
    """

    shrinks: ClassVar[bool] = True

    prune: PruneWeights | PruneChannels = field(default_factory=lambda: PruneWeights(0.8, scope="global"))
    rounds: int = 4
    rewind: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rounds < 1:
            raise TechniqueError(f"rounds={self.rounds} must be 1 or more.")
        if self.rewind and isinstance(self.prune, PruneChannels):
            raise TechniqueError("rewind=True needs weights that keep their places: prune by PruneWeights.")
        if self.rewind and isinstance(self.prune, PruneWeights) and self.prune.reconstruct:
            raise TechniqueError(
                f"rewind=True gives up the weights that {self.prune} solves for: leave one of them out."
            )

    def check_fits(self, model: nn.Module, task: Task) -> None:
        """Raise TechniqueError where the pruning's settings ask for what the network or the task does not have."""
        self.prune.check_fits(model, task)
        super().check_fits(model, task)

    def apply(self, model: nn.Module, job: Job) -> nn.Module:
        """The network after all rounds; an unchanged copy where no channels can go. TaskError without training data."""
        network = copied(model).eval()
        steps = self._steps(network, job)
        if self.rewind:
            network = self._trained(network, job, 0, len(steps) + 1)
        for number, step in enumerate(steps, 1):
            job.say(f"round {number} of {len(steps)}: {step}")
            network = step.apply(network, job)
            if self.rewind and isinstance(step, PruneWeights):
                _rewind_(network, model, job.sample, vectors=step.vectors)
            network = self._trained(network, job, number - (not self.rewind), len(steps) + self.rewind)
        return network

    def _trained(self, network: nn.Module, job: Job, number: int, of: int) -> nn.Module:
        """The network after one of so many trainings, the first being 0: as many epochs in each, all of them in all."""
        epochs = self.epochs * (number + 1) // of - self.epochs * number // of
        return self.bare(epochs).apply(network, _hurried(job, of - number - 1)) if epochs else network

    def _steps(self, model: nn.Module, job: Job) -> Sequence[PruneWeights | _Narrowing]:
        """The prunings of the rounds, each one more than that before: 2:4 comes in two steps, one channel in one.

        Each is a share of the whole in terms of the first network, so that the last one ends where `prune` alone does.
        """
        rounds = min(self.rounds, self.epochs)
        if isinstance(self.prune, PruneChannels):
            return _narrowings(self.prune, ChannelPlan.of(model, job), rounds)
        steps = [self.prune.at(number / rounds) for number in range(1, rounds + 1)]
        return [step for step in dict.fromkeys(steps) if step is not None]

    def continued(self, epochs: int) -> FineTune:
        """Fine-tuning: another round would take away more."""
        return self.bare(epochs)

    def shrunk(self, model: nn.Module, job: Job) -> nn.Module:
        """Pruned at once and not trained, which comes to the sizes that the rounds come to."""
        if isinstance(self.prune, PruneWeights):
            return model
        plan = ChannelPlan.of(model, job)
        return self.prune.narrowed(plan, self.prune.sizes(plan), job)

    def coverage(self, before: nn.Module, after: nn.Module, job: Job) -> Coverage:
        """What the pruning has done: every weighted layer with its share of zeros, or its old and new size."""
        return replace(self.prune.coverage(before, after, job), technique=str(self))

    @classmethod
    def variants(cls, model: nn.Module, job: Job) -> Iterator[Self]:
        """None: it is raced in the place of a pruning that was chosen. Raises TechniqueError that says so."""
        raise TechniqueError(
            "it is raced in the place of PruneChannels or PruneWeights where these lead to a long training; or pass an "
            "object, as IterativePruning(prune=PruneChannels(0.3))."
        )

    @classmethod
    def around(cls, technique: ModuleTechnique, training: TrainingTechnique) -> Iterator[Self]:
        """The pruning in rounds, with the training's settings."""
        if isinstance(technique, PruneWeights | PruneChannels):
            yield cls(**fine_tuning_of(training), prune=technique)


@dataclass(frozen=True, eq=False)
class _Narrowing:
    """A round of channel pruning: each group of the network at this moment comes to a size."""

    prune: PruneChannels
    sizes: GroupSizes
    channels: int

    def apply(self, model: nn.Module, job: Job) -> nn.Module:
        """The smaller network."""
        return self.prune.narrowed(ChannelPlan.of(model, job), self.sizes, job)

    def __str__(self) -> str:
        """What stays."""
        return f"{self.prune}, {sum(self.sizes.values())} of {self.channels} channels stay"


def _narrowings(prune: PruneChannels, plan: ChannelPlan, rounds: int) -> Sequence[_Narrowing]:
    """From the sizes of all groups to those that the pruning leaves, by as many channels in each round as in another.

    Only what stays in the end is a multiple of `round_to`: sizes in between are never run for their speed.
    """
    first = {group.name: group.channels for group in plan.groups if not group.frozen}
    last = prune.sizes(plan)
    every = [first]
    for number in range(1, rounds + 1):
        sizes = {group: size - (size - last[group]) * number // rounds for group, size in first.items()}
        if sizes != every[-1]:
            every.append(sizes)
    return [_Narrowing(prune, sizes, sum(first.values())) for sizes in every[1:]]


def _hurried(job: Job, rounds_left: int) -> Job:
    """The job with a deadline for the next of the rounds: it leaves as much time to each of those after it."""
    if job.deadline_s is None:
        return job
    return replace(job, deadline_s=job.deadline_s - job.time_left_s() * rounds_left / (rounds_left + 1))


@torch.no_grad()
def _rewind_(network: nn.Module, model: nn.Module, inputs: Inputs, *, vectors: bool) -> None:
    """The first network's weights, where the second has no zeros."""
    zeros = [(each, each.parameter.detach() == 0) for each in matrices(network, inputs, vectors=vectors)]
    network.load_state_dict(model.state_dict())
    for matrix, gone in zeros:
        matrix.parameter.masked_fill_(gone, 0)
