"""Job: what a technique is given to work with, beside the network itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from paring.data.batches import calibration_batches
from paring.errors import TaskError, TimeUpError
from paring.types import Batch, Task

if TYPE_CHECKING:
    from torch import nn

Say = Callable[[str], None]


def _silent(message: str) -> None:
    """Say nothing."""


@dataclass(frozen=True)
class Job:
    """One application of techniques to one task.

    `calibrate` holds the batches whose activations techniques may observe; they never come from the certification
    split. `deadline_s` is a `time.monotonic()` that training must not pass; what follows a training may take `grace_s`
    longer. `say` takes one line of progress.
    """

    task: Task
    calibrate: tuple[Batch, ...]
    seed: int = 0
    threads: int | None = None
    deadline_s: float | None = None
    grace_s: float = 0.0
    say: Say = _silent

    @classmethod
    def of(cls, task: Task, *, seed: int = 0, threads: int | None = None) -> Job:
        """The job of a task alone, as needed to use a technique by hand."""
        return cls(task, calibration_batches(task), seed=seed, threads=threads)

    @property
    def original(self) -> nn.Module:
        """The task's network: the teacher of every fine-tuning."""
        if isinstance(self.task.model, Path):
            raise TaskError(f"{self.task.model} is a graph: this technique needs the task's network as an nn.Module.")
        return self.task.model

    def time_left_s(self) -> float:
        """Seconds until the deadline; infinity without one."""
        return float("inf") if self.deadline_s is None else self.deadline_s - time.monotonic()

    def check_time(self) -> None:
        """Raise TimeUpError past the deadline and its grace: for loops that may take minutes on a slow network."""
        if self.time_left_s() + self.grace_s <= 0:
            raise TimeUpError("the time limit ended before this was done: allow more time.")

    def within(self, time_limit_s: float) -> Job:
        """The same job with a deadline that many seconds from now, or its own if that is earlier."""
        return replace(self, deadline_s=time.monotonic() + min(time_limit_s, self.time_left_s()))
