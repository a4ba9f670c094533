"""Sparse networks on disk: of weights that are mostly zero a bit each is kept, and the others' values.

`network.sparse` is a NumPy archive of plain arrays that gives `network.onnx` back byte for byte:

    rest      uint8   the ONNX file without the runs of bytes that are packed
    runs      int64   (runs, 3): where each run begins in the ONNX file, its number of items, bytes of an item
    fill/I    uint    the value of run I that is left out: zero, or the commonest of one-byte items (a zero point)
    mask/I    uint8   a bit for each item, first bit highest: whether it is another value
    values/I  uint    those others, in order

Reading it needs neither onnx nor torch.
"""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from paring.errors import ArtifactError
from paring.types import Array

SPARSE = "network.sparse"
FEWEST_BYTES = 4096
"""Smaller constants are left as they are."""

LEAST_SAVING = 0.1
"""Of the file: for less it is not packed."""


@dataclass(frozen=True)
class _Run:
    """Items of a file that are mostly one value: where they begin, and what is kept of them."""

    start: int
    items: int
    fill: Array
    mask: Array
    values: Array

    @classmethod
    def of(cls, start: int, items: Array) -> _Run:
        """The packed form of unsigned integers."""
        fill = np.bincount(items).argmax() if items.itemsize == 1 else 0
        kept = items != fill
        return cls(start, len(items), np.array(fill, items.dtype), np.packbits(kept), items[kept])

    @property
    def saved_bytes(self) -> int:
        """How much smaller this is than the items."""
        return self.items * self.values.itemsize - self.mask.nbytes - self.values.nbytes

    def unpacked(self) -> bytes:
        """The items again."""
        items = np.full(self.items, self.fill)
        items[np.unpackbits(self.mask, count=self.items).astype(bool)] = self.values
        return items.tobytes()


def packed(network: Path) -> Path:
    """The smaller file that stands in the network's place, or the network where its weights are not sparse."""
    content = network.read_bytes()
    runs = [run for run in _runs(network, content) if run.saved_bytes > 0]
    archive = io.BytesIO()
    np.savez(archive, **_arrays(content, runs))  # type: ignore[arg-type]
    if archive.tell() > (1 - LEAST_SAVING) * len(content):
        return network
    target = network.with_name(SPARSE)
    target.write_bytes(archive.getbuffer())
    network.unlink()
    return target


def _runs(network: Path, content: bytes) -> Iterator[_Run]:
    """The large constants that lie in the file, in its order."""
    import onnx
    from onnx import helper

    at = 0
    for tensor in onnx.load(network, load_external_data=False).graph.initializer:
        size = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize if tensor.raw_data else 0
        if len(tensor.raw_data) < FEWEST_BYTES or size not in (1, 2, 4, 8):
            continue
        at = content.index(tensor.raw_data, at)
        yield _Run.of(at, np.frombuffer(tensor.raw_data, f"u{size}"))
        at += len(tensor.raw_data)


def _arrays(content: bytes, runs: list[_Run]) -> dict[str, Array]:
    places = np.array([(run.start, run.items, run.values.itemsize) for run in runs], dtype=np.int64).reshape(-1, 3)
    kept = np.ones(len(content), dtype=bool)
    for start, items, size in places.tolist():
        kept[start : start + items * size] = False
    arrays: dict[str, Array] = {"rest": np.frombuffer(content, np.uint8)[kept], "runs": places}
    for number, run in enumerate(runs):
        arrays |= {f"fill/{number}": run.fill, f"mask/{number}": run.mask, f"values/{number}": run.values}
    return arrays


def unpacked(file: Path) -> Iterator[bytes]:
    """The ONNX file that was packed, piece by piece. Raises ArtifactError where the file is damaged."""
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            rest, taken, end = arrays["rest"].tobytes(), 0, 0
            for number, (start, items, _) in enumerate(arrays["runs"].tolist()):
                run = _Run(start, items, *(arrays[f"{part}/{number}"] for part in ("fill", "mask", "values")))
                yield rest[taken : taken + start - end]
                yield run.unpacked()
                taken, end = taken + start - end, start + items * run.values.itemsize
            yield rest[taken:]
    except (OSError, ValueError, KeyError, TypeError, IndexError, EOFError, zipfile.BadZipFile) as error:
        raise ArtifactError(f"{file} can't be unpacked ({error}): copy the artifact again.") from error


@contextmanager
def readable(network: Path) -> Iterator[Path]:
    """The network as a file that runtimes read; of a packed one a temporary file, which is gone afterwards."""
    if network.suffix != Path(SPARSE).suffix:
        yield network
        return
    with tempfile.TemporaryDirectory(prefix="paring-") as folder:
        file = Path(folder) / "network.onnx"
        with file.open("wb") as stream:
            stream.writelines(unpacked(network))
        yield file
