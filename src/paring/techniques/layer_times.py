"""What each layer gains in time by integers, measured: the network with that layer alone in floating point."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import onnx

from paring.backends.cores import usable_cores
from paring.backends.isolated import IsolatedSession
from paring.backends.onnxruntime import OnnxRuntime
from paring.backends.runner import write_graph
from paring.data.batches import in_pieces
from paring.data.job import Job
from paring.techniques.calibration import fingerprint, graph_inputs
from paring.techniques.static_quantization import StaticQuantization
from paring.types import Arrays, Session

ROUNDS, WARM_UP = 25, 3


@dataclass(frozen=True)
class LayerTimes:
    """Milliseconds for one row: of the float network, of the integer one, and what each layer's integers gain."""

    floating: float
    integer: float
    gained: dict[str, float]


def layer_times(
    graph: onnx.ModelProto, layers: Sequence[str], quantization: StaticQuantization, job: Job
) -> LayerTimes:
    """Times in ONNX Runtime, each network in a process of its own and in turn with the integer one.

    A network takes the integer one's time and the sum of what its float layers lose, as far as layers don't meet: where
    two neighbours are both in floating point nothing is converted between them, so that the sum errs to the safe side.
    """
    key = f"times of {quantization!r} in {fingerprint(graph)}"
    return job.once(key, lambda: _measured(graph, layers, quantization, job))


def _measured(graph: onnx.ModelProto, layers: Sequence[str], quantization: StaticQuantization, job: Job) -> LayerTimes:
    row = next(in_pieces(next(graph_inputs(graph, job)), 1))
    integer = quantization.apply(graph, job)
    whole, other = _in_turn(integer, graph, row, job)
    gained = {}
    for layer in layers:
        job.check_time()
        alone = replace(quantization, exclude=(*quantization.exclude, layer)).apply(graph, job)
        with_integers, with_float = _in_turn(integer, alone, row, job)
        gained[layer] = max(0.0, with_float - with_integers)
        job.say(f"{layer}: {gained[layer]:.3f} ms gained by integers")
    return LayerTimes(other, whole, gained)


def _in_turn(one: onnx.ModelProto, other: onnx.ModelProto, row: Arrays, job: Job) -> tuple[float, float]:
    """Median milliseconds of either."""
    with TemporaryDirectory(prefix="paring-") as folder, ExitStack() as stack:
        sessions: list[Session] = []
        for name, graph in (("one", one), ("other", other)):
            network = Path(folder) / f"{name}.onnx"
            write_graph(graph, network)
            threads = job.threads or usable_cores()
            opened = IsolatedSession(OnnxRuntime(), network, threads=threads, deadline_s=job.end_s)
            sessions.append(stack.enter_context(opened))
        taken: tuple[list[float], list[float]] = ([], [])
        for _ in range(WARM_UP + ROUNDS):
            for session, times in zip(sessions, taken, strict=True):
                begin_ns = time.perf_counter_ns()
                session.run(row)
                times.append((time.perf_counter_ns() - begin_ns) / 1e6)
    return median(taken[0][WARM_UP:]), median(taken[1][WARM_UP:])
