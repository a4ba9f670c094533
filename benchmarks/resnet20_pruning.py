"""ResNet-20 on CIFAR-10, pruned to 2.1 times less latency in fp32: paring beside Torch-Pruning, and six criteria.

Run: PARING_DATA=FOLDER python benchmarks/resnet20_pruning.py [structures] [train] [measure] [--seeds 1]
     (pip install --no-deps torch-pruning==1.6.1; about 10, 30 and 5 minutes on two cores that do nothing else)

All networks run in ONNX Runtime in fp32, in batches of 64. `structures` asks `paring.sensitivity` for the channels and
blocks to remove, or for blocks alone, and looks for the mildest pruning ratio at which Torch-Pruning's network is as
fast: its README's pruner (group magnitude) with one ratio for all layers, and with its global, isomorphic ranking, both
in multiples of 8, as the README has it, and of 1. In multiples of 8 no ratio is so fast, so the fastest of those stands
beside what `paring.sensitivity` takes for that speed-up. `train` gives every network the same fine-tuning from the same
teacher, the original, for as many epochs, on one core each. `measure` times each one in turn with the original. What
was found, trained or timed before is kept.

The curve is uniform channel pruning by each criterion at several ratios, after a shorter fine-tuning. Whatever is
chosen is chosen on the last 5,000 training images, which no fine-tuning here sees; the original was trained on them,
so that their accuracies are higher than those of the 10,000 test images, which are what is reported.
Writes results/resnet20_pruning.json, .md and .svg.
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
from typing import Any

import numpy as np
import torch
from resnet20_tables import as_drawing, as_markdown
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
README_MULTIPLE = 8
TORCH_PRUNING_MULTIPLES = (README_MULTIPLE, 1)
CURVE_RATIOS = (0.25, 0.5, 0.75, 0.875)
SURVEYS: dict[str, tuple[Any, ...]] = {
    "channels and blocks": (PruneChannels(), RemoveBlocks()),
    "blocks": (RemoveBlocks(),),
}
MILDER = "channels and blocks, as fast as multiples of 8"
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


def cifar(batch_size: int = 128) -> Cifar:
    """As the example has it, but for the rows that choices rest on; trainings have such batches."""
    sys.path.insert(0, str(HERE.parent / "examples"))
    import cifar10_resnet20 as example

    folder = example.data_folder()
    with np.load(folder / "cifar10.npz") as data:
        images, labels = torch.from_numpy(data["x_train"]), torch.from_numpy(data["y_train"]).long()
        test = example.normalised(torch.from_numpy(data["x_test"])), torch.from_numpy(data["y_test"]).long()
    task = Task(
        model=example.trained_network(folder),
        evaluate=example.Plain(images[-HELD_OUT:], labels[-HELD_OUT:]),
        train=example.Augmented(images[:-HELD_OUT], labels[:-HELD_OUT], batch_size),
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


def structures(data: Cifar, known: dict[str, Any]) -> dict[str, Any]:
    """The recipes of paring, and what Torch-Pruning's ratios come to."""
    tried = known.get("torch_pruning") or ratios_tried(data)
    wanted = {**dict.fromkeys(SURVEYS, SPEEDUP), MILDER: fastest_of_readme(tried)["speedup"]}
    recipes = known.get("recipes", {})
    return {
        "torch_pruning": tried,
        "recipes": {name: recipes.get(name) or recipe_of(data, name, speedup) for name, speedup in wanted.items()},
    }


def ratios_tried(data: Cifar) -> list[dict[str, Any]]:
    """How fast Torch-Pruning's networks are, up to the mildest one that is fast enough."""
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
    return tried


def recipe_of(data: Cifar, name: str, speedup: float) -> str:
    """What `paring.sensitivity` takes for the speed-up."""
    found = paring.sensitivity(
        data.task,
        out=OUT / name,
        speedup=speedup,
        batch_size=BATCH,
        time_limit_s=1200,
        techniques=SURVEYS[name.split(",")[0]],
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
    tried = found["torch_pruning"]
    for way in (*(way for way in tried if way["speedup"] >= SPEEDUP), fastest_of_readme(tried)):
        ratio, multiple, everywhere = way["ratio"], way["round_to"], way["everywhere"]
        make = partial(torch_pruning, ratio, multiple, everywhere)
        name = f"Torch-Pruning, {'global' if everywhere else 'uniform'}{'' if multiple == 1 else ', multiples of 8'}"
        yield Entry(name, make, EPOCHS, seeds, f"pruning_ratio={ratio}, round_to={multiple}")
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
    begin_s = time.process_time()
    model = FineTune(epochs=entry.epochs).apply(pruned, job)
    training_s = time.process_time() - begin_s
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


def fastest_of_readme(tried: list[dict[str, Any]]) -> dict[str, Any]:
    """The fastest of Torch-Pruning's networks as its README rounds them; of those within a hundredth, the mildest."""
    rounded = [way for way in tried if way["round_to"] == README_MULTIPLE]
    most = max(way["speedup"] for way in rounded)
    return min((way for way in rounded if way["speedup"] >= 0.99 * most), key=lambda way: float(way["ratio"]))


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
        values["structures"] = structures(data, values.get("structures", {}))
        values["original"] = accuracy(data.timing.original, data.test[:1], data.test[1])
        write_json(RESULTS, values)
    asked = list(entries(values["structures"], given.seeds))
    if "train" in steps:
        train(asked, values)
    if "measure" in steps:
        measure(asked, data, values)
        RESULTS.with_suffix(".md").write_text(as_markdown(values))
        RESULTS.with_suffix(".svg").write_text(as_drawing(values))


if __name__ == "__main__":
    main()
