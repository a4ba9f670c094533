"""Request: everything that `optimize` was asked, checked before any time is spent."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, fields, is_dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

from paring import registry
from paring.backends.base import Backend, called
from paring.backends.cores import check_threads, usable_cores
from paring.backends.probe import Probe
from paring.errors import BudgetError, InputError, OutputError, TaskError, TechniqueError, in_words, quoted
from paring.techniques.base import (
    GraphTechnique,
    ModuleTechnique,
    Recipe,
    Technique,
    TrainingTechnique,
    check_order,
    described,
)
from paring.tune import Candidate, Trial
from paring.tune.candidate import check_storable
from paring.tune.proposing import kind_of, told
from paring.tune.trainers import is_training
from paring.types import Budget, Task, is_number, is_whole

Executor: TypeAlias = Callable[[Callable[[Candidate], Trial], Iterable[Candidate]], Iterator[Trial]]
"""Runs the trials of a round, like the built-in `map`, in this process; they don't depend on each other."""

SMALLEST_TIME_LIMIT_S = 10.0
TECHNIQUES = (ModuleTechnique, GraphTechnique)


@dataclass(frozen=True)
class Request:
    """The arguments of `optimize`; `techniques` and `backends` hold classes (tried in variants) or objects.

    A tuple among the techniques is a whole recipe, tried as it is.
    """

    task: Task
    budget: Budget
    out: Path
    time_limit_s: float = 1200.0
    techniques: Sequence[Technique | type[Technique] | Recipe] | None = None
    backends: Sequence[Backend | type[Backend]] | None = None
    threads: int | None = None
    seed: int = 0
    resume: bool = True
    executor: Executor = field(default=map)
    progress: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.task, Task):
            raise TaskError(f"task is a {type(self.task).__name__}: pass paring.Task(model, evaluate=[...]).")
        if not isinstance(self.budget, Budget):
            raise BudgetError(f"budget={quoted(self.budget)} is no Budget: pass for example Budget(max_drop=0.01).")
        if not isinstance(self.out, Path):
            raise OutputError(f"out={quoted(self.out)} is no folder: pass its path, a str or a pathlib.Path.")
        self._check_numbers()
        _check_recipes(self.recipes)
        members = (technique for recipe in self.recipes for technique in recipe)
        _check_all("technique", (*(self.all_techniques() if self.techniques else ()), *members), *TECHNIQUES)
        _check_all("backend", self.backends or (), Backend)
        if not callable(self.executor):
            raise InputError(f"executor={quoted(self.executor)} is not callable: pass a function like `map`, or none.")
        if isinstance(getattr(self.executor, "__self__", None), ProcessPoolExecutor):
            raise InputError(
                "executor is the map of a ProcessPoolExecutor, and trials share networks and a clock that can't be "
                "sent to another process: pass the map of a ThreadPoolExecutor, or none."
            )

    def _check_numbers(self) -> None:
        """Raise BudgetError for a time limit, a seed or a number of threads that can't be used."""
        if not (is_number(self.time_limit_s) and self.time_limit_s >= SMALLEST_TIME_LIMIT_S):
            raise BudgetError(
                f"time_limit_s={quoted(self.time_limit_s)} must be a finite number of at least "
                f"{SMALLEST_TIME_LIMIT_S:g} seconds, for example 1200."
            )
        if not (is_whole(self.seed) and self.seed >= 0):
            raise BudgetError(f"seed={quoted(self.seed)} must be a whole number of 0 or more.")
        check_threads(self.threads, "all cores")

    @property
    def thread_count(self) -> int:
        """Threads for each measured network: what was asked, else all cores that this process may use."""
        return self.threads or usable_cores()

    def all_techniques(self) -> tuple[Technique | type[Technique], ...]:
        """What was passed but for recipes, else every technique that is installed."""
        if self.techniques is None:
            return installed("technique")
        return tuple(technique for technique in self.techniques if not isinstance(technique, tuple))

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """The whole recipes that were passed."""
        return tuple(recipe for recipe in self.techniques or () if isinstance(recipe, tuple))

    def check_fits(self) -> None:
        """Raise TechniqueError where an object that meets the task's network as it is asks for what there is not.

        Those are the ones alone and the first of each recipe. Of a graph, where none of what was passed can change it.
        """
        firsts = (*self.all_techniques(), *(recipe[0] for recipe in self.recipes))
        if isinstance(self.task.model, Path):
            if self.techniques and all(issubclass(kind_of(first), ModuleTechnique) for first in firsts):
                raise TechniqueError(_needs_module(self.task.model, firsts))
            return
        for technique in firsts:
            if isinstance(technique, ModuleTechnique):
                technique.check_fits(self.task.model, self.task)

    @property
    def gives_settings(self) -> bool:
        """Whether a technique with settings, or a recipe of such, was passed."""
        return any(not isinstance(technique, type) for technique in self.techniques or ())

    @property
    def asked(self) -> tuple[str, ...]:
        """The names of all techniques and recipes, as `not_tried` has them."""
        return *map(told, self.all_techniques()), *map(described, self.recipes)

    @property
    def trains(self) -> bool:
        """Whether a technique that trains takes part."""
        return any(map(is_training, (*self.all_techniques(), *chain.from_iterable(self.recipes))))

    def all_backends(self) -> tuple[Backend | type[Backend], ...]:
        """What was passed, else every backend that is installed."""
        return installed("backend") if self.backends is None else tuple(self.backends)

    def unusable(self, probes: Iterable[Probe]) -> dict[str, str]:
        """Backend -> why it can't run the task's network: it does not work here, or it reads no graphs.

        `probes` are those of `all_backends`. Objects of one backend are told apart by their options.
        """
        graph_only = isinstance(self.task.model, Path)
        needs_module = [called(b) for b in self.all_backends() if graph_only and b.format != "onnx"]
        reasons = dict.fromkeys(needs_module, "the task is a graph, and this backend needs a module.")
        pairs = zip(self.all_backends(), probes, strict=True)
        return reasons | {called(backend): found.reason for backend, found in pairs if found.reason is not None}

    def usable_backends(self, unusable: Container[str]) -> tuple[Backend | type[Backend], ...]:
        """Those that were asked for, without these."""
        return tuple(backend for backend in self.all_backends() if called(backend) not in unusable)


