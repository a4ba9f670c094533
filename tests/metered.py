"""A machine whose every measure follows from the graph, without torch, so that its processes start at once.

A call takes `base_ms` + `row_ms` for each row, and the process holds `ballast_mb`: entries of the graph's metadata. A
graph without them takes so long for each weight. A file is as large as what is in it: `padding` makes it larger.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx

from paring.types import Arrays, Session
from tests.sleepy_backend import ReferenceSession, Sleepy

WEIGHT_MS = 0.02


class MeteredSession(ReferenceSession):
    def __init__(self, graph: onnx.ModelProto) -> None:
        super().__init__(graph)
        weights = sum(int(np.prod(tensor.dims)) for tensor in graph.graph.initializer)
        self.base_ms = float(self.metadata.get("base_ms", WEIGHT_MS * weights))
        self.row_ms = float(self.metadata.get("row_ms", 0.0))
        self.ballast = np.ones(int(self.metadata.get("ballast_mb", 0)) * 1_000_000, dtype=np.uint8)

    def run(self, inputs: Arrays) -> Arrays:
        rows = len(next(iter(inputs.values())))
        time.sleep((self.base_ms + self.row_ms * rows) / 1000)
        return super().run(inputs)


@dataclass(frozen=True)
class Metered(Sleepy):
    """Takes as long as the graph says for every batch."""

    name: ClassVar[str] = "metered"

    def load(self, network: Path, *, threads: int, device: str = "cpu") -> Session:
        return MeteredSession(onnx.load(network))
