"""The task's metric on stored rows, as a network in another process answers them."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from paring.backends.isolated import IsolatedSession
from paring.data.checks import user_scores
from paring.data.rows import Rows
from paring.errors import TaskError
from paring.types import Array, Arrays, Signature, Task, check_finite, restructured

CHUNK_BYTES = 64 * 2**20
"""Outputs and targets that are in flight at a time, if that is more than one batch: it bounds the space."""

CHUNK_TIME_S = 5.0
"""About how long a chunk takes: whoever waits for the scores of a slow network can look at the clock between chunks."""


def score_chunks(
    session: IsolatedSession,
    rows: Rows,
    task: Task,
    signature: Signature,
    *,
    start: int = 0,
    stop: int | None = None,
    batch_size: int,
) -> Iterator[Array]:
    """Scores of the rows start..stop: float64 of shape (rows,), or (rows, k) statistics of a CorpusMetric.

    In consecutive pieces, the first of one batch, which tells how many rows the others may have. Raises TaskError where
    an output is NaN or infinite, or where the metric raises, returns another shape, NaN, or a score outside the task's
    `score_range`; BackendError where the network can't be run.
    """
    stop = len(rows) if stop is None else min(stop, len(rows))
    if not start < stop:
        raise TaskError(f"rows {start} to {stop} of {len(rows)} are none: there is nothing to score.")
    at, count = start, batch_size
    while at < stop:
        count = min(count, stop - at)
        begin_s = time.monotonic()
        outputs = _outputs(session, rows, signature, (at, at + count), batch_size)
        scores = metric_scores(task, outputs, rows.targets_between(at, at + count), signature)
        size_bytes = sum(value.nbytes for value in outputs.values()) + count * rows.target_bytes
        at, count = at + count, _rows_next(count, size_bytes, time.monotonic() - begin_s, batch_size)
        yield scores


def _rows_next(count: int, size_bytes: int, time_s: float, batch_size: int) -> int:
    """How many rows, in whole batches, the next chunk may have if `count` rows took so much space and time."""
    fitting = min(CHUNK_BYTES / max(1, size_bytes), CHUNK_TIME_S / max(time_s, 1e-9))
    return max(1, int(count * fitting) // batch_size) * batch_size


def _outputs(
    session: IsolatedSession, rows: Rows, signature: Signature, span: tuple[int, int], batch_size: int
) -> Arrays:
    """What the network answers to a range of rows. Raises TaskError where that is not finite."""
    with tempfile.TemporaryDirectory(prefix="paring-") as folder:
        files = session.run_rows(
            rows.input_files, start=span[0], stop=span[1], batch_size=batch_size, folder=Path(folder)
        )
        outputs: Arrays = {name: np.load(files[name]) for name in signature.output_names}
    check_finite(outputs, "the network's output")
    return outputs


def metric_scores(task: Task, outputs: Arrays, targets: Any, signature: Signature) -> Array:
    """The task's metric on outputs of shape (rows, ...) and targets in the user's structure; see `score_chunks`."""
    count = len(next(iter(outputs.values())))
    tensors = {name: torch.from_numpy(value) for name, value in outputs.items()}
    return user_scores(task, restructured(tensors, signature.output_structure), targets, count)
