"""Batches as the user gives them: tensors, tuples or dicts of tensors, targets that may be missing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paring.data.seeding import seeded
from paring.errors import DataError, ParingError, in_words
from paring.types import Batch, Task

CALIBRATION_ROWS = 512


DTYPES = (
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.float16, torch.float32, torch.float64),
)
"""What every runtime can be handed by way of NumPy."""


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


def checked_batches(batches: Iterable[Any], name: str) -> Iterator[Batch]:
    """The user's batches in one form: inputs and targets as a tensor, tuple or dict of tensors; empty ones left out.

    A list is what DataLoader's own collation makes of a tuple, so it is read as one. Targets may be arrays or lists of
    numbers. Raises DataError that names the batch, also where the data itself fails.
    """
    count = 0
    try:
        for batch in batches:
            inputs, targets = _pair(batch, f"batch {count} of {name}")
            count += 1
            if rows_in(inputs):
                yield inputs, targets
    except (ParingError, GeneratorExit):
        raise
    except Exception as error:
        raise DataError(f"{name} failed after batch {count}: {in_words(error)}.") from error


def _pair(batch: Any, where: str) -> Batch:
    """(inputs, targets) as the rest of the code takes them."""
    if not (isinstance(batch, list | tuple) and len(batch) == 2):
        size = f" of {len(batch)}" if isinstance(batch, list | tuple) else ""
        raise DataError(
            f"{where} is a {type(batch).__name__}{size}: "
            "give pairs (inputs, targets), with targets None where there are no labels."
        )
    inputs, targets = _collected(batch[0]), _targets(_collected(batch[1]), where)
    given = tensors_of(inputs) if isinstance(inputs, Tensor | tuple | dict | None) else (inputs,)
    if not given:
        raise DataError(f"{where} has no inputs: give a tensor, a tuple of tensors or a dict of tensors.")
    for value in (*given, *tensors_of(targets)):
        _check_tensor(value, where)
    shapes = [tuple(value.shape) for value in tensors_of(inputs)]
    if not all(shapes) or len({shape[0] for shape in shapes}) > 1:
        told = " and ".join(map(str, shapes))
        raise DataError(f"{where} has inputs of shape {told}: axis 0 of every input must be the rows of the batch.")
    if isinstance(targets, Tensor) and not targets.ndim:
        raise DataError(
            f"{where} has targets of shape (): axis 0 must be the rows of the batch; a DataLoader makes batches of the "
            "single rows of a Dataset."
        )
    return inputs, targets


def _collected(values: Any) -> Any:
    """A list that holds tensors, as a tuple; any mapping as a dict; everything else as it is."""
    if isinstance(values, Mapping):
        return dict(values)
    is_sequence = isinstance(values, list | tuple)
    return tuple(values) if is_sequence and any(isinstance(value, Tensor) for value in values) else values


def _targets(values: Any, where: str) -> Any:
    """The same structure with arrays and lists of numbers as tensors."""
    if values is None or isinstance(values, Tensor):
        return values
    if isinstance(values, dict):
        return {name: _as_tensor(value, where) for name, value in values.items()}
    return tuple(_as_tensor(v, where) for v in values) if isinstance(values, tuple) else _as_tensor(values, where)


def _as_tensor(value: Any, where: str) -> Tensor:
    if isinstance(value, Tensor):
        return value
    try:
        array = np.array(value)
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{where} has targets of mixed shapes: give tensors of one shape, padded if need be."
        ) from error
    if array.dtype.kind not in "biuf":
        kind = "strings" if array.dtype.kind in "US" else f"{type(value).__name__} objects"
        raise DataError(f"{where} has targets that are {kind}: give numbers, such as the index of each row's class.")
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))


def _check_tensor(value: Any, where: str) -> None:
    if not isinstance(value, Tensor):
        raise DataError(
            f"{where} holds a {type(value).__name__} where a tensor belongs: use torch.as_tensor, "
            "and a tuple or dict of tensors without others inside it."
        )
    if value.dtype not in DTYPES:
        raise DataError(
            f"{where} holds {str(value.dtype).removeprefix('torch.')}, which runtimes can't be handed: "
            "convert it, for example by .float()."
        )


def first_rows(batches: Iterable[Batch], rows: int, name: str = "the data") -> tuple[Batch, ...]:
    """The leading batches that hold `rows` rows; the last one is cut."""
    kept: list[Batch] = []
    missing = rows
    for inputs, targets in checked_batches(batches, name):
        if missing <= 0:
            break
        size = min(missing, rows_in(inputs))
        kept.append((mapped(inputs, lambda v, n=size: v[:n]), mapped(targets, lambda v, n=size: v[:n])))
        missing -= size
    return tuple(kept)


def spread_rows(batches: Iterable[Batch], rows: int, name: str = "the data") -> tuple[Batch, ...]:
    """So many rows from all over a sequence of batches, which may be in order of their classes; else the leading ones.

    What is no sequence can only be read from its beginning, and is shuffled where somebody meant to train on it.
    """
    if not isinstance(batches, Sequence) or not batches:
        return first_rows(batches, rows, name)
    picked = [batches[at * len(batches) // min(rows, len(batches))] for at in range(min(rows, len(batches)))]
    kept: list[Batch] = []
    missing = rows
    for left, (inputs, targets) in zip(range(len(picked), 0, -1), checked_batches(picked, name), strict=False):
        size = rows_in(inputs)
        wanted = min(size, math.ceil(missing / left))
        places = torch.arange(wanted) * size // wanted
        kept.append((mapped(inputs, lambda v, at=places: v[at]), mapped(targets, lambda v, at=places: v[at])))
        missing -= wanted
    return tuple(kept)


def in_pieces(values: Any, rows: int) -> Iterator[Any]:
    """A batch's inputs or targets, so many rows at a time."""
    for start in range(0, rows_in(values), rows):
        yield mapped(values, lambda value, start=start: value[start : start + rows])


def known_length(batches: Iterable[Batch]) -> int | None:
    """The number of batches, where the data knows it."""
    try:
        return len(batches) if isinstance(batches, Sized) else None
    except TypeError:  # A loader over a stream has a length only where the stream has one.
        return None


def calibration_batches(task: Task, seed: int = 0, rows: int = CALIBRATION_ROWS) -> tuple[Batch, ...]:
    """What techniques may observe: the task's own calibration data, else a slice of train, else of evaluate.

    Of data that is shuffled the same seed gives the same rows, in a run that goes on too.
    """
    for name in ("calibrate", "train", "evaluate"):
        source: Iterable[Batch] | None = getattr(task, name)
        if source is not None:
            with seeded(seed):
                batches = first_rows(source, rows, name)
            if not batches:
                raise DataError(f"{name} is empty: give it at least one row.")
            return batches
    raise DataError("the task has no data: give `evaluate` at least one row.")


def model_call(model: Any, inputs: Any) -> Any:
    """Call a network the way its inputs are structured."""
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def sample(batches: Iterable[Batch], name: str = "the data") -> Batch:
    """The first batch. Raises DataError that uses the data's name where there is none or it can't be used."""
    for batch in islice(checked_batches(batches, name), 1):
        return batch
    raise DataError(f"{name} is empty: give it at least one row.")
