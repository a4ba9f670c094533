"""Is an addition fused with the layer norm behind it worth it in ONNX Runtime on a CPU?

    python benchmarks/layer_norm.py [--time-limit 15]

ONNX Runtime fuses the two into SkipLayerNormalization when left alone; paring's backend has it leave them apart. Eight
of each behind one another are timed both ways in turn, in processes of their own, for the sizes of common transformers.
Writes results/layer_norm.json and .md.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from paring.artifact.files import write_json
from paring.backends.isolated import Deployment
from paring.backends.onnxruntime import OnnxRuntime
from paring.measure.compare import compare
from paring.measure.hardware import hardware
from paring.measure.latency import Workload

RESULTS = Path(__file__).parent / "results"
NORMS = 8
SIZES = ((1, 384), (64, 384), (197, 192), (128, 768), (512, 1024))
"""Tokens and width."""


def network(tokens: int, width: int, file: Path) -> Path:
    """x + y, normalised, plus y, normalised, and so on."""
    rows = ["batch", tokens, width]
    nodes, found = [], "x"
    for place in range(NORMS):
        nodes.append(helper.make_node("Add", [found, "y"], [f"sum{place}"]))
        found = "z" if place == NORMS - 1 else f"norm{place}"
        nodes.append(helper.make_node("LayerNormalization", [f"sum{place}", "weight", "bias"], [found]))
    weights = [
        numpy_helper.from_array(np.full(width, value, np.float32), name)
        for name, value in (("weight", 1.0), ("bias", 0.0))
    ]
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, rows) for name in "xy"]
    outputs = [helper.make_tensor_value_info("z", TensorProto.FLOAT, rows)]
    graph = helper.make_graph(nodes, "norms", inputs, outputs, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), file)
    return file


def timed(tokens: int, width: int, threads: int, folder: Path, time_limit_s: float) -> dict[str, Any]:
    """How many times as fast the two are as the fused one."""
    file = network(tokens, width, folder / "norms.onnx")
    random = np.random.default_rng(0)
    inputs = {}
    for name in "xy":
        inputs[name] = folder / f"{name}.npy"
        np.save(inputs[name], random.normal(size=(1, tokens, width)).astype(np.float32))
    apart, fused = (Deployment(OnnxRuntime(skip_layer_norm=each), file) for each in (False, True))
    found = compare(apart, fused, Workload(inputs, 1, threads), time_limit_s=time_limit_s)
    row = {"tokens": tokens, "width": width, "threads": threads}
    return {**row, "ratio": found.ratio, "low": found.low, "high": found.high}


def page(rows: list[dict[str, Any]]) -> str:
    """The table as Markdown."""
    lines = [
        "# An addition and the layer norm behind it, apart and fused",
        "",
        f"{NORMS} of each behind one another in ONNX Runtime {onnxruntime.__version__} on a CPU, one row of tokens,",
        "fp32: how many times as fast they are when they are left apart.",
        "",
        "| tokens | width | threads | apart over fused |",
        "|---|---|---|---|",
    ]
    for row in rows:
        ratio = f"{row['ratio']:.2f}x ({row['low']:.2f}-{row['high']:.2f})"
        lines.append(f"| {row['tokens']} | {row['width']} | {row['threads']} | {ratio} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Time all sizes with one thread and two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--time-limit", type=float, default=15.0, help="seconds for each comparison")
    limit = parser.parse_args().time_limit
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for threads in (1, 2):
            for tokens, width in SIZES:
                rows.append(timed(tokens, width, threads, Path(folder), limit))
                print(rows[-1], flush=True)
    found = {"hardware": hardware(), "onnxruntime": onnxruntime.__version__, "rows": rows}
    write_json(RESULTS / "layer_norm.json", found)
    (RESULTS / "layer_norm.md").write_text(page(rows))


if __name__ == "__main__":
    main()
