"""Constraints: what holds of the weights through a training, such as zeros that a pruning left."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from paring.graph.weights import matrices


class Constraint(ABC):
    """Called by the training loop: `shown_` around each forward and backward, `settle_` after each step of the weights.

    The gradient is taken at the weights that are shown, and applied to those that are kept (the straight-through
    estimator of Bengio et al. 2013, where the two differ).
    """

    @contextmanager
    def shown_(self, share: float) -> Iterator[None]:
        """The weights as the network is to see them, `share` of the training being done."""
        yield

    @abstractmethod
    def settle_(self) -> None:
        """Bring the weights back to what holds."""

    def finish_(self) -> None:
        """The training is over: from now on the weights are what they are."""
        self.settle_()


class HeldZeros(Constraint):
    """The weights that are exactly zero now stay so.

    A weight that training made is hardly ever zero, one that pruning took away always is. What is zero as a whole is
    left free: so biases begin, and networks whose last layer of a branch is meant to start from nothing. So is a vector
    that has zeros in the `original` too, as the biases of an LSTM have.
    """

    def __init__(self, model: nn.Module, original: nn.Module) -> None:
        self._zeros: list[tuple[Tensor, Tensor]] = []
        begun = {
            name
            for name, value in original.named_parameters()
            if max(value.shape, default=1) == value.numel() and not value.all()
        }
        for matrix in matrices(model, vectors=True):
            zeros = matrix.parameter.detach() == 0
            if zeros.any() and not zeros.all() and matrix.name not in begun:
                self._zeros.append((matrix.parameter, zeros))

    @torch.no_grad()
    def settle_(self) -> None:
        """Set them to zero again."""
        for parameter, zeros in self._zeros:
            parameter.masked_fill_(zeros, 0)


def _one_row(values: Tensor) -> bool:
    """Whether all dimensions but one are of size 1, if there are others."""
    return values.numel() == max(values.shape, default=1)
