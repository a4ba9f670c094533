"""What a setting may be: each field of a frozen dataclass is held against the type that it is annotated with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from paring.errors import TechniqueError, quoted
from paring.types import is_number, is_whole

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def check_types(settings: DataclassInstance) -> None:
    """Raise TechniqueError for the first field whose value is not of its annotated type.

    For the beginning of `__post_init__`: what follows can compare numbers. Numbers have to be finite and of Python's
    own types, which JSON can hold; a whole one will do for a float.
    """
    kinds = get_type_hints(type(settings))
    for field in fields(settings):
        value, kind = getattr(settings, field.name), kinds[field.name]
        if _fits(value, kind):
            continue
        told = f"{field.name}={quoted(value)}"
        if get_origin(kind) is Literal:
            raise TechniqueError(f"{told} is unknown: choose one of {', '.join(map(str, get_args(kind)))}.")
        example = f", for example {field.default}" if kind in (int, float) and _fits(field.default, kind) else ""
        raise TechniqueError(f"{told} must be {_in_words(kind)}{example}.")


def check_once(setting: str, pairs: Sequence[tuple[str, float | str]]) -> None:
    """Raise TechniqueError for a layer that is named twice with different values."""
    given: dict[str, float | str] = {}
    for layer, value in pairs:
        if given.setdefault(layer, value) != value:
            raise TechniqueError(f"{setting} names {layer!r} twice, with {given[layer]} and {value}: give it once.")


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of the annotated type."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is Literal:
        return any(type(value) is type(one) and value == one for one in inner)
    if origin is tuple and isinstance(value, tuple):
        kinds = inner[:1] * len(value) if inner[1:] == (...,) else inner
        return len(value) == len(kinds) and all(map(_fits, value, kinds))
    checks: dict[Any, Callable[[Any], bool]] = {float: is_number, int: is_whole, Any: lambda _: True}
    return checks[kind](value) if kind in checks else isinstance(value, origin or kind)


def _in_words(kind: Any) -> str:
    """An annotated type, as people read it."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(map(_in_words, inner))
    if origin is Literal:
        return " or ".join(map(repr, inner))
    if origin is tuple and inner[1:] == (...,):
        example = " as ('a', 'b')" if inner[0] is str else ""
        return f"a tuple{example}, each item {_in_words(inner[0])}"
    if origin is tuple:
        return f"({', '.join(map(_in_words, inner))})"
    names = {float: "a finite float", int: "an int", str: "a str", bool: "True or False", NoneType: "None"}
    return names.get(kind) or ("a function" if origin is Callable else f"an object of {(origin or kind).__name__}")
