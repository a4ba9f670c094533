"""What the benchmarks of pruning share: networks as files, timed in turn with the original, and their accuracies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from paring.artifact.files import write_array
from paring.backends.base import Backend
from paring.backends.isolated import Deployment
from paring.backends.onnxruntime import OnnxRuntime
from paring.backends.openvino import OpenVINO
from paring.backends.runner import write_graph
from paring.graph.export import export_onnx, export_program, signature_of
from paring.measure.compare import compare
from paring.measure.latency import Workload
from paring.types import Arrays

Rows = tuple[Tensor, ...]


@dataclass(frozen=True)
class Timing:
    """Networks of one kind in ONNX Runtime, timed on the first `batch_size` of some rows; `folder` holds the files."""

    folder: Path
    original: nn.Module
    rows: Rows
    batch_size: int
    threads: int

    def exported(self, model: nn.Module, name: str) -> Path:
        """The network as a file."""
        file = self.folder / f"{name}.onnx"
        file.parent.mkdir(parents=True, exist_ok=True)
        inputs = self._inputs(2)
        write_graph(export_onnx(export_program(model, inputs), signature_of(model, inputs)), file)
        return file

    def speedup(self, file: Path, time_limit_s: float) -> dict[str, float]:
        """Over the original, both in processes of their own, in turn: the ratio and its 95 % interval."""
        original = self.exported(self.original, "original")
        names = signature_of(self.original, self._inputs(2)).input_names
        batch = {name: rows[: self.batch_size].numpy() for name, rows in zip(names, self.rows, strict=True)}
        one, other = (Deployment(backend_of(path), path) for path in (file, original))
        return speedup(one, other, batch, self.threads, time_limit_s)

    def _inputs(self, count: int) -> Tensor | Rows:
        rows = tuple(tensor[:count] for tensor in self.rows)
        return rows if len(rows) > 1 else rows[0]


def backend_of(file: Path, *, spinning: bool = True) -> Backend:
    """The runtime that reads such a file."""
    return OpenVINO() if file.suffix == ".xml" else OnnxRuntime(spinning=spinning)


def speedup(one: Deployment, other: Deployment, batch: Arrays, threads: int, time_limit_s: float) -> dict[str, float]:
    """Of one network over another, both in processes of their own, in turn: the ratio and its 95 % interval."""
    size = len(next(iter(batch.values())))
    inputs: Mapping[str, Path] = {
        name: write_array(other.network.parent / f"{name}-{size}.npy", rows) for name, rows in batch.items()
    }
    found = compare(one, other, Workload(inputs, size, threads), time_limit_s=time_limit_s)
    return {"ratio": found.ratio, "low": found.low, "high": found.high}


def accuracy(model: nn.Module, rows: Rows, labels: Tensor) -> float:
    """Right answers, in percent."""
    with torch.inference_mode():
        pieces = zip(*(tensor.split(250) for tensor in rows), strict=True)
        answers = torch.cat([model(*piece).argmax(1) for piece in pieces])
    return 100 * float((answers == labels).double().mean())
