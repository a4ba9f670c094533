"""The pages of the benchmarks of quantization: what was chosen of each tool, and all that was tried."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import mean, stdev
from typing import Any

Row = dict[str, Any]
ORIGINAL = "fp32"
KIND = r"weights='\w+'|activations='\w+'|placement='[\w-]+'|format='\w+'|DynamicQuantization"
"""What makes two recipes networks of different kinds: they cost different bytes or times."""


@dataclass(frozen=True)
class Table:
    """How rows are shown, and how settings are chosen: by `loss`, what they lose on the rows for selection.

    `columns` say how their figures are worded, with the original's beside; `sizes` of batches are timed.
    """

    columns: Mapping[str, Callable[[Row, Row], str]]
    sizes: Sequence[int]
    loss: Callable[[Row], float]

    def chosen(self, rows: Iterable[Row]) -> list[Row]:
        """The row that loses least of each tool, and of its networks of one kind."""
        found: dict[tuple[str, ...], Row] = {}
        for row in sorted(rows, key=self.loss):
            found.setdefault((row["tool"], *re.findall(KIND, row["settings"])), row)
        return [row for row in rows if row in found.values()]

    def lines(self, rows: Iterable[Row], original: Row) -> Iterator[str]:
        """The table, with speed-ups of the sizes that any of the rows was timed at."""
        rows = list(rows)
        sizes = [str(size) for size in self.sizes if any(str(size) in row.get("times", {}) for row in rows)]
        names = ["made by", "settings", *self.columns, "bytes", *(f"speed-up, batch {size}" for size in sizes)]
        yield f"| {' | '.join(names)} |"
        yield "|---" * len(names) + "|"
        for row in rows:
            settings = f"`{row['settings']}`" if row["settings"] else ""
            times = [_speed(row.get("times", {}).get(size)) for size in sizes]
            figures = [worded(row, original) for worded in self.columns.values()]
            cells = [row["tool"], settings, *figures, format(row["bytes"], ","), *times]
            yield f"| {' | '.join(cells)} |"


RESNET20 = Table(
    {
        "divergence, 1/1000 nat": lambda row, _: f"{row['divergence']:.3f}",
        "test, %": lambda row, _: f"{row['test']:.2f}",
        "beside fp32": lambda row, original: f"{row['test'] - original['test']:+.2f}",
    },
    (1, 64),
    loss=lambda row: float(row["divergence"]),
)
STSB = Table(
    {
        "dev": lambda row, _: f"{row['dev']:.2f}",
        "test": lambda row, _: f"{row['test']:.2f}",
        "beside fp32": lambda row, original: f"{row['test'] - original['test']:+.2f}",
    },
    (1,),
    loss=lambda row: -float(row["dev"]),
)
STORIES = Table(
    {
        "selection": lambda row, _: f"{row['selection']:.4f}",
        "sampled": lambda row, _: f"{row['sampled']:.4f}",
        "worse": lambda row, original: f"{100 * (row['sampled'] / original['sampled'] - 1):+.2f} %",
        "greedy": lambda row, _: f"{row['greedy']:.4f}",
        "worse, greedy": lambda row, original: f"{100 * (row['greedy'] / original['greedy'] - 1):+.2f} %",
    },
    (1,),
    loss=lambda row: float(row["selection"]),
)


def resnet20_page(rows: list[Row]) -> str:
    """ResNet-20: what needs no training, then what is trained, its seeds together."""
    original = _original(rows)
    plain = [row for row in rows if "name" not in row and not is_narrow(row)]
    narrow = [original, *(row for row in rows if "name" not in row and is_narrow(row))]
    trained = sorted((row for row in rows if "name" in row), key=_way)
    lines = [_together(list(seeds), original) for _, seeds in groupby(trained, key=_way)]
    head = ["| bits | recipe | images at once | test, % | beside fp32 | bytes | training |", "|---" * 7 + "|"]
    return _page(
        "ResNet-20 on CIFAR-10 in 8 bits and fewer",
        (
            "Shares of the 10,000 test images. Of each tool's settings those count whose answers are closest to the",
            "original's on 5,000 training images that nothing was calibrated on, for each kind of network.",
            "NNCF's network runs in OpenVINO, all others in ONNX Runtime; where there are speed-ups, they are over the",
            "original in ONNX Runtime, measured in turn.",
        ),
        ("Without training", RESNET20.lines(RESNET20.chosen(plain), original)),
        ("Weights of fewer bits, without training", RESNET20.lines(narrow, original) if len(narrow) > 1 else []),
        ("All that was tried in 8 bits", RESNET20.lines(plain, original)),
        ("Trained", [*head, *lines] if lines else []),
    )


def _way(row: Row) -> tuple[str, str, int]:
    """How it was trained."""
    return row["name"], row["settings"], row["batch_size"]


def is_narrow(row: Row) -> bool:
    """Whether a row without training tells of weights of fewer bits than 8."""
    return "weights=" in row["settings"] or "BitAllocation" in row["settings"]


def stsb_page(rows: list[Row]) -> str:
    """MiniLM on STS-B."""
    return _page(
        "MiniLM on STS-B in 8 bits and fewer",
        (
            "Spearman's correlation times 100, of the test file's 1,379 pairs; of each tool's settings those count",
            "that the 1,500 pairs of the dev file choose. NNCF's network runs in OpenVINO, all others in ONNX",
            "Runtime; sentences of 64 tokens, speed-ups over the original in ONNX Runtime at batch 1, in turn.",
        ),
        ("Chosen", STSB.lines(STSB.chosen(rows), _original(rows))),
        ("All that was tried", STSB.lines(rows, _original(rows))),
    )


def stories_page(rows: list[Row]) -> str:
    """stories260K on its own text."""
    return _page(
        "stories260K in 8 bits and fewer",
        (
            "Perplexity on the network's own text: sampled at temperature 1, and the likeliest continuations of the",
            "beginnings of such texts. Of each tool's settings those count that other sampled texts choose. All in",
            "ONNX Runtime, texts of 256 tokens; speed-ups, where there are any, are over the original at batch 1.",
        ),
        ("Chosen", STORIES.lines(STORIES.chosen(rows), _original(rows))),
        ("All that was tried", STORIES.lines(rows, _original(rows))),
    )


def _original(rows: Iterable[Row]) -> Row:
    return next(row for row in rows if row["tool"] == ORIGINAL)


def _page(title: str, told: Iterable[str], *sections: tuple[str, Iterable[str]]) -> str:
    """A title, what it is about, and tables with headings; those without lines are left out."""
    lines = [f"# {title}", "", *told]
    for heading, table in sections:
        if found := list(table):
            lines += ["", f"## {heading}", "", *found]
    return "\n".join(lines) + "\n"


def _together(rows: Sequence[Row], original: Row) -> str:
    """A line for a training's seeds."""
    right = [row["test"] for row in rows]
    spread = f" ± {stdev(right):.2f} ({len(right)} seeds)" if len(right) > 1 else ""
    cells = [
        rows[0]["name"],
        f"`{rows[0]['settings']}`",
        str(rows[0]["batch_size"]),
        f"{mean(right):.2f}{spread}",
        f"{mean(right) - original['test']:+.2f}",
        format(rows[0]["bytes"], ","),
        f"{mean(row['training_s'] for row in rows):.0f} s",
    ]
    return f"| {' | '.join(cells)} |"


def _speed(found: Mapping[str, float] | None) -> str:
    return f"{found['ratio']:.2f}x ({found['low']:.2f}-{found['high']:.2f})" if found else ""
