"""What is proposed for a network, and what is not, with the reason: a technique that can't propose stops no other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from paring.errors import DataError, OutputError, ParingError, TimeUpError, in_words
from paring.techniques.base import GraphTechnique, ModuleTechnique, Technique, TrainingTechnique

Offer = TypeVar("Offer")


def offered(name: str, offers: Callable[[], Iterable[Offer]], not_tried: dict[str, str]) -> list[Offer]:
    """What it offers, up to where it fails; the failure is told in `not_tried`, under its name.

    A disk that refuses, rows that can't be used and too little time are no verdict on it, and are raised.
    """
    found: list[Offer] = []
    try:
        found.extend(offers())
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
    techniques: Sequence[Technique | type[Technique]], *, graph_only: bool, train_data: bool
) -> Iterator[tuple[str, str]]:
    """Techniques that the task rules out, whatever the network: each name with the reason."""
    trains = any(issubclass(kind_of(t), TrainingTechnique) for t in techniques)
    for technique in techniques:
        if not issubclass(kind_of(technique), ModuleTechnique):
            continue
        if graph_only:
            yield told(technique), "the task is a graph: it needs the network as an nn.Module."
        elif issubclass(kind_of(technique), TrainingTechnique) and not train_data:
            yield told(technique), "the task has no `train` data."
        elif isinstance(technique, type) and not train_data:
            yield told(technique), "it is tried with training behind it, and the task has no `train` data."
        elif isinstance(technique, type) and not trains:
            yield told(technique), "it is tried with training behind it, and no technique that trains was asked for."


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
