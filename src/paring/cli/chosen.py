"""Techniques and backends as they were typed: names, or names with settings as reports print them."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Sequence
from typing import Any

from paring import registry
from paring.cli.functions import Run, typed_function
from paring.errors import InputError

OPENING, CLOSING = "([{", ")]}"
JOINS = ("+", "->", "→")
"""What stands between the techniques of a recipe, as it is typed, as it is told, and as pages show it."""

TOKEN = re.compile(r"""->|(?<!\w)'(?:\\.|[^'\\])*'|(?<!\w)"(?:\\.|[^"\\])*"|.""", re.DOTALL)
"""A join, a quoted word with whatever brackets and commas it holds, or a character; inside a word quotes are none."""


def chosen(kind: registry.Kind, text: str | None, run: Run = registry.executed) -> list[Any] | None:
    """The classes and objects of a comma-separated list; None (all) where nothing was typed.

    `PruneChannels, FineTune(epochs=5)` is a class, whose settings the search chooses, and an object, which is tried as
    it is; `PruneChannels(0.5) + FineTune + StaticQuantization` is one recipe, tried as a whole. Reports join its
    techniques by arrows, and these will do too. A setting may be a function, as `criterion=task.py:spread`, whose file
    `run` runs. Raises InputError for what can't be read, is not known or has no such setting.
    """
    if text is None:
        return None
    typed = _parts(text, f"--{kind}s")
    if not typed:
        raise InputError(f"--{kind}s is empty: name at least one of {', '.join(registry.names(kind))}.")
    return [_recipe(kind, one, run) for one in typed]


def _recipe(kind: registry.Kind, text: str, run: Run) -> Any:
    """One of the kind, or techniques one after the other, of which a name alone stands for its defaults."""
    made = [_made(kind, part, run) for part in _parts(text, text, JOINS if kind == "technique" else (",",))]
    return made[0] if len(made) == 1 else tuple(one() if isinstance(one, type) else one for one in made)


def _parts(text: str, where: str, separators: Sequence[str] = (",",)) -> list[str]:
    """What stands between the separators that are in no bracket and in no quotes."""
    parts, depth = [""], 0
    for token in TOKEN.findall(text):
        depth += (token in OPENING) - (token in CLOSING)
        if depth < 0:
            break
        if token in separators and not depth:
            parts.append("")
        else:
            parts[-1] += token
    if depth:
        raise InputError(f"{where} {text!r} has brackets that don't match: write for example 'FineTune(epochs=5)'.")
    return [part.strip() for part in parts if part.strip()]


def _made(kind: registry.Kind, text: str, run: Run) -> Any:
    """The class of a name, or an object of it with the settings in brackets."""
    name, bracket, rest = text.partition("(")
    found = registry.find(kind, name)
    if not bracket:
        return found
    if not rest.endswith(")"):
        raise InputError(f"{text!r} goes on after its settings: separate {kind}s by commas.")
    signature = inspect.signature(found)
    values, settings = _settings(kind, name, rest[:-1], list(signature.parameters), run)
    try:
        signature.bind(*values, **settings)
    except TypeError as error:
        raise InputError(f"{text} lacks a setting: {error}.") from error
    return found(*values, **settings)


def _settings(
    kind: registry.Kind, name: str, text: str, known: Sequence[str], run: Run
) -> tuple[list[Any], dict[str, Any]]:
    """The values in brackets: those without a name, which come first, and those with one."""
    values: list[Any] = []
    settings: dict[str, Any] = {}
    for part in _parts(text, name):
        named = re.match(r"(\w+)\s*=", part)
        if named is None and not settings and len(values) < len(known):
            values.append(_value(kind, part, run))
        elif named is None or named[1] not in known[len(values) :]:
            raise InputError(f"{name} has no setting {part!r}: write NAME=VALUE with one of {', '.join(known)}.")
        elif named[1] in settings:
            raise InputError(f"{name} has {named[1]} twice: give it once.")
        else:
            settings[named[1]] = _value(kind, part[named.end() :].strip(), run)
    return values, settings


def _value(kind: registry.Kind, text: str, run: Run) -> Any:
    """A value of Python, a technique inside another one, of which the name will do, a function, or the word itself.

    So are those in a tuple: `(int8, int4)` is ("int8", "int4").
    """
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        if text.startswith("(") and text.endswith(")"):
            inner = text[1:-1]
            found = [_value(kind, part, run) for part in _parts(inner, text)]
            if not found:
                raise InputError(f"{text!r} can't be read: write for example (int8, int4).") from None
            return found[0] if len(found) == 1 and not inner.rstrip().endswith(",") else tuple(found)
        if "(" in text:
            return _made(kind, text, run)
        if kind == "technique" and text in registry.names(kind):
            return registry.find(kind, text)()
        value = text
    return (typed_function(value, run) or value) if isinstance(value, str) else value
