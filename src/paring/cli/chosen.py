"""Techniques and backends as they were typed: names, or names with settings as reports print them."""

from __future__ import annotations

import ast
import inspect
from typing import Any

from paring import registry
from paring.errors import InputError

OPENING, CLOSING = "([{", ")]}"


def chosen(kind: registry.Kind, text: str | None) -> list[Any] | None:
    """The classes and objects of a comma-separated list; None (all) where nothing was typed.

    `PruneChannels, FineTune(epochs=5)` is a class, whose settings the search chooses, and an object, which is tried as
    it is; `PruneChannels(ratio=0.5) + FineTune(epochs=5) + Int8Static` is one recipe, tried as a whole. Raises
    InputError for what can't be read, is not known or has no such setting.
    """
    if text is None:
        return None
    typed = _parts(text, f"--{kind}s")
    if not typed:
        raise InputError(f"--{kind}s is empty: name at least one of {', '.join(registry.names(kind))}.")
    return [_recipe(kind, one) for one in typed]


def _recipe(kind: registry.Kind, text: str) -> Any:
    """One of the kind, or techniques one after the other, of which a name alone stands for its defaults."""
    made = [_made(kind, part) for part in _parts(text, text, "+" if kind == "technique" else ",")]
    return made[0] if len(made) == 1 else tuple(one() if isinstance(one, type) else one for one in made)


def _parts(text: str, where: str, separator: str = ",") -> list[str]:
    """What stands between the separators that are in no bracket."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in OPENING) - (letter in CLOSING)
        if depth < 0:
            break
        if letter == separator and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    if depth:
        raise InputError(f"{where} {text!r} has brackets that don't match: write for example 'FineTune(epochs=5)'.")
    return [part.strip() for part in parts if part.strip()]


def _made(kind: registry.Kind, text: str) -> Any:
    """The class of a name, or an object of it with the settings in brackets."""
    name, bracket, rest = text.partition("(")
    found = registry.find(kind, name)
    if not bracket:
        return found
    if not rest.endswith(")"):
        raise InputError(f"{text!r} goes on after its settings: separate {kind}s by commas.")
    signature = inspect.signature(found)
    known = list(signature.parameters)
    settings: dict[str, Any] = {}
    for part in _parts(rest[:-1], name):
        setting, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or setting not in known:
            raise InputError(f"{name} has no setting {part!r}: write NAME=VALUE with one of {', '.join(known)}.")
        settings[setting] = _value(kind, value)
    try:
        signature.bind(**settings)
    except TypeError as error:
        raise InputError(f"{text} lacks a setting: {error}.") from error
    return found(**settings)


def _value(kind: registry.Kind, text: str) -> Any:
    """A value of Python, an object inside another one, or else the word itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return _made(kind, text) if "(" in text else text
