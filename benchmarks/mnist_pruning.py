"""How many weights LeNet-300-100 and LeNet-5 can lose on MNIST, over five seeds.

Run: PARING_DATA=FOLDER python benchmarks/mnist_pruning.py [lenet300] [lenet5] [--seeds 5]
     (FOLDER/image/mnist.npz; about 15 and 60 minutes on two cores, a seed at a time on each)

Each seed trains its own network, then prunes it gradually, the original as its teacher: `GradualPruning` with one
threshold for all layers. The first factor is that of Deep Compression's prune stage (Han et al. 2016: 12x at no loss),
the second that of dynamic network surgery (Guo et al. 2016: 56x and 108x). What is left counts all parameters, biases
too. Networks, epochs and learning rates were chosen on the last 5,000 training images; errors are of the 10,000 test
images. Each row also tells the bytes of the stored network, beside the original's. Writes results/mnist_pruning.json
and .md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from paring.artifact.packed import packed
from paring.backends.runner import write_graph
from paring.data.job import Job
from paring.graph.export import export_onnx, export_program, signature_of
from paring.techniques import FineTune, GradualPruning, PruneWeights
from paring.types import Batch, Task

RESULTS = Path(__file__).parent / "results" / "mnist_pruning.json"
HELD_OUT = 5000
BATCH = 128
MEAN, DEVIATION = 0.1307, 0.3081


def lenet300() -> nn.Module:
    """Two hidden layers of 300 and 100: 266,610 parameters."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
    )


def lenet5() -> nn.Module:
    """Caffe's LeNet-5: 431,080 parameters."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 28)),
        *(nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10)),
    )


@dataclass(frozen=True)
class Plan:
    """A network, the shares of zeros that it is pruned to, and what the papers got there."""

    build: Callable[[], nn.Module]
    sparsities: tuple[float, float]
    published: tuple[str, str]
    epochs: tuple[int, int]


PLANS = {
    "lenet300": Plan(
        lenet300, (0.921, 0.9842), ("12x, 1.64 -> 1.59 % (Han et al.)", "56x, 2.28 -> 1.99 % (Guo et al.)"), (15, 60)
    ),
    "lenet5": Plan(
        lenet5, (0.921, 0.9921), ("12x, 0.80 -> 0.77 % (Han et al.)", "108x, 0.91 -> 0.91 % (Guo et al.)"), (15, 40)
    ),
}


@dataclass(frozen=True)
class Shuffled:
    """Batches of the training images, in another order each time."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return math.ceil(len(self.images) / BATCH)

    def __iter__(self) -> Iterator[Batch]:
        order = torch.randperm(len(self.images))
        for rows in order.split(BATCH):
            yield self.images[rows], self.labels[rows]


def mnist() -> dict[str, tuple[Tensor, Tensor]]:
    """Images (n, 28, 28), normalised, and labels, of the two parts of the data set."""
    with np.load(Path(os.environ["PARING_DATA"]) / "image" / "mnist.npz") as arrays:
        return {
            part: (
                (torch.from_numpy(arrays[f"x_{part}"]).float() / 255 - MEAN) / DEVIATION,
                torch.from_numpy(arrays[f"y_{part}"]).long(),
            )
            for part in ("train", "test")
        }


def error(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Wrong answers, in percent."""
    with torch.no_grad():
        return 100 * float((model(images).argmax(1) != labels).double().mean())


def stored_bytes(model: nn.Module, images: Tensor) -> int:
    """Of the network as an artifact holds it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network.onnx"
        write_graph(export_onnx(export_program(model, images[:2]), signature_of(model, images[:2])), file)
        return packed(file).stat().st_size


def one_seed(name: str, seed: int) -> list[dict[str, Any]]:
    """The original and its two pruned forms."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    plan, data = PLANS[name], mnist()
    images, labels = data["train"]
    train = Shuffled(images[:-HELD_OUT], labels[:-HELD_OUT])
    held_out = (images[-HELD_OUT:], labels[-HELD_OUT:])
    fresh = plan.build().eval()
    learning = FineTune(epochs=20, learning_rate=0.05, label_weight=1.0, mixing="none")
    original = learning.apply(fresh, Job.of(Task(fresh, [held_out], train=train), seed=seed, threads=1))
    rows = [told(name, seed, "original", original, held_out, data["test"])]
    job = Job.of(Task(original, [held_out], train=train), seed=seed, threads=1)
    for sparsity, epochs in zip(plan.sparsities, plan.epochs, strict=True):
        prune = PruneWeights(sparsity, scope="global", vectors=False)
        technique = GradualPruning(epochs=epochs, learning_rate=0.1, label_weight=0.5, mixing="none", prune=prune)
        rows.append(told(name, seed, str(technique), technique.apply(original, job), held_out, data["test"]))
    return rows


def told(
    name: str, seed: int, recipe: str, model: nn.Module, held_out: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]
) -> dict[str, Any]:
    """The figures of one network."""
    parameters = sum(value.numel() for value in model.parameters())
    left = sum(int((value != 0).sum()) for value in model.parameters())
    return {
        "network": name,
        "seed": seed,
        "recipe": recipe,
        "factor": parameters / left,
        "held_out_error": error(model, *held_out),
        "test_error": error(model, *test),
        "stored_bytes": stored_bytes(model, test[0]),
    }


def as_markdown(rows: list[dict[str, Any]]) -> str:
    """The table that is committed beside the figures: means over the seeds."""
    lines = [
        "# Fewer weights on MNIST",
        "",
        "Means over the seeds; the difference is between a pruned network and the same seed's original, with its",
        "standard deviation. Parameters that are left count biases. Papers: their own originals.",
        "",
        "| network | pruned to | seeds | test error | difference | stored | published |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, plan in PLANS.items():
        originals = {row["seed"]: row for row in rows if row["network"] == name and row["recipe"] == "original"}
        for place, published in enumerate(("", *plan.published)):
            chosen = [row for row in rows if row["network"] == name and row["place"] == place]
            if not chosen:
                continue
            gaps = [row["test_error"] - originals[row["seed"]]["test_error"] for row in chosen]
            gap = f"{mean(gaps):+.2f} ± {stdev(gaps) if len(gaps) > 1 else 0:.2f} points" if place else ""
            factor = f"1 / {mean(row['factor'] for row in chosen):.1f}" if place else "original"
            sizes = [row["stored_bytes"] for row in chosen if row["stored_bytes"] is not None]
            stored = f"{mean(sizes) / 1000:,.0f} kB" if sizes else "not measured"
            wrong = f"{mean(row['test_error'] for row in chosen):.2f} %"
            lines.append(f"| {name} | {factor} | {len(chosen)} | {wrong} | {gap} | {stored} | {published} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the seeds, two at a time, and write what they gave."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(PLANS), choices=[[], *PLANS], metavar="NETWORK")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    given = parser.parse_args()
    kept = json.loads(RESULTS.read_text()) if RESULTS.is_file() else []
    rows = [row for row in kept if row["network"] not in given.networks]
    with ProcessPoolExecutor(given.processes, mp_context=get_context("spawn")) as pool:
        asked = [(name, seed) for name in given.networks for seed in range(given.seeds)]
        for found in pool.map(one_seed, *zip(*asked, strict=True)):
            rows += [{**row, "place": place} for place, row in enumerate(found)]
            print(json.dumps(found), flush=True)
    RESULTS.write_text(json.dumps(rows, indent=2) + "\n")
    RESULTS.with_suffix(".md").write_text(as_markdown(rows))


if __name__ == "__main__":
    main()
