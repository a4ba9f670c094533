"""Formats for each layer beside brute force, under a limit of bytes and under one of measured time.

Run: PARING_DATA=FOLDER python benchmarks/bit_allocation.py [--only bytes time] [--time-limit 3]
     (FOLDER/image/mnist.npz; about 25 minutes on two cores that do nothing else)

Two networks for MNIST of four and of six layers, each trained for an epoch. Every way to give their layers formats is
made as a network of its own, run on the rows that the allocation sees, and judged by how far its outputs move from the
original's; for the limits of time each is timed in turn with the original, on one row and one core, in processes of
their own. Then `BitAllocation` is asked for the limits. The sizes' errors are compared on 512 other rows as well, which
nobody chose by. Writes results/bit_allocation.json and .md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from mnist_pruning import Shuffled, error, lenet5, mnist
from torch import Tensor, nn
from trained import speedup

from paring.artifact.files import write_json
from paring.backends.isolated import Deployment
from paring.backends.onnxruntime import OnnxRuntime
from paring.backends.runner import graph_runner, write_graph
from paring.data.job import Job
from paring.graph.export import export_onnx, export_program, signature_of
from paring.graph.onnx_layers import weighted_layers
from paring.measure.hardware import hardware
from paring.ops.formats import format_of
from paring.techniques import BitAllocation, FineTune, StaticQuantization
from paring.types import Array, Task

RESULTS = Path(__file__).parent / "results" / "bit_allocation.json"
ROWS = 512
WHOLE = StaticQuantization("mse", scales="mse")
SIZES = (2.5, 3.0, 4.0, 6.0)
PLACES = (0.2, 0.5, 0.8)
"""Where the limits of time lie, between all layers in integers (0) and the original (1)."""

Row = dict[str, Any]
Formats = tuple[str, ...]


def six_layers() -> nn.Module:
    """Four convolutions and two linear layers, of very different cost."""
    return nn.Sequential(
        *(nn.Unflatten(1, (1, 28)), nn.Conv2d(1, 16, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(32, 48, 3, 2, 1), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(2352, 128), nn.ReLU(), nn.Linear(128, 10)),
    )


@dataclass(frozen=True)
class Plan:
    """A network, and the formats to choose from under a limit of bytes."""

    build: Callable[[], nn.Module]
    choices: Formats


PLANS = {
    "lenet5": Plan(lenet5, ("int8", "int4", "int3", "int2")),
    "six layers": Plan(six_layers, ("int8", "int4", "int2")),
}


class Share(NamedTuple):
    """Of the original's time, and the interval that holds it at 95 %."""

    middle: float
    low: float
    high: float


@dataclass(frozen=True)
class Bench:
    """One trained network, the rows that choices are made by, and others."""

    job: Job
    graph: onnx.ModelProto
    seen: Array
    unseen: Array

    @classmethod
    def of(cls, build: Callable[[], nn.Module]) -> Bench:
        """Trained for an epoch."""
        torch.manual_seed(0)
        torch.set_num_threads(1)
        data, fresh = mnist(), build().eval()
        images, labels = data["train"]
        seen, unseen = images[:ROWS], images[-ROWS:]
        task = Task(fresh, [data["test"]], train=Shuffled(images[ROWS:-ROWS], labels[ROWS:-ROWS]))
        learning = FineTune(epochs=1, learning_rate=0.05, label_weight=1.0, mixing="none")
        model = learning.apply(fresh, Job.of(task, threads=1))
        print(f"{build.__name__}: {error(model, *data['test']):.2f} % wrong on the test images", flush=True)
        batches: list[tuple[Tensor, Any]] = [(rows, None) for rows in seen.split(64)]
        job = Job.of(Task(model, [data["test"]], calibrate=batches), threads=1)
        graph = export_onnx(export_program(model, seen[:2]), signature_of(model, seen[:2]))
        return cls(job, graph, seen.numpy(), unseen.numpy())

    @property
    def layers(self) -> list[str]:
        """Those with weights."""
        return [layer.name for layer in weighted_layers(self.graph)]

    def mean_bits(self, formats: Formats) -> float:
        """Of a weight."""
        sizes = [layer.parameters for layer in weighted_layers(self.graph)]
        return sum(size * format_of(name).bits for size, name in zip(sizes, formats, strict=True)) / sum(sizes)

    def quantized(self, formats: Formats) -> onnx.ModelProto:
        """The network with these, "float" among them."""
        if set(formats) == {"float"}:
            return self.graph
        pairs = list(zip(self.layers, formats, strict=True))
        named = tuple((layer, name) for layer, name in pairs if name != "float")
        floats = tuple(layer for layer, name in pairs if name == "float")
        return replace(WHOLE, formats=named, exclude=floats).apply(self.graph, self.job)

    def chosen(self, technique: BitAllocation) -> Formats:
        """What an allocation gives the layers."""
        found = technique.chosen(self.graph, self.job)
        named = dict(found.formats)
        return tuple(named.get(layer, "float") for layer in self.layers)

    def outputs(self, graph: onnx.ModelProto, rows: Array) -> Array:
        """Of all rows."""
        with graph_runner(graph, threads=1) as session:
            (name,) = (value.name for value in graph.graph.input)
            return next(iter(session.run({name: rows}).values()))

    def errors(self, all_formats: Sequence[Formats]) -> Iterator[dict[str, float]]:
        """How far each network's outputs move, over the variance of the original's: on rows seen, and on others."""
        rows = np.concatenate([self.seen, self.unseen])
        expected = np.split(self.outputs(self.graph, rows), 2)
        for formats in all_formats:
            found = np.split(self.outputs(self.quantized(formats), rows), 2)
            pairs = zip(("seen", "unseen"), found, expected, strict=True)
            yield {kind: float(np.mean((mine - its) ** 2) / np.var(its)) for kind, mine, its in pairs}

    def time_shares(self, all_formats: Sequence[Formats], time_limit_s: float) -> Iterator[Share]:
        """Of the original's time, each network in turn with it."""
        (name,) = (value.name for value in self.graph.graph.input)
        with tempfile.TemporaryDirectory() as folder:
            files = [Path(folder) / f"{kind}.onnx" for kind in ("original", "quantized")]
            write_graph(self.graph, files[0])
            for formats in all_formats:
                write_graph(self.quantized(formats), files[1])
                one, other = (Deployment(OnnxRuntime(), file) for file in reversed(files))
                found = speedup(one, other, {name: self.seen[:1]}, 1, time_limit_s)
                yield Share(*(1 / found[bound] for bound in ("ratio", "high", "low")))


