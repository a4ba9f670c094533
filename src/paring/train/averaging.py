"""Weights that are the mean over the last part of a training."""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor, nn


class Averaged:
    """The mean of the weights over the last `share` of a training. Izmailov et al. 2018, SWA, section 3.1.

    Of every step, where they take every epoch's end. Running statistics of normalisation are averaged too; theirs are
    gathered anew by a pass over the data.
    """

    def __init__(self, model: nn.Module, share: float) -> None:
        values = (value.detach() for value in chain(model.parameters(), model.buffers()))
        self._values = [value for value in values if share and value.is_floating_point()]
        self._begin = 1 - share
        self._means: list[Tensor] = []
        self._count = 0

    @torch.no_grad()
    def note(self, done: float) -> None:
        """Told after each step which share of the training is done."""
        if not self._values or done < self._begin:
            return
        if not self._count:
            self._means = [value.clone() for value in self._values]
        self._count += 1
        for mean, value in zip(self._means, self._values, strict=True):
            mean.lerp_(value, 1 / self._count)

    def forget(self) -> None:
        """The weights went back to what they were: begin anew."""
        self._count = 0

    @torch.no_grad()
    def put_(self) -> None:
        """The mean in place of the last weights, if any were noted."""
        for value, mean in zip(self._values if self._count else (), self._means, strict=False):
            value.copy_(mean)
