"""What is proposed for a network, and what is not, with the reason: a technique that can't propose stops no other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from paring.backends.base import Backend
from paring.backends.kernels import flaw
from paring.errors import DataError, OutputError, ParingError, TimeUpError, in_words
from paring.techniques.base import (
    GraphTechnique,
    ModuleTechnique,
    Part,
    Recipe,
    Role,
    Technique,
    TrainingTechnique,
    described,
)
from paring.tune.candidate import check_storable
from paring.types import NEEDS_MODULE, Objective

Offer = TypeVar("Offer", bound=Technique | Backend | Part[ModuleTechnique])


def offered(name: str, offers: Callable[[], Iterable[Offer]], not_tried: dict[str, str]) -> list[Offer]:
    """What it offers, up to where it fails or can't be written down; that is told in `not_tried`, under its name.

    A disk that refuses, rows that can't be used and too little time are no verdict on it, and are raised.
    """
    found: list[Offer] = []
    try:
        for offer in offers():
            check_storable(offer.technique if isinstance(offer, Part) else offer)
            found.append(offer)
    except (OutputError, DataError, TimeUpError):
        raise
    except ParingError as error:
        not_tried[name] = str(error)
    except Exception as error:  # It may be anybody's code: whatever it raises ends its own proposals alone.
        not_tried[name] = f"proposing its settings raised {in_words(error)}."
    return found


def kind_of(technique: Technique | type[Technique]) -> type[Technique]:
    """The class of a technique that was passed as a class or as an object."""
    return technique if isinstance(technique, type) else type(technique)


def out_of_place(
    techniques: Sequence[Technique | type[Technique]], wants: Sequence[Objective], *, graph_only: bool, train_data: bool
) -> Iterator[tuple[str, str]]:
    """Techniques that the task or the budget rules out, whatever the network: each name with the reason."""
    useful = [technique for technique in techniques if not useless(technique, wants)]
    module_kinds = [kind for kind in map(kind_of, useful) if issubclass(kind, ModuleTechnique)]
    trains = any(issubclass(kind, TrainingTechnique) for kind in module_kinds)
    shrinks = not all(map(only_mends, module_kinds))
    alone = any(role == "alone" for role in map(_role, techniques))
    for technique in techniques:
        if not issubclass(kind_of(technique), ModuleTechnique):
            if not alone and isinstance(technique, type):
                yield told(technique), "it only serves another technique of graphs, and none was asked for."
            continue
        if useless(technique, wants):
            wanted, served = " or ".join(wants), " or ".join(technique.improves)
            yield told(technique), f"no runtime here gains {wanted} by it: it serves the objective {served}."
        elif graph_only:
            yield told(technique), NEEDS_MODULE
        elif issubclass(kind_of(technique), TrainingTechnique) and not train_data:
            yield told(technique), "the task has no `train` data."
        elif only_mends(kind_of(technique)) and not shrinks:
            yield (
                told(technique),
                "it makes nothing smaller itself: it is tried with a technique that does, and none was asked for.",
            )
        elif isinstance(technique, type) and not train_data:
            yield told(technique), "it is tried with training behind it, and the task has no `train` data."
        elif isinstance(technique, type) and not trains:
            yield told(technique), "it is tried with training behind it, and no technique that trains was asked for."


def unfit(recipes: Sequence[Recipe], *, graph_only: bool, train_data: bool) -> Iterator[tuple[str, str]]:
    """Recipes that the task rules out: each with the reason."""
    for recipe in recipes:
        if graph_only and any(isinstance(technique, ModuleTechnique) for technique in recipe):
            yield described(recipe), NEEDS_MODULE
        elif not train_data and any(isinstance(technique, TrainingTechnique) for technique in recipe):
            yield described(recipe), "the task has no `train` data."


def any_fits(
    techniques: Sequence[Technique | type[Technique]],
    recipes: Sequence[Recipe],
    backends: Sequence[Backend | type[Backend]],
    wants: Sequence[Objective],
    *,
    graph_only: bool,
    train_data: bool,
) -> bool:
    """Whether anything may come to be tried: the task does not rule it out, and what changes graphs has who reads them.

    A recipe that ends in a graph is none where nobody reads graphs.
    """
    ruled_out = {name for name, _ in out_of_place(techniques, wants, graph_only=graph_only, train_data=train_data)}
    fitting = [kind_of(technique) for technique in techniques if told(technique) not in ruled_out]
    read = any(backend.format == "onnx" for backend in backends)
    unfitting = {name for name, _ in unfit(recipes, graph_only=graph_only, train_data=train_data)}
    fitting += [kind_of(recipe[-1]) for recipe in recipes if described(recipe) not in unfitting]
    return any(read or not issubclass(kind, GraphTechnique) for kind in fitting)


def only_mends(kind: type[Technique]) -> bool:
    """Whether it is a training that makes nothing smaller itself."""
    return issubclass(kind, TrainingTechnique) and not kind.shrinks


def useless(technique: Technique | type[Technique], wants: Sequence[Objective]) -> bool:
    """Whether settings of its own would serve nothing that the budget wants; an object is somebody's choice."""
    return isinstance(technique, type) and not set(wants).intersection(technique.improves)


def _role(technique: Technique | type[Technique]) -> Role | None:
    """The role of a technique of graphs; None for a module's."""
    kind = kind_of(technique)
    return kind.role if issubclass(kind, GraphTechnique) else None


def told(technique: Any) -> str:
    """A class by its name, an object with its settings."""
    return technique.__name__ if isinstance(technique, type) else str(technique)


def executable(
    variants: Sequence[GraphTechnique],
    backend: str,
    executed: Sequence[str] | None,
    not_tried: dict[str, str],
) -> list[GraphTechnique]:
    """The variants whose precision the backend executes; the others are told in `not_tried`."""
    for variant in variants:
        if executed is not None and variant.execution not in executed:
            not_tried[f"{variant} on {backend}"] = f"{backend} does not execute {variant.execution} here."
    return [variant for variant in variants if executed is None or variant.execution in executed]


def runnable(recipe: Recipe, backend: Backend, not_tried: dict[str, str]) -> bool:
    """Whether the backend runs all forms that the recipe asks for; if not, `not_tried` tells which, and who does."""
    forms = dict.fromkeys(form for each in recipe if isinstance(each, GraphTechnique) for form in each.forms)
    told = next((told for form in forms if (told := flaw(type(backend), form))), "")
    if told:
        not_tried[f"{described(recipe)} on {backend.name}"] = told
    return not told


def permitted(variants: Iterable[Backend], not_tried: dict[str, str]) -> Iterator[Backend]:
    """The options that can work on this machine; the others are told in `not_tried`, and cost no trial."""
    for variant in variants:
        refusal = variant.refusal()
        if refusal is None:
            yield variant
        else:
            not_tried[str(variant)] = refusal


def unread(
    techniques: Sequence[Technique | type[Technique]], backends: Sequence[Backend | type[Backend]]
) -> Iterator[tuple[str, str]]:
    """Backends that read no graphs: for each why no technique of graphs is tried on it."""
    kinds = [kind_of(technique) for technique in techniques]
    changing = dict.fromkeys(kind.__name__ for kind in kinds if issubclass(kind, GraphTechnique))
    for backend in backends if changing else ():
        if backend.format != "onnx":
            reason = f"{backend.name} reads no ONNX graphs, and {', '.join(changing)} make nothing else."
            yield f"graphs on {backend.name}", reason
