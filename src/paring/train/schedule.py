"""The learning rate over a training that ends by its number of steps or by the clock, whichever comes first."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Schedule = Literal["cosine", "one-cycle", "linear", "step", "exponential", "constant"]
ONE_CYCLE_START = 1 / 25
"""Of the peak, as in `torch.optim.lr_scheduler.OneCycleLR`."""
EXPONENTIAL_END = 1e-3


def rate_factor(schedule: Schedule, progress: float, warmup: float) -> float:
    """Factor on the peak learning rate at `progress`, from 0 to 1: up over the first `warmup` share, then down.

    Up in a line from 0, but for "one-cycle" (Smith and Topin 2017; their momentum changes too): half a cosine from 1/25
    to 1. Down by `schedule`: "cosine", as "one-cycle", half a cosine to 0 (Loshchilov and Hutter 2017); "linear" in a
    line to 0; "step" to a tenth halfway, and again after three quarters (He et al. 2015, on CIFAR-10); "exponential"
    by the same share at each step, to 1/1000; "constant" not at all.
    """
    progress = min(max(progress, 0.0), 1.0)
    if progress >= warmup:
        return _FALLS[schedule]((progress - warmup) / (1 - warmup))
    up = progress / warmup
    return ONE_CYCLE_START + (1 - ONE_CYCLE_START) * (1 - _half_cosine(up)) if schedule == "one-cycle" else up


def _half_cosine(share: float) -> float:
    """From 1 to 0."""
    return 0.5 * (1 + math.cos(math.pi * share))


_FALLS: Mapping[Schedule, Callable[[float], float]] = MappingProxyType(
    {
        "cosine": _half_cosine,
        "one-cycle": _half_cosine,
        "linear": lambda share: 1 - share,
        "step": lambda share: 0.1 ** ((share >= 1 / 2) + (share >= 3 / 4)),
        "exponential": lambda share: EXPONENTIAL_END**share,
        "constant": lambda share: 1.0,
    }
)


@dataclass(frozen=True)
class Pace:
    """How far a training has come: progress = max(share of the steps, share of the time limit).

    So the learning rate reaches zero at the end even where the clock ends the training early. `steps_per_epoch` is
    None while nobody knows it: then only whole epochs and the clock tell.
    """

    epochs: int
    steps_per_epoch: int | None
    start_s: float
    deadline_s: float | None

    def progress(self, epoch: int, step: float, now_s: float) -> float:
        """From 0 to 1, when `step` steps of epoch number `epoch` (from 0) are done."""
        return min(1.0, max(self.of_steps(epoch, step), self.of_time(now_s)))

    def of_steps(self, epoch: int, step: float) -> float:
        """Share of the steps that are done; an epoch longer than announced waits at its end."""
        within = min(step / self.steps_per_epoch, 1.0) if self.steps_per_epoch else 0.0
        return (epoch + within) / self.epochs

    def of_time(self, now_s: float) -> float:
        """Share of the time limit that is gone; 0 without one."""
        if self.deadline_s is None:
            return 0.0
        limit_s = self.deadline_s - self.start_s
        return (now_s - self.start_s) / limit_s if limit_s > 0 else 1.0

    def time_left_s(self, progress: float, now_s: float) -> float:
        """Seconds to the end at the pace so far, at most to the deadline; infinity before anything is known."""
        at_this_pace = (now_s - self.start_s) * (1 - progress) / progress if progress > 0 else math.inf
        return at_this_pace if self.deadline_s is None else min(at_this_pace, self.deadline_s - now_s)
