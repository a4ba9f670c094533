"""Functions as they were typed: FILE.py:NAME, as a task is named, or module:NAME for one that can be imported."""

from __future__ import annotations

import difflib
import importlib
import re
import traceback
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, TypeAlias

from paring.errors import InputError, TaskError, in_words
from paring.registry import executed

Run: TypeAlias = Callable[[str, str], ModuleType]
"""The name of a module and the absolute path of its file -> the module, as `registry.executed` makes it."""

TYPED = re.compile(r"(?P<where>.+\.py|[^\W\d]\w*(\.\w+)*):(?P<name>[^\W\d]\w*)")


def once() -> Run:
    """Runs a file when it is named first, by a task or by a setting, and not again: it may train a network."""
    return cache(executed)


def typed_function(text: str, run: Run) -> Callable[..., Any] | None:
    """The function that was typed; None for a text that has not this form.

    Raises InputError with the closest names where its file or module has no such function, TaskError where that can't
    be run.
    """
    typed = TYPED.fullmatch(text)
    if typed is None:
        return None
    where, name = typed["where"], typed["name"]
    module = ran(Path(where), run) if where.endswith(".py") else _imported(where)
    found = vars(module).get(name)
    if callable(found):
        return found  # type: ignore[no-any-return]
    functions = [key for key, value in vars(module).items() if isinstance(value, FunctionType)]
    close = ", ".join(difflib.get_close_matches(name, functions, n=3, cutoff=0.0)) or "it has none"
    raise InputError(f"{where} has no function {name!r}: write one, or name one that it has ({close}).")


def ran(path: Path, run: Run) -> ModuleType:
    """A file of the user's, run. Raises TaskError where there is none, and for whatever it raises."""
    if not path.is_file():
        raise TaskError(f"no such file: {path}: name a Python file.")
    module: ModuleType = called(path, lambda: run(path.stem, str(path.resolve())))
    return module


def called(path: Path, code: Callable[[], Any]) -> Any:
    """What the user's code returns; whatever it raises, even SystemExit, becomes one sentence with its line."""
    try:
        return code()
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == path.resolve()]
        line = f":{frames[-1].lineno}" if frames else ""
        raise TaskError(f"{path}{line} raised {in_words(error)}.") from error


def _imported(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:  # What it runs is anybody's code.
        raise InputError(
            f"{module} can't be imported: {in_words(error)}; name a function of a file as FILE.py:NAME."
        ) from error
