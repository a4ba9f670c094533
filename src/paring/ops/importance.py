"""How much a channel matters: from the weights that make it, read it and scale it, to one number a channel."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import torch
from torch import Tensor

from paring.errors import TechniqueError


@dataclass(frozen=True, eq=False)
class GroupWeights:
    """Weights of one group of coupled channels, each a tensor (channels, n): row c is what belongs to channel c.

    `producers` make the channels (a convolution's filters with n = in * kh * kw), `consumers` read them, `scales` are
    the factors of normalisation layers in between. `consumers` and `scales` may be empty.
    """

    producers: tuple[Tensor, ...]
    consumers: tuple[Tensor, ...]
    scales: tuple[Tensor, ...]

    @property
    def channels(self) -> int:
        """Number of channels."""
        return int(self.producers[0].shape[0])


Criterion: TypeAlias = Callable[[GroupWeights], Tensor]
"""The weights of a group -> importance, shape (channels,), finite; within a group the lowest go first."""


def magnitude_l1(weights: GroupWeights) -> Tensor:
    """Sum of absolute weights over all producers, shape (channels,). Li et al. 2017, Pruning Filters, section 3.1.

    Where several layers make the same channels, their sums are added.
    """
    return torch.stack([producer.abs().sum(1) for producer in weights.producers]).sum(0)


def magnitude_l2(weights: GroupWeights) -> Tensor:
    """Euclidean norm of the weights of all producers taken as one vector, shape (channels,)."""
    return torch.stack([producer.square().sum(1) for producer in weights.producers]).sum(0).sqrt()


def norm_scale(weights: GroupWeights) -> Tensor:
    """Sum of the absolute factors of normalisation, shape (channels,). Liu et al. 2017, Network Slimming, section 3.

    Where there is no normalisation, `magnitude_l2` decides.
    """
    if not weights.scales:
        return magnitude_l2(weights)
    return torch.stack([scale.abs().sum(1) for scale in weights.scales]).sum(0)


CRITERIA: Mapping[str, Criterion] = MappingProxyType(
    {"magnitude_l1": magnitude_l1, "magnitude_l2": magnitude_l2, "norm_scale": norm_scale}
)


def criterion_of(criterion: str | Criterion) -> Criterion:
    """The criterion of that name, or the function itself. TechniqueError names the closest known ones."""
    if not isinstance(criterion, str):
        return criterion
    if criterion not in CRITERIA:
        close = difflib.get_close_matches(criterion, CRITERIA, n=3, cutoff=0.0)
        raise TechniqueError(f"criterion={criterion!r} is unknown: choose {', '.join(close)}, or pass a function.")
    return CRITERIA[criterion]


def importance(criterion: str | Criterion, weights: GroupWeights, where: str) -> Tensor:
    """The criterion's answer for the group `where`, checked: shape (channels,), and no NaN or infinity."""
    scores = criterion_of(criterion)(weights)
    if not isinstance(scores, Tensor) or tuple(scores.shape) != (weights.channels,):
        given = f"shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
        wanted = f"a tensor of shape ({weights.channels},)"
        raise TechniqueError(f"the criterion gave {given} for {where!r}: it must return {wanted}.")
    if not torch.isfinite(scores).all():
        channel = int((~torch.isfinite(scores)).nonzero()[0])
        value = float(scores[channel])
        raise TechniqueError(f"the criterion gave {value} for channel {channel} of {where!r}: it must be finite.")
    return scores.detach().double().cpu()
