"""Batches to time an artifact with, where only its golden rows are at hand."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from paring.artifact import Artifact
from paring.backends.loading import thread_count
from paring.measure.latency import Workload


@contextmanager
def golden_workload(artifact: Artifact, threads: int | None = None) -> Iterator[Workload]:
    """One batch of the artifact's size made of its golden inputs, repeated as needed."""
    inputs, _ = artifact.golden()
    threads = thread_count(artifact, threads)
    batch_size = artifact.manifest.batch_size
    with tempfile.TemporaryDirectory(prefix="paring-") as folder:
        files = {}
        for number, (name, array) in enumerate(inputs.items()):
            files[name] = Path(folder) / f"input-{number}.npy"
            np.save(files[name], array[np.arange(batch_size) % len(array)], allow_pickle=False)
        yield Workload(files, batch_size, threads)
