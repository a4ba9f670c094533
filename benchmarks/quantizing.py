"""What the benchmarks of quantization share: networks made of one graph, their answers, bytes and times, as rows.

A row is a network: who made it, with which settings, its figures, and its speed-ups once they are measured. Rows are
written as they are found, and what is found is not made again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from peers import MAKERS, made_by
from quantization_tables import ORIGINAL, Row
from torch import nn
from trained import backend_of, speedup

from paring.artifact.files import write_json
from paring.artifact.packed import packed
from paring.backends.isolated import Deployment, IsolatedSession
from paring.backends.onnxruntime import OnnxRuntime
from paring.backends.runner import write_graph
from paring.cli.chosen import chosen
from paring.data.batches import tensors_of
from paring.data.job import Job
from paring.graph.export import export_onnx, export_program, signature_of
from paring.measure.hardware import hardware
from paring.measure.size import network_size_bytes
from paring.techniques.base import GraphTechnique
from paring.types import Array, Arrays

PARING = "paring"
COMPARISON_S = 40.0


@dataclass(frozen=True)
class Entry:
    """A network that is wanted: `settings` are paring's recipe, or a peer's options as JSON."""

    tool: str
    settings: str = ""
    seed: int = 0

    @property
    def file(self) -> str:
        """Its name on disk; settings may be long."""
        told = hashlib.sha256(self.settings.encode()).hexdigest()[:12]
        kind = ".xml" if "OpenVINO" in self.tool else ".onnx"
        return f"{self.tool.replace(' ', '-')}-{told}-{self.seed}{kind}"

    @classmethod
    def of(cls, row: Row) -> Entry:
        """The network that a row tells of."""
        return cls(row["tool"], row["settings"], row["seed"])


@dataclass(frozen=True)
class Workshop:
    """Where networks of the job's original are made and run; `folder` holds their files."""

    job: Job
    folder: Path
    threads: int

    def made(self, entry: Entry) -> Path:
        """The network's file, which is there or made now; without a recipe the original, in paring's hands."""
        if entry == Entry(PARING):
            return self.original
        file = self.folder / entry.file
        if file.is_file():
            return file
        self.folder.mkdir(parents=True, exist_ok=True)
        if entry.tool == ORIGINAL:
            write_graph(_exported(self.job.original, self.job), file)
        elif entry.tool in MAKERS:
            made_by(entry.tool, self.original, self._calibration(), file, **json.loads(entry.settings or "{}"))
        else:
            write_graph(self._by_recipe(entry.settings), file)
        return file

    @property
    def original(self) -> Path:
        """The network as the exporter gives it."""
        return self.made(Entry(ORIGINAL))

    def answers(self, file: Path, inputs: Arrays, batch_size: int = 64) -> Array:
        """The first output for all rows, in a process of its own; their number is a multiple of the batch size."""
        rows = len(next(iter(inputs.values())))
        found = []
        # Threads that spin while they wait would take the cores from whatever else is at work.
        backend = backend_of(file, spinning=False)
        with IsolatedSession.of(Deployment(backend, file), threads=self.threads) as session:
            for at in range(0, rows, batch_size):
                batch = {name: array[at : at + batch_size] for name, array in inputs.items()}
                found.append(next(iter(session.run(batch).values())))
        return np.concatenate(found)

    def size_bytes(self, file: Path) -> int:
        """On disk, with constants packed as an artifact packs them."""
        if file.suffix == ".xml":
            return file.stat().st_size + file.with_suffix(".bin").stat().st_size
        with tempfile.TemporaryDirectory() as folder:
            return network_size_bytes(packed(Path(shutil.copy(file, folder))))

    def speedup(self, entry: Entry, batch: Arrays) -> dict[str, float]:
        """Over the original in ONNX Runtime, which is left alone there; peers are too, and paring's run as it does."""
        file, alone = self.made(entry), OnnxRuntime(skip_layer_norm=True)
        backend = backend_of(file) if entry.tool == PARING or "OpenVINO" in entry.tool else alone
        original = Deployment(alone, self.original)
        return speedup(Deployment(backend, file), original, batch, self.threads, COMPARISON_S)

    def _by_recipe(self, recipe: str) -> onnx.ModelProto:
        (found,) = chosen("technique", recipe) or ()
        model: Any = self.job.original
        for technique in found if isinstance(found, tuple) else (found,):
            if isinstance(technique, GraphTechnique) and isinstance(model, nn.Module):
                untouched = model is self.job.original
                model = onnx.load(self.original) if untouched else _exported(model, self.job)
            model = technique.apply(model, self.job)
        return _exported(model, self.job) if isinstance(model, nn.Module) else model

    def _calibration(self) -> Path:
        """The rows that paring calibrates on, for peers."""
        file = self.folder / "calibration.npz"
        names = signature_of(self.job.original, self.job.sample).input_names
        columns = zip(*(tensors_of(inputs) for inputs, _ in self.job.calibrate), strict=True)
        arrays = [np.concatenate([tensor.numpy() for tensor in column]) for column in columns]
        np.savez(file, **dict(zip(names, arrays, strict=True)))
        return file


@dataclass(frozen=True)
class Results:
    """The rows on disk, and the page made of them."""

    file: Path
    page: Callable[[list[Row]], str]

    def rows(self) -> list[Row]:
        """All that are known."""
        return self._content().get("rows", [])

    def _content(self) -> dict[str, Any]:
        return json.loads(self.file.read_text()) if self.file.is_file() else {}

    def of(self, entry: Entry) -> Row | None:
        """What is known of a network."""
        return next((row for row in self.rows() if Entry.of(row) == entry), None)

    def put(self, row: Row) -> None:
        """Write the row in place of the one before, with the machine it is from: rows are found over months."""
        print(json.dumps(row), flush=True)
        rows = self.rows()
        place = next((at for at, known in enumerate(rows) if Entry.of(known) == Entry.of(row)), len(rows))
        machines = self._content().get("machines", [])
        this = hardware()
        if this not in machines:
            machines.append(this)
        rows[place : place + 1] = [{**row, "machine": machines.index(this)}]
        write_json(self.file, {"rows": rows, "machines": machines})
        self.write_page()

    def write_page(self) -> None:
        """The page, of the rows that are known."""
        self.file.with_suffix(".md").write_text(self.page(self.rows()))


def told(entry: Entry) -> Row:
    """What a row says of the network that it tells of."""
    return {"tool": entry.tool, "settings": entry.settings, "seed": entry.seed}


def score(entries: Iterable[Entry], workshop: Workshop, results: Results, figures: Callable[[Path], Row]) -> None:
    """Add the rows of what has none yet: how right each network is, and how large."""
    for entry in entries:
        if results.of(entry) is None:
            file = workshop.made(entry)
            results.put({**told(entry), **figures(file), "bytes": workshop.size_bytes(file)})


def measure(rows: Iterable[Row], workshop: Workshop, results: Results, batches: Mapping[int, Arrays]) -> None:
    """Add the speed-ups of these rows that are not measured yet, for each size of a batch."""
    for row in rows:
        entry, times = Entry.of(row), row.get("times", {})
        for size, batch in batches.items():
            if str(size) not in times and entry.tool != ORIGINAL:
                times = {**times, str(size): workshop.speedup(entry, batch)}
                results.put({**row, "times": times})


def _exported(model: nn.Module, job: Job) -> onnx.ModelProto:
    return export_onnx(export_program(model, job.sample), signature_of(job.original, job.sample))
