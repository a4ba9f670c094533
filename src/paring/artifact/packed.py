"""Networks on disk: constants of few values take as many bits as these need, and what is mostly one value less.

`network.onnx.packed`, or `network.pt2.packed`, is a NumPy archive of plain arrays that gives the file back byte for
byte, so that whatever checks or reads that file needs to know nothing of this one:

    rest  uint8   the file without the runs of bytes that are packed
    runs  int64   (runs, 5): where each run begins in the file, its number of items, bytes of an item, how many of the
                  items are kept, and `levels`: of how many values these are, or 0 where they lie there themselves
    data  uint8   run by run, whatever of this the run has:
                  fill    the value that is left out, where fewer items are kept than there are
                  table   the `levels` values, ascending
                  mask    where some are left out, a digit of base 2 for each item: 1 where it is kept
                  codes   of those kept: digits of base `levels`, each the place in the table; else the items

Digits are packed as in `ops.radix`: those of 2^n levels take n bits. Reading it needs neither onnx nor torch.
"""

from __future__ import annotations

import io
import math
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import numpy as np

from paring.errors import ArtifactError
from paring.ops import radix
from paring.types import Array

PACKED = ".packed"
"""Added to the name of the file that is packed."""

MOST_LEVELS = 256
"""Of a table: codes are single bytes when they are unpacked."""

LONGEST_RUN = 2**20
"""Bytes of the file: what is longer is packed in pieces, so that unpacking holds one of them, which fits caches."""

LOOKED_AT = 4096
"""Items that tell whether there may be few values, before all are looked at."""

DAMAGED = (OSError, ValueError, LookupError, TypeError, OverflowError, EOFError, RuntimeError, MemoryError)
"""What reading a packed file raises that is no such file, or that was tampered with."""

LEAST_SAVING = 0.1
"""Of the file: for less it is not packed."""


@dataclass(frozen=True)
class _Run:
    """Items of a file, and the form in which they are kept. The fields are a row of `runs`."""

    start: int
    items: int
    size: int
    kept: int
    levels: int

    def __post_init__(self) -> None:
        if self.size not in (1, 2, 4, 8) or not 1 <= self.items <= LONGEST_RUN // self.size:
            raise ValueError(f"a run has {self.items} items of {self.size} bytes")
        if not 0 <= self.kept <= self.items or not (self.levels == 0 or 2 <= self.levels <= MOST_LEVELS):
            raise ValueError(f"a run keeps {self.kept} of {self.items} items, of {self.levels} values")

    @property
    def masked(self) -> bool:
        """Whether items are left out."""
        return self.kept < self.items

    @property
    def end(self) -> int:
        """Where the items end in the file."""
        return self.start + self.items * self.size

    @property
    def parts(self) -> tuple[int, int, int]:
        """Bytes of fill and table, of the mask, and of the codes."""
        mask = radix.packed_bytes(self.items, 2) if self.masked else 0
        codes = radix.packed_bytes(self.kept, self.levels) if self.levels else self.kept * self.size
        return (self.masked + self.levels) * self.size, mask, codes

    @property
    def saved_bytes(self) -> int:
        """How much smaller this is than the items, with its row."""
        return self.end - self.start - sum(self.parts) - 8 * len(astuple(self))

    @property
    def saved_by_mask(self) -> int:
        """How much smaller this is than all items in the best form that leaves none out."""
        plain = replace(self, kept=self.items, levels=0)
        tabled = replace(plain, levels=min(self.levels + 1, MOST_LEVELS)) if self.levels else plain
        return self.saved_bytes - max(0, plain.saved_bytes, tabled.saved_bytes) if self.masked else 0

    def packed(self, items: Array, table: Array) -> Array:
        """The run's part of `data`; the table begins with the fill, where there is one."""
        parts = [table[: self.masked + self.levels]]
        if self.masked:
            mask = items != table[0]
            parts.append(radix.pack(mask, 2))
            items = items[mask]
        levels = table[self.masked :]
        parts.append(radix.pack(_places(levels, items), self.levels) if self.levels else items)
        return np.concatenate([part.view(np.uint8) for part in parts])

    def unpacked(self, data: Array) -> Array:
        """The items again, of what `packed` gave. ValueError where that can't be."""
        head, mask, codes = np.split(data, np.cumsum(self.parts)[:2])
        table = head.view(f"u{self.size}")
        if self.levels:
            values = table[self.masked :].take(radix.unpack(codes, self.kept, self.levels))
        else:
            values = codes.view(f"u{self.size}")
        if not self.masked:
            return values
        kept = radix.unpack(mask, self.items, 2).astype(bool)
        if np.count_nonzero(kept) != self.kept:
            raise ValueError(f"{np.count_nonzero(kept)} items are marked, and {self.kept} are kept")
        items = np.full(self.items, table[0])
        items[kept] = values
        return items


def stored(network: Path) -> Path:
    """The packed file beside a network's place, or the network where it was not packed."""
    smaller = network.with_name(network.name + PACKED)
    return smaller if smaller.is_file() else network


def packed(network: Path) -> Path:
    """Put the smaller file in the network's place; the network itself where packing it saves too little."""
    content = network.read_bytes()
    archive = io.BytesIO()
    np.savez(archive, **_arrays(content, list(_runs(network, content))))  # type: ignore[arg-type]
    if archive.tell() > (1 - LEAST_SAVING) * len(content):
        return network
    target = network.with_name(network.name + PACKED)
    target.write_bytes(archive.getbuffer())
    network.unlink()
    return target


