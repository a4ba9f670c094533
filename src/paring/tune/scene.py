"""Scene: what the search knows when it decides."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from paring.backends.base import Backend
from paring.data.job import Job
from paring.techniques.base import GraphTechnique, ModuleTechnique, Technique
from paring.tune.candidate import Candidate
from paring.tune.ranking import Ranking
from paring.tune.trial import Trial
from paring.types import Budget

if TYPE_CHECKING:
    import onnx
    from torch import nn

Round: TypeAlias = Sequence[Candidate]
R = TypeVar("R")
Steps: TypeAlias = Generator[Round, Sequence[Trial], R]
"""A part of the search: it yields candidates that don't depend on each other, is sent their trials, and returns R."""

Rounds: TypeAlias = Steps[None]


@dataclass(frozen=True)
class Scene:
    """The network in both its forms, what may be tried on it, and how much time is left.

    `techniques` and `backends` hold classes, whose variants are tried, and objects, which are tried as they are.
    `model` is None for a task that is a graph. `precisions` tells in which precisions a backend of that name executes.
    """

    budget: Budget
    ranking: Ranking
    job: Job
    model: nn.Module | None
    graph: onnx.ModelProto
    techniques: tuple[Technique | type[Technique], ...]
    backends: tuple[Backend | type[Backend], ...]
    threads: int
    time_left_s: Callable[[], float]
    precisions: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def backend_variants(self, backend: Backend | type[Backend]) -> list[Backend]:
        """The options worth a try, the default first."""
        if isinstance(backend, Backend):
            return [backend]
        return list(backend.variants(self.budget, self.threads))

    def graph_backends(self) -> list[Backend]:
        """Each backend that reads graphs, with its default options."""
        return [self.backend_variants(b)[0] for b in self.backends if b.format == "onnx" and self.backend_variants(b)]

    def graph_variants(self, technique: Any, backend: Backend, most: int | None = None) -> list[GraphTechnique]:
        """The first settings of a graph technique, those that the backend executes; none for another kind."""
        if isinstance(technique, type) and issubclass(technique, GraphTechnique):
            executed = self.precisions.get(backend.name)
            variants = islice(technique.variants(self.graph, self.job), most)
            return [variant for variant in variants if executed is None or variant.execution in executed]
        return [technique] if isinstance(technique, GraphTechnique) else []

    def module_variants(self, technique: Any, most: int | None = None) -> list[ModuleTechnique]:
        """Settings of a module technique that are worth a try; none for another kind, or without a module."""
        if self.model is None:
            return []
        if isinstance(technique, type) and issubclass(technique, ModuleTechnique):
            return list(islice(technique.variants(self.model, self.job), most))
        return [technique] if isinstance(technique, ModuleTechnique) else []
