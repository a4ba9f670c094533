"""stories260K, a causal language model, in 8 bits and fewer: perplexity on its own text.

Run: PARING_DATA=FOLDER python benchmarks/stories260k.py [score] [measure]

The network writes the texts: 32 of 256 tokens drawn at temperature 1, and from the first 16 tokens of each of these the
likeliest continuation, as far. Another 32 drawn ones choose settings, and 16 more are calibrated on; all come of fixed
seeds, and are written once. `score` makes and scores the networks; `measure` times them at one text in turn
with the original in ONNX Runtime, and wants a machine that does nothing else.
Writes results/stories260k.json and .md; rows that are there stay.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from llama import BEGIN, stories260k, told, written
from quantization_tables import ORIGINAL, STORIES, Row, stories_page
from quantizing import PARING, Entry, Results, Workshop, measure, score
from torch import Tensor, nn

from paring.data.job import Job
from paring.ops.ranges import Calibration
from paring.ops.rounding import Rounding
from paring.types import Task

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "stories260k.json"
OUT = HERE.parent / "out" / "benchmarks" / "stories260k"
LENGTH, GIVEN = 256, 16
THREADS = 2
SIZES = (1,)
SMOOTH = ("SmoothQuant() + ", "SmoothQuant(alpha=0.85, anywhere=True) + ")
COUNTS = {"sampled": 32, "selection": 32, "calibration": 16}


def texts(model: nn.Module, folder: Path) -> dict[str, Tensor]:
    """What the network wrote, (texts, LENGTH) for each purpose; kept in the folder, since it takes minutes."""
    file = folder / "texts.npz"
    if not file.is_file():
        found = {
            name: written(model, torch.full((count, 1), BEGIN), LENGTH, 1.0, seed)
            for seed, (name, count) in enumerate(COUNTS.items())
        }
        found["greedy"] = written(model, found["sampled"][:, :GIVEN], LENGTH, 0.0)
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(file, **{name: ids.numpy() for name, ids in found.items()})  # type: ignore[arg-type]
    with np.load(file) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def perplexity(workshop: Workshop, file: Path, ids: Tensor) -> float:
    """Of each token behind those in front of it; a text that was continued counts as a whole."""
    logits = torch.from_numpy(workshop.answers(file, {"input": ids.numpy()}, 16))
    loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    return float(np.exp(loss.item()))


def entries() -> Iterator[Entry]:
    """The original, a peer, and paring's ways."""
    yield Entry(ORIGINAL)
    yield Entry("ONNX Runtime dynamic")
    yield Entry("ONNX Runtime static")
    yield Entry(PARING, "DynamicQuantization()")
    yield Entry(PARING, "DynamicQuantization(least_parameters=0)")
    static = "StaticQuantization(calibration={!r}, placement='inputs-only'{})"
    for before, calibration in product(("", *SMOOTH), get_args(Calibration)):
        yield Entry(PARING, before + static.format(calibration, ""))
    for rounding in get_args(Rounding):
        yield Entry(PARING, static.format("min-max", f", weights='int4', scales='mse', rounding={rounding!r}"))
    # A scale for each output: of groups none but those of 4 divide the 172 inputs of some layers.
    for form, rounding in (("int8", "nearest"), *product(("int4", "uint4", "nf4"), get_args(Rounding))):
        yield Entry(PARING, f"WeightQuantization(format={form!r}, rounding={rounding!r})")


def main() -> None:
    """Carry out the steps that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="*", choices=[[], "score", "measure"], metavar="STEP")
    steps = parser.parse_args().steps or ["score", "measure"]
    # The network is so small that a second thread costs more than it does.
    torch.set_num_threads(1)
    model = stories260k()
    known = texts(model, OUT)
    print(told(known["greedy"][0]), flush=True)
    calibration = known.pop("calibration")
    batches = [(ids, None) for ids in calibration.split(8)]
    job = Job.of(Task(model, batches, calibrate=batches, name="stories260k"), threads=THREADS)
    workshop, results = Workshop(job, OUT, THREADS), Results(RESULTS, stories_page)
    if "score" in steps:

        def figures(file: Path) -> Row:
            return {name: perplexity(workshop, file, ids) for name, ids in known.items()}

        score(entries(), workshop, results, figures)
    if "measure" in steps:
        measure(
            STORIES.chosen(results.rows()),
            workshop,
            results,
            {size: {"input": calibration[:size].numpy()} for size in SIZES},
        )
    results.write_page()


if __name__ == "__main__":
    main()
