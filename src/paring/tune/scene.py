"""Scene: what the search knows when it decides."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from paring.backends.base import Backend
from paring.data.job import Job
from paring.techniques.base import GraphTechnique, ModuleTechnique, Part, Recipe, Technique, divides
from paring.tune.candidate import Candidate
from paring.tune.proposing import (
    executable,
    kind_of,
    offered,
    out_of_place,
    permitted,
    quick,
    runnable,
    serving,
    unfit,
    unread,
    useless,
)
from paring.tune.ranking import Ranking
from paring.tune.trial import Trial
from paring.types import Budget

if TYPE_CHECKING:
    import onnx
    from torch import nn

Round: TypeAlias = Sequence[Candidate]
R = TypeVar("R")
Offered = TypeVar("Offered", GraphTechnique, ModuleTechnique)
Steps: TypeAlias = Generator[Round, Sequence[Trial], R]
"""A part of the search: it yields candidates that don't depend on each other, is sent their trials, and returns R."""

Rounds: TypeAlias = Steps[None]


@dataclass(frozen=True)
class Scene:
    """The network in both its forms, what may be tried on it, and how much time is left.

    `techniques` and `backends` hold classes, whose variants are tried, and objects, which are tried as they are, as
    `recipes` are as a whole.
    `model` is None for a task that is a graph. `precisions` tells in which precisions a backend of that name executes.
    `not_tried` gathers what is not proposed, with the reason: techniques that do not fit the task, the network or the
    format that a backend reads, or that fail as they propose; precisions that a backend lacks and number formats that
    it can't run; options that can't work on this machine.
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
    recipes: tuple[Recipe, ...] = ()
    precisions: Mapping[str, Sequence[str]] = field(default_factory=dict)
    not_tried: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        graph_only, train_data = self.model is None, self.job.task.train is not None
        told = out_of_place(self.techniques, self.budget.wants, graph_only=graph_only, train_data=train_data)
        self.not_tried.update(told)
        self.not_tried.update(unfit(self.recipes, graph_only=graph_only, train_data=train_data))
        self.not_tried.update(unread(self.techniques, self.backends))

    def backend_variants(self, backend: Backend | type[Backend]) -> list[Backend]:
        """The options worth a try that can work here, the default first."""
        if isinstance(backend, Backend):
            return [backend]
        variants = partial(backend.variants, self.budget, self.threads)
        return offered(backend.name, lambda: permitted(variants(), self.not_tried), self.not_tried)

    def first_backends(self) -> list[Backend]:
        """Each backend with its default options."""
        return [backend for kind in self.backends for backend in self.backend_variants(kind)[:1]]

    def graph_backends(self) -> list[Backend]:
        """Those that read graphs."""
        return [backend for backend in self.first_backends() if backend.format == "onnx"]

    def graph_variants(self, technique: Any, backend: Backend, most: int | None = None) -> list[GraphTechnique]:
        """The first settings of a graph technique, those that the backend executes; none for another kind.

        Where time is all that counts, none in a format that is slower there than fp32. An object is tried whatever
        precision it asks for, but not in a format that the backend can't run.
        """
        if isinstance(technique, type) and issubclass(technique, GraphTechnique):
            variants = self._offered(technique, lambda: islice(self._serving(technique), most))
            found = executable(variants, backend.name, self.precisions.get(backend.name), self.not_tried)
        else:
            found = [technique] if isinstance(technique, GraphTechnique) else []
        found = [variant for variant in found if self.runnable((variant,), backend)]
        if not isinstance(technique, type) or not {"latency", "throughput"}.issuperset(self.budget.wants):
            return found
        return [each for each in found if quick(each, backend, self.job.measured, self.not_tried)]

    def runnable(self, recipe: Recipe, backend: Backend) -> bool:
        """Whether the backend has answered rightly in all number formats that the recipe's graphs ask for."""
        return runnable(recipe, backend, self.not_tried)

    def module_variants(self, technique: Any, most: int | None = None) -> list[ModuleTechnique]:
        """Settings of a module technique that are worth a try; none for another kind, or without a module."""
        model = self.model
        if model is None:
            return []
        if isinstance(technique, type) and issubclass(technique, ModuleTechnique):
            return self._offered(technique, lambda: islice(technique.variants(model, self.job), most))
        return [technique] if isinstance(technique, ModuleTechnique) else []

    def module_parts(self, technique: Any) -> list[Part[ModuleTechnique]]:
        """What a module technique divides into, a class with its default settings; none without a module."""
        model, kind = self.model, kind_of(technique)
        if model is None or not divides(kind) or useless(technique, self.budget.wants):
            return []
        return offered(kind.__name__, lambda: _object(technique).parts(model, self.job), self.not_tried)

    def _serving(self, technique: type[GraphTechnique]) -> Iterator[GraphTechnique]:
        return serving(technique.variants(self.graph, self.job), self.graph, self.budget.wants)

    def _offered(self, technique: type[Offered], offers: Callable[[], Iterable[Offered]]) -> list[Offered]:
        """What a technique proposes; one that proposes nothing is told as well."""
        if useless(technique, self.budget.wants):
            return []
        found = offered(technique.__name__, offers, self.not_tried)
        if not found:
            self.not_tried.setdefault(technique.__name__, "it proposes no settings of its own for this network.")
        return found


def _object(technique: Any) -> Any:
    """The technique, with its default settings where it is a class."""
    return technique() if isinstance(technique, type) else technique
