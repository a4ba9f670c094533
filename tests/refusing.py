"""Techniques that fail as they propose their settings, or only in company."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import onnx
from torch import nn

from paring.backends.precision import ExecutionPrecision
from paring.data.job import Job
from paring.errors import TechniqueError
from paring.techniques.base import GraphTechnique, ModuleTechnique, Role
from paring.types import Coverage
from tests.sleepy import Cheapen, marked


class Unapplied(GraphTechnique):
    """Is proposed, and never applied."""

    def apply(self, graph: onnx.ModelProto, job: Job) -> onnx.ModelProto:
        raise NotImplementedError

    def coverage(self, before: onnx.ModelProto, after: onnx.ModelProto, job: Job) -> Coverage:
        raise NotImplementedError

    @classmethod
    def variants(cls, graph: onnx.ModelProto, job: Job) -> Iterator[Self]:
        yield cls()


@dataclass(frozen=True)
class Bug(Cheapen):
    """Raises what its author did not foresee."""

    @classmethod
    def variants(cls, graph: onnx.ModelProto, job: Job) -> Iterator[Self]:
        raise KeyError("no such layer")


@dataclass(frozen=True)
class Foldered(Cheapen):
    """Has a setting that JSON can't hold."""

    folder: Path = Path("cache")


@dataclass(frozen=True)
class Untraceable(ModuleTechnique):
    """Can't follow one layer."""

    def apply(self, model: nn.Module, job: Job) -> nn.Module:
        raise TechniqueError("layer 'fc' can't be traced.")

    def coverage(self, before: nn.Module, after: nn.Module, job: Job) -> Coverage:
        return Coverage(self.name, ())

    @classmethod
    def variants(cls, model: nn.Module, job: Job) -> Iterator[Self]:
        raise TechniqueError("layer 'fc' can't be traced.")


@dataclass(frozen=True)
class Half(Cheapen):
    """Asks for bfloat16."""

    @property
    def execution(self) -> ExecutionPrecision:
        return "bf16"

    @classmethod
    def variants(cls, graph: onnx.ModelProto, job: Job) -> Iterator[Self]:
        yield cls()


@dataclass(frozen=True)
class Thin(Cheapen):
    """Comes before others and is harmless alone."""

    cost_ms: float = 8.0
    role: ClassVar[Role] = "before"

    def apply(self, graph: onnx.ModelProto, job: Job) -> onnx.ModelProto:
        return marked(super().apply(graph, job), "thin", "1")


@dataclass(frozen=True)
class Coarse(Cheapen):
    """Harmless alone, and fast; faster still on what is thin, whose answers it ruins."""

    cost_ms: float = 4.0

    def apply(self, graph: onnx.ModelProto, job: Job) -> onnx.ModelProto:
        thin = any(entry.key == "thin" for entry in graph.metadata_props)
        return Cheapen(1.0, damage=0.7).apply(graph, job) if thin else super().apply(graph, job)
