"""Rows in one .npz file: how labelled data comes beside a graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from paring.errors import DataError, in_words
from paring.types import Array, Arrays, Batch

TARGETS = "targets"
BATCH_ROWS = 64


def archive_batches(file: Path, input_names: tuple[str, ...], optional: tuple[str, ...] = ()) -> list[Batch]:
    """The arrays of an .npz, one for each input and `targets`, as batches of tensors; also `optional` ones it holds.

    Raises DataError where the file is damaged, pickled or no .npz, lacks an array, or holds unequal numbers of rows.
    """
    columns = _columns(file, (*input_names, TARGETS), optional)
    rows = {name: len(array) if array.ndim else 0 for name, array in columns.items()}
    if len(set(rows.values())) > 1:
        told = ", ".join(f"{name} {count}" for name, count in rows.items())
        raise DataError(f"{file} holds unequal numbers of rows ({told}): axis 0 of every array must be the rows.")
    try:
        tensors = {name: torch.from_numpy(array) for name, array in columns.items()}
    except (TypeError, ValueError) as error:
        raise DataError(f"{file} holds arrays that are no numbers of this machine: {in_words(error)}.") from error
    targets = tensors.pop(TARGETS)
    spans = [slice(start, start + BATCH_ROWS) for start in range(0, len(targets), BATCH_ROWS)]
    return [({name: value[span] for name, value in tensors.items()}, targets[span]) for span in spans]


def _columns(file: Path, names: tuple[str, ...], optional: tuple[str, ...]) -> Arrays:
    if not file.is_file():
        raise DataError(f"no such data file: {file}.")
    try:
        # NumPy leaves a file that it opened itself open where the archive is damaged.
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            held: tuple[str, ...] = tuple(arrays.files)
            columns: dict[str, Array] = {name: arrays[name] for name in (*names, *optional) if name in held}
    except Exception as error:  # A damaged archive raises whatever its zip, zlib or header reader does.
        raise DataError(
            f"{file} can't be read as an .npz without pickled objects ({in_words(error)}): "
            "write it by numpy.savez with plain arrays."
        ) from error
    missing = [name for name in names if name not in columns]
    if missing:
        raise DataError(f"{file} lacks {missing[0]!r}: it holds {', '.join(held)}.")
    return columns
