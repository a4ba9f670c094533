"""A machine whose every measure follows from the graph, without torch, so that its processes start at once.

A call takes `base_ms` + `row_ms` for each row, and the process holds `ballast_mb`: entries of the graph's metadata. A
graph without them takes so long for each weight. A file is as large as what is in it: `padding` makes it larger.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from paring.backends.base import Backend, NetworkFormat
from paring.types import Arrays, Budget, Session

WEIGHT_MS = 0.02


class MeteredSession:
    def __init__(self, graph: onnx.ModelProto) -> None:
        self.evaluator = ReferenceEvaluator(graph)
        self.names = [value.name for value in graph.graph.output]
        metadata = {entry.key: entry.value for entry in graph.metadata_props}
        weights = sum(int(np.prod(tensor.dims)) for tensor in graph.graph.initializer)
        self.base_ms = float(metadata.get("base_ms", WEIGHT_MS * weights))
        self.row_ms = float(metadata.get("row_ms", 0.0))
        self.ballast = np.ones(int(metadata.get("ballast_mb", 0)) * 1_000_000, dtype=np.uint8)

    def run(self, inputs: Arrays) -> Arrays:
        rows = len(next(iter(inputs.values())))
        time.sleep((self.base_ms + self.row_ms * rows) / 1000)
        return dict(zip(self.names, self.evaluator.run(self.names, inputs), strict=True))

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class Metered(Backend):
    name: ClassVar[str] = "metered"
    format: ClassVar[NetworkFormat] = "onnx"
    package: ClassVar[str | None] = "onnx"

    @classmethod
    def available(cls) -> str | None:
        return None

    def load(self, network: Path, *, threads: int, device: str = "cpu") -> Session:
        return MeteredSession(onnx.load(network))

    @classmethod
    def variants(cls, budget: Budget, threads: int) -> Iterator[Self]:
        yield cls()
