"""The words that all parts share: the user's side (Task, Budget), and the shape of what flows in and out of a network.

Nothing here imports torch: what serves an artifact needs these types and no training library.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt

from paring.errors import BudgetError, TaskError, quoted
from paring.ops.scores import accuracy, cross_entropy

if TYPE_CHECKING:
    from torch import Tensor, nn

T = TypeVar("T")
Array: TypeAlias = npt.NDArray[Any]
Arrays: TypeAlias = dict[str, Array]
"""Named arrays as a session takes and gives them; axis 0 is the batch."""

Inputs: TypeAlias = "Tensor | tuple[Tensor, ...] | dict[str, Tensor]"
Outputs: TypeAlias = "Tensor | tuple[Tensor, ...] | dict[str, Tensor]"
Targets: TypeAlias = "Tensor | tuple[Tensor, ...] | dict[str, Tensor] | None"
Batch: TypeAlias = tuple[Inputs, Targets]

Objective = Literal["latency", "throughput", "size", "memory"]
OBJECTIVES: tuple[Objective, ...] = ("latency", "throughput", "size", "memory")


@runtime_checkable
class Metric(Protocol):
    """(outputs, targets) -> scores of shape (batch,), higher is better."""

    def __call__(self, outputs: Any, targets: Any, /) -> Tensor:
        """Score each row."""
        ...


@dataclass(frozen=True)
class CorpusMetric:
    """A score that is no mean over samples (F1, mAP, word error rate): per-sample statistics and how to reduce them.

    `statistics` maps (outputs, targets) to shape (batch, k); `reduce` maps (n, k) to one number, higher is better.
    It can only be certified approximately, by a paired bootstrap, and the certificate says so.
    """

    statistics: Callable[[Any, Any], Tensor]
    reduce: Callable[[Array], float]

    def __post_init__(self) -> None:
        for field, function in (("statistics", self.statistics), ("reduce", self.reduce)):
            if not callable(function):
                raise TaskError(f"{field}={function!r} is not callable: pass a function.")

    def __call__(self, outputs: Any, targets: Any, /) -> Tensor:
        """Per-sample statistics, shape (batch, k)."""
        return self.statistics(outputs, targets)


@dataclass(frozen=True)
class Task:
    """The user's side: a trained network, data, and what counts as good.

    `evaluate` is labelled and can be iterated again and again; `train` may lack labels (targets None): the original
    network then teaches. `calibrate` defaults to a slice of train, else of the selection split. `score_range` bounds
    what `metric` returns for one sample; the certificate's guarantee rests on it.
    """

    model: nn.Module | Path
    evaluate: Iterable[Batch]
    train: Iterable[Batch] | None = None
    calibrate: Iterable[Batch] | None = None
    metric: Metric = accuracy
    loss: Callable[[Any, Any], Tensor] = cross_entropy
    name: str = "task"
    score_range: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        _check_network(self.model)
        for field, data in (("evaluate", self.evaluate), ("train", self.train), ("calibrate", self.calibrate)):
            if data is not None or field == "evaluate":
                _check_readable(field, data)
        for field, function in (("metric", self.metric), ("loss", self.loss)):
            if not callable(function):
                raise TaskError(f"{field}={function!r} is not callable: pass a function of (outputs, targets).")
        if not isinstance(self.name, str):
            raise TaskError(f"name={self.name!r} is a {type(self.name).__name__}: pass a str.")
        if not _is_range(self.score_range):
            raise TaskError(f"score_range={self.score_range!r} must be two finite numbers, the lower first.")


def _check_network(model: Any) -> None:
    from torch import nn

    if not isinstance(model, nn.Module | Path):
        hint = " Path(...) makes one of a str." if isinstance(model, str) else ""
        raise TaskError(f"model is a {type(model).__name__}: pass an nn.Module or the pathlib.Path of an .onnx.{hint}")


def _check_readable(field: str, data: Any) -> None:
    """Batches can be read from it, and more than once."""
    try:
        once = iter(data) is data
    except TypeError as error:
        raise TaskError(
            f"{field} is a {type(data).__name__} and can't be iterated: pass a list of batches or a DataLoader."
        ) from error
    if once:
        raise TaskError(f"{field} is an iterator and can be read only once: pass a list or a DataLoader.")


def is_number(value: Any) -> bool:
    """A finite real number that a float can hold; truth values are none, and no text is."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def is_whole(value: Any) -> bool:
    """A whole number that `is_number`, of Python's own type, which JSON can hold."""
    return isinstance(value, int) and is_number(value)


def _is_range(values: Any) -> bool:
    """Two finite numbers, the lower first."""
    if not (isinstance(values, tuple | list) and len(values) == 2):
        return False
    numbers = all(isinstance(value, int | float | np.number) and math.isfinite(value) for value in values)
    return numbers and bool(values[0] < values[1])


