"""The tables of resnet20_pruning.py: networks as fast as one another, and the criteria at one ratio for all layers."""

from __future__ import annotations

from statistics import mean, stdev
from typing import Any

from curves import Line, drawn

HEAD = ["| network | speed-up | held out of the fine-tuning, % | test, % | training |", "|---|---|---|---|---|"]


def as_markdown(values: dict[str, Any]) -> str:
    """The page that is committed beside the figures. Only the names of compared networks have a comma."""
    rows = values["rows"]
    compared = [row for row in rows if "," in row["name"]]
    curve = [row for row in rows if "," not in row["name"]]
    told = {row["name"]: row["told"] for row in compared}
    return "\n".join(
        [
            "# ResNet-20 on CIFAR-10, pruned, in ONNX Runtime fp32 at batch 64",
            "",
            f"The original: {values['original']:.2f} % of the test images. Speed-ups over it, measured in turn, with",
            f"their 95 % intervals. {compared[0]['epochs']} epochs from the same teacher, each training on one core;",
            "means of the seeds with their standard deviation. What is held out of the fine-tuning",
            "are training images of the original, by which the structures were chosen: only the",
            "test images are new to all.",
            "",
            *HEAD,
            *(_line(name, rows, values["times"][name]) for name in told),
            "",
            *(f"- {name}: {recipe}" for name, recipe in told.items()),
            "",
            "![Test accuracy against the measured speed-up](resnet20_pruning.svg)",
            "",
            f"Uniform channel pruning by criterion, after {curve[0]['epochs']} epoch:",
            "",
            *HEAD,
            *(_line(name, rows, values["times"][name.split()[1]]) for name in sorted({r["name"] for r in curve})),
            "",
        ]
    )


def as_drawing(values: dict[str, Any]) -> str:
    """Test accuracy against measured speed-up: each criterion's curve, each compared network's dot."""
    points: dict[str, list[tuple[float, float]]] = {}
    for name, epochs in {row["name"]: row["epochs"] for row in values["rows"]}.items():
        curve, _, shape = (name, "", name) if "," in name else name.partition(" ")
        curve += "" if "," in name else f", {epochs} epoch"
        right = mean(row["test"] for row in values["rows"] if row["name"] == name)
        points.setdefault(curve.replace("as fast as multiples of 8", "milder"), []).append(
            (values["times"][shape]["ratio"], right)
        )
    lines = [Line(name, tuple(sorted(found))) for name, found in points.items()]
    return drawn(lines, "speed-up in ONNX Runtime, fp32, batch 64", "test images right, %")


def _line(name: str, rows: list[dict[str, Any]], time_of: dict[str, float]) -> str:
    """A network's row: means over its seeds."""
    of_name = [row for row in rows if row["name"] == name]
    speed = f"{time_of['ratio']:.2f}x ({time_of['low']:.2f}-{time_of['high']:.2f})"
    accuracies = (_spread([row[split] for row in of_name]) for split in ("held_out", "test"))
    return f"| {name} | {speed} | {' | '.join(accuracies)} | {mean(row['training_s'] for row in of_name):.0f} s |"


def _spread(values: list[float]) -> str:
    """The mean, with the deviation where there are several."""
    return f"{mean(values):.2f}" + (f" ± {stdev(values):.2f} ({len(values)} seeds)" if len(values) > 1 else "")
