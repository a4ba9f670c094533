"""The task's metric on stored rows, as a network in another process answers them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paring.backends.isolated import IsolatedSession
from paring.data.rows import Rows
from paring.errors import TaskError
from paring.types import Array, Arrays, CorpusMetric, Signature, Task, check_finite, restructured

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
    try:
        with torch.inference_mode():
            found = task.metric(restructured(tensors, signature.output_structure), targets)
    except Exception as error:
        raise TaskError(f"the metric raised {type(error).__name__} on {count} rows: {error}") from error
    return _checked_scores(found, count, task)


def _checked_scores(found: object, count: int, task: Task) -> Array:
    corpus = isinstance(task.metric, CorpusMetric)
    wanted = f"({count}, k)" if corpus else f"({count},)"
    if not isinstance(found, Tensor):
        raise TaskError(f"the metric returned a {type(found).__name__}: return a tensor of shape {wanted}.")
    if found.ndim != (2 if corpus else 1) or len(found) != count:
        raise TaskError(
            f"the metric returned shape {tuple(found.shape)} for {count} rows: return one score a row, shape {wanted}."
        )
    scores: Array = found.detach().cpu().to(torch.float64).numpy()
    check_finite({"score": scores}, "the metric's")
    low, high = task.score_range
    if not corpus and (scores.min() < low or scores.max() > high):
        raise TaskError(
            f"the metric gave scores from {scores.min():g} to {scores.max():g}, outside score_range={task.score_range}"
            ": give the range that the metric can take, since the certificate rests on it."
        )
    return scores