def leaves_out(network: Path) -> bool:
    """Whether the file is clearly smaller for the zeros, or the values that stand for zero, that it leaves out.

    What few values save is not counted: a file may be packed and hold no more zeros than any other.
    """
    if network.suffix != PACKED:
        return False
    with np.load(network, allow_pickle=False) as arrays:
        saved = sum(_Run(*row).saved_by_mask for row in arrays["runs"].tolist())
    return saved > LEAST_SAVING * (network.stat().st_size + saved)


def _runs(network: Path, content: bytes) -> Iterator[tuple[_Run, Array]]:
    """The constants in the file, in its order, that are smaller when they are packed; with their part of `data`."""
    at = 0
    for constant, sizes in (_of_archive if network.suffix == ".pt2" else _of_graph)(network):
        at = content.index(constant, at)
        for begin in range(0, len(constant), LONGEST_RUN):
            piece = constant[begin : begin + LONGEST_RUN]
            run, items, table = max(_forms(at + begin, piece, sizes), key=lambda form: form[0].saved_bytes)
            if run.saved_bytes > 0:
                yield run, run.packed(items, table)
        at += len(constant)


def _of_graph(network: Path) -> Iterator[tuple[bytes, tuple[int, ...]]]:
    """The constants of an ONNX file and the bytes of their items; none where others lie in files beside it."""
    import onnx
    from onnx import helper

    constants = onnx.load(network, load_external_data=False).graph.initializer
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in constants):
        return
    for tensor in constants:
        size = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize if tensor.raw_data else 0
        if size in (1, 2, 4, 8) and len(tensor.raw_data) >= size:
            yield tensor.raw_data, (size,)


def _of_archive(network: Path) -> Iterator[tuple[bytes, tuple[int, ...]]]:
    """The tensors of a torch archive, which lie in it as they are: of any type."""
    with zipfile.ZipFile(network) as archive:
        for entry in archive.infolist():
            if entry.file_size and Path(entry.filename).match("data/*/*_[0-9]*"):
                yield archive.read(entry), (1, 2, 4, 8)


def _forms(start: int, content: bytes, sizes: tuple[int, ...]) -> Iterator[tuple[_Run, Array, Array]]:
    """Each form that these bytes may be kept in, with the items and the table that it takes."""
    for size in sizes:
        items = np.frombuffer(content, f"u{size}", len(content) // size)
        if not len(items):
            continue  # Of the last few bytes of an archive's tensor.
        values, counts = _distinct(items)
        fill = values[counts.argmax()]
        others = values[values != fill]
        few = counts.sum() == len(items)
        for kept, levels in ((len(items), values), (np.count_nonzero(items != fill), others)):
            table = levels if kept == len(items) else np.concatenate([[fill], levels])
            yield _Run(start, len(items), size, int(kept), 0), items, table
            if few and 2 <= len(levels) <= MOST_LEVELS:
                yield _Run(start, len(items), size, int(kept), len(levels)), items, table


def _distinct(items: Array) -> tuple[Array, Array]:
    """The values, ascending, and how often each occurs; among a part of the items where that shows too many."""
    if items.itemsize == 1:
        counts = np.bincount(items)
        return counts.nonzero()[0].astype(items.dtype), counts[counts > 0]
    few = np.unique(items[:: max(1, len(items) // LOOKED_AT)], return_counts=True)
    return few if len(few[0]) > MOST_LEVELS + 1 else np.unique(items, return_counts=True)


def _places(table: Array, items: Array) -> Array:
    """Where in the ascending table each item stands. All bytes that there are, are looked up once."""
    if items.itemsize == 1:
        return np.searchsorted(table, np.arange(256, dtype=np.uint8)).astype(np.uint8)[items]
    return np.searchsorted(table, items)


def _arrays(content: bytes, runs: list[tuple[_Run, Array]]) -> dict[str, Array]:
    ends = (0, *(end for run, _ in runs for end in (run.start, run.end)), len(content))
    rest = b"".join(content[ends[at] : ends[at + 1]] for at in range(0, len(ends), 2))
    return {
        "rest": np.frombuffer(rest, np.uint8),
        "runs": np.array([astuple(run) for run, _ in runs], dtype=np.int64).reshape(-1, 5),
        "data": np.concatenate([np.empty(0, np.uint8), *(data for _, data in runs)]),
    }


def unpacked(file: Path) -> Iterator[Array]:
    """The file that was packed, piece by piece. Raises ArtifactError where the packed one is damaged."""
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            _check_sizes(arrays.zip)
            rest, data, end = arrays["rest"], arrays["data"], 0
            for run in (_Run(*row) for row in arrays["runs"].tolist()):
                between, needed = run.start - end, sum(run.parts)
                if not 0 <= between <= len(rest):
                    raise ValueError(f"a run at {run.start} lies outside the rest")
                if needed > len(data):
                    raise ValueError(f"{run.items} items need {needed} bytes, and {len(data)} are left")
                yield rest[:between]
                yield run.unpacked(data[:needed])
                rest, data, end = rest[between:], data[needed:], run.end
            yield rest
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


@contextmanager
def readable(network: Path) -> Iterator[Path]:
    """The network as a file that runtimes read; of a packed one a temporary file, which is gone afterwards."""
    if network.suffix != PACKED:
        yield network
        return
    with tempfile.TemporaryDirectory(prefix="paring-") as folder:
        file = Path(folder) / network.stem
        with file.open("wb") as stream:
            stream.writelines(piece.data for piece in unpacked(network))
        yield file
