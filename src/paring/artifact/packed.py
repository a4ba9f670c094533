"""Sparse networks on disk: of weights that are mostly zero a bit each is kept, and the others' values.

`network.onnx.sparse`, or `network.pt2.sparse`, is a NumPy archive of plain arrays that gives the file back byte for
byte, so that whatever checks or reads that file needs to know nothing of this one:

    rest    uint8   the file without the runs of bytes that are packed
    runs    int64   (runs, 4): where each run begins in the file, its number of items, bytes of an item, and `fill`, the
                    value that is left out: zero, or the commonest of one-byte items (a zero point)
    mask    uint8   run by run, from a new byte on, a bit for each item, first bit highest: whether it is another value
    values  uint8   the bytes of those others, in order

Reading it needs neither onnx nor torch.
"""

from __future__ import annotations

import io
import math
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from paring.errors import ArtifactError
from paring.types import Array

SPARSE = ".sparse"
"""Added to the name of the file that is packed."""

RUN_BYTES = 4 * 8
"""What a run costs beside its mask and its values: its row."""

DAMAGED = (OSError, ValueError, LookupError, TypeError, OverflowError, EOFError, RuntimeError, MemoryError)
"""What reading a packed file raises that is no such file, or that was tampered with."""

LEAST_SAVING = 0.1
"""Of the file: for less it is not packed."""


@dataclass(frozen=True)
class _Run:
    """Items of a file that are mostly one value: where they begin, and what is kept of them."""

    start: int
    items: int
    fill: int
    mask: Array
    values: Array

    @classmethod
    def of(cls, start: int, items: Array) -> _Run:
        """The packed form of unsigned integers."""
        fill = int(np.bincount(items).argmax()) if items.itemsize == 1 else 0
        kept = items != fill
        return cls(start, len(items), fill, np.packbits(kept), items[kept])

    @property
    def place(self) -> tuple[int, int, int, int]:
        """The row of `runs`."""
        return self.start, self.items, self.values.itemsize, self.fill

    @property
    def end(self) -> int:
        """Where the items end in the file."""
        return self.start + self.items * self.values.itemsize

    @property
    def saved_bytes(self) -> int:
        """How much smaller this is than the items."""
        return self.end - self.start - self.mask.nbytes - self.values.nbytes - RUN_BYTES

    def unpacked(self) -> bytes:
        """The items again."""
        items = np.full(self.items, self.fill, self.values.dtype)
        items[np.unpackbits(self.mask, count=self.items).astype(bool)] = self.values
        return items.tobytes()


def stored(network: Path) -> Path:
    """The packed file beside a network's place, or the network where it was not packed."""
    smaller = network.with_name(network.name + SPARSE)
    return smaller if smaller.is_file() else network


def packed(network: Path) -> Path:
    """Put the smaller file in the network's place; the network itself where its weights are not sparse."""
    content = network.read_bytes()
    archive = io.BytesIO()
    np.savez(archive, **_arrays(content, list(_runs(network, content))))  # type: ignore[arg-type]
    if archive.tell() > (1 - LEAST_SAVING) * len(content):
        return network
    target = network.with_name(network.name + SPARSE)
    target.write_bytes(archive.getbuffer())
    network.unlink()
    return target


