"""Rows on disk: labelled batches written once as .npy files that any process can map, so that memory stays bounded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from paring.data.batches import checked_batches, rows_in
from paring.errors import DataError, writing
from paring.types import Array, Arrays, Batch, Structure, named, restructured

COPY_BYTES = 64 * 2**20
"""Rows that are copied at a time, if that is more than one."""


@dataclass(frozen=True)
class Rows:
    """A folder of .npy files: `input-0.npy`, `input-1.npy`, ... and `target-0.npy`, ..., axis 0 = rows.

    Files are numbered in the order of the names, since a graph's names may hold what a file name can't.
    """

    folder: Path
    input_names: tuple[str, ...]
    target_names: tuple[str, ...]
    target_structure: Structure
    count: int

    def __len__(self) -> int:
        """Number of rows."""
        return self.count

    @property
    def input_files(self) -> dict[str, Path]:
        """Input name -> .npy file, in the order of the network's call."""
        return {name: self.folder / f"input-{i}.npy" for i, name in enumerate(self.input_names)}

    @property
    def target_files(self) -> dict[str, Path]:
        """Target name -> .npy file."""
        return {name: self.folder / f"target-{i}.npy" for i, name in enumerate(self.target_names)}

    @property
    def inputs(self) -> Arrays:
        """All inputs, mapped from disk."""
        return {name: np.load(file, mmap_mode="r") for name, file in self.input_files.items()}

    @property
    def targets(self) -> Any:
        """All targets in the user's own structure, mapped from disk."""
        values = {name: np.load(file, mmap_mode="r") for name, file in self.target_files.items()}
        return restructured(values, self.target_structure)

    def take(self, start: int, stop: int) -> tuple[Arrays, Any]:
        """Inputs and targets (as tensors) of a range of rows."""
        inputs = {name: np.array(value[start:stop]) for name, value in self.inputs.items()}
        return inputs, self.targets_between(start, stop)

    def targets_between(self, start: int, stop: int) -> Any:
        """Targets (as tensors) of a range of rows, without reading its inputs."""
        targets = {
            name: torch.from_numpy(np.load(file, mmap_mode="r")[start:stop].copy())
            for name, file in self.target_files.items()
        }
        return restructured(targets, self.target_structure)

    @property
    def target_bytes(self) -> int:
        """Bytes of one row's targets."""
        return sum(np.load(file, mmap_mode="r")[:1].nbytes for file in self.target_files.values())

    def batches(self, batch_size: int) -> Iterator[tuple[Arrays, Any]]:
        """All rows in pieces."""
        for start in range(0, self.count, batch_size):
            yield self.take(start, min(start + batch_size, self.count))

    def digest(self) -> str:
        """sha256 over all files: the identity of the data."""
        total = hashlib.sha256()
        for file in sorted(self.folder.glob("*.npy")):
            with file.open("rb") as stream:
                total.update(hashlib.file_digest(stream, "sha256").digest())
        return total.hexdigest()

    def selected(self, indices: Array, folder: Path) -> Rows:
        """A copy with the rows at `indices`, in that order."""
        for file in sorted(self.folder.glob("*.npy")):
            source = np.load(file, mmap_mode="r")
            step = max(1, COPY_BYTES // max(1, source[:1].nbytes))
            with _NpyWriter(folder / file.name, file.stem) as writer:
                for start in range(0, len(indices), step):
                    writer.append(source[indices[start : start + step]])
        return Rows(folder, self.input_names, self.target_names, self.target_structure, len(indices))


class _NpyWriter:
    """Appends rows to a .npy file whose length is not known beforehand.

    NumPy pads the header of version 1.0 so that axis 0 can grow in place.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self.name = name
        self.rows = 0
        self._like: Array | None = None
        self._stream: BinaryIO | None = None

    def __enter__(self) -> _NpyWriter:
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = self.path.open("wb")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        assert self._stream is not None
        with writing(self.path), self._stream:
            if self._like is not None and kind is None:
                self._stream.seek(0)
                self._write_header()

    def append(self, rows: Array) -> None:
        assert self._stream is not None
        if self._like is None:
            self._like = rows[:0]
            self._write_header()
        if rows.shape[1:] != self._like.shape[1:] or rows.dtype != self._like.dtype:
            raise DataError(
                f"{self.name} changes from {self._like.dtype} rows of shape {self._like.shape[1:]} "
                f"to {rows.dtype} rows of shape {rows.shape[1:]} after {self.rows} rows: "
                "give all batches one shape, padded if need be."
            )
        with writing(self.path):
            self._stream.write(np.ascontiguousarray(rows).tobytes())
        self.rows += len(rows)

    def _write_header(self) -> None:
        assert self._stream is not None
        assert self._like is not None
        np.lib.format.write_array_header_1_0(
            self._stream,
            {
                "descr": np.lib.format.dtype_to_descr(self._like.dtype),
                "fortran_order": False,
                "shape": (self.rows, *self._like.shape[1:]),
            },
        )


def _structure(values: Any) -> Structure:
    return "dict" if isinstance(values, dict) else "tuple" if isinstance(values, tuple) else "tensor"


def _names(values: Any, prefix: str) -> tuple[str, ...]:
    """Names for the members of a tensor, tuple or dict."""
    if isinstance(values, dict):
        return tuple(values)
    return tuple(f"{prefix}_{i}" for i in range(len(values))) if isinstance(values, tuple) else (prefix,)


def write_rows(batches: Iterable[Batch], folder: Path, input_names: tuple[str, ...]) -> Rows:
    """Stream batches to disk. Raises DataError where they are empty, unlabelled, or change their shape.

    OutputError where the disk refuses.
    """
    structure: Structure = "tensor"
    target_names: tuple[str, ...] = ()
    writers: dict[str, _NpyWriter] = {}
    with ExitStack() as stack:
        for number, (inputs, targets) in enumerate(checked_batches(batches, "evaluate")):
            if targets is None:
                raise DataError(f"evaluate has no targets in batch {number}: scores need labels.")
            if number == 0:
                structure, target_names = _structure(targets), _names(targets, "target")
                rows = Rows(folder, input_names, target_names, structure, 0)
                files = {f"input {n!r}": f for n, f in rows.input_files.items()}
                files |= {f"target {n!r}": f for n, f in rows.target_files.items()}
                writers = {name: stack.enter_context(_NpyWriter(file, name)) for name, file in files.items()}
            columns = _columns(inputs, targets, input_names, target_names, number)
            for name, array in columns.items():
                writers[name].append(array)
        counts = {writer.rows for writer in writers.values()}
    if not counts or counts == {0}:
        raise DataError("evaluate is empty: it needs labelled rows to measure the accuracy on.")
    return Rows(folder, input_names, target_names, structure, counts.pop())


def _columns(
    inputs: Any, targets: Any, input_names: tuple[str, ...], target_names: tuple[str, ...], number: int
) -> Arrays:
    """One batch as named arrays of equal length."""
    rows = rows_in(inputs)
    try:
        columns = {f"input {n!r}": _array(v) for n, v in named(inputs, input_names).items()}
        columns |= {f"target {n!r}": _array(v) for n, v in named(targets, target_names).items()}
    except (KeyError, ValueError) as error:
        raise DataError(
            f"evaluate changes its structure in batch {number} ({error}): "
            "give all batches the inputs and targets of the first."
        ) from error
    for name, array in columns.items():
        if array.ndim == 0 or len(array) != rows:
            raise DataError(
                f"{name} of batch {number} in evaluate has shape {array.shape}, but the inputs have {rows} rows."
            )
    return columns


def _array(tensor: torch.Tensor) -> Array:
    array: Array = tensor.detach().cpu().numpy()
    return array