def under_bytes(bench: Bench, choices: Formats) -> list[Row]:
    """For each limit of size the choice beside the best of all."""
    every = list(product(choices, repeat=len(bench.layers)))
    table = dict(zip(every, bench.errors(every), strict=True))
    rows = []
    for mean_bits in SIZES:
        held = [formats for formats in every if bench.mean_bits(formats) <= mean_bits]
        best = min(held, key=lambda formats: table[formats]["seen"])
        for sensitivity in ("measured", "outputs", "weights"):
            technique = BitAllocation(WHOLE, choices, mean_bits, sensitivity=sensitivity)
            found = bench.chosen(technique)
            rows.append(
                {"limit": mean_bits, "sensitivity": sensitivity, "chosen": found, "best": best, "of": len(held)}
                | {f"{kind}_over_best": table[found][kind] / table[best][kind] for kind in ("seen", "unseen")}
            )
            print(rows[-1], flush=True)
    return rows


def under_time(bench: Bench, time_limit_s: float) -> list[Row]:
    """For each limit of time the choice beside the best of all that hold it beyond the doubt of a measurement."""
    every = list(product(("int8", "float"), repeat=len(bench.layers)))
    errors = dict(zip(every, (each["seen"] for each in bench.errors(every)), strict=True))
    shares = dict(zip(every[:-1], bench.time_shares(every[:-1], time_limit_s), strict=True))
    integers = shares[every[0]].middle
    rows = []
    for place in PLACES:
        limit = round(integers + place * (1 - integers), 3)
        held = [formats for formats, share in shares.items() if share.high <= limit]
        best = min(held, key=lambda formats: errors[formats])
        begin_s = time.monotonic()
        found = bench.chosen(BitAllocation(WHOLE, ("int8", "int4"), latency_share=limit, sensitivity="measured"))
        row: Row = {"limit": limit, "chosen": found, "best": best, "of": len(held), "integers": integers}
        row |= {"share": shares[found], "best_share": shares[best], "over_best": errors[found] / errors[best]}
        rows.append({**row, "seconds": round(time.monotonic() - begin_s, 1)})
        print(rows[-1], flush=True)
    return rows


def page(found: dict[str, Any]) -> str:
    """The tables as Markdown."""
    lines = [
        "# Formats for each layer, beside brute force",
        "",
        "Errors are how far the outputs move, over those of the best of all networks that hold the limit.",
        "",
        "## Under a limit of bits a weight",
        "",
        "| network | limit | networks that hold it | sensitivity | error over the best's | on other rows | formats |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, rows in found["bytes"].items():
        for row in rows:
            errors = f"{row['seen_over_best']:.3f} | {row['unseen_over_best']:.3f}"
            told = f"{row['limit']} | {row['of']} | {row['sensitivity']} | {errors} | {' '.join(row['chosen'])}"
            lines.append(f"| {name} | {told} |")
    lines += [
        "",
        "## Under a limit of time, as a share of the original's",
        "",
        "One row, one core, ONNX Runtime, shares with the intervals that hold them at 95 %. The best is that of all "
        "networks whose whole interval lies within the limit. The choice measures for itself, with other intervals: it "
        "may take a network that lies at the limit, and so err less than that.",
        "",
        "| network | limit | networks that hold it | measured share | the best's share | error over the best's "
        "| layers in floating point | the best's |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, rows in found["time"].items():
        for row in rows:
            floats = [_floats(row[kind]) for kind in ("chosen", "best")]
            shares = [_told(Share(*row[kind])) for kind in ("share", "best_share")]
            told = f"{row['limit']:.3f} | {row['of']} | {' | '.join(shares)}"
            lines.append(f"| {name} | {told} | {row['over_best']:.3f} | {' | '.join(floats)} |")
    return "\n".join(lines) + "\n"


def _told(share: Share) -> str:
    return f"{share.middle:.3f} ({share.low:.3f}-{share.high:.3f})"


def _floats(formats: Sequence[str]) -> str:
    """Which layers stay float, counted from 1."""
    return " ".join(str(1 + at) for at, name in enumerate(formats) if name == "float") or "none"


def main() -> None:
    """Carry out both parts for both networks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--time-limit", type=float, default=3.0, help="seconds for each comparison of times")
    parser.add_argument("--only", nargs="*", choices=["bytes", "time"], default=["bytes", "time"])
    given = parser.parse_args()
    found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {"bytes": {}, "time": {}}
    for name, plan in PLANS.items():
        bench = Bench.of(plan.build)
        if "bytes" in given.only:
            found["bytes"][name] = under_bytes(bench, plan.choices)
        if "time" in given.only:
            found["time"][name] = under_time(bench, given.time_limit)
    write_json(RESULTS, {**found, "hardware": hardware()})
    RESULTS.with_suffix(".md").write_text(page(found))


if __name__ == "__main__":
    main()
