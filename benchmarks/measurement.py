"""Is the measurement true? An artifact against its own copy, again and again: the interval of the ratio must hold 1.

    python benchmarks/measurement.py [--runs 40] [--time-limit 20]

Two networks: ResNet-20 for CIFAR-10 at batch 64 (random weights: they do not change the time), and a tiny one at batch
1, where a process's own luck counts most. Wanted: 1 is inside in at least 93 % of the runs, and the interval is at most
5 % wide within the time limit. A last comparison of two networks whose times differ shows that the interval is not
merely wide: it must exclude 1.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from paring.backends.isolated import Deployment
from paring.backends.onnxruntime import OnnxRuntime
from paring.measure.compare import Comparison, compare
from paring.measure.hardware import hardware
from paring.measure.latency import Workload

RESULTS = Path(__file__).parent / "results"
THREADS = 2
WIDEST = 0.05


class Builder:
    """Nodes and weights of an ONNX graph as they come."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def conv(self, source: str, ins: int, outs: int, size: int, stride: int) -> str:
        name = f"v{len(self.nodes)}"
        weight = self.random.normal(0, np.sqrt(2 / (ins * size * size)), (outs, ins, size, size)).astype(np.float32)
        self.weights.append(numpy_helper.from_array(weight, f"{name}.w"))
        pads = [size // 2] * 4
        self.nodes.append(helper.make_node("Conv", [source, f"{name}.w"], [name], strides=[stride] * 2, pads=pads))
        return name

    def op(self, kind: str, *sources: str) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(sources), [name]))
        return name

    def save(self, path: Path, output: str, channels: int) -> Path:
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 32, 32])
        y = helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", channels, 1, 1])
        graph = helper.make_graph(self.nodes, path.stem, [x], [y], self.weights)
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)
        return path


def resnet20(path: Path, blocks: int = 3) -> Path:
    """He et al. 2015, section 4.2, with 1x1 convolutions as shortcuts where the size changes."""
    build = Builder()
    at, width = build.op("Relu", build.conv("x", 3, 16, 3, 1)), 16
    for stage, channels in enumerate((16, 32, 64)):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            inner = build.op("Relu", build.conv(at, width, channels, 3, stride))
            inner = build.conv(inner, channels, channels, 3, 1)
            short = at if stride == 1 and width == channels else build.conv(at, width, channels, 1, stride)
            at, width = build.op("Relu", build.op("Add", inner, short)), channels
    return build.save(path, build.op("GlobalAveragePool", at), 64)


def tiny(path: Path) -> Path:
    """Two convolutions."""
    build = Builder()
    at = build.op("Relu", build.conv("x", 3, 8, 3, 2))
    return build.save(path, build.op("GlobalAveragePool", build.conv(at, 8, 8, 3, 2)), 8)


def self_comparisons(network: Path, workload: Workload, runs: int, time_limit_s: float, name: str) -> dict[str, object]:
    deployment = Deployment(OnnxRuntime(), network)
    found: list[Comparison] = []
    for run in range(runs):
        begin = time.monotonic()
        result = compare(deployment, deployment, workload, time_limit_s=time_limit_s, seed=run)
        found.append(result)
        print(
            f"{name} {run + 1:2}/{runs}: {result.ratio:.4f} [{result.low:.4f}, {result.high:.4f}] "
            f"width {100 * result.width:.2f} %, {result.pairs} pairs, {time.monotonic() - begin:.1f} s, "
            f"p50 {result.original.p50_ms:.3f} ms, load {os.getloadavg()[0]:.1f}",
            flush=True,
        )
    widths = sorted(result.width for result in found)
    return {
        "network": name,
        "batch_size": workload.batch_size,
        "runs": runs,
        "time_limit_s": time_limit_s,
        "share_that_holds_1": sum(result.low <= 1 <= result.high for result in found) / runs,
        "share_at_most_5_percent_wide": sum(width <= WIDEST for width in widths) / runs,
        "width_median": widths[runs // 2],
        "width_largest": widths[-1],
        "ratio_standard_deviation": float(np.std([result.ratio for result in found])),
        "pairs_median": float(np.median([result.pairs for result in found])),
        "intervals": [[result.low, result.ratio, result.high] for result in found],
    }


def written(results: list[dict[str, object]], difference: Comparison) -> str:
    lines = [
        "# The measurement against itself",
        "",
        "An artifact against its own copy (ONNX Runtime, 2 threads); written by `benchmarks/measurement.py`.",
        "",
        "| network | batch | runs | limit, s | holds 1 | at most 5 % wide | width, median / largest | pairs |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['network']} | {row['batch_size']} | {row['runs']} | {row['time_limit_s']:g} "
        f"| {100 * float(str(row['share_that_holds_1'])):.1f} % "
        f"| {100 * float(str(row['share_at_most_5_percent_wide'])):.1f} % "
        f"| {100 * float(str(row['width_median'])):.2f} % / {100 * float(str(row['width_largest'])):.2f} % "
        f"| {row['pairs_median']:g} |"
        for row in results
    ]
    told = f"{difference.ratio:.3f} ({difference.low:.3f} to {difference.high:.3f})"
    lines += ["", f"And a network with two blocks a stage against ResNet-20 with three: {told} times as fast.", ""]
    machine = hardware()
    return "\n".join([*lines, f"Machine: {machine['cpu']}, {machine['cores']} cores, {machine['os']}.", ""])


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--runs", type=int, default=40)
    options.add_argument("--time-limit", type=float, default=20.0)
    told = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "x.npy", np.random.default_rng(0).standard_normal((256, 3, 32, 32), dtype=np.float32))
        inputs = {"x": folder / "x.npy"}
        full, small = resnet20(folder / "resnet20.onnx"), resnet20(folder / "resnet14.onnx", blocks=2)
        least = tiny(folder / "tiny.onnx")
        large = Workload(inputs, 64, THREADS)
        rows = [
            self_comparisons(full, large, told.runs, told.time_limit, "ResNet-20"),
            self_comparisons(least, Workload(inputs, 1, THREADS), told.runs, told.time_limit, "tiny"),
        ]
        backend = OnnxRuntime()
        difference = compare(Deployment(backend, small), Deployment(backend, full), large, time_limit_s=told.time_limit)
    RESULTS.mkdir(exist_ok=True)
    answer = {"hardware": hardware(), "threads": THREADS, "self": rows, "resnet14_over_resnet20": difference.ratio}
    (RESULTS / "measurement.json").write_text(json.dumps(answer, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "measurement.md").write_text(written(rows, difference), encoding="utf-8")


if __name__ == "__main__":
    main()
