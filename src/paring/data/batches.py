"""Batches as the user gives them: tensors, tuples or dicts of tensors, targets that may be missing."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

from torch import Tensor

from paring.errors import TaskError
from paring.types import Batch, Task

CALIBRATION_ROWS = 512


def tensors_of(values: Any) -> tuple[Tensor, ...]:
    """The tensors in a tensor, tuple or dict, in order; none for None."""
    if values is None:
        return ()
    if isinstance(values, Tensor):
        return (values,)
    return tuple(values.values()) if isinstance(values, dict) else tuple(values)


def mapped(values: Any, change: Any) -> Any:
    """The same structure with `change` applied to each tensor."""
    if values is None:
        return None
    if isinstance(values, Tensor):
        return change(values)
    if isinstance(values, dict):
        return {name: change(value) for name, value in values.items()}
    return tuple(change(value) for value in values)


def rows_in(values: Any) -> int:
    """Rows of a batch's inputs: the size of axis 0."""
    return int(tensors_of(values)[0].shape[0])


def first_rows(batches: Iterable[Batch], rows: int) -> tuple[Batch, ...]:
    """The leading batches that hold `rows` rows; the last one is cut."""
    kept: list[Batch] = []
    missing = rows
    for inputs, targets in batches:
        if missing <= 0:
            break
        size = min(missing, rows_in(inputs))
        kept.append((mapped(inputs, lambda v, n=size: v[:n]), mapped(targets, lambda v, n=size: v[:n])))
        missing -= size
    return tuple(kept)


def calibration_batches(task: Task, rows: int = CALIBRATION_ROWS) -> tuple[Batch, ...]:
    """What techniques may observe: the task's own calibration data, else a slice of train, else of evaluate."""
    for name in ("calibrate", "train", "evaluate"):
        source: Iterable[Batch] | None = getattr(task, name)
        if source is not None:
            batches = first_rows(source, rows)
            if not batches:
                raise TaskError(f"{name} is empty: give it at least one row.")
            return batches
    raise TaskError("the task has no data: give `evaluate` at least one row.")


def model_call(model: Any, inputs: Any) -> Any:
    """Call a network the way its inputs are structured."""
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def sample(batches: Iterable[Batch], name: str = "the data") -> Batch:
    """The first batch. Raises TaskError that uses the data's name where there is none."""
    for batch in islice(batches, 1):
        return batch
    raise TaskError(f"{name} is empty: give it at least one row.")
