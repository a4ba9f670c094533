"""The known machine's backend sleeps as long as the graph's metadata says; without torch, so that it starts fast."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from paring.backends.base import Backend, NetworkFormat
from paring.errors import BackendError
from paring.types import Arrays, Budget, Session

COST = "cost_ms"
ORIGINAL_COST_MS = 12.0
CLASSES = 3


class ReferenceSession:
    """ONNX's own reference implementation, with what the graph's metadata says."""

    def __init__(self, graph: onnx.ModelProto) -> None:
        self.evaluator = ReferenceEvaluator(graph)
        self.names = [value.name for value in graph.graph.output]
        self.metadata = {entry.key: entry.value for entry in graph.metadata_props}

    def run(self, inputs: Arrays) -> Arrays:
        return dict(zip(self.names, self.evaluator.run(self.names, inputs), strict=True))

    def close(self) -> None:
        pass


class SleepySession(ReferenceSession):
    def __init__(self, graph: onnx.ModelProto) -> None:
        super().__init__(graph)
        self.before: list[bytes] = []

    def run(self, inputs: Arrays) -> Arrays:
        if "crash" in self.metadata:
            os._exit(7)
        rows = [array.tobytes() for array in inputs.values()]
        if rows == self.before:  # Timings repeat a batch; scores, which would take most of a test's time, do not.
            time.sleep(float(self.metadata.get(COST, ORIGINAL_COST_MS)) / 1000)
        self.before = rows
        return super().run(inputs)


@dataclass(frozen=True)
class Sleepy(Backend):
    """Takes exactly as long as it is told for a batch that it has just run, and none for another one."""

    name: ClassVar[str] = "sleepy"
    format: ClassVar[NetworkFormat] = "onnx"
    package: ClassVar[str | None] = "onnx"

    @classmethod
    def available(cls) -> str | None:
        return None

    def load(self, network: Path, *, threads: int, device: str = "cpu") -> Session:
        return SleepySession(onnx.load(network))

    @classmethod
    def variants(cls, budget: Budget, threads: int) -> Iterator[Self]:
        yield cls()


@dataclass(frozen=True)
class Undecided(Sleepy):
    """Its options can't be told."""

    name: ClassVar[str] = "undecided"

    @classmethod
    def variants(cls, budget: Budget, threads: int) -> Iterator[Self]:
        raise OSError("no table of cores")


@dataclass(frozen=True)
class Drowsy(Sleepy):
    """Another runtime that reads the same files."""

    name: ClassVar[str] = "drowsy"


@dataclass(frozen=True)
class Absent(Sleepy):
    """A runtime that is not installed."""

    name: ClassVar[str] = "absent"

    @classmethod
    def available(cls) -> str | None:
        return "it was never installed: pip install absent."


@dataclass(frozen=True)
class Remote(Sleepy):
    """Needs to be told where."""

    address: str
    port: int = 0

    name: ClassVar[str] = "remote"

    def load(self, network: Path, *, threads: int, device: str = "cpu") -> Session:
        if self.address != "here":
            raise BackendError(f"nobody answers at {self.address}: start the server.")
        return super().load(network, threads=threads, device=device)

    @classmethod
    def variants(cls, budget: Budget, threads: int) -> Iterator[Self]:
        yield cls("here")


@dataclass(frozen=True)
class Refuses(Sleepy):
    """Passes its probe, and refuses the networks of a run."""

    name: ClassVar[str] = "refuses"

    def load(self, network: Path, *, threads: int, device: str = "cpu") -> Session:
        if network.parent.parent.name in ("modules", "networks"):
            raise BackendError("refuses can't load this network: it does not like it.")
        return super().load(network, threads=threads, device=device)


SERVED_ROWS, OFFSET = 3, 0.08


class OffsetSession(SleepySession):
    def run(self, inputs: Arrays) -> Arrays:
        outputs = super().run(inputs)
        if COST in self.metadata and len(next(iter(inputs.values()))) == SERVED_ROWS:
            return {name: value + OFFSET * np.eye(1, CLASSES, dtype=value.dtype) for name, value in outputs.items()}
        return outputs


@dataclass(frozen=True)
class Offset(Sleepy):
    """Has a plan of its own for batches of SERVED_ROWS, in which what was cheapened answers slightly otherwise."""

    name: ClassVar[str] = "offset"

    def load(self, network: Path, *, threads: int, device: str = "cpu") -> Session:
        return OffsetSession(onnx.load(network))


@dataclass(frozen=True)
class Comatose(Sleepy):
    """Passes its probe, and never comes to the end of loading a network; leaves a file where it has begun to."""

    began: str = ""

    name: ClassVar[str] = "comatose"

    def load(self, network: Path, *, threads: int, device: str = "cpu") -> Session:
        Path(self.began).touch()
        time.sleep(3600)
        return super().load(network, threads=threads, device=device)


MS_PER_WEIGHT, LANES = 0.01, 16


@dataclass(frozen=True)
class Lanes(Sleepy):
    """Takes its time for each weight, and rounds the outputs of a layer up to its lanes, as vector units do."""

    name: ClassVar[str] = "lanes"

    def load(self, network: Path, *, threads: int, device: str = "cpu") -> Session:
        graph = onnx.load(network)
        matrices = [tensor.dims for tensor in graph.graph.initializer if len(tensor.dims) == 2]
        entry = graph.metadata_props.add()
        entry.key, entry.value = COST, str(self.cost_ms(matrices))
        return SleepySession(graph)

    @staticmethod
    def cost_ms(matrices: Iterable[Sequence[int]]) -> float:
        """Of the shapes of all weights, outputs first."""
        return sum(-(-rows // LANES) * LANES * columns for rows, columns in matrices) * MS_PER_WEIGHT