def _runs(network: Path, content: bytes) -> Iterator[_Run]:
    """The constants in the file, in its order, that are smaller when they are packed."""
    at = 0
    for constant, sizes in (_of_archive if network.suffix == ".pt2" else _of_graph)(network):
        start = content.index(constant, at)
        forms = (_Run.of(start, np.frombuffer(constant, f"u{size}", len(constant) // size)) for size in sizes)
        smallest = max(forms, key=lambda run: run.saved_bytes)
        if smallest.saved_bytes > 0:
            yield smallest
        at = start + len(constant)


def _of_graph(network: Path) -> Iterator[tuple[bytes, tuple[int, ...]]]:
    """The constants of an ONNX file and the bytes of their items."""
    import onnx
    from onnx import helper

    for tensor in onnx.load(network, load_external_data=False).graph.initializer:
        size = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize if tensor.raw_data else 0
        if size in (1, 2, 4, 8):
            yield tensor.raw_data, (size,)


def _of_archive(network: Path) -> Iterator[tuple[bytes, tuple[int, ...]]]:
    """The entries of a torch archive, which lie in it as they are: weights of any type; texts save nothing."""
    with zipfile.ZipFile(network) as archive:
        for entry in archive.infolist():
            if entry.file_size:
                yield archive.read(entry), (2, 4, 8)


def _arrays(content: bytes, runs: list[_Run]) -> dict[str, Array]:
    kept = np.ones(len(content), dtype=bool)
    for run in runs:
        kept[run.start : run.end] = False
    nothing = np.empty(0, np.uint8)
    return {
        "rest": np.frombuffer(content, np.uint8)[kept],
        "runs": np.array([run.place for run in runs], dtype=np.int64).reshape(-1, 4),
        "mask": np.concatenate([nothing, *(run.mask for run in runs)]),
        "values": np.concatenate([nothing, *(run.values.view(np.uint8) for run in runs)]),
    }


def unpacked(file: Path) -> Iterator[bytes]:
    """The file that was packed, piece by piece. Raises ArtifactError where the packed one is damaged."""
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            _check_sizes(arrays.zip)
            rest, taken, end = arrays["rest"].tobytes(), 0, 0
            for run in _packed_runs(arrays["runs"], arrays["mask"], arrays["values"]):
                if run.start < end or taken + run.start - end > len(rest):
                    raise ValueError(f"a run at {run.start} lies outside the rest")
                yield rest[taken : taken + run.start - end]
                yield run.unpacked()
                taken, end = taken + run.start - end, run.end
            yield rest[taken:]
    except (*DAMAGED, zipfile.BadZipFile) as error:
        raise ArtifactError(f"{file} can't be unpacked ({error}): copy the artifact again.") from error


def _check_sizes(archive: zipfile.ZipFile) -> None:
    """Before anything is read: each array is stored as it is, of its own type, and no larger than its entry."""
    for entry in archive.infolist():
        if entry.compress_type != zipfile.ZIP_STORED:
            raise ValueError("its arrays are compressed, and could be of any size")
        with archive.open(entry) as stream:
            if np.lib.format.read_magic(stream) != (1, 0):
                raise ValueError(f"{entry.filename} has a format of its own")
            shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        wanted, axes = (np.dtype(np.int64), 2) if entry.filename == "runs.npy" else (np.dtype(np.uint8), 1)
        if dtype != wanted or len(shape) != axes or math.prod(shape) * dtype.itemsize > entry.file_size:
            raise ValueError(f"{entry.filename} holds {dtype} {shape}")


def _packed_runs(places: Array, mask: Array, values: Array) -> Iterator[_Run]:
    """The runs again. ValueError where there is less than they need, so that none is larger than its mask tells."""
    bits = taken = 0
    for start, items, size, fill in places.tolist():
        if items < 1 or size not in (1, 2, 4, 8):
            raise ValueError(f"a run has {items} items of {size} bytes")
        own = mask[bits : bits + -(-items // 8)]
        count = int(np.unpackbits(own)[:items].sum())
        others = values[taken : taken + count * size]
        if 8 * len(own) < items or len(others) < count * size:
            raise ValueError(f"{items} items have {8 * len(own)} bits and {len(others)} bytes")
        yield _Run(start, items, fill, own, others.view(f"u{size}"))
        bits, taken = bits + len(own), taken + len(others)


@contextmanager
def readable(network: Path) -> Iterator[Path]:
    """The network as a file that runtimes read; of a packed one a temporary file, which is gone afterwards."""
    if network.suffix != SPARSE:
        yield network
        return
    with tempfile.TemporaryDirectory(prefix="paring-") as folder:
        file = Path(folder) / network.stem
        with file.open("wb") as stream:
            stream.writelines(unpacked(network))
        yield file
