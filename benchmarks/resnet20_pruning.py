"""ResNet-20 on CIFAR-10, pruned to 2.1 times less latency in fp32: paring beside Torch-Pruning, and six criteria.

Run: PARING_DATA=FOLDER python benchmarks/resnet20_pruning.py [structures] [train] [measure] [--seeds 1]
     (pip install --no-deps torch-pruning==1.6.1; about 10, 30 and 5 minutes on two cores that do nothing else)

All networks run in ONNX Runtime in fp32, in batches of 64. `structures` asks `paring.sensitivity` for the channels and
blocks to remove, or for blocks alone, and looks for the mildest pruning ratio at which Torch-Pruning's network is as
fast: its README's pruner (group magnitude) with one ratio for all layers, and with its global, isomorphic ranking, both
in multiples of 8, as the README has it, and of 1. `train`
gives every network the same fine-tuning from the same teacher, the original, for as many epochs. `measure` times each
one in turn with the original.

The curve is uniform channel pruning by each criterion at several ratios, after a shorter fine-tuning. Whatever is
chosen is chosen on the last 5,000 training images, which no training sees; accuracies are of the 10,000 test images.
Writes results/resnet20_pruning.json and .md.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from trained import Timing, accuracy

import paring
from paring.artifact.files import write_json
from paring.backends.onnxruntime import OnnxRuntime
from paring.cli.chosen import chosen
from paring.data.job import Job
from paring.techniques import FineTune, PruneChannels, RemoveBlocks
from paring.types import Task

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "resnet20_pruning.json"
OUT = HERE.parent / "out" / "benchmarks" / "resnet20_pruning"
HELD_OUT, BATCH, THREADS = 5000, 64, 2
SPEEDUP = 2.1
EPOCHS, CURVE_EPOCHS = 10, 1
SEARCH_S, COMPARISON_S = 5.0, 40.0
TORCH_PRUNING_RATIOS = (0.3, 0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8)
TORCH_PRUNING_MULTIPLES = (8, 1)
CURVE_RATIOS = (0.25, 0.5, 0.75)
SURVEYS: dict[str, tuple[Any, ...]] = {
    "channels and blocks": (PruneChannels(), RemoveBlocks()),
    "blocks": (RemoveBlocks(),),
}
CRITERIA = (*("magnitude_l2", "taylor", "squared_gradient", "norm_scale", "geometric_median", "random"),)


@dataclass(frozen=True)
class Entry:
    """A network to train and to time: `make` prunes the original; `epochs` of training follow."""

    name: str
    make: Callable[[Job], nn.Module]
    epochs: int
    seeds: int
    told: str = ""

    def file(self, seed: int) -> str:
        """What the trained network's file is called."""
        return f"{self.name.replace(', ', '-').replace(' ', '-')}-{seed}"


@dataclass(frozen=True)
class Cifar:
    """The task with evaluation rows that are training images, and the test set that is reported."""

    task: Task
    test: tuple[Tensor, Tensor]
    held_out: tuple[Tensor, Tensor]

    @property
    def timing(self) -> Timing:
        """How networks are timed."""
        return Timing(OUT / "networks", self.task.model, self.test[:1], BATCH, THREADS)  # type: ignore[arg-type]


def cifar() -> Cifar:
    """As the example has it, but for the rows that choices rest on."""
    sys.path.insert(0, str(HERE.parent / "examples"))
    import cifar10_resnet20 as example

    folder = example.data_folder()
    with np.load(folder / "cifar10.npz") as data:
        images, labels = torch.from_numpy(data["x_train"]), torch.from_numpy(data["y_train"]).long()
        test = example.normalised(torch.from_numpy(data["x_test"])), torch.from_numpy(data["y_test"]).long()
    task = Task(
        model=example.trained_network(folder),
        evaluate=example.Plain(images[-HELD_OUT:], labels[-HELD_OUT:]),
        train=example.Augmented(images[:-HELD_OUT], labels[:-HELD_OUT]),
        calibrate=example.Plain(images[:2000], labels[:2000]),
        name="cifar10-resnet20",
    )
    return Cifar(task, test, (example.normalised(images[-HELD_OUT:]), labels[-HELD_OUT:]))


