"""One pass over the calibration rows that observes tensors inside a graph, in bounded memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from paring.backends.runner import graph_runner
from paring.data.batches import in_pieces, tensors_of
from paring.data.job import Job
from paring.errors import TechniqueError
from paring.ops.ranges import Histogram
from paring.types import Array, Arrays

BYTES_PER_RUN = 128 * 2**20
"""Observed tensors held at one time."""

BYTES_IN_ALL = 4 * 2**30
"""Observed tensors moved in one calibration: larger networks are observed on fewer rows."""

LEAST_ROWS = 32


def graph_inputs(graph: onnx.ModelProto, job: Job) -> Iterator[Arrays]:
    """The calibration batches as the graph's named inputs: by name where a batch is a dict, else in order."""
    stored = {tensor.name for tensor in graph.graph.initializer}
    names = [value.name for value in graph.graph.input if value.name not in stored]
    for inputs, _ in job.calibrate:
        if isinstance(inputs, dict) and set(names) <= set(inputs):
            tensors = tuple(inputs[name] for name in names)
        else:
            tensors = tensors_of(inputs)
        if len(tensors) != len(names):
            raise TechniqueError(
                f"the graph takes {len(names)} inputs ({', '.join(names)}) and a calibration batch has {len(tensors)}: "
                "give batches with one tensor for each."
            )
        yield {name: tensor.detach().cpu().numpy() for name, tensor in zip(names, tensors, strict=True)}


def with_outputs(graph: onnx.ModelProto, tensors: Sequence[str]) -> onnx.ModelProto:
    """A graph that gives the tensors beside its own outputs; graph inputs among them are left out."""
    model = onnx.ModelProto()
    model.CopyFrom(graph)
    present = {value.name for value in (*model.graph.output, *model.graph.input)}
    made = {name for node in model.graph.node for name in node.output}
    for name in tensors:
        if name in made and name not in present:
            model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return model


def fingerprint(graph: onnx.ModelProto) -> str:
    """A sha256 of all that decides a graph's values, piece by piece: the whole may be too large for protobuf."""
    total = hashlib.sha256()
    for piece in (*graph.graph.input, *graph.graph.initializer, *graph.graph.node, *graph.functions):
        total.update(piece.SerializeToString(deterministic=True))
    return total.hexdigest()


def observe(graph: onnx.ModelProto, tensors: Sequence[str], job: Job) -> dict[str, Histogram]:
    """A histogram of each float tensor's values over the calibration rows; callers leave the histograms as they are.

    Every way to choose ranges starts from these: the job remembers them. Raises TechniqueError that names a tensor in
    which NaN or infinity turns up.
    """
    key = f"histograms of {sorted(tensors)} in {fingerprint(graph)}"
    return job.once(key, lambda: _histograms(graph, tensors, job))


def _histograms(graph: onnx.ModelProto, tensors: Sequence[str], job: Job) -> dict[str, Histogram]:
    seen = {name: Histogram() for name in tensors}
    for arrays in observed(graph, tensors, job):
        _count(arrays, seen)
    return seen


def observed(graph: onnx.ModelProto, tensors: Sequence[str], job: Job) -> Iterator[Arrays]:
    """The tensors for some calibration rows after others; all rows, unless the tensors are very large.

    The graph's inputs and outputs are among them, the inputs first.
    """
    if not tensors:
        return
    with graph_runner(with_outputs(graph, tensors), threads=job.threads, deadline_s=job.end_s) as session:
        rows_left, rows_a_run = 0, 0
        for batch in graph_inputs(graph, job):
            if not rows_a_run:
                row = next(in_pieces(batch, 1))
                size = sum(value.nbytes for value in (row | session.run(row)).values())
                rows_a_run = max(1, min(64, BYTES_PER_RUN // size))
                rows_left = max(LEAST_ROWS, BYTES_IN_ALL // size)
            for piece in in_pieces(batch, rows_a_run):
                if rows_left <= 0:
                    return
                job.check_time()
                rows_left -= len(next(iter(piece.values())))
                yield piece | session.run(piece)


def _count(arrays: Arrays, seen: dict[str, Histogram]) -> None:
    rows = len(next(iter(arrays.values())))
    for name, histogram in seen.items():
        histogram.add(arrays[name], in_rows=arrays[name].shape[:1] == (rows,))
        if not histogram.finite:
            raise not_finite(name)


def not_finite(tensor: str) -> TechniqueError:
    """The error for a tensor in which NaN or infinity turns up."""
    return TechniqueError(f"tensor {tensor!r} holds NaN or infinity on the calibration rows: check the network.")


def absolute_maxima(graph: onnx.ModelProto, tensors: Sequence[str], job: Job) -> dict[str, Array]:
    """The largest magnitude in each position of a tensor's last axis over the calibration rows, shape (channels,).

    Raises TechniqueError that names a tensor in which NaN or infinity turns up.
    """
    largest: dict[str, Array] = {}
    for arrays in observed(graph, tensors, job):
        for name in tensors:
            found = np.abs(arrays[name]).reshape(-1, arrays[name].shape[-1]).max(axis=0)
            if not np.isfinite(found).all():
                raise not_finite(name)
            largest[name] = np.maximum(largest.get(name, found), found)
    return largest
