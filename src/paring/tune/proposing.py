"""What is proposed for a network, and what is not, with the reason: a technique that can't propose stops no other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from paring.backends.base import Backend
from paring.backends.kernels import best_percent, flaw
from paring.data.job import Measured
from paring.errors import DataError, OutputError, ParingError, TechniqueError, TimeUpError, in_words
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

if TYPE_CHECKING:
    import onnx

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
    alone = any(role == "alone" for role in map(_role, useful))
    for technique in techniques:
        if useless(technique, wants):
            yield told(technique), no_gain(wants, technique.improves)
        elif not issubclass(kind_of(technique), ModuleTechnique):
            if not alone and isinstance(technique, type):
                yield told(technique), "it only serves another technique of graphs, and none was asked for."
        elif graph_only:
            yield told(technique), NEEDS_MODULE
        elif issubclass(kind_of(technique), TrainingTechnique) and not train_data:
            yield told(technique), "the task has no `train` data."
        elif needs_smaller(kind_of(technique)) and not shrinks:
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


def needs_smaller(kind: type[Technique]) -> bool:
    """Whether it is a training that is of use for a smaller network alone."""
    return only_mends(kind) and issubclass(kind, TrainingTechnique) and not kind.prepares


def serving(
    variants: Iterable[GraphTechnique], graph: onnx.ModelProto, wants: Sequence[Objective]
) -> Iterator[GraphTechnique]:
    """The variants that serve what the budget wants. Raises TechniqueError where there are some, and none of them does.

    It says what they serve on this network.
    """
    served: dict[Objective, None] = {}
    none = True
    for variant in variants:
        of_variant = variant.serves(graph)
        if set(wants).intersection(of_variant):
            none = False
            yield variant
        served.update(dict.fromkeys(of_variant))
    if none and served:
        raise TechniqueError(no_gain(wants, tuple(served), " on this network"))


def no_gain(wants: Sequence[Objective], served: Sequence[Objective], where: str = "") -> str:
    """Why a technique is not proposed: what it serves is not wanted."""
    return f"no runtime here gains {' or '.join(wants)} by it{where}: it serves the objective {' or '.join(served)}."


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


def quick(variant: GraphTechnique, backend: Backend, measured: Measured, not_tried: dict[str, str]) -> bool:
    """Whether a form that it asks for is no slower there than fp32, in the layers that gain most; else that is told."""
    kind = type(backend)
    percents = [
        measured(f"{kind.name}: {form}, percent of fp32's speed", partial(best_percent, kind, form))
        for form in variant.forms
    ]
    if max(percents, default=100) >= 100:
        return True
    told = (
        f"{' and '.join(variant.forms)} runs at {max(percents) / 100:.2f}x the speed of fp32 here at best, as measured"
    )
    not_tried[f"{variant} on {backend.name}"] = f"{told}: pass it with its settings to try it all the same."
    return False


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
