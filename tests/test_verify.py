"""verify on other hosts, as a user types it: every promise is a row, and what is damaged is refused; paring.load."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import paring
from paring.artifact import Artifact, Manifest
from paring.artifact.files import sha256_of
from paring.backends.cores import usable_cores
from paring.backends.loading import thread_count
from paring.backends.onnxruntime import OnnxRuntime
from paring.backends.openvino import OpenVINO
from paring.errors import ArtifactError, BackendError, InputError
from paring.flow.promises import Figures, gains, limits
from paring.flow.verify import verify
from paring.measure.compare import Comparison
from paring.measure.latency import Latency
from paring.types import Budget, Signature, TensorSpec
from tests import sleepy_backend
from tests.command_line import ENVIRONMENT, refused, typed
from tests.command_line import paring as command_line

pytestmark = pytest.mark.usefixtures("known_machine")

SIGNATURE = Signature(
    (TensorSpec("a", "float32", (None, 3)), TensorSpec("b", "int64", (None,))),
    (TensorSpec("y", "float32", (None, 3)),),
    "dict",
    "tensor",
)
INPUTS = {"a": np.arange(12, dtype=np.float32).reshape(4, 3), "b": np.arange(4)}
SLOW_MS = 200.0
QUICK = ("--time-limit", "1s")


def graph(cost_ms: float, padding: int = 0) -> onnx.ModelProto:
    """y = a + 1, in a known time, with weights that nothing reads."""
    nodes = [
        helper.make_node("Add", ["a", "one"], ["sum"]),
        helper.make_node("Cast", ["b"], ["c"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["c", "axis"], ["d"]),
        helper.make_node("Sub", ["d", "d"], ["zero"]),
        helper.make_node("Add", ["sum", "zero"], ["y"]),
    ]
    inputs = [
        helper.make_tensor_value_info("a", TensorProto.FLOAT, ["n", 3]),
        helper.make_tensor_value_info("b", TensorProto.INT64, ["n"]),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])]
    constants = [
        numpy_helper.from_array(np.ones(1, np.float32), "one"),
        numpy_helper.from_array(np.array([1]), "axis"),
        numpy_helper.from_array(np.zeros(padding, np.uint8), "padding"),
    ]
    opsets = [helper.make_opsetid("", 18)]
    model = helper.make_model(
        helper.make_graph(nodes, "g", inputs, outputs, constants), opset_imports=opsets, ir_version=8
    )
    model.metadata_props.add(key=sleepy_backend.COST, value=str(cost_ms))
    return model


def written(folder: Path, model: onnx.ModelProto, recipe: str, backend: str = "sleepy", **budget: Any) -> Artifact:
    source = folder.parent / "network.onnx"
    folder.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, source)
    techniques = [] if recipe == "original" else [{"technique": recipe}]
    manifest = Manifest("task", SIGNATURE, backend, {}, techniques, recipe, 1, 2, budget=Budget(**budget))
    artifact = Artifact.write(folder, manifest, [source], (INPUTS, {"y": INPUTS["a"] + 1}))
    source.unlink()
    return artifact


def output_folder(root: Path, best: onnx.ModelProto, original: onnx.ModelProto, **budget: Any) -> Path:
    written(root / "best", best, "Cheapen", **budget)
    written(root / "frontier" / "01", original, "original", **budget)
    return root


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return written(tmp_path / "best", graph(1.0), "Cheapen", backend="onnxruntime").path


def rows_of(path: str | Path, cwd: Path | None = None) -> tuple[int, dict[str, dict[str, Any]]]:
    """Exit code, and the rows of the table by what they are about."""
    finished = command_line("verify", path, "--json", *QUICK, cwd=cwd)
    assert "Traceback" not in finished.stderr
    return finished.returncode, {row["what"]: row for row in json.loads(finished.stdout)["checks"]}


def test_a_promise_that_holds(tmp_path: Path) -> None:
    code, rows = rows_of(output_folder(tmp_path, graph(5.0), graph(SLOW_MS)))
    assert code == 0
    assert rows["golden outputs"]["verdict"] == "accuracy evidence holds"
    assert rows["speed-up over the original"]["verdict"] == "faster here too"


def test_a_host_where_it_is_slower(tmp_path: Path) -> None:
    code, rows = rows_of(output_folder(tmp_path, graph(SLOW_MS), graph(5.0)))
    assert code == 1
    assert rows["speed-up over the original"]["verdict"] == "not faster than the original here: serve the original"


def test_a_small_network_need_not_be_faster(tmp_path: Path) -> None:
    best, original = graph(SLOW_MS), graph(1.2 * SLOW_MS, padding=100_000)
    code, rows = rows_of(output_folder(tmp_path, best, original, objective="size"))
    assert code == 0
    assert rows["size"]["verdict"] == "less here too"
    assert rows["speed-up over the original"]["verdict"] == "not slower here either"


def test_a_host_where_the_outputs_differ(artifact: Path) -> None:
    with_golden(artifact, {"y": INPUTS["a"] + 2})
    code, rows = rows_of(artifact)
    assert code == 1
    assert rows["golden outputs"]["verdict"] == "outputs differ: the certificate does not hold here"
    assert rows["latency p50"]["holds"]
    assert "copy the whole output folder" in rows["latency p50"]["verdict"]


def break_onnxruntime(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "site").mkdir()
    (folder / "site" / "onnxruntime.py").write_text("raise ImportError('libgomp.so.1 is missing')")
    path = os.pathsep.join((str(folder / "site"), ENVIRONMENT["PYTHONPATH"]))
    monkeypatch.setitem(ENVIRONMENT, "PYTHONPATH", path)


def test_a_host_where_the_runtime_is_broken(artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_onnxruntime(tmp_path, monkeypatch)
    code, rows = rows_of(artifact)
    assert code == 1
    assert rows["runtime"]["verdict"] == "does not run here"
    assert "libgomp.so.1 is missing" in rows["runtime"]["here"]


def test_a_host_without_the_package_that_names_the_backend(artifact: Path) -> None:
    changed(artifact, backend="faraway")
    code, rows = rows_of(artifact)
    assert code == 1
    assert "needs the backend 'faraway', which is not installed here" in rows["runtime"]["here"]
    assert "faraway" in typed("verify", artifact).stdout


def test_a_host_that_breaks_a_limit_of_the_budget(artifact: Path) -> None:
    changed(artifact, budget={"max_latency_ms": 1e-6, "max_memory_bytes": 10**12})
    code, rows = rows_of(artifact)
    assert code == 1
    assert rows["latency p50, limit"]["verdict"] == "above the budget here"
    assert rows["peak memory, limit"]["verdict"] == "within the budget"


def with_golden(folder: Path, outputs: dict[str, Any]) -> None:
    """Other golden rows, with a sha256 that fits."""
    arrays = {f"input/{k}": v for k, v in INPUTS.items()} | {f"output/{k}": v for k, v in outputs.items()}
    np.savez(folder / "golden.npz", **arrays)
    changed(folder, files=json.loads((folder / "manifest.json").read_text())["files"] | {"golden.npz": None})


def changed(folder: Path, **values: Any) -> None:
    """Other fields in the manifest; a sha256 of None is made to fit."""
    file = folder / "manifest.json"
    manifest = {**json.loads(file.read_text()), **values}
    manifest["files"] = {name: digest or sha256_of(folder / name) for name, digest in manifest["files"].items()}
    file.write_text(sealed(manifest))


def sealed(manifest: dict[str, Any]) -> str:
    """The text of a manifest, with a sha256 that fits."""
    values = {name: value for name, value in manifest.items() if name != "sha256"}
    return json.dumps({**values, "sha256": sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()})


def flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


def raw(folder: Path, **values: Any) -> None:
    file = folder / "manifest.json"
    file.write_text(sealed({**json.loads(file.read_text()), **values}))


def forged(folder: Path) -> None:
    file = folder / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "certificate": {"upper_bound": 0.0}}))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "golden rows": (lambda at: flipped(at / "golden.npz"), "golden.npz is damaged or was changed"),
    "weights": (lambda at: flipped(at / "network.onnx"), "network.onnx is damaged or was changed"),
    "truncated": (lambda at: os.truncate(at / "network.onnx", 9), "network.onnx is damaged or was changed"),
    "missing": (lambda at: (at / "network.onnx").unlink(), "network.onnx is missing"),
    "manifest": (forged, "manifest.json was changed: its sha256 differs"),
    "version": (lambda at: raw(at, format_version=7), "has format version 7"),
    "no files": (lambda at: raw(at, files=None), "files=None"),
    "no list of files": (lambda at: raw(at, files={}), "which the manifest does not list"),
    "golden of another network": (lambda at: with_golden(at, {"z": INPUTS["a"]}), "holds no rows of 'y'"),
    "options": (lambda at: raw(at, options={"streams": "2"}), "asks onnxruntime for options"),
    "unknown option": (lambda at: raw(at, options={"turbo": 1}), "has no option 'turbo'"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_refused_and_named(name: str, artifact: Path) -> None:
    damage, says = DAMAGE[name]
    damage(artifact)
    assert says in refused(typed("verify", artifact, *QUICK))


@pytest.mark.parametrize("command", ["inspect", "bench"])
def test_the_other_commands_refuse_it_too(command: str, artifact: Path) -> None:
    flipped(artifact / "network.onnx")
    assert "network.onnx is damaged" in refused(typed(command, artifact))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"name": "x"}, "x (float32, any x 3), b (int64, any)"),
        ({"dtype": "float64"}, "a (float64, any x 3), b (int64, any)"),
        ({"shape": (None, 4)}, "a (float32, any x 4), b (int64, any)"),
    ],
)
def test_artifacts_of_different_networks_are_not_timed_together(
    artifact: Path, tmp_path: Path, fields: dict[str, Any], says: str
) -> None:
    opened = Artifact.open(artifact)
    first, second = SIGNATURE.inputs
    signature = replace(SIGNATURE, inputs=(replace(first, **fields), second))
    Artifact.write(tmp_path / "other", replace(opened.manifest, signature=signature), [opened.network], opened.golden())
    with pytest.raises(InputError) as error:
        paring.bench([artifact, tmp_path / "other"])
    assert str(error.value) == (
        f"{artifact} takes a (float32, any x 3), b (int64, any), and {tmp_path / 'other'} takes {says}: they are timed "
        "on the same rows, so name artifacts of one task."
    )


@pytest.mark.parametrize("command", ["verify", "bench"])
def test_no_threads_and_more_than_there_are_cores_are_refused(artifact: Path, command: str) -> None:
    assert "threads=0 must be a whole number of 1 or more" in refused(typed(command, artifact, "--threads", "0"))
    told = refused(typed(command, artifact, "--threads", "9999"))
    assert "threads=9999 are more than the " in told
    assert told.endswith("or None for what the manifest says.")


def test_an_artifact_from_a_larger_machine_runs_on_as_many_threads_as_there_are_cores_here(artifact: Path) -> None:
    opened = Artifact.open(artifact)
    larger = Artifact(opened.path, replace(opened.manifest, threads=9999))
    assert thread_count(larger, None) == usable_cores()
    assert thread_count(opened, None) == opened.manifest.threads


# What is judged, by the objective of the run: exact figures in place of a host.

LATENCY = Latency(1.0, 1.0, 1.0, 1000.0, 10)
ORIGINAL = Figures(latency_ms=10.0, size_bytes=1000, peak_memory_bytes=5000)


def judged(budget: Budget, here: Figures, ratio: float, original: Figures = ORIGINAL) -> dict[str, bool]:
    manifest = replace(Manifest("t", SIGNATURE, "b", {}, [], "r", 1, 1), budget=budget)
    found = Comparison(ratio, ratio * 0.99, ratio * 1.01, LATENCY, LATENCY, 1, 1, 7)
    return {check.what: check.holds for check in (*gains(manifest, found, here, original), *limits(budget, here))}


@pytest.mark.parametrize(
    ("objective", "here", "ratio", "holds"),
    [
        ("latency", Figures(10.0, 2000, 9000), 1.05, True),
        ("latency", Figures(10.0, 10, 10), 1.0, False),
        ("throughput", Figures(10.0, 10, 10), 1.0, False),
        ("size", Figures(10.0, 999, 9000), 1.0, True),
        ("size", Figures(10.0, 1000, 10), 2.0, False),
        ("size", Figures(10.0, 10, 10), 0.9, False),
        ("memory", Figures(10.0, 9000, 4999), 1.0, True),
        ("memory", Figures(10.0, 10, 5000), 2.0, False),
    ],
)
def test_each_objective_is_judged_by_what_it_promised(objective: Any, here: Figures, ratio: float, holds: bool) -> None:
    assert all(judged(Budget(objective=objective), here, ratio).values()) is holds


def test_an_original_that_breaks_a_limit_need_not_be_beaten() -> None:
    budget = Budget(max_size_bytes=500)
    assert all(judged(budget, Figures(20.0, 400, 5000), 0.5).values())
    assert not judged(budget, Figures(20.0, 600, 5000), 0.5)["size, limit"]
    assert not all(judged(budget, Figures(20.0, 400, 5000), 0.5, Figures(10.0, 450, 5000)).values())


# paring.load


@pytest.mark.parametrize("kind", [OnnxRuntime, OpenVINO])
@pytest.mark.parametrize("rows", [1, 2, 3, 7])
def test_a_loaded_artifact_takes_any_batch(tmp_path: Path, kind: Any, rows: int) -> None:
    written(tmp_path / "out" / "best", graph(1.0), "Cheapen", backend=kind.name)
    session = paring.load(tmp_path / "out")
    a = np.full((rows, 3), 4, np.float32)
    assert (session.run({"b": np.arange(rows), "a": a})["y"] == 5).all()
    session.close()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"a": INPUTS["a"].astype(np.float64)}, "the input 'a' is float64, and the network takes float32"),
        ({"b": INPUTS["b"].astype(np.int32)}, "the input 'b' is int32, and the network takes int64"),
        ({"a": INPUTS["a"][:, :2]}, "the input 'a' has shape (4, 2), and the network takes (batch, 3)"),
        ({"b": INPUTS["b"][:, None]}, "the input 'b' has shape (4, 1), and the network takes (batch)"),
        ({"b": INPUTS["b"][:3]}, "the inputs differ in their number of rows: a has 4, b has 3"),
        ({"c": INPUTS["b"]}, "the network has no input 'c': it takes a, b"),
        ({"a": INPUTS["a"].tolist()}, "the input 'a' is a list: give a numpy array"),
    ],
)
def test_a_loaded_artifact_names_what_does_not_fit(artifact: Path, change: dict[str, Any], says: str) -> None:
    session = paring.load(artifact)
    with pytest.raises(InputError) as error:
        session.run({**INPUTS, **change})
    assert says in str(error.value)
    with pytest.raises(InputError, match="'b' is missing"):
        session.run({"a": INPUTS["a"]})


def test_a_backend_without_a_name_is_passed_as_a_class(tmp_path: Path) -> None:
    folder = written(tmp_path / "best", graph(1.0), "Cheapen").path
    with pytest.raises(BackendError, match=r"needs the backend 'sleepy'.* pass its class"):
        paring.load(folder)
    assert (paring.load(folder, backends=[sleepy_backend.Sleepy]).run(INPUTS)["y"] == INPUTS["a"] + 1).all()
    assert verify(folder, time_limit_s=1.0, backends=[sleepy_backend.Sleepy])["holds"]


@pytest.mark.parametrize("threads", [0, "2", True, 1.5])
def test_threads_to_load_with_that_are_none(artifact: Path, threads: Any) -> None:
    with pytest.raises(InputError, match=f"threads={threads!r} must be a whole number of 1 or more"):
        paring.load(artifact, threads=threads)


def test_a_copy_runs_anywhere(artifact: Path, tmp_path: Path) -> None:
    shutil.copytree(artifact, tmp_path / "copy")
    shutil.rmtree(artifact)
    assert (paring.load(tmp_path / "copy").run(INPUTS)["y"] == INPUTS["a"] + 1).all()
    (tmp_path / "copy" / "more.bin").write_bytes(b"?")
    with pytest.raises(ArtifactError, match=r"more\.bin"):
        paring.load(tmp_path / "copy")