@dataclass(frozen=True)
class Budget:
    """What the result must meet, and what to make best within it. `max_drop` is in the metric's own unit, absolute."""

    max_drop: float = 0.01
    confidence: float = 0.95
    max_latency_ms: float | None = None
    max_size_bytes: int | None = None
    max_memory_bytes: int | None = None
    objective: Objective = "latency"
    batch_size: int = 1

    def __post_init__(self) -> None:
        if not (is_number(self.max_drop) and self.max_drop >= 0):
            told = f"max_drop={quoted(self.max_drop)}"
            raise BudgetError(f"{told} must be 0 or more, a finite number: it is the score that may be lost.")
        if not (is_number(self.confidence) and 0.5 <= self.confidence < 1):
            told = f"confidence={quoted(self.confidence)}"
            raise BudgetError(f"{told} must be a number of at least 0.5 and below 1, for example 0.95.")
        if self.objective not in OBJECTIVES:
            told = f"objective={quoted(self.objective)}"
            raise BudgetError(f"{told} is unknown: choose one of {', '.join(OBJECTIVES)}.")
        if not (is_whole(self.batch_size) and self.batch_size >= 1):
            raise BudgetError(f"batch_size={quoted(self.batch_size)} must be 1 or more, a whole number.")
        for limit in ("max_latency_ms", "max_size_bytes", "max_memory_bytes"):
            value = getattr(self, limit)
            if value is not None and not (is_number(value) and value > 0):
                raise BudgetError(f"{limit}={quoted(value)} must be a finite number above 0, or None for no limit.")

    @property
    def wants(self) -> tuple[Objective, ...]:
        """What a technique can serve it by: the objective, and whatever has a limit."""
        limits: dict[Objective, float | None] = {
            "latency": self.max_latency_ms,
            "size": self.max_size_bytes,
            "memory": self.max_memory_bytes,
        }
        return tuple(dict.fromkeys((self.objective, *(of for of, limit in limits.items() if limit is not None))))


NEEDS_MODULE = "the task is a graph: it needs the network as an nn.Module."
"""Why a technique of modules is not tried on a task that is an .onnx file."""

Structure = Literal["tensor", "tuple", "dict"]


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a network: `shape` has None where the size varies; axis 0 is the batch."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class Signature:
    """How a network is called: its inputs and outputs in order, and whether they are a tensor, a tuple or a dict."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    input_structure: Structure
    output_structure: Structure

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs, in the order of the call."""
        return tuple(spec.name for spec in self.inputs)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs, in the order of the answer."""
        return tuple(spec.name for spec in self.outputs)

    @property
    def graph_output_names(self) -> tuple[str, ...]:
        """The same in an exported ONNX graph, which has each name once: an output called like an input has another."""
        taken = {*self.input_names, *self.output_names}
        names = []
        for name in self.output_names:
            names.append(unused(f"{name}_output", taken) if name in self.input_names else name)
            taken.add(names[-1])
        return tuple(names)

    def as_named(self, answers: dict[str, T]) -> dict[str, T]:
        """What a session answers, under `output_names`, where a graph called some of them otherwise."""
        own = dict(zip(self.graph_output_names, self.output_names, strict=True))
        return {own.get(name, name): value for name, value in answers.items()}


class Session(Protocol):
    """A network loaded in a backend, ready to run."""

    def run(self, inputs: Arrays) -> Arrays:
        """Run one batch; every value has the batch as axis 0."""
        ...

    def close(self) -> None:
        """Free what the session holds."""
        ...


@dataclass(frozen=True)
class LayerChange:
    """What a technique did to one layer, or why it left it alone (`changed` False, `reason` set)."""

    layer: str
    changed: bool
    reason: str
    parameters: int = 0
    macs: int = 0


@dataclass(frozen=True)
class Coverage:
    """Which layers a technique changed, which not, and why. A technique that changed nothing is no trial."""

    technique: str
    layers: tuple[LayerChange, ...]

    @property
    def changed(self) -> int:
        """Number of layers that were changed."""
        return sum(layer.changed for layer in self.layers)

    def share(self, of: Literal["parameters", "macs"]) -> float:
        """Share of all parameters, or of all MACs, that lies in the changed layers; 0 where nothing is counted."""
        total = sum(getattr(layer, of) for layer in self.layers)
        return sum(getattr(layer, of) for layer in self.layers if layer.changed) / total if total else 0.0


def unused(hint: str, taken: Container[str]) -> str:
    """The hint where it is not taken, else the first with a number behind it that is not."""
    numbered = (f"{hint}_{number}" for number in count(1))
    return next(name for name in chain([hint], numbered) if name not in taken)


def named(values: Any, names: Sequence[str]) -> dict[str, Any]:
    """A tensor, tuple or dict of them as a dict in the order of `names`."""
    if isinstance(values, dict):
        return {name: values[name] for name in names}
    if isinstance(values, tuple | list):
        return dict(zip(names, values, strict=True))
    return {names[0]: values}


def restructured(values: dict[str, Any], structure: Structure) -> Any:
    """The inverse of `named`: the dict as the user's own structure."""
    if structure == "dict":
        return values
    return next(iter(values.values())) if structure == "tensor" else tuple(values.values())


def check_finite(arrays: Arrays, where: str) -> None:
    """Raise TaskError where a floating array holds NaN or infinity, naming it."""
    for name, value in arrays.items():
        if np.issubdtype(value.dtype, np.floating) and not np.isfinite(value).all():
            row = int(np.argwhere(~np.isfinite(value))[0][0]) if value.ndim else 0
            raise TaskError(f"{where} {name!r} holds NaN or infinity, first in row {row}.")
