"""stories260K, a causal language model, in 8 bits and fewer: perplexity on its own text.

Run: PARING_DATA=FOLDER python benchmarks/stories260k.py [score] [train] [measure]

The network writes the texts: 32 of 256 tokens drawn at temperature 1, and from the first 16 tokens of each of these the
likeliest continuation, as far. Another 32 drawn ones choose settings, 16 more are calibrated on, and 2,048 are what
trainings see; all come of fixed seeds, and are written once. `score` makes and scores the networks that need no
training, `train` those that do; `measure` times them at one text in turn with the original in ONNX Runtime, and wants a
machine that does nothing else.
Writes results/stories260k.json and .md; rows that are there stay.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from llama import BEGIN, Llama, stories260k, told, written
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
EPOCHS, LEARNING_RATE = 8, 0.02
THREADS = 2
SIZES = (1,)
SMOOTH = ("SmoothQuant() + ", "SmoothQuant(alpha=0.85, anywhere=True) + ")
DRAWN = {"sampled": (32, 0), "selection": (32, 1), "calibration": (16, 2), "training": (2048, 100)}
"""How many texts, and the first seed."""
WRITTEN_TOGETHER, TRAINED_TOGETHER = 512, 4
"""An epoch of 1,024 texts left +3.5 % on the texts for selection in batches of 4, and +4.4 % of 16, at rate 0.02."""


def texts(model: Llama, folder: Path) -> dict[str, Tensor]:
    """What the network wrote, (texts, LENGTH) for each purpose; kept in the folder, since it takes minutes."""
    file = folder / "texts.npz"
    if not file.is_file():
        found = {name: drawn(model, count, seed) for name, (count, seed) in DRAWN.items()}
        found["greedy"] = written(model, found["sampled"][:, :GIVEN], LENGTH, 0.0)
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(file, **{name: ids.numpy() for name, ids in found.items()})  # type: ignore[arg-type]
    with np.load(file) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def drawn(model: Llama, count: int, seed: int) -> Tensor:
    """Texts at temperature 1, (count, LENGTH)."""
    begins = torch.full((count, 1), BEGIN).split(WRITTEN_TOGETHER)
    return torch.cat([written(model, begin, LENGTH, 1.0, seed + at) for at, begin in enumerate(begins)])


@dataclass(frozen=True)
class Texts:
    """Batches of texts without labels, in another order each time."""

    ids: Tensor
    generator: torch.Generator

    def __len__(self) -> int:
        return len(self.ids) // TRAINED_TOGETHER

    def __iter__(self) -> Iterator[tuple[Tensor, None]]:
        for chosen in torch.randperm(len(self.ids), generator=self.generator).split(TRAINED_TOGETHER):
            yield self.ids[chosen], None


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


def trained() -> Iterator[Entry]:
    """What is trained; the first layer, the head and the table of tokens have 8 bits."""
    training = f"epochs={EPOCHS}, learning_rate={LEARNING_RATE}, distillation='kl', temperature=1.0"
    recipe = f"QuantizationAwareTraining(weights='int4', activations='float', {training})"
    yield Entry(PARING, f"{recipe} + WeightQuantization(format='int8', embeddings='only')")


def main() -> None:
    """Carry out the steps that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="*", choices=[[], "score", "train", "measure"], metavar="STEP")
    steps = parser.parse_args().steps or ["score", "train", "measure"]
    # The network is so small that a second thread costs more than it does.
    torch.set_num_threads(1)
    model = stories260k()
    known = texts(model, OUT)
    print(told(known["greedy"][0]), flush=True)
    calibration, training = known.pop("calibration"), Texts(known.pop("training"), torch.Generator().manual_seed(0))
    batches = [(ids, None) for ids in calibration.split(8)]
    task = Task(model, batches, train=training, calibrate=batches, name="stories260k")
    job = Job.of(task, threads=1)
    workshop, results = Workshop(job, OUT, THREADS), Results(RESULTS, stories_page)

    def figures(file: Path) -> Row:
        return {name: perplexity(workshop, file, ids) for name, ids in known.items()}

    if "score" in steps:
        score(entries(), workshop, results, figures)
    if "train" in steps:
        score(trained(), workshop, results, figures)
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
