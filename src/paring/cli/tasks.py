"""TASK on the command line: a Python file that makes a Task, or an ONNX graph with a data file."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from paring.cli.functions import Run, called, ran
from paring.data.archive import archive_batches
from paring.errors import TaskError
from paring.graph.signature import graph_signature, optional_inputs, read_graph
from paring.registry import executed
from paring.types import Task


def load_task(text: str, data: Path | None, run: Run = executed) -> Task:
    """The task named by `file.py`, `file.py:name` or `file.onnx`; each failure is one sentence. `run` runs a file."""
    path_text, _, name = text.partition(":")
    path = Path(path_text)
    if not path.exists():
        raise TaskError(f"no such task file: {path_text}: give file.py, file.py:name, or file.onnx with --data.")
    if path.is_dir():
        raise TaskError(f"{path} is a folder: pass a Python file that makes a paring.Task from it.")
    if path.suffix == ".onnx":
        return _graph_task(path, data)
    if path.suffix != ".py":
        raise TaskError(f"{path} is neither a .py file that makes a task nor an .onnx graph.")
    if data is not None:
        raise TaskError(f"--data {data} goes with an .onnx graph: {path} brings its own data.")
    return _named_task(ran(path, run), name, path)


def _named_task(module: ModuleType, name: str, path: Path) -> Task:
    found = vars(module).get(name or "task")
    if found is None:
        offered = [key for key, value in vars(module).items() if isinstance(value, Task)]
        hint = f"; it has {', '.join(offered)}, so type {path}:{offered[0]}" if offered else ""
        raise TaskError(f"{path} has no {name or 'task'!r}{hint}: name a paring.Task or a function that returns one.")
    if callable(found):
        found = called(path, found)
    if not isinstance(found, Task):
        raise TaskError(f"{name or 'task'!r} in {path} is a {type(found).__name__}, not a paring.Task.")
    return found


def _graph_task(path: Path, data: Path | None) -> Task:
    """A task from a graph and an .npz with one array for each input, named as the graph names it, and `targets`."""
    if data is None:
        raise TaskError(f"{path} needs labelled data: pass --data FILE.npz with its inputs by name and `targets`.")
    graph = read_graph(path)
    names = graph_signature(graph, "dict").input_names
    return Task(path, evaluate=archive_batches(data, names, optional_inputs(graph)), name=path.stem)
