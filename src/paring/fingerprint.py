"""Whether what people wrote in Python is the same as in an earlier process: functions, classes, objects, values."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterator, Mapping
from logging import Logger
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch

PLAIN = bool | int | float | complex | str | bytes | None
MEMBERS = (FunctionType, classmethod, staticmethod, property)
ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def fingerprint(value: Any) -> str:
    """A value's kind or name, and a digest of all that its behaviour rests on.

    That is: of functions the code (not where it stands, nor its comments), what they close over, their defaults, and
    the plain values, functions and classes of their own module that they name; of classes their methods and the bases
    of their own module; of objects their class and fields; of partials the function and the arguments; of arrays and
    networks the contents.
    """
    total = hashlib.sha256()
    for piece in _pieces(value):
        total.update(piece.encode() + b"\0")
    return f"{_name(value)} {total.hexdigest()[:16]}"


def _name(value: Any) -> str:
    named = value if isinstance(value, type | FunctionType) else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def _pieces(value: Any) -> Iterator[str]:
    """The value as texts that are the same in every process; without recursion, since values may be nested deeply."""
    seen: dict[int, Any] = {}
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, PLAIN):
            yield hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else repr(value)
            continue
        yield _name(value)
        # Constants of code may be one object or several equal ones, as the compiler likes: they are always entered.
        if not isinstance(value, tuple | frozenset | CodeType):
            if id(value) in seen:
                continue
            seen[id(value)] = value  # Kept, so that nothing else gets its id.
        waiting += reversed(tuple(_parts(value)))


def _parts(value: Any) -> Iterator[Any]:
    """What a value is made of."""
    match value:
        case type():
            yield from (item for item in vars(value).items() if _is_behaviour(*item))
            yield from (base for base in value.__bases__ if _is_of(base, value.__module__))
        case FunctionType():
            yield from (value.__code__, value.__defaults__, value.__kwdefaults__, _closed_over(value), _named(value))
        case CodeType():
            yield from (value.co_code, value.co_names, value.co_consts)
        case MethodType() | classmethod() | staticmethod():
            yield from (value.__func__, value.__self__ if isinstance(value, MethodType) else None)
        case property():
            yield value.fget
        case functools.partial():
            yield from (value.func, value.args, value.keywords)
        case _:
            yield from _contents(value)


def _contents(value: Any) -> Iterator[Any]:
    """What an object that is no code holds."""
    match value:
        case torch.nn.Module():
            yield from (type(value), repr(value), dict(value.state_dict()))
        case torch.Tensor():
            yield from (str(value.dtype), tuple(value.shape))
            dense = value.detach().cpu().to_dense().contiguous()
            # Not the bytes themselves: a copy of them may be more than there is memory for.
            yield hashlib.sha256(dense.flatten().view(torch.uint8).numpy().data).hexdigest()
        case np.ndarray():
            yield from (value.dtype.str, value.shape, value.tobytes())
        case Mapping():
            yield from value.items()
        case set() | frozenset():
            yield from sorted(map(fingerprint, value))
        case list() | tuple():
            yield from value
        case ModuleType() | Logger():  # What they hold is the whole program's.
            yield value.__name__ if isinstance(value, ModuleType) else value.name
        case object(__dict__=fields):
            yield from (type(value), fields)
        case _:
            yield ADDRESS.sub("", repr(value))


def _is_behaviour(name: str, value: Any) -> bool:
    """Whether a member of a class tells how it behaves, and not where or how it was written down."""
    return isinstance(value, MEMBERS) or (isinstance(value, PLAIN | tuple) and not name.startswith("__"))


def _closed_over(function: FunctionType) -> list[Any]:
    """The values of a function's free variables."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    return [(name, cell.cell_contents) for name, cell in cells if cell != CellType()]


def _named(function: FunctionType) -> list[Any]:
    """The module's values that a function's code names."""
    found = {name: function.__globals__[name] for name in _names(function.__code__) if name in function.__globals__}
    return [item for item in found.items() if isinstance(item[1], PLAIN) or _is_of(item[1], function.__module__)]


def _is_of(value: Any, module: str) -> bool:
    return isinstance(value, FunctionType | type) and value.__module__ == module


def _names(code: CodeType) -> Iterator[str]:
    """The names that code and the code inside it look up."""
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names(inner)
