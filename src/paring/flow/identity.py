"""What a run was asked, as values that a later run can be held against: it may only go on with the same question."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from paring.artifact.files import sha256_of
from paring.data.batches import known_length, sample, tensors_of
from paring.data.held import held
from paring.data.seeding import seeded
from paring.fingerprint import fingerprint
from paring.flow.request import Request
from paring.measure.size import network_files
from paring.types import Batch, Task

DIGESTED = frozenset({"model", "evaluate", "train", "calibrate", "metric", "loss", "techniques", "backends"})
"""What an identity holds as digests, which tell people nothing."""


def identity(request: Request, version: str, evaluate_digest: str) -> dict[str, Any]:
    """What a resumed run must have in common with the first one, by the names that people type.

    The time limit may grow.
    """
    task = request.task
    return {
        "version": version,
        "task name": task.name,
        "model": model_digest(task),
        "evaluate": evaluate_digest,
        "train": data_digest(task.train, "train", request.seed),
        "calibrate": data_digest(task.calibrate, "calibrate", request.seed),
        "metric": fingerprint(task.metric),
        "loss": fingerprint(task.loss),
        "score_range": [float(end) for end in task.score_range],
        **asdict(request.budget),
        "threads": request.thread_count,
        "seed": request.seed,
        "techniques": [fingerprint(technique) for technique in (*request.all_techniques(), *request.recipes)],
        "backends": [fingerprint(backend) for backend in request.all_backends()],
    }


def changes(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The names of what differs between two identities, with both values where a person can read them."""
    names = [name for name in {**now, **earlier} if earlier.get(name) != now.get(name)]
    return [_told(name, earlier.get(name), now.get(name)) for name in names]


def _told(name: str, before: Any, after: Any) -> str:
    return name if name in DIGESTED else f"{name} ({before} there, {after} here)"


def model_digest(task: Task) -> str:
    """sha256 of the network: its names, shapes and weights, or all files of the graph."""
    total = hashlib.sha256()
    if isinstance(task.model, Path):
        for file in network_files(task.model):
            total.update(sha256_of(file).encode())
        return total.hexdigest()
    total.update(repr(task.model).encode())
    for name, value in task.model.state_dict().items():
        # A module may keep what is no tensor, as its extra state.
        total.update(f"{name} {fingerprint(value)}".encode())
    return total.hexdigest()


def data_digest(batches: Iterable[Batch] | None, name: str, seed: int = 0) -> str | None:
    """A digest of data that may be large: all that it holds in memory, its length, its first batch; None without data.

    Of data that is neither `held` nor begins alike at the same seed only shapes and types count.
    """
    if batches is None:
        return None
    first, again = (_first(batches, name, seed) for _ in range(2))
    known = [fingerprint(first), fingerprint(again)]
    if known[0] != known[1]:
        known = [_kind(value) for value in (*tensors_of(first[0]), *tensors_of(first[1]))]
    return fingerprint((known_length(batches), known, held(batches)))


def _first(batches: Iterable[Batch], name: str, seed: int) -> Batch:
    with seeded(seed):
        return sample(batches, name)


def _kind(value: Any) -> str:
    """What is the same in every batch."""
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
