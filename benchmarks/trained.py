"""What the benchmarks of pruning share: networks as files, timed in turn with the original, and their accuracies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from paring.artifact.files import write_array
from paring.backends.isolated import Deployment
from paring.backends.onnxruntime import OnnxRuntime
from paring.backends.runner import write_graph
from paring.graph.export import export_onnx, export_program, signature_of
from paring.measure.compare import compare
from paring.measure.latency import Workload

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
        batches: Mapping[str, Path] = {
            name: write_array(self.folder / f"{name}.npy", rows[: self.batch_size].numpy())
            for name, rows in zip(names, self.rows, strict=True)
        }
        one, other = (Deployment(OnnxRuntime(), path) for path in (file, original))
        workload = Workload(batches, self.batch_size, self.threads)
        found = compare(one, other, workload, time_limit_s=time_limit_s)
        return {"ratio": found.ratio, "low": found.low, "high": found.high}

    def _inputs(self, count: int) -> Tensor | Rows:
        rows = tuple(tensor[:count] for tensor in self.rows)
        return rows if len(rows) > 1 else rows[0]


def accuracy(model: nn.Module, rows: Rows, labels: Tensor) -> float:
    """Right answers, in percent."""
    with torch.inference_mode():
        pieces = zip(*(tensor.split(250) for tensor in rows), strict=True)
        answers = torch.cat([model(*piece).argmax(1) for piece in pieces])
    return 100 * float((answers == labels).double().mean())
