"""A machine that is fully known: a backend that sleeps as long as the graph's metadata says, techniques that set it."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import nn

from paring.data.job import Job
from paring.errors import TechniqueError
from paring.techniques.base import GraphTechnique, ModuleTechnique
from paring.types import Coverage, LayerChange, Task
from tests.sleepy_backend import CLASSES, COST, OFFSET, SERVED_ROWS, Absent, Drowsy, Offset, Refuses, Sleepy

__all__ = ["CLASSES", "COST", "OFFSET", "SERVED_ROWS", "Absent", "Drowsy", "Offset", "Refuses", "Sleepy"]

FEATURES = 6


@dataclass(frozen=True)
class Cheapen(GraphTechnique):
    """Costs `cost_ms`; a share `damage` of the classes is never answered again."""

    cost_ms: float = 2.0
    damage: float = 0.0

    def __post_init__(self) -> None:
        if self.cost_ms <= 0:
            raise TechniqueError(f"cost_ms={self.cost_ms} must be above 0.")

    def apply(self, graph: onnx.ModelProto, job: Job) -> onnx.ModelProto:
        after = marked(graph, COST, str(self.cost_ms))
        if self.damage:
            bias = next(t for t in after.graph.initializer if list(t.dims) == [CLASSES])
            values = numpy_helper.to_array(bias).copy()
            values[: round(self.damage * CLASSES)] = -1e3
            bias.CopyFrom(numpy_helper.from_array(values, bias.name))
        return after

    def coverage(self, before: onnx.ModelProto, after: onnx.ModelProto, job: Job) -> Coverage:
        return Coverage(self.name, (LayerChange("gemm", True, "cheaper", 21, 18),))

    @classmethod
    def variants(cls, graph: onnx.ModelProto, job: Job) -> Iterator[Self]:
        yield cls()


@dataclass(frozen=True)
class Spy(Cheapen):
    """Writes down all rows that it can reach."""

    file: str = ""

    def apply(self, graph: onnx.ModelProto, job: Job) -> onnx.ModelProto:
        reached = [inputs.numpy() for inputs, _ in (*job.calibrate, *job.task.evaluate)]
        np.save(self.file, np.concatenate(reached))
        return super().apply(graph, job)


def leave_line(file: str) -> None:
    """One for each time that a technique is applied."""
    with Path(file).open("a") as stream:
        stream.write("applied\n")


@dataclass(frozen=True)
class Counted(Cheapen):
    """Leaves a line for each time that it is applied."""

    file: str = ""

    def apply(self, graph: onnx.ModelProto, job: Job) -> onnx.ModelProto:
        leave_line(self.file)
        return super().apply(graph, job)


@dataclass(frozen=True)
class Crash(Cheapen):
    """Kills the process that runs it."""

    def apply(self, graph: onnx.ModelProto, job: Job) -> onnx.ModelProto:
        return marked(graph, "crash", "1")


@dataclass(frozen=True)
class Mix(Cheapen):
    """Subtracts the batch's mean from the answers."""

    def apply(self, graph: onnx.ModelProto, job: Job) -> onnx.ModelProto:
        after = marked(graph, COST, str(self.cost_ms))
        output = after.graph.output[0].name
        last = next(node for node in after.graph.node if output in node.output)
        last.output[0] = "unmixed"
        axes = numpy_helper.from_array(np.array([0]), "axes")
        after.graph.initializer.append(axes)
        after.graph.node.append(helper.make_node("ReduceMean", ["unmixed", "axes"], ["mean"], keepdims=1))
        after.graph.node.append(helper.make_node("Sub", ["unmixed", "mean"], [output]))
        return after


@dataclass(frozen=True)
class Alone(Cheapen):
    """Fails where it is applied while another one is."""

    file: str = ""

    def apply(self, graph: onnx.ModelProto, job: Job) -> onnx.ModelProto:
        with Path(self.file).open("x"):
            time.sleep(0.3)
        Path(self.file).unlink()
        return super().apply(graph, job)


@dataclass(frozen=True)
class Blunt(ModuleTechnique):
    """Never answers the last class, and is no faster; leaves a line for each time that it is applied."""

    file: str = ""

    def apply(self, model: nn.Module, job: Job) -> nn.Module:
        leave_line(self.file)
        after = copy.deepcopy(model)
        with torch.no_grad():
            after.get_parameter("bias")[-1] = -1e3
        return after

    def coverage(self, before: nn.Module, after: nn.Module, job: Job) -> Coverage:
        return Coverage(self.name, (LayerChange("", True, "blunter", 21, 18),))

    @classmethod
    def variants(cls, model: nn.Module, job: Job) -> Iterator[Self]:
        yield cls()


TIME_IS_UP: list[str] = []
"""Whose `apply` has spent the time of the run; a test makes the job's clock look here."""


@dataclass(frozen=True)
class Dawdle(Cheapen):
    """Is applied until the time is up."""

    def apply(self, graph: onnx.ModelProto, job: Job) -> onnx.ModelProto:
        TIME_IS_UP.append(self.name)
        return super().apply(graph, job)


@dataclass(frozen=True)
class Nothing(Cheapen):
    """Changes nothing."""

    def apply(self, graph: onnx.ModelProto, job: Job) -> onnx.ModelProto:
        return copy.deepcopy(graph)

    def coverage(self, before: onnx.ModelProto, after: onnx.ModelProto, job: Job) -> Coverage:
        return Coverage(self.name, (LayerChange("gemm", False, "too small to be worth it"),))


@dataclass(frozen=True)
class Raise(Cheapen):
    """Fails in code of its own."""

    def apply(self, graph: onnx.ModelProto, job: Job) -> onnx.ModelProto:
        raise KeyError("a bug of the author's")


def marked(graph: onnx.ModelProto, key: str, value: str) -> onnx.ModelProto:
    after = copy.deepcopy(graph)
    entry = after.metadata_props.add()
    entry.key, entry.value = key, value
    return after


def rows(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Points and the class of the largest of their first three coordinates."""
    points = torch.from_numpy(np.random.default_rng(seed).normal(size=(count, FEATURES)).astype(np.float32))
    return points, points[:, :CLASSES].argmax(1)


def network() -> nn.Module:
    """Answers exactly right."""
    linear = nn.Linear(FEATURES, CLASSES)
    with torch.no_grad():
        linear.weight.copy_(torch.eye(CLASSES, FEATURES))
        linear.bias.copy_(torch.arange(CLASSES) * 1e-6)
    return linear.eval()


def task(count: int = 1500) -> Task:
    points, classes = rows(count)
    batches = list(zip(points.split(100), classes.split(100), strict=True))
    return Task(network(), evaluate=batches, name="points")
