"""Request: everything that `optimize` was asked, checked before any time is spent."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import torch

from paring import registry
from paring.backends.base import Backend
from paring.errors import BudgetError, InputError
from paring.techniques.base import Technique
from paring.tune import Candidate, Trial
from paring.types import Budget, Task

Executor: TypeAlias = Callable[[Callable[[Candidate], Trial], Iterable[Candidate]], Iterator[Trial]]
"""Runs the trials of a round, like the built-in `map`, in this process; they don't depend on each other."""

SMALLEST_TIME_LIMIT_S = 10.0


@dataclass(frozen=True)
class Request:
    """The arguments of `optimize`; `techniques` and `backends` hold classes (tried in variants) or objects."""

    task: Task
    budget: Budget
    out: Path
    time_limit_s: float = 1200.0
    techniques: Sequence[Technique | type[Technique]] | None = None
    backends: Sequence[Backend | type[Backend]] | None = None
    threads: int | None = None
    seed: int = 0
    resume: bool = True
    executor: Executor = field(default=map)
    progress: bool = True

    def __post_init__(self) -> None:
        if not self.time_limit_s >= SMALLEST_TIME_LIMIT_S:
            raise BudgetError(f"time_limit_s={self.time_limit_s} must be at least {SMALLEST_TIME_LIMIT_S:g} seconds.")
        if self.threads is not None and self.threads < 1:
            raise BudgetError(f"threads={self.threads} must be 1 or more, or None for all cores.")
        if isinstance(getattr(self.executor, "__self__", None), ProcessPoolExecutor):
            raise InputError(
                "executor is the map of a ProcessPoolExecutor, and trials share networks and a clock that can't be "
                "sent to another process: pass the map of a ThreadPoolExecutor, or none."
            )

    @property
    def thread_count(self) -> int:
        """Threads for each measured network: what was asked, else all cores that this process may use."""
        return self.threads or len(os.sched_getaffinity(0))

    def all_techniques(self) -> tuple[Technique | type[Technique], ...]:
        """What was passed, else every technique that is installed."""
        return installed("technique") if self.techniques is None else tuple(self.techniques)

    def all_backends(self) -> tuple[Backend | type[Backend], ...]:
        """What was passed, else every backend that is installed."""
        return installed("backend") if self.backends is None else tuple(self.backends)

    def identity(self, version: str, data_digest: str) -> dict[str, Any]:
        """What a resumed run must have in common with the first one. The time limit may grow."""
        return {
            "version": version,
            "model": model_digest(self.task),
            "data": data_digest,
            "budget": asdict(self.budget),
            "threads": self.thread_count,
            "seed": self.seed,
            "techniques": [str(t) if isinstance(t, Technique) else t.__name__ for t in self.all_techniques()],
            "backends": [str(b) if isinstance(b, Backend) else b.__name__ for b in self.all_backends()],
        }


def installed(kind: registry.Kind) -> tuple[type[Any], ...]:
    """Every class of that kind that has a name."""
    return tuple(registry.find(kind, name) for name in registry.names(kind))


def model_digest(task: Task) -> str:
    """sha256 of the network: its names, shapes and weights, or the graph's file."""
    total = hashlib.sha256()
    if isinstance(task.model, Path):
        with task.model.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    total.update(repr(task.model).encode())
    for name, value in task.model.state_dict().items():
        total.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        total.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
