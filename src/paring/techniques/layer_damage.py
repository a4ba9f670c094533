"""How far quantizing layers moves a network's outputs, measured: of each layer alone, or of any formats together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby
from typing import TypeAlias

import numpy as np
import onnx

from paring.backends.runner import graph_runner
from paring.data.batches import in_pieces
from paring.data.job import Job
from paring.graph.learned import Learned
from paring.graph.onnx_graph import Graph
from paring.graph.onnx_layers import weighted_layers
from paring.graph.switch import FLOAT_NOW, switchable
from paring.techniques.calibration import fingerprint, graph_inputs
from paring.techniques.static_quantization import Seen, StaticQuantization
from paring.types import Arrays

PIECE, MOST_ROWS = 64, 512
MOST_MACS, MOST_BYTES = 2**29, 64 * 2**20
"""Of one run over the rows, and of the outputs that are kept to compare with: above them PIECE rows have to do."""

Moved: TypeAlias = Callable[[Sequence[int]], float]
"""For each layer the number of its quantization, or FLOAT_NOW -> how far the outputs move."""


def layer_damage(
    quantization: StaticQuantization, graph: onnx.ModelProto, inputs: Mapping[str, str], seen: Seen, job: Job
) -> dict[str, float]:
    """For each layer the outputs' distance from the float ones where it alone is in integers.

    "Integer Quantization for Deep Learning Inference" (Wu et al., 2020, section 5.1). Differs in the measure: squared
    distance of the outputs from the float graph's, relative to their variance, because that needs no labels. `inputs`
    holds the tensor that each layer reads.
    """
    key = f"damage of {quantization!r} in {fingerprint(graph)}"
    return job.once(key, lambda: _damage(quantization, graph, inputs, seen, job))


def _damage(
    quantization: StaticQuantization, graph: onnx.ModelProto, inputs: Mapping[str, str], seen: Seen, job: Job
) -> dict[str, float]:
    with outputs_moved([quantization], graph, inputs, seen, job) as moved:
        return {name: moved(alone(len(inputs), number, 0)) for number, name in enumerate(inputs)}


def alone(layers: int, layer: int, option: int) -> list[int]:
    """That layer in that quantization, all others in floating point."""
    return [option if number == layer else FLOAT_NOW for number in range(layers)]


@contextmanager
def outputs_moved(
    quantizations: Sequence[StaticQuantization],
    graph: onnx.ModelProto,
    inputs: Mapping[str, str],
    seen: Seen,
    job: Job,
) -> Iterator[Moved]:
    """Measures how far the outputs move from the float ones by quantizations of layers, on some calibration rows."""
    parameters = {name: quantizations[0].parameters(seen[name]) for name in inputs.values()}
    editable, layers = Graph(quantizations[0].opened(graph)), list(inputs)
    # The float layers beside one that is quantized need the biases that they have.
    weighings = [replace(each.weighing, bias_correction=False) for each in quantizations]
    weighs = [weighing.prepared(editable, layers, job, Learned()) for weighing in weighings]
    model, switch = switchable(editable, layers, parameters, weighs)
    with graph_runner(model, threads=job.threads, deadline_s=job.end_s) as session:

        def outputs(piece: Arrays, options: Sequence[int]) -> Arrays:
            job.check_time()
            rows = len(next(iter(piece.values())))
            return session.run(piece | {switch: np.tile(np.array(options, np.int64), (rows, 1))})

        pieces: list[tuple[Arrays, Arrays]] = []
        for piece in _pieces(graph, job):
            pieces.append((piece, outputs(piece, [FLOAT_NOW] * len(layers))))
            if sum(value.nbytes for value in pieces[0][1].values()) * (len(pieces) + 1) > MOST_BYTES:
                break
        together = list(_together(pieces))
        yield lambda options: sum(distance(outputs(piece, options), reference) for piece, reference in together)


def _pieces(graph: onnx.ModelProto, job: Job) -> Iterator[Arrays]:
    """Calibration rows, as many as a large network can be run on again and again."""
    macs = sum(layer.macs for layer in weighted_layers(graph))
    left = min(MOST_ROWS, max(PIECE, MOST_MACS // max(1, macs)))
    for batch in graph_inputs(graph, job):
        for piece in in_pieces(batch, PIECE):
            if left <= 0:
                return
            left -= len(next(iter(piece.values())))
            yield piece


def _together(pieces: Sequence[tuple[Arrays, Arrays]]) -> Iterator[tuple[Arrays, Arrays]]:
    """Pieces of one shape as one: a small network takes less time for them than the way to its process."""

    def shapes(pair: tuple[Arrays, Arrays]) -> list[tuple[int, ...]]:
        return [value.shape[1:] for arrays in pair for value in arrays.values()]

    for _, pairs in groupby(pieces, key=shapes):
        inputs, outputs = zip(*pairs, strict=True)
        yield _joined(inputs), _joined(outputs)


def _joined(pieces: Sequence[Arrays]) -> Arrays:
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def distance(outputs: Arrays, reference: Arrays) -> float:
    """Mean squared difference relative to the reference's variance, summed over the float outputs."""
    total = 0.0
    for name, expected in reference.items():
        if np.issubdtype(expected.dtype, np.floating) and expected.size:
            error = np.mean(np.square(outputs[name].astype(np.float64) - expected))
            total += float(error / max(float(np.var(expected)), 1e-12))
    return total