def torch_pruning(ratio: float, round_to: int, everywhere: bool, job: Job) -> nn.Module:
    """As the README of Torch-Pruning 1.6.1 shows it."""
    import torch_pruning as tp

    model = copy.deepcopy(job.original)
    pruner = tp.pruner.BasePruner(
        model,
        torch.randn(1, 3, 32, 32),
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio,
        ignored_layers=[module for module in model.modules() if isinstance(module, nn.Linear)],
        round_to=round_to,
        global_pruning=everywhere,
        isomorphic=everywhere,
    )
    pruner.step()
    return model.eval()


def by_recipe(recipe: str, job: Job) -> nn.Module:
    """What techniques of paring make of the original."""
    (found,) = chosen("technique", recipe) or ()
    model = job.original
    for technique in found if isinstance(found, tuple) else (found,):
        model = technique.apply(model, job)
    return model


def structures(data: Cifar) -> dict[str, Any]:
    """The recipes of paring, and what Torch-Pruning's ratios come to."""
    job = Job.of(data.task, threads=THREADS)
    tried = []
    for multiple, everywhere in product(TORCH_PRUNING_MULTIPLES, (False, True)):
        for ratio in TORCH_PRUNING_RATIOS:
            way = {"ratio": ratio, "round_to": multiple, "everywhere": everywhere}
            file = data.timing.exported(torch_pruning(job=job, **way), "tried")  # type: ignore[arg-type]
            tried.append({**way, "speedup": data.timing.speedup(file, SEARCH_S)["ratio"]})
            print(tried[-1], flush=True)
            if tried[-1]["speedup"] >= SPEEDUP:
                break
    return {"torch_pruning": tried, "recipes": {name: recipe_of(data, name) for name in SURVEYS}}


def recipe_of(data: Cifar, name: str) -> str:
    """What `paring.sensitivity` takes for the speed-up."""
    found = paring.sensitivity(
        data.task,
        out=OUT / name,
        speedup=SPEEDUP,
        batch_size=BATCH,
        time_limit_s=1200,
        techniques=SURVEYS[name],
        backends=[OnnxRuntime()],
        threads=THREADS,
        resume=False,
    )
    assert found.recipe is not None, found.values["reason"]
    return str(found.values["recipe"])


def entries(found: dict[str, Any], seeds: int) -> Iterator[Entry]:
    """All networks: those of the speed-up first."""
    for name, told in found["recipes"].items():
        yield Entry(f"paring, {name}", partial(by_recipe, told), EPOCHS, seeds, told)
    for way in found["torch_pruning"]:
        if way["speedup"] >= SPEEDUP:
            ratio, multiple, everywhere = way["ratio"], way["round_to"], way["everywhere"]
            make = partial(torch_pruning, ratio, multiple, everywhere)
            told = f"pruning_ratio={ratio}, round_to={multiple}"
            yield Entry(f"Torch-Pruning, {'global' if everywhere else 'uniform'}", make, EPOCHS, seeds, told)
    for ratio in CURVE_RATIOS:
        for criterion in CRITERIA:
            prune = str(PruneChannels(ratio, criterion, round_to=4))
            yield Entry(f"{criterion} {ratio}", partial(by_recipe, prune), CURVE_EPOCHS, 1, prune)


def trained(entry: Entry, seed: int) -> dict[str, Any]:
    """The network of one seed, its accuracies and what the training took; on one core, as another one runs beside."""
    torch.set_num_threads(1)
    data = cifar()
    job = Job.of(data.task, seed=seed, threads=1)
    pruned = entry.make(job)
    begin_s = time.monotonic()
    model = FineTune(epochs=entry.epochs).apply(pruned, job)
    training_s = time.monotonic() - begin_s
    data.timing.exported(model, entry.file(seed))
    return {
        "name": entry.name,
        "seed": seed,
        "told": entry.told,
        "epochs": entry.epochs,
        "training_s": training_s,
        "held_out": accuracy(model, data.held_out[:1], data.held_out[1]),
        "test": accuracy(model, data.test[:1], data.test[1]),
    }


def train(asked: list[Entry], values: dict[str, Any]) -> None:
    """Add the rows of what is not trained yet, written as each one ends."""
    known = {(row["name"], row["seed"]) for row in values["rows"]}
    left = [(entry, seed) for entry in asked for seed in range(entry.seeds) if (entry.name, seed) not in known]
    with ProcessPoolExecutor(THREADS, mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(trained, entry, seed) for entry, seed in left]):
            values["rows"].append(done.result())
            print(json.dumps(values["rows"][-1]), flush=True)
            write_json(RESULTS, values)


