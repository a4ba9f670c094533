"""The settings of one training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from torch import optim

from paring.errors import TechniqueError
from paring.settings import check_types
from paring.train.schedule import Schedule

Precision = Literal["auto", "float32", "bfloat16", "float16"]
Optimizer = Literal["sgd", "momentum", "nesterov", "rmsprop", "adam", "adamw"]
Groups: TypeAlias = list[dict[str, Any]]
MakesOptimizer: TypeAlias = Callable[[Groups], optim.Optimizer]
"""(groups of parameters as torch has them) -> optimizer: `lambda groups: torch.optim.NAdam(groups)`."""

LARGEST_AVERAGED = 0.5
"""Before that weights are far from where they end, and may have more bits than then."""


@dataclass(frozen=True)
class Training:
    """Gradient steps: how many, how long, and in which numbers.

    `learning_rate` is the peak, reached after the share `warmup` of the training; `schedule` says how it falls.
    `momentum` is Adam's first beta too. `weight_decay` spares biases and normalisation; that of "adamw" is decoupled
    (Loshchilov and Hutter 2019), all others add it to the gradient. `clip_norm` bounds the norm of the gradient over
    all parameters, which is the mean of `accumulate` batches. With `averaged` the weights become the mean of those from
    so large a share of the training at its end. `precision` is what is multiplied in, "auto" for bfloat16 where the
    hardware does that; the weights are always float32. In float16 the loss is scaled. A `compiled` network takes about
    a minute before its first step, and less time for each one.
    """

    epochs: int
    learning_rate: float
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warmup: float = 0.1
    clip_norm: float = 5.0
    precision: Precision = "auto"
    optimizer: Optimizer | MakesOptimizer = "nesterov"
    schedule: Schedule = "cosine"
    accumulate: int = 1
    averaged: float = 0.0
    compiled: bool = False

    def __post_init__(self) -> None:
        check_types(self)
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
            raise TechniqueError(f"clip_norm={self.clip_norm} must be above 0; a very large one is no limit.")
        if isinstance(self.optimizer, type):
            name = self.optimizer.__name__
            raise TechniqueError(f"optimizer={name} is a class: give a function, as lambda groups: {name}(groups).")
        if self.accumulate < 1:
            raise TechniqueError(f"accumulate={self.accumulate} must be 1 or more: so many batches make a step.")
        if not 0 <= self.averaged <= LARGEST_AVERAGED:
            raise TechniqueError(
                f"averaged={self.averaged} must lie between 0 and {LARGEST_AVERAGED}: it is a share of the training."
            )
