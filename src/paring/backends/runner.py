"""Run a graph on the spot, for techniques that observe activations."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx

from paring.backends.cores import usable_cores
from paring.backends.isolated import IsolatedSession
from paring.backends.onnxruntime import OnnxRuntime
from paring.backends.precision import EXECUTION_PRECISION_KEY
from paring.graph.onnx_layers import skeleton
from paring.types import Session

MAXIMUM_FILE_BYTES = 2**31 - 2**20
"""Protocol buffers end at 2 GiB: larger graphs keep their weights in a file beside them."""


def write_graph(graph: onnx.ModelProto, path: Path) -> None:
    """Write a graph of any size; a large one gets `NAME.data` beside it. `graph` is untouched."""
    # Each constant by itself: the size of the whole is told by serializing it, which fails above 2 GiB.
    weight_bytes = sum(tensor.ByteSize() for tensor in graph.graph.initializer)
    if weight_bytes + skeleton(graph).ByteSize() <= MAXIMUM_FILE_BYTES:
        onnx.save(graph, path)
        return
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    onnx.save(copy, path, save_as_external_data=True, location=f"{path.name}.data")


def _without_precision(graph: onnx.ModelProto) -> onnx.ModelProto:
    """What a graph asks of the backend that will serve it is nothing to one that only observes its values."""
    if all(entry.key != EXECUTION_PRECISION_KEY for entry in graph.metadata_props):
        return graph
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    kept = [entry for entry in copy.metadata_props if entry.key != EXECUTION_PRECISION_KEY]
    del copy.metadata_props[:]
    copy.metadata_props.extend(kept)
    return copy


@contextmanager
def graph_runner(
    graph: onnx.ModelProto, *, threads: int | None = None, deadline_s: float = math.inf
) -> Iterator[Session]:
    """A session of a process of its own that runs the graph with its every name in place.

    Raises BackendError where ONNX Runtime refuses the graph or crashes on it, TimeUpError where it is still at work at
    `deadline_s`, a `time.monotonic()`.
    """
    with tempfile.TemporaryDirectory(prefix="paring-") as folder:
        network = Path(folder) / "network.onnx"
        write_graph(_without_precision(graph), network)
        backend = OnnxRuntime(optimization="basic")
        with IsolatedSession(backend, network, threads=threads or usable_cores(), deadline_s=deadline_s) as session:
            yield session