def _needs_module(graph: Path, asked: Iterable[Technique | type[Technique]]) -> str:
    """Why techniques of modules can't be tried on a graph, and what could."""
    names = ", ".join(dict.fromkeys(kind_of(technique).__name__ for technique in asked))
    others = ", ".join(kind.__name__ for kind in installed("technique") if issubclass(kind, GraphTechnique))
    return (
        f"{graph.name} is a graph, and what was asked for begins with a change of the nn.Module ({names}): give a task "
        f"whose model is one, or choose from {others}."
    )


def resolved(kind: registry.Kind, given: Iterable[Any] | None) -> tuple[Any, ...] | None:
    """The classes that names stand for, all else as it is. Raises InputError for what is no list, or no known name."""
    if given is None:
        return None
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise InputError(f"{kind}s={quoted(given)} is no list: write {kind}s=[...] around it.")
    return tuple(registry.find(kind, one) if isinstance(one, str) else one for one in given)


def _check_recipes(recipes: Iterable[Recipe]) -> None:
    """Raise InputError for a recipe without techniques, with classes, or in an order that can't be applied."""
    for recipe in recipes:
        if not recipe:
            raise InputError("techniques holds an empty recipe: name its techniques, or leave it out.")
        for technique in recipe:
            if not isinstance(technique, TECHNIQUES):
                raise InputError(f"a recipe holds {quoted(technique)}: give objects, as PruneChannels(ratio=0.5).")
        check_order(recipe)


def _check_all(kind: registry.Kind, given: Iterable[Any], *bases: type) -> None:
    """Raise InputError for what is no technique or backend, or would be taken for another when a run goes on."""
    owners: dict[str, type] = {}
    for one in given:
        found = one if isinstance(one, type) else type(one)
        if not issubclass(found, bases):
            wanted = " or ".join(base.__name__ for base in bases)
            raise InputError(f"{kind}s holds {quoted(one)}: give the name, the class or an object of a {wanted}.")
        if inspect.isabstract(found):
            lacking = ", ".join(sorted(vars(found)["__abstractmethods__"]))
            raise InputError(
                f"the {kind} {found.__qualname__} lacks {lacking}: write what it inherits only the name of."
            )
        if not _is_frozen_dataclass(found):
            raise InputError(
                f"the {kind} {found.__qualname__} is no frozen dataclass: write @dataclass(frozen=True) above it."
            )
        _check_name(kind, found, owners)
        if issubclass(found, TrainingTechnique):
            _check_epochs(found)
        if one is not found:
            check_storable(one)
        if isinstance(one, Backend):
            _check_comes_back(one)


def _is_frozen_dataclass(found: type) -> bool:
    """Settings that can change, or that can't be listed, would make one trial pass for another."""
    return is_dataclass(found) and found.__setattr__ is not object.__setattr__


def _check_name(kind: registry.Kind, found: type, owners: dict[str, type]) -> None:
    """Raise InputError where the class shares its name with one that is installed, or with one of the `owners`."""
    name = found.name if issubclass(found, Backend) else found.__name__
    owner = registry.find(kind, name) if name in registry.names(kind) else owners.setdefault(name, found)
    if owner is not found:
        raise InputError(
            f"{found.__qualname__} is called {name!r} like {owner.__module__}.{owner.__qualname__}: "
            "give it a name of its own."
        )


def _check_epochs(found: type[TrainingTechnique]) -> None:
    """Raise InputError for a training that the search could not make longer or shorter."""
    if not is_dataclass(found) or "epochs" not in {each.name for each in fields(found)}:
        raise InputError(f"{found.__name__} trains and has no field `epochs`: add one, the passes over `train`.")


def _check_comes_back(backend: Backend) -> None:
    """Raise InputError where an artifact could not name the backend so that it is found again with its options."""
    try:
        again = type(backend).with_options(json.loads(json.dumps(backend.options())))
    except (TypeError, ValueError) as error:
        raise InputError(f"{backend} can't be made again from its options: {in_words(error)}.") from error
    if again != backend:
        raise InputError(f"{backend} comes back from JSON as {again}: let its options be plain values.")


def installed(kind: registry.Kind) -> tuple[type[Any], ...]:
    """Every class of that kind that has a name."""
    return tuple(registry.find(kind, name) for name in registry.names(kind))
