"""The settings of one training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from paring.errors import TechniqueError

Precision = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Training:
    """Stochastic gradient descent with Nesterov momentum and a one-cycle learning rate.

    `learning_rate` is the peak, reached after the share `warmup` of the training. `weight_decay` spares biases and
    normalisation. `clip_norm` bounds the norm of the gradient over all parameters. `precision` is what is multiplied
    in, "auto" for bfloat16 where the hardware does that; the weights are always float32. In float16 the loss is scaled.
    """

    epochs: int
    learning_rate: float
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warmup: float = 0.1
    clip_norm: float = 5.0
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise TechniqueError(f"epochs={self.epochs} must be 1 or more.")
        if not self.learning_rate > 0:
            raise TechniqueError(f"learning_rate={self.learning_rate} must be above 0, for example 0.05.")
        if not 0 < self.momentum < 1:
            raise TechniqueError(f"momentum={self.momentum} must lie between 0 and 1, for example 0.9.")
        if not self.weight_decay >= 0:
            raise TechniqueError(f"weight_decay={self.weight_decay} must be 0 or more, for example 0.0001.")
        if not 0 <= self.warmup < 1:
            raise TechniqueError(f"warmup={self.warmup} must be at least 0 and below 1: it is a share of the training.")
        if not self.clip_norm > 0:
            raise TechniqueError(f"clip_norm={self.clip_norm} must be above 0; infinity for no limit.")
        if self.precision not in get_args(Precision):
            known = ", ".join(get_args(Precision))
            raise TechniqueError(f"precision={self.precision!r} is unknown: choose one of {known}.")
