"""Iterative pruning: some weights or channels go, the network is trained, more go; with rewinding, lottery tickets."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import torch
from torch import nn

from paring.data.job import Job
from paring.errors import TechniqueError
from paring.graph.weights import matrices
from paring.techniques.fine_tune import FineTune
from paring.techniques.prune_channels import PruneChannels
from paring.techniques.prune_weights import PruneWeights


@dataclass(frozen=True)
class IterativePruning(FineTune):
    """Prune a little, fine-tune, prune more: `rounds` times, with an equal part of the `epochs` in each.

    Han et al. 2015, Learning both Weights and Connections, section 3.4. With `rewind` the weights that stay go back to
    what they were as this technique began, before each training: iterative magnitude pruning with rewinding (Frankle et
    al. 2020). The lottery tickets of Frankle and Carbin (2019) rewind to weights from before any training: for those,
    begin with the untrained network. Only single weights can be rewound, since they keep their places.
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

    def settings(self) -> dict[str, Any]:
        """All settings, the pruning with its own."""
        return {**super().settings(), "prune": {"technique": self.prune.name, **self.prune.settings()}}

    def __str__(self) -> str:
        """As people read a recipe."""
        rewound = ", rewind=True" if self.rewind else ""
        return f"{self.name}(prune={self.prune}, rounds={self.rounds}{rewound}, epochs={self.epochs})"

    def check_fits(self, model: nn.Module) -> None:
        """Raise TechniqueError where the pruning's settings name what the network does not have."""
        self.prune.check_fits(model)

    def apply(self, model: nn.Module, job: Job) -> nn.Module:
        """The network after all rounds. Raises TaskError without training data."""
        network = model
        training = FineTune(**{name: getattr(self, name) for name in FineTune.__dataclass_fields__})
        steps = self._steps()
        training = training.with_epochs(math.ceil(self.epochs / len(steps)))
        for number, prune in enumerate(steps, 1):
            job.say(f"round {number} of {len(steps)}: {prune}")
            network = prune.apply(network, job)
            if self.rewind and isinstance(prune, PruneWeights):
                _rewind_(network, model, vectors=prune.vectors)
            network = training.apply(network, _hurried(job, len(steps) - number))
        return network

    def _steps(self) -> list[PruneWeights | PruneChannels]:
        """The prunings whose effects add up to the whole, each one more than that before: 2:4 comes in two steps."""
        if isinstance(self.prune, PruneChannels):
            return [self.prune.part(self.rounds)] * self.rounds
        steps = [self.prune.at(number / self.rounds) for number in range(1, self.rounds + 1)]
        return [step for step in dict.fromkeys(steps) if step is not None]

    @classmethod
    def variants(cls, model: nn.Module, job: Job) -> Iterator[Self]:
        """None: what it prunes, and how much, is for people to say. Raises TechniqueError that tells how."""
        raise TechniqueError(
            "what it prunes is for you to say: pass an object, as IterativePruning(prune=PruneChannels(0.3))."
        )


def _hurried(job: Job, rounds_left: int) -> Job:
    """The job with a deadline for the next of the rounds: it leaves as much time to each of those after it."""
    if job.deadline_s is None:
        return job
    return replace(job, deadline_s=job.deadline_s - job.time_left_s() * rounds_left / (rounds_left + 1))


@torch.no_grad()
def _rewind_(network: nn.Module, model: nn.Module, *, vectors: bool) -> None:
    """The first network's weights, where the second has no zeros."""
    zeros = [(each, each.parameter.detach() == 0) for each in matrices(network, vectors=vectors)]
    network.load_state_dict(model.state_dict())
    for matrix, gone in zeros:
        matrix.parameter.masked_fill_(gone, 0)
