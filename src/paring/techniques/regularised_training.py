"""Regularised training: weights that are not needed shrink, so that a pruning that follows takes little away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from paring.data.job import Job
from paring.errors import TechniqueError
from paring.graph.channels import ChannelGroup, channel_groups
from paring.graph.weights import NORMS, matrices
from paring.ops.penalties import PENALTIES, l1
from paring.techniques.base import ModuleTechnique, TrainingTechnique
from paring.techniques.fine_tune import FineTune, fine_tuning_of
from paring.techniques.prune_channels import PruneChannels
from paring.techniques.prune_weights import PruneWeights
from paring.train.constraint import Constraint, HeldZeros
from paring.train.loop import Loss

Penalty = Literal["l1", "l2", "group_lasso", "norm_scale"]


@dataclass(frozen=True)
class RegularisedTraining(FineTune):
    """Fine-tuning with strength * penalty added to the loss; a pruning is to follow.

    `penalty`: "l1" and "l2" of all weights, "group_lasso" of the channels that can be pruned, each with all that makes
    it, "norm_scale" the l1 of the factors of normalisation (Liu et al. 2017, Network Slimming, eq. 1). With `growing`
    the strength rises from nothing, step by step, and only the half that is weakest at that moment is pressed: growing
    regularisation (Wang et al. 2021, Neural Pruning via Growing Regularization; there the share that will be pruned).
    """

    penalty: Penalty = "l1"
    strength: float = 1e-4
    growing: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.strength > 0:
            raise TechniqueError(f"strength={self.strength} must be above 0, for example 0.0001.")

    def shaped(self, taught: Loss, student: nn.Module, job: Job) -> tuple[Loss, Constraint]:
        """What the teacher says with the penalty added. TechniqueError where there is nothing to press."""
        views = _views(self.penalty, student, job)
        measure = PENALTIES.get(self.penalty, l1)

        def pressed(student: nn.Module, inputs: Any, targets: Any, share: float) -> Tensor:
            weights, strength = [view() for view in views], self.strength
            if self.growing:
                weights, strength = [_weaker_half(each) for each in weights], strength * share
            return taught(student, inputs, targets, share) + strength * measure(weights)

        return pressed, HeldZeros(student, job.original)

    @classmethod
    def variants(cls, model: nn.Module, job: Job) -> Iterator[Self]:
        """None: alone it makes nothing smaller. Raises TechniqueError that says so."""
        raise TechniqueError(
            "it makes nothing smaller itself: it is raced in front of PruneChannels or PruneWeights where these lead "
            "to a long training."
        )

    @classmethod
    def before(cls, technique: ModuleTechnique, training: TrainingTechnique) -> Iterator[Self]:
        """Whole channels are pressed where such are to go, else single weights."""
        if isinstance(technique, PruneWeights | PruneChannels):
            penalty: Penalty = "group_lasso" if isinstance(technique, PruneChannels) else "l1"
            yield cls(**fine_tuning_of(training), penalty=penalty)


View = Callable[[], Tensor]
"""Weights as they are now, a row a channel, through which gradients flow."""


def _weaker_half(weights: Tensor) -> Tensor:
    """The channels of the smaller norm; of factors, which have one number a channel, the smaller ones."""
    order = weights.detach().square().sum(1).argsort(stable=True)
    return weights[order[: max(1, len(order) // 2)]]


def _views(penalty: str, student: nn.Module, job: Job) -> list[View]:
    """The weights that a penalty is about."""
    if penalty == "group_lasso":
        groups = [group for group in channel_groups(student, job.sample) if not group.frozen]
        views = [view for group in groups if (view := _channels(student, group))]
    elif penalty == "norm_scale":
        factors = [module.weight for module in student.modules() if isinstance(module, NORMS)]
        views = [lambda each=each: each[:, None] for each in factors if each is not None]  # type: ignore[misc]
    else:
        weights = matrices(student, job.sample)
        views = [lambda matrix=matrix: matrix.rows(matrix.parameter) for matrix in weights]  # type: ignore[misc]
    if not views:
        what = {"group_lasso": "channels that can be pruned", "norm_scale": "normalisation with factors"}
        raise TechniqueError(f"penalty={penalty!r} finds no {what.get(penalty, 'weights')} in this network.")
    return views


def _channels(student: nn.Module, group: ChannelGroup) -> View | None:
    """All weights that make the channels of a group, a row a channel; None where they come of constants alone."""
    parameters = dict(student.named_parameters())
    producers = [member for member in group.members if member.produces and member.slot.tensor in parameters]
    if not producers:
        return None
    return lambda: torch.cat([member.rows(parameters[member.slot.tensor]) for member in producers], 1)
