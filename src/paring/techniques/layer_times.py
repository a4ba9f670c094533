"""How long networks with some layers in integers take, measured in turn with the float one, or with all in integers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

import numpy as np
import onnx

from paring.artifact.files import write_scratch_array
from paring.backends.cores import usable_cores
from paring.backends.isolated import IsolatedSession
from paring.backends.onnxruntime import OnnxRuntime
from paring.backends.runner import write_graph
from paring.data.batches import in_pieces
from paring.data.job import Job
from paring.techniques.calibration import graph_inputs
from paring.techniques.static_quantization import StaticQuantization

BLOCKS = 9
"""Of calls of each of two networks, in turn: only the ratio of neighbours counts, as the machine changes."""

BLOCK_S, TYPICAL_QUANTILE = 0.02, 0.25
"""Other work on the machine only ever makes a call longer: the first quartile of a block's calls stays."""

MOST_PAIRS = 3
"""Of processes, where a limit is too close to tell: one process is faster than the next by where its memory lies."""


@dataclass(frozen=True)
class TimeRatio:
    """How many times as long one network takes as another; `low` and `high` hold it at 95 %."""

    middle: float
    low: float
    high: float

    @classmethod
    def of(cls, ratios: Sequence[float]) -> Self:
        """The median of blocks, and the order statistics that hold it (the sign test's), from BLOCKS or more."""
        ordered = sorted(ratios)
        cut = max(0, math.floor(len(ordered) / 2 - math.sqrt(len(ordered))))
        return cls(float(np.median(ordered)), ordered[cut], ordered[-1 - cut])

    def __str__(self) -> str:
        """As progress tells it."""
        return f"{self.middle:.2f} ({self.low:.2f}-{self.high:.2f})"


@dataclass(frozen=True)
class Stopwatch:
    """Times quantizations of a float graph in ONNX Runtime, on one row, inside processes of their own.

    A technique isn't told the batch size of a budget. Which levels weights are rounded to and how far activations reach
    makes no difference to time: the levels are the nearest here, and one batch tells the ranges.
    """

    graph: onnx.ModelProto
    job: Job

    def share(self, quantization: StaticQuantization, limit: float) -> TimeRatio:
        """Of the float network's time, measured until it is clear whether it lies within the limit, or for long."""
        quantized, blocks = self._quantized(quantization), list[float]()
        while True:
            blocks += self._ratios(quantized, self.graph)
            found = TimeRatio.of(blocks)
            if not found.low <= limit <= found.high or len(blocks) >= MOST_PAIRS * BLOCKS:
                return found

    def longer(self, quantization: StaticQuantization, layer: str) -> TimeRatio:
        """The time with that layer alone in floating point, over the time with all in integers, measured in turn."""
        alone = replace(quantization, exclude=(*quantization.exclude, layer))
        return TimeRatio.of(self._ratios(self._quantized(alone), self._quantized(quantization)))

    def _quantized(self, quantization: StaticQuantization) -> onnx.ModelProto:
        self.job.check_time()
        quick = replace(quantization, rounding="nearest", bias_correction=False)
        return quick.apply(self.graph, replace(self.job, calibrate=self.job.calibrate[:1]))

    def _ratios(self, one: onnx.ModelProto, other: onnx.ModelProto) -> list[float]:
        """The one's time over the other's, block by block."""
        with TemporaryDirectory(prefix="paring-") as folder:
            rows = next(in_pieces(next(graph_inputs(self.graph, self.job)), 1))
            files = {
                name: write_scratch_array(Path(folder) / f"input-{number}.npy", value)
                for number, (name, value) in enumerate(rows.items())
            }
            with self._loaded((one, other), Path(folder)) as sessions:
                # The first blocks of a process warm it up.
                times = [[_block(session, files) for session in sessions] for _ in range(1 + BLOCKS)][1:]
        return [mine / its for mine, its in times]

    @contextmanager
    def _loaded(self, graphs: Sequence[onnx.ModelProto], folder: Path) -> Iterator[list[IsolatedSession]]:
        with ExitStack() as stack:
            sessions = []
            for number, graph in enumerate(graphs):
                network = folder / f"network-{number}.onnx"
                write_graph(graph, network)
                threads = self.job.threads or usable_cores()
                opened = IsolatedSession(OnnxRuntime(), network, threads=threads, deadline_s=self.job.end_s)
                sessions.append(stack.enter_context(opened))
            yield sessions


def _block(session: IsolatedSession, files: Mapping[str, Path]) -> float:
    """What a call takes; timed beside the network, without the way of its inputs to another process."""
    return float(
        np.quantile(session.time_block(files, batch_size=1, min_time_s=BLOCK_S, warm_runs=1), TYPICAL_QUANTILE)
    )
