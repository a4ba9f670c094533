"""Job: what a technique is given to work with, beside the network itself."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from paring.data.batches import calibration_batches, first_rows, sample
from paring.errors import TaskError, TimeUpError
from paring.types import Batch, Inputs, Task

if TYPE_CHECKING:
    from torch import nn

Say = Callable[[str], None]
Measured = Callable[[str, Callable[[], int]], int]
Found = TypeVar("Found")

SAMPLE_ROWS = 2
REMEMBERED = 4
"""Observations that a job keeps: those of a few graphs are asked for again and again, and each takes memory."""


def _silent(message: str) -> None:
    """Say nothing."""


def _anew(what: str, measure: Callable[[], int]) -> int:
    """Measure it."""
    return measure()


@dataclass(frozen=True)
class Job:
    """One application of techniques to one task.

    `calibrate` holds the batches whose activations techniques may observe. In a run neither they nor `task.evaluate`
    hold rows of the certification split. `deadline_s` is a `time.monotonic()` that training must not pass; what follows
    a training may take `grace_s` longer. `say` takes one line of progress. `measured` gives what a machine is measured
    to be, by its name and who measures it: in a run once, so that one that goes on comes to the same.
    """

    task: Task
    calibrate: tuple[Batch, ...]
    seed: int = 0
    threads: int | None = None
    deadline_s: float | None = None
    grace_s: float = 0.0
    say: Say = _silent
    measured: Measured = _anew
    _observed: OrderedDict[str, Any] = field(default_factory=OrderedDict, init=False, repr=False, compare=False)

    @classmethod
    def of(cls, task: Task, *, seed: int = 0, threads: int | None = None) -> Job:
        """The job of a task alone, as needed to use a technique by hand."""
        return cls(task, calibration_batches(task, seed), seed=seed, threads=threads)

    @property
    def original(self) -> nn.Module:
        """The task's network: the teacher of every fine-tuning."""
        if isinstance(self.task.model, Path):
            raise TaskError(f"{self.task.model} is a graph: this technique needs the task's network as an nn.Module.")
        return self.task.model

    @property
    def sample(self) -> Inputs:
        """The inputs of the first rows that may be observed: a few, to see how a network works."""
        inputs, _ = sample(first_rows(self.calibrate, SAMPLE_ROWS))
        return inputs

    def once(self, key: str, observe: Callable[[], Found]) -> Found:
        """What `observe` gives, made anew only where it was not lately: `key` names all that it depends on.

        Many settings of a technique rest on the same pass over the calibration rows.
        """
        found: Found = self._observed.pop(key) if key in self._observed else observe()
        self._observed[key] = found
        if len(self._observed) > REMEMBERED:
            self._observed.popitem(last=False)
        return found

    @property
    def has_observed(self) -> bool:
        """Whether anything was asked of `once`."""
        return bool(self._observed)

    def time_left_s(self) -> float:
        """Seconds until the deadline; infinity without one."""
        return float("inf") if self.deadline_s is None else self.deadline_s - time.monotonic()

    @property
    def end_s(self) -> float:
        """The `time.monotonic()` of the deadline with its grace; infinity without one."""
        return float("inf") if self.deadline_s is None else self.deadline_s + self.grace_s

    def check_time(self) -> None:
        """Raise TimeUpError past the deadline and its grace: for loops that may take minutes on a slow network."""
        if self.time_left_s() + self.grace_s <= 0:
            raise TimeUpError("the time limit ended before this was done: allow more time.")
