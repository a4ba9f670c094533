"""Means and second moments of what layers read, over the calibration rows and in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import onnx

from paring.data.batches import rows_in
from paring.data.job import Job
from paring.errors import TechniqueError
from paring.graph.matrices import Reading, as_rows, reading
from paring.graph.onnx_graph import Graph
from paring.ops.moments import Moments
from paring.techniques.calibration import fingerprint, not_finite, observed
from paring.types import Array

BYTES_AT_ONCE = 256 * 2**20
"""Moments that are gathered in one pass over the calibration rows; what is more takes another pass."""

MOST_PATCHES = 2**16
"""Patches that a layer's moments are taken of; of more a share is drawn, which tells the same within a few percent."""


def layer_moments(graph: Graph, layers: Iterable[str], job: Job) -> Iterator[tuple[str, Moments]]:
    """The moments of what each of these layers reads, by name; callers leave them as they are.

    Layers are those of which `matrix_reasons` is "". They come in the order that memory wants, a few at a time: who
    keeps none needs no more than a few hundred MB. The graph may be edited while they come. Raises TechniqueError that
    names a tensor in which NaN or infinity turns up.
    """
    names = frozenset(layers)
    widths: dict[Reading, int] = {}
    readers: dict[Reading, list[str]] = {}
    for node in graph.nodes:
        if node.name in names:
            weight = graph.constant(node.input[1])
            assert weight is not None
            read = reading(graph, node)
            widths[read] = as_rows(node, weight).shape[1]
            readers.setdefault(read, []).append(node.name)
    if not widths:
        return iter(())
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    return _in_turns(model, widths, readers, job)


def _in_turns(
    model: onnx.ModelProto, widths: Mapping[Reading, int], readers: Mapping[Reading, Sequence[str]], job: Job
) -> Iterator[tuple[str, Moments]]:
    turns = list(_turns(widths))
    told = fingerprint(model)
    for turn in turns:
        if len(turns) == 1:
            # Several settings ask for the same; what takes several turns is too much to be kept.
            found = job.once(f"moments of {sorted(map(str, turn))} in {told}", lambda: _gathered(model, turns[0], job))
        else:
            found = _gathered(model, turn, job)
        for read in turn:
            for name in readers[read]:
                yield name, found[read]


def _turns(widths: Mapping[Reading, int]) -> Iterator[dict[Reading, int]]:
    """In runs whose moments fit into memory together; at least one in each."""
    turn: dict[Reading, int] = {}
    taken = 0
    for read, columns in widths.items():
        size = 8 * read.patches.groups * columns**2
        if turn and taken + size > BYTES_AT_ONCE:
            yield turn
            turn, taken = {}, 0
        turn[read] = columns
        taken += size
    if turn:
        yield turn


def _gathered(model: onnx.ModelProto, turn: Mapping[Reading, int], job: Job) -> dict[Reading, Moments]:
    found = {read: Moments(read.patches.groups, columns) for read, columns in turn.items()}
    rows = sum(rows_in(inputs) for inputs, _ in job.calibrate)
    for part, arrays in enumerate(observed(model, sorted({read.tensor for read in turn}), job)):
        for read, moments in found.items():
            inputs = arrays[read.tensor]
            patches = rows * read.patches.count((1, *inputs.shape[1:]))
            _add(moments, read, inputs, MOST_PATCHES / max(1, patches), job.seed + part)
            job.check_time()
    return found


def _add(moments: Moments, read: Reading, inputs: Array, share: float, seed: int) -> None:
    if not np.isfinite(inputs).all():
        raise not_finite(read.tensor)
    for patches in read.patches.cut(inputs, share, seed):
        moments.add(patches)
    if not moments.is_finite:
        raise TechniqueError(
            f"tensor {read.tensor!r} reaches {np.abs(inputs).max():.3g} on the calibration rows, too far to be "
            "squared: check the network and its data."
        )
