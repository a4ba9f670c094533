"""What doctor, bench and inspect print for people, in this process."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, save
from typer.testing import CliRunner

from paring.artifact import Artifact, Manifest
from paring.backends.base import Backend
from paring.backends.kernels import Kernel
from paring.backends.probe import Probe
from paring.certify import Certificate
from paring.cli.app import app
from paring.types import Signature, TensorSpec


def printed(*arguments: str) -> list[str]:
    """The lines that a command prints, their blanks made one."""
    finished = CliRunner(env={"COLUMNS": "200"}).invoke(app, list(arguments))
    assert finished.exit_code == 0, finished.output
    return [" ".join(line.split()) for line in finished.stdout.splitlines()]


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    """Adds the input to itself."""
    tensor = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "twice", tensor[:1], tensor[1:])
    save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "network.onnx"
    )
    specs = [(TensorSpec(name, "float32", (None, 3)),) for name in ("x", "y")]
    signature = Signature(specs[0], specs[1], "tensor", "tensor")
    manifest = Manifest("twice", signature, "onnxruntime", {}, [], "original", threads=1, batch_size=1)
    rows = np.ones((2, 3), np.float32)
    Artifact.write(tmp_path / "best", manifest, [tmp_path / "network.onnx"], ({"x": rows}, {"y": 2 * rows}))
    return tmp_path / "best"


def test_doctor_prints_a_row_for_each_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    probes = (
        Probe("good", None, "1.2", {}, ("f32", "i8"), {"good(wild=True)": "it needs a tamer."}),
        Probe("bad", "it was never installed."),
    )
    monkeypatch.setattr("paring.flow.doctor.probe", lambda: probes)
    lines = printed("doctor")
    assert lines[0] == "This machine"
    assert any(line.startswith("cores ") for line in lines)
    assert "good 1.2 works, in f32, i8" in lines
    assert "bad - it was never installed." in lines
    assert "good(wild=True) - it needs a tamer." in lines


_SATURATING = (("int8", "linear"), ("int8", "convolution"), ("int8, int8 inputs", "linear"))


def test_doctor_tells_of_sums_that_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    probes = (Probe("onnxruntime", None, "1.2", {}, ("f32",)),)
    monkeypatch.setattr("paring.flow.doctor.probe", lambda: probes)
    monkeypatch.setattr("paring.flow.doctor.fast_multiple", lambda kind: 8)
    monkeypatch.setattr("paring.flow.doctor.saturating", lambda kind: _SATURATING)
    told = (
        "onnxruntime 1.2 works, in f32; channels rounded up to multiples of 8 take no more time; sums of products are "
        "cut off at 16 bits in 'int8', 'int8, int8 inputs': weights of at most 7 bits are exact there"
    )
    assert told in " ".join(printed("doctor"))


def _measured(kind: type[Backend]) -> Iterator[Kernel]:
    """What a runtime came to, or another one."""
    if kind.name == "openvino":
        yield Kernel("openvino", "linear", "int8", "dequantized", 0.996)
        return
    yield Kernel("onnxruntime", "convolution", "int8", "integers", 2.7183, saturates=True)
    yield Kernel("onnxruntime", "convolution", "e4m3", "refused", reason="there is no such type.")
    yield Kernel("onnxruntime", "linear", "int8", "integers", 0.5, executed=("integers",))
    yield Kernel("onnxruntime", "linear", "e4m3", "refused", reason="there is no such type.")
    yield Kernel("onnxruntime", "linear", "MatMulNBits 2", "wrong", reason="its answers are off by 50%.")


@pytest.fixture
def two_runtimes(monkeypatch: pytest.MonkeyPatch) -> None:
    probes = (
        Probe("onnxruntime", None, "1.2"),
        Probe("openvino", None, "3.4"),
        Probe("torch", None, "5.6"),
        Probe("cuda", "it was never installed."),
    )
    monkeypatch.setattr("paring.flow.doctor.probe", lambda: probes)
    monkeypatch.setattr("paring.flow.doctor.measured_kernels", _measured)


def test_kernels_are_a_table_for_each_backend(two_runtimes: None) -> None:
    lines = printed("doctor", "--kernels")
    at = {line.split(",")[0]: number for number, line in enumerate(lines)}
    first = lines[at["onnxruntime 1.2"] :]
    assert first[1:7] == [
        "convolution linear",
        "int8 integers 2.72× integers 0.50×",
        "e4m3 refused refused",
        "MatMulNBits 2 - wrong",
        "e4m3: there is no such type.",
        "MatMulNBits 2: its answers are off by 50%.",
    ]
    assert first[7].startswith("sums of products are cut off at 16 bits in 'int8': ")
    assert "int8 dequantized 1.00×" in lines[at["openvino 3.4"] :]
    assert "torch: it reads no ONNX graphs." in lines
    assert "cuda: it was never installed." in lines


def test_kernels_as_json_have_every_field(two_runtimes: None) -> None:
    finished = CliRunner().invoke(app, ["doctor", "--kernels", "--json"])
    found = json.loads(finished.stdout)
    assert [row["verdict"] for row in found["kernels"]] == [
        *("integers", "refused", "integers", "refused", "wrong"),
        "dequantized",
    ]
    assert found["kernels"][2] == {
        "backend": "onnxruntime",
        "version": "1.2",
        "layer": "linear",
        "form": "int8",
        "verdict": "integers",
        "native": True,
        "speedup": 0.5,
        "reason": "",
        "executed": ["integers"],
        "saturates": False,
    }
    assert found["not_measured"][0] == {"backend": "torch", "reason": "it reads no ONNX graphs."}
    assert found["hardware"]["cores"] >= 1


def test_inspect_prints_the_manifest(artifact: Path) -> None:
    lines = printed("inspect", str(artifact))
    assert "task twice" in lines
    assert "inputs x: float32 (any, 3)" in lines
    assert "backend onnxruntime" in lines
    assert "served in batches of 1 on 1 thread" in lines
    assert "certificate -" in lines
    assert any(line.startswith("network.onnx sha256 ") for line in lines)


def test_inspect_prints_figures_as_people_read_them(artifact: Path) -> None:
    measured = {
        "backend_text": "onnxruntime(streams=2)",
        "latency_ms": {"p50": 3.0010481, "p90": 4.1, "p99": 6.254715},
        "throughput_per_s": 21325.88,
        "size_bytes": 277453,
        "peak_memory_bytes": 116039680,
        "score": 0.9208,
        "speedup": {"ratio": 4.339, "low": 3.534, "high": 4.468},
    }
    certificate = Certificate(0.0016, 0.00608, 0.95, 7500, "exact", 3).to_json()
    manifest = replace(
        Artifact.open(artifact).manifest,
        measurements=measured,
        certificate=certificate,
    )
    rows = np.ones((2, 3), np.float32)
    network = artifact.parent / "network.onnx"
    Artifact.write(artifact, manifest, [network], ({"x": rows}, {"y": 2 * rows}))
    lines = printed("inspect", str(artifact))
    assert "latency 3.00 ms, p99 6.25 ms" in lines
    assert "size 277 kB on disk, 116 MB of memory" in lines
    assert "backend onnxruntime(streams=2)" in lines
    assert any(line.startswith("certificate drop at most 0.00608 with 0.95 confidence") for line in lines)


def test_bench_prints_a_row_for_each_artifact(artifact: Path) -> None:
    shutil.copytree(artifact, artifact.parent / "same")
    lines = printed("bench", str(artifact), str(artifact.parent / "same"), "--time-limit", "2s")
    text = " ".join(lines)
    assert "speed-up over the first" in lines[0]
    assert text.count("onnxruntime") == 2
    assert any(line.endswith(")") and "x" in line for line in lines[1:]), "the second one has a speed-up"