def measure(asked: list[Entry], data: Cifar, values: dict[str, Any]) -> None:
    """Add the speed-ups of what is not timed yet."""
    for entry in asked:
        if shape_of(entry) not in values["times"]:
            file = OUT / "networks" / f"{entry.file(0)}.onnx"
            values["times"][shape_of(entry)] = data.timing.speedup(file, COMPARISON_S)
            print(shape_of(entry), values["times"][shape_of(entry)], flush=True)
            write_json(RESULTS, values)


def shape_of(entry: Entry) -> str:
    """Entries of one structure are timed once: the criteria prune to the same sizes."""
    return entry.name.split()[-1] if entry.name.split()[0] in CRITERIA else entry.name


def as_markdown(values: dict[str, Any]) -> str:
    """The tables that are committed beside the figures."""
    rows, times = values["rows"], values["times"]

    def line(name: str, *, shape: str) -> str:
        of_name = [row for row in rows if row["name"] == name]
        time_of = times[shape]
        speed = f"{time_of['ratio']:.2f}x ({time_of['low']:.2f}-{time_of['high']:.2f})"
        accuracies = [f"{mean(row[split] for row in of_name):.2f}" for split in ("held_out", "test")]
        return f"| {name} | {speed} | {' | '.join(accuracies)} | {mean(r['training_s'] for r in of_name):.0f} s |"

    head = ["| network | speed-up | held out, % | test, % | training |", "|---|---|---|---|---|"]
    fast = [name for name in dict.fromkeys(row["name"] for row in rows) if name.split()[0] not in CRITERIA]
    curve = [f"{criterion} {ratio}" for ratio in CURVE_RATIOS for criterion in CRITERIA]
    seeds = max((row["seed"] + 1 for row in rows), default=1)
    return "\n".join(
        [
            "# ResNet-20 on CIFAR-10, pruned, in ONNX Runtime fp32 at batch 64",
            "",
            f"The original: {values['original']:.2f} % of the test images. Speed-ups over it, measured in turn, with",
            f"their 95 % intervals. {EPOCHS} epochs from the same teacher; means of {seeds} seeds.",
            "",
            *head,
            *(line(name, shape=name) for name in fast),
            "",
            *(f"- {name}: {told}" for name, told in told_of(rows).items()),
            "- Torch-Pruning in multiples of 8, at most: " + most_of(values["structures"]["torch_pruning"]),
            "",
            f"Uniform channel pruning by criterion, {CURVE_EPOCHS} epochs, one seed:",
            "",
            *head,
            *(line(name, shape=name.split()[1]) for name in curve if any(row["name"] == name for row in rows)),
            "",
        ]
    )


def told_of(rows: list[dict[str, Any]]) -> dict[str, str]:
    """What the networks of the speed-up were made by."""
    return {row["name"]: row["told"] for row in rows if row["name"].split()[0] not in CRITERIA}


def most_of(tried: list[dict[str, Any]]) -> str:
    """The fastest of Torch-Pruning's networks as its README rounds them."""
    best = max((way for way in tried if way["round_to"] == 8), key=lambda way: way["speedup"])
    return f"{best['speedup']:.2f}x, at pruning_ratio={best['ratio']}"


def main() -> None:
    """Carry out the steps that are named, or all; what was trained and timed before is kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="*", choices=[[], "structures", "train", "measure"], metavar="STEP")
    parser.add_argument("--seeds", type=int, default=1)
    given = parser.parse_args()
    steps = given.steps or ["structures", "train", "measure"]
    data = cifar()
    values = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {"rows": [], "times": {}}
    if "structures" in steps:
        values["structures"] = structures(data)
        values["original"] = accuracy(data.timing.original, data.test[:1], data.test[1])
        write_json(RESULTS, values)
    asked = list(entries(values["structures"], given.seeds))
    if "train" in steps:
        train(asked, values)
    if "measure" in steps:
        measure(asked, data, values)
        RESULTS.with_suffix(".md").write_text(as_markdown(values))


if __name__ == "__main__":
    main()
