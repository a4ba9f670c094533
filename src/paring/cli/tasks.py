"""TASK on the command line: a Python file that makes a Task, or an ONNX graph with a data file."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from paring.errors import InputError, TaskError
from paring.types import Batch, Task

DATA_BATCH = 64


def load_task(text: str, data: Path | None) -> Task:
    """The task named by `file.py`, `file.py:name` or `file.onnx`; each failure is one sentence."""
    path_text, _, name = text.partition(":")
    path = Path(path_text)
    if not path.exists():
        raise TaskError(f"no such task file: {path_text}.")
    if path.is_dir():
        raise TaskError(f"{path} is a folder: pass a Python file that makes a paring.Task from it.")
    if path.suffix == ".onnx":
        return _graph_task(path, data)
    if path.suffix != ".py":
        raise TaskError(f"{path} is neither a .py file that makes a task nor an .onnx graph.")
    return _named_task(_imported(path), name, path)


def _imported(path: Path) -> ModuleType:
    """Run the file as a module, found by its own folder so that it can import its neighbours."""
    spec = importlib.util.spec_from_file_location(path.stem, path.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.resolve().parent))
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except InputError:
        raise
    except Exception as error:
        raise TaskError(_failure(path, error)) from error
    return module


def _failure(path: Path, error: Exception) -> str:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == path.resolve()]
    line = f":{frames[-1].lineno}" if frames else ""
    return f"{path}{line} raised {type(error).__name__}: {error}."


def _named_task(module: ModuleType, name: str, path: Path) -> Task:
    found = vars(module).get(name or "task")
    if found is None:
        offered = [key for key, value in vars(module).items() if isinstance(value, Task)]
        hint = f"; it has {', '.join(offered)}" if offered else ""
        raise TaskError(f"{path} has no {name or 'task'!r}{hint}: name a Task or a function that returns one.")
    if callable(found):
        try:
            found = found()
        except InputError:
            raise
        except Exception as error:
            raise TaskError(_failure(path, error)) from error
    if not isinstance(found, Task):
        raise TaskError(f"{name or 'task'!r} in {path} is a {type(found).__name__}, not a paring.Task.")
    return found


def _graph_task(path: Path, data: Path | None) -> Task:
    """A task from a graph and an .npz with one array for each input, named as the graph names it, and `targets`."""
    import onnx

    if data is None:
        raise TaskError(f"{path} needs labelled data: pass --data FILE.npz with its inputs by name and `targets`.")
    if not data.is_file():
        raise TaskError(f"no such data file: {data}.")
    try:
        graph = onnx.load(path, load_external_data=False).graph
    except Exception as error:
        raise TaskError(f"{path} is not an ONNX graph: {error}") from error
    weights = {initializer.name for initializer in graph.initializer}
    names = [value.name for value in graph.input if value.name not in weights]
    with np.load(data, allow_pickle=False) as arrays:
        missing = [name for name in (*names, "targets") if name not in arrays.files]
        if missing:
            raise TaskError(f"{data} lacks {missing[0]!r}: it holds {', '.join(arrays.files)}.")
        columns = {name: torch.from_numpy(arrays[name]) for name in (*names, "targets")}
    rows = len(columns["targets"])
    batches: list[Batch] = []
    for start in range(0, rows, DATA_BATCH):
        piece = {name: value[start : start + DATA_BATCH] for name, value in columns.items()}
        targets = piece.pop("targets")
        batches.append((piece, targets))
    return Task(path, evaluate=batches, name=path.stem)
