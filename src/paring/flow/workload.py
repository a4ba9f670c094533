"""An artifact's golden rows: batches of them to time it with, and its answers to them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from paring.artifact import Artifact
from paring.artifact.files import write_scratch_array
from paring.backends.isolated import Deployment, IsolatedSession
from paring.backends.loading import thread_count
from paring.measure.agreement import answers
from paring.measure.latency import Workload
from paring.types import Arrays


@contextmanager
def golden_workload(artifact: Artifact, threads: int | None = None) -> Iterator[Workload]:
    """One batch of the artifact's size made of its golden inputs, repeated as needed."""
    inputs, _ = artifact.golden()
    threads = thread_count(artifact, threads)
    batch_size = artifact.manifest.batch_size
    batch = {name: array[np.arange(batch_size) % len(array)] for name, array in inputs.items()}
    with _files(batch) as files:
        yield Workload(files, batch_size, threads)


def golden_outputs(deployment: Deployment, inputs: Arrays, batch_size: int, threads: int) -> Arrays:
    """The answers to golden inputs in batches of the size that is served; the rows are repeated to fill the last."""
    rows = len(next(iter(inputs.values())))
    with _files(inputs) as files, IsolatedSession.of(deployment, threads=threads) as session:
        return answers(session, files, rows, batch_size)


@contextmanager
def _files(arrays: Arrays) -> Iterator[dict[str, Path]]:
    """The arrays as .npy files that a worker can map."""
    with tempfile.TemporaryDirectory(prefix="paring-") as folder:
        files = {name: Path(folder) / f"input-{number}.npy" for number, name in enumerate(arrays)}
        for name, file in files.items():
            write_scratch_array(file, arrays[name])
        yield files
