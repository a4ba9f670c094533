"""Artifacts on disk: whole or not at all, and refused when a byte is wrong."""

from __future__ import annotations

import json
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paring.artifact import Artifact, Manifest
from paring.artifact.files import replacing_folder
from paring.errors import ArtifactError
from paring.types import Signature, TensorSpec

SIGNATURE = Signature(
    (TensorSpec("input", "float32", (None, 3)),), (TensorSpec("output", "float32", (None, 2)),), "tensor", "tensor"
)
GOLDEN = ({"input": np.ones((2, 3), np.float32)}, {"output": np.zeros((2, 2), np.float32)})


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    network = tmp_path / "network.onnx"
    network.write_bytes(b"weights" * 100)
    manifest = Manifest("digits", SIGNATURE, "onnxruntime", {"streams": 2}, [], "original", threads=2, batch_size=1)
    return Artifact.write(tmp_path / "best", manifest, [network], GOLDEN)


def test_what_is_written_is_read_back(artifact: Artifact) -> None:
    again = Artifact.open(artifact.path)
    assert again.manifest == artifact.manifest
    assert again.network.read_bytes() == b"weights" * 100
    inputs, outputs = again.golden()
    assert (inputs["input"] == GOLDEN[0]["input"]).all()
    assert (outputs["output"] == GOLDEN[1]["output"]).all()
    assert again.size_bytes == 700


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format_version": None}, "format version None"),
        ({"surprise": 1}, "surprise"),
        ({"format_version": True}, "format version True"),
        ({"format_version": 0}, "format version 0"),
        ({"signature": {"inputs": []}}, "outputs"),
        ({"signature": None}, "its signature is None"),
        ({"signature": {**asdict(SIGNATURE), "input_structure": "list"}}, "a tensor, a tuple or a dict"),
        ({"signature": {**asdict(SIGNATURE), "inputs": [{"name": "x", "dtype": "float32", "shape": ["n"]}]}}, "'x'"),
        ({"files": {"network.onnx": None}}, "sha256 of 'network.onnx' is None"),
        ({"threads": "2"}, "threads='2' must be of type int"),
        ({"batch_size": 0}, "batch_size=0 must be 1 or more"),
        ({"options": []}, "options=[] must be of type dict"),
        ({"measurements": None}, "measurements=None"),
        ({"recipe": "StaticQuantization"}, "recipe='StaticQuantization'"),
        ({"budget": {"objective": "speed"}}, "objective='speed' is unknown"),
        ({"budget": {"max_drop": None}}, "max_drop=None must be 0 or more"),
        ({"budget": None}, "its budget is None"),
        ({"files": {"../outside": "0"}}, "it lists '../outside'"),
    ],
)
def test_hostile_manifests_are_refused(artifact: Artifact, change: dict[str, object], says: str) -> None:
    file = artifact.path / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(ArtifactError) as error:
        Artifact.open(artifact.path)
    assert says in str(error.value)
    assert "manifest.json" in str(error.value)


@pytest.mark.parametrize(
    "field", [f.name for f in fields(Manifest) if f.default is MISSING and f.default_factory is MISSING]
)
def test_a_manifest_without_a_field_is_refused(artifact: Artifact, field: str) -> None:
    file = artifact.path / "manifest.json"
    file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != field}))
    with pytest.raises(ArtifactError, match=field):
        Artifact.open(artifact.path)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"output/output": np.zeros((2, 2), np.float32)}, "no rows of 'input'"),
        ({"input/input": np.ones((2, 3), np.float32)}, "no rows of 'output'"),
        ({"input/input": np.ones((0, 3), np.float32)}, "no rows of 'input'"),
        ({"input/input": np.ones((2, 3))}, "'input' as float64, and the network has float32"),
        ({"input/input": np.array([{}])}, "can't be read"),
    ],
)
def test_golden_rows_that_do_not_fit_are_refused(artifact: Artifact, arrays: dict[str, Any], says: str) -> None:
    np.savez(artifact.path / "golden.npz", **arrays)
    with pytest.raises(ArtifactError, match=says):
        artifact.golden()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000])
def test_a_manifest_that_is_no_manifest(artifact: Artifact, text: str) -> None:
    (artifact.path / "manifest.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        Artifact.open(artifact.path)


def test_the_best_of_an_output_folder_is_offered(artifact: Artifact) -> None:
    with pytest.raises(ArtifactError, match=r"its best artifact is .*/best"):
        Artifact.open(artifact.path.parent)


def test_a_failure_while_writing_leaves_the_old_artifact(artifact: Artifact) -> None:
    def interrupted() -> None:
        with replacing_folder(artifact.path) as part:
            (part / "manifest.json").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted()
    assert Artifact.open(artifact.path).manifest == artifact.manifest
    assert sorted(p.name for p in artifact.path.parent.iterdir()) == ["best", "network.onnx"]


def test_a_second_write_replaces_the_first(artifact: Artifact, tmp_path: Path) -> None:
    network = tmp_path / "other" / "network.onnx"
    network.parent.mkdir()
    network.write_bytes(b"new")
    Artifact.write(artifact.path, artifact.manifest, [network], GOLDEN)
    assert Artifact.open(artifact.path).network.read_bytes() == b"new"
