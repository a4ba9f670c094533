"""The task's metric on stored rows, as a network in another process answers them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from paring.backends.isolated import IsolatedSession
from paring.data.checks import user_scores
from paring.data.rows import Rows
from paring.errors import TaskError
from paring.types import Array, Arrays, Signature, Task, check_finite, restructured

CHUNK_ROWS = 2048
"""Rows whose outputs lie on disk at a time: it bounds the space, not the result."""


def row_scores(
    session: IsolatedSession,
    rows: Rows,
    task: Task,
    signature: Signature,
    *,
    start: int = 0,
    stop: int | None = None,
    batch_size: int = 64,
) -> Array:
    """Scores of the rows start..stop: float64 of shape (rows,), or (rows, k) statistics of a CorpusMetric.

    Raises TaskError where an output is NaN or infinite, or where the metric raises, returns another shape, NaN, or a
    score outside the task's `score_range`; BackendError where the network can't be run.
    """
    stop = len(rows) if stop is None else min(stop, len(rows))
    if not start < stop:
        raise TaskError(f"rows {start} to {stop} of {len(rows)} are none: there is nothing to score.")
    parts = [
        _chunk_scores(session, rows, task, signature, (at, min(at + CHUNK_ROWS, stop)), batch_size)
        for at in range(start, stop, CHUNK_ROWS)
    ]
    return np.concatenate(parts)


def _chunk_scores(
    session: IsolatedSession, rows: Rows, task: Task, signature: Signature, span: tuple[int, int], batch_size: int
) -> Array:
    with tempfile.TemporaryDirectory(prefix="paring-") as folder:
        files = session.run_rows(
            rows.input_files, start=span[0], stop=span[1], batch_size=batch_size, folder=Path(folder)
        )
        outputs: Arrays = {name: np.load(files[name]) for name in signature.output_names}
    check_finite(outputs, "the network's output")
    _, targets = rows.take(*span)
    return metric_scores(task, outputs, targets, signature)


def metric_scores(task: Task, outputs: Arrays, targets: Any, signature: Signature) -> Array:
    """The task's metric on outputs of shape (rows, ...) and targets in the user's structure; see `row_scores`."""
    count = len(next(iter(outputs.values())))
    tensors = {name: torch.from_numpy(value) for name, value in outputs.items()}
    return user_scores(task, restructured(tensors, signature.output_structure), targets, count)
